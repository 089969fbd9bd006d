//! The caches that all controllers share: one watch per kind.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Endpoints, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::Api;
use kube::runtime::watcher;
use kube::{Client, Resource};
use serde::de::DeserializeOwned;

use super::events::Recorder;
use crate::informer::Cache;

/// The namespace of the nodes' leases.
pub(crate) const NODE_LEASES: &str = "kube-node-lease";

/// What the controllers know and whom they talk to.
pub(crate) struct World {
    pub(crate) client: Client,
    pub(crate) events: Recorder,
    pub(crate) pods: Arc<Cache<Pod>>,
    pub(crate) nodes: Arc<Cache<Node>>,
    pub(crate) deployments: Arc<Cache<Deployment>>,
    pub(crate) replica_sets: Arc<Cache<ReplicaSet>>,
    pub(crate) daemon_sets: Arc<Cache<DaemonSet>>,
    pub(crate) services: Arc<Cache<Service>>,
    pub(crate) slices: Arc<Cache<EndpointSlice>>,
    pub(crate) endpoints: Arc<Cache<Endpoints>>,
    pub(crate) leases: Arc<Cache<Lease>>,
}

impl World {
    /// Empty caches over `client`; nothing is watched yet.
    pub(crate) fn new(client: Client) -> Arc<Self> {
        Arc::new(Self {
            events: Recorder::new(client.clone()),
            client,
            pods: Cache::new(),
            nodes: Cache::new(),
            deployments: Cache::new(),
            replica_sets: Cache::new(),
            daemon_sets: Cache::new(),
            services: Cache::new(),
            slices: Cache::new(),
            endpoints: Cache::new(),
            leases: Cache::new(),
        })
    }

    /// The watches that feed the caches; they never end.
    pub(crate) fn watches(&self) -> Vec<Pin<Box<dyn Future<Output = ()> + Send>>> {
        let client = &self.client;
        vec![
            watch(&self.pods, Api::all(client.clone())),
            watch(&self.nodes, Api::all(client.clone())),
            watch(&self.deployments, Api::all(client.clone())),
            watch(&self.replica_sets, Api::all(client.clone())),
            watch(&self.daemon_sets, Api::all(client.clone())),
            watch(&self.services, Api::all(client.clone())),
            watch(&self.slices, Api::all(client.clone())),
            watch(&self.endpoints, Api::all(client.clone())),
            watch(&self.leases, Api::namespaced(client.clone(), NODE_LEASES)),
        ]
    }

    /// Waits for the first complete list of every kind.
    pub(crate) async fn synced(&self) {
        self.pods.synced().await;
        self.nodes.synced().await;
        self.deployments.synced().await;
        self.replica_sets.synced().await;
        self.daemon_sets.synced().await;
        self.services.synced().await;
        self.slices.synced().await;
        self.endpoints.synced().await;
        self.leases.synced().await;
    }

    /// The API of one namespaced kind in one namespace.
    pub(crate) fn api<K>(&self, namespace: &str) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), namespace)
    }
}

fn watch<K>(cache: &Arc<Cache<K>>, api: Api<K>) -> Pin<Box<dyn Future<Output = ()> + Send>>
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
