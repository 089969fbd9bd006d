//! Deployment: one replica set per version of the pod template, and the
//! orderly way from one to the next.
//!
//! The arithmetic is in `deployment_plan`. Versions carry the revision
//! annotations that `kubectl rollout` reads.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{
    Deployment, DeploymentCondition, DeploymentSpec, DeploymentStatus, ReplicaSet, ReplicaSetSpec,
};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::json;

use super::deployment_plan::{self as plan, SetView, Strategy};
use super::error::{ControllerError, Doing, is_status};
use super::meta;
use super::replicaset::non_zero;
use super::world::World;
use crate::informer::{ObjectKey, Queue};

const COMPONENT: &str = "deployment-controller";
const HASH_LABEL: &str = "pod-template-hash";
const REVISION: &str = "deployment.kubernetes.io/revision";
const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
const MAXIMUM: &str = "deployment.kubernetes.io/max-replicas";
const DEFAULT_HISTORY: i32 = 10;
const DEFAULT_DEADLINE: i32 = 600;

/// Subscribes to what matters for deployments and works on them.
pub(crate) fn start(world: Arc<World>) -> impl Future<Output = ()> + Send {
    let queue = Queue::new();
    let deployments = queue.clone();
    world.deployments.on_change(move |_, new| {
        if let Some(deployment) = new {
            deployments.add(ObjectKey::of(deployment));
        }
    });
    let sets = queue.clone();
    world.replica_sets.on_change(move |old, new| {
        for set in [old, new].into_iter().flatten() {
            if let Some(owner) =
                meta::controller_of(&set.metadata).filter(|o| o.kind == "Deployment")
            {
                let namespace = set.metadata.namespace.clone().unwrap_or_default();
                sets.add(ObjectKey::new(namespace, owner.name.clone()));
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

async fn reconcile(
    world: &World,
    queue: &Queue<ObjectKey>,
    key: ObjectKey,
) -> Result<(), ControllerError> {
    let Some(deployment) = world.deployments.get(&key) else {
        return Ok(());
    };
    let Some(spec) = deployment.spec.clone() else {
        return Ok(());
    };
    if deployment.metadata.deletion_timestamp.is_some() {
        return write_status(world, queue, &deployment, &spec).await;
    }
    let paused = spec.paused.unwrap_or(false);
    let (new, old) = versions(&spec, &owned_sets(world, &deployment));
    let new = match new {
        Some(set) => Some(set),
        None if paused => None,
        None => Some(create_set(world, &deployment, &spec, &old).await?),
    };
    if let Some(new) = &new {
        if !paused {
            mark_revision(world, &deployment, new, &old).await?;
        }
        scale_sets(world, &deployment, &spec, new, &old).await?;
        if !paused {
            forget_history(world, &deployment, &spec, new, &old).await?;
        }
    }
    write_status(world, queue, &deployment, &spec).await
}

/// All replica sets that the deployment controls, oldest first.
fn owned_sets(world: &World, deployment: &Deployment) -> Vec<Arc<ReplicaSet>> {
    let uid = deployment.metadata.uid.as_deref().unwrap_or_default();
    let namespace = deployment.metadata.namespace.as_deref().unwrap_or_default();
    let mut sets: Vec<_> = world
        .replica_sets
        .in_namespace(namespace)
        .into_iter()
        .filter(|set| meta::is_controlled_by(&set.metadata, uid))
        .collect();
    sets.sort_by_key(|set| {
        (
            set.metadata.creation_timestamp.as_ref().map(|t| t.0),
            set.metadata.name.clone(),
        )
    });
    sets
}

type Sets = Vec<Arc<ReplicaSet>>;

/// The set of the current template, and all others.
fn versions(spec: &DeploymentSpec, sets: &Sets) -> (Option<Arc<ReplicaSet>>, Sets) {
    let template = meta::without_label(&spec.template, HASH_LABEL);
    let is_new = |set: &Arc<ReplicaSet>| {
        set.metadata.deletion_timestamp.is_none()
            && template_of(set).is_some_and(|t| meta::without_label(t, HASH_LABEL) == template)
    };
    let new = sets.iter().find(|set| is_new(set)).cloned();
    let old = sets
        .iter()
        .filter(|set| {
            new.as_ref()
                .is_none_or(|new| new.metadata.uid != set.metadata.uid)
        })
        .cloned()
        .collect();
    (new, old)
}

fn template_of(set: &ReplicaSet) -> Option<&PodTemplateSpec> {
    set.spec.as_ref()?.template.as_ref()
}

async fn create_set(
    world: &World,
    deployment: &Deployment,
    spec: &DeploymentSpec,
    old: &Sets,
) -> Result<Arc<ReplicaSet>, ControllerError> {
    let key = ObjectKey::of(deployment);
    let api = world.api::<ReplicaSet>(&key.namespace);
    for collisions in 0..8 {
        let set = new_set(deployment, spec, old, collisions);
        let name = set.metadata.name.clone().unwrap_or_default();
        match api.create(&PostParams::default(), &set).await {
            Ok(created) => {
                world.replica_sets.observe(created.clone());
                let message = format!(
                    "Scaled up replica set {name} from 0 to {}",
                    wanted_of(&created)
                );
                world
                    .events
                    .normal(COMPONENT, deployment, "ScalingReplicaSet", message)
                    .await;
                return Ok(Arc::new(created));
            }
            // Somebody has that name: take the next hash.
            Err(error) if is_status(&error, 409) => continue,
            Err(error) => return Err(error).doing(|| format!("creating the replica set {name}")),
        }
    }
    let reason = "all candidate names of the next replica set are taken".to_owned();
    Err(ControllerError::Selector {
        object: key.to_string(),
        reason,
    })
}

fn new_set(
    deployment: &Deployment,
    spec: &DeploymentSpec,
    old: &Sets,
    collisions: i32,
) -> ReplicaSet {
    let hash = meta::template_hash(&spec.template, collisions);
    let mut template = spec.template.clone();
    let labels = template.metadata.as_ref().and_then(|m| m.labels.as_ref());
    let labels = meta::with_label(labels, HASH_LABEL, &hash);
    template.metadata.get_or_insert_default().labels = Some(labels.clone());
    let mut selector = LabelSelector {
        match_expressions: spec.selector.match_expressions.clone(),
        match_labels: spec.selector.match_labels.clone(),
    };
    selector.match_labels = Some(meta::with_label(
        selector.match_labels.as_ref(),
        HASH_LABEL,
        &hash,
    ));
    let empty = SetView {
        name: String::new(),
        wanted: 0,
        existing: 0,
        available: 0,
    };
    let others: Vec<SetView> = old.iter().map(|set| view(set)).collect();
    let strategy = plan::strategy(deployment);
    let first = plan::step(strategy, plan::wanted(spec), &empty, &others)
        .into_iter()
        .find(|(name, _)| name.is_empty())
        .map_or(0, |(_, count)| count);
    ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!(
                "{}-{hash}",
                deployment.metadata.name.as_deref().unwrap_or_default()
            )),
            namespace: deployment.metadata.namespace.clone(),
            labels: Some(labels),
            annotations: Some(set_annotations(deployment, spec, next_revision(old))),
            owner_references: Some(vec![meta::controller_ref(deployment)]),
            ..ObjectMeta::default()
        },
        spec: Some(ReplicaSetSpec {
            min_ready_seconds: spec.min_ready_seconds,
            replicas: Some(first),
            selector,
            template: Some(template),
        }),
        status: None,
    }
}

fn set_annotations(
    deployment: &Deployment,
    spec: &DeploymentSpec,
    revision: i64,
) -> BTreeMap<String, String> {
    let mut annotations: BTreeMap<String, String> = deployment
        .metadata
        .annotations
        .iter()
        .flatten()
        .filter(|(key, _)| key.as_str() != "kubectl.kubernetes.io/last-applied-configuration")
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    let wanted = plan::wanted(spec);
    let most = match plan::strategy(deployment) {
        Strategy::Recreate => wanted,
        Strategy::Rolling { surge, .. } => wanted + surge,
    };
    annotations.insert(REVISION.to_owned(), revision.to_string());
    annotations.insert(DESIRED.to_owned(), wanted.to_string());
    annotations.insert(MAXIMUM.to_owned(), most.to_string());
    annotations
}

fn revision(annotations: Option<&BTreeMap<String, String>>) -> i64 {
    annotations
        .and_then(|a| a.get(REVISION))
        .and_then(|r| r.parse().ok())
        .unwrap_or(0)
}

fn next_revision(old: &Sets) -> i64 {
    1 + old
        .iter()
        .map(|set| revision(set.metadata.annotations.as_ref()))
        .max()
        .unwrap_or(0)
}

/// Gives the current set the highest revision and tells it to the deployment.
async fn mark_revision(
    world: &World,
    deployment: &Deployment,
    new: &ReplicaSet,
    old: &Sets,
) -> Result<(), ControllerError> {
    let key = ObjectKey::of(deployment);
    let mut current = revision(new.metadata.annotations.as_ref());
    // A return to an older template makes its set the newest revision again.
    if current < next_revision(old) {
        current = next_revision(old);
        let name = new.metadata.name.clone().unwrap_or_default();
        let patch = json!({"metadata": {"annotations": {REVISION: current.to_string()}}});
        let set = world
            .api::<ReplicaSet>(&key.namespace)
            .patch(&name, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .doing(|| format!("marking the revision of {name}"))?;
        world.replica_sets.observe(set);
    }
    if revision(deployment.metadata.annotations.as_ref()) != current {
        let patch = json!({"metadata": {"annotations": {REVISION: current.to_string()}}});
        let written = world
            .api::<Deployment>(&key.namespace)
            .patch(&key.name, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .doing(|| format!("marking the revision of {key}"))?;
        world.deployments.observe(written);
    }
    Ok(())
}

fn wanted_of(set: &ReplicaSet) -> i32 {
    set.spec
        .as_ref()
        .and_then(|spec| spec.replicas)
        .unwrap_or(1)
}

fn view(set: &ReplicaSet) -> SetView {
    let status = set.status.as_ref();
    SetView {
        name: set.metadata.name.clone().unwrap_or_default(),
        wanted: wanted_of(set),
        existing: status.map_or(0, |status| status.replicas),
        available: status
            .and_then(|status| status.available_replicas)
            .unwrap_or(0),
    }
}

async fn scale_sets(
    world: &World,
    deployment: &Deployment,
    spec: &DeploymentSpec,
    new: &ReplicaSet,
    old: &Sets,
) -> Result<(), ControllerError> {
    let others: Vec<SetView> = old.iter().map(|set| view(set)).collect();
    let strategy = plan::strategy(deployment);
    let namespace = deployment.metadata.namespace.clone().unwrap_or_default();
    // A paused deployment still follows `replicas`, it only does not roll.
    let others = if spec.paused.unwrap_or(false) {
        Vec::new()
    } else {
        others
    };
    for (name, count) in plan::step(strategy, plan::wanted(spec), &view(new), &others) {
        let before = old
            .iter()
            .map(|set| &**set)
            .chain([new])
            .find(|set| set.metadata.name.as_deref() == Some(name.as_str()))
            .map_or(0, wanted_of);
        let annotations = json!({DESIRED: plan::wanted(spec).to_string()});
        let patch = json!({"metadata": {"annotations": annotations}, "spec": {"replicas": count}});
        let written = world
            .api::<ReplicaSet>(&namespace)
            .patch(&name, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .doing(|| format!("scaling the replica set {name}"))?;
        world.replica_sets.observe(written);
        let direction = if count > before { "up" } else { "down" };
        let message = format!("Scaled {direction} replica set {name} from {before} to {count}");
        world
            .events
            .normal(COMPONENT, deployment, "ScalingReplicaSet", message)
            .await;
    }
    Ok(())
}

/// Deletes empty old versions beyond `revisionHistoryLimit`.
async fn forget_history(
    world: &World,
    deployment: &Deployment,
    spec: &DeploymentSpec,
    new: &ReplicaSet,
    old: &Sets,
) -> Result<(), ControllerError> {
    let done = view(new).available >= plan::wanted(spec);
    let limit = spec.revision_history_limit.unwrap_or(DEFAULT_HISTORY);
    let Ok(limit) = usize::try_from(limit) else {
        return Ok(());
    };
    if !done || old.len() <= limit {
        return Ok(());
    }
    let mut by_age = old.clone();
    by_age.sort_by_key(|set| revision(set.metadata.annotations.as_ref()));
    let namespace = deployment.metadata.namespace.clone().unwrap_or_default();
    for set in by_age.iter().take(old.len() - limit) {
        let empty = wanted_of(set) == 0 && view(set).existing == 0;
        if !empty || set.metadata.deletion_timestamp.is_some() {
            continue;
        }
        let name = set.metadata.name.clone().unwrap_or_default();
        match world
            .api::<ReplicaSet>(&namespace)
            .delete(&name, &DeleteParams::background())
            .await
        {
            Ok(_) => {}
            Err(error) if is_status(&error, 404) => {}
            Err(error) => return Err(error).doing(|| format!("deleting the replica set {name}")),
        }
        world.replica_sets.forget(
            &ObjectKey::of(&**set),
            set.metadata.uid.as_deref().unwrap_or(""),
        );
    }
    Ok(())
}

async fn write_status(
    world: &World,
    queue: &Queue<ObjectKey>,
    deployment: &Deployment,
    spec: &DeploymentSpec,
) -> Result<(), ControllerError> {
    let key = ObjectKey::of(deployment);
    // Annotations may have been written above; a status needs the last version.
    let Some(deployment) = world.deployments.get(&key) else {
        return Ok(());
    };
    let (new, old) = versions(spec, &owned_sets(world, &deployment));
    let (status, recheck) = status(&deployment, spec, new.as_deref(), &old, Timestamp::now());
    if let Some(delay) = recheck {
        queue.add_after(key.clone(), delay);
    }
    if deployment.status.as_ref() == Some(&status) {
        return Ok(());
    }
    let mut updated = (*deployment).clone();
    updated.status = Some(status);
    let api = world.api::<Deployment>(&key.namespace);
    match api
        .replace_status(&key.name, &PostParams::default(), &updated)
        .await
    {
        Ok(written) => world.deployments.observe(written),
        Err(error) if is_status(&error, 404) => {}
        Err(error) => return Err(error).doing(|| format!("writing the status of {key}")),
    }
    Ok(())
}

/// The status of a deployment, and when time alone will change it.
fn status(
    deployment: &Deployment,
    spec: &DeploymentSpec,
    new: Option<&ReplicaSet>,
    old: &Sets,
    now: Timestamp,
) -> (DeploymentStatus, Option<Duration>) {
    let all: Vec<&ReplicaSet> = old.iter().map(|set| &**set).chain(new).collect();
    let sum = |count: fn(&ReplicaSet) -> i32| all.iter().map(|set| count(set)).sum::<i32>();
    let existing = sum(|set| view(set).existing);
    let available = sum(|set| view(set).available);
    let ready = sum(|set| {
        set.status
            .as_ref()
            .and_then(|s| s.ready_replicas)
            .unwrap_or(0)
    });
    let updated = new.map_or(0, |set| view(set).existing);
    let wanted = plan::wanted(spec);
    let unavailable = (sum(wanted_of).max(wanted) - available).max(0);
    let mut status = DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: non_zero(existing),
        updated_replicas: non_zero(updated),
        ready_replicas: non_zero(ready),
        available_replicas: non_zero(available),
        unavailable_replicas: non_zero(unavailable),
        ..DeploymentStatus::default()
    };
    let least = match plan::strategy(deployment) {
        Strategy::Recreate => wanted,
        Strategy::Rolling { unavailable, .. } => wanted - unavailable,
    };
    let complete = updated == wanted && existing == wanted && available >= wanted;
    let before = deployment.status.clone().unwrap_or_default();
    let moved = counters(&before) != counters(&status)
        || before.observed_generation != status.observed_generation;
    let known = before.conditions.unwrap_or_default();
    let name = new
        .and_then(|set| set.metadata.name.clone())
        .unwrap_or_default();
    let deadline = spec.progress_deadline_seconds.unwrap_or(DEFAULT_DEADLINE);
    let (progress, recheck) = progressing(&known, &name, complete, moved, deadline, now);
    status.conditions = Some(vec![
        availability(&known, available >= least, now),
        progress,
    ]);
    (status, recheck)
}

fn counters(status: &DeploymentStatus) -> [Option<i32>; 4] {
    [
        status.replicas,
        status.updated_replicas,
        status.ready_replicas,
        status.available_replicas,
    ]
}

fn condition(
    known: &[DeploymentCondition],
    type_: &str,
    status: &str,
    reason: &str,
    message: String,
    touched: bool,
    now: Timestamp,
) -> DeploymentCondition {
    let time = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now);
    let before = known.iter().find(|c| c.type_ == type_);
    let same_status = before.filter(|c| c.status == status);
    let same = same_status.filter(|c| c.reason.as_deref() == Some(reason) && !touched);
    DeploymentCondition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_transition_time: same_status
            .and_then(|c| c.last_transition_time.clone())
            .or_else(|| Some(time.clone())),
        last_update_time: same.and_then(|c| c.last_update_time.clone()).or(Some(time)),
    }
}

fn availability(
    known: &[DeploymentCondition],
    enough: bool,
    now: Timestamp,
) -> DeploymentCondition {
    let (status, reason, message) = if enough {
        (
            "True",
            "MinimumReplicasAvailable",
            "Deployment has minimum availability.",
        )
    } else {
        (
            "False",
            "MinimumReplicasUnavailable",
            "Deployment does not have minimum availability.",
        )
    };
    condition(
        known,
        "Available",
        status,
        reason,
        message.to_owned(),
        false,
        now,
    )
}

fn progressing(
    known: &[DeploymentCondition],
    set: &str,
    complete: bool,
    moved: bool,
    deadline: i32,
    now: Timestamp,
) -> (DeploymentCondition, Option<Duration>) {
    let type_ = "Progressing";
    if complete {
        let message = format!("ReplicaSet \"{set}\" has successfully progressed.");
        return (
            condition(
                known,
                type_,
                "True",
                "NewReplicaSetAvailable",
                message,
                false,
                now,
            ),
            None,
        );
    }
    let before = known.iter().find(|c| c.type_ == type_);
    let was_complete =
        before.is_some_and(|c| c.reason.as_deref() == Some("NewReplicaSetAvailable"));
    let last = before
        .and_then(|c| c.last_update_time.as_ref())
        .map_or(now, |time| time.0);
    let left = i64::from(deadline) * 1000 - (now.as_millisecond() - last.as_millisecond());
    if before.is_some() && !moved && !was_complete && left <= 0 {
        let message = format!("ReplicaSet \"{set}\" has timed out progressing.");
        let late = condition(
            known,
            type_,
            "False",
            "ProgressDeadlineExceeded",
            message,
            false,
            now,
        );
        return (late, None);
    }
    let message = format!("ReplicaSet \"{set}\" is progressing.");
    let touched = moved || was_complete;
    let current = condition(
        known,
        type_,
        "True",
        "ReplicaSetUpdated",
        message,
        touched,
        now,
    );
    let left = if touched || before.is_none() {
        i64::from(deadline) * 1000
    } else {
        left
    };
    (
        current,
        Some(Duration::from_millis(left.max(1).unsigned_abs())),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn deployment(spec: serde_json::Value) -> Deployment {
        let object =
            json!({"metadata": {"name": "web", "namespace": "ns", "uid": "d"}, "spec": spec});
        serde_json::from_value(object).expect("a deployment")
    }

    fn spec(image: &str) -> serde_json::Value {
        json!({
            "replicas": 2,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "c", "image": image}]}
            }
        })
    }

    #[test]
    fn the_set_of_a_template_is_found_again_by_its_content() {
        let first = deployment(spec("one"));
        let first_spec = first.spec.clone().expect("spec");
        let set = Arc::new(new_set(&first, &first_spec, &Vec::new(), 0));
        assert_eq!(wanted_of(&set), 2);
        assert_eq!(revision(set.metadata.annotations.as_ref()), 1);
        let (new, old) = versions(&first_spec, &vec![set.clone()]);
        assert!(new.is_some() && old.is_empty());

        let second = deployment(spec("two"));
        let second_spec = second.spec.clone().expect("spec");
        let (new, old) = versions(&second_spec, &vec![set]);
        assert!(new.is_none() && old.len() == 1);
        let next = new_set(&second, &second_spec, &old, 0);
        assert_eq!(revision(next.metadata.annotations.as_ref()), 2);
        assert_eq!(
            wanted_of(&next),
            1,
            "only the surge while the old pods exist"
        );
        let selector = next
            .spec
            .expect("spec")
            .selector
            .match_labels
            .expect("labels");
        assert!(selector.contains_key(HASH_LABEL) && selector.contains_key("app"));
    }

    #[test]
    fn a_rollout_without_progress_times_out() {
        let start: Timestamp = "2026-01-01T00:00:00Z".parse().expect("a time");
        let later: Timestamp = "2026-01-01T00:00:11Z".parse().expect("a time");
        let (first, recheck) = progressing(&[], "rs", false, true, 10, start);
        assert_eq!(
            (first.status.as_str(), recheck.map(|d| d.as_secs())),
            ("True", Some(10))
        );
        let (late, _) = progressing(std::slice::from_ref(&first), "rs", false, false, 10, later);
        assert_eq!(late.reason.as_deref(), Some("ProgressDeadlineExceeded"));
        let (moving, _) = progressing(&[first], "rs", false, true, 10, later);
        assert_eq!(moving.reason.as_deref(), Some("ReplicaSetUpdated"));
        let (done, recheck) = progressing(&[moving], "rs", true, false, 10, later);
        assert_eq!((done.status.as_str(), recheck), ("True", None));
    }
}
