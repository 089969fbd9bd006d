//! The control plane as a process: everything is started here, in order.
//!
//! Certificates first, since without the authority nothing can be served; then the watches; the
//! gRPC port is open from the beginning, and discovery streams wait for the first complete state.
//! `/ready` is true when both are there, so that no client is sent here too early.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ambit_kube_api::{ClientError, ClientOptions, client, names};
use ambit_runtime::config::{ConfigError, Env};
use ambit_runtime::http::{BindError, Router, Server as HttpServer, text};
use ambit_runtime::metrics::{self, Registry};
use ambit_runtime::ready::Ready;
use ambit_runtime::signals::Shutdown;
use ambit_runtime::{admin, build_info, log, process};
use ambit_wire::tls::{Incoming, ServerTlsError, server_config};
use ambit_wire::xds::Logs;
use ambit_wire::{ca as wire_ca, xds};
use http::StatusCode;
use kube::Client;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc, watch};
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server as GrpcServer;

use crate::args::{Args, Command, Discovery, Settings, without_ipv6};
use crate::auth::{Reviewer, XdsAuthenticator};
use crate::ca::{CaError, CertificateService, Distribution, Keeper};
use crate::config_maps::ConfigMaps;
use crate::debug::Pages;
use crate::deployer::Deployer;
use crate::engine::{self, Change};
use crate::keys::Keys;
use crate::leader::Candidate;
use crate::metrics::Metrics;
use crate::serving::{self, ServingError};
use crate::state::State;
use crate::status_writer::StatusWriter;
use crate::{publish, watch as watches};

/// Changes that wait for the engine.
const QUEUE: usize = 4096;
/// Changes that are taken in at once.
const BATCH: usize = 1024;
/// Pings to clients, and how long an answer may take.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait for clients to go when the process ends: their streams never end by themselves.
const DRAIN: Duration = Duration::from_secs(3);
/// A connection that is too old is closed after this time, if its client does not go by itself.
const AGE_GRACE: Duration = Duration::from_secs(10);

