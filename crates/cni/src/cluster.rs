//! The agent's side of the Kubernetes API: what it reads beside its watches, and the one thing it
//! writes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ambit_kube_api::annotations::REDIRECTION;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;

use crate::enroll::{Annotator, PodKey};

/// How long one request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);

/// Whether the agent's DaemonSet is still wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnDaemonSet {
    /// It is there: this agent will be followed by another one.
    Present,
    /// It was deleted, or the agent's account was.
    Gone,
    /// The API did not say.
    Unknown,
}

/// A handle to the API server.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
}

impl Cluster {
    /// Uses this client.
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    /// The client, for watches.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// A pod and the labels of its namespace as they are now, not as a watch last saw them.
    ///
    /// # Errors
    /// The reason in words: missing, forbidden, no answer.
    pub async fn pod_and_namespace(
        &self,
        key: &PodKey,
    ) -> Result<(Pod, BTreeMap<String, String>), String> {
        let pods: Api<Pod> = Api::namespaced(self.client(), &key.namespace);
        let namespaces: Api<Namespace> = Api::all(self.client());
        let both = async { tokio::try_join!(pods.get(&key.name), namespaces.get(&key.namespace)) };
        let (pod, namespace) = timed(both).await?;
        Ok((pod, namespace.metadata.labels.unwrap_or_default()))
    }

    /// All pods of a node.
    ///
    /// # Errors
    /// The reason in words.
    pub async fn pods_of_node(&self, node: &str) -> Result<Vec<Arc<Pod>>, String> {
        let pods: Api<Pod> = Api::all(self.client());
        let list = timed(pods.list(&ListParams::default().fields(&node_selector(node)))).await?;
        Ok(list.items.into_iter().map(Arc::new).collect())
    }

    /// Whether the agent is being replaced or removed.
    pub async fn own_daemon_set(&self, namespace: &str, name: &str) -> OwnDaemonSet {
        let api: Api<DaemonSet> = Api::namespaced(self.client(), namespace);
        match tokio::time::timeout(REQUEST_TIMEOUT, api.get(name)).await {
            Ok(Ok(set)) if set.metadata.deletion_timestamp.is_some() => OwnDaemonSet::Gone,
            Ok(Ok(_)) => OwnDaemonSet::Present,
            Ok(Err(kube::Error::Api(status))) if matches!(status.code, 401 | 403 | 404) => {
                OwnDaemonSet::Gone
            }
            _ => OwnDaemonSet::Unknown,
        }
    }
}

/// The field selector for the pods of a node.
pub fn node_selector(node: &str) -> String {
    format!("spec.nodeName={node}")
}

impl Annotator for Cluster {
    async fn annotate(&self, pod: &PodKey, uid: &str, value: Option<&str>) -> Result<(), String> {
        let api: Api<Pod> = Api::namespaced(self.client(), &pod.namespace);
        // The UID makes the server refuse the patch for another pod of the same name.
        let patch = json!({"metadata": {"uid": uid, "annotations": {REDIRECTION: value}}});
        let request = async {
            match api
                .patch_status(&pod.name, &PatchParams::default(), &Patch::Merge(patch))
                .await
            {
                Err(kube::Error::Api(status))
                    if value.is_none() && matches!(status.code, 404 | 409) =>
                {
                    Ok(())
                }
                other => other.map(|_| ()),
            }
        };
        timed(request).await
    }
}

async fn timed<T>(request: impl Future<Output = Result<T, kube::Error>>) -> Result<T, String> {
    match tokio::time::timeout(REQUEST_TIMEOUT, request).await {
        Ok(result) => result.map_err(|e| match e {
            kube::Error::Api(status) => status.message.clone(),
            other => other.to_string(),
        }),
        Err(_) => Err(format!(
            "the API server did not answer within {REQUEST_TIMEOUT:?}"
        )),
    }
}
