//! TCP and UDP sockets as the mesh needs them: marked, transparent where asked for, kept alive.
//!
//! The functions that create sockets are synchronous, so that they can run inside
//! [`Netns::run`](crate::netns::Netns::run).

mod connect;
mod listen;
mod original;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};

pub use connect::{ConnectError, ConnectOptions, connect};
pub use listen::{ListenOptions, Listening, Transparent, bind_udp, listen};
pub use original::original_destination;

/// The mark on every packet of a proxy in a pod; the capture rules leave such packets alone.
pub const PROXY_MARK: u32 = 0x539;

/// TCP keepalive of proxied connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// Idle time before the first probe.
    pub time: Duration,
    /// Time between probes.
    pub interval: Duration,
    /// Unanswered probes before the connection is dropped.
    pub retries: u32,
    /// Whether `TCP_USER_TIMEOUT` bounds unacknowledged data by the same total time.
    pub user_timeout: bool,
}

impl Default for Keepalive {
    fn default() -> Self {
        Self {
            time: Duration::from_secs(180),
            interval: Duration::from_secs(180),
            retries: 9,
            user_timeout: false,
        }
    }
}

/// The wildcard address of a port: `[::]`, which also takes IPv4, or `0.0.0.0` without IPv6.
pub fn wildcard(port: u16, ipv6: bool) -> SocketAddr {
    let ip = if ipv6 {
        IpAddr::V6(Ipv6Addr::UNSPECIFIED)
    } else {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED)
    };
    SocketAddr::new(ip, port)
}

/// An IPv4-mapped IPv6 address as the IPv4 address that it stands for; others unchanged.
///
/// A dual-stack socket reports IPv4 peers in mapped form. Lookups, policies and logs know only the
/// canonical one.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Sets the options of an accepted connection: `TCP_NODELAY`, and keepalive if given.
pub fn configure_accepted(
    stream: &tokio::net::TcpStream,
    keepalive: Option<&Keepalive>,
) -> std::io::Result<()> {
    let socket = SockRef::from(stream);
    socket.set_tcp_nodelay(true)?;
    keepalive.map_or(Ok(()), |k| set_keepalive(&socket, k))
}

fn set_keepalive(socket: &SockRef<'_>, k: &Keepalive) -> std::io::Result<()> {
    let params = TcpKeepalive::new()
        .with_time(k.time)
        .with_interval(k.interval)
        .with_retries(k.retries);
    socket.set_tcp_keepalive(&params)?;
    if k.user_timeout {
        socket.set_tcp_user_timeout(Some(k.time + k.interval * k.retries))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mapped_addresses_become_ipv4() {
        let c = |s: &str| canonical(s.parse().unwrap()).to_string();
        assert_eq!(c("[::ffff:10.0.0.1]:80"), "10.0.0.1:80");
        assert_eq!(c("[fd00::1]:80"), "[fd00::1]:80");
        assert_eq!(c("[::1]:80"), "[::1]:80");
        assert_eq!(c("10.0.0.1:80"), "10.0.0.1:80");
    }
}
