//! Keys of the issuers of tokens, fetched off every path: what is here stays until something newer
//! is, however long an issuer cannot be reached.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use ambit_model::Text;
use ambit_translate::authentications::{KeySource, is_key_set};
use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use crate::engine::Change;
use crate::state::State;

/// How old keys become (`PILOT_JWT_PUB_KEY_REFRESH_INTERVAL` of Istio).
const FRESH: Duration = Duration::from_secs(20 * 60);
/// First pause after a failure; each further one is twice as long.
const RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(60);
/// How long one fetch may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// No set of keys is larger.
const LARGEST: usize = 1 << 20;
const REDIRECTS: usize = 5;
/// Fetches at a time: an issuer that hangs holds up no other.
const AT_ONCE: usize = 8;

/// Fetches the keys that authentications ask for, and tells the engine.
pub struct Keys {
    /// Knows what is asked for.
    pub state: Arc<State>,
    /// Where keys go.
    pub changes: mpsc::Sender<Change>,
    /// Told when something else may be asked for.
    pub wake: Arc<Notify>,
}

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error("{0:?} is no address")]
    Address(String),
    #[error("{0}: {1}")]
    Unreachable(Uri, String),
    #[error("{0} answers {1}")]
    Status(Uri, StatusCode),
    #[error("the answer of {0} cannot be read: {1}")]
    Body(Uri, String),
    #[error("{0} leads on to nowhere")]
    Redirect(Uri),
    #[error("more than {REDIRECTS} redirects")]
    Redirects,
    #[error("its configuration names no jwks_uri")]
    Discovery,
    #[error("{0} is no JSON Web Key Set")]
    NotKeys(String),
    #[error("no answer within {TIMEOUT:?}")]
    Timeout,
}

/// What is known of a source.
#[derive(Debug)]
struct Known {
    /// When to ask next.
    next: Instant,
    failures: u32,
    keys: Option<Text>,
}

impl Keys {
    /// Runs for ever.
    pub async fn run(self) {
        let fetcher = match Fetcher::new() {
            Ok(fetcher) => fetcher,
            Err(error) => {
                tracing::error!("keys of issuers cannot be fetched: {error}");
                return;
            }
        };
        let mut known: BTreeMap<KeySource, Known> = BTreeMap::new();
        loop {
            let wanted: BTreeSet<KeySource> = self.state.read().key_sources();
            known.retain(|source, _| wanted.contains(source));
            for source in wanted {
                known.entry(source).or_insert_with(|| Known {
                    next: Instant::now(),
                    failures: 0,
                    keys: None,
                });
            }
            self.fetch_due(&fetcher, &mut known).await;
            let next = known.values().map(|k| k.next).min();
            let next = next.unwrap_or_else(|| Instant::now() + FRESH);
            tokio::select! {
                () = self.wake.notified() => {}
                () = tokio::time::sleep_until(next) => {}
            }
        }
    }

    async fn fetch_due(&self, fetcher: &Fetcher, known: &mut BTreeMap<KeySource, Known>) {
        let now = Instant::now();
        let due: Vec<KeySource> = known
            .iter()
            .filter(|(_, known)| known.next <= now)
            .map(|(source, _)| source.clone())
            .collect();
        for some in due.chunks(AT_ONCE) {
            let fetches = some.iter().map(|source| fetcher.keys(source));
            let results = futures_util::future::join_all(fetches).await;
            for (source, result) in some.iter().zip(results) {
                let Some(known) = known.get_mut(source) else {
                    continue;
                };
                self.note(source, known, result).await;
            }
        }
    }

    async fn note(&self, source: &KeySource, known: &mut Known, result: Result<Text, FetchError>) {
        match result {
            Ok(keys) => {
                known.failures = 0;
                known.next = Instant::now() + FRESH;
                if known.keys.as_ref() != Some(&keys) {
                    tracing::info!("{source} has new keys");
                    known.keys = Some(keys.clone());
                    let _ = self.changes.send(Change::Keys(source.clone(), keys)).await;
                }
            }
            Err(error) => {
                let pause = RETRY.saturating_mul(2u32.saturating_pow(known.failures));
                known.failures += 1;
                known.next = Instant::now() + pause.min(LONGEST_RETRY);
                let kept = match known.keys.is_some() {
                    true => "; the last ones are kept",
                    false => "; tokens of this issuer are refused until there are some",
                };
                tracing::warn!("{source} gives no keys: {error}{kept}");
            }
        }
    }
}

/// An HTTP client that trusts the machine's roots.
struct Fetcher(Client<HttpsConnector<HttpConnector>, Empty<Bytes>>);

