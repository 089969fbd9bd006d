//! Deployment: one replica set per version of the pod template, and the
//! orderly way from one to the next.
//!
//! The arithmetic is in `plan`, the versions that `kubectl rollout` reads in
//! `versions`, the conditions in `status`. Each pass makes one step; its effects
//! bring the next pass.

mod plan;
mod status;
mod versions;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, ReplicaSet};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use self::plan::{SetView, Wish};
use self::status::NewSet;
use self::versions::{REVISION, Versions, new_set, wanted_of};
use super::claim::{claim, follow_orphans};
use super::error::{ControllerError, Doing, is_status};
use super::meta;
use super::world::{World, follow, follow_owners};
use crate::informer::{ObjectKey, Queue};

const COMPONENT: &str = "deployment-controller";
/// Names that are tried for a new replica set before giving up for now.
const NAME_ATTEMPTS: i32 = 8;

/// Subscribes to what matters for deployments and works on them.
pub(crate) fn start(world: Arc<World>) -> impl Future<Output = ()> + Send {
    let queue = Queue::new();
    follow(&world.deployments, &queue);
    follow_owners(&world.replica_sets, "Deployment", &queue);
    follow_orphans(&world.replica_sets, &world.deployments, selector, &queue);
    follow_last_pods(&world, &queue);
    async move {
        super::synced(&world).await;
        queue
            .work(COMPONENT, |key| reconcile(&world, &queue, key))
            .await;
    }
}

fn selector(
    deployment: &Deployment,
) -> Option<&k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector> {
    deployment.spec.as_ref().map(|spec| &spec.selector)
}

/// With the strategy `Recreate` the end of a pod is what the rollout waits for.
fn follow_last_pods(world: &Arc<World>, queue: &Arc<Queue<ObjectKey>>) {
    let (queue, sets) = (queue.clone(), Arc::downgrade(&world.replica_sets));
    world.pods.on_change(move |old, new| {
        let (Some(pod), None, Some(sets)) = (old, new, sets.upgrade()) else {
            return;
        };
        let namespace = pod.metadata.namespace.clone().unwrap_or_default();
        let set = meta::controller_of(&pod.metadata)
            .filter(|owner| owner.kind == "ReplicaSet")
            .and_then(|owner| sets.get(&ObjectKey::new(&*namespace, &*owner.name)));
        let owner = set
            .as_ref()
            .and_then(|set| meta::controller_of(&set.metadata));
        if let Some(owner) = owner.filter(|owner| owner.kind == "Deployment") {
            queue.add(ObjectKey::new(namespace, owner.name.clone()));
        }
    });
}

async fn reconcile(
    world: &World,
    queue: &Queue<ObjectKey>,
    key: ObjectKey,
) -> Result<(), ControllerError> {
    let Some(deployment) = world.deployments.get(&key) else {
        return Ok(());
    };
    let Some(spec) = &deployment.spec else {
        return Ok(());
    };
    let sets = claim(world, &*deployment, &spec.selector, &world.replica_sets).await?;
    let versions = Versions::of(spec, sets);
    let mut collisions = deployment.status.as_ref().and_then(|s| s.collision_count);
    let mut created = None;
    if deployment.metadata.deletion_timestamp.is_none() {
        created = Some(advance(world, &deployment, spec, &versions, &mut collisions).await);
    }
    let failure = created.as_ref().and_then(|result| match result {
        Err(error) => Some(error.to_string()),
        Ok(_) => None,
    });
    let new_name = match &created {
        Some(Ok(Some(name))) => Some(name.clone()),
        _ => None,
    };
    // What was written just now is in the cache already.
    let Some(deployment) = world.deployments.get(&key) else {
        return Ok(());
    };
    let sets = claim(world, &*deployment, &spec.selector, &world.replica_sets).await?;
    let versions = Versions::of(spec, sets);
    let found = versions
        .new
        .as_ref()
        .and_then(|set| set.metadata.name.as_deref());
    let new_set = match (&failure, &new_name, found) {
        (Some(why), _, None) => NewSet::Failed(why),
        (_, Some(name), _) => NewSet::Created(name),
        (_, None, Some(name)) => NewSet::Found(name),
        (None, None, None) => NewSet::Absent,
    };
    write_status(world, queue, &deployment, &versions, new_set, collisions).await?;
    created.map_or(Ok(()), |result| result.map(drop))
}

