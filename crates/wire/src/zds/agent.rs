//! The node agent's side: listens, sends each proxy the pods that there are, and then the changes.
//!
//! Several proxies may be connected, for example during an upgrade. Additions go to the newest
//! one, removals to all. A connection counts from the moment it is accepted: what changes while it
//! is greeted and sent the snapshot queues behind that.

mod connection;
mod listener;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};

use self::connection::Connection;
use self::listener::Listener;
use super::Pod;
use super::packet::{PacketError, Packets};
use super::peer::PeerCheck;

/// The pods of the node and the proxies that know them. Cloning gives another handle.
#[derive(Clone, Debug)]
pub struct Agent {
    table: Arc<Mutex<Table>>,
    connected: Arc<watch::Sender<usize>>,
}

#[derive(Debug, Default)]
struct Table {
    pods: BTreeMap<String, Entry>,
    /// Oldest first.
    connections: Vec<(u64, mpsc::UnboundedSender<Command>)>,
    next_id: u64,
}

/// A pod that proxies have to know.
#[derive(Clone, Debug)]
struct Entry {
    pod: Pod,
    /// `None` while it is not known; a running proxy of the pod is then left alone.
    netns: Option<Arc<OwnedFd>>,
}

/// A change for one connection, and where to report how it went.
#[derive(Debug)]
struct Command {
    change: Change,
    done: oneshot::Sender<Result<(), SendError>>,
}

#[derive(Clone, Debug)]
enum Change {
    Add(Pod, Arc<OwnedFd>),
    Delete(String),
}

/// A proxy did not take a change.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// There is no proxy.
    #[error("no node proxy is connected; is the ztunnel pod of this node running?")]
    NoProxy,
    /// The proxy says no.
    #[error("the node proxy refused: {0}")]
    Refused(String),
    /// The connection was lost.
    #[error("the connection to the node proxy was lost")]
    Lost,
    /// There was no answer.
    #[error("the node proxy did not answer in time")]
    Timeout,
    /// The change does not fit in a packet, or the socket failed.
    #[error("the node proxy could not be told: {0}")]
    Packet(String),
}

/// The socket could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("the ZDS socket {path} cannot be opened: {source}")]
pub struct ListenError {
    path: String,
    source: std::io::Error,
}

impl Default for Agent {
    fn default() -> Self {
        Self::new()
    }
}

impl Agent {
    /// An agent without pods and proxies.
    pub fn new() -> Self {
        Self {
            table: Arc::default(),
            connected: Arc::new(watch::Sender::new(0)),
        }
    }

    /// Opens the socket (a stale one is removed) and serves proxies that pass `check`, until the
    /// returned future is dropped.
    pub fn listen(
        &self,
        path: &Path,
        check: PeerCheck,
    ) -> Result<impl Future<Output = ()> + Send + use<>, ListenError> {
        let listener = Listener::bind(path).map_err(|source| ListenError {
            path: path.display().to_string(),
            source,
        })?;
        let agent = self.clone();
        Ok(async move {
            // Connections end together with the listener.
            let mut connections = tokio::task::JoinSet::new();
            loop {
                while connections.try_join_next().is_some() {}
                let packets = listener.accept().await;
                connections.spawn(agent.clone().serve(packets, check.clone()));
                listener.pace().await;
            }
        })
    }

    /// Announces a pod, or announces it again with another namespace, and waits until the newest
    /// proxy runs it. On an error the pod stays announced: proxies that connect later are told.
    pub async fn add(&self, pod: Pod, netns: Arc<OwnedFd>) -> Result<(), SendError> {
        let answer = {
            let mut table = self.table.lock();
            let entry = Entry {
                pod: pod.clone(),
                netns: Some(netns.clone()),
            };
            table.pods.insert(pod.uid.clone(), entry);
            let (_, newest) = table.connections.last().ok_or(SendError::NoProxy)?;
            send(newest, Change::Add(pod, netns))
        };
        answer.await.unwrap_or(Err(SendError::Lost))
    }

    /// Notes a pod whose namespace is not known (yet). Only snapshots speak of it.
    pub fn keep(&self, pod: Pod) {
        let entry = Entry { pod, netns: None };
        self.table.lock().pods.insert(entry.pod.uid.clone(), entry);
    }

    /// Forgets a pod and waits until all proxies have stopped serving it. Proxies that are lost
    /// meanwhile do not count; the first refusal is returned.
    pub async fn delete(&self, uid: &str) -> Result<(), SendError> {
        let answers: Vec<_> = {
            let mut table = self.table.lock();
            table.pods.remove(uid);
            let delete = |(_, connection): &(u64, mpsc::UnboundedSender<Command>)| {
                send(connection, Change::Delete(uid.to_owned()))
            };
            table.connections.iter().map(delete).collect()
        };
        let mut result = Ok(());
        for answer in answers {
            match answer.await {
                Ok(Err(error)) if result.is_ok() => result = Err(error),
                Ok(_) | Err(_) => {}
            }
        }
        result
    }

    /// Whether a pod is announced or kept.
    pub fn knows(&self, uid: &str) -> bool {
        self.table.lock().pods.contains_key(uid)
    }

    /// The pods that are announced or kept.
    pub fn pods(&self) -> Vec<Pod> {
        self.table
            .lock()
            .pods
            .values()
            .map(|entry| entry.pod.clone())
            .collect()
    }

    /// How many proxies are connected.
    pub fn connected(&self) -> watch::Receiver<usize> {
        self.connected.subscribe()
    }

    async fn serve(self, packets: Packets, check: PeerCheck) {
        let peer = match check.check(&packets) {
            Ok(peer) => peer,
            Err(error) => {
                tracing::warn!(target: "zds", %error, "a ZDS client was refused");
                return;
            }
        };
        let (id, commands) = self.register();
        // Also when this task is dropped in the middle of something.
        let _registered = Registered {
            agent: self.clone(),
            id,
        };
        tracing::info!(target: "zds", id, pid = peer.pid, "a node proxy connected");
        let connection = Connection::new(packets, commands);
        match connection.run(&self).await {
            Ok(()) => tracing::info!(target: "zds", id, "the node proxy disconnected"),
            Err(error) => {
                tracing::warn!(target: "zds", id, %error, "the node proxy was disconnected")
            }
        }
    }

    fn register(&self) -> (u64, mpsc::UnboundedReceiver<Command>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut table = self.table.lock();
        table.next_id += 1;
        let id = table.next_id;
        table.connections.push((id, sender));
        self.connected.send_replace(table.connections.len());
        (id, receiver)
    }

    fn snapshot(&self) -> Vec<Entry> {
        self.table.lock().pods.values().cloned().collect()
    }
}

/// Takes a connection out of the table when its task ends.
struct Registered {
    agent: Agent,
    id: u64,
}

impl Drop for Registered {
    fn drop(&mut self) {
        let mut table = self.agent.table.lock();
        table.connections.retain(|(id, _)| *id != self.id);
        self.agent.connected.send_replace(table.connections.len());
    }
}

fn send(
    connection: &mpsc::UnboundedSender<Command>,
    change: Change,
) -> oneshot::Receiver<Result<(), SendError>> {
    let (done, answer) = oneshot::channel();
    // A connection that has just ended drops the command, and with it the sender of the answer.
    let _ = connection.send(Command { change, done });
    answer
}

impl From<PacketError> for SendError {
    fn from(error: PacketError) -> Self {
        match error {
            PacketError::Io(_) => SendError::Lost,
            other => SendError::Packet(other.to_string()),
        }
    }
}

#[cfg(test)]
#[path = "agent_tests.rs"]
mod tests;
