//! A discovery client: one stream for all types, opened again for ever.
//!
//! What was received stays when the stream is lost; the next one starts with the names and versions
//! that are held, so that only the difference travels. Resources that a handler rejects are
//! reported and not counted as held.

mod reconnect;
mod retained;

use std::collections::BTreeMap;
use std::sync::Arc;

use ambit_proto::discovery::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use ambit_proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node, Status};
use bytes::Bytes;
use prost::Message;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Request;

use self::reconnect::{End, Reconnect};
use self::retained::Retained;
use super::metrics::ClientMetrics;
use crate::credentials::Credentials;
use crate::tls::Target;

/// Longest response: the whole mesh in one message.
const MAX_RESPONSE: usize = 200 << 20;
/// Requests that wait for the connection.
const QUEUE: usize = 16;

/// A resource as it came, decoded as far as the protocol goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received<T> {
    /// Its name.
    pub name: Arc<str>,
    /// Its other names; only with on-demand subscriptions.
    pub aliases: Vec<String>,
    /// The message.
    pub message: T,
}

/// A resource that was not taken over, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// Its name.
    pub name: Arc<str>,
    /// Why.
    pub reason: String,
}

/// Takes resources of one type.
pub trait Handler<T>: Send + Sync + 'static {
    /// Takes one response: first the resources in their order, then the removals. Resources that
    /// cannot be taken are returned; all others are in force afterwards.
    fn handle(&self, resources: Vec<Received<T>>, removed: Vec<String>) -> Vec<Rejected>;
}

/// How to reach the server, and as whom.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// The server.
    pub target: Target,
    /// Token and headers of each stream.
    pub credentials: Credentials,
    /// The own node.
    pub node: Node,
}

/// A client before it runs.
pub struct Client {
    options: ClientOptions,
    metrics: ClientMetrics,
    types: Vec<Type>,
    synced: watch::Sender<bool>,
    streams: u64,
}

/// A type, its handler and what is held of it.
struct Type {
    url: &'static str,
    handler: Box<dyn AnyHandler>,
    retained: Retained,
    /// A first response was taken without rejections.
    acked: bool,
}

/// A handler with its message type erased.
trait AnyHandler: Send + Sync {
    fn handle(&self, response: DeltaDiscoveryResponse) -> (Vec<Held>, Vec<String>, Vec<Rejected>);
}

/// Name and version of a resource.
type Held = (Arc<str>, String);

struct Typed<T, H> {
    handler: H,
    message: std::marker::PhantomData<fn() -> T>,
}

impl Client {
    /// A client without types.
    pub fn new(options: ClientOptions, metrics: ClientMetrics) -> Self {
        let synced = watch::Sender::new(false);
        Self {
            options,
            metrics,
            types: Vec::new(),
            synced,
            streams: 0,
        }
    }

