//! One stream of a server: takes requests, waits for changes, sends what is due.

use std::collections::BTreeMap;
use std::sync::Arc;

use ambit_proto::discovery::{DeltaDiscoveryRequest, Node};
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use super::log::{Changes, Logs};
use super::message::EncodedResponse;
use super::server::Authenticator;
use super::subscription::{Answer, Subscription};

type Sender = mpsc::Sender<Result<EncodedResponse, Status>>;

/// Serves a stream until the client goes, or has to be refused.
pub(super) async fn run<A: Authenticator>(
    logs: Logs,
    authenticator: Arc<A>,
    peer: A::Peer,
    requests: Streaming<DeltaDiscoveryRequest>,
    sender: Sender,
) {
    let mut stream = Stream {
        logs,
        authenticator,
        peer,
        sender,
        node: None,
        subscriptions: BTreeMap::new(),
        nonce: 0,
    };
    let end = stream.serve(requests).await;
    let node = stream.node.as_ref().map_or("", |node| node.id.as_str());
    match end {
        End::Gone => tracing::info!(target: "xds", peer = %stream.peer, node, "a stream ended"),
        End::Refused(status) => {
            let reason = status.message();
            tracing::warn!(target: "xds", peer = %stream.peer, node, reason, "a stream was refused");
            // If this does not arrive, the client is gone already.
            let _ = stream.sender.send(Err(status)).await;
        }
    }
}

struct Stream<A: Authenticator> {
    logs: Logs,
    authenticator: Arc<A>,
    peer: A::Peer,
    sender: Sender,
    /// The node of the first request.
    node: Option<Node>,
    subscriptions: BTreeMap<&'static str, Subscription>,
    nonce: u64,
}

/// Why a stream ends.
enum End {
    /// The client or the connection is gone.
    Gone,
    /// The client is told why it cannot go on.
    Refused(Status),
}

impl<A: Authenticator> Stream<A> {
    async fn serve(&mut self, mut requests: Streaming<DeltaDiscoveryRequest>) -> End {
        let mut changes = self.logs.changes();
        let sender = self.sender.clone();
        loop {
            let step = tokio::select! {
                () = sender.closed() => return End::Gone,
                request = requests.message() => match request {
                    Ok(Some(request)) => self.take(request).await,
                    Ok(None) | Err(_) => return End::Gone,
                },
                // The sender of changes lives in the logs, which this stream holds.
                _ = changes.changed() => Ok(()),
            };
            if let Err(end) = step {
                return end;
            }
            if let Err(end) = self.send_due().await {
                return end;
            }
        }
    }

    async fn take(&mut self, request: DeltaDiscoveryRequest) -> Result<(), End> {
        self.check_node(&request)?;
        let Some(log) = self.logs.get(&request.type_url).cloned() else {
            tracing::debug!(target: "xds", peer = %self.peer, url = request.type_url, "unknown type");
            return Ok(());
        };
        let url = log.type_url();
        if let Some(subscription) = self.subscriptions.get_mut(url) {
            if let Answer::Nack(reason) = subscription.take(&request) {
                tracing::warn!(target: "xds", peer = %self.peer, url, reason, "the client rejected resources");
            }
            return Ok(());
        }
        self.logs.opened().await;
        let (subscription, first) = Subscription::start(&log, &request);
        self.subscriptions.insert(url, subscription);
        self.send(url, first).await
    }

    /// The node is in the first request of a stream, and may be in later ones.
    fn check_node(&mut self, request: &DeltaDiscoveryRequest) -> Result<(), End> {
        match (&request.node, &self.node) {
            (None, None) => Err(End::Refused(Status::invalid_argument(
                "the first request of a stream must say which node asks",
            ))),
            (None, Some(_)) => Ok(()),
            (Some(node), Some(known)) if node.id == known.id => Ok(()),
            (Some(_), Some(_)) => Err(End::Refused(Status::permission_denied(
                "a stream belongs to one node; this request names another",
            ))),
            (Some(node), None) => {
                self.authenticator
                    .check_node(&self.peer, node)
                    .map_err(End::Refused)?;
                tracing::info!(target: "xds", peer = %self.peer, node = node.id, "a stream started");
                self.node = Some(node.clone());
                Ok(())
            }
        }
    }

    async fn send_due(&mut self) -> Result<(), End> {
        let due: Vec<(&'static str, Changes)> = self
            .subscriptions
            .iter_mut()
            .filter_map(|(url, subscription)| Some((*url, subscription.due()?)))
            .collect();
        for (url, changes) in due {
            self.send(url, changes).await?;
        }
        Ok(())
    }

    async fn send(&mut self, url: &'static str, changes: Changes) -> Result<(), End> {
        self.nonce += 1;
        let nonce = format!("{:x}", self.nonce);
        if let Some(subscription) = self.subscriptions.get_mut(url) {
            subscription.sent(nonce.clone(), changes.head);
        }
        tracing::debug!(
            target: "xds", peer = %self.peer, url, nonce,
            resources = changes.resources.len(), removed = changes.removed.len(), "push"
        );
        let response = EncodedResponse {
            system_version_info: format!("{:x}", changes.head),
            resources: changes.resources,
            type_url: url.to_owned(),
            nonce,
            removed_resources: changes.removed,
        };
        self.sender.send(Ok(response)).await.map_err(|_| End::Gone)
    }
}
