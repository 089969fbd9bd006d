//! SPDY/3.1, as far as Kubernetes clients use it: streams opened by the client, data, pings, resets.
//!
//! There is no flow control: neither side announces or respects windows in practice.

pub(crate) mod connection;
mod frame;
mod headers;
pub(crate) mod sessions;

/// The name in `Upgrade` headers.
pub(crate) const UPGRADE: &str = "SPDY/3.1";

/// Protocol versions for exec and attach over SPDY, best first.
pub(crate) const SESSION_PROTOCOLS: [&str; 1] = ["v4.channel.k8s.io"];

/// Protocol version for port forwarding.
pub(crate) const PORT_FORWARD_PROTOCOL: &str = "portforward.k8s.io";
