//! A small network: nodes around a router, pods on nodes, everything routed and nothing bridged.
//!
//! ```text
//! pod 10.244.1.2 ── node 172.30.0.1 ── router ── node 172.30.0.2 ── pod 10.244.2.2
//!            eth0   pod0            eth0   node1                pod0   eth0
//! ```
//!
//! A link between two pods on different nodes is [`Node::namespace`]'s `eth0`, or `node<n>` in
//! [`Network::router`].

use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicU8, Ordering};

use anyhow::{Context, Result};

use crate::Namespace;
use crate::netlink;

/// The router as each node sees it.
const ROUTER: Ipv4Addr = Ipv4Addr::new(169, 254, 2, 1);
/// The node as each pod sees it. Another one than the router, which must not be an own address of
/// the node.
const NODE: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

/// A router with nodes around it.
pub struct Network {
    label: String,
    router: Namespace,
    nodes: AtomicU8,
}

/// A node: a namespace that forwards for its pods.
pub struct Node {
    number: u8,
    namespace: Namespace,
    pods: AtomicU8,
}

/// A pod: a namespace with one link to its node.
pub struct Pod {
    namespace: Namespace,
    ip: Ipv4Addr,
    link: String,
}

impl Network {
    /// A network without nodes.
    pub fn new(label: &str) -> Result<Self> {
        let router = Namespace::new(format!("{label}/router"))?;
        forward(&router)?;
        Ok(Self {
            label: label.to_owned(),
            router,
            nodes: AtomicU8::new(0),
        })
    }

    /// The router; its link to node n is `node<n>`.
    pub fn router(&self) -> &Namespace {
        &self.router
    }

    /// Adds a node: number n, address 172.30.0.n, pods in 10.244.n.0/24.
    pub fn node(&self) -> Result<Node> {
        let number = self.nodes.fetch_add(1, Ordering::Relaxed) + 1;
        let namespace = Namespace::new(format!("{}/node{number}", self.label))?;
        forward(&namespace)?;
        let node = Node {
            number,
            namespace,
            pods: AtomicU8::new(0),
        };
        let link = format!("node{number}");
        wire(&self.router, ROUTER, &link, &node.namespace, node.address())?;
        netlink::run(&self.router, async |net| {
            net.route(
                Ipv4Addr::new(10, 244, number, 0),
                24,
                Some(node.address()),
                &link,
            )
            .await
        })?;
        Ok(node)
    }
}

impl Node {
    /// Its number, from 1.
    pub fn number(&self) -> u8 {
        self.number
    }

    /// Its namespace; `eth0` leads to the router.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Its address, as all pods and nodes see it.
    pub fn ip(&self) -> IpAddr {
        self.address().into()
    }

    fn address(&self) -> Ipv4Addr {
        Ipv4Addr::new(172, 30, 0, self.number)
    }

    /// Adds a pod.
    pub fn pod(&self, label: &str) -> Result<Pod> {
        let number = self.pods.fetch_add(1, Ordering::Relaxed);
        let namespace = Namespace::new(format!("{}/{label}", self.namespace.label()))?;
        let ip = Ipv4Addr::new(10, 244, self.number, number + 2);
        let link = format!("pod{number}");
        wire(&self.namespace, NODE, &link, &namespace, ip)?;
        Ok(Pod {
            namespace,
            ip,
            link,
        })
    }
}

impl Pod {
    /// Its namespace; the link in it is `eth0`.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Its address.
    pub fn ip(&self) -> IpAddr {
        self.ip.into()
    }

    /// The name of its link on the node's side.
    pub fn node_link(&self) -> &str {
        &self.link
    }
}

/// Links `below` to `above` as `eth0` with an address, and routes between them.
fn wire(
    above: &Namespace,
    gateway: Ipv4Addr,
    link: &str,
    below: &Namespace,
    ip: Ipv4Addr,
) -> Result<()> {
    netlink::run(above, async |net| {
        net.veth(link, "eth0", below).await?;
        net.address(link, gateway, 32).await?;
        net.up(link).await?;
        net.route(ip, 32, None, link).await
    })?;
    netlink::run(below, async |net| {
        net.address("eth0", ip, 32).await?;
        net.up("eth0").await?;
        net.route(gateway, 32, None, "eth0").await?;
        net.route(Ipv4Addr::UNSPECIFIED, 0, Some(gateway), "eth0")
            .await
    })
}

fn forward(namespace: &Namespace) -> Result<()> {
    namespace.run(|| {
        for (key, value) in [
            ("ip_forward", "1"),
            ("conf/all/rp_filter", "0"),
            ("conf/default/rp_filter", "0"),
        ] {
            std::fs::write(format!("/proc/sys/net/ipv4/{key}"), value)
                .with_context(|| format!("cannot set net.ipv4.{key}"))?;
        }
        Ok(())
    })?
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::Capture;

    #[test]
    fn pods_on_two_nodes_talk_and_the_capture_sees_it() {
        let network = Network::new("talk").unwrap();
        let (a, b) = (network.node().unwrap(), network.node().unwrap());
        let (client, server) = (a.pod("client").unwrap(), b.pod("server").unwrap());
        let capture = Capture::start(a.namespace(), "eth0").unwrap();
        let listener = server
            .namespace()
            .run(|| TcpListener::bind("0.0.0.0:8080"))
            .unwrap()
            .unwrap();
        let mut from = client
            .namespace()
            .run(|| TcpStream::connect((server.ip(), 8080)))
            .unwrap()
            .unwrap();
        let (mut to, peer) = listener.accept().unwrap();
        assert_eq!(peer.ip(), client.ip());
        from.write_all(b"a secret word").unwrap();
        let mut got = [0; 13];
        to.read_exact(&mut got).unwrap();
        let packets = capture.stop().unwrap();
        assert!(packets.saw_plaintext("secret word"));
        assert!(!packets.saw_plaintext("other word"));
        assert_eq!(packets.syn_ports(), [8080].into());
        assert_eq!(packets.tcp_payload_bytes(8080), 13);
        let problem = packets.only_tls_on_port(8080).unwrap_err();
        assert!(problem.to_string().contains("no TLS record"), "{problem}");
        assert!(
            packets.only_tls_on_port(15008).is_err(),
            "nothing is no proof"
        );
    }
}
