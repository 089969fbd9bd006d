//! What the node is told before it starts.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::Taint;

use crate::catalogue::Catalogue;
use crate::network_policy::NetworkPolicies;

/// Everything [`run`](super::run) needs. The kubelet runs inside the node's own network, mount, PID
/// and UTS namespaces; all paths are paths of that mount namespace.
#[derive(Clone)]
pub struct KubeletConfig {
    /// Name of the Node object.
    pub node_name: String,
    /// Client authenticated as `system:node:<name>` in group `system:nodes`.
    pub client: kube::Client,
    /// The node's `InternalIP`s, the first family first.
    pub node_ips: Vec<IpAddr>,
    /// Pod subnets written to the Node when it is created, the first family first. A Node that
    /// already has some keeps them.
    pub pod_cidrs: Vec<IpNet>,
    /// Labels to set on the Node beside `kubernetes.io/hostname`, `…/os` and `…/arch`.
    pub labels: BTreeMap<String, String>,
    /// Taints set when the Node is created.
    pub taints: Vec<Taint>,
    /// Version reported as `kubeletVersion`, such as `v1.35.0`.
    pub version: String,
    /// Private state of this kubelet: pod directories, volumes, upper layers of root file systems.
    /// Put it on tmpfs; it is emptied at start.
    pub state_dir: PathBuf,
    /// Where container logs are kept; at most 20 MiB per container.
    pub log_dir: PathBuf,
    /// Pod networking.
    pub cni: CniConfig,
    /// What network policies allow; a pod starts when they are in force for it. Without it, nobody
    /// on this node keeps to them.
    pub policies: Option<Arc<NetworkPolicies>>,
    /// Cluster DNS servers for `dnsPolicy: ClusterFirst`.
    pub cluster_dns: Vec<IpAddr>,
    /// Cluster domain, `cluster.local`.
    pub cluster_domain: String,
    /// The node's resolver configuration, for `dnsPolicy: Default`.
    pub resolv_conf: PathBuf,
    /// Path below each cgroup hierarchy's root under which `kubepods` is created, such as
    /// `/cluster-x/worker`. Everything under it belongs to this kubelet and is removed at the end.
    pub cgroup_parent: String,
    /// The program started as container init helper: it must call
    /// [`container_init_main`](super::container_init_main) when its first argument is
    /// [`INIT_ARGUMENT`](super::INIT_ARGUMENT), before it starts any thread.
    pub init_program: PathBuf,
    /// Images.
    pub catalogue: Arc<Catalogue>,
    /// The kubelet's own HTTPS endpoint.
    pub server: ServerConfig,
}

/// Where the CNI chain is found.
#[derive(Clone, Debug)]
pub struct CniConfig {
    /// Network configurations; the first in lexical order counts. Re-read at each pod.
    pub conf_dir: PathBuf,
    /// Plugin programs, in search order.
    pub bin_dirs: Vec<PathBuf>,
    /// Directory of named network namespaces, shared with the pods that mount it.
    pub netns_dir: PathBuf,
    /// When given, the kubelet installs its own primary plugin and its configuration at start, if
    /// the configuration directory has none.
    pub primary: Option<PrimaryNetwork>,
}

impl Default for CniConfig {
    fn default() -> Self {
        Self {
            conf_dir: "/etc/cni/net.d".into(),
            bin_dirs: vec!["/opt/cni/bin".into()],
            netns_dir: "/var/run/netns".into(),
            primary: None,
        }
    }
}

/// The primary plugin that comes with this crate ([`crate::cni::ptp`]).
#[derive(Clone, Debug)]
pub struct PrimaryNetwork {
    /// Program that runs [`crate::cni::ptp::main`] when started as `node-ptp`.
    pub program: PathBuf,
    /// MTU of the pods' interfaces.
    pub mtu: u32,
    /// Where assigned addresses are recorded.
    pub data_dir: PathBuf,
}

/// The HTTPS endpoint for logs, exec, attach and port-forward.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Listening address, usually `0.0.0.0:10250`.
    pub listen: SocketAddr,
    /// PEM bundle of the CA that signs client certificates.
    pub client_ca_pem: String,
    /// Common names of the clients that may use it; the API server's kubelet client.
    pub allowed_clients: Vec<String>,
    /// PEM certificate chain and key of the server; a self-signed one is made when absent.
    pub serving: Option<(String, String)>,
}

/// Common name of the certificate with which API servers usually call kubelets.
pub const API_SERVER_CLIENT: &str = "kube-apiserver-kubelet-client";
