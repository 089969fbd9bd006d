//! DaemonSet: one pod on every node that fits. Decisions are in
//! `daemonset_plan`; here they are carried out.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetStatus};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;

use super::daemonset_plan::{self as plan, Counts, HASH_LABEL};
use super::error::{ControllerError, Doing, is_status};
use super::meta;
use super::placement;
use super::pods;
use super::replicaset::non_zero;
use super::world::World;
use crate::informer::{ObjectKey, Queue};

const COMPONENT: &str = "daemonset-controller";

/// Subscribes to what matters for daemon sets and works on them.
pub(crate) fn start(world: Arc<World>) -> impl Future<Output = ()> + Send {
    let queue = Queue::new();
    let sets = queue.clone();
    world.daemon_sets.on_change(move |_, new| {
        if let Some(set) = new {
            sets.add(ObjectKey::of(set));
        }
    });
    let by_pod = queue.clone();
    world.pods.on_change(move |old, new| {
        for pod in [old, new].into_iter().flatten() {
            if let Some(owner) =
                meta::controller_of(&pod.metadata).filter(|o| o.kind == "DaemonSet")
            {
                let namespace = pod.metadata.namespace.clone().unwrap_or_default();
                by_pod.add(ObjectKey::new(namespace, owner.name.clone()));
            }
        }
    });
    let (by_node, cache) = (queue.clone(), Arc::downgrade(&world.daemon_sets));
    world.nodes.on_change(move |old, new| {
        if let Some(sets) = cache.upgrade().filter(|_| matters(old, new)) {
            for set in sets.list() {
                by_node.add(ObjectKey::of(&*set));
            }
        }
    });
    async move {
        super::synced(&world).await;
        queue
            .work(COMPONENT, |key| reconcile(&world, &queue, key))
            .await;
    }
}

/// Whether a change of a node can change which daemons belong there.
fn matters(old: Option<&Node>, new: Option<&Node>) -> bool {
    let (Some(old), Some(new)) = (old, new) else {
        return true;
    };
    old.spec != new.spec
        || old.metadata.labels != new.metadata.labels
        || placement::is_ready(old) != placement::is_ready(new)
}

async fn reconcile(
    world: &World,
    queue: &Queue<ObjectKey>,
    key: ObjectKey,
) -> Result<(), ControllerError> {
    let Some(set) = world.daemon_sets.get(&key) else {
        return Ok(());
    };
    let Some(spec) = &set.spec else { return Ok(()) };
    let hash = meta::template_hash(&spec.template, 0);
    let nodes = world.nodes.list();
    if set.metadata.deletion_timestamp.is_none() {
        let pods = owned(world, &set);
        let plan = plan::plan(&set, &hash, &nodes, &pods, Timestamp::now());
        for pod in plan.delete {
            pods::delete(world, pod, None).await?;
            let message = format!(
                "Deleted pod: {}",
                pod.metadata.name.as_deref().unwrap_or("?")
            );
            world
                .events
                .normal(COMPONENT, &*set, "SuccessfulDelete", message)
                .await;
        }
        for node in plan.create {
            let mut pod = pods::from_template(&*set, &spec.template);
            let labels = meta::with_label(pod.metadata.labels.as_ref(), HASH_LABEL, &hash);
            pod.metadata.labels = Some(labels);
            let mut pod_spec = plan::pod_spec(&spec.template);
            plan::pin(&mut pod_spec, &node);
            pod.spec = Some(pod_spec);
            pods::create(world, COMPONENT, &*set, &pod).await?;
        }
    }
    let pods = owned(world, &set);
    let plan = plan::plan(&set, &hash, &nodes, &pods, Timestamp::now());
    if let Some(delay) = plan.recheck {
        queue.add_after(key, delay);
    }
    write_status(world, &set, plan.counts).await
}

fn owned(world: &World, set: &DaemonSet) -> Vec<Arc<Pod>> {
    let uid = set.metadata.uid.as_deref().unwrap_or_default();
    let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
    let mut pods = world.pods.in_namespace(namespace);
    pods.retain(|pod| meta::is_controlled_by(&pod.metadata, uid));
    pods
}

async fn write_status(
    world: &World,
    set: &DaemonSet,
    counts: Counts,
) -> Result<(), ControllerError> {
    let status = DaemonSetStatus {
        current_number_scheduled: counts.current,
        desired_number_scheduled: counts.desired,
        number_misscheduled: counts.misscheduled,
        number_ready: counts.ready,
        updated_number_scheduled: non_zero(counts.updated),
        number_available: non_zero(counts.available),
        number_unavailable: non_zero(counts.desired - counts.available),
        observed_generation: set.metadata.generation,
        ..DaemonSetStatus::default()
    };
    if set.status.as_ref() == Some(&status) {
        return Ok(());
    }
    let key = ObjectKey::of(set);
    let mut updated = set.clone();
    updated.status = Some(status);
    let api = world.api::<DaemonSet>(&key.namespace);
    match api
        .replace_status(&key.name, &PostParams::default(), &updated)
        .await
    {
        Ok(written) => world.daemon_sets.observe(written),
        Err(error) if is_status(&error, 404) => {}
        Err(error) => return Err(error).doing(|| format!("writing the status of {key}")),
    }
    Ok(())
}
