//! Removes pods that nobody else will: those of nodes that no longer exist,
//! and those deleted before they ever had a node.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::Api;

use super::error::{ControllerError, Doing};
use super::meta;
use super::pods;
use super::world::World;
use crate::informer::{ObjectKey, Queue};

const COMPONENT: &str = "pod-garbage-collector";
/// A node that is missing for less may only be late in our cache, or about to
/// register again.
const QUARANTINE: Duration = Duration::from_secs(20);

/// Subscribes to pods and nodes, and removes orphans.
pub(crate) fn start(world: Arc<World>) -> impl Future<Output = ()> + Send {
    let queue = Queue::new();
    let (all, nodes) = (queue.clone(), Arc::downgrade(&world.nodes));
    world.pods.on_change(move |_, new| {
        let (Some(pod), Some(nodes)) = (new, nodes.upgrade()) else {
            return;
        };
        match meta::node_of(pod) {
            Some(node) if nodes.get(&ObjectKey::new("", node)).is_none() => {
                all.add_after(ObjectKey::of(pod), QUARANTINE);
            }
            None if pod.metadata.deletion_timestamp.is_some() => all.add(ObjectKey::of(pod)),
            _ => {}
        }
    });
    let (orphans, cache) = (queue.clone(), Arc::downgrade(&world.pods));
    world.nodes.on_change(move |old, new| {
        let (Some(node), None, Some(pods)) = (old, new, cache.upgrade()) else {
            return;
        };
        for pod in pods
            .list()
            .iter()
            .filter(|p| meta::node_of(p) == node.metadata.name.as_deref())
        {
            orphans.add_after(ObjectKey::of(&**pod), QUARANTINE);
        }
    });
    async move {
        super::synced(&world).await;
        queue.work(COMPONENT, |key| reconcile(&world, key)).await;
    }
}

async fn reconcile(world: &World, key: ObjectKey) -> Result<(), ControllerError> {
    let Some(pod) = world.pods.get(&key) else {
        return Ok(());
    };
    let orphan = match meta::node_of(&pod) {
        Some(node) => is_missing(world, node).await?,
        None => pod.metadata.deletion_timestamp.is_some(),
    };
    if orphan {
        tracing::info!(
            "{} belongs to no node any more",
            meta::display(&pod.metadata)
        );
        remove(world, &pod).await?;
    }
    Ok(())
}

/// Asks the API server itself: a cache that lags must not cost a pod.
async fn is_missing(world: &World, node: &str) -> Result<bool, ControllerError> {
    if world.nodes.get(&ObjectKey::new("", node)).is_some() {
        return Ok(false);
    }
    let api = Api::<Node>::all(world.client.clone());
    let found = api
        .get_opt(node)
        .await
        .doing(|| format!("looking for the node {node}"))?;
    Ok(found.is_none())
}

async fn remove(world: &World, pod: &Pod) -> Result<(), ControllerError> {
    pods::delete(world, pod, Some(0)).await
}
