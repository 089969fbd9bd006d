//! Faults on demand: what is wrong with a cluster because somebody asked for
//! it, and what may be asked. Plain values; the cluster's init acts on them.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::error::{LocalError, Result};
use crate::state::Cluster;

/// The control plane's parts, by the names of their logs.
pub(crate) const API_SERVER: &str = "apiserver";
/// See [`API_SERVER`].
pub(crate) const CONTROLLERS: &str = "controllers";

/// The faults in force; names are full ones.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Faults {
    /// Nodes that are switched off.
    pub(crate) stopped: BTreeSet<String>,
    /// Nodes whose link is down.
    pub(crate) cut: BTreeSet<String>,
    /// Processes that stand still: parts of the control plane, and nodes
    /// whose agent does.
    pub(crate) paused: BTreeSet<String>,
}

/// What may be asked of a cluster. Each can be repeated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Request {
    /// Nothing but the answer.
    Show,
    /// Switch a node off.
    Stop(String),
    /// Make a node work: switch it on, and connect it.
    Start(String),
    /// Take a node's link down.
    Cut(String),
    /// Let a part stand still.
    Pause(String),
    /// Let a part go on.
    Resume(String),
}

/// The full name of a node, given it or its part after the cluster's name.
///
/// # Errors
/// Which nodes there are.
pub(crate) fn node(cluster: &Cluster, name: &str) -> Result<String> {
    let nodes: Vec<&str> = nodes(cluster).collect();
    find(cluster, name, &nodes, "node")
}

/// The full name of a part that can be paused: one of the control plane, or a
/// node, for its agent.
///
/// # Errors
/// Which parts there are.
pub(crate) fn component(cluster: &Cluster, name: &str) -> Result<String> {
    let mut all = vec![API_SERVER, CONTROLLERS];
    all.extend(nodes(cluster));
    find(cluster, name, &all, "component")
}

fn nodes(cluster: &Cluster) -> impl Iterator<Item = &str> {
    cluster.nodes.iter().map(|node| node.name.as_str())
}

fn find(cluster: &Cluster, name: &str, known: &[&str], what: &str) -> Result<String> {
    let full = format!("{}-{name}", cluster.name);
    let found = known
        .iter()
        .find(|known| **known == name || **known == full);
    found.map(|name| (*name).to_owned()).ok_or_else(|| {
        let reason = format!(
            "the cluster {:?} has no such {what}; there are: {}",
            cluster.name,
            known.join(", ")
        );
        LocalError::Part {
            part: name.to_owned(),
            reason,
        }
    })
}
