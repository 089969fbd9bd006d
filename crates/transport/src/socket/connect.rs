//! Outbound connections.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpSocket, TcpStream};

use super::listen::set_transparent;
use super::{Keepalive, PROXY_MARK, set_keepalive};
use crate::netns::{Netns, NetnsError};

/// How to connect.
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    /// `SO_MARK`; needs CAP_NET_ADMIN.
    pub mark: Option<u32>,
    /// TCP keepalive, if any.
    pub keepalive: Option<Keepalive>,
    /// Source address to appear from, even if it is not the host's own. If the kernel refuses, a
    /// warning is logged and the connection is made from an own address. Ignored when it equals
    /// the destination's address.
    pub source: Option<IpAddr>,
    /// Bound on the whole operation.
    pub timeout: Duration,
}

impl Default for ConnectOptions {
    /// The options of a proxy in a pod: marked, kept alive, 10 s.
    fn default() -> Self {
        Self {
            mark: Some(PROXY_MARK),
            keepalive: Some(Keepalive::default()),
            source: None,
            timeout: Duration::from_secs(10),
        }
    }
}

impl ConnectOptions {
    /// The options of an ordinary client: no mark, so no privilege is needed.
    pub fn unmarked() -> Self {
        Self {
            mark: None,
            ..Self::default()
        }
    }
}

/// Why a TCP connection could not be made. Clones are cheap.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ConnectError {
    /// No answer in time.
    #[error("connection to {0} timed out")]
    Timeout(SocketAddr),
    /// The kernel or the peer refused.
    #[error("{0}")]
    Io(Arc<io::Error>),
    /// The namespace cannot be entered.
    #[error("{0}")]
    Netns(Arc<NetnsError>),
}

impl From<io::Error> for ConnectError {
    fn from(e: io::Error) -> Self {
        Self::Io(Arc::new(e))
    }
}

/// Connects to `destination` from inside `netns`, or from the thread's own namespace if none.
pub async fn connect(
    netns: Option<&Netns>,
    destination: SocketAddr,
    options: &ConnectOptions,
) -> Result<TcpStream, ConnectError> {
    let socket = match netns {
        Some(netns) => netns
            .run(|| open(destination, options))
            .map_err(|e| ConnectError::Netns(Arc::new(e)))??,
        None => open(destination, options)?,
    };
    let connecting = TcpSocket::from_std_stream(socket.into()).connect(destination);
    match tokio::time::timeout(options.timeout, connecting).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(ConnectError::Timeout(destination)),
    }
}

fn open(destination: SocketAddr, options: &ConnectOptions) -> io::Result<Socket> {
    let kind = Type::STREAM.nonblocking();
    let socket = Socket::new(Domain::for_address(destination), kind, Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    if let Some(mark) = options.mark {
        socket.set_mark(mark)?;
    }
    if let Some(keepalive) = &options.keepalive {
        set_keepalive(&SockRef::from(&socket), keepalive)?;
    }
    if let Some(source) = options.source.filter(|ip| *ip != destination.ip())
        && let Err(e) = appear_from(&socket, source)
    {
        tracing::warn!("cannot connect to {destination} as {source}: {e}; using an own address");
    }
    Ok(socket)
}

/// Binds to an address that need not be the host's own. The port is left to the kernel, which
/// picks it at connect time from all that are free for this destination.
fn appear_from(socket: &Socket, source: IpAddr) -> io::Result<()> {
    let address = SocketAddr::new(source, 0);
    set_transparent(socket, address)?;
    match source {
        IpAddr::V4(_) => socket.set_freebind_v4(true)?,
        IpAddr::V6(_) => socket.set_freebind_v6(true)?,
    }
    bind_address_no_port(socket)?;
    socket.bind(&address.into())
}

/// Without this, every connection would hold a port of the source address exclusively, and a busy
/// pod would run out of them at about 28,000.
fn bind_address_no_port(socket: &Socket) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let one: libc::c_int = 1;
    // SAFETY: the descriptor is open for the length of the call, and value and length describe a
    // c_int that outlives it.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const one).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