/// Why the control plane cannot run.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// A setting is not valid.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The log cannot be started.
    #[error("the log cannot be started: {0}")]
    Log(#[from] log::InitError),
    /// There is no API server to talk to.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// There is no certificate authority.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// There is no serving certificate.
    #[error(transparent)]
    Serving(#[from] ServingError),
    /// TLS cannot be set up.
    #[error(transparent)]
    Tls(#[from] ServerTlsError),
    /// A port of a page cannot be opened.
    #[error(transparent)]
    Http(#[from] BindError),
    /// A gRPC port cannot be opened.
    #[error("port {address} cannot be opened: {source}; is another process using it?")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What happened.
        source: io::Error,
    },
    /// The signals of the process cannot be handled.
    #[error("signals cannot be handled: {0}")]
    Signals(#[source] io::Error),
    /// The gRPC server ended by itself.
    #[error("the gRPC server ended: {0}")]
    Grpc(#[from] tonic::transport::Error),
}

/// Runs the control plane until it is told to stop.
///
/// # Errors
/// See [`ControlError`]. What can pass (an API server that is away) is waited for.
pub async fn run(args: Args) -> Result<(), ControlError> {
    let Command::Discovery(args) = args.command;
    let env = Env::process();
    let mut options = log::Options::from_env(&env)?;
    if std::env::var_os("RUST_LOG").is_none() {
        options.directives = args.log_directives();
    }
    if args.log_as_json {
        options.format = log::Format::Json;
    }
    let _log = log::init(&options)?;
    let settings = Settings::from_env(&env, &args)?;
    if let Err(error) = process::raise_open_file_limit() {
        tracing::warn!("{error}");
    }
    let version = build_info::build_info().version;
    tracing::info!(
        "control plane {version}, revision {}",
        settings.mesh.revision
    );
    let shutdown = Shutdown::on_signals().map_err(ControlError::Signals)?;
    let options = ClientOptions {
        kubeconfig: args.kubeconfig.clone(),
        context: None,
    };
    let client = client(&options).await?;
    let effective = serde_json::to_value(env.effective()).unwrap_or(Value::Null);
    let running = start(client, &args, settings, effective).await?;
    shutdown.requested().await;
    running.stop().await;
    Ok(())
}

/// A running control plane.
#[derive(Debug)]
pub struct Running {
    /// Where discovery and certificates are served over TLS.
    pub secure_grpc: SocketAddr,
    /// Where discovery is served without TLS.
    pub grpc: Option<SocketAddr>,
    /// Where readiness and debug pages are.
    pub http: Vec<SocketAddr>,
    /// Where metrics are.
    pub monitoring: Vec<SocketAddr>,
    /// Readiness.
    pub ready: Ready,
    stop: CancellationToken,
    watches: CancellationToken,
}

impl Running {
    /// Stops it: clients are sent away, and the lease is given back.
    pub async fn stop(self) {
        tracing::info!("stopping");
        self.stop.cancel();
        tokio::time::sleep(DRAIN).await;
        self.watches.cancel();
    }

    /// Ends it at once, as a crash would.
    pub fn kill(self) {
        self.watches.cancel();
        self.stop.cancel();
    }
}

/// Starts the control plane; returns as soon as its ports are open. `effective` is what the debug
/// page of the settings shows.
///
/// # Errors
/// See [`ControlError`].
pub async fn start(
    client: Client,
    args: &Discovery,
    settings: Settings,
    effective: Value,
) -> Result<Running, ControlError> {
    let (stop, watches) = (CancellationToken::new(), CancellationToken::new());
    let ready = Ready::new();
    let registry = Registry::new();
    let metrics = Metrics::register(&registry);
    registry.add_build("pilot", build_info::build_info().version);
    registry.add_process();
    registry.add_tokio(&tokio::runtime::Handle::current());
    let synced = ready.task("watches");
    let http = HttpServer::bind("readiness", &[args.http]).await?;
    let monitoring = HttpServer::bind("monitoring", &[args.monitoring]).await?;
    let (http_addresses, monitoring_addresses) = (http.addresses(), monitoring.addresses());
    monitoring.serve(
        metrics::routes(registry).merge(version_route()),
        stop.clone(),
    );

    let state = Arc::new(State::new(engine::Settings {
        mesh: settings.mesh.clone(),
        system_namespace: settings.namespace.as_str().into(),
        trusted_node_accounts: settings.trusted_node_accounts.clone(),
    }));
    let logs = publish::logs();
    let reviewer = Arc::new(Reviewer::new(client.clone(), settings.audiences.clone()));
    let pages = Pages {
        state: state.clone(),
        logs: logs.clone(),
        settings: Arc::new(effective),
    };
    serve_pages(args, &settings, http, pages, &reviewer, &ready, &stop).await?;

    let keeper = Keeper::new(client.clone(), &settings.namespace);
    let authority = keeper.load_or_make(&settings.mesh.trust_domain).await?;
    let (authority_sender, authority) = watch::channel(Arc::new(authority));
    let expiry = authority.borrow().validity().not_after;
    metrics.set_root_expiry(expiry);
    spawn_until(&watches, keeper.follow(authority_sender));

    let leading = Candidate::new(
        client.clone(),
        &settings.namespace,
        names::LEADER_LEASE,
        &settings.pod_name,
    )
    .start(watches.clone());
    let (namespaces_sender, namespaces) = watch::channel(Vec::new());
    let distribution = Distribution {
        client: client.clone(),
        name: settings.root_config_map.clone(),
        authority: authority.clone(),
        namespaces,
        leading: leading.clone(),
    };
    spawn_until(&watches, distribution.run());
    let wake = Arc::new(Notify::new());
    if settings.write_statuses {
        let writer = StatusWriter {
            client: client.clone(),
            state: state.clone(),
            leading: leading.clone(),
            wake: wake.clone(),
            metrics: metrics.clone(),
        };
        spawn_until(&watches, writer.run());
    }
    let gateways = Arc::new(Notify::new());
    let deployer = Deployer {
        client: client.clone(),
        state: state.clone(),
        settings: settings.waypoint.clone(),
        leading,
        wake: gateways.clone(),
    };
    spawn_until(&watches, deployer.run());

    let (changes, queue) = mpsc::channel(QUEUE);
    let keys = Keys {
        state: state.clone(),
        changes: changes.clone(),
        wake: Arc::new(Notify::new()),
    };
    let key_sources = keys.wake.clone();
    spawn_until(&watches, keys.run());
    let config_maps = ConfigMaps {
        client: client.clone(),
        state: state.clone(),
        changes: changes.clone(),
        wake: Arc::new(Notify::new()),
    };
    let named_maps = config_maps.wake.clone();
    spawn_until(&watches, config_maps.run());
    let config_map = watches::MeshConfigMap {
        namespace: settings.namespace.clone(),
        name: settings.mesh_config_map.clone(),
    };
    watches::start(&client, config_map, &changes, &metrics);
    let pipeline = Pipeline {
        state: state.clone(),
        logs: logs.clone(),
        namespaces: namespaces_sender,
        wake,
        gateways,
        key_sources,
        named_maps,
        metrics: metrics.clone(),
        synced,
    };
    spawn_until(&watches, pipeline.run(queue));

    let certificates = CertificateService {
        reviewer: reviewer.clone(),
        state: state.clone(),
        authority: authority.clone(),
        lifetimes: settings.lifetimes,
        metrics,
    };
    let authenticator = XdsAuthenticator::new(reviewer, state, client);
    let services = Services {
        certificates: Arc::new(certificates),
        authenticator: Arc::new(authenticator),
        logs,
        max_age: args.max_connection_age,
    };
    let names = serving::names(
        &settings.namespace,
        &settings.mesh.revision,
        &settings.mesh.cluster_domain,
        settings.custom_host.as_deref(),
    );
    let certificate = serving::start(authority, names)?;
    let (listener, secure_grpc) = bind(args.secure_grpc).await?;
    let incoming = Incoming::new(listener, server_config(certificate, None)?);
    services.serve(incoming, &stop);
    let grpc = match args.grpc {
        None => None,
        Some(address) => {
            let (listener, address) = bind(address).await?;
            services.serve(TcpListenerStream::new(listener), &stop);
            Some(address)
        }
    };
    Ok(Running {
        secure_grpc,
        grpc,
        http: http_addresses,
        monitoring: monitoring_addresses,
        ready,
        stop,
        watches,
    })
}

fn spawn_until(stop: &CancellationToken, task: impl Future<Output = ()> + Send + 'static) {
    let stop = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = task => {}
        }
    });
}

async fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr), ControlError> {
    let fail = |source| ControlError::Bind { address, source };
    let listener = match TcpListener::bind(address).await {
        Ok(listener) => listener,
        Err(_) if without_ipv6(address) != address => TcpListener::bind(without_ipv6(address))
            .await
            .map_err(fail)?,
        Err(error) => return Err(fail(error)),
    };
    let bound = listener.local_addr().map_err(fail)?;
    Ok((listener, bound))
}

