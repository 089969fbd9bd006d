//! The node agent as a process.
//!
//! Start: what was captured before is taken over, then the node proxy may connect, then the plugin
//! is answered, and only then is the plugin put on the node: a pod never waits for an agent that
//! is not there yet. End: the plugin stays, so that no pod starts uncaptured while the next agent
//! comes up, unless the agent's DaemonSet is gone; then the node is left as it was.

mod adds;
mod keeper;

use std::sync::Arc;
use std::time::Duration;

use ambit_kube_api::{ClientError, ClientOptions};
use ambit_runtime::config::{ConfigError, Env};
use ambit_runtime::http::{self as small_http, Router};
use ambit_runtime::metrics::{self, Registry};
use ambit_runtime::ready::Ready;
use ambit_runtime::signals::Shutdown;
use ambit_runtime::{admin, build_info, log, process};
use tokio_util::sync::CancellationToken;

use crate::cluster::{Cluster, OwnDaemonSet};
pub use crate::config::Args;
use crate::eligibility::SelectorError;
use crate::enroll::{EnrolError, Enroller};
use crate::informer::Informer;
use crate::install::{HostFiles, InstallError};
use crate::kernel::HostKernel;
use crate::link::{Link, ServeError};
use crate::metrics::Metrics;
use crate::plugin_server::PluginServer;
use crate::rules::HostExemption;

