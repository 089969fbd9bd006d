//! Listening sockets.

use std::io;
use std::net::SocketAddr;

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::wildcard;

/// Whether a socket may use addresses that are not the host's own (`IP_TRANSPARENT`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transparent {
    /// Not asked for.
    Never,
    /// Used if the kernel allows it; [`Listening::transparent`] tells.
    #[default]
    BestEffort,
    /// An error if the kernel does not allow it.
    Required,
}

/// How to listen.
#[derive(Clone, Debug)]
pub struct ListenOptions {
    /// Address and port. An IPv6 wildcard address takes IPv4 as well.
    pub address: SocketAddr,
    /// Connections that the kernel keeps before they are accepted.
    pub backlog: i32,
    /// `SO_REUSEPORT`, so that the next proxy process can listen before this one has stopped.
    pub reuse_port: bool,
    /// `SO_MARK`; needs CAP_NET_ADMIN.
    pub mark: Option<u32>,
    /// `IP_TRANSPARENT`.
    pub transparent: Transparent,
}

impl ListenOptions {
    /// The options of a proxy port in a pod, on the wildcard address.
    pub fn wildcard(port: u16, ipv6: bool) -> Self {
        Self {
            address: wildcard(port, ipv6),
            backlog: 128,
            reuse_port: true,
            mark: Some(super::PROXY_MARK),
            transparent: Transparent::BestEffort,
        }
    }
}

/// A listening socket, non-blocking, not yet registered with a runtime.
///
/// To share it between workers, `try_clone` the listener once for each: the clones are the same
/// kernel socket with one queue, so that the pod shows each port once, and a worker that stops
/// strands no queued connection.
#[derive(Debug)]
pub struct Listening {
    /// The socket.
    pub listener: std::net::TcpListener,
    /// Whether `IP_TRANSPARENT` is in force, which decides if sources can be preserved.
    pub transparent: bool,
}

/// Opens a listening TCP socket in the namespace of the calling thread.
pub fn listen(options: &ListenOptions) -> io::Result<Listening> {
    let socket = open(options, Type::STREAM, Protocol::TCP)?;
    let transparent = match options.transparent {
        Transparent::Never => false,
        Transparent::BestEffort => set_transparent(&socket, options.address).is_ok(),
        Transparent::Required => set_transparent(&socket, options.address).map(|()| true)?,
    };
    socket.bind(&options.address.into())?;
    socket.listen(options.backlog)?;
    Ok(Listening {
        listener: socket.into(),
        transparent,
    })
}

/// Opens a bound UDP socket in the namespace of the calling thread, non-blocking, with the mark and
/// the port sharing of `options`; backlog and transparency have no meaning for it.
pub fn bind_udp(options: &ListenOptions) -> io::Result<std::net::UdpSocket> {
    let socket = open(options, Type::DGRAM, Protocol::UDP)?;
    socket.bind(&options.address.into())?;
    Ok(socket.into())
}

fn open(options: &ListenOptions, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let kind = kind.nonblocking();
    let socket = Socket::new(Domain::for_address(options.address), kind, Some(protocol))?;
    socket.set_reuse_address(true)?;
    if options.reuse_port {
        socket.set_reuse_port(true)?;
    }
    if options.address.is_ipv6() {
        socket.set_only_v6(!options.address.ip().is_unspecified())?;
    }
    if let Some(mark) = options.mark {
        socket.set_mark(mark)?;
    }
    Ok(socket)
}

pub(super) fn set_transparent<'s>(
    socket: impl Into<SockRef<'s>>,
    address: SocketAddr,
) -> io::Result<()> {
    let socket: SockRef<'s> = socket.into();
    match address {
        SocketAddr::V4(_) => socket.set_ip_transparent_v4(true),
        SocketAddr::V6(_) => socket.set_ip_transparent_v6(true),
    }
}
