//! One proxy: hello, snapshot, then changes one at a time.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use ambit_proto::zds::workload_request::Payload as RequestPayload;
use ambit_proto::zds::workload_response::Payload as ResponsePayload;
use ambit_proto::zds::{
    AddWorkload, DelWorkload, KeepWorkload, SnapshotSent, WorkloadInfo, WorkloadRequest,
    WorkloadResponse, ZdsHello,
};
use prost::Message;
use tokio::sync::mpsc;

use super::{Agent, Change, Command, Entry, SendError};
use crate::zds::Pod;
use crate::zds::packet::{PacketError, Packets};

/// Longest wait for a packet to be sent, and for one that is due.
const DEADLINE: Duration = Duration::from_secs(5);

pub(super) struct Connection {
    packets: Packets,
    commands: mpsc::UnboundedReceiver<Command>,
}

/// Why a proxy is disconnected.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectionError {
    #[error(transparent)]
    Packet(#[from] PacketError),
    #[error("its {expected} cannot be understood: {reason}")]
    Garbage {
        expected: &'static str,
        reason: String,
    },
    #[error("it sent something that nobody asked for")]
    Unasked,
    #[error("it did not send its {0} in time")]
    Silent(&'static str),
}

impl Connection {
    pub(super) fn new(packets: Packets, commands: mpsc::UnboundedReceiver<Command>) -> Self {
        Self { packets, commands }
    }

    /// Serves the proxy until it closes the connection or breaks the protocol.
    pub(super) async fn run(mut self, agent: &Agent) -> Result<(), ConnectionError> {
        let Some(hello) = self.receive("hello").await? else {
            return Ok(());
        };
        let hello = ZdsHello::decode(hello.as_slice())
            .map_err(|error| garbage("hello", error.to_string()))?;
        tracing::debug!(target: "zds", version = hello.version, "hello");
        // Everything from here on that changes the table is in the queue of this connection.
        if !self.send_snapshot(agent.snapshot()).await? {
            return Ok(());
        }
        loop {
            let command = tokio::select! {
                // The sender is in the agent's table as long as this task runs.
                Some(command) = self.commands.recv() => command,
                unasked = self.packets.receive() => return match unasked? {
                    None => Ok(()),
                    Some(_) => Err(ConnectionError::Unasked),
                },
            };
            if !self.execute(command).await? {
                return Ok(());
            }
        }
    }

    /// Sends all pods. Refusals are logged and change nothing: the proxy tries again by itself.
    /// False if the proxy closed the connection.
    async fn send_snapshot(&mut self, entries: Vec<Entry>) -> Result<bool, ConnectionError> {
        let count = entries.len();
        for Entry { pod, netns } in entries {
            let uid = pod.uid.clone();
            let (payload, fd) = match &netns {
                Some(netns) => (add(pod), Some(netns.as_fd())),
                None => (RequestPayload::Keep(KeepWorkload { uid: pod.uid }), None),
            };
            match self.ask(payload, fd).await? {
                None => return Ok(false),
                Some(Ok(())) => {}
                Some(Err(error)) => {
                    tracing::warn!(target: "zds", uid, error, "the node proxy could not take over a pod");
                }
            }
        }
        let sent = self
            .ask(RequestPayload::SnapshotSent(SnapshotSent {}), None)
            .await?;
        tracing::debug!(target: "zds", pods = count, "snapshot sent");
        Ok(sent.is_some())
    }

    /// Tells the proxy about a change, and the caller how it went. False if the proxy closed the
    /// connection.
    async fn execute(&mut self, command: Command) -> Result<bool, ConnectionError> {
        let Command { change, done } = command;
        let asked = match &change {
            Change::Add(pod, netns) => self.ask(add(pod.clone()), Some(netns.as_fd())).await,
            Change::Delete(uid) => {
                self.ask(RequestPayload::Del(DelWorkload { uid: uid.clone() }), None)
                    .await
            }
        };
        // Nobody waits any more? Then nobody needs the answer.
        let (report, result) = match asked {
            Ok(Some(Ok(()))) => (Ok(()), Ok(true)),
            Ok(Some(Err(error))) => (Err(SendError::Refused(error)), Ok(true)),
            Ok(None) => (Err(SendError::Lost), Ok(false)),
            // This change cannot be sent, and nothing was: the connection is in step.
            Err(ConnectionError::Packet(error @ PacketError::TooLong(_))) => {
                (Err(error.into()), Ok(true))
            }
            // After a late answer the two sides would be out of step. The proxy reconnects, and
            // the snapshot sets both right.
            Err(error @ ConnectionError::Silent(_)) => (Err(SendError::Timeout), Err(error)),
            Err(error) => (Err(SendError::Lost), Err(error)),
        };
        let _ = done.send(report);
        result
    }

    /// One request and its answer: `None` if the proxy closed the connection.
    async fn ask(
        &mut self,
        payload: RequestPayload,
        fd: Option<BorrowedFd<'_>>,
    ) -> Result<Option<Result<(), String>>, ConnectionError> {
        let request = WorkloadRequest {
            payload: Some(payload),
        }
        .encode_to_vec();
        tokio::time::timeout(DEADLINE, self.packets.send(&request, fd))
            .await
            .map_err(|_| ConnectionError::Silent("readiness to receive"))??;
        let Some(answer) = self.receive("answer").await? else {
            return Ok(None);
        };
        let answer = WorkloadResponse::decode(answer.as_slice())
            .map_err(|error| garbage("answer", error.to_string()))?;
        match answer.payload {
            Some(ResponsePayload::Ack(ack)) if ack.error.is_empty() => Ok(Some(Ok(()))),
            Some(ResponsePayload::Ack(ack)) => Ok(Some(Err(ack.error))),
            None => Err(garbage("answer", "it has no payload".to_owned())),
        }
    }

    /// Waits for a packet that is due; proxies send no descriptors.
    async fn receive(&mut self, what: &'static str) -> Result<Option<Vec<u8>>, ConnectionError> {
        let received = tokio::time::timeout(DEADLINE, self.packets.receive()).await;
        match received.map_err(|_| ConnectionError::Silent(what))?? {
            None => Ok(None),
            Some(packet) if packet.fds.is_empty() => Ok(Some(packet.data)),
            Some(_) => Err(garbage(what, "it came with descriptors".to_owned())),
        }
    }
}

fn garbage(expected: &'static str, reason: String) -> ConnectionError {
    ConnectionError::Garbage { expected, reason }
}

fn add(pod: Pod) -> RequestPayload {
    let Pod {
        uid,
        name,
        namespace,
        service_account,
    } = pod;
    let info = WorkloadInfo {
        name,
        namespace,
        service_account,
    };
    RequestPayload::Add(AddWorkload {
        uid,
        workload_info: Some(info),
    })
}