/// Why the agent cannot run.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// A setting of the log is not valid.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The log cannot be started.
    #[error("the log cannot be started: {0}")]
    Log(#[from] log::InitError),
    /// The agent does not know its node.
    #[error("NODE_NAME is not set; the chart sets it from the pod's spec.nodeName")]
    NoNode,
    /// The enablement selectors are not valid.
    #[error("AMBIENT_ENABLEMENT_SELECTOR: {0}")]
    Selectors(#[from] SelectorError),
    /// A port cannot be opened.
    #[error(transparent)]
    Bind(#[from] small_http::BindError),
    /// There is no API server to talk to.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The node is not visible.
    #[error(
        "the node's /proc cannot be used below {path}: {source}; is it mounted, and has the agent CAP_SYS_PTRACE?"
    )]
    Node {
        /// Where the node's files should be.
        path: std::path::PathBuf,
        /// What happened.
        source: std::io::Error,
    },
    /// The plugin cannot be answered.
    #[error(
        "the socket in {path} cannot be made: {source}; is the directory mounted and writable?"
    )]
    Socket {
        /// Its directory.
        path: std::path::PathBuf,
        /// What happened.
        source: std::io::Error,
    },
    /// The node proxy cannot be served.
    #[error(transparent)]
    Zds(#[from] ServeError),
    /// What was captured before cannot be taken over.
    #[error("the captured pods of this node cannot be taken over: {0}")]
    Restore(#[from] EnrolError),
    /// The image has no plugin.
    #[error(transparent)]
    Install(#[from] InstallError),
    /// The signals of the process cannot be handled.
    #[error("signals cannot be handled: {0}")]
    Signals(#[source] std::io::Error),
}

/// The enroller of a real node.
pub type NodeEnroller = Enroller<HostKernel, Link, Cluster>;

/// Runs the agent until it is told to stop.
///
/// # Errors
/// See [`AgentError`]. What can pass (an API server or node proxy that is away) is waited for.
pub async fn run(args: Args) -> Result<(), AgentError> {
    let mut options = log::Options::from_env(&Env::process())?;
    if std::env::var_os("RUST_LOG").is_none() {
        options.directives = args.log_directives();
    }
    if args.log_as_json {
        options.format = log::Format::Json;
    }
    let _log = log::init(&options)?;
    if let Err(error) = process::raise_open_file_limit() {
        tracing::warn!("{error}");
    }
    if args.node_name.is_empty() {
        return Err(AgentError::NoNode);
    }
    tracing::info!(
        "node agent {} for node {}",
        build_info::build_info().version,
        args.node_name
    );
    let shutdown = Shutdown::on_signals().map_err(AgentError::Signals)?;
    run_until(args, shutdown).await
}

/// Runs the agent until `shutdown` is requested. The log is the caller's.
///
/// # Errors
/// See [`AgentError`].
pub async fn run_until(args: Args, shutdown: Shutdown) -> Result<(), AgentError> {
    let stop = CancellationToken::new();
    let ready = Ready::new();
    let installed = ready.task("plugin installation");
    let serving = ready.task("plugin server");
    let registry = Registry::new();
    let metrics = Metrics::new(&registry);
    registry.add_build("cni", build_info::build_info().version);
    registry.add_process();
    serve_http(&args, &ready, registry, &stop).await?;

    let options = ClientOptions {
        kubeconfig: args.kubeconfig.clone(),
        context: None,
    };
    let cluster = Cluster::new(ambit_kube_api::client(&options).await?);
    let files = HostFiles::new(&args)?;
    let node = if args.ambient_enabled {
        let node = tokio::select! {
            node = start_node(&args, &cluster, &metrics, &stop) => node?,
            () = shutdown.requested() => return Ok(()),
        };
        Some(node)
    } else {
        tracing::warn!("AMBIENT_ENABLED is false: pods are not enrolled");
        None
    };
    serving.ready();
    let keeper = tokio::spawn(keeper::keep(
        files.clone(),
        installed,
        metrics.clone(),
        stop.clone(),
    ));

    shutdown.requested().await;
    let gone = args.ambient_disable_safe_upgrade
        || cluster
            .own_daemon_set(&args.pod_namespace, &args.daemonset_name)
            .await
            == OwnDaemonSet::Gone;
    if gone {
        keeper.abort();
        leave_node(&files, node, &cluster, &args.node_name).await;
    } else {
        tracing::info!("the plugin stays in place: new pods wait for the next agent");
    }
    stop.cancel();
    Ok(())
}

/// What runs for the pods of the node.
struct Node {
    enroller: Arc<NodeEnroller>,
    kernel: Arc<HostKernel>,
    /// Ends the work on label changes.
    following: CancellationToken,
    informer: tokio::task::JoinHandle<()>,
}

async fn start_node(
    args: &Args,
    cluster: &Cluster,
    metrics: &Metrics,
    stop: &CancellationToken,
) -> Result<Node, AgentError> {
    let exemption = HostExemption {
        v4: args.host_probe_snat_ip,
        v6: args.host_probe_snat_ipv6,
        ..HostExemption::default()
    };
    let kernel =
        HostKernel::open(&args.host_mounts_path, exemption).map_err(|source| AgentError::Node {
            path: args.host_mounts_path.clone(),
            source,
        })?;
    let kernel = Arc::new(kernel);
    let socket = |path: &std::path::Path| {
        let path = path.to_owned();
        move |source| AgentError::Socket { path, source }
    };
    let link = Link::default();
    let eligibility = args.eligibility()?;
    let enroller = Arc::new(Enroller::new(
        kernel.clone(),
        link.clone(),
        cluster.clone(),
        eligibility,
    ));

    let pods = pods_of_node(cluster, &args.node_name).await;
    enroller
        .restore(&pods, args.ambient_reconcile_pod_rules_on_startup)
        .await?;
    link.serve(&args.ztunnel_uds_address, metrics.clone(), stop.clone())?;
    let plugin =
        PluginServer::bind(&args.cni_agent_run_dir).map_err(socket(&args.cni_agent_run_dir))?;
    let adds = adds::Adds::new(cluster.clone(), enroller.clone(), kernel.clone());
    tokio::spawn(plugin.serve(Arc::new(adds), metrics.clone(), stop.clone()));

    let following = stop.child_token();
    let (client, name) = (cluster.client(), args.node_name.clone());
    let (followed, metrics, until) = (enroller.clone(), metrics.clone(), following.clone());
    let informer =
        tokio::spawn(async move { Informer::run(client, &name, followed, metrics, until).await });
    Ok(Node {
        enroller,
        kernel,
        following,
        informer,
    })
}

/// The pods of the node; waits for an API server that does not answer.
async fn pods_of_node(cluster: &Cluster, node: &str) -> Vec<Arc<k8s_openapi::api::core::v1::Pod>> {
    let mut delay = Duration::from_millis(100);
    loop {
        match cluster.pods_of_node(node).await {
            Ok(pods) => return pods,
            Err(error) => {
                tracing::warn!("cannot list the pods of this node: {error}; trying again")
            }
        }
        tokio::time::sleep(delay).await;
        delay = (delay * 2).min(Duration::from_secs(5));
    }
}

/// Takes every pod out of the mesh and the plugin off the node. Best effort: pods that cannot be
/// cleaned are named in the log.
async fn leave_node(files: &HostFiles, node: Option<Node>, cluster: &Cluster, name: &str) {
    tracing::info!("the agent was uninstalled: leaving the node as it was");
    let remover = files.clone();
    match tokio::task::spawn_blocking(move || remover.remove()).await {
        Ok(Err(error)) => tracing::warn!("the plugin was not removed completely: {error}"),
        Err(error) => tracing::warn!("the plugin was not removed completely: {error}"),
        Ok(Ok(())) => {}
    }
    let Some(node) = node else { return };
    node.following.cancel();
    let _ = node.informer.await;
    match cluster.pods_of_node(name).await {
        Ok(pods) => node.enroller.unenrol_all(&pods).await,
        Err(error) => {
            tracing::warn!("captured pods stay captured, the API does not answer: {error}")
        }
    }
    let kernel = node.kernel.clone();
    if let Ok(Err(error)) = tokio::task::spawn_blocking(move || kernel.clear_probes()).await {
        tracing::warn!("the probe exemptions of the node stay: {error}");
    }
}

async fn serve_http(
    args: &Args,
    ready: &Ready,
    registry: Registry,
    stop: &CancellationToken,
) -> Result<(), AgentError> {
    let health = admin::readiness("/readyz", ready.clone()).merge(
        Router::new().get("/healthz", |_| async {
            small_http::text(http::StatusCode::OK, "ok\n")
        }),
    );
    let addresses = small_http::wildcard(args.health_port, true);
    small_http::Server::bind("health", &addresses)
        .await?
        .serve(health, stop.clone());
    let addresses = small_http::wildcard(args.monitoring_port, true);
    small_http::Server::bind("metrics", &addresses)
        .await?
        .serve(metrics::routes(registry), stop.clone());
    Ok(())
}
