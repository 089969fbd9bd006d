//! A waypoint in the process of a test: one worker, one service, and a backend that keeps what it is
//! sent and understands it in one way or not at all.

use std::sync::Arc;
use std::time::Duration;

use ambit_model::Text;
use ambit_model::service::{AppProtocol, NamespacedHostname};
use ambit_model::state::Change;
use ambit_model::workload::NetworkAddress;
use ambit_model::{Identity, Service, Workload};
use ambit_proxy_core::certs::CertificateManager;
use ambit_proxy_core::metrics::{HttpTelemetry, Telemetry};
use ambit_proxy_core::store;
use ambit_runtime::config::Env;
use ambit_runtime::metrics::Registry;
use ambit_testkit::TestCa;
use ambit_transport::hbone::pool::Pool as Tunnels;
use bytes::Bytes;
use http::Response;
use http_body_util::Full;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cluster::Clusters;
use crate::config::Config;
use crate::dispatch::Destination;
use crate::export::{self, Exporter};
use crate::health::Loads;
use crate::serve::{self, Inbound};
use crate::shared::{Client, Shared, Worker};
use crate::sniff::Protocol;
use crate::state::Store;
use crate::tcp;
use crate::upstream::Pool;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(10);

/// Longest time for the head of a request here.
pub(crate) const HEAD_TIMEOUT: Duration = Duration::from_millis(500);

/// A request as the backend understood it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Got {
    /// Method, target and version.
    pub(crate) line: String,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Got {
    /// Values of a header.
    pub(crate) fn values(&self, name: &str) -> Vec<&str> {
        let of_name = self.headers.iter().filter(|(n, _)| n == name);
        of_name.map(|(_, value)| value.as_str()).collect()
    }
}

/// What the backend got, and what it could not understand.
#[derive(Debug, Default)]
struct Seen {
    requests: Vec<Got>,
    ambiguous: Vec<String>,
}

/// See the module's description.
pub(crate) struct Testbed {
    inbound: Inbound,
    seen: Arc<Mutex<Seen>>,
    writer: store::Writer,
    registry: Registry,
    _certificates: tempfile::TempDir,
}

impl Testbed {
    /// A waypoint for the service `echo`, port 80 of HTTP.
    pub(crate) async fn new() -> Self {
        Self::with(&[]).await
    }

    /// The same with more settings.
    pub(crate) async fn with(settings: &[(&str, &str)]) -> Self {
        let seen = Arc::<Mutex<Seen>>::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(backend(listener, seen.clone()));

        let folder = tempfile::tempdir().unwrap();
        let ca = TestCa::new("test").unwrap();
        std::fs::write(folder.path().join("ca-cert.pem"), ca.root()).unwrap();
        std::fs::write(folder.path().join("ca-key.pem"), ca.key()).unwrap();
        let (store, mut writer) = store::new(None);
        let service = service(port);
        writer.apply(vec![
            Change::Service(Arc::new(service.clone())),
            Change::Workload(Arc::new(endpoint())),
        ]);
        let registry = Registry::new();
        let shared = shared(store, folder.path(), &registry, settings);
        let (exporter, waiting) = Exporter::new();
        let worker = Arc::new(Worker {
            exporter,
            handle: Handle::current(),
            tunnels: Tunnels::new(shared.config.pool),
            pool: Pool::default(),
            clusters: Clusters::default(),
            shared,
        });
        tokio::spawn(export::run(worker.clone(), waiting));
        let client = Client {
            identity: Some("spiffe://cluster.local/ns/shop/sa/client".parse().unwrap()),
            address: "10.0.0.9:1234".parse().unwrap(),
            workload: None,
            baggage: None,
        };
        let inbound = Inbound {
            worker,
            client: Arc::new(client),
            destination: Arc::new(Destination::Service(Arc::new(service), 80)),
            asked: "10.1.0.1:80".parse().unwrap(),
            server_name: None,
        };
        Self {
            inbound,
            seen,
            writer,
            registry,
            _certificates: folder,
        }
    }

    /// What the whole process has.
    pub(crate) fn shared(&self) -> &Shared {
        &self.inbound.worker.shared
    }

    /// Something else is known of the mesh.
    pub(crate) fn know(&mut self, changes: Vec<Change>) {
        self.writer.apply(changes);
    }

    /// What the backend got since the last look.
    pub(crate) fn take(&self) -> Vec<Got> {
        std::mem::take(&mut self.seen.lock().requests)
    }

    /// The metrics, as they are read.
    pub(crate) fn metrics(&self) -> String {
        self.registry.encode()
    }

