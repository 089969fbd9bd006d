//! The agent's listening socket.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::zds::packet::Packets;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 16;
/// At most five connections a second.
const PACE: Duration = Duration::from_millis(200);

/// Listens on a path; the file goes away with it.
#[derive(Debug)]
pub(super) struct Listener {
    socket: AsyncFd<Socket>,
    path: PathBuf,
    /// Device and inode of our file: what stands there later may be another agent's.
    file: (u64, u64),
}

impl Listener {
    /// Binds a path, in place of a socket that a former process left. Must be called inside a tokio
    /// runtime.
    pub(super) fn bind(path: &Path) -> io::Result<Self> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None)?;
        socket.set_nonblocking(true)?;
        socket.bind(&SockAddr::unix(path)?)?;
        // Between bind and listen nobody can connect.
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        socket.listen(BACKLOG)?;
        let file = identity(path)?;
        // SAFETY: the socket owns its descriptor, and nothing replaces or closes that while the
        // `AsyncFd`, which lends it out by shared reference only, owns the socket.
        let socket = unsafe { AsyncFd::register(socket)? };
        Ok(Self {
            socket,
            path: path.to_owned(),
            file,
        })
    }

    /// Waits for a connection.
    pub(super) async fn accept(&self) -> Packets {
        loop {
            let accepted = self
                .socket
                .async_io(Interest::READABLE, |socket| socket.accept())
                .await;
            match accepted.and_then(|(socket, _)| Packets::new(OwnedFd::from(socket))) {
                Ok(packets) => return packets,
                Err(error) => {
                    tracing::warn!(target: "zds", %error, "a ZDS connection could not be accepted");
                    tokio::time::sleep(PACE).await;
                }
            }
        }
    }

    /// The pause between two connections.
    pub(super) async fn pace(&self) {
        tokio::time::sleep(PACE).await;
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|file| file == self.file) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    let metadata = std::fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}
