//! The waypoint put together: what runs where, in which order it starts, and how it ends.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ambit_model::Identity;
use ambit_proto::type_url;
use ambit_proxy_core::certs::CertificateManager;
use ambit_proxy_core::metrics::{HttpTelemetry, Telemetry};
use ambit_proxy_core::store::{self, Writer, handlers};
use ambit_runtime::config::Effective;
use ambit_runtime::http::{Router, Server, localhost, wildcard};
use ambit_runtime::metrics::Registry;
use ambit_runtime::ready::{Ready, Task};
use ambit_runtime::signals::Shutdown;
use ambit_runtime::workers::Workers;
use ambit_runtime::{admin as pages, metrics as stats};
use ambit_transport::hbone::pool::Pool as Tunnels;
use ambit_transport::socket::{self, ListenOptions, Transparent};
use ambit_wire::xds::client::{ClientOptions, node};
use ambit_wire::xds::metrics::ClientMetrics;
use anyhow::Context;
use futures_util::future::join_all;
use prost_types::value::Kind;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cluster::Clusters;
use crate::config::{Config, HBONE};
use crate::export::Exporter;
use crate::health::Loads;
use crate::shared::{Shared, Worker};
use crate::state::{
    AuthenticationHandler, BackendTlsHandler, PolicyHandler, RouteHandler, Store as L7Store,
    TelemetryHandler, TrafficHandler,
};
use crate::upstream::Pool;
use crate::{admin, export, listener};

/// How long connections that are ended by force may take for it.
const FORCE: Duration = Duration::from_secs(2);
/// How long a waypoint that ends goes on as if it did not, so that its clients hear of its end before
/// they are turned away (the `terminationDrainDuration` of Istio's proxies).
const LINGER: Duration = Duration::from_secs(5);
/// How often connections are looked for that have waited too long.
const SWEEP: Duration = Duration::from_secs(30);
/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4096;

/// Runs a waypoint until `shutdown`, and lets requests end.
pub(crate) async fn run(
    config: Config,
    effective: BTreeMap<String, Effective>,
    threads: &Workers,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    let registry = Registry::new();
    registry.add_build("proxy", env!("CARGO_PKG_VERSION"));
    registry.add_process();
    registry.add_tokio(&tokio::runtime::Handle::current());
    let ready = Ready::new();
    let state_ready = ready.task("configuration");
    let certificate_ready = ready.task("certificate");

    let (store, mut writer) = store::new(None);
    if let Some(local) = &config.local {
        writer.apply(local.changes()?);
    }
    let certificates = CertificateManager::start(config.certificates.source()?);
    let shared = Arc::new(Shared {
        store,
        l7: L7Store::new(config.pod.namespace.clone(), config.gateway.clone()),
        certificates,
        identity: Identity {
            trust_domain: config.trust_domain.clone(),
            namespace: config.pod.namespace.clone(),
            service_account: config.pod.service_account.clone(),
        },
        telemetry: Telemetry::register(&registry),
        http: HttpTelemetry::register(&registry),
        loads: Loads::default(),
        tasks: TaskTracker::new(),
        draining: CancellationToken::new(),
        end: CancellationToken::new(),
        config,
    });
    let pages_end = CancellationToken::new();
    let admin = admin::routes(shared.clone(), Arc::new(effective));
    serve_pages(
        &shared.config,
        admin,
        &registry,
        ready,
        &shutdown,
        &pages_end,
    )
    .await?;
    let workers = listen(&shared, threads)?;
    let synced = discover(&shared, writer, &registry)?;
    tokio::spawn(become_ready(
        shared.clone(),
        synced,
        (state_ready, certificate_ready),
    ));

    shutdown.requested().await;
    drain(&shared, &workers, &shutdown).await;
    drop(workers);
    pages_end.cancel();
    Ok(())
}

/// One socket, which all workers accept from: a client that opens many connections reaches all.
fn listen(shared: &Arc<Shared>, threads: &Workers) -> anyhow::Result<Vec<Arc<Worker>>> {
    let options = ListenOptions {
        backlog: BACKLOG,
        reuse_port: false,
        mark: None,
        transparent: Transparent::Never,
        ..ListenOptions::wildcard(HBONE, shared.config.ipv6)
    };
    let socket = socket::listen(&options)
        .with_context(|| format!("cannot listen on port {HBONE}"))?
        .listener;
    socket.set_nonblocking(true)?;
    let mut workers = Vec::new();
    for handle in threads.handles() {
        let (exporter, waiting) = Exporter::new();
        let worker = Arc::new(Worker {
            exporter,
            shared: shared.clone(),
            handle: handle.clone(),
            tunnels: Tunnels::new(shared.config.pool),
            pool: Pool::default(),
            clusters: Clusters::default(),
        });
        let accepting = listener::accept(worker.clone(), socket.try_clone()?);
        shared.tasks.spawn_on(accepting, &worker.handle);
        let (swept, end) = (worker.clone(), shared.end.clone());
        worker
            .handle
            .spawn(end.run_until_cancelled_owned(async move {
                loop {
                    tokio::time::sleep(SWEEP).await;
                    swept.pool.sweep();
                    swept.clusters.sweep(&swept.shared);
                    swept.shared.loads.sweep();
                }
            }));
        let (end, sending) = (shared.end.clone(), export::run(worker.clone(), waiting));
        worker.handle.spawn(end.run_until_cancelled_owned(sending));
        workers.push(worker);
    }
    Ok(workers)
}

