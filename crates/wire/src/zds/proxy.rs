//! The node proxy's side: connects, says hello, and answers one request after the other.
//!
//! What a request means for running proxies is the caller's business. Here is checked that it is a
//! request at all, and legal at its place: one that is not is answered with an error and ends the
//! connection, so that the agent's snapshot puts both sides in step again.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ambit_proto::zds::workload_request::Payload as RequestPayload;
use ambit_proto::zds::workload_response::Payload as ResponsePayload;
use ambit_proto::zds::{Ack, AddWorkload, Version, WorkloadRequest, WorkloadResponse, ZdsHello};
use prost::Message;
use socket2::{Domain, SockAddr, Socket, Type};

use super::Pod;
use super::packet::{MAX_PACKET, Packet, PacketError, Packets};
use super::peer::{PeerCheck, PeerRefused};
use crate::backoff::{Backoff, Policy};

const RECONNECT: Policy = Policy {
    first: Duration::from_millis(20),
    longest: Duration::from_secs(15),
    spread: 0.2,
};
/// Longest error text in an answer, so that its packet stays in bounds.
const MAX_ERROR: usize = MAX_PACKET - 64;

/// What the agent asks for.
#[derive(Debug)]
pub enum Request {
    /// Run a proxy in this network namespace.
    Add {
        /// The pod.
        pod: Pod,
        /// Its network namespace.
        netns: OwnedFd,
    },
    /// The pod exists, but the agent does not have its namespace: leave a running proxy alone.
    Keep {
        /// Kubernetes UID of the pod.
        uid: String,
    },
    /// Stop the pod's proxy.
    Delete {
        /// Kubernetes UID of the pod.
        uid: String,
    },
    /// All pods were named: proxies of others are to be stopped.
    SnapshotSent,
}

