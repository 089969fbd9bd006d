//! A node: its first process, and the agent that it starts.
//!
//! The first process makes the namespaces that it was started in into a
//! machine (files, network, name), starts the agent, and waits for orphans.
//! The agent is the kubelet, the service proxy and the network policies; when
//! it ends, the node ends with everything on it, and the cluster's init starts
//! it again.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use ambit_apiserver::node_may_set_label;
use ambit_node_agent::catalogue::Catalogue;
use ambit_node_agent::kubelet::{
    self, API_SERVER_CLIENT, CniConfig, KubeletConfig, PrimaryNetwork, ServerConfig,
};
use ambit_node_agent::network_policy::NetworkPolicies;
use ambit_node_agent::nft::Family;
use ambit_node_agent::service_proxy::{self, ServiceProxyConfig};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use k8s_openapi::api::core::v1::Taint;
use nix::errno::Errno;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, sethostname};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::addresses::KUBELET_PORT;
use crate::error::{Doing, LocalError, Result, file};
use crate::kind::Role;
use crate::mounts;
use crate::network::{End, Network, be_router, block_on};
use crate::parts::ending;
use crate::state::{CONTROL_PLANE, Cluster, Folder};
use crate::{credentials, parts};

/// The interface of a node.
const INTERFACE: &str = "eth0";

/// Everything that a node is told at its start, over its standard input: the
/// cluster's folder may not be visible on it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct NodeStart {
    pub(crate) name: String,
    /// Its addresses, the first family's first.
    addresses: Vec<IpAddr>,
    /// The router's, in the same order.
    routers: Vec<IpAddr>,
    /// The node's end of its link, to be renamed.
    pub(crate) link: String,
    pods: Vec<IpNet>,
    dns: Option<IpAddr>,
    role: Role,
    /// Whether ordinary pods stay away.
    reserved: bool,
    /// Those that a node may give itself; `system` gives it the others.
    labels: BTreeMap<String, String>,
    program: PathBuf,
    cgroup: String,
    /// The kubeconfigs of kubelet, service proxy and network policies, as texts.
    kubeconfig: String,
    proxy_kubeconfig: String,
    policies_kubeconfig: String,
    ca: String,
    /// The certificate and key with which the kubelet serves.
    serving: (String, String),
}

impl NodeStart {
    /// What the node at this place has to know.
    pub(crate) fn new(folder: &Folder, cluster: &Cluster, place: usize) -> Result<Self> {
        let missing = || LocalError::Part {
            part: "nodes".to_owned(),
            reason: format!("there is no node {place}"),
        };
        let record = cluster.nodes.get(place).ok_or_else(missing)?;
        let addresses = cluster.node_addresses(place);
        let keys = credentials::load(folder, cluster)?;
        let serving = keys
            .node_serving(&record.name, &addresses)
            .map_err(|error| LocalError::Part {
                part: record.name.clone(),
                reason: error.to_string(),
            })?;
        let read = |part: &str| {
            let path = credentials::path(folder, part);
            fs::read_to_string(&path).map_err(file("reading", path))
        };
        Ok(Self {
            name: record.name.clone(),
            addresses,
            routers: cluster.routers(),
            link: format!("node{place}p"),
            pods: cluster.node_subnets(place),
            dns: cluster.dns(),
            role: record.role,
            reserved: record.role == Role::ControlPlane && cluster.nodes.len() > 1,
            labels: record
                .all_labels()
                .into_iter()
                .filter(|(key, _)| node_may_set_label(key))
                .collect(),
            program: cluster.program.clone(),
            cgroup: format!("/{}/{}", cluster.cgroup(), record.name),
            kubeconfig: read(&record.name)?,
            proxy_kubeconfig: read("proxy")?,
            policies_kubeconfig: read("policies")?,
            ca: keys.ca_pem().to_owned(),
            serving: (serving.cert_pem, serving.key_pem),
        })
    }

    fn read() -> Result<(Self, Vec<u8>)> {
        let mut text = Vec::new();
        std::io::stdin()
            .read_to_end(&mut text)
            .doing("reading the node's description")?;
        let start = serde_json::from_slice(&text).map_err(|error| LocalError::Part {
            part: "node".to_owned(),
            reason: format!("its description does not parse: {error}"),
        })?;
        Ok((start, text))
    }
}

/// The life of a node's first process.
pub(crate) fn main() -> Result<()> {
    let (start, text) = NodeStart::read()?;
    let programs = start.program.parent().map(Path::to_owned);
    mounts::enter(&programs.into_iter().collect::<Vec<_>>())?;
    sethostname(&start.name).doing("setting the host name")?;
    be_router(&start.families())?;
    block_on(configure_network(&start))?;
    write_files(&start)?;
    let mut command = Command::new(&start.program);
    command.args([crate::NODE, "agent", &start.name]);
    command.stdin(Stdio::piped()).current_dir("/");
    let mut agent = command.spawn().map_err(file("starting", &start.program))?;
    if let Some(mut input) = agent.stdin.take() {
        input.write_all(&text).doing("telling the node agent")?;
    }
    wait_for(agent.id().cast_signed())
}

