//! The objects that a cluster brings itself: its DNS, and the rights of parts
//! that the API server does not know.

use std::time::Duration;

use ambit_apiserver::node_may_set_label;
use k8s_openapi::api::core::v1::Node;
use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use serde_json::json;

use crate::error::{LocalError, Result};
use crate::parts::ended;
use crate::state::Cluster;

/// The objects; `DNS_ADDRESS` stands for the address of the DNS service.
const MANIFEST: &str = include_str!("system.yaml");
/// Namespace and name of the DNS server's deployment.
pub(crate) const DNS: (&str, &str) = ("kube-system", "coredns");
/// The user that enforces network policies.
pub(crate) const POLICIES: &str = "system:network-policies";
/// How long to wait for an API server that is not there yet.
const PAUSE: Duration = Duration::from_millis(50);

/// Makes the objects that are not there.
pub(crate) async fn deploy(client: &Client, cluster: &Cluster) -> Result<()> {
    let address = cluster.dns().map(|dns| dns.to_string());
    let text = MANIFEST.replace("DNS_ADDRESS", &address.unwrap_or_default());
    let objects: Vec<DynamicObject> =
        serde_saphyr::from_multiple(&text).map_err(|error| failed(&error))?;
    for object in objects {
        let types = object.types.clone().unwrap_or_default();
        let kind = GroupVersionKind::try_from(types).map_err(|error| failed(&error))?;
        let resource = ApiResource::from_gvk(&kind);
        let api: Api<DynamicObject> = match &object.metadata.namespace {
            Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
            None => Api::all_with(client.clone(), &resource),
        };
        create(&api, &object).await?;
    }
    Ok(())
}

async fn create(api: &Api<DynamicObject>, object: &DynamicObject) -> Result<()> {
    loop {
        match api.create(&PostParams::default(), object).await {
            Ok(_) => return Ok(()),
            Err(kube::Error::Api(status)) if status.code == 409 => return Ok(()),
            // Not found: its namespace is not there yet.
            Err(kube::Error::Api(status)) if status.code != 404 => {
                return Err(failed(&status.message));
            }
            // Not there yet, or not any more; the cluster's init knows which.
            Err(error) => {
                tracing::info!("the API server does not answer yet: {error}");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Gives the nodes the labels that they may not give themselves, as soon as they are there.
pub(crate) async fn label_nodes(client: &Client, cluster: &Cluster) -> Result<()> {
    let nodes: Api<Node> = Api::all(client.clone());
    for record in &cluster.nodes {
        let mut labels = record.all_labels();
        labels.retain(|key, _| !node_may_set_label(key));
        if labels.is_empty() {
            continue;
        }
        let patch = Patch::Merge(json!({"metadata": {"labels": labels}}));
        let params = PatchParams::default();
        loop {
            match nodes.patch(&record.name, &params, &patch).await {
                Ok(_) => break,
                Err(kube::Error::Api(status)) if status.code != 404 => {
                    return Err(failed(&status.message));
                }
                // The node has not registered yet.
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    }
    Ok(())
}

fn failed(reason: &dyn std::fmt::Display) -> LocalError {
    ended("the cluster's own objects", reason)
}
