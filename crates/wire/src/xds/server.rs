//! The discovery service: who may open a stream, and the way into it.

use std::convert::Infallible;
use std::fmt::Display;
use std::sync::Arc;
use std::task::{Context, Poll};

use ambit_proto::discovery::{DeltaDiscoveryRequest, Node};
use futures_util::future::BoxFuture;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::metadata::MetadataMap;
use tonic::server::{Grpc, NamedService, StreamingService};
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;
use tower::Service;

use super::log::Logs;
use super::message::EncodedResponse;
use super::stream;
use crate::tls::PeerInfo;

const NAME: &str = "envoy.service.discovery.v3.AggregatedDiscoveryService";
const DELTA: &str =
    "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
/// Longest request: a client that comes back names everything it knows.
const MAX_REQUEST: usize = 64 << 20;
/// Responses that wait for the connection. More would only be outdated sooner.
const QUEUE: usize = 2;

/// What is known when a stream is opened.
#[derive(Clone, Debug)]
pub struct StreamRequest {
    /// Token and headers.
    pub metadata: MetadataMap,
    /// The other end of the connection, where TLS is ours.
    pub peer: Option<PeerInfo>,
}

/// Decides who may open a stream and as which node.
pub trait Authenticator: Send + Sync + 'static {
    /// Who the caller is. Its text goes to the log.
    type Peer: Display + Send + Sync + 'static;

    /// Identifies the caller, or refuses with `UNAUTHENTICATED`.
    fn authenticate(
        &self,
        request: &StreamRequest,
    ) -> impl Future<Output = Result<Self::Peer, Status>> + Send;

    /// Checks the node that the caller says to be, or refuses with `PERMISSION_DENIED`.
    fn check_node(&self, peer: &Self::Peer, node: &Node) -> Result<(), Status>;
}

/// The service, for [`tonic::transport::Server::add_service`].
pub fn service<A: Authenticator>(logs: Logs, authenticator: Arc<A>) -> Discovery<A> {
    Discovery {
        logs,
        authenticator,
    }
}

/// Serves delta streams from [`Logs`].
#[derive(Debug)]
pub struct Discovery<A> {
    logs: Logs,
    authenticator: Arc<A>,
}

impl<A> Clone for Discovery<A> {
    fn clone(&self) -> Self {
        Self {
            logs: self.logs.clone(),
            authenticator: self.authenticator.clone(),
        }
    }
}

impl<A> NamedService for Discovery<A> {
    const NAME: &'static str = NAME;
}

impl<A: Authenticator> Service<http::Request<Body>> for Discovery<A> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let method = self.clone();
        Box::pin(async move {
            if request.uri().path() != DELTA {
                let status = Status::unimplemented("only DeltaAggregatedResources is served");
                return Ok(status.into_http());
            }
            let codec = ProstCodec::<EncodedResponse, DeltaDiscoveryRequest>::default();
            let mut grpc = Grpc::new(codec).max_decoding_message_size(MAX_REQUEST);
            Ok(grpc.streaming(Delta(method), request).await)
        })
    }
}

/// The method of the service.
struct Delta<A>(Discovery<A>);

impl<A: Authenticator> StreamingService<DeltaDiscoveryRequest> for Delta<A> {
    type Response = EncodedResponse;
    type ResponseStream = ReceiverStream<Result<EncodedResponse, Status>>;
    type Future = BoxFuture<'static, Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<Streaming<DeltaDiscoveryRequest>>) -> Self::Future {
        let Discovery {
            logs,
            authenticator,
        } = self.0.clone();
        Box::pin(async move {
            let (metadata, extensions, requests) = request.into_parts();
            let peer = extensions.get::<PeerInfo>().cloned();
            let address = peer.as_ref().map(|peer| peer.address);
            let opened = StreamRequest { metadata, peer };
            let peer = authenticator
                .authenticate(&opened)
                .await
                .inspect_err(|status| {
                    let reason = status.message();
                    tracing::warn!(target: "xds", ?address, reason, "a stream was refused");
                })?;
            let (sender, receiver) = mpsc::channel(QUEUE);
            tokio::spawn(stream::run(logs, authenticator, peer, requests, sender));
            Ok(Response::new(ReceiverStream::new(receiver)))
        })
    }
}
