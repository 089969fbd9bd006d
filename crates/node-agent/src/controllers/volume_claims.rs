//! Persistent volume claims: nothing binds them where no volumes are provided.
//! Each is told so once, so that nobody waits without knowing why.

use std::sync::Arc;

use k8s_openapi::api::core::v1::PersistentVolumeClaim;

use super::error::ControllerError;
use super::world::World;
use crate::informer::{ObjectKey, Queue};

const COMPONENT: &str = "persistentvolume-controller";

/// Subscribes to claims and explains their state.
pub(crate) fn start(world: Arc<World>) -> impl Future<Output = ()> + Send {
    let queue = Queue::new();
    let claims = queue.clone();
    world.claims.on_change(move |old, new| {
        if let (None, Some(claim)) = (old, new) {
            claims.add(ObjectKey::of(claim));
        }
    });
    async move {
        super::synced(&world).await;
        queue.work(COMPONENT, |key| explain(&world, key)).await;
    }
}

async fn explain(world: &World, key: ObjectKey) -> Result<(), ControllerError> {
    let claim = world.claims.get(&key).filter(|claim| is_unbound(claim));
    if let Some(claim) = claim {
        let message = "no persistent volumes available for this claim: this cluster provides no persistent \
            storage, so the claim and the pods that use it stay pending; use emptyDir or hostPath volumes";
        world
            .events
            .normal(COMPONENT, &*claim, "FailedBinding", message.to_owned())
            .await;
    }
    Ok(())
}

fn is_unbound(claim: &PersistentVolumeClaim) -> bool {
    let phase = claim
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    phase != Some("Bound")
}
