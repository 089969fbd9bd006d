//! Asking a provider about a request or a connection (`CUSTOM` policies): over gRPC as Envoy's
//! external authorization does, or with a request of the same method and path.

mod grpc;
mod http;

use ::http::request::Parts;
use ::http::{HeaderName, HeaderValue, Request, Response, StatusCode};
use ambit_model::access::{CheckProtocol, Provider};
use ambit_model::route::Target;
use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use tokio::time::timeout;

use crate::body::Body;
use crate::dispatch::Destination;
use crate::phases::Exchange;
use crate::serve::Inbound;
use crate::upstream;
use crate::{choose, forward};

/// Longest answer of a provider.
const ANSWER_LIMIT: usize = 1024 * 1024;

/// A header with its value.
pub(crate) type Header = (HeaderName, HeaderValue);

/// A request as a provider sees it.
pub(crate) struct Shown<'a> {
    pub(crate) parts: &'a Parts,
    pub(crate) exchange: &'a Exchange,
    /// What of its body is shown.
    pub(crate) body: Bytes,
    /// There is more of it.
    pub(crate) partial: bool,
}

/// What a provider says.
#[derive(Debug, PartialEq)]
pub(crate) enum Answer {
    /// It passes, changed like this.
    Allow(Box<Changes>),
    /// It does not.
    Deny(Box<Denial>),
}

/// What a provider changes of a request that passes.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Changes {
    /// In the place of all of that name.
    pub(crate) set: Vec<Header>,
    /// Beside those that are there.
    pub(crate) append: Vec<Header>,
    pub(crate) remove: Vec<HeaderName>,
    pub(crate) query_set: Vec<(String, String)>,
    pub(crate) query_remove: Vec<String>,
    /// Headers of the response to the client.
    pub(crate) to_client: Vec<Header>,
}

/// What the client gets of a request that does not pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Denial {
    pub(crate) status: StatusCode,
    pub(crate) headers: Vec<Header>,
    pub(crate) body: Bytes,
}

/// Asks about a request, or, without one, about a connection.
///
/// # Errors
/// There is no answer, for this reason.
pub(crate) async fn ask(
    inbound: &Inbound,
    provider: &Provider,
    shown: Option<&Shown<'_>>,
) -> Result<Answer, String> {
    let asking = async {
        match (&provider.protocol, shown) {
            (CheckProtocol::Grpc, shown) => grpc::ask(inbound, provider, shown).await,
            (CheckProtocol::Http(check), Some(shown)) => {
                http::ask(inbound, provider, check, shown).await
            }
            (CheckProtocol::Http(_), None) => {
                Err("a provider of HTTP cannot be asked about a connection".to_owned())
            }
        }
    };
    match timeout(provider.timeout, asking).await {
        Ok(answer) => answer,
        Err(_) => Err(format!("no answer within {:?}", provider.timeout)),
    }
}

/// Sends a request to the provider and reads the whole answer.
async fn send(
    inbound: &Inbound,
    provider: &Provider,
    http2: bool,
    request: Request<Body>,
) -> Result<(Response<()>, http_body_util::Collected<Bytes>), String> {
    let target = Target {
        service: provider.service.clone(),
        port: provider.port,
    };
    let said = |failure: crate::failure::Failure| {
        let reason = failure.reason().unwrap_or(failure.details());
        format!("{}:{}: {reason}", provider.service, provider.port)
    };
    let destination: Destination =
        forward::find_service(&inbound.worker.shared, &target).map_err(said)?;
    let chosen = choose::any(inbound, &destination).map_err(said)?;
    let request = request.map(forward::uncounted);
    let sent = upstream::send(&inbound.worker, &chosen.endpoint, http2, request).await;
    let (response, back) = sent.map_err(|error| match error {
        upstream::SendError::NotSent(_, failure) | upstream::SendError::Failed(failure) => {
            said(failure)
        }
    })?;
    let (head, body) = response.into_parts();
    let body = Limited::new(body, ANSWER_LIMIT).collect().await;
    let body = body.map_err(|e| format!("its answer broke off: {e}"))?;
    if let Some(back) = back {
        back.give();
    }
    Ok((Response::from_parts(head, ()), body))
}

/// A header of an answer, if HTTP can carry it and it is not for one hop alone.
fn header(name: &str, value: &[u8]) -> Option<Header> {
    let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
    let value = HeaderValue::from_bytes(value).ok()?;
    (!is_of_one_hop(&name)).then_some((name, value))
}

/// Names that say how a message is framed, or where it goes: not a provider's to say.
fn is_of_one_hop(name: &HeaderName) -> bool {
    use ::http::header as h;
    [
        h::CONNECTION,
        h::CONTENT_LENGTH,
        h::HOST,
        h::TE,
        h::TRAILER,
        h::TRANSFER_ENCODING,
        h::UPGRADE,
    ]
    .contains(name)
        || name == "keep-alive"
        || name == "proxy-connection"
}
