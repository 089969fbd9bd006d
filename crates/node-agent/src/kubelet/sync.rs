//! Follows the pods of this node and gives each a worker.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures_util::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::node::Node;
use super::pod::{Desired, PodWorker, Publisher};
use super::status;

struct Worker {
    desired: watch::Sender<Desired>,
    task: JoinHandle<()>,
}

/// Watches until told to stop, then ends all pods and waits for that.
pub(crate) async fn run(node: Arc<Node>, stop: CancellationToken) {
    let api: Api<Pod> = Api::all(node.config.client.clone());
    let config =
        watcher::Config::default().fields(&format!("spec.nodeName={}", node.config.node_name));
    let mut stream = watcher::watcher(api, config).default_backoff().boxed();
    let mut pods = Pods {
        node,
        workers: HashMap::new(),
        listed: HashSet::new(),
    };
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            event = stream.next() => match event {
                Some(Ok(event)) => pods.apply(event),
                Some(Err(error)) => tracing::debug!("watching pods: {error}"),
                None => break,
            }
        }
    }
    pods.shut_down().await;
}

struct Pods {
    node: Arc<Node>,
    workers: HashMap<String, Worker>,
    /// Uids seen in the list that is being received.
    listed: HashSet<String>,
}

impl Pods {
    fn apply(&mut self, event: Event<Pod>) {
        // A finished worker stays until its pod is gone, or news that was under way would start one
        // more.
        self.workers
            .retain(|_, worker| !(worker.task.is_finished() && worker.desired.borrow().removed));
        match event {
            Event::Init => self.listed.clear(),
            Event::InitApply(pod) => {
                self.listed.extend(pod.metadata.uid.clone());
                self.seen(pod);
            }
            Event::InitDone => {
                let gone: Vec<String> = self
                    .workers
                    .keys()
                    .filter(|uid| !self.listed.contains(*uid))
                    .cloned()
                    .collect();
                gone.iter().for_each(|uid| self.gone(uid));
            }
            Event::Apply(pod) => self.seen(pod),
            Event::Delete(pod) => {
                if let Some(uid) = &pod.metadata.uid {
                    self.gone(uid);
                }
            }
        }
    }

    fn seen(&mut self, pod: Pod) {
        let Some(uid) = pod.metadata.uid.clone() else {
            return;
        };
        // A mirror of what some other source runs, or a pod that ended before this kubelet began.
        let is_over = status::is_final(
            pod.status
                .as_ref()
                .and_then(|status| status.phase.as_deref()),
        );
        let pod = Arc::new(pod);
        if let Some(worker) = self.workers.get(&uid) {
            worker.desired.send_modify(|desired| desired.pod = pod);
            return;
        }
        if is_over {
            if pod.metadata.deletion_timestamp.is_some() {
                self.forget(pod);
            }
            return;
        }
        let (desired, receiver) = watch::channel(Desired {
            pod,
            removed: false,
            shutdown: false,
        });
        let worker = PodWorker::new(self.node.clone(), receiver);
        let task = tokio::spawn(worker.run());
        self.workers.insert(uid, Worker { desired, task });
    }

    /// Confirms the deletion of a pod of which nothing is left here.
    fn forget(&self, pod: Arc<Pod>) {
        let client = self.node.config.client.clone();
        tokio::spawn(async move {
            Publisher::new(&client, &pod).delete_object(&pod).await;
        });
    }

    fn gone(&mut self, uid: &str) {
        if let Some(worker) = self.workers.get(uid) {
            worker.desired.send_modify(|desired| desired.removed = true);
        }
    }

    async fn shut_down(self) {
        for worker in self.workers.values() {
            worker
                .desired
                .send_modify(|desired| desired.shutdown = true);
        }
        for (_, worker) in self.workers {
            let _ = worker.task.await;
        }
    }
}
