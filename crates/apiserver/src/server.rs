//! The server: listeners, connections, background tasks, and the handle that stops them.

use crate::{
    api::{Api, Settings},
    authn::{self, User, tokens::TokenIssuer},
    gc, handlers, kubeconfig,
    kubelet::KubeletClient,
    namespaces,
    pki::{ClusterPki, KeyCert, PkiError},
    rbac,
    registry::Registry,
    services::Allocator,
    store::Store,
    tls,
};
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use ipnet::IpNet;
use std::{
    convert::Infallible,
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};
use tokio::{net::TcpStream, sync::mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Issuer of service account tokens, as in a kubeadm cluster.
const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
/// How long a client may take for its handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long open requests may take when the server stops.
const DRAIN: Duration = Duration::from_secs(2);
/// Events are kept this long.
const EVENT_LIFE: Duration = Duration::from_secs(3600);

/// Why the server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Keys or certificates.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// A listener.
    #[error("cannot listen for API clients: {0}")]
    Listen(#[from] io::Error),
}

/// Collects what a server needs.
#[derive(Debug, Default)]
pub struct Builder {
    pki: Option<ClusterPki>,
    listeners: Vec<TcpListener>,
    names: Vec<String>,
    advertise: Option<SocketAddr>,
    service_cidrs: Vec<IpNet>,
    version: Option<String>,
    url: Option<String>,
}

/// The Kubernetes API server.
#[derive(Debug)]
pub struct Server;

impl Server {
    /// A server that, unless told otherwise, listens on a free port of 127.0.0.1 with new keys.
    pub fn builder() -> Builder {
        Builder::default()
    }
}

impl Builder {
    /// The cluster's keys; default: new ones.
    pub fn pki(mut self, pki: ClusterPki) -> Self {
        self.pki = Some(pki);
        self
    }

    /// Serve on a listener that is bound already; may be called several times. The listener may
    /// belong to another network namespace than the one the server runs in.
    pub fn listener(mut self, listener: TcpListener) -> Self {
        self.listeners.push(listener);
        self
    }

    /// One more DNS name or address that the serving certificate is valid for.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.names.push(name.into());
        self
    }

    /// Where pods reach the server: the endpoint of the service `kubernetes`. Default: the first
    /// listener's address.
    pub fn advertise(mut self, address: SocketAddr) -> Self {
        self.advertise = Some(address);
        self
    }

    /// Addresses of services, at most one range of each family, the default family first; default
    /// 10.96.0.0/16. `kubernetes` gets the first address.
    pub fn service_cidrs(mut self, cidrs: Vec<IpNet>) -> Self {
        self.service_cidrs = cidrs;
        self
    }

    /// `gitVersion` to report.
    pub fn version(mut self, version: impl Into<String>) -> Self {
        self.version = Some(version.into());
        self
    }

    /// The URL that [`Handle::url`] and kubeconfigs name; default: the first listener's address.
    pub fn url(mut self, url: impl Into<String>) -> Self {
        self.url = Some(url.into());
        self
    }

    /// Starts serving. When this returns, the default objects exist and clients can connect.
    pub async fn start(mut self) -> Result<Handle, StartError> {
        if self.listeners.is_empty() {
            self.listeners
                .push(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?);
        }
        let mut addresses = Vec::new();
        for listener in &self.listeners {
            listener.set_nonblocking(true)?;
            addresses.push(listener.local_addr()?);
        }
        let first = addresses[0];
        let advertise = self.advertise.unwrap_or(first);
        if self.service_cidrs.is_empty() {
            let range = ipnet::Ipv4Net::new_assert(Ipv4Addr::new(10, 96, 0, 0), 16);
            self.service_cidrs.push(range.into());
        }
        let pki = match self.pki {
            Some(pki) => pki,
            None => ClusterPki::generate(Vec::<String>::new())?,
        };
        let services = Allocator::new(self.service_cidrs);
        let names = serving_names(&self.names, &addresses, advertise, &services);
        let acceptor = TlsAcceptor::from(Arc::new(tls::server(&pki, &pki.serving(&names)?)?));
        let (garbage, queue) = mpsc::unbounded_channel();
        let version = self.version.unwrap_or_else(|| "v1.35.0+ambit".to_string());
        let api = Arc::new(Api {
            store: Store::default(),
            registry: Registry::default(),
            tokens: TokenIssuer::new(pki.service_account_key(), ISSUER)?,
            services,
            kubelets: KubeletClient::new(&pki)?,
            hooks: Default::default(),
            settings: Settings {
                advertise,
                issuer: ISSUER.into(),
                version,
            },
            garbage,
            stop: CancellationToken::new(),
            pki,
        });
        namespaces::bootstrap(&api);
        rbac::bootstrap(&api);
        let tasks = TaskTracker::new();
        tasks.spawn(gc::run(api.clone(), queue));
        tasks.spawn(forget_events(api.clone()));
        for listener in self.listeners {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            tasks.spawn(accept(
                api.clone(),
                listener,
                acceptor.clone(),
                tasks.clone(),
            ));
        }
        let url = self.url.unwrap_or_else(|| format!("https://{first}"));
        tracing::info!(%url, version = api.settings.version, "API server started");
        Ok(Handle {
            api,
            addresses,
            url,
            tasks,
        })
    }
}

