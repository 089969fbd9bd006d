//! Empties the connection tracking table of one network namespace.
//!
//! NAT decides once per connection, so a connection that was tracked before the rules came would
//! never be captured. Without its entry the next packet counts as new, is redirected to a port
//! that does not know it, and is answered with a reset.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::ApplyError;
use crate::netns::Netns;

/// `NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_DELETE`; without a filter it deletes all entries.
const DELETE_ALL: u16 = (1 << 8) | 2;

/// `struct nlmsghdr` and `struct nfgenmsg` in one piece.
#[repr(C)]
struct Request {
    length: u32,
    kind: u16,
    flags: u16,
    sequence: u32,
    port: u32,
    family: u8,
    version: u8,
    resource: u16,
}

/// `struct nlmsghdr` and the error number of an acknowledgement.
#[repr(C)]
#[derive(Default)]
struct Acknowledgement {
    length: u32,
    kind: u16,
    flags: u16,
    sequence: u32,
    port: u32,
    error: i32,
}

/// The number of tracked connections, or `None` where the kernel does not say.
pub(super) fn count(netns: &Netns) -> Option<u64> {
    let read = || std::fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_count");
    netns.run(read).ok()?.ok()?.trim().parse().ok()
}

/// Deletes all entries of the namespace.
pub(super) fn flush(netns: &Netns) -> Result<(), ApplyError> {
    netns
        .run(flush_here)
        .map_err(ApplyError::Enter)?
        .map_err(ApplyError::Conntrack)
}

fn flush_here() -> io::Result<()> {
    // SAFETY: plain system call without pointers; the result is checked before it is used.
    let fd = unsafe {
        libc::socket(
            libc::AF_NETLINK,
            libc::SOCK_RAW | libc::SOCK_CLOEXEC,
            libc::NETLINK_NETFILTER,
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `fd` was just returned by the kernel and nobody else knows it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let request = Request {
        length: size_of::<Request>() as u32,
        kind: DELETE_ALL,
        flags: (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16,
        sequence: 1,
        port: 0,
        family: libc::AF_UNSPEC as u8,
        version: 0,
        resource: 0,
    };
    // SAFETY: the pointer and length describe `request`, which lives through the call; netlink
    // without an address goes to the kernel.
    let sent = unsafe {
        libc::send(
            socket.as_raw_fd(),
            (&raw const request).cast(),
            size_of::<Request>(),
            0,
        )
    };
    if sent < 0 {
        return Err(io::Error::last_os_error());
    }
    let mut answer = Acknowledgement::default();
    // SAFETY: the pointer and length describe `answer`, a plain struct of integers for which every
    // byte pattern is valid; the kernel writes at most that many bytes.
    let got = unsafe {
        libc::recv(
            socket.as_raw_fd(),
            (&raw mut answer).cast(),
            size_of::<Acknowledgement>(),
            0,
        )
    };
    if got < 0 {
        return Err(io::Error::last_os_error());
    }
    if (got as usize) < size_of::<Acknowledgement>() || answer.kind != libc::NLMSG_ERROR as u16 {
        return Err(io::Error::other("unexpected answer of the kernel"));
    }
    match answer.error {
        0 => Ok(()),
        negative => Err(io::Error::from_raw_os_error(-negative)),
    }
}
