//! What passes between the nodes: packets captured where the cluster's router forwards them.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ambit_testkit::{Capture, Namespace, Packets};
use anyhow::{Context, ensure};
use serde_json::Value;

use super::Cluster;
use super::shell::Shell;

/// Where HBONE goes.
const HBONE: u16 = 15008;
/// What a node's link to the others is called in its network namespace.
const LINK: &str = "eth0";

/// A capture that is going on, on the link of every node.
pub struct Watch {
    captures: Vec<Capture>,
    pods: BTreeSet<IpAddr>,
}

/// What has passed, by link.
pub struct Link {
    links: Vec<Packets>,
    pods: BTreeSet<IpAddr>,
}

impl Watch {
    /// Begins to capture; what is sent after this has returned is seen.
    ///
    /// # Errors
    /// When the cluster does not say where its links are, or they cannot be captured.
    pub fn begin(shell: &Shell, cluster: &Cluster) -> anyhow::Result<Self> {
        let nodes = match cluster {
            Cluster::Local(name, _) => local_nodes(shell, name)?,
            Cluster::Real(real) => real.nodes().cloned().collect(),
        };
        let captures = nodes
            .iter()
            .map(|node| Capture::start(node, LINK))
            .collect::<anyhow::Result<Vec<_>>>()?;
        Ok(Self {
            captures,
            pods: pods(shell)?,
        })
    }

    /// Ends the capture.
    ///
    /// # Errors
    /// When packets were lost: then nothing is proven by what is absent.
    pub fn end(self) -> anyhow::Result<Link> {
        let links = self
            .captures
            .into_iter()
            .map(Capture::stop)
            .collect::<Result<_, _>>()?;
        Ok(Link {
            links,
            pods: self.pods,
        })
    }
}

/// The network namespaces of a local cluster's nodes.
fn local_nodes(shell: &Shell, name: &str) -> anyhow::Result<Vec<Namespace>> {
    let status = shell.quiet(&format!("ambit local status --name {name} -o json"))?;
    let status: Value = serde_json::from_str(&status).context("the status is no JSON")?;
    let nodes = status["nodes"].as_array().into_iter().flatten();
    let nodes = nodes
        .filter_map(|node| node["pid"].as_i64())
        .map(|pid| Namespace::open(format!("/proc/{pid}/ns/net")))
        .collect::<anyhow::Result<Vec<_>>>()?;
    ensure!(!nodes.is_empty(), "the status names no nodes");
    Ok(nodes)
}

/// Addresses of Bookinfo's pods.
fn pods(shell: &Shell) -> anyhow::Result<BTreeSet<IpAddr>> {
    let path = "jsonpath={range .items[*]}{.status.podIP}{\"\\n\"}{end}";
    let addresses = shell.quiet(&format!("kubectl get pods -n bookinfo -o '{path}'"))?;
    addresses
        .split_whitespace()
        .map(|ip| ip.parse().context("a pod's address"))
        .collect()
}

impl Link {
    /// How many packets passed.
    pub fn packets(&self) -> usize {
        self.links.iter().map(Packets::len).sum()
    }

    /// Whether `text` can be read.
    pub fn plaintext(&self, text: &str) -> bool {
        self.links.iter().any(|packets| packets.saw_plaintext(text))
    }

    /// Prints ports and volumes between the pods, and the first packet with `text` in it.
    pub fn show(&self, text: &str) {
        let mut ports: BTreeSet<u16> = BTreeSet::new();
        self.links
            .iter()
            .for_each(|packets| ports.extend(packets.syn_ports()));
        for port in ports {
            let bytes: u64 = self.links.iter().map(|p| p.tcp_payload_bytes(port)).sum();
            println!("  captured: port {port:<5} {bytes:>8} bytes");
        }
        let found = self
            .links
            .iter()
            .flat_map(Packets::segments)
            .find_map(|segment| {
                let line = String::from_utf8_lossy(segment.payload).into_owned();
                let at = line.find(text)?;
                let end = line[at..]
                    .char_indices()
                    .nth(80)
                    .map_or(line.len(), |(n, _)| at + n);
                Some((
                    segment.source,
                    segment.destination,
                    line[at..end].to_owned(),
                ))
            });
        match found {
            Some((from, to, line)) => println!("  readable: {from} → {to}: {line}"),
            None => println!("  readable: nothing of the reviews"),
        }
    }

    /// Between Bookinfo's pods there is nothing but TLS records on HBONE's port.
    ///
    /// # Errors
    /// Says which packet is something else, or that nothing passed at all.
    pub fn only_tls_between_pods(&self) -> anyhow::Result<()> {
        let between = |ip: IpAddr| self.pods.contains(&ip);
        for segment in self.links.iter().flat_map(Packets::segments) {
            let (from, to) = (segment.source, segment.destination);
            let ours = segment.tcp && between(from.ip()) && between(to.ip());
            if ours && !segment.payload.is_empty() {
                ensure!(
                    from.port() == HBONE || to.port() == HBONE,
                    "plaintext: {} bytes from {from} to {to}",
                    segment.payload.len()
                );
            }
        }
        let mut seen = 0;
        for packets in self.links.iter().filter(|p| p.tcp_payload_bytes(HBONE) > 0) {
            packets.only_tls_on_port(HBONE)?;
            seen += 1;
        }
        ensure!(seen > 0, "nothing crossed the link on port {HBONE}");
        Ok(())
    }
}
