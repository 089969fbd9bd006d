//! Names and ports that all parts agree on.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ambit_model::Identity;

/// The port of tunnels.
pub const HBONE: u16 = 15008;
/// What the client asks for: the address and port of the service.
pub const SERVICE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 96, 0, 1)), 80);
/// The port of the application behind the service. Nothing listens there: its pod's end of the
/// tunnel answers itself.
pub const APPLICATION: u16 = 8080;
/// Bytes of an answer's body.
pub const BODY: usize = 1024;
/// The namespace of everything.
pub const NAMESPACE: &str = "bench";
/// The issuer of tokens.
pub const ISSUER: &str = "https://issuer.example";

/// Who a part is.
pub fn identity(name: &str) -> Identity {
    Identity::new("cluster.local", NAMESPACE, name)
}
