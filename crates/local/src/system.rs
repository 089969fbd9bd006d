//! The objects that a cluster brings itself: its DNS, and the rights of parts
//! that the API server does not know.

use std::time::Duration;

use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject, PostParams};
use kube::core::GroupVersionKind;

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
            Err(kube::Error::Api(status)) => return Err(failed(&status.message)),
            // Not there yet, or not any more; the cluster's init knows which.
            Err(error) => {
                tracing::info!("the API server does not answer yet: {error}");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

fn failed(reason: &dyn std::fmt::Display) -> LocalError {
    ended("the cluster's own objects", reason)
}
