//! The capture rules as values: planned here by pure functions, rendered to nftables JSON, applied
//! elsewhere.
//!
//! What always holds: a plan is complete (applying it to any network namespace, whatever was there
//! before under the same table names, gives the same result), and its rendering is one batch, which
//! nftables commits as a whole or not at all. A pod is therefore never half captured.
//!
//! The tables, chains and the order of the rules are those of Istio's nftables variant, so that
//! tools and habits carry over.

mod host;
mod plan;
mod pod;
mod render;

pub use host::{HostExemption, ProbeTarget, host_plan, host_removal};
pub use plan::{
    Action, Batch, Chain, Element, Hook, Match, Op, Plan, Protocol, Rule, Set, Table, TableRemoval,
};
pub use pod::{PodCapture, ProbeSource, pod_plan, pod_removal};

/// Packet mark of every socket that the node proxy opens inside a pod (`SO_MARK`).
pub const PROXY_MARK: u32 = 0x539;
/// Connection mark of connections that the node proxy opened towards the application.
pub const TPROXY_MARK: u32 = 0x111;
/// The bits of a mark that belong to the mesh; the other bits stay as their owner set them.
pub const MARK_MASK: u32 = 0xfff;
/// The routing table that delivers marked packets locally.
pub const ROUTE_TABLE: u32 = 100;
/// Priority of the `ip rule` that selects [`ROUTE_TABLE`].
pub const RULE_PRIORITY: u32 = 32764;
/// Port of the node proxy for connections that a pod opens.
pub const OUTBOUND_PORT: u16 = 15001;
/// Port of the node proxy for plaintext connections that reach a pod.
pub const INBOUND_PLAINTEXT_PORT: u16 = 15006;
/// Port of the node proxy for HBONE; never redirected.
pub const HBONE_PORT: u16 = 15008;
/// Port of the node proxy's DNS server, on the pod's loopback.
pub const DNS_PORT: u16 = 15053;
/// Conntrack zone of DNS packets that the node proxy sends for a pod.
pub const DNS_ZONE: u16 = 1;
/// Name of the nat table, in pods and on the node.
pub const NAT_TABLE: &str = "istio-ambient-nat";
/// Name of the table that marks connections.
pub const MANGLE_TABLE: &str = "istio-ambient-mangle";
/// Name of the table that puts proxied DNS into its own conntrack zone.
pub const RAW_TABLE: &str = "istio-ambient-raw";
/// Source address that exempted host connections get (IPv4).
pub const PROBE_SNAT_V4: std::net::Ipv4Addr = std::net::Ipv4Addr::new(169, 254, 7, 127);
/// Source address that exempted host connections get (IPv6).
pub const PROBE_SNAT_V6: std::net::Ipv6Addr = std::net::Ipv6Addr::new(
    0xfd16, 0x9254, 0x7127, 0x1337, 0xffff, 0xffff, 0xffff, 0xffff,
);