/// Waits for the agent, and for orphans on the way: as first process of a PID
/// namespace we are everybody's parent of last resort.
fn wait_for(agent: i32) -> Result<()> {
    loop {
        match waitpid(Pid::from_raw(-1), Some(WaitPidFlag::empty())) {
            Ok(WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, _, _)) => {
                if pid.as_raw() == agent {
                    let part = "the node agent".to_owned();
                    return Err(LocalError::Part {
                        part,
                        reason: "ended; see above".to_owned(),
                    });
                }
            }
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno).doing("waiting for the node's processes"),
        }
    }
}

async fn configure_network(start: &NodeStart) -> Result<()> {
    let network = Network::open()?;
    network.up("lo").await?;
    network.rename(&start.link, INTERFACE).await?;
    network.up(INTERFACE).await?;
    for (own, router) in start.addresses.iter().zip(&start.routers) {
        network.add_address(INTERFACE, *own).await?;
        let hop = network.join(INTERFACE, End::Outer, *own, *router).await?;
        network
            .route_via(everywhere(*own), INTERFACE, hop, *own)
            .await?;
    }
    Ok(())
}

/// The network of all addresses of one's own version of IP.
fn everywhere(own: IpAddr) -> IpNet {
    match own {
        IpAddr::V4(_) => Ipv4Net::default().into(),
        IpAddr::V6(_) => Ipv6Net::default().into(),
    }
}

/// The files by which a machine knows itself. The node has no name servers:
/// like any node it does not resolve the cluster's names, and there is no way
/// out of a local cluster.
fn write_files(start: &NodeStart) -> Result<()> {
    let mut hosts = "127.0.0.1\tlocalhost\n::1\tlocalhost\n".to_owned();
    for address in &start.addresses {
        hosts.push_str(&format!("{address}\t{}\n", start.name));
    }
    for (path, text) in [
        ("/etc/hostname", format!("{}\n", start.name)),
        ("/etc/hosts", hosts),
        (
            "/etc/resolv.conf",
            "# This node has no name servers.\n".to_owned(),
        ),
    ] {
        // It may be a link to somewhere that the node does not have.
        let _ = fs::remove_file(path);
        fs::write(path, text).map_err(file("writing", path))?;
    }
    Ok(())
}

/// The life of the agent: kubelet, service proxy and network policies.
pub(crate) fn agent() -> Result<()> {
    let (start, _) = NodeStart::read()?;
    parts::run(async move {
        let client = parts::client(&start.policies_kubeconfig).await?;
        let families = start.families();
        let policies = NetworkPolicies::new(client, start.name.clone(), families.clone());
        let kubelet = start.kubelet(policies.clone()).await?;
        let client = parts::client(&start.proxy_kubeconfig).await?;
        let proxy = ServiceProxyConfig {
            node_name: Some(start.name.clone()),
            node_addresses: start.addresses.clone(),
            pod_subnets: start.pods.clone(),
            families,
        };
        tokio::select! {
            end = kubelet::run(kubelet, CancellationToken::new()) => ending("the kubelet", end),
            end = service_proxy::run(client, proxy) => ending("the service proxy", end),
            end = policies.run() => ending("network policies", end),
        }
    })
}

impl NodeStart {
    fn families(&self) -> Vec<Family> {
        let addresses = self.addresses.iter();
        addresses.map(|address| Family::of(*address)).collect()
    }

    /// Where to listen for clients of all the cluster's versions of IP.
    fn anywhere(&self) -> IpAddr {
        match self.addresses.iter().all(IpAddr::is_ipv4) {
            true => Ipv4Addr::UNSPECIFIED.into(),
            false => Ipv6Addr::UNSPECIFIED.into(),
        }
    }

    async fn kubelet(&self, policies: Arc<NetworkPolicies>) -> Result<KubeletConfig> {
        let part = |error: &dyn std::fmt::Display| LocalError::Part {
            part: "the node agent".to_owned(),
            reason: error.to_string(),
        };
        let mut taints = Vec::new();
        if self.role == Role::ControlPlane {
            let effect = "NoSchedule".to_owned();
            let taint = Taint {
                key: CONTROL_PLANE.to_owned(),
                effect,
                ..Taint::default()
            };
            taints.extend(self.reserved.then_some(taint));
        }
        let catalogue = Catalogue::parse(crate::CATALOGUE, &parts::programs(&self.program))
            .map_err(|error| part(&error))?;
        Ok(KubeletConfig {
            node_name: self.name.clone(),
            client: parts::client(&self.kubeconfig).await?,
            node_ips: self.addresses.clone(),
            pod_cidrs: self.pods.clone(),
            labels: self.labels.clone(),
            taints,
            version: parts::VERSION.to_owned(),
            state_dir: "/var/lib/kubelet".into(),
            log_dir: "/var/log/pods".into(),
            cni: CniConfig {
                primary: Some(PrimaryNetwork {
                    program: self.program.clone(),
                    mtu: 1500,
                    data_dir: "/var/lib/cni".into(),
                }),
                ..CniConfig::default()
            },
            policies: Some(policies),
            cluster_dns: self.dns.into_iter().collect(),
            cluster_domain: parts::DOMAIN.to_owned(),
            resolv_conf: "/etc/resolv.conf".into(),
            cgroup_parent: self.cgroup.clone(),
            init_program: self.program.clone(),
            catalogue: Arc::new(catalogue),
            server: ServerConfig {
                listen: (self.anywhere(), KUBELET_PORT).into(),
                client_ca_pem: self.ca.clone(),
                allowed_clients: vec![API_SERVER_CLIENT.to_owned()],
                serving: Some(self.serving.clone()),
            },
        })
    }
}
