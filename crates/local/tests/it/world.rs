//! An API server with controllers in this process: nodes are objects, and the test plays the kubelet.

use ambit_apiserver::{Handle, Server};
use ambit_node_agent::controllers::{self, ControllersConfig};
use ambit_testkit::eventually;
use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::harness::PATIENCE;

/// An API server with controllers.
pub struct World {
    pub client: Client,
    controllers: JoinHandle<()>,
    _server: Handle,
}

impl Drop for World {
    fn drop(&mut self) {
        self.controllers.abort();
    }
}

impl World {
    /// Starts both.
    pub async fn new(config: ControllersConfig) -> Result<Self> {
        let server = Server::builder().start().await?;
        let kubeconfig = Kubeconfig::from_yaml(&server.admin_kubeconfig()?)?;
        let options = KubeConfigOptions::default();
        let mut client = Config::from_custom_kubeconfig(kubeconfig, &options).await?;
        // A refused eviction (429) is an answer here, not a reason to ask again.
        client.default_retry = false;
        let client = Client::try_from(client)?;
        let own = client.clone();
        let controllers = tokio::spawn(async move {
            if let Err(error) = controllers::run(own, config).await {
                eprintln!("controllers: {error}");
            }
        });
        Ok(Self {
            client,
            controllers,
            _server: server,
        })
    }

    /// The pods of the default namespace.
    pub fn pods(&self) -> Api<Pod> {
        Api::default_namespaced(self.client.clone())
    }

    /// Creates an object in the default namespace.
    pub async fn create<K>(&self, object: Value) -> Result<K>
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
            + Clone
            + serde::Serialize
            + serde::de::DeserializeOwned
            + std::fmt::Debug,
    {
        let api: Api<K> = Api::default_namespaced(self.client.clone());
        let object: K = serde_json::from_value(object)?;
        Ok(api.create(&PostParams::default(), &object).await?)
    }

    /// A node that is ready.
    pub async fn node(&self, name: &str, spec: Value) -> Result<()> {
        let api: Api<Node> = Api::all(self.client.clone());
        let node = serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec}))?;
        api.create(&PostParams::default(), &node).await?;
        let ready = json!({"status": {
            "allocatable": {"cpu": "4", "memory": "8Gi", "pods": "20"},
            "conditions": [{"type": "Ready", "status": "True"}]}});
        api.patch_status(name, &PatchParams::default(), &Patch::Merge(ready))
            .await?;
        Ok(())
    }

    /// Plays the kubelet: pods that are bound run and are ready (those with the label `ends` end
    /// as it says), pods that are to be deleted are gone.
    pub async fn kubelet(&self) -> Result<Vec<Pod>> {
        let api = self.pods();
        let all = api.list(&ListParams::default()).await?.items;
        for (index, pod) in all.iter().enumerate() {
            let name = pod.metadata.name.as_deref().context("a name")?;
            let bound = pod
                .spec
                .as_ref()
                .is_some_and(|spec| spec.node_name.is_some());
            let started = pod
                .status
                .as_ref()
                .is_some_and(|status| status.pod_ip.is_some());
            if pod.metadata.deletion_timestamp.is_some() {
                let _ = api
                    .delete(name, &DeleteParams::default().grace_period(0))
                    .await;
            } else if bound && !started {
                let ip = format!("10.0.0.{}", index + 1);
                let now = "2026-01-01T00:00:00Z";
                let end = pod
                    .metadata
                    .labels
                    .as_ref()
                    .and_then(|labels| labels.get("ends"));
                let phase = end.map_or("Running", String::as_str);
                let ready = if phase == "Running" { "True" } else { "False" };
                let status = json!({"status": {"phase": phase, "podIP": ip, "podIPs": [{"ip": ip}],
                    "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": now}]}});
                let _ = api
                    .patch_status(name, &PatchParams::default(), &Patch::Merge(status))
                    .await;
            }
        }
        Ok(all)
    }

    /// Plays the kubelet until an object is as wanted.
    pub async fn until<K>(&self, name: &str, accept: impl Fn(&K) -> bool) -> Result<K>
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
            + Clone
            + serde::de::DeserializeOwned
            + std::fmt::Debug,
    {
        let api: Api<K> = Api::default_namespaced(self.client.clone());
        let what = format!("{} {name}", K::kind(&()));
        let found = eventually(&what, PATIENCE, async || {
            self.kubelet().await.ok()?;
            api.get_opt(name)
                .await
                .ok()?
                .filter(|object| accept(object))
        });
        found.await
    }
}
