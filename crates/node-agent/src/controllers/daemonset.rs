//! DaemonSet: one pod on every node that fits. Decisions are in
//! `daemonset_plan`; here they are carried out.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, DaemonSetStatus};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::jiff::Timestamp;

use super::claim::{claim, follow_orphans};
use super::daemonset_plan::{self as plan, Counts};
use super::error::ControllerError;
use super::meta;
use super::placement;
use super::pods;
use super::replicaset::non_zero;
use super::revisions::{self, REVISION_LABEL};
use super::world::{World, follow, follow_owners};
use crate::informer::{ObjectKey, Queue};

const COMPONENT: &str = "daemonset-controller";

/// Subscribes to what matters for daemon sets and works on them.
pub(crate) fn start(world: Arc<World>) -> impl Future<Output = ()> + Send {
    let queue = Queue::new();
    follow(&world.daemon_sets, &queue);
    follow_owners(&world.pods, "DaemonSet", &queue);
    follow_orphans(&world.pods, &world.daemon_sets, selector, &queue);
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

fn selector(set: &DaemonSet) -> Option<&LabelSelector> {
    set.spec.as_ref().map(|spec| &spec.selector)
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
    let leaving = set.metadata.deletion_timestamp.is_some();
    let mut collisions = set
        .status
        .as_ref()
        .and_then(|status| status.collision_count);
    let history = match leaving {
        true => None,
        false => {
            let (selector, template) = (&spec.selector, &spec.template);
            Some(revisions::sync(world, &*set, selector, template, &mut collisions).await?)
        }
    };
    let hash = history
        .as_ref()
        .map_or("", |history| revisions::hash(&history.update));
    let nodes = world.nodes.list();
    let mut pods = claim(world, &*set, &spec.selector, &world.pods).await?;
    let mut failure = None;
    if let Some(history) = &history {
        failure = act(world, &set, hash, &nodes, &pods).await.err();
        pods = claim(world, &*set, &spec.selector, &world.pods).await?;
        let is_live = |revision: &ControllerRevision| {
            let own = revisions::hash(revision);
            own == hash || pods.iter().any(|pod| plan::hash_of(pod) == Some(own))
        };
        revisions::forget(world, &history.all, is_live, spec.revision_history_limit).await?;
    }
    let plan = plan::plan(&set, hash, &nodes, &pods, Timestamp::now());
    if let Some(delay) = plan.recheck {
        queue.add_after(key, delay);
    }
    write_status(world, &set, plan.counts, collisions).await?;
    failure.map_or(Ok(()), Err)
}

/// Carries out what the plan says.
async fn act(
    world: &World,
    set: &DaemonSet,
    hash: &str,
    nodes: &[Arc<Node>],
    pods: &[Arc<Pod>],
) -> Result<(), ControllerError> {
    let Some(spec) = &set.spec else { return Ok(()) };
    let plan = plan::plan(set, hash, nodes, pods, Timestamp::now());
    for pod in plan.delete {
        pods::delete_for(world, COMPONENT, set, pod).await?;
    }
    for node in plan.create {
        let mut pod = pods::from_template(set, &spec.template);
        let labels = meta::with_label(pod.metadata.labels.as_ref(), REVISION_LABEL, hash);
        pod.metadata.labels = Some(labels);
        let mut pod_spec = plan::pod_spec(&spec.template);
        plan::pin(&mut pod_spec, &node);
        pod.spec = Some(pod_spec);
        pods::create(world, COMPONENT, set, &pod).await?;
    }
    Ok(())
}

async fn write_status(
    world: &World,
    set: &DaemonSet,
    counts: Counts,
    collisions: Option<i32>,
) -> Result<(), ControllerError> {
    let status = DaemonSetStatus {
        collision_count: collisions,
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
    let mut updated = set.clone();
    updated.status = Some(status);
    world.write_status(&world.daemon_sets, &updated).await
}
