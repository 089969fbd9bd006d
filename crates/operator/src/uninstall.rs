//! Removes the mesh: first what would be in the way of leaving pods working, then the rest.
//!
//! The node agent goes first, and is waited for: when it ends without a DaemonSet it takes its
//! node's pods out of the mesh and its plugin off the node. For that it still needs its role, and
//! the pods still need the node proxy.

use std::time::Duration;

use ambit_charts::ComponentKind;
use ambit_charts::mesh::{COMPONENT_LABEL, MANAGED_LABEL, REVISION_LABEL};
use ambit_kube_api::labels::{DATAPLANE_MODE, DATAPLANE_MODE_AMBIENT};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::ListParams;
use kube::{Api, Client};

use crate::OperatorError;
use crate::install::{delete, list};
use crate::kinds::{KINDS, Kind};

/// How long the node agents get to clean their nodes.
const AGENT_TIMEOUT: Duration = Duration::from_secs(60);
/// Selects the pods of the node agent.
const AGENT_PODS: &str = "k8s-app=istio-cni-node";

/// What to remove.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Everything, definitions included.
    Purge,
    /// The control plane, node agent and node proxy of one revision.
    Revision(String),
}

/// One object to be removed.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Target {
    kind: usize,
    namespace: String,
    name: String,
    agent: bool,
}

/// What a removal would do.
#[derive(Clone, Debug, Default)]
pub struct Removal {
    targets: Vec<Target>,
    /// Namespaces, and pods as `namespace/name`, that are still enrolled.
    pub enrolled: Vec<String>,
}

impl Removal {
    /// Whether there is nothing to remove.
    pub fn is_empty(&self) -> bool {
        self.targets.is_empty()
    }

    /// The objects in Istio's notation, in the order of removal.
    pub fn objects(&self) -> Vec<String> {
        self.targets.iter().map(Target::describe).collect()
    }
}

impl Target {
    fn kind(&self) -> &'static Kind {
        &KINDS[self.kind]
    }

    /// `apps/v1, Kind=Deployment/istiod.istio-system`
    fn describe(&self) -> String {
        let kind = self.kind();
        let mut text = format!("{}, Kind={}/{}", kind.api_version(), kind.kind, self.name);
        if !self.namespace.is_empty() {
            text.push('.');
            text.push_str(&self.namespace);
        }
        text
    }
}

/// Finds out what there is to remove.
///
/// # Errors
/// When the API server does not list it.
pub async fn plan_removal(client: &Client, scope: &Scope) -> Result<Removal, OperatorError> {
    let selector = match scope {
        Scope::Purge => format!("{MANAGED_LABEL},{COMPONENT_LABEL}"),
        Scope::Revision(revision) => {
            format!("{MANAGED_LABEL},{COMPONENT_LABEL},{REVISION_LABEL}={revision}")
        }
    };
    let base = ComponentKind::Base.label();
    let mut targets = Vec::new();
    for (index, kind) in KINDS.iter().enumerate() {
        for object in list(client, kind, &selector).await? {
            let labels = object.metadata.labels.unwrap_or_default();
            let component = labels.get(COMPONENT_LABEL).map(String::as_str);
            if component == Some(base) && *scope != Scope::Purge {
                continue;
            }
            targets.push(Target {
                kind: index,
                namespace: object.metadata.namespace.unwrap_or_default(),
                name: object.metadata.name.unwrap_or_default(),
                agent: kind.kind == "DaemonSet" && component == Some(ComponentKind::Cni.label()),
            });
        }
    }
    targets.sort_by(|a, b| {
        (!a.agent, a.kind, &a.namespace, &a.name).cmp(&(!b.agent, b.kind, &b.namespace, &b.name))
    });
    Ok(Removal {
        targets,
        enrolled: enrolled(client).await?,
    })
}

/// What still asks for the mesh.
async fn enrolled(client: &Client) -> Result<Vec<String>, OperatorError> {
    let labelled =
        ListParams::default().labels(&format!("{DATAPLANE_MODE}={DATAPLANE_MODE_AMBIENT}"));
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let namespaces = namespaces.list(&labelled).await;
    let namespaces = namespaces.map_err(|e| OperatorError::api("listing", "namespaces", e))?;
    let pods: Api<Pod> = Api::all(client.clone());
    let pods = pods
        .list(&labelled)
        .await
        .map_err(|e| OperatorError::api("listing", "pods", e))?;
    let mut found: Vec<String> = namespaces
        .items
        .into_iter()
        .filter_map(|n| n.metadata.name)
        .collect();
    found.extend(
        pods.items
            .into_iter()
            .filter_map(|p| Some(format!("{}/{}", p.metadata.namespace?, p.metadata.name?))),
    );
    Ok(found)
}

/// Removes; `removed` is called with each object once it is deleted.
///
/// # Errors
/// See [`OperatorError`]. Removing again goes on from there.
pub async fn execute_removal(
    client: &Client,
    removal: &Removal,
    removed: &(dyn Fn(&str) + Sync),
) -> Result<(), OperatorError> {
    let (agents, rest): (Vec<&Target>, Vec<&Target>) =
        removal.targets.iter().partition(|t| t.agent);
    for target in &agents {
        delete(client, target.kind(), &target.namespace, &target.name).await?;
        removed(&target.describe());
    }
    for target in &agents {
        agents_gone(client, &target.namespace).await?;
    }
    for target in rest {
        delete(client, target.kind(), &target.namespace, &target.name).await?;
        removed(&target.describe());
    }
    Ok(())
}

/// Waits until no node agent runs any more, or long enough.
async fn agents_gone(client: &Client, namespace: &str) -> Result<(), OperatorError> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let params = ListParams::default().labels(AGENT_PODS);
    let deadline = tokio::time::Instant::now() + AGENT_TIMEOUT;
    while tokio::time::Instant::now() < deadline {
        let left = pods.list(&params).await;
        let left = left.map_err(|e| OperatorError::api("listing", "pods of the node agent", e))?;
        if left.items.is_empty() {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    tracing::warn!("node agents still run after {AGENT_TIMEOUT:?}; their nodes may keep rules");
    Ok(())
}