/// The names that every serving certificate has, and the given ones.
fn serving_names(
    own: &[String],
    addresses: &[SocketAddr],
    advertise: SocketAddr,
    services: &Allocator,
) -> Vec<String> {
    let mut names: Vec<String> = [
        "localhost",
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
        "127.0.0.1",
    ]
    .map(String::from)
    .to_vec();
    names.extend(services.addresses(1).map(|address| address.to_string()));
    names.push(advertise.ip().to_string());
    names.extend(
        addresses
            .iter()
            .filter(|a| !a.ip().is_unspecified())
            .map(|a| a.ip().to_string()),
    );
    names.extend(own.iter().cloned());
    names.sort();
    names.dedup();
    names
}

async fn accept(
    api: Arc<Api>,
    listener: tokio::net::TcpListener,
    acceptor: TlsAcceptor,
    tasks: TaskTracker,
) {
    loop {
        let accepted = tokio::select! {
            () = api.stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                tasks.spawn(connection(api.clone(), stream, peer, acceptor.clone()));
            }
            Err(error) => {
                // Out of file descriptors, most likely: wait for some to be closed.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn connection(api: Arc<Api>, stream: TcpStream, peer: SocketAddr, acceptor: TlsAcceptor) {
    // Answers and watch events are small and must go out at once.
    let _ = stream.set_nodelay(true);
    let stream = match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%peer, %error, "TLS handshake failed"),
        Err(_) => return tracing::debug!(%peer, "TLS handshake took too long"),
    };
    let certificate: Arc<Option<User>> = Arc::new(
        stream
            .get_ref()
            .1
            .peer_certificates()
            .and_then(|c| c.first())
            .and_then(authn::from_certificate),
    );
    let stop = api.stop.clone();
    let service = service_fn(move |request| {
        let (api, certificate) = (api.clone(), certificate.clone());
        async move { Ok::<_, Infallible>(handlers::serve(api, certificate, request).await) }
    });
    let mut http = std::pin::pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades()
    );
    let result = tokio::select! {
        result = http.as_mut() => result,
        () = stop.cancelled() => {
            http.as_mut().graceful_shutdown();
            match tokio::time::timeout(DRAIN, http).await {
                Ok(result) => result,
                Err(_) => Ok(()),
            }
        }
    };
    if let Err(error) = result {
        tracing::debug!(%peer, %error, "connection ended");
    }
}

/// Events go after an hour, as in Kubernetes.
async fn forget_events(api: Arc<Api>) {
    loop {
        tokio::select! {
            () = api.stop.cancelled() => return,
            () = tokio::time::sleep(Duration::from_secs(60)) => {}
        }
        let limit = jiff::Timestamp::now().as_second() - EVENT_LIFE.as_secs() as i64;
        for event in api.store.list("events", None).1 {
            let value = event.value();
            let time = [
                "/lastTimestamp",
                "/series/lastObservedTime",
                "/eventTime",
                "/metadata/creationTimestamp",
            ]
            .iter()
            .find_map(|p| {
                crate::object::text(value, p)
                    .parse::<jiff::Timestamp>()
                    .ok()
            });
            if time.is_some_and(|t| t.as_second() < limit) {
                let key = crate::store::Key::new(
                    &"events".into(),
                    crate::object::namespace(value),
                    crate::object::name(value),
                );
                // Someone may have renewed it just now; then it stays.
                let _ = api.store.delete(&key, event.revision());
            }
        }
    }
}

/// A running server. Dropping it stops the server without waiting; [`Handle::stop`] waits.
#[derive(Debug)]
pub struct Handle {
    api: Arc<Api>,
    addresses: Vec<SocketAddr>,
    url: String,
    tasks: TaskTracker,
}

impl Handle {
    /// `https://127.0.0.1:port` of the first listener, or what was configured.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Addresses of all listeners.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The cluster's CA certificate, PEM.
    pub fn ca_pem(&self) -> &str {
        self.api.pki.ca_pem()
    }

    /// The cluster's keys, to make certificates of nodes and users.
    pub fn pki(&self) -> &ClusterPki {
        &self.api.pki
    }

    /// A kubeconfig of the administrator, for [`Handle::url`].
    pub fn admin_kubeconfig(&self) -> Result<String, PkiError> {
        Ok(self.kubeconfig("ambit", &self.api.pki.admin()?))
    }

    /// A kubeconfig for a user's certificate, for [`Handle::url`].
    pub fn kubeconfig(&self, name: &str, user: &KeyCert) -> String {
        kubeconfig::with_certificate(name, &self.url, self.ca_pem(), user)
    }

    /// How many objects there are, by resource.
    pub fn object_counts(&self) -> std::collections::BTreeMap<Arc<str>, usize> {
        self.api.store.counts()
    }

    /// Stops accepting, ends watches, waits for open requests.
    pub async fn stop(self) {
        self.api.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.api.stop.cancel();
    }
}