    /// Subscribes to all resources of a type. Types are asked for in the order of these calls.
    pub fn watch<T, H>(mut self, url: &'static str, handler: H) -> Self
    where
        T: Message + Default + 'static,
        H: Handler<T>,
    {
        let handler = Box::new(Typed {
            handler,
            message: std::marker::PhantomData,
        });
        self.types.push(Type {
            url,
            handler,
            retained: Retained::default(),
            acked: false,
        });
        self
    }

    /// Becomes true when a response of every type has been taken over without rejections, and
    /// stays true.
    pub fn synced(&self) -> watch::Receiver<bool> {
        self.synced.subscribe()
    }

    /// Runs for ever; dropping the future ends the stream.
    pub async fn run(mut self) {
        let mut reconnect = Reconnect::new();
        loop {
            self.streams += 1;
            let id = self.streams;
            let end = self.stream(id).await;
            let (reason, pause) = reconnect.after(&end);
            self.metrics.terminated(reason);
            let (address, pause_ms) = (self.options.target.address(), pause.as_millis() as u64);
            match &end {
                End::Closed { .. } => {
                    tracing::info!(target: "xds", id, address, "the stream ended, reconnecting");
                }
                End::Connect(error) | End::Local(error) => {
                    tracing::warn!(target: "xds", id, address, error, pause_ms, "no stream");
                }
                End::Status(status) => {
                    let error = crate::status_text(status);
                    tracing::warn!(target: "xds", id, address, error, pause_ms, "the stream failed");
                }
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// One stream from connect to end.
    async fn stream(&mut self, id: u64) -> End {
        let (sender, receiver) = mpsc::channel(QUEUE.max(self.types.len()));
        // Before the call: servers answer its headers only together with the first response.
        for kind in &self.types {
            let request = self.initial_request(kind);
            if sender.try_send(request).is_err() {
                return End::Local("the first requests could not be queued".to_owned());
            }
        }
        let mut request = Request::new(ReceiverStream::new(receiver));
        if let Err(error) = self
            .options
            .credentials
            .add_to(request.metadata_mut())
            .await
        {
            return End::Local(error.to_string());
        }
        let channel = match self.options.target.connect().await {
            Ok(channel) => channel,
            Err(error) => return End::Connect(error.to_string()),
        };
        let mut service =
            AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(MAX_RESPONSE);
        let mut responses = match service.delta_aggregated_resources(request).await {
            Ok(response) => response.into_inner(),
            Err(status) => return End::Status(Box::new(status)),
        };
        tracing::info!(target: "xds", id, address = self.options.target.address(), "stream established");
        let mut received = false;
        loop {
            match responses.message().await {
                Ok(Some(response)) => {
                    received = true;
                    let answer = self.take(response);
                    if sender.send(answer).await.is_err() {
                        return End::Closed { received };
                    }
                }
                Ok(None) => return End::Closed { received },
                Err(status) => return End::Status(Box::new(status)),
            }
        }
    }

    fn initial_request(&self, kind: &Type) -> DeltaDiscoveryRequest {
        DeltaDiscoveryRequest {
            node: Some(self.options.node.clone()),
            type_url: kind.url.to_owned(),
            initial_resource_versions: kind.retained.versions(),
            ..Default::default()
        }
    }

    /// Hands a response to its handler and gives the answer to it.
    fn take(&mut self, response: DeltaDiscoveryResponse) -> DeltaDiscoveryRequest {
        let mut answer = DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            ..Default::default()
        };
        self.metrics
            .received(&response.type_url, response.encoded_len());
        let Some(kind) = self
            .types
            .iter_mut()
            .find(|kind| kind.url == response.type_url)
        else {
            tracing::warn!(target: "xds", url = response.type_url, "resources of an unknown type");
            return answer;
        };
        let (resources, removed) = (response.resources.len(), response.removed_resources.len());
        tracing::debug!(target: "xds", url = kind.url, resources, removed, "received response");
        let (held, gone, rejected) = kind.handler.handle(response);
        kind.retained.update(held, &gone, &rejected);
        if rejected.is_empty() {
            kind.acked = true;
        } else {
            let message = rejection_text(&rejected);
            tracing::warn!(target: "xds", url = kind.url, error = message, "resources rejected");
            answer.error_detail = Some(Status {
                message,
                ..Default::default()
            });
        }
        if self.types.iter().all(|kind| kind.acked) {
            self.synced
                .send_if_modified(|synced| !std::mem::replace(synced, true));
        }
        answer
    }
}

impl<T, H> AnyHandler for Typed<T, H>
where
    T: Message + Default + 'static,
    H: Handler<T>,
{
    fn handle(&self, response: DeltaDiscoveryResponse) -> (Vec<Held>, Vec<String>, Vec<Rejected>) {
        let mut resources = Vec::with_capacity(response.resources.len());
        let mut held = Vec::with_capacity(response.resources.len());
        let mut rejected = Vec::new();
        for resource in response.resources {
            let name: Arc<str> = resource.name.into();
            let body = resource
                .resource
                .map(|any| any.value)
                .unwrap_or_else(Bytes::new);
            match T::decode(body) {
                Ok(message) => {
                    held.push((name.clone(), resource.version));
                    resources.push(Received {
                        name,
                        aliases: resource.aliases,
                        message,
                    });
                }
                Err(error) => rejected.push(Rejected {
                    name,
                    reason: error.to_string(),
                }),
            }
        }
        rejected.extend(
            self.handler
                .handle(resources, response.removed_resources.clone()),
        );
        (held, response.removed_resources, rejected)
    }
}

fn rejection_text(rejected: &[Rejected]) -> String {
    let parts: Vec<String> = rejected
        .iter()
        .map(|rejected| format!("{}: {}", rejected.name, rejected.reason))
        .collect();
    parts.join("; ")
}

/// The node of a proxy: its id and its metadata.
pub fn node(id: String, metadata: BTreeMap<String, prost_types::Value>) -> Node {
    let fields = metadata.into_iter().collect();
    Node {
        id,
        metadata: Some(prost_types::Struct { fields }),
        ..Default::default()
    }
}

/// A text value of the node's metadata.
pub fn text_value(text: &str) -> prost_types::Value {
    prost_types::Value {
        kind: Some(prost_types::value::Kind::StringValue(text.to_owned())),
    }
}
