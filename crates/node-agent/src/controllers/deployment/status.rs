//! A deployment's status: counters of its replica sets, and the conditions
//! that `kubectl rollout status` and `kubectl wait` read.

use std::time::Duration;

use k8s_openapi::api::apps::v1::{
    Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet, ReplicaSetStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use super::plan::Wish;
use super::versions::{Versions, wanted_of};
use crate::controllers::replicaset::non_zero;

const PROGRESSING: &str = "Progressing";
const AVAILABLE: &str = "Available";
const FAILURE: &str = "ReplicaFailure";
const DONE: &str = "NewReplicaSetAvailable";
const LATE: &str = "ProgressDeadlineExceeded";
/// Seconds without progress after which a rollout is said to be stuck.
const DEFAULT_DEADLINE: i32 = 600;

/// What happened to the set of the present template in this pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NewSet<'a> {
    /// It was made.
    Created(&'a str),
    /// It was there.
    Found(&'a str),
    /// It could not be made, with the reason.
    Failed(&'a str),
    /// It is not time for it yet.
    Absent,
}

/// The status of a deployment, and when time alone will change it.
pub(crate) fn status(
    deployment: &Deployment,
    versions: &Versions,
    new_set: NewSet<'_>,
    now: Timestamp,
) -> (DeploymentStatus, Option<Duration>) {
    let before = deployment.status.clone().unwrap_or_default();
    let wish = Wish::of(deployment);
    let mut status = counters(deployment, versions);
    status.collision_count = before.collision_count;
    let mut conditions = Conditions {
        list: before.conditions.clone().unwrap_or_default(),
        now,
    };
    let available = status.available_replicas.unwrap_or(0) >= wish.least();
    if available {
        let message = "Deployment has minimum availability.";
        conditions.set(AVAILABLE, "True", "MinimumReplicasAvailable", message);
    } else {
        let message = "Deployment does not have minimum availability.";
        conditions.set(AVAILABLE, "False", "MinimumReplicasUnavailable", message);
    }
    let recheck = match deadline(deployment) {
        Some(deadline) => {
            let rollout = Rollout {
                deployment,
                wish: &wish,
                before: &before,
                status: &status,
                new_set,
                deadline,
            };
            rollout.judge(&mut conditions)
        }
        None => {
            conditions.remove(PROGRESSING);
            None
        }
    };
    match replica_failure(versions) {
        Some(failure) => conditions.put(failure),
        None => conditions.remove(FAILURE),
    }
    status.conditions = Some(conditions.list);
    (status, recheck)
}

fn counters(deployment: &Deployment, versions: &Versions) -> DeploymentStatus {
    let of = |set: &ReplicaSet| set.status.clone().unwrap_or_default();
    let sum = |count: fn(&ReplicaSetStatus) -> i32| -> i32 {
        versions.all().map(|set| count(&of(set))).sum()
    };
    let wanted: i32 = versions.all().map(|set| wanted_of(set)).sum();
    let available = sum(|status| status.available_replicas.unwrap_or(0));
    let updated = versions.new.as_ref().map_or(0, |set| of(set).replicas);
    DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: non_zero(sum(|status| status.replicas)),
        updated_replicas: non_zero(updated),
        ready_replicas: non_zero(sum(|status| status.ready_replicas.unwrap_or(0))),
        available_replicas: non_zero(available),
        unavailable_replicas: non_zero((wanted - available).max(0)),
        terminating_replicas: Some(sum(|status| status.terminating_replicas.unwrap_or(0))),
        ..DeploymentStatus::default()
    }
}

/// The progress deadline; the largest number means that there is none.
fn deadline(deployment: &Deployment) -> Option<i32> {
    let spec = deployment.spec.as_ref();
    let given = spec.and_then(|spec| spec.progress_deadline_seconds);
    Some(given.unwrap_or(DEFAULT_DEADLINE)).filter(|deadline| *deadline != i32::MAX)
}

/// Whether all pods are of the present template and available.
pub(crate) fn is_complete(wish: &Wish, status: &DeploymentStatus) -> bool {
    let is_all = |count: Option<i32>| count.unwrap_or(0) == wish.wanted;
    is_all(status.updated_replicas) && is_all(status.replicas) && is_all(status.available_replicas)
}

/// What the condition `Progressing` is decided from.
struct Rollout<'a> {
    deployment: &'a Deployment,
    wish: &'a Wish,
    before: &'a DeploymentStatus,
    status: &'a DeploymentStatus,
    new_set: NewSet<'a>,
    deadline: i32,
}

impl Rollout<'_> {
    fn judge(&self, conditions: &mut Conditions) -> Option<Duration> {
        let reason = conditions.reason(PROGRESSING).map(str::to_owned);
        if self.wish.paused {
            if reason.as_deref() != Some("DeploymentPaused") {
                let message = "Deployment is paused";
                conditions.set(PROGRESSING, "Unknown", "DeploymentPaused", message);
            }
            return None;
        }
        if reason.as_deref() == Some("DeploymentPaused") {
            let message = "Deployment is resumed";
            conditions.set(PROGRESSING, "Unknown", "DeploymentResumed", message);
        }
        self.note_new_set(conditions);
        let name = self.name();
        // Finished, and since then only resized or disturbed: no new rollout.
        let was_done = conditions.reason(PROGRESSING) == Some(DONE)
            && self.status.replicas == self.status.updated_replicas;
        if was_done {
            return None;
        }
        if is_complete(self.wish, self.status) {
            let message = format!("{name} has successfully progressed.");
            conditions.set(PROGRESSING, "True", DONE, &message);
            return None;
        }
        if self.has_moved() {
            let message = format!("{name} is progressing.");
            conditions.touch(PROGRESSING, "True", "ReplicaSetUpdated", &message);
        } else if self.left(conditions) == Some(Duration::ZERO) {
            let message = format!("{name} has timed out progressing.");
            conditions.set(PROGRESSING, "False", LATE, &message);
        }
        self.left(conditions).filter(|left| !left.is_zero())
    }

    fn note_new_set(&self, conditions: &mut Conditions) {
        let known = conditions.reason(PROGRESSING).is_some();
        match self.new_set {
            NewSet::Created(name) => {
                let message = format!("Created new replica set {name:?}");
                conditions.set(PROGRESSING, "True", "NewReplicaSetCreated", &message);
            }
            NewSet::Found(name) if !known => {
                let message = format!("Found new replica set {name:?}");
                conditions.set(PROGRESSING, "True", "FoundNewReplicaSet", &message);
            }
            NewSet::Failed(why) => {
                conditions.set(PROGRESSING, "False", "ReplicaSetCreateError", why);
            }
            NewSet::Found(_) | NewSet::Absent => {}
        }
    }

    fn name(&self) -> String {
        match self.new_set {
            NewSet::Created(name) | NewSet::Found(name) => format!("ReplicaSet {name:?}"),
            NewSet::Failed(_) | NewSet::Absent => {
                let name = self.deployment.metadata.name.as_deref().unwrap_or_default();
                format!("Deployment {name:?}")
            }
        }
    }

    /// More new pods, fewer old ones, or more that are ready or available.
    fn has_moved(&self) -> bool {
        let (before, now) = (self.before, self.status);
        let count = |value: Option<i32>| value.unwrap_or(0);
        let old =
            |status: &DeploymentStatus| count(status.replicas) - count(status.updated_replicas);
        count(now.updated_replicas) > count(before.updated_replicas)
            || old(now) < old(before)
            || count(now.ready_replicas) > count(before.ready_replicas)
            || count(now.available_replicas) > count(before.available_replicas)
    }

    /// The time left until the rollout counts as stuck; none if it does already,
    /// or if nothing is known of its progress.
    fn left(&self, conditions: &Conditions) -> Option<Duration> {
        let condition = conditions.get(PROGRESSING)?;
        if matches!(condition.reason.as_deref(), Some(LATE | DONE)) {
            return None;
        }
        let since = condition.last_update_time.as_ref()?.0.as_millisecond();
        let left = since + i64::from(self.deadline) * 1000 - conditions.now.as_millisecond();
        Some(Duration::from_millis(u64::try_from(left).unwrap_or(0)))
    }
}