impl Fetcher {
    fn new() -> Result<Self, rustls::Error> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?;
        let mut roots = rustls::RootCertStore::empty();
        roots.add_parsable_certificates(ambit_runtime::roots::system());
        let tls = tls.with_root_certificates(roots).with_no_client_auth();
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .build();
        Ok(Self(Client::builder(TokioExecutor::new()).build(connector)))
    }

    /// The keys of a source, as text.
    async fn keys(&self, source: &KeySource) -> Result<Text, FetchError> {
        let fetch = async {
            let uri = match source {
                KeySource::Uri(uri) => uri.to_string(),
                KeySource::Issuer(issuer) => self.discover(issuer).await?,
            };
            let keys = self.get(&uri).await?;
            match is_key_set(&keys) {
                true => Ok(keys.into()),
                false => Err(FetchError::NotKeys(uri)),
            }
        };
        let fetched = tokio::time::timeout(TIMEOUT, fetch).await;
        fetched.unwrap_or(Err(FetchError::Timeout))
    }

    /// Where an issuer says that its keys are (OpenID Connect Discovery 1.0, 4).
    async fn discover(&self, issuer: &str) -> Result<String, FetchError> {
        let issuer = issuer.trim_end_matches('/');
        let configuration = format!("{issuer}/.well-known/openid-configuration");
        let text = self.get(&configuration).await?;
        let found: Option<serde_json::Value> = serde_json::from_str(&text).ok();
        let uri = found.as_ref().and_then(|found| found["jwks_uri"].as_str());
        uri.map(str::to_owned).ok_or(FetchError::Discovery)
    }

    async fn get(&self, address: &str) -> Result<String, FetchError> {
        let parse = |text: &str| {
            text.parse()
                .map_err(|_| FetchError::Address(text.to_owned()))
        };
        let mut uri: Uri = parse(address)?;
        for _ in 0..=REDIRECTS {
            let mut request = Request::new(Empty::new());
            *request.uri_mut() = uri.clone();
            let accepted = HeaderValue::from_static("application/json");
            request.headers_mut().insert(header::ACCEPT, accepted);
            let response = self.0.request(request).await;
            let (head, body) = response
                .map_err(|e| FetchError::Unreachable(uri.clone(), ambit_wire::error_chain(&e)))?
                .into_parts();
            if head.status.is_redirection() {
                let location = head.headers.get(header::LOCATION);
                let location = location.and_then(|value| value.to_str().ok());
                uri = parse(location.ok_or(FetchError::Redirect(uri))?)?;
                continue;
            }
            if head.status != StatusCode::OK {
                return Err(FetchError::Status(uri, head.status));
            }
            let bad = |why: String| FetchError::Body(uri.clone(), why);
            let body = Limited::new(body, LARGEST).collect().await;
            let body = body.map_err(|e| bad(e.to_string()))?.to_bytes();
            return String::from_utf8(body.to_vec()).map_err(|e| bad(e.to_string()));
        }
        Err(FetchError::Redirects)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    const KEYS: &str = r#"{"keys":[]}"#;

    /// An issuer that answers by path.
    async fn issuer() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let own = base.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut seen = vec![0; 4096];
                let count = stream.read(&mut seen).await.unwrap_or_default();
                let text = String::from_utf8_lossy(&seen[..count]).into_owned();
                let path = text.split(' ').nth(1).unwrap_or_default();
                let (status, extra, body) = match path {
                    "/keys" => ("200 OK", String::new(), KEYS.to_owned()),
                    "/moved" => (
                        "302 Found",
                        format!("location: {own}/keys\r\n"),
                        String::new(),
                    ),
                    "/ring" => (
                        "302 Found",
                        format!("location: {own}/ring\r\n"),
                        String::new(),
                    ),
                    "/large" => ("200 OK", String::new(), "x".repeat(LARGEST + 1)),
                    "/.well-known/openid-configuration" => {
                        let body = format!("{{\"jwks_uri\":\"{own}/moved\"}}");
                        ("200 OK", String::new(), body)
                    }
                    "/text" => ("200 OK", String::new(), "hello".to_owned()),
                    _ => ("404 Not Found", String::new(), String::new()),
                };
                let length = body.len();
                let answer = format!(
                    "HTTP/1.1 {status}\r\n{extra}connection: close\r\ncontent-length: {length}\r\n\r\n{body}"
                );
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        base
    }

    #[tokio::test]
    async fn keys_by_address_and_by_discovery() {
        let base = issuer().await;
        let fetcher = Fetcher::new().unwrap();
        let uri = |path: &str| KeySource::Uri(format!("{base}{path}").into());
        assert_eq!(&*fetcher.keys(&uri("/keys")).await.unwrap(), KEYS);
        assert_eq!(&*fetcher.keys(&uri("/moved")).await.unwrap(), KEYS);
        let issuer = KeySource::Issuer(format!("{base}/").into());
        assert_eq!(&*fetcher.keys(&issuer).await.unwrap(), KEYS);
        for bad in ["/text", "/ring", "/large", "/none"] {
            assert!(fetcher.keys(&uri(bad)).await.is_err(), "{bad}");
        }
        let nobody = KeySource::Uri("http://127.0.0.1:1/keys".into());
        assert!(fetcher.keys(&nobody).await.is_err());
    }
}
