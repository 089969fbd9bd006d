//! One HTTP/1.1 request over a connection of its own, as the samples make them.

use std::time::Duration;

use bytes::Bytes;
use http::header::{HOST, HeaderMap, HeaderValue};
use http::{Method, Request, Response, Uri};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Why there was no answer.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The URL has no host, or a scheme other than `http`.
    #[error("cannot fetch {0}: only http URLs with a host are supported")]
    Url(String),
    /// The name is not known.
    #[error("Could not resolve host: {0}")]
    Resolve(String),
    /// Nobody listens there, or the connection was refused.
    #[error("Failed to connect to {0}: {1}")]
    Connect(String, #[source] std::io::Error),
    /// The connection broke before the answer was complete.
    #[error("{0}")]
    Transfer(#[source] hyper::Error),
    /// It took too long.
    #[error("Operation timed out after {0:?}")]
    Timeout(Duration),
}

/// What to ask.
pub struct Ask {
    /// Method.
    pub method: Method,
    /// Absolute `http` URL.
    pub url: Uri,
    /// Headers; `host` is added where missing.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
    /// Bound on the whole exchange.
    pub timeout: Duration,
}

impl Ask {
    /// A GET without headers.
    pub fn get(url: Uri, timeout: Duration) -> Self {
        Self {
            method: Method::GET,
            url,
            headers: HeaderMap::new(),
            body: Bytes::new(),
            timeout,
        }
    }
}

/// Asks, and reads the whole answer.
///
/// # Errors
/// See [`FetchError`]; an answer with an error status is not one.
pub async fn fetch(ask: Ask) -> Result<Response<Bytes>, FetchError> {
    let limit = ask.timeout;
    tokio::time::timeout(limit, exchange(ask))
        .await
        .unwrap_or(Err(FetchError::Timeout(limit)))
}

async fn exchange(ask: Ask) -> Result<Response<Bytes>, FetchError> {
    let bad_url = || FetchError::Url(ask.url.to_string());
    if ask.url.scheme_str() != Some("http") {
        return Err(bad_url());
    }
    let authority = ask.url.authority().ok_or_else(bad_url)?.clone();
    let host = authority
        .host()
        .trim_start_matches('[')
        .trim_end_matches(']')
        .to_owned();
    let port = authority.port_u16().unwrap_or(80);

    let stream = dial(&host, port).await?;
    let _ = stream.set_nodelay(true);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(FetchError::Transfer)?;
    tokio::spawn(connection);

    let path = ask
        .url
        .path_and_query()
        .map_or("/", |p| p.as_str())
        .to_owned();
    let mut request = Request::new(Full::new(ask.body));
    *request.method_mut() = ask.method;
    *request.uri_mut() = path.parse().map_err(|_| FetchError::Url(path))?;
    *request.headers_mut() = ask.headers;
    if !request.headers().contains_key(HOST)
        && let Ok(value) = HeaderValue::from_str(authority.as_str())
    {
        request.headers_mut().insert(HOST, value);
    }
    let (parts, body) = sender
        .send_request(request)
        .await
        .map_err(FetchError::Transfer)?
        .into_parts();
    let body = body
        .collect()
        .await
        .map_err(FetchError::Transfer)?
        .to_bytes();
    Ok(Response::from_parts(parts, body))
}

/// The first address of `host` that accepts.
async fn dial(host: &str, port: u16) -> Result<TcpStream, FetchError> {
    let addresses: Vec<_> = tokio::net::lookup_host((host, port))
        .await
        .map_err(|_| FetchError::Resolve(host.to_owned()))?
        .collect();
    let mut last = None;
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = Some(FetchError::Connect(address.to_string(), error)),
        }
    }
    Err(last.unwrap_or_else(|| FetchError::Resolve(host.to_owned())))
}
