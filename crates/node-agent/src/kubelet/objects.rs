//! Config maps and secrets of the pods on this node, each watched by name while a pod uses it.
//!
//! One watch per object, shared by all users; it ends with the last [`Subscription`]. So the node
//! asks only for objects it is entitled to, and a change reaches running pods at once.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::{NamespaceResourceScope, Resource};
use kube::Api;
use kube::runtime::{WatchStreamExt, watcher};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// How long to wait for a first answer from the API server.
const FIRST_ANSWER: Duration = Duration::from_secs(10);

/// What is known about an object.
#[derive(Debug, Clone)]
enum Known<K> {
    NotYet,
    Absent,
    Present(Arc<K>),
}

/// A use of one object; keeps its watch alive.
pub(crate) struct Subscription<K> {
    receiver: watch::Receiver<Known<K>>,
    _watch: Arc<Watch<K>>,
}

impl<K> Subscription<K> {
    /// The object now, or `None` if there is none.
    ///
    /// # Errors
    /// The API server has not answered yet.
    pub(crate) async fn get(&mut self) -> Result<Option<Arc<K>>, String> {
        let known = self
            .receiver
            .wait_for(|known| !matches!(known, Known::NotYet));
        match tokio::time::timeout(FIRST_ANSWER, known).await {
            Ok(Ok(known)) => match &*known {
                Known::Present(object) => Ok(Some(object.clone())),
                _ => Ok(None),
            },
            _ => Err("timed out waiting for the API server".to_string()),
        }
    }

    /// Changes from now on.
    pub(crate) fn changes(&self) -> Changes<K> {
        let mut receiver = self.receiver.clone();
        receiver.mark_unchanged();
        Changes { receiver }
    }
}

/// The stream of changes of one object.
pub(crate) struct Changes<K> {
    receiver: watch::Receiver<Known<K>>,
}

impl<K> Changes<K> {
    /// Waits for a change; `false` when there will be none any more.
    pub(crate) async fn next(&mut self) -> bool {
        self.receiver.changed().await.is_ok()
    }
}

struct Watch<K> {
    receiver: watch::Receiver<Known<K>>,
    task: AbortHandle,
}

impl<K> Drop for Watch<K> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

type Watches<K> = Mutex<HashMap<(String, String), Weak<Watch<K>>>>;

/// All watched objects of the node.
pub(crate) struct Objects {
    client: kube::Client,
    config_maps: Watches<ConfigMap>,
    secrets: Watches<Secret>,
}

impl Objects {
    pub(crate) fn new(client: kube::Client) -> Self {
        Self {
            client,
            config_maps: Mutex::default(),
            secrets: Mutex::default(),
        }
    }

    /// Starts or joins the watch of a config map.
    pub(crate) fn config_map(&self, namespace: &str, name: &str) -> Subscription<ConfigMap> {
        subscribe(&self.config_maps, &self.client, namespace, name)
    }

    /// Starts or joins the watch of a secret.
    pub(crate) fn secret(&self, namespace: &str, name: &str) -> Subscription<Secret> {
        subscribe(&self.secrets, &self.client, namespace, name)
    }
}

fn subscribe<K>(
    watches: &Watches<K>,
    client: &kube::Client,
    namespace: &str,
    name: &str,
) -> Subscription<K>
where
    K: Resource<Scope = NamespaceResourceScope>
        + kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>,
    K: Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    let mut watches = watches.lock();
    watches.retain(|_, watch| watch.strong_count() > 0);
    let key = (namespace.to_string(), name.to_string());
    let watch = match watches.get(&key).and_then(Weak::upgrade) {
        Some(watch) => watch,
        None => {
            let watch = Arc::new(start(Api::<K>::namespaced(client.clone(), namespace), name));
            watches.insert(key, Arc::downgrade(&watch));
            watch
        }
    };
    Subscription {
        receiver: watch.receiver.clone(),
        _watch: watch,
    }
}

fn start<K>(api: Api<K>, name: &str) -> Watch<K>
where
    K: kube::Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    let (sender, receiver) = watch::channel(Known::NotYet);
    let name = name.to_string();
    let task = tokio::spawn(async move {
        let mut stream = watcher::watch_object(api, &name).default_backoff().boxed();
        while let Some(event) = stream.next().await {
            match event {
                Ok(Some(object)) => drop(sender.send_replace(Known::Present(Arc::new(object)))),
                Ok(None) => drop(sender.send_replace(Known::Absent)),
                Err(error) => tracing::debug!(name, "watch: {error}"),
            }
        }
    });
    Watch {
        receiver,
        task: task.abort_handle(),
    }
}
