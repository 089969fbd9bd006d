//! The node proxy put together: what runs where, in which order it starts, and how it ends.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ambit_proto::type_url;
use ambit_proxy_core::certs::CertificateManager;
use ambit_proxy_core::dns::{self, DnsConfig, DnsMetrics};
use ambit_proxy_core::metrics::{SocketMetrics, Telemetry, WorkloadManagerMetrics};
use ambit_proxy_core::store::{self, Writer, handlers};
use ambit_runtime::config::Effective;
use ambit_runtime::http::{Server, localhost, wildcard};
use ambit_runtime::metrics::Registry;
use ambit_runtime::ready::{Ready, Task};
use ambit_runtime::signals::Shutdown;
use ambit_runtime::workers::Workers;
use ambit_runtime::{admin as pages, metrics as stats};
use ambit_transport::hbone::pool::Pool;
use ambit_transport::socket::{self, ListenOptions, Transparent};
use ambit_wire::xds::client::{ClientOptions, node};
use ambit_wire::xds::metrics::ClientMetrics;
use ambit_wire::zds::PeerCheck;
use ambit_wire::zds::proxy::Dialer;
use anyhow::Context;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admin::{self, Dump};
use crate::agent::{Follower, PodState};
use crate::certificates;
use crate::config::Config;
use crate::connections::Connections;
use crate::listeners::Starter;
use crate::pods::Pods;
use crate::policy;
use crate::shared::{Shared, Worker};

const RESOLV_CONF: &str = "/etc/resolv.conf";
/// How long connections that are ended by force may take for it.
const FORCE: Duration = Duration::from_secs(2);

/// Runs the node proxy until `shutdown`, and lets connections end.
pub(crate) async fn run(
    config: Config,
    effective: BTreeMap<String, Effective>,
    threads: &Workers,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    check_rights(&config)?;
    let registry = registry(&config);
    let ready = Ready::new();
    let state_ready = ready.task("state manager");
    let pods_ready = ready.task("workload proxy manager");

    let (store, mut writer) = store::new(config.node_name.clone());
    if let Some(local) = &config.local {
        writer.apply(local.changes()?);
    }
    let certificates = CertificateManager::start(config.certificates.source()?);
    tokio::spawn(certificates::follow(
        certificates.clone(),
        store.local_identities(),
    ));
    let shared = Arc::new(Shared {
        store: store.clone(),
        certificates,
        telemetry: Telemetry::register(&registry),
        sockets: SocketMetrics::register(&registry),
        tasks: TaskTracker::new(),
        draining: CancellationToken::new(),
        end: CancellationToken::new(),
        config,
    });
    let workers = workers(&shared, threads);
    let states = watch::Sender::new(Vec::new());
    let dump = Dump {
        shared: shared.clone(),
        workers: workers.clone(),
        pods: states.subscribe(),
        effective: Arc::new(effective),
    };
    let pages_end = CancellationToken::new();
    serve_pages(
        &shared.config,
        dump,
        &registry,
        ready.clone(),
        &shutdown,
        &pages_end,
    )
    .await?;

    let synced = discover(&shared.config, writer, &registry)?;
    tokio::spawn(policy::watch(shared.clone(), workers.clone()));
    let following = tokio::spawn(follow(
        shared.clone(),
        workers,
        registry.clone(),
        (synced, state_ready, pods_ready),
        states,
    ));

    shutdown.requested().await;
    drain(&shared, &shutdown, following).await;
    pages_end.cancel();
    Ok(())
}

/// Marking packets is what keeps our own traffic out of our own hands.
fn check_rights(config: &Config) -> anyhow::Result<()> {
    let address = "127.0.0.1:0".parse()?;
    let transparent = Transparent::Never;
    let (mark, reuse_port) = (config.mark, false);
    let options = ListenOptions {
        address,
        backlog: 1,
        reuse_port,
        mark,
        transparent,
    };
    socket::listen(&options).map(drop).context(
        "cannot open a marked socket; the node proxy needs CAP_NET_ADMIN and CAP_SYS_ADMIN",
    )
}

fn registry(config: &Config) -> Registry {
    let registry = Registry::new();
    registry.add_build("ztunnel", &config.istio_version);
    registry.add_process();
    registry.add_tokio(&tokio::runtime::Handle::current());
    registry
}

fn workers(shared: &Arc<Shared>, threads: &Workers) -> Vec<Arc<Worker>> {
    let worker = |handle: &tokio::runtime::Handle| {
        Arc::new(Worker {
            shared: shared.clone(),
            handle: handle.clone(),
            pool: Pool::new(shared.config.pool),
            connections: Arc::new(Connections::default()),
        })
    };
    threads.handles().iter().map(worker).collect()
}