    /// Waits until collectors were told all there is.
    pub(crate) async fn flush(&self) {
        let flushing = self.inbound.worker.exporter.flush();
        tokio::time::timeout(PATIENCE, flushing)
            .await
            .expect("an end");
    }

    /// What is known of requests.
    pub(crate) fn l7(&self) -> Store {
        self.inbound.worker.shared.l7.clone()
    }

    /// A connection to it.
    pub(crate) fn connect(&self, protocol: Protocol) -> tokio::io::DuplexStream {
        let (client, server) = tokio::io::duplex(256 * 1024);
        tokio::spawn(serve::connection(self.inbound.clone(), protocol, server));
        client
    }

    /// A connection to it that is not HTTP.
    pub(crate) async fn connect_tcp(&self) -> TcpStream {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let client = TcpStream::connect(address).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        let inbound = self.inbound.clone();
        tokio::spawn(async move {
            let Inbound {
                worker,
                client,
                destination,
                asked,
                ..
            } = inbound;
            tcp::serve(&worker, &client, &destination, asked, Bytes::new(), server).await;
        });
        client
    }

    /// Sends bytes on a connection of HTTP/1 and no more, and reads until the other end has ended:
    /// what came back, and what the backend got.
    ///
    /// # Panics
    /// When the backend got something that has more than one meaning.
    pub(crate) async fn exchange(&self, bytes: &[u8]) -> (Vec<u8>, Vec<Got>) {
        let mut client = self.connect(Protocol::Http1);
        let both = async {
            // The other end may have closed already: what it said still counts.
            let _ = client.write_all(bytes).await;
            let _ = client.shutdown().await;
            let mut answer = Vec::new();
            let _ = client.read_to_end(&mut answer).await;
            answer
        };
        let answer = tokio::time::timeout(PATIENCE, both).await.expect("an end");
        let seen = std::mem::take(&mut *self.seen.lock());
        assert_eq!(seen.ambiguous, Vec::<String>::new());
        (answer, seen.requests)
    }
}

fn shared(
    store: store::Store,
    certificates: &std::path::Path,
    registry: &Registry,
    more: &[(&str, &str)],
) -> Arc<Shared> {
    let more = more
        .iter()
        .map(|(name, value)| (*name, (*value).to_owned()));
    let settings = [
        ("POD_NAMESPACE", "shop".to_owned()),
        ("GATEWAY_NAME", "waypoint".to_owned()),
        ("XDS_ADDRESS", String::new()),
        ("FAKE_CA", "true".to_owned()),
        ("FAKE_CA_DIR", certificates.display().to_string()),
    ];
    let env: Env = settings
        .into_iter()
        .chain(more)
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
    let mut config = Config::from_env(&env).unwrap();
    config.head_timeout = HEAD_TIMEOUT;
    Arc::new(Shared {
        store,
        l7: Store::new("shop".into(), "waypoint".into()),
        certificates: CertificateManager::start(config.certificates.source().unwrap()),
        identity: Identity {
            trust_domain: "cluster.local".into(),
            namespace: "shop".into(),
            service_account: "waypoint".into(),
        },
        telemetry: Telemetry::register(registry),
        http: HttpTelemetry::register(registry),
        loads: Loads::default(),
        tasks: TaskTracker::new(),
        draining: CancellationToken::new(),
        end: CancellationToken::new(),
        config,
    })
}

/// The service that is asked for.
pub(crate) fn service_key() -> NamespacedHostname {
    NamespacedHostname::new("shop", "echo.shop.svc.cluster.local")
}

fn service(port: u16) -> Service {
    service_of(service_key(), port)
}

/// A service whose port 80 is this port of its endpoints.
pub(crate) fn service_of(key: NamespacedHostname, port: u16) -> Service {
    let NamespacedHostname {
        namespace,
        hostname,
    } = key;
    Service {
        name: "echo".into(),
        namespace,
        hostname,
        vips: vec![NetworkAddress {
            network: Text::default(),
            address: "10.1.0.1".parse().unwrap(),
        }],
        ports: [(80, port)].into(),
        app_protocols: [(80, AppProtocol::Http11)].into(),
        ..Service::default()
    }
}

fn endpoint() -> Workload {
    endpoint_of("echo-1", service_key())
}

/// An endpoint of a service, on this machine.
pub(crate) fn endpoint_of(name: &str, service: NamespacedHostname) -> Workload {
    Workload {
        uid: name.into(),
        name: name.into(),
        namespace: "shop".into(),
        addresses: vec!["127.0.0.1".parse().unwrap()],
        services: [(service, Default::default())].into(),
        ..Workload::default()
    }
}

