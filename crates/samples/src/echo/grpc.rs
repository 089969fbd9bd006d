//! The echo service of gRPC: its message is the facts of the call.

use std::net::SocketAddr;

use super::Who;
use axum::body::Body;
use axum::extract::{ConnectInfo, Request};
use axum::response::Response;
use tonic::server::{Grpc, UnaryService};
use tonic::{Status, codegen::BoxFuture};
use tonic_prost::ProstCodec;

/// Service and method, as a path.
pub const METHOD: &str = "/proto.EchoTestService/Echo";

/// What is asked and answered: one text.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Echo {
    #[prost(string, tag = "1")]
    pub message: String,
}

/// Answers one call.
pub async fn serve(request: Request, port: u16, who: Who) -> Response {
    let from = request.extensions().get::<ConnectInfo<SocketAddr>>();
    let facts = super::facts(&request, from.map(|info| info.0), port, &who);
    let codec = ProstCodec::<Echo, Echo>::default();
    let response = Grpc::new(codec).unary(Answer(facts), request).await;
    response.map(Body::new)
}

/// The facts, whatever the message says.
struct Answer(String);

impl UnaryService<Echo> for Answer {
    type Response = Echo;
    type Future = BoxFuture<tonic::Response<Echo>, Status>;

    fn call(&mut self, _: tonic::Request<Echo>) -> Self::Future {
        let message = std::mem::take(&mut self.0);
        Box::pin(async move { Ok(tonic::Response::new(Echo { message })) })
    }
}
