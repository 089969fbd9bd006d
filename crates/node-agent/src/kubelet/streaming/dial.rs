//! Connections to a pod's own loopback address.

use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream as StdStream};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, setns};
use socket2::{Domain, Socket, Type};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::oneshot;

/// Connects to a port on a pod's loopback, IPv4 first. Without a namespace: the node's.
///
/// # Errors
/// Nobody listens there, or the namespace is gone.
pub(crate) async fn loopback(netns: Option<&Path>, port: u16) -> io::Result<TcpStream> {
    let first = connect(
        netns,
        SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port),
    )
    .await;
    match first {
        Ok(stream) => Ok(stream),
        Err(error) => {
            let second = connect(
                netns,
                SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), port),
            )
            .await;
            second.map_err(|_| error)
        }
    }
}

async fn connect(netns: Option<&Path>, address: SocketAddr) -> io::Result<TcpStream> {
    let stream = match netns {
        Some(netns) => socket_in(netns.to_path_buf(), address).await?,
        None => new_socket(address)?,
    };
    let stream = TcpSocket::from_std_stream(stream).connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Makes a socket in another network namespace, where it stays. The thread that enters the namespace
/// is a new one and ends afterwards, so no other work can ever run there.
async fn socket_in(netns: PathBuf, address: SocketAddr) -> io::Result<StdStream> {
    let (sender, receiver) = oneshot::channel();
    std::thread::Builder::new()
        .name("netns".to_string())
        .spawn(move || {
            let made = File::open(&netns)
                .and_then(|file| {
                    setns(file.as_fd(), CloneFlags::CLONE_NEWNET).map_err(io::Error::from)
                })
                .and_then(|()| new_socket(address));
            let _ = sender.send(made);
        })?;
    receiver
        .await
        .map_err(|_| io::Error::other("the thread ended without a socket"))?
}

fn new_socket(address: SocketAddr) -> io::Result<StdStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}
