//! A small kubelet: it registers a node, runs the pods that are bound to it as processes in
//! namespaces, reports their status, and serves logs, exec, attach and port-forward.
//!
//! It uses only the Kubernetes API and the Container Network Interface, so it serves any API server.
//! What it is not: an isolation boundary. Containers see the node's root file system through an
//! overlay; there is no seccomp profile, no user namespace, and resource limits are not enforced.
//!
//! Where it differs from other kubelets on purpose:
//! - Images are names in a [catalogue](crate::catalogue); nothing is pulled.
//! - The containers of a pod share one PID namespace, as with `shareProcessNamespace: true`.
//! - The root file system needs overlayfs and a tmpfs for its upper layer; there is no other way.
//! - Volumes of other kinds than `configMap`, `secret`, `projected`, `downwardAPI`, `emptyDir` and
//!   `hostPath`, `Bidirectional` mount propagation, `hostPort` without a plugin for it, and gRPC
//!   probes are refused with a message, never ignored.
//! - The specification of a running pod is not changed in place; there are no ephemeral containers
//!   and no static pods.
//!
//! What always holds:
//! - No fork without exec in this multi-threaded process: the helper program ([`INIT_ARGUMENT`])
//!   makes the namespaces.
//! - A pod's containers start only after its whole CNI chain has succeeded.
//! - At start, what an earlier kubelet with the same configuration left is removed; at the end, all
//!   pods are ended.

mod cgroup;
mod config;
mod env;
mod events;
mod expand;
mod fields;
mod init;
mod layers;
mod logs;
mod mounts;
mod node;
mod objects;
mod pod;
mod pods;
mod probe;
mod process;

mod register;
mod resolver;
mod restart;
mod security;
mod server;
mod services;
mod setup;
mod status;
mod streaming;
mod sync;
mod volumes;

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

pub use config::{API_SERVER_CLIENT, CniConfig, KubeletConfig, PrimaryNetwork, ServerConfig};
pub use init::{INIT_ARGUMENT, container_init_main};

/// Why a kubelet could not start.
#[derive(Debug, thiserror::Error)]
pub enum KubeletError {
    /// A directory, mount or cgroup of the node could not be prepared.
    #[error("cannot prepare the node's {what}: {source}")]
    Prepare {
        /// What was being prepared.
        what: String,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The primary network's configuration is impossible.
    #[error("primary network: {0}")]
    Network(String),
    /// The HTTPS endpoint could not be set up.
    #[error("kubelet endpoint: {0}")]
    Server(String),
}

/// Runs a node until `stop` is cancelled, then ends its pods and returns.
///
/// Must run in a tokio runtime inside the node's namespaces, as root. The API server may be absent
/// for a while: the kubelet keeps trying.
///
/// # Errors
/// Only while starting: the node cannot be prepared, or the endpoint cannot listen.
pub async fn run(config: KubeletConfig, stop: CancellationToken) -> Result<(), KubeletError> {
    let cgroups = setup::prepare(&config).await?;
    let node = Arc::new(node::Node {
        chain: crate::cni::chain::Chain::new(
            config.cni.conf_dir.clone(),
            config.cni.bin_dirs.clone(),
        ),
        services: services::Services::watch(config.client.clone()),
        objects: objects::Objects::new(config.client.clone()),
        events: events::Recorder::new(config.client.clone(), config.node_name.clone()),
        pods: pods::PodTable::default(),
        capacity: node::capacity(),
        cgroups,
        config,
    });
    let server = server::start(node.clone()).await?;
    let Some(object) = register(&node, &stop).await else {
        server.abort();
        return Ok(());
    };
    let alive = tokio::spawn(register::keep_alive(node.clone(), object, stop.clone()));
    sync::run(node.clone(), stop).await;
    let _ = alive.await;
    server.abort();
    setup::clear(&node.config, &node.cgroups).await;
    Ok(())
}

/// Registers the node, trying until the API server answers or the kubelet is stopped.
async fn register(
    node: &node::Node,
    stop: &CancellationToken,
) -> Option<k8s_openapi::api::core::v1::Node> {
    loop {
        match register::register(node).await {
            Ok(object) => return Some(object),
            Err(error) => tracing::info!(
                node = node.config.node_name,
                "node not registered yet: {error}"
            ),
        }
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(200)) => {}
            () = stop.cancelled() => return None,
        }
    }
}
