//! Packets with file descriptors over an AF_UNIX SEQPACKET socket.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, RecvMsg, recvmsg, sendmsg};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Longest packet, in either direction.
pub const MAX_PACKET: usize = 1024;
/// Most descriptors that the kernel lets a packet carry. There is room for all of them, so that
/// none is ever left open unseen.
const MAX_FDS: usize = 253;

/// A connected socket.
#[derive(Debug)]
pub struct Packets {
    socket: AsyncFd<OwnedFd>,
}

/// What arrived at once. Dropping it closes its descriptors.
#[derive(Debug)]
pub struct Packet {
    /// The bytes.
    pub data: Vec<u8>,
    /// The descriptors, close-on-exec.
    pub fds: Vec<OwnedFd>,
}

/// A packet did not get through.
#[derive(Debug, thiserror::Error)]
pub enum PacketError {
    /// The socket failed.
    #[error("socket error: {0}")]
    Io(#[from] io::Error),
    /// A packet that is longer than the protocol allows; the rest of it is lost.
    #[error("received a packet of more than {MAX_PACKET} bytes")]
    Truncated,
    /// Descriptors were lost: the process has too many open.
    #[error("descriptors of a received packet were lost; is the limit on open files reached?")]
    DescriptorsLost,
    /// We wanted to send too much.
    #[error("a packet of {0} bytes exceeds the limit of {MAX_PACKET}")]
    TooLong(usize),
}

impl Packets {
    /// Takes a connected SEQPACKET socket. Must be called inside a tokio runtime.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        socket2::SockRef::from(&socket).set_nonblocking(true)?;
        // SAFETY: nothing replaces or closes the descriptor while the `AsyncFd`, which lends it out
        // by shared reference only, owns it.
        let socket = unsafe { AsyncFd::register(socket)? };
        Ok(Self { socket })
    }

    /// Sends one packet, with a descriptor if there is one.
    pub async fn send(&self, data: &[u8], fd: Option<BorrowedFd<'_>>) -> Result<(), PacketError> {
        if data.len() > MAX_PACKET {
            return Err(PacketError::TooLong(data.len()));
        }
        let fds: Vec<RawFd> = fd.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&fds)];
        let control = if fds.is_empty() { &[] } else { &rights[..] };
        let send = |socket: &OwnedFd| {
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
            sendmsg::<()>(
                socket.as_raw_fd(),
                &[IoSlice::new(data)],
                control,
                flags,
                None,
            )
            .map_err(io::Error::from)
        };
        self.socket.async_io(Interest::WRITABLE, send).await?;
        Ok(())
    }

    /// Receives one packet; `None` when the peer has closed. Can be dropped at any await without
    /// losing a packet.
    pub async fn receive(&self) -> Result<Option<Packet>, PacketError> {
        self.socket
            .async_io(Interest::READABLE, |socket| match receive_now(socket) {
                Err(PacketError::Io(error)) => Err(error),
                other => Ok(other),
            })
            .await?
    }
}

impl AsFd for Packets {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.get_ref().as_fd()
    }
}

fn receive_now(socket: &OwnedFd) -> Result<Option<Packet>, PacketError> {
    let mut data = vec![0; MAX_PACKET];
    let mut control = nix::cmsg_space!([RawFd; MAX_FDS]);
    let mut iov = [IoSliceMut::new(&mut data)];
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut iov, Some(&mut control), flags)
        .map_err(io::Error::from)?;
    let fds = take_descriptors(&message)?;
    if message.flags.contains(MsgFlags::MSG_TRUNC) {
        return Err(PacketError::Truncated);
    }
    let length = message.bytes;
    if length == 0 {
        return Ok(None);
    }
    data.truncate(length);
    Ok(Some(Packet { data, fds }))
}

fn take_descriptors(message: &RecvMsg<'_, '_, ()>) -> Result<Vec<OwnedFd>, PacketError> {
    let control = match message.cmsgs() {
        Ok(control) => control,
        Err(Errno::ENOBUFS) => return Err(PacketError::DescriptorsLost),
        Err(error) => return Err(io::Error::from(error).into()),
    };
    let mut fds = Vec::new();
    for part in control {
        if let ControlMessageOwned::ScmRights(received) = part {
            // SAFETY: the kernel has just made these descriptors for this process, and nobody else
            // knows their numbers, so each has exactly one owner from here on.
            fds.extend(
                received
                    .into_iter()
                    .map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }),
            );
        }
    }
    Ok(fds)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
    use std::io::Read;

    pub(in super::super) fn pair() -> (Packets, Packets) {
        let flags = SockFlag::SOCK_CLOEXEC;
        let (a, b) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).unwrap();
        (Packets::new(a).unwrap(), Packets::new(b).unwrap())
    }

    /// Sends what [`Packets::send`] refuses to.
    pub(in super::super) fn send_raw(to: &Packets, data: &[u8], fds: &[RawFd]) {
        let rights = [ControlMessage::ScmRights(fds)];
        let control = if fds.is_empty() { &[] } else { &rights[..] };
        let socket = to.as_fd().as_raw_fd();
        let flags = MsgFlags::empty();
        sendmsg::<()>(socket, &[IoSlice::new(data)], control, flags, None).unwrap();
    }

    #[tokio::test]
    async fn a_descriptor_arrives_as_the_same_file() {
        let (a, b) = pair();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "content").unwrap();
        let file = std::fs::File::open(&path).unwrap();
        a.send(b"hello", Some(file.as_fd())).await.unwrap();
        a.send(b"world", None).await.unwrap();
        let mut packet = b.receive().await.unwrap().unwrap();
        assert_eq!(
            (packet.data.as_slice(), packet.fds.len()),
            (&b"hello"[..], 1)
        );
        let mut text = String::new();
        std::fs::File::from(packet.fds.remove(0))
            .read_to_string(&mut text)
            .unwrap();
        assert_eq!(text, "content");
        let packet = b.receive().await.unwrap().unwrap();
        assert_eq!(
            (packet.data.as_slice(), packet.fds.len()),
            (&b"world"[..], 0)
        );
        drop(a);
        assert!(b.receive().await.unwrap().is_none());
    }

    #[tokio::test]
    async fn packets_that_are_too_long_are_errors_on_both_sides() {
        let (a, b) = pair();
        let long = vec![1; MAX_PACKET + 1];
        assert!(matches!(
            a.send(&long, None).await,
            Err(PacketError::TooLong(1025))
        ));
        send_raw(&a, &long, &[]);
        assert!(matches!(b.receive().await, Err(PacketError::Truncated)));
        a.send(&long[..MAX_PACKET], None).await.unwrap();
        assert_eq!(b.receive().await.unwrap().unwrap().data.len(), MAX_PACKET);
    }
}