/// A failure to make pods, of the present set or else of an older one.
fn replica_failure(versions: &Versions) -> Option<DeploymentCondition> {
    let failure = versions
        .new
        .iter()
        .chain(versions.old.iter())
        .find_map(|set| {
            let conditions = set.status.as_ref()?.conditions.as_ref()?;
            conditions.iter().find(|c| c.type_ == FAILURE)
        })?;
    Some(DeploymentCondition {
        type_: FAILURE.to_owned(),
        status: failure.status.clone(),
        reason: failure.reason.clone(),
        message: failure.message.clone(),
        last_transition_time: failure.last_transition_time.clone(),
        last_update_time: failure.last_transition_time.clone(),
    })
}

/// The conditions as they are being decided.
struct Conditions {
    list: Vec<DeploymentCondition>,
    now: Timestamp,
}

impl Conditions {
    fn get(&self, type_: &str) -> Option<&DeploymentCondition> {
        self.list.iter().find(|condition| condition.type_ == type_)
    }

    fn reason(&self, type_: &str) -> Option<&str> {
        self.get(type_)?.reason.as_deref()
    }

    fn remove(&mut self, type_: &str) {
        self.list.retain(|condition| condition.type_ != type_);
    }

    /// Sets a condition, unless it has this status and reason already.
    fn set(&mut self, type_: &str, status: &str, reason: &str, message: &str) {
        let same = self
            .get(type_)
            .is_some_and(|c| c.status == status && c.reason.as_deref() == Some(reason));
        if !same {
            self.touch(type_, status, reason, message);
        }
    }

