//! What passes the links of a cluster's nodes while Bookinfo works.

use std::net::IpAddr;

use ambit_testkit::{Capture, Namespace, Packets};
use anyhow::{Context, Result, ensure};

use super::Cluster;

/// A text that Bookinfo's services send each other.
pub const NEEDLE: &str = "An extremely entertaining play by Shakespeare";

/// All addresses of Bookinfo's pods.
pub fn pods(cluster: &Cluster) -> Result<Vec<IpAddr>> {
    let list =
        cluster.kubectl("get pods -n bookinfo -o jsonpath={.items[*].status.podIPs[*].ip}")?;
    list.split_whitespace()
        .map(|ip| ip.parse().context("a pod's address"))
        .collect()
}

/// Captures on the link of every node.
pub fn captures(cluster: &Cluster) -> Result<Vec<Capture>> {
    let status = cluster.status()?;
    let nodes = status["nodes"].as_array().context("nodes")?;
    let pids = nodes.iter().filter_map(|node| node["pid"].as_i64());
    pids.map(|pid| Capture::start(&Namespace::open(format!("/proc/{pid}/ns/net"))?, "eth0"))
        .collect()
}

/// Ends captures.
pub fn stop(captures: Vec<Capture>) -> Result<Vec<Packets>> {
    captures.into_iter().map(Capture::stop).collect()
}

/// No byte of TCP between two of the pods other than on HBONE's port, and not the text.
pub fn nothing_leaked(captures: Vec<Capture>, pods: &[IpAddr]) -> Result<Vec<Packets>> {
    let all = stop(captures)?;
    for packets in &all {
        ensure!(
            !packets.saw_plaintext(NEEDLE),
            "the text of a review is readable on the link"
        );
        for segment in packets
            .segments()
            .filter(|s| s.tcp && !s.payload.is_empty())
        {
            let (from, to) = (segment.source, segment.destination);
            let between = pods.contains(&from.ip()) && pods.contains(&to.ip());
            let hbone = from.port() == 15008 || to.port() == 15008;
            ensure!(!between || hbone, "plaintext from {from} to {to}");
        }
    }
    Ok(all)
}