/// Makes one step. Returns the name of a replica set that it made.
async fn advance(
    world: &World,
    deployment: &Deployment,
    spec: &DeploymentSpec,
    versions: &Versions,
    collisions: &mut Option<i32>,
) -> Result<Option<String>, ControllerError> {
    let wish = Wish::of(deployment);
    let existing = unfinished_pods(world, deployment);
    let view = |set: &Arc<ReplicaSet>| -> SetView {
        let uid = set.metadata.uid.as_deref().unwrap_or_default();
        versions::view(set, existing.get(uid).copied().unwrap_or(0))
    };
    let new = versions.new.as_ref().map(view);
    let old: Vec<SetView> = versions.old.iter().map(view).collect();
    if !wish.paused {
        mark_version(world, deployment, spec, versions).await?;
    }
    let step = plan::step(&wish, new.as_ref(), &old);
    if let Some(size) = step.create {
        return create_set(world, deployment, spec, versions, size, collisions)
            .await
            .map(Some);
    }
    for (name, size) in &step.scale {
        scale(world, deployment, &wish, versions, name, *size).await?;
    }
    note_size(world, deployment, &wish, versions, &step.scale).await?;
    let status = deployment.status.clone().unwrap_or_default();
    if step.scale.is_empty() && (wish.paused || status::is_complete(&wish, &status)) {
        forget_history(world, deployment, spec, versions).await?;
    }
    Ok(None)
}

/// Pods that have not ended, per uid of their replica set.
fn unfinished_pods(world: &World, deployment: &Deployment) -> HashMap<String, i32> {
    let namespace = deployment.metadata.namespace.as_deref().unwrap_or_default();
    let mut counts = HashMap::new();
    for pod in world.pods.in_namespace(namespace) {
        if let Some(owner) = meta::controller_of(&pod.metadata).filter(|_| !meta::is_finished(&pod))
        {
            *counts.entry(owner.uid.clone()).or_default() += 1;
        }
    }
    counts
}

async fn create_set(
    world: &World,
    deployment: &Deployment,
    spec: &DeploymentSpec,
    versions: &Versions,
    size: i32,
    collisions: &mut Option<i32>,
) -> Result<String, ControllerError> {
    let key = ObjectKey::of(deployment);
    let api = world.api::<ReplicaSet>(&key.namespace);
    for _ in 0..NAME_ATTEMPTS {
        let set = new_set(deployment, spec, versions, size, collisions.unwrap_or(0));
        let name = set.metadata.name.clone().unwrap_or_default();
        match api.create(&PostParams::default(), &set).await {
            Ok(made) => {
                world.replica_sets.observe(made);
                if size > 0 {
                    report_scaling(world, deployment, &name, 0, size).await;
                }
                return Ok(name);
            }
            // Somebody has that name: take the next hash.
            Err(error) if is_status(&error, 409) => {
                *collisions = Some(collisions.unwrap_or(0) + 1);
            }
            Err(error) => {
                let message = format!("Failed to create new replica set {name:?}: {error}");
                world
                    .events
                    .warning(COMPONENT, deployment, "ReplicaSetCreateError", message)
                    .await;
                return Err(error).doing(|| format!("creating the replica set {name}"));
            }
        }
    }
    Err(ControllerError::NoFreeName {
        object: format!("the next replica set of {key}"),
    })
}

