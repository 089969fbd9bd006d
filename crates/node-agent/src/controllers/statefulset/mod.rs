//! StatefulSet: pods with names and numbers that stay, made and replaced in
//! order.
//!
//! What to do is decided in `plan`, how a pod looks in `pod`; here it is
//! carried out.

mod plan;
mod pod;

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;

use self::plan::{Action, Revisions, Version};
use super::claim::{claim, follow_orphans};
use super::error::{ControllerError, Doing, is_status};
use super::pods;
use super::revisions::{self, History};
use super::world::{World, follow, follow_owners};
use crate::informer::{ObjectKey, Queue};

const COMPONENT: &str = "statefulset-controller";

/// Subscribes to what matters for stateful sets and works on them.
pub(crate) fn start(world: Arc<World>) -> impl Future<Output = ()> + Send {
    let queue = Queue::new();
    follow(&world.stateful_sets, &queue);
    follow_owners(&world.pods, "StatefulSet", &queue);
    follow_orphans(&world.pods, &world.stateful_sets, selector, &queue);
    async move {
        super::synced(&world).await;
        queue
            .work(COMPONENT, |key| reconcile(&world, &queue, key))
            .await;
    }
}

fn selector(set: &StatefulSet) -> Option<&LabelSelector> {
    set.spec.as_ref().map(|spec| &spec.selector)
}

async fn reconcile(
    world: &World,
    queue: &Queue<ObjectKey>,
    key: ObjectKey,
) -> Result<(), ControllerError> {
    let Some(set) = world.stateful_sets.get(&key) else {
        return Ok(());
    };
    let Some(spec) = &set.spec else { return Ok(()) };
    if set.metadata.deletion_timestamp.is_some() {
        return Ok(());
    }
    let status = set.status.clone().unwrap_or_default();
    let mut collisions = status.collision_count;
    let (selector, template) = (&spec.selector, &spec.template);
    let history = revisions::sync(world, &*set, selector, template, &mut collisions).await?;
    let current = status.current_revision.as_deref();
    let current = current.and_then(|name| history.named(name));
    let current = current.unwrap_or(&history.update);
    let names = Revisions {
        current: name_of(current),
        update: name_of(&history.update),
    };
    let pods = claim(world, &*set, selector, &world.pods).await?;
    let failure = act(world, queue, &set, current, &history, &pods)
        .await
        .err();

    let pods = claim(world, &*set, selector, &world.pods).await?;
    let status = plan::status(&set, names, &pods, collisions, Timestamp::now());
    let live = [names.current, names.update];
    let is_live = |revision: &ControllerRevision| {
        let own = name_of(revision);
        live.contains(&own) || pods.iter().any(|pod| pod::revision_of(pod) == Some(own))
    };
    revisions::forget(world, &history.all, is_live, spec.revision_history_limit).await?;
    if set.status.as_ref() != Some(&status) {
        let mut updated = (*set).clone();
        updated.status = Some(status);
        world.write_status(&world.stateful_sets, &updated).await?;
    }
    failure.map_or(Ok(()), Err)
}

fn name_of(revision: &ControllerRevision) -> &str {
    revision.metadata.name.as_deref().unwrap_or_default()
}

/// Carries out what the plan says.
async fn act(
    world: &World,
    queue: &Queue<ObjectKey>,
    set: &StatefulSet,
    current: &ControllerRevision,
    history: &History,
    pods: &[Arc<Pod>],
) -> Result<(), ControllerError> {
    let names = Revisions {
        current: name_of(current),
        update: name_of(&history.update),
    };
    let plan = plan::plan(set, names, pods, Timestamp::now());
    if let Some(delay) = plan.recheck {
        queue.add_after(ObjectKey::of(set), delay);
    }
    let (count, start) = plan::range(set);
    for pod in pods {
        let stays = pod::ordinal(set, pod).is_some_and(|n| (start..start + count).contains(&n));
        assign_claims(world, set, pod, !stays).await?;
    }
    for action in plan.actions {
        match action {
            Action::Delete(pod) => delete(world, set, pod).await?,
            Action::Create { ordinal, version } => {
                let revision = match version {
                    Version::Current => current,
                    Version::Update => &*history.update,
                };
                let template = revisions::template(revision).unwrap_or_default();
                let pod = pod::new(set, &template, name_of(revision), ordinal);
                create(world, set, &pod).await?;
            }
        }
    }
    Ok(())
}