    /// Sets a condition and its time of update.
    fn touch(&mut self, type_: &str, status: &str, reason: &str, message: &str) {
        let now = Some(Time(self.now));
        let transition = self
            .get(type_)
            .filter(|c| c.status == status)
            .and_then(|c| c.last_transition_time.clone());
        self.put(DeploymentCondition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            last_transition_time: transition.or_else(|| now.clone()),
            last_update_time: now,
        });
    }

    /// Replaces a condition in its place, or adds it.
    fn put(&mut self, condition: DeploymentCondition) {
        match self.list.iter_mut().find(|c| c.type_ == condition.type_) {
            Some(known) => *known = condition,
            None => self.list.push(condition),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use std::sync::Arc;

    fn at(text: &str) -> Timestamp {
        format!("2026-01-01T00:{text}Z").parse().unwrap()
    }

    fn deployment(paused: bool, status: &DeploymentStatus) -> Deployment {
        let object = json!({"metadata": {"name": "web"}, "spec": {"replicas": 2, "paused": paused,
            "progressDeadlineSeconds": 10, "selector": {}, "template": {},
            "strategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}}});
        let mut deployment: Deployment = serde_json::from_value(object).unwrap();
        deployment.status = Some(status.clone());
        deployment
    }

    fn versions(new: i32, available: i32, more: Value) -> Versions {
        let mut status =
            json!({"replicas": new, "readyReplicas": available, "availableReplicas": available});
        if let (Some(status), Some(more)) = (status.as_object_mut(), more.as_object()) {
            status.extend(more.clone());
        }
        let set = json!({"metadata": {"name": "web-1"}, "spec": {"replicas": 2, "selector": {}}, "status": status});
        Versions {
            new: Some(Arc::new(serde_json::from_value(set).unwrap())),
            old: Vec::new(),
        }
    }

    fn reason(status: &DeploymentStatus, type_: &str) -> Option<String> {
        let list = status.conditions.as_ref()?;
        list.iter().find(|c| c.type_ == type_)?.reason.clone()
    }

    #[test]
    fn a_rollout_from_its_start_to_its_end() {
        let found = NewSet::Found("web-1");
        let empty = DeploymentStatus::default();
        let (first, recheck) = status(
            &deployment(false, &empty),
            &versions(0, 0, json!({})),
            NewSet::Created("web-1"),
            at("00:00"),
        );
        assert_eq!(reason(&first, PROGRESSING).unwrap(), "NewReplicaSetCreated");
        assert_eq!(
            reason(&first, AVAILABLE).unwrap(),
            "MinimumReplicasUnavailable"
        );
        assert_eq!(first.unavailable_replicas, Some(2));
        assert_eq!(recheck, Some(Duration::from_secs(10)));
        let (moved, recheck) = status(
            &deployment(false, &first),
            &versions(2, 1, json!({})),
            found,
            at("00:05"),
        );
        assert_eq!(reason(&moved, PROGRESSING).unwrap(), "ReplicaSetUpdated");
        assert_eq!(recheck, Some(Duration::from_secs(10)));
        let (done, recheck) = status(
            &deployment(false, &moved),
            &versions(2, 2, json!({})),
            found,
            at("00:06"),
        );
        assert_eq!(reason(&done, PROGRESSING).unwrap(), DONE);
        assert_eq!(
            (reason(&done, AVAILABLE).unwrap().as_str(), recheck),
            ("MinimumReplicasAvailable", None)
        );
        // A pod that is lost afterwards is no new rollout and never times out.
        let (lost, recheck) = status(
            &deployment(false, &done),
            &versions(2, 1, json!({})),
            found,
            at("30:00"),
        );
        assert_eq!(
            (reason(&lost, PROGRESSING).unwrap().as_str(), recheck),
            (DONE, None)
        );
    }

    #[test]
    fn a_rollout_without_progress_times_out_and_recovers() {
        let found = NewSet::Found("web-1");
        let (first, _) = status(
            &deployment(false, &DeploymentStatus::default()),
            &versions(2, 0, json!({})),
            found,
            at("00:00"),
        );
        let (waiting, recheck) = status(
            &deployment(false, &first),
            &versions(2, 0, json!({})),
            found,
            at("00:04"),
        );
        assert_eq!(recheck, Some(Duration::from_secs(6)));
        let (late, recheck) = status(
            &deployment(false, &waiting),
            &versions(2, 0, json!({})),
            found,
            at("00:10"),
        );
        assert_eq!(
            (reason(&late, PROGRESSING).unwrap().as_str(), recheck),
            (LATE, None)
        );
        let message = late
            .conditions
            .as_ref()
            .unwrap()
            .iter()
            .find(|c| c.type_ == PROGRESSING);
        assert_eq!(
            message.unwrap().message.as_deref(),
            Some("ReplicaSet \"web-1\" has timed out progressing.")
        );
        let (still, _) = status(
            &deployment(false, &late),
            &versions(2, 0, json!({})),
            found,
            at("00:30"),
        );
        assert_eq!(still.conditions, late.conditions);
        let (moving, _) = status(
            &deployment(false, &late),
            &versions(2, 1, json!({})),
            found,
            at("01:00"),
        );
        assert_eq!(reason(&moving, PROGRESSING).unwrap(), "ReplicaSetUpdated");
    }

    #[test]
    fn a_paused_rollout_does_not_time_out() {
        let found = NewSet::Found("web-1");
        let (paused, recheck) = status(
            &deployment(true, &DeploymentStatus::default()),
            &versions(2, 0, json!({})),
            NewSet::Absent,
            at("00:00"),
        );
        assert_eq!(
            (reason(&paused, PROGRESSING).unwrap().as_str(), recheck),
            ("DeploymentPaused", None)
        );
        let (resumed, recheck) = status(
            &deployment(false, &paused),
            &versions(2, 0, json!({})),
            found,
            at("30:00"),
        );
        assert_eq!(reason(&resumed, PROGRESSING).unwrap(), "DeploymentResumed");
        assert_eq!(recheck, Some(Duration::from_secs(10)));
    }

    #[test]
    fn a_set_that_cannot_make_pods_shows() {
        let failing = json!({"conditions": [{"type": FAILURE, "status": "True",
            "reason": "FailedCreate", "message": "no"}]});
        let (with, _) = status(
            &deployment(false, &DeploymentStatus::default()),
            &versions(0, 0, failing),
            NewSet::Found("web-1"),
            at("00:00"),
        );
        assert_eq!(reason(&with, FAILURE).unwrap(), "FailedCreate");
        let (without, _) = status(
            &deployment(false, &with),
            &versions(2, 2, json!({})),
            NewSet::Found("web-1"),
            at("00:01"),
        );
        assert_eq!(reason(&without, FAILURE), None);
    }
}
