//! Which node proxy is asked.

use anyhow::{Context, anyhow};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::core::Selector;
use kube::{Api, Client};

use crate::commands::portforward::Target;

/// Name and application label of the node proxy.
const PROXY: &str = "ztunnel";

/// What the user said about it.
#[derive(Clone, Copy, Debug)]
pub struct Selection<'a> {
    /// Namespace of the node proxy.
    pub namespace: &'a str,
    /// Namespace of a named pod, unless its name has one.
    pub pod_namespace: Option<&'a str>,
    /// `[<type>/]<name>[.<namespace>]`
    pub name: Option<&'a str>,
    /// A node.
    pub node: Option<&'a str>,
    /// Without name and node, any proxy will do even when there are several.
    pub one_of_many: bool,
}

/// Why there is no target.
#[derive(Debug)]
pub enum SelectionError {
    /// The flags do not say enough, or too much.
    Usage(String),
    /// The cluster does not have it.
    Other(anyhow::Error),
}

impl<E: Into<anyhow::Error>> From<E> for SelectionError {
    fn from(error: E) -> Self {
        Self::Other(error.into())
    }
}

/// The application pod that was named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodFilter {
    pub namespace: String,
    pub name: String,
}

impl PodFilter {
    /// Whether it is this pod.
    pub fn matches(&self, namespace: &str, name: &str) -> bool {
        super::same(&self.namespace, namespace) && super::same(&self.name, name)
    }
}

/// Finds the node proxy.
///
/// # Errors
/// See [`SelectionError`].
pub async fn find(
    client: &Client,
    selection: &Selection<'_>,
) -> Result<(Target, Option<PodFilter>), SelectionError> {
    if let Some(node) = selection.node {
        return Ok((on_node(client, selection.namespace, node).await?, None));
    }
    if let Some(name) = selection.name {
        return named(client, selection, name).await;
    }
    let pods = proxies(client, selection.namespace).await?;
    if pods.len() > 1 && !selection.one_of_many {
        return Err(SelectionError::Usage(
            "ztunnel pod name or --node must be set".into(),
        ));
    }
    let ready = pods.iter().find(|p| is_ready(p)).or(pods.first());
    let pod = ready.ok_or_else(|| {
        anyhow!(
            "DaemonSet {}/{PROXY} has no pods; is the mesh installed?",
            selection.namespace
        )
    })?;
    Ok((target(pod), None))
}

/// All pods of the node proxy's DaemonSet, sorted by name.
///
/// # Errors
/// When there is no such DaemonSet.
pub async fn proxies(client: &Client, namespace: &str) -> anyhow::Result<Vec<Pod>> {
    let sets: Api<DaemonSet> = Api::namespaced(client.clone(), namespace);
    let set = sets.get_opt(PROXY).await?.with_context(|| {
        format!("there is no DaemonSet {namespace}/{PROXY}; is the mesh installed, perhaps in another namespace (-n)?")
    })?;
    let selector: Selector = set
        .spec
        .map(|s| s.selector)
        .unwrap_or_default()
        .try_into()?;
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let mut pods = pods
        .list(&ListParams::default().labels_from(&selector))
        .await?
        .items;
    pods.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    Ok(pods)
}

async fn on_node(client: &Client, namespace: &str, node: &str) -> anyhow::Result<Target> {
    let pods = proxies(client, namespace).await?;
    let here = pods.iter().find(|p| super::same(node_of(p), node));
    here.map(target)
        .with_context(|| format!("no {PROXY} pod runs on node {node}"))
}

async fn named(
    client: &Client,
    selection: &Selection<'_>,
    text: &str,
) -> Result<(Target, Option<PodFilter>), SelectionError> {
    let (kind, rest) = text.split_once('/').unwrap_or(("pod", text));
    let (name, namespace) = match rest.rsplit_once('.') {
        Some((name, namespace)) => (name, namespace),
        None => (rest, selection.pod_namespace.unwrap_or(selection.namespace)),
    };
    let pod = match kind {
        "pod" | "pods" | "po" => {
            let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
            match pods.get_opt(name).await? {
                Some(pod) => pod,
                // The default namespace of kubectl, where the mesh's own has no such pod.
                None if selection.pod_namespace.is_none() && !rest.contains('.') => {
                    let pods: Api<Pod> = Api::default_namespaced(client.clone());
                    pods.get(name)
                        .await
                        .with_context(|| format!("pod {name}"))?
                }
                None => return Err(anyhow!("pod {namespace}/{name} not found").into()),
            }
        }
        "daemonset" | "daemonsets" | "ds" if name == PROXY => {
            let pods = proxies(client, namespace).await?;
            let ready = pods.into_iter().find(is_ready);
            ready.with_context(|| format!("DaemonSet {namespace}/{name} has no ready pod"))?
        }
        other => {
            return Err(SelectionError::Usage(format!(
                "{other}/{name}: name a pod, or daemonset/{PROXY}"
            )));
        }
    };
    if is_proxy(&pod) {
        return Ok((target(&pod), None));
    }
    let node = node_of(&pod).to_owned();
    if node.is_empty() {
        return Err(anyhow!("pod {name} does not run on a node yet").into());
    }
    let filter = PodFilter {
        namespace: pod.metadata.namespace.clone().unwrap_or_default(),
        name: pod.metadata.name.clone().unwrap_or_default(),
    };
    Ok((
        on_node(client, selection.namespace, &node).await?,
        Some(filter),
    ))
}

/// The label decides; the name only where there is no label.
fn is_proxy(pod: &Pod) -> bool {
    match pod.metadata.labels.as_ref().and_then(|l| l.get("app")) {
        Some(app) => app == PROXY,
        None => pod
            .metadata
            .name
            .as_deref()
            .is_some_and(|n| n.starts_with(PROXY)),
    }
}

fn node_of(pod: &Pod) -> &str {
    pod.spec
        .as_ref()
        .and_then(|s| s.node_name.as_deref())
        .unwrap_or_default()
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod
        .status
        .iter()
        .flat_map(|s| s.conditions.iter().flatten());
    conditions
        .into_iter()
        .any(|c| c.type_ == "Ready" && c.status == "True")
}

/// The pod as a target of requests.
pub fn target(pod: &Pod) -> Target {
    Target {
        namespace: pod.metadata.namespace.clone().unwrap_or_default(),
        pod: pod.metadata.name.clone().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_label_decides_who_is_a_proxy() {
        let pod = |value| is_proxy(&serde_json::from_value::<Pod>(value).expect("pod"));
        assert!(pod(
            json!({"metadata": {"name": "x", "labels": {"app": "ztunnel"}}})
        ));
        assert!(!pod(
            json!({"metadata": {"name": "ztunnel-x", "labels": {"app": "shop"}}})
        ));
        assert!(pod(json!({"metadata": {"name": "ztunnel-x"}})));
        assert!(!pod(json!({"metadata": {"name": "cart"}})));
    }
}