fn version_route() -> Router {
    let info = build_info::build_info();
    let version = format!(
        "{}-{}-{}",
        info.version, info.git_revision, info.build_status
    );
    Router::new().get("/version", move |_| {
        let version = version.clone();
        async move { text(StatusCode::OK, version) }
    })
}

async fn serve_pages(
    args: &Discovery,
    settings: &Settings,
    http: HttpServer,
    pages: Pages,
    reviewer: &Arc<Reviewer>,
    ready: &Ready,
    stop: &CancellationToken,
) -> Result<(), BindError> {
    if args.ctrlz_port != 0 {
        let loopback = ambit_runtime::http::localhost(args.ctrlz_port, false);
        let local = HttpServer::bind("ctrlz", &loopback).await?;
        local.serve(
            admin::with_index(pages.clone().open(), "istiod"),
            stop.clone(),
        );
    }
    let debug = if settings.guard_debug {
        pages.guarded(reviewer)
    } else {
        pages.open()
    };
    http.serve(
        admin::readiness("/ready", ready.clone()).merge(debug),
        stop.clone(),
    );
    Ok(())
}

/// From the changes that the watches deliver to the log that streams are served from.
struct Pipeline {
    state: Arc<State>,
    logs: Logs,
    namespaces: watch::Sender<Vec<ambit_model::Text>>,
    wake: Arc<Notify>,
    gateways: Arc<Notify>,
    key_sources: Arc<Notify>,
    named_maps: Arc<Notify>,
    metrics: Metrics,
    synced: ambit_runtime::ready::Task,
}

