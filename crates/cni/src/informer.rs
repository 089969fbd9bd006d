//! Follows the pods of the node and the namespaces of the cluster, and brings the pods that run to
//! where their labels say.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::runtime::reflector::{ObjectRef, Store, store};
use kube::runtime::watcher::{self, Event, watcher};
use kube::runtime::{WatchStreamExt, reflector};
use kube::{Api, Client};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::cluster::node_selector;
use crate::enroll::{Annotator, EnrolError, Enroller, Kernel, PodKey, ProxyLink, Step, uid};
use crate::metrics::Metrics;
use crate::queue::Queue;

/// Pods worked on at the same time.
const CONCURRENCY: usize = 8;
/// After so many failures in a row a pod's trouble is no longer a matter of a short wait.
const WARN_AFTER: u32 = 8;

/// The watches of an agent.
pub struct Informer<K, L, A> {
    enroller: Arc<Enroller<K, L, A>>,
    pods: Store<Pod>,
    namespaces: Store<Namespace>,
    metrics: Metrics,
}

impl<K: Kernel, L: ProxyLink, A: Annotator> Informer<K, L, A> {
    /// Follows until `stop`. The API server may come and go.
    pub async fn run(
        client: Client,
        node: &str,
        enroller: Arc<Enroller<K, L, A>>,
        metrics: Metrics,
        stop: CancellationToken,
    ) {
        let (pods, pods_writer) = store();
        let (namespaces, namespaces_writer) = store();
        let pod_config = watcher::Config::default().fields(&node_selector(node));
        let pod_events = watcher(Api::<Pod>::all(client.clone()), pod_config).default_backoff();
        let mut pod_events = reflector(pods_writer, pod_events).boxed();
        let namespace_events =
            watcher(Api::<Namespace>::all(client), watcher::Config::default()).default_backoff();
        let mut namespace_events = reflector(namespaces_writer, namespace_events).boxed();

        let this = Arc::new(Self {
            enroller,
            pods,
            namespaces,
            metrics,
        });
        let mut queue = Queue::default();
        let mut work: JoinSet<(PodKey, Result<(), EnrolError>)> = JoinSet::new();
        // Before the first lists are complete nothing can be told from what is missing.
        let (mut pods_listed, mut namespaces_listed) = (false, false);
        loop {
            let listed = pods_listed && namespaces_listed;
            while listed
                && work.len() < CONCURRENCY
                && let Some(key) = queue.start(Instant::now())
            {
                let this = this.clone();
                work.spawn(async move {
                    let result = this.reconcile(&key).await;
                    (key, result)
                });
            }
            let next = queue.next().filter(|_| listed && work.len() < CONCURRENCY);
            tokio::select! {
                // Work that has begun ends in order.
                () = stop.cancelled() => {
                    while work.join_next().await.is_some() {}
                    break;
                }
                Some(event) = pod_events.next() => {
                    pods_listed |= matches!(event, Ok(Event::InitDone));
                    this.pod_event(event, &mut queue);
                }
                Some(event) = namespace_events.next() => {
                    namespaces_listed |= matches!(event, Ok(Event::InitDone));
                    this.namespace_event(event, &mut queue);
                }
                Some(done) = work.join_next() => match done {
                    Ok((key, result)) => {
                        if let Err(error) = &result {
                            report(&key, error, queue.failures(&key));
                        }
                        queue.finished(key, result.is_ok(), Instant::now());
                    }
                    Err(error) => tracing::error!("work on a pod ended early: {error}"),
                },
                () = sleep_until(next) => {}
            }
        }
    }

    fn pod_event(&self, event: watcher::Result<Event<Pod>>, queue: &mut Queue<PodKey>) {
        match event {
            Ok(Event::Apply(pod)) => {
                self.metrics.event("update");
                queue.changed(PodKey::of(&pod), Instant::now());
            }
            Ok(Event::Delete(pod)) => {
                self.metrics.event("delete");
                queue.changed(PodKey::of(&pod), Instant::now());
            }
            // What was missed while there was no watch shows in the new list, or no longer in it.
            Ok(Event::InitDone) => self.all_changed(queue),
            Ok(Event::Init | Event::InitApply(_)) => {}
            Err(error) => tracing::warn!("watching pods: {error}"),
        }
    }

    fn namespace_event(&self, event: watcher::Result<Event<Namespace>>, queue: &mut Queue<PodKey>) {
        match event {
            Ok(Event::Apply(namespace) | Event::Delete(namespace)) => {
                let name = namespace.metadata.name.as_deref();
                let inside = self
                    .pods
                    .state_filter(|p| p.metadata.namespace.as_deref() == name);
                inside
                    .iter()
                    .for_each(|pod| queue.changed(PodKey::of(pod), Instant::now()));
            }
            Ok(Event::InitDone) => self.all_changed(queue),
            Ok(Event::Init | Event::InitApply(_)) => {}
            Err(error) => tracing::warn!("watching namespaces: {error}"),
        }
    }

    fn all_changed(&self, queue: &mut Queue<PodKey>) {
        self.pods
            .state()
            .iter()
            .for_each(|pod| queue.changed(PodKey::of(pod), Instant::now()));
        for key in self.enroller.known() {
            queue.changed(key, Instant::now());
        }
    }

    async fn reconcile(&self, key: &PodKey) -> Result<(), EnrolError> {
        let pod = self
            .pods
            .get(&ObjectRef::new(&key.name).within(&key.namespace));
        self.enroller
            .forget_others(key, pod.as_deref().map(uid))
            .await;
        let Some(pod) = pod else { return Ok(()) };
        // A namespace that the watch has not seen yet is not one without labels.
        let Some(namespace) = self.namespaces.get(&ObjectRef::new(&key.namespace)) else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            return Err(EnrolError::UnknownNamespace(key.namespace.clone()));
        };
        let labels = namespace.metadata.labels.clone().unwrap_or_default();
        match self.enroller.decide(&pod, &labels) {
            Step::Nothing => Ok(()),
            Step::Enrol => {
                self.enroller.enrol_running(&pod).await?;
                tracing::info!("pod {key} is in the mesh");
                Ok(())
            }
            Step::Unenrol => {
                self.enroller.unenrol(&pod).await?;
                tracing::info!("pod {key} is out of the mesh");
                Ok(())
            }
            Step::Forget => {
                self.enroller.forget_others(key, None).await;
                Ok(())
            }
        }
    }
}

fn report(key: &PodKey, error: &EnrolError, failures: u32) {
    if failures == 0 || failures.is_power_of_two() && failures >= WARN_AFTER {
        tracing::warn!("pod {key}: {error}; trying again");
    } else {
        tracing::debug!("pod {key}: {error}; trying again");
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
