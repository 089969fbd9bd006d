//! What all parts of one kubelet share.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::cgroup::Cgroups;
use super::config::KubeletConfig;
use super::events::Recorder;
use super::objects::Objects;
use super::pods::PodTable;
use super::services::Services;
use crate::cni::chain::Chain;

/// Longest wait for one answer of the API server.
pub(crate) const API_TIMEOUT: Duration = Duration::from_secs(10);

/// The shared state.
pub(crate) struct Node {
    pub config: KubeletConfig,
    pub cgroups: Cgroups,
    pub chain: Chain,
    pub services: Services,
    pub objects: Objects,
    pub events: Recorder,
    pub pods: PodTable,
    pub capacity: BTreeMap<String, Quantity>,
}

impl Node {
    /// Directory of a pod.
    pub(crate) fn pod_dir(&self, uid: &str) -> PathBuf {
        self.config.state_dir.join("pods").join(uid)
    }

    /// The node's first address.
    pub(crate) fn address(&self) -> IpAddr {
        let first = self.config.node_ips.first().copied();
        first.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
    }

    /// The node's addresses as texts.
    pub(crate) fn addresses(&self) -> Vec<String> {
        self.config.node_ips.iter().map(IpAddr::to_string).collect()
    }
}

/// CPUs, memory and the usual limit of 110 pods.
pub(crate) fn capacity() -> BTreeMap<String, Quantity> {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.split_whitespace().next())
        .unwrap_or("0");
    [
        ("cpu", cpus.to_string()),
        ("memory", format!("{memory}Ki")),
        ("ephemeral-storage", "10Gi".to_string()),
        ("pods", "110".to_string()),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_string(), Quantity(value)))
    .collect()
}