async fn serve_pages(
    config: &Config,
    dump: Dump,
    registry: &Registry,
    ready: Ready,
    shutdown: &Shutdown,
    end: &CancellationToken,
) -> anyhow::Result<()> {
    let admin_routes = pages::with_index(
        pages::routes(shutdown.clone()).merge(admin::routes(dump)),
        "ztunnel",
    );
    let admin = Server::bind("admin", &localhost(config.admin_port, config.ipv6)).await?;
    let metrics = Server::bind("stats", &wildcard(config.stats_port, config.ipv6)).await?;
    let probe = Server::bind("readiness", &wildcard(config.readiness_port, config.ipv6)).await?;
    admin.serve(admin_routes, end.clone());
    metrics.serve(stats::routes(registry.clone()), end.clone());
    probe.serve(pages::readiness("/healthz/ready", ready), end.clone());
    Ok(())
}

/// Follows the control plane. The result becomes true with the first complete state.
fn discover(
    config: &Config,
    writer: Writer,
    registry: &Registry,
) -> anyhow::Result<watch::Receiver<bool>> {
    let Some(server) = &config.xds else {
        // What came from the local configuration is all there is.
        return Ok(watch::Sender::new(true).subscribe());
    };
    let fields = config
        .metadata
        .iter()
        .map(|(key, value)| (key.clone(), crate::metadata(value)));
    let options = ClientOptions {
        target: server.target.clone(),
        credentials: server.credentials.clone(),
        node: node(config.node_id(), fields.collect()),
    };
    let (addresses, policies) = handlers(writer);
    let client = ambit_wire::xds::Client::new(options, ClientMetrics::register(registry))
        .watch(type_url::ADDRESS, addresses)
        .watch(type_url::AUTHORIZATION, policies);
    let synced = client.synced();
    tokio::spawn(client.run());
    Ok(synced)
}

/// Waits for the state of the mesh, then follows the node agent until a drain begins: without the
/// policies, no pod gets a proxy. What comes back keeps the pods' proxies running.
async fn follow(
    shared: Arc<Shared>,
    workers: Vec<Arc<Worker>>,
    registry: Registry,
    (mut synced, state_ready, pods_ready): (watch::Receiver<bool>, Task, Task),
    states: watch::Sender<Vec<PodState>>,
) -> Option<Pods<Starter>> {
    let draining = shared.draining.clone();
    draining
        .run_until_cancelled(synced.wait_for(|synced| *synced))
        .await?
        .ok();
    state_ready.ready();
    if !shared.config.proxy {
        pods_ready.ready();
        return None;
    }
    let metrics = WorkloadManagerMetrics::register(&registry);
    let dns = shared
        .config
        .dns_proxy
        .then(|| (dns_config(&shared.config), DnsMetrics::new(&registry)));
    let follower = Follower {
        dialer: Dialer::new(&shared.config.zds_socket, PeerCheck::uid(0)),
        pods: Pods::new(Starter {
            shared,
            workers,
            dns,
            metrics: metrics.clone(),
        }),
        ready: pods_ready,
        metrics,
        states,
    };
    Some(follower.run(&draining).await)
}

fn dns_config(config: &Config) -> Arc<DnsConfig> {
    let resolv = std::fs::read_to_string(RESOLV_CONF).unwrap_or_default();
    let nameservers = dns::nameservers(&resolv);
    if nameservers.is_empty() {
        tracing::warn!(target: "dns", "{RESOLV_CONF} names no nameserver; only names of the mesh are answered");
    }
    Arc::new(DnsConfig {
        cluster_domain: config.cluster_domain.clone(),
        network: config.network.clone(),
        preferred_namespace: config.preferred_namespace.clone(),
        ipv6: config.ipv6,
        nameservers,
        mark: config.mark,
    })
}

/// Stops accepting, lets connections end until the deadline, and ends the rest.
async fn drain(
    shared: &Shared,
    shutdown: &Shutdown,
    following: tokio::task::JoinHandle<Option<Pods<Starter>>>,
) {
    let deadline = shared.config.termination;
    tracing::info!("draining connections for at most {deadline:?}");
    shared.draining.cancel();
    let pods = following.await;
    shared.tasks.close();
    tokio::select! {
        _ = shared.tasks.wait() => tracing::info!("all connections have ended"),
        _ = tokio::time::sleep(deadline) => tracing::warn!("ending the remaining connections"),
        _ = shutdown.immediate() => tracing::warn!("ending all connections at once"),
    }
    shared.end.cancel();
    if tokio::time::timeout(FORCE, shared.tasks.wait())
        .await
        .is_err()
    {
        tracing::error!("connection failed to drain within the timeout");
    }
    drop(pods);
}
