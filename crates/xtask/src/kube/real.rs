//! A real cluster: the real control plane, and two nodes of kubelet, containerd and kube-proxy, each
//! a network namespace of one small network. Nothing of it is ours but its DNS server, which runs
//! in a pod.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use ambit_testkit::{Namespace, Network};
use anyhow::{Context, bail, ensure};

use super::Interrupt;
use super::build::{self, Programs};
use super::control_plane::{ControlPlane, Extent};
use super::machine::Machine;
use super::node::{Node, Parts};

/// How long the nodes may need, images imported.
const NODES: Duration = Duration::from_secs(240);
/// How long the DNS server may need.
const DNS: Duration = Duration::from_secs(120);
/// Its address, in the range of services.
const DNS_ADDRESS: &str = "10.96.0.10";
/// Registry and tag of the mesh's images, as on a user's own cluster. Nothing is pulled: every node
/// has them already.
pub const IMAGES: (&str, &str) = ("registry.example.com/mesh", "v1");
/// What is needed beside the programs that are built, and the package that has it.
const NEEDED: [(&str, &str); 3] = [
    ("/usr/bin/containerd", "containerd"),
    ("/usr/sbin/runc", "runc"),
    ("/usr/lib/cni/ptp", "containernetworking-plugins"),
];

/// A running cluster. Dropping it ends all of it and puts the machine back as it was.
pub struct RealCluster {
    // In this order: pods end before what they need, and cgroups go when they are empty.
    nodes: Vec<Node>,
    control_plane: ControlPlane,
    machine: Machine,
    place: Namespace,
    programs: Programs,
    network: Network,
}

impl RealCluster {
    /// Starts one with files in a folder, and waits for nodes and DNS.
    ///
    /// # Errors
    /// When Go, root or a package is missing, or a part does not start; the message shows its log.
    pub fn start(root: &Path, folder: &Path) -> anyhow::Result<Self> {
        for (program, package) in NEEDED {
            ensure!(
                Path::new(program).exists(),
                "{program} is missing: install the package {package}"
            );
        }
        ambit_testkit::require_root()?;
        let programs = build::programs(root)?;
        let images = images(root)?;
        let interrupt = Interrupt::watch()?;
        println!(
            "Starting the control plane of Kubernetes {}",
            programs.version
        );
        let network = Network::new("real")?;
        let first = network.node()?;
        let place = first.namespace().clone();
        let extent = Extent::Whole(place.clone(), first.ip());
        let control_plane = ControlPlane::start(&programs, extent, &interrupt)?;
        let mut it = Self {
            nodes: Vec::new(),
            control_plane,
            machine: Machine::prepare()?,
            place,
            programs,
            network,
        };
        it.start_nodes(folder, &images)?;
        it.wait_for_nodes(&interrupt)?;
        it.start_dns(root, folder, &interrupt)?;
        Ok(it)
    }

    fn start_nodes(&mut self, folder: &Path, images: &Path) -> anyhow::Result<()> {
        for name in ["node1", "node2"] {
            println!("Starting {name}: containerd, kubelet, kube-proxy");
            let cgroup = format!("ambit-real-{}-{name}", std::process::id());
            self.machine.cgroup(&cgroup)?;
            let parts = Parts {
                programs: &self.programs,
                control_plane: &self.control_plane,
                images,
                dns: DNS_ADDRESS,
                cgroup: &cgroup,
            };
            let machine = self.network.node()?;
            let node = Node::start(name, machine, folder.join(name), &parts)?;
            self.nodes.push(node);
        }
        Ok(())
    }

    fn wait_for_nodes(&mut self, interrupt: &Interrupt) -> anyhow::Result<()> {
        let end = Instant::now() + NODES;
        loop {
            let list = self
                .kubectl(&["get", "nodes", "--no-headers"])
                .unwrap_or_default();
            if list.matches(" Ready ").count() == self.nodes.len() {
                return Ok(());
            }
            interrupt.check()?;
            for node in &mut self.nodes {
                node.check()?;
            }
            if Instant::now() > end {
                bail!(
                    "the nodes are not ready after {NODES:?}:\n{list}{}",
                    self.tails()
                );
            }
            std::thread::sleep(Duration::from_millis(300));
        }
    }

    /// The DNS server of the local cluster is a pod as on any cluster.
    fn start_dns(&self, root: &Path, folder: &Path, interrupt: &Interrupt) -> anyhow::Result<()> {
        println!("Starting the cluster's DNS server");
        let manifest = root.join("crates/local/src/system.yaml");
        let text = std::fs::read_to_string(&manifest)
            .with_context(|| format!("cannot read {}", manifest.display()))?;
        let file = folder.join("dns.yaml");
        std::fs::write(&file, text.replace("DNS_ADDRESS", DNS_ADDRESS))?;
        let role = "node-role.kubernetes.io/control-plane=";
        self.kubectl(&["label", "node", "node1", role])?;
        self.kubectl(&["apply", "-f", &file.display().to_string()])?;
        let end = Instant::now() + DNS;
        let available = ["get", "deployment", "coredns", "-n", "kube-system", "-o"];
        let available = [&available[..], &["jsonpath={.status.availableReplicas}"]].concat();
        while self.kubectl(&available)? != "1" {
            interrupt.check()?;
            if Instant::now() > end {
                let pods = self.kubectl(&["describe", "pods", "-n", "kube-system"])?;
                bail!(
                    "the DNS server is not available after {DNS:?}:\n{pods}{}",
                    self.tails()
                );
            }
            std::thread::sleep(Duration::from_millis(300));
        }
        Ok(())
    }

    fn kubectl(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let mut command: Command = self.place.command(self.kubectl_path());
        command
            .arg("--kubeconfig")
            .arg(self.kubeconfig())
            .args(arguments);
        super::printed(&mut command)
    }

    /// The kubectl of the cluster's version.
    pub fn kubectl_path(&self) -> PathBuf {
        self.programs.path("kubectl")
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.control_plane.kubeconfig()
    }

    /// The network namespace from which the cluster can be reached.
    pub fn place(&self) -> &Namespace {
        &self.place
    }

    /// The network namespaces of the nodes.
    pub fn nodes(&self) -> impl Iterator<Item = &Namespace> {
        self.nodes.iter().map(|node| node.machine().namespace())
    }

    /// The ends of the logs of its nodes.
    pub fn tails(&self) -> String {
        let tails: Vec<String> = self.nodes.iter().map(Node::tails).collect();
        tails.join("\n")
    }
}

/// The archive of all images: the mesh's, the samples', and what a node and its DNS need.
fn images(root: &Path) -> anyhow::Result<PathBuf> {
    println!("Writing the images");
    let archive = root.join("target/images/real.tar");
    let also = [
        "registry.k8s.io/pause:3.10",
        "registry.k8s.io/coredns/coredns:v1.12.4",
    ];
    crate::image::write_all(root, IMAGES, &also, &archive)?;
    Ok(archive)
}
