//! UDP flows that were tracked before the rules changed.
//!
//! NAT decides once per flow. A TCP connection to an endpoint that is gone
//! ends by itself; a client that sends datagrams to a service goes on to send
//! them to the endpoint it got, or to none if there was none. So those flows
//! are forgotten, and their next datagram is a new one.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket,
};

use super::rules::Port;
use super::state::State;
use crate::informer::ObjectKey;
use crate::nft::Protocol;

/// `NFNL_SUBSYS_CTNETLINK << 8`, to which the kind of message is added.
const CTNETLINK: u16 = 1 << 8;
const GET: u16 = CTNETLINK | 1;
const DELETE: u16 = CTNETLINK | 2;
/// Attributes of a flow (`linux/netfilter/nfnetlink_conntrack.h`).
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const ZONE: u16 = 18;
/// Attributes of a tuple and its parts.
const TUPLE_IP: u16 = 1;
const TUPLE_PROTOCOL: u16 = 2;
const IPV4_SOURCE: u16 = 1;
const IPV4_DESTINATION: u16 = 2;
const IPV6_SOURCE: u16 = 3;
const IPV6_DESTINATION: u16 = 4;
const PROTOCOL_NUMBER: u16 = 1;
const SOURCE_PORT: u16 = 2;
const DESTINATION_PORT: u16 = 3;
/// Flags of an attribute's type: nested, network byte order.
const TYPE_MASK: u16 = 0x3fff;
/// `struct nlmsghdr` and `struct nfgenmsg`.
const HEADER: usize = 16;
const FAMILY_HEADER: usize = 4;

/// UDP fronts whose endpoints changed, with the endpoints that they still
/// have; a flow that leads elsewhere is stale.
#[derive(Debug, Default)]
pub(super) struct Stale {
    fronts: BTreeMap<SocketAddr, BTreeSet<SocketAddr>>,
}

impl Stale {
    /// Compares what is in force with what is to be.
    pub(super) fn note(&mut self, state: &State, changed: &BTreeMap<ObjectKey, Vec<Port>>) {
        let udp = |ports: &[Port]| -> BTreeMap<SocketAddr, BTreeSet<SocketAddr>> {
            let udp = ports.iter().filter(|port| port.protocol == Protocol::Udp);
            let pairs = udp.flat_map(|port| {
                let addresses = port.addresses(state.place().address);
                addresses.map(|front| (front, port.endpoints.clone()))
            });
            pairs.collect()
        };
        for (key, ports) in changed {
            let (before, after) = (udp(state.ports(key)), udp(ports));
            for (front, endpoints) in &after {
                let old = before.get(front).cloned().unwrap_or_default();
                // One more endpoint beside others makes no flow stale.
                if old.is_empty() != endpoints.is_empty() || !old.is_subset(endpoints) {
                    self.fronts.insert(*front, endpoints.clone());
                }
            }
            for front in before.keys().filter(|front| !after.contains_key(front)) {
                self.fronts.insert(*front, BTreeSet::new());
            }
        }
    }

    /// Forgets the stale flows of the calling process's network namespace. A
    /// failure is logged: the flows end when their clients are silent.
    pub(super) async fn forget(self) {
        if self.fronts.is_empty() {
            return;
        }
        let done = tokio::task::spawn_blocking(move || self.forget_here()).await;
        match done.unwrap_or_else(|error| Err(io::Error::other(error))) {
            Ok(0) => {}
            Ok(count) => tracing::debug!("{count} UDP flows forgotten"),
            Err(error) => tracing::warn!("stale UDP flows were not forgotten: {error}"),
        }
    }

    pub(super) fn forget_here(&self) -> io::Result<usize> {
        let mut count = 0;
        for family in [libc::AF_INET, libc::AF_INET6] {
            for flow in flows(family)? {
                let wanted = self.fronts.get(&flow.to);
                if wanted.is_some_and(|endpoints| !endpoints.contains(&flow.answered_by)) {
                    delete(family, &flow.identity)?;
                    count += 1;
                }
            }
        }
        Ok(count)
    }
}

/// A tracked UDP flow.
#[derive(Debug, PartialEq, Eq)]
struct Flow {
    /// Where the client sends to.
    to: SocketAddr,
    /// Who answers.
    answered_by: SocketAddr,
    /// The attributes by which the kernel finds it again.
    identity: Vec<u8>,
}

/// All tracked UDP flows of a family.
fn flows(family: i32) -> io::Result<Vec<Flow>> {
    let flags = libc::NLM_F_REQUEST | libc::NLM_F_DUMP;
    let socket = open()?;
    send(
        socket.as_raw_fd(),
        &message(GET, flags, family, &[]),
        MsgFlags::empty(),
    )?;
    let mut flows = Vec::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let length = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        for (kind, body) in messages(buffer.get(..length).unwrap_or_default()) {
            match i32::from(kind) {
                libc::NLMSG_DONE => return Ok(flows),
                libc::NLMSG_ERROR => return Err(failure(body)),
                _ => flows.extend(body.get(FAMILY_HEADER..).and_then(flow)),
            }
        }
    }
}