/// Creates a pod, and before it the claims that it uses.
async fn create(world: &World, set: &StatefulSet, pod: &Pod) -> Result<(), ControllerError> {
    let set_name = set.metadata.name.as_deref().unwrap_or_default();
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let about = format!("Pod {name} in StatefulSet {set_name}");
    let outcome = match create_claims(world, set, name).await {
        Ok(()) => pods::store(world, pod).await,
        Err(error) => Err(error),
    };
    match &outcome {
        Ok(()) => {
            let message = format!("create {about} successful");
            world
                .events
                .normal(COMPONENT, set, "SuccessfulCreate", message)
                .await;
        }
        Err(error) => {
            let message = format!("create {about} failed error: {error}");
            world
                .events
                .warning(COMPONENT, set, "FailedCreate", message)
                .await;
        }
    }
    outcome
}

async fn delete(world: &World, set: &StatefulSet, pod: &Pod) -> Result<(), ControllerError> {
    pods::delete(world, pod, None).await?;
    let set_name = set.metadata.name.as_deref().unwrap_or_default();
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let message = format!("delete Pod {name} in StatefulSet {set_name} successful");
    world
        .events
        .normal(COMPONENT, set, "SuccessfulDelete", message)
        .await;
    Ok(())
}

async fn create_claims(world: &World, set: &StatefulSet, pod: &str) -> Result<(), ControllerError> {
    for (_, mut claim) in pod::claims(set, pod) {
        let key = ObjectKey::of(&claim);
        if world.claims.get(&key).is_some() {
            continue;
        }
        claim.metadata.owner_references = pod::claim_owner(set, None).map(|owner| vec![owner]);
        let api = world.api::<PersistentVolumeClaim>(&key.namespace);
        match api.create(&PostParams::default(), &claim).await {
            Ok(created) => world.claims.observe(created),
            Err(error) if is_status(&error, 409) => continue,
            Err(error) => return Err(error).doing(|| format!("creating the claim {key}")),
        }
        let set_name = set.metadata.name.as_deref().unwrap_or_default();
        let message = format!(
            "create Claim {} Pod {pod} in StatefulSet {set_name} success",
            key.name
        );
        world
            .events
            .normal(COMPONENT, set, "SuccessfulCreate", message)
            .await;
    }
    Ok(())
}

/// Gives a pod's claims the owner that the set's retention policy says.
async fn assign_claims(
    world: &World,
    set: &StatefulSet,
    pod: &Pod,
    condemned: bool,
) -> Result<(), ControllerError> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let owner = pod::claim_owner(set, condemned.then_some(pod));
    for (_, claim) in pod::claims(set, name) {
        let key = ObjectKey::of(&claim);
        let Some(known) = world.claims.get(&key) else {
            continue;
        };
        let has = known
            .metadata
            .owner_references
            .as_ref()
            .and_then(|o| o.first());
        if has.map(|owner| &owner.uid) == owner.as_ref().map(|owner| &owner.uid) {
            continue;
        }
        let owners: Vec<_> = owner.iter().collect();
        let patch = json!({"metadata": {"uid": known.metadata.uid, "ownerReferences": owners}});
        let written = world
            .api::<PersistentVolumeClaim>(&key.namespace)
            .patch(&key.name, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .doing(|| format!("changing the owner of the claim {key}"))?;
        world.claims.observe(written);
    }
    Ok(())
}