async fn serve_pages(
    config: &Config,
    routes: Router,
    registry: &Registry,
    ready: Ready,
    shutdown: &Shutdown,
    end: &CancellationToken,
) -> anyhow::Result<()> {
    let routes = pages::with_index(pages::routes(shutdown.clone()).merge(routes), "waypoint");
    let admin = Server::bind("admin", &localhost(config.admin_port, config.ipv6)).await?;
    let metrics = Server::bind("stats", &wildcard(config.stats_port, config.ipv6)).await?;
    let probe = Server::bind("readiness", &wildcard(config.readiness_port, config.ipv6)).await?;
    admin.serve(routes, end.clone());
    metrics.serve(stats::routes(registry.clone()), end.clone());
    probe.serve(pages::readiness("/healthz/ready", ready), end.clone());
    Ok(())
}

/// Follows the control plane. The result becomes true with the first complete state.
fn discover(
    shared: &Shared,
    writer: Writer,
    registry: &Registry,
) -> anyhow::Result<watch::Receiver<bool>> {
    let config = &shared.config;
    let Some(server) = &config.xds else {
        return Ok(watch::Sender::new(true).subscribe());
    };
    let text = |text: &str| prost_types::Value {
        kind: Some(Kind::StringValue(text.to_owned())),
    };
    let fields = [
        ("NAME", text(&config.pod.name)),
        ("NAMESPACE", text(&config.pod.namespace)),
        ("GATEWAY_NAME", text(&config.gateway)),
        ("CLUSTER_ID", text(&config.cluster_id)),
    ];
    let fields = fields.map(|(key, value)| (key.to_owned(), value));
    let options = ClientOptions {
        target: server.target.clone(),
        credentials: server.credentials.clone(),
        node: node(config.node_id(), fields.into_iter().collect()),
    };
    let (addresses, _) = handlers(writer);
    // Policies first, and routes, so that no service is served without what is said about it.
    let client = ambit_wire::xds::Client::new(options, ClientMetrics::register(registry))
        .watch(
            type_url::AUTHENTICATION,
            AuthenticationHandler(shared.l7.clone()),
        )
        .watch(type_url::POLICY, PolicyHandler(shared.l7.clone()))
        .watch(type_url::ROUTE, RouteHandler(shared.l7.clone()))
        .watch(type_url::TRAFFIC, TrafficHandler(shared.l7.clone()))
        .watch(type_url::BACKEND_TLS, BackendTlsHandler(shared.l7.clone()))
        .watch(
            type_url::TELEMETRY,
            TelemetryHandler(shared.l7.clone(), config.environment.clone()),
        )
        .watch(type_url::ADDRESS, addresses);
    let synced = client.synced();
    tokio::spawn(client.run());
    Ok(synced)
}

/// Ready is who knows all there is to know, and can show who it is.
async fn become_ready(shared: Arc<Shared>, mut synced: watch::Receiver<bool>, tasks: (Task, Task)) {
    if synced.wait_for(|synced| *synced).await.is_err() {
        return;
    }
    tasks.0.ready();
    while let Err(e) = shared.certificates.certificate(&shared.identity).await {
        tracing::warn!("{e}");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    tasks.1.ready();
    tracing::info!("waypoint {} is ready", shared.config.service);
}

/// Goes on until clients have heard, stops accepting, lets requests end until the deadline, and ends
/// the rest.
pub(crate) async fn drain(shared: &Shared, workers: &[Arc<Worker>], shutdown: &Shutdown) {
    let linger = LINGER.min(shared.config.termination / 2);
    let deadline = shared.config.termination - linger;
    tracing::info!("going on for {linger:?}, then draining connections for at most {deadline:?}");
    tokio::select! {
        _ = tokio::time::sleep(linger) => {}
        _ = shutdown.immediate() => {}
    }
    shared.draining.cancel();
    shared.tasks.close();
    tokio::select! {
        _ = shared.tasks.wait() => tracing::info!("all connections have ended"),
        _ = tokio::time::sleep(deadline) => tracing::warn!("ending the remaining connections"),
        _ = shutdown.immediate() => tracing::warn!("ending all connections at once"),
    }
    // What the last requests have left.
    let flushed = workers.iter().map(|worker| worker.exporter.flush());
    if tokio::time::timeout(FORCE, join_all(flushed))
        .await
        .is_err()
    {
        tracing::warn!("collectors were not told of the last requests in time");
    }
    shared.end.cancel();
    if tokio::time::timeout(FORCE, shared.tasks.wait())
        .await
        .is_err()
    {
        tracing::error!("connections failed to end in time");
    }
}