impl Pipeline {
    async fn run(self, mut queue: mpsc::Receiver<Change>) {
        let mut batch = Vec::with_capacity(BATCH);
        while queue.recv_many(&mut batch, BATCH).await > 0 {
            self.take(&mut batch);
        }
    }

    fn take(&self, batch: &mut Vec<Change>) {
        let since = Instant::now();
        let places = batch
            .iter()
            .any(|c| matches!(c, Change::Namespace(..) | Change::MeshConfig(_)));
        let (output, services, namespaces) = {
            let mut engine = self.state.write();
            let output = engine.apply(batch.drain(..));
            let namespaces = (places || output.complete).then(|| engine.namespaces());
            (output, engine.services(), namespaces)
        };
        let published = publish::publish(&self.logs, &output);
        self.metrics
            .published(published, since.elapsed().as_secs_f64(), services);
        self.state.changed();
        if let Some(namespaces) = namespaces {
            self.namespaces.send_if_modified(|have| {
                let differs = *have != namespaces;
                *have = namespaces;
                differs
            });
        }
        if output.complete {
            tracing::info!("everything has been seen once; clients are answered");
            self.synced.ready();
        }
        if output.statuses {
            self.wake.notify_one();
        }
        if output.gateways {
            self.gateways.notify_one();
        }
        if output.config_maps {
            self.named_maps.notify_one();
        }
        if output.key_sources {
            self.key_sources.notify_one();
        }
    }
}

/// What the gRPC ports serve.
struct Services {
    certificates: Arc<CertificateService>,
    authenticator: Arc<XdsAuthenticator>,
    logs: Logs,
    max_age: Option<Duration>,
}

impl Services {
    fn serve<S, C>(&self, incoming: S, stop: &CancellationToken)
    where
        S: tokio_stream::Stream<Item = io::Result<C>> + Send + 'static,
        C: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
        C: tonic::transport::server::Connected,
        C::ConnectInfo: Clone + Send + Sync + 'static,
    {
        let mut server = GrpcServer::builder()
            .http2_keepalive_interval(Some(PING_INTERVAL))
            .http2_keepalive_timeout(Some(PING_TIMEOUT))
            .tcp_nodelay(true);
        if let Some(age) = self.max_age {
            server = server
                .max_connection_age(age)
                .max_connection_age_grace(AGE_GRACE);
        }
        let router = server
            .add_service(xds::service(self.logs.clone(), self.authenticator.clone()))
            .add_service(wire_ca::service(self.certificates.clone()));
        let stop = stop.clone();
        tokio::spawn(async move {
            let forced = {
                let stop = stop.clone();
                async move {
                    stop.cancelled().await;
                    tokio::time::sleep(DRAIN).await;
                }
            };
            tokio::select! {
                served = router.serve_with_incoming_shutdown(incoming, stop.cancelled_owned()) => {
                    if let Err(error) = served {
                        tracing::error!("the gRPC server ended: {error}");
                    }
                }
                () = forced => {}
            }
        });
    }
}
