//! The cluster's DNS server: a pod as on any cluster, so that policies, faults
//! and the mesh meet it where they expect it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ambit_node_agent::dns::{self, DnsConfig};
use kube::{Client, Config};

use crate::error::Result;
use crate::parts::{DOMAIN, ended, ending, run};

const PORT: u16 = 53;

/// The server's life, in its pod.
pub(crate) fn main() -> Result<()> {
    run(async {
        let config = Config::incluster_env().map_err(|error| ended("DNS", &error))?;
        let client = Client::try_from(config).map_err(|error| ended("DNS", &error))?;
        let names = DnsConfig {
            listen: SocketAddr::from((everywhere(), PORT)),
            domain: DOMAIN.to_owned(),
            upstream: Vec::new(),
        };
        ending("DNS", dns::run(client, names).await)
    })
}

/// Both versions of IP, where the kernel has both.
fn everywhere() -> IpAddr {
    match std::path::Path::new("/proc/net/if_inet6").exists() {
        true => Ipv6Addr::UNSPECIFIED.into(),
        false => Ipv4Addr::UNSPECIFIED.into(),
    }
}