async fn backend(listener: TcpListener, seen: Arc<Mutex<Seen>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let seen = seen.clone();
        tokio::spawn(async move {
            let mut first = [0; 3];
            match stream.peek(&mut first).await {
                Ok(3) if first == *b"PRI" => serve_http2(stream).await,
                _ => serve_one(stream, seen).await,
            }
        });
    }
}

async fn serve_http2(stream: TcpStream) {
    let ok = service_fn(|_| async {
        Ok::<_, std::convert::Infallible>(Response::new(Full::new(Bytes::from("ok"))))
    });
    let server = http2::Builder::new(TokioExecutor::new());
    let _ = server.serve_connection(TokioIo::new(stream), ok).await;
}

/// Answers requests one after the other, and keeps them.
async fn serve_one(mut stream: TcpStream, seen: Arc<Mutex<Seen>>) {
    let mut buffer = Vec::new();
    loop {
        match understand(&buffer) {
            Ok(Some((got, used))) => {
                buffer.drain(..used);
                let head = got.line.starts_with("HEAD ");
                seen.lock().requests.push(got);
                let body = if head { "" } else { "ok" };
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{body}");
                if stream.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
            Ok(None) => match stream.read_buf(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            },
            Err(why) => {
                let text = String::from_utf8_lossy(&buffer);
                seen.lock().ambiguous.push(format!("{why}: {text:?}"));
                return;
            }
        }
    }
}

/// The first request and its length, `None` if it is not whole yet: only what RFC 9112 has one
/// meaning for.
fn understand(bytes: &[u8]) -> Result<Option<(Got, usize)>, &'static str> {
    let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") else {
        return Ok(None);
    };
    let head = std::str::from_utf8(&bytes[..end]).map_err(|_| "no text")?;
    let mut lines = head.split("\r\n");
    let mut got = Got {
        line: lines.next().unwrap_or_default().to_owned(),
        ..Got::default()
    };
    let words = got.line.split(' ').count();
    if words != 3 || head.replace("\r\n", "").contains(['\r', '\n', '\0']) {
        return Err("a head that is none");
    }
    for line in lines {
        let (name, value) = line.split_once(':').ok_or("a line without a colon")?;
        let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        if name.is_empty() || !name.bytes().all(token) {
            return Err("a name that is none");
        }
        let pair = (name.to_ascii_lowercase(), value.trim().to_owned());
        got.headers.push(pair);
    }
    if got.values("host").len() != 1 {
        return Err("not one host");
    }
    let start = end + 4;
    let used = match (
        &got.values("content-length")[..],
        &got.values("transfer-encoding")[..],
    ) {
        ([], []) => start,
        ([length], []) if length.bytes().all(|b| b.is_ascii_digit()) => {
            let length: usize = length.parse().map_err(|_| "a length that is none")?;
            let Some(body) = bytes.get(start..start + length) else {
                return Ok(None);
            };
            got.body = body.to_vec();
            start + length
        }
        ([], ["chunked"]) => match chunks(&bytes[start..])? {
            Some((body, used)) => {
                got.body = body;
                start + used
            }
            None => return Ok(None),
        },
        _ => return Err("two lengths"),
    };
    Ok(Some((got, used)))
}

fn chunks(bytes: &[u8]) -> Result<Option<(Vec<u8>, usize)>, &'static str> {
    let (mut body, mut at) = (Vec::new(), 0);
    loop {
        let Some(line) = bytes[at..].windows(2).position(|w| w == b"\r\n") else {
            return Ok(None);
        };
        let size = std::str::from_utf8(&bytes[at..at + line]).map_err(|_| "a size that is none")?;
        let size = usize::from_str_radix(size, 16).map_err(|_| "a size that is none")?;
        at += line + 2;
        if size == 0 {
            // Trailers, up to an empty line.
            let Some(end) = bytes[at..].windows(2).position(|w| w == b"\r\n") else {
                return Ok(None);
            };
            if end == 0 {
                return Ok(Some((body, at + 2)));
            }
            let Some(end) = bytes[at..].windows(4).position(|w| w == b"\r\n\r\n") else {
                return Ok(None);
            };
            return Ok(Some((body, at + end + 4)));
        }
        let Some(data) = bytes.get(at..at + size + 2) else {
            return Ok(None);
        };
        if !data.ends_with(b"\r\n") {
            return Err("a chunk without an end");
        }
        body.extend_from_slice(&data[..size]);
        at += size + 2;
    }
}
