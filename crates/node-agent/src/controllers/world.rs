//! The caches that all controllers share: one watch per kind.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{
    ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet,
};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Endpoints, Namespace, Node, PersistentVolumeClaim, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{Api, PostParams};
use kube::runtime::watcher;
use kube::{Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::{ControllerError, Doing, is_status};
use super::events::Recorder;
use super::meta;
use crate::informer::{Cache, ObjectKey, Queue};

/// The namespace of the nodes' leases.
pub(crate) const NODE_LEASES: &str = "kube-node-lease";

/// A namespaced kind that controllers read and write.
pub(crate) trait Kind:
    Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
    + Clone
    + Serialize
    + DeserializeOwned
    + std::fmt::Debug
    + Send
    + Sync
    + 'static
{
}

impl<K> Kind for K where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + Serialize
        + DeserializeOwned
        + std::fmt::Debug
        + Send
        + Sync
        + 'static
{
}

type Watch = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Declares the world with one cache per line: field, kind, and what is watched.
macro_rules! world {
    ($($field:ident: $kind:ty => $api:expr),* $(,)?) => {
        /// What the controllers know and whom they talk to.
        pub(crate) struct World {
            pub(crate) client: Client,
            pub(crate) events: Recorder,
            $(pub(crate) $field: Arc<Cache<$kind>>,)*
        }

        impl World {
            /// Empty caches over `client`; nothing is watched yet.
            pub(crate) fn new(client: Client) -> Arc<Self> {
                Arc::new(Self {
                    events: Recorder::new(client.clone()),
                    client,
                    $($field: Cache::new(),)*
                })
            }

            /// The watches that feed the caches; they never end.
            pub(crate) fn watches(&self) -> Vec<Watch> {
                vec![$(watch(&self.$field, $api(self.client.clone())),)*]
            }

            /// Waits for the first complete list of every kind.
            pub(crate) async fn synced(&self) {
                $(self.$field.synced().await;)*
            }
        }
    };
}

world! {
    pods: Pod => Api::all,
    nodes: Node => Api::all,
    namespaces: Namespace => Api::all,
    deployments: Deployment => Api::all,
    replica_sets: ReplicaSet => Api::all,
    daemon_sets: DaemonSet => Api::all,
    stateful_sets: StatefulSet => Api::all,
    revisions: ControllerRevision => Api::all,
    jobs: Job => Api::all,
    cron_jobs: CronJob => Api::all,
    budgets: PodDisruptionBudget => Api::all,
    claims: PersistentVolumeClaim => Api::all,
    services: Service => Api::all,
    slices: EndpointSlice => Api::all,
    endpoints: Endpoints => Api::all,
    leases: Lease => |client| Api::namespaced(client, NODE_LEASES),
}

impl World {
    /// The API of one namespaced kind in one namespace.
    pub(crate) fn api<K>(&self, namespace: &str) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// Writes the status of `updated`; that the object is gone is no error.
    pub(crate) async fn write_status<K: Kind>(
        &self,
        cache: &Cache<K>,
        updated: &K,
    ) -> Result<(), ControllerError> {
        let key = ObjectKey::of(updated);
        let api = self.api::<K>(&key.namespace);
        match api
            .replace_status(&key.name, &PostParams::default(), updated)
            .await
        {
            Ok(written) => cache.observe(written),
            Err(error) if is_status(&error, 404) => {}
            Err(error) => return Err(error).doing(|| format!("writing the status of {key}")),
        }
        Ok(())
    }
}

fn watch<K>(cache: &Arc<Cache<K>>, api: Api<K>) -> Watch
where
    K: Resource<DynamicType = ()>
        + Clone
        + DeserializeOwned
        + std::fmt::Debug
        + Send
        + Sync
        + 'static,
{
    Box::pin(cache.clone().run(api, watcher::Config::default()))
}

/// Puts every changed object of `cache` into `queue`.
pub(crate) fn follow<K: Kind>(cache: &Cache<K>, queue: &Arc<Queue<ObjectKey>>) {
    let queue = queue.clone();
    cache.on_change(move |_, new| {
        if let Some(object) = new {
            queue.add(ObjectKey::of(object));
        }
    });
}

/// Puts the owner of kind `kind` that controls a changed object of `cache` into `queue`.
pub(crate) fn follow_owners<K: Kind>(
    cache: &Cache<K>,
    kind: &'static str,
    queue: &Arc<Queue<ObjectKey>>,
) {
    let queue = queue.clone();
    cache.on_change(move |old, new| {
        for object in [old, new].into_iter().flatten() {
            let owner = meta::controller_of(object.meta()).filter(|owner| owner.kind == kind);
            if let Some(owner) = owner {
                let namespace = object.meta().namespace.clone().unwrap_or_default();
                queue.add(ObjectKey::new(namespace, owner.name.clone()));
            }
        }
    });
}