/// There is no connection to the agent.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The socket cannot be connected.
    #[error("{path}: {source}; is the CNI agent running on this node?")]
    Socket {
        /// The socket's path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Somebody else listens there.
    #[error(transparent)]
    Peer(#[from] PeerRefused),
    /// The hello did not get through.
    #[error("the hello could not be sent: {0}")]
    Hello(#[from] PacketError),
}

/// The connection is over.
#[derive(Debug, thiserror::Error)]
pub enum ProtocolError {
    /// A packet did not get through.
    #[error(transparent)]
    Packet(#[from] PacketError),
    /// Bytes that are no message.
    #[error("failure to decode a message: {0}")]
    Decode(#[from] prost::DecodeError),
    /// A message that is not a request, or not legal at its place.
    #[error("failure to process message : {0}")]
    Illegal(String),
}

/// A connection to the agent, after the hello.
#[derive(Debug)]
pub struct Connection {
    packets: Packets,
    snapshot_seen: bool,
}

/// Connects again and again.
#[derive(Debug)]
pub struct Dialer {
    path: PathBuf,
    check: PeerCheck,
    backoff: Backoff,
}

impl Dialer {
    /// A dialer for the agent's socket. `check` says who may listen there, normally uid 0.
    pub fn new(path: impl Into<PathBuf>, check: PeerCheck) -> Self {
        Self {
            path: path.into(),
            check,
            backoff: Backoff::new(RECONNECT),
        }
    }

    /// Connects; waits longer after each failure, for ever.
    pub async fn connect(&mut self) -> Connection {
        loop {
            match Connection::open(&self.path, &self.check).await {
                Ok(connection) => {
                    tracing::info!(target: "inpod", path = %self.path.display(), "connected to the CNI agent");
                    return connection;
                }
                Err(error) => {
                    let pause = self.backoff.next_pause();
                    tracing::warn!(target: "inpod", %error, "no connection to the CNI agent, trying again in {pause:?}");
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }

    /// The connection did its work: the next failure starts with a short pause. Call it after the
    /// snapshot, so that an agent that hangs up before that is not called in a loop.
    pub fn succeeded(&mut self) {
        self.backoff.reset();
    }

    /// The connection was lost. Returns at once if it had done its work, else after a pause.
    pub async fn lost(&mut self, connection: Connection) {
        if !connection.snapshot_seen {
            tokio::time::sleep(self.backoff.next_pause()).await;
        }
    }
}

impl Connection {
    /// Connects and says hello.
    pub async fn open(path: &Path, check: &PeerCheck) -> Result<Self, ConnectError> {
        let failed = |source| ConnectError::Socket {
            path: path.to_owned(),
            source,
        };
        let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None).map_err(failed)?;
        socket.set_nonblocking(true).map_err(failed)?;
        // Local sockets connect at once or not at all.
        socket
            .connect(&SockAddr::unix(path).map_err(failed)?)
            .map_err(failed)?;
        check.check(&socket)?;
        Self::greet(Packets::new(socket.into()).map_err(failed)?)
            .await
            .map_err(Into::into)
    }

    /// Says hello on a connected socket.
    pub async fn greet(packets: Packets) -> Result<Self, PacketError> {
        let hello = ZdsHello {
            version: Version::V1.into(),
        };
        packets.send(&hello.encode_to_vec(), None).await?;
        Ok(Self {
            packets,
            snapshot_seen: false,
        })
    }

    /// Waits for a request; `None` when the agent has closed the connection. Each request has to be
    /// answered with [`ack`](Self::ack) before the next call. After an error the connection is of no
    /// use. Can be dropped at any await without losing a request.
    pub async fn next(&mut self) -> Result<Option<Request>, ProtocolError> {
        let parsed = match self.packets.receive().await {
            Ok(None) => return Ok(None),
            Ok(Some(packet)) => self.parse(packet),
            Err(error @ PacketError::Io(_)) => return Err(error.into()),
            Err(error) => Err(error.into()),
        };
        match parsed {
            Ok(request) => {
                self.snapshot_seen |= matches!(request, Request::SnapshotSent);
                Ok(Some(request))
            }
            Err(error) => {
                // The agent learns why before the connection goes.
                let _ = self.ack(Err(error.to_string())).await;
                Err(error)
            }
        }
    }

    /// Answers a request.
    pub async fn ack(&mut self, result: Result<(), String>) -> Result<(), PacketError> {
        let mut error = result.err().unwrap_or_default();
        if error.len() > MAX_ERROR {
            let end = (0..=MAX_ERROR)
                .rev()
                .find(|end| error.is_char_boundary(*end));
            error.truncate(end.unwrap_or_default());
        }
        let answer = WorkloadResponse {
            payload: Some(ResponsePayload::Ack(Ack { error })),
        };
        self.packets.send(&answer.encode_to_vec(), None).await
    }

    fn parse(&self, packet: Packet) -> Result<Request, ProtocolError> {
        let message = WorkloadRequest::decode(packet.data.as_slice())?;
        let illegal = |text: &str| Err(ProtocolError::Illegal(text.to_owned()));
        let request = match (message.payload, packet.fds) {
            (None, _) => return illegal("the message has no payload"),
            (Some(RequestPayload::Add(add)), fds) => return added(add, fds),
            (Some(_), fds) if !fds.is_empty() => {
                return illegal("a descriptor came with a message that takes none");
            }
            (Some(RequestPayload::Keep(keep)), _) => Request::Keep { uid: keep.uid },
            (Some(RequestPayload::Del(del)), _) => Request::Delete { uid: del.uid },
            (Some(RequestPayload::SnapshotSent(_)), _) => Request::SnapshotSent,
        };
        match request {
            Request::Keep { .. } if self.snapshot_seen => illegal("keep after the snapshot"),
            Request::SnapshotSent if self.snapshot_seen => illegal("a second snapshot"),
            request => Ok(request),
        }
    }
}

fn added(add: AddWorkload, mut fds: Vec<OwnedFd>) -> Result<Request, ProtocolError> {
    let Some(info) = add.workload_info else {
        return Err(ProtocolError::Illegal(format!(
            "add of {} without workload info",
            add.uid
        )));
    };
    let (1, Some(netns)) = (fds.len(), fds.pop()) else {
        let text = format!("add of {} must come with exactly one descriptor", add.uid);
        return Err(ProtocolError::Illegal(text));
    };
    let pod = Pod {
        uid: add.uid,
        name: info.name,
        namespace: info.namespace,
        service_account: info.service_account,
    };
    Ok(Request::Add { pod, netns })
}

#[cfg(test)]
#[path = "proxy_tests.rs"]
mod tests;
