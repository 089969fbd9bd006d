//! The controllers that turn wishes into objects: workloads into pods, pods
//! onto nodes, services into endpoints and addresses.
//!
//! Each is small and independent: it reads the shared [`World`], has its own
//! queue, and writes through the Kubernetes API alone, so it serves any API
//! server. None polls; each acts on watch events, and on timers only where
//! time itself is the event (an expired lease, `minReadySeconds`).

mod claim;
mod cronjob;
mod daemonset;
mod daemonset_plan;
mod deployment;
mod disruption;
mod endpoints;
mod endpointslice;
mod endpointslice_mirror;
mod endpointslice_plan;
mod error;
mod events;
mod job;
mod load_balancer;
mod meta;
mod node_lifecycle;
mod placement;
mod pod_addresses;
mod pod_gc;
mod pods;
mod replicaset;
mod revisions;
mod scheduler;
mod selector;
mod slices;
mod statefulset;
mod taint_eviction;
mod volume_claims;
mod world;

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use kube::Client;
use tokio::task::JoinSet;

pub use error::ControllerError;
use world::World;

/// What the controllers need to know of their cluster.
#[derive(Debug, Clone)]
pub struct ControllersConfig {
    /// Addresses for services of type `LoadBalancer`, first and last included,
    /// one range for each version of IP; without one such services stay pending.
    pub load_balancer_ranges: Vec<(IpAddr, IpAddr)>,
    /// Where nodes without `podCIDRs` get them from, a /24 or /64 each; without
    /// any, somebody else gives them.
    pub pod_subnets: Vec<IpNet>,
    /// Whether somebody else turns workloads into pods and services into
    /// endpoints (kube-controller-manager, kube-scheduler), so that only
    /// addresses are given: those of load balancers and of nodes' pods.
    pub only_addresses: bool,
    /// A node that has not renewed its lease for so long is `NotReady`.
    pub node_grace_period: Duration,
}

impl Default for ControllersConfig {
    fn default() -> Self {
        Self {
            load_balancer_ranges: Vec::new(),
            pod_subnets: Vec::new(),
            only_addresses: false,
            node_grace_period: Duration::from_secs(40),
        }
    }
}

/// The controllers that Kubernetes leaves to its surroundings.
const ADDRESSES: [&str; 2] = ["load-balancer", "pod-addresses"];

type Worker = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Runs all controllers until dropped, with the rights of `client`.
///
/// # Errors
/// When one of the controllers ends, which only a defect can cause.
pub async fn run(client: Client, config: ControllersConfig) -> Result<(), ControllerError> {
    let world = World::new(client);
    // Each constructor subscribes to the caches, so all of them come before
    // the first watch starts.
    let workers: Vec<(&'static str, Worker)> = vec![
        ("deployment", Box::pin(deployment::start(world.clone()))),
        ("replicaset", Box::pin(replicaset::start(world.clone()))),
        ("daemonset", Box::pin(daemonset::start(world.clone()))),
        ("statefulset", Box::pin(statefulset::start(world.clone()))),
        ("job", Box::pin(job::start(world.clone()))),
        ("cronjob", Box::pin(cronjob::start(world.clone()))),
        ("scheduler", Box::pin(scheduler::start(world.clone()))),
        (
            "endpointslice",
            Box::pin(endpointslice::start(world.clone())),
        ),
        (
            "endpointslice-mirror",
            Box::pin(endpointslice_mirror::start(world.clone())),
        ),
        ("endpoints", Box::pin(endpoints::start(world.clone()))),
        (
            "load-balancer",
            Box::pin(load_balancer::start(
                world.clone(),
                config.load_balancer_ranges,
            )),
        ),
        (
            "pod-addresses",
            Box::pin(pod_addresses::start(world.clone(), config.pod_subnets)),
        ),
        (
            "node-lifecycle",
            Box::pin(node_lifecycle::start(
                world.clone(),
                config.node_grace_period,
            )),
        ),
        (
            "taint-eviction",
            Box::pin(taint_eviction::start(world.clone())),
        ),
        ("pod-gc", Box::pin(pod_gc::start(world.clone()))),
        ("disruption", Box::pin(disruption::start(world.clone()))),
        (
            "volume-claims",
            Box::pin(volume_claims::start(world.clone())),
        ),
    ];
    let mut tasks = JoinSet::new();
    for (name, worker) in workers {
        if config.only_addresses && !ADDRESSES.contains(&name) {
            continue;
        }
        tasks.spawn(async move {
            worker.await;
            name
        });
    }
    for watch in world.watches() {
        tasks.spawn(async move {
            watch.await;
            "watch"
        });
    }
    tracing::info!("controllers started");
    match tasks.join_next().await {
        Some(Ok(name)) => Err(ControllerError::Ended {
            name: name.to_owned(),
        }),
        Some(Err(error)) => Err(ControllerError::Ended {
            name: error.to_string(),
        }),
        None => Err(ControllerError::Ended {
            name: "all".to_owned(),
        }),
    }
}

/// Waits until the first lists of all kinds are complete: before that, what
/// is not in a cache may still exist.
async fn synced(world: &Arc<World>) {
    world.synced().await;
}