/// Gives the present set what it inherits from the deployment, and tells the
/// deployment the number of its present version.
async fn mark_version(
    world: &World,
    deployment: &Deployment,
    spec: &DeploymentSpec,
    versions: &Versions,
) -> Result<(), ControllerError> {
    let Some(new) = &versions.new else {
        return Ok(());
    };
    let number = versions.revision();
    let wanted = versions::version_annotations(deployment, Some(new), number);
    let changed = missing(&new.metadata, wanted);
    let own = new.spec.as_ref().and_then(|spec| spec.min_ready_seconds);
    let ready_seconds = spec.min_ready_seconds.unwrap_or(0);
    if !changed.is_empty() || own.unwrap_or(0) != ready_seconds {
        let patch = json!({
            "metadata": {"annotations": changed}, "spec": {"minReadySeconds": ready_seconds}});
        patch_set(world, new, patch).await?;
    }
    if versions::revision(&deployment.metadata) != number {
        let key = ObjectKey::of(deployment);
        let patch = json!({"metadata": {"annotations": {REVISION: number.to_string()}}});
        let written = world
            .api::<Deployment>(&key.namespace)
            .patch(&key.name, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .doing(|| format!("marking the revision of {key}"))?;
        world.deployments.observe(written);
    }
    Ok(())
}

/// Those of `wanted` that the object does not have.
fn missing(meta: &ObjectMeta, mut wanted: BTreeMap<String, String>) -> BTreeMap<String, String> {
    let has = |key: &String, value: &String| {
        meta.annotations.as_ref().and_then(|own| own.get(key)) == Some(value)
    };
    wanted.retain(|key, value| !has(key, value));
    wanted
}

async fn patch_set(world: &World, set: &ReplicaSet, patch: Value) -> Result<(), ControllerError> {
    let key = ObjectKey::of(set);
    let written = world
        .api::<ReplicaSet>(&key.namespace)
        .patch(&key.name, &PatchParams::default(), &Patch::Merge(patch))
        .await
        .doing(|| format!("changing the replica set {key}"))?;
    world.replica_sets.observe(written);
    Ok(())
}

async fn scale(
    world: &World,
    deployment: &Deployment,
    wish: &Wish,
    versions: &Versions,
    name: &str,
    size: i32,
) -> Result<(), ControllerError> {
    let Some(set) = versions.named(name) else {
        return Ok(());
    };
    let annotations = versions::size_annotations(wish);
    let patch = json!({"metadata": {"annotations": annotations}, "spec": {"replicas": size}});
    patch_set(world, set, patch).await?;
    report_scaling(world, deployment, name, wanted_of(set), size).await;
    Ok(())
}

/// Tells the other active sets the size of the deployment, so that its next
/// change is noticed.
async fn note_size(
    world: &World,
    deployment: &Deployment,
    wish: &Wish,
    versions: &Versions,
    scaled: &[(String, i32)],
) -> Result<(), ControllerError> {
    for set in versions.all().filter(|set| wanted_of(set) > 0) {
        let name = set.metadata.name.as_deref().unwrap_or_default();
        let stale = missing(&set.metadata, versions::size_annotations(wish));
        if stale.is_empty() || scaled.iter().any(|(other, _)| other == name) {
            continue;
        }
        tracing::debug!(set = name, deployment = ?deployment.metadata.name, "told the size");
        patch_set(world, set, json!({"metadata": {"annotations": stale}})).await?;
    }
    Ok(())
}

async fn report_scaling(world: &World, deployment: &Deployment, set: &str, from: i32, to: i32) {
    let direction = if to > from { "up" } else { "down" };
    let message = format!("Scaled {direction} replica set {set} from {from} to {to}");
    world
        .events
        .normal(COMPONENT, deployment, "ScalingReplicaSet", message)
        .await;
}

async fn forget_history(
    world: &World,
    deployment: &Deployment,
    spec: &DeploymentSpec,
    versions: &Versions,
) -> Result<(), ControllerError> {
    let namespace = deployment.metadata.namespace.clone().unwrap_or_default();
    for set in versions.forgettable(spec) {
        let key = ObjectKey::of(set);
        match world
            .api::<ReplicaSet>(&namespace)
            .delete(&key.name, &DeleteParams::background())
            .await
        {
            Ok(_) => {}
            Err(error) if is_status(&error, 404) => {}
            Err(error) => return Err(error).doing(|| format!("deleting the replica set {key}")),
        }
        let uid = set.metadata.uid.as_deref().unwrap_or_default();
        world.replica_sets.forget(&key, uid);
    }
    Ok(())
}

async fn write_status(
    world: &World,
    queue: &Queue<ObjectKey>,
    deployment: &Deployment,
    versions: &Versions,
    new_set: NewSet<'_>,
    collisions: Option<i32>,
) -> Result<(), ControllerError> {
    let (mut status, recheck) = status::status(deployment, versions, new_set, Timestamp::now());
    status.collision_count = collisions;
    if let Some(delay) = recheck {
        queue.add_after(ObjectKey::of(deployment), delay);
    }
    if deployment.status.as_ref() == Some(&status) {
        return Ok(());
    }
    let mut updated = deployment.clone();
    updated.status = Some(status);
    world.write_status(&world.deployments, &updated).await
}