fn delete(family: i32, identity: &[u8]) -> io::Result<()> {
    let socket = open()?;
    let flags = libc::NLM_F_REQUEST | libc::NLM_F_ACK;
    let request = message(DELETE, flags, family, identity);
    send(socket.as_raw_fd(), &request, MsgFlags::empty())?;
    let mut buffer = [0; 4096];
    let length = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
    let answer = messages(buffer.get(..length).unwrap_or_default()).next();
    match answer.map(|(_, body)| failure(body)) {
        // It may have ended meanwhile.
        Some(error) if matches!(error.raw_os_error(), Some(0 | libc::ENOENT)) => Ok(()),
        Some(error) => Err(error),
        None => Err(io::Error::other("the kernel did not answer")),
    }
}

fn open() -> io::Result<std::os::fd::OwnedFd> {
    Ok(socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkNetFilter,
    )?)
}

/// A message with its two headers.
fn message(kind: u16, flags: i32, family: i32, attributes: &[u8]) -> Vec<u8> {
    let length = HEADER + FAMILY_HEADER + attributes.len();
    let mut message = Vec::with_capacity(length);
    message.extend(u32::try_from(length).unwrap_or(u32::MAX).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(u16::try_from(flags).unwrap_or(0).to_ne_bytes());
    // Sequence number and port: one question per socket.
    message.extend([0; 8]);
    message.extend([u8::try_from(family).unwrap_or(0), 0, 0, 0]);
    message.extend(attributes);
    message
}

/// Kinds and bodies of the messages in a buffer.
fn messages(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(rest.get(..4)?.try_into().ok()?) as usize;
        let kind = u16::from_ne_bytes(rest.get(4..6)?.try_into().ok()?);
        let body = rest.get(HEADER..length)?;
        rest = rest.get(aligned(length)..).unwrap_or_default();
        Some((kind, body))
    })
}

/// The error number of an `NLMSG_ERROR`; 0 is success.
fn failure(body: &[u8]) -> io::Error {
    let number = body.get(..4).and_then(|bytes| bytes.try_into().ok());
    io::Error::from_raw_os_error(number.map_or(libc::EPROTO, |n| -i32::from_ne_bytes(n)))
}

/// Types and values of attributes, and each as a whole.
fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8], &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(rest.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(rest.get(2..4)?.try_into().ok()?);
        let value = rest.get(4..length)?;
        let whole = rest.get(..aligned(length).min(rest.len()))?;
        rest = rest.get(aligned(length)..).unwrap_or_default();
        Some((kind & TYPE_MASK, value, whole))
    })
}

fn aligned(length: usize) -> usize {
    length.next_multiple_of(4)
}

/// A UDP flow from the attributes of a message.
fn flow(body: &[u8]) -> Option<Flow> {
    let (mut to, mut answered_by, mut identity) = (None, None, Vec::new());
    for (kind, value, whole) in attributes(body) {
        match kind {
            TUPLE_ORIGINAL => to = Some(tuple(value)?.1),
            TUPLE_REPLY => answered_by = Some(tuple(value)?.0),
            _ => {}
        }
        if matches!(kind, TUPLE_ORIGINAL | ZONE) {
            identity.extend(whole);
        }
    }
    Some(Flow {
        to: to?,
        answered_by: answered_by?,
        identity,
    })
}

/// Source and destination of a tuple, if it is UDP.
fn tuple(body: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let (mut source, mut destination) = (None, None);
    let (mut from, mut to, mut protocol) = (None, None, 0);
    for (kind, value, _) in attributes(body) {
        for (part, value, _) in attributes(value) {
            match (kind, part) {
                (TUPLE_IP, IPV4_SOURCE | IPV6_SOURCE) => source = address(value),
                (TUPLE_IP, IPV4_DESTINATION | IPV6_DESTINATION) => destination = address(value),
                (TUPLE_PROTOCOL, PROTOCOL_NUMBER) => protocol = i32::from(*value.first()?),
                (TUPLE_PROTOCOL, SOURCE_PORT) => from = port(value),
                (TUPLE_PROTOCOL, DESTINATION_PORT) => to = port(value),
                _ => {}
            }
        }
    }
    let ends = (
        SocketAddr::new(source?, from?),
        SocketAddr::new(destination?, to?),
    );
    (protocol == libc::IPPROTO_UDP).then_some(ends)
}

fn address(value: &[u8]) -> Option<IpAddr> {
    let four = <[u8; 4]>::try_from(value).map(IpAddr::from);
    four.or_else(|_| <[u8; 16]>::try_from(value).map(IpAddr::from))
        .ok()
}

fn port(value: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(value.try_into().ok()?))
}
