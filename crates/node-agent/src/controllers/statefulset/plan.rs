//! What a stateful set does next, decided as pure values.
//!
//! What always holds with the policy `OrderedReady`: one pod is created or
//! deleted at a time, none while one before it is not available, and pods go
//! in the reverse order of their numbers.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;

use super::pod::{ordinal, revision_of};
use crate::controllers::meta::{self, Availability};

/// The two versions that a set has during an update.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Revisions<'a> {
    /// Name of the version that pods had before.
    pub(crate) current: &'a str,
    /// Name of the version of the present template.
    pub(crate) update: &'a str,
}

/// Which of the two versions a new pod gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    Current,
    Update,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Action<'a> {
    /// Make the pod with this number.
    Create { ordinal: i32, version: Version },
    /// Delete a pod: it has ended, is surplus, or is of another version.
    Delete(&'a Pod),
}

/// What to do now.
#[derive(Debug, Default)]
pub(crate) struct Plan<'a> {
    pub(crate) actions: Vec<Action<'a>>,
    /// When time alone will allow the next step.
    pub(crate) recheck: Option<Duration>,
}

/// How many pods the set asks for, and the number of the first.
pub(crate) fn range(set: &StatefulSet) -> (i32, i32) {
    let spec = set.spec.as_ref();
    let count = spec.and_then(|spec| spec.replicas).unwrap_or(1).max(0);
    let start = spec
        .and_then(|spec| spec.ordinals.as_ref()?.start)
        .unwrap_or(0);
    (count, start)
}

/// What the set's pods are, sorted out.
struct Pods<'a> {
    /// One place per wanted pod, in the order of their numbers.
    wanted: Vec<Option<&'a Pod>>,
    /// Pods beyond, highest number first.
    condemned: Vec<&'a Pod>,
}

impl<'a> Pods<'a> {
    fn of(set: &StatefulSet, pods: &'a [Arc<Pod>]) -> Self {
        let (count, start) = range(set);
        let mut wanted = vec![None; usize::try_from(count).unwrap_or(0)];
        let mut condemned = Vec::new();
        for pod in pods {
            let Some(number) = ordinal(set, pod) else {
                continue;
            };
            let place = usize::try_from(number - start).ok();
            match place.and_then(|place| wanted.get_mut(place)) {
                Some(place) => *place = Some(&**pod),
                None => condemned.push((number, &**pod)),
            }
        }
        condemned.sort_by_key(|(number, _)| std::cmp::Reverse(*number));
        Self {
            wanted,
            condemned: condemned.into_iter().map(|(_, pod)| pod).collect(),
        }
    }
}

/// The state that decides whether others may follow.
struct Judge {
    min_ready: i32,
    now: Timestamp,
    recheck: Option<Duration>,
}

impl Judge {
    /// Running, ready for long enough, and not on its way out.
    fn is_available(&mut self, pod: &Pod) -> bool {
        if meta::phase(pod) != "Running" || pod.metadata.deletion_timestamp.is_some() {
            return false;
        }
        match meta::availability(pod, self.min_ready, self.now) {
            Availability::Available => true,
            Availability::NotReady => false,
            Availability::In(delay) => {
                let sooner = self.recheck.map_or(delay, |other| other.min(delay));
                self.recheck = Some(sooner);
                false
            }
        }
    }
}

/// Decides. `pods` are those the set controls.
pub(crate) fn plan<'a>(
    set: &StatefulSet,
    revisions: Revisions<'_>,
    pods: &'a [Arc<Pod>],
    now: Timestamp,
) -> Plan<'a> {
    let spec = set.spec.clone().unwrap_or_default();
    let mut judge = Judge {
        min_ready: spec.min_ready_seconds.unwrap_or(0),
        now,
        recheck: None,
    };
    let ordered = spec.pod_management_policy.as_deref() != Some("Parallel");
    let pods = Pods::of(set, pods);
    let mut actions = Vec::new();
    let done = fill(set, &pods, ordered, &mut judge, &mut actions)
        && thin_out(&pods, ordered, &mut judge, &mut actions);
    if done {
        update(set, revisions, &pods, &mut judge, &mut actions);
    }
    Plan {
        actions,
        recheck: judge.recheck,
    }
}

/// Missing and ended pods, in the order of their numbers. False: wait.
fn fill<'a>(
    set: &StatefulSet,
    pods: &Pods<'a>,
    ordered: bool,
    judge: &mut Judge,
    actions: &mut Vec<Action<'a>>,
) -> bool {
    let (_, start) = range(set);
    for (number, pod) in (start..).zip(&pods.wanted) {
        let settled = match pod {
            None => {
                actions.push(Action::Create {
                    ordinal: number,
                    version: version(set, number),
                });
                false
            }
            Some(pod) if meta::is_finished(pod) => {
                if pod.metadata.deletion_timestamp.is_none() {
                    actions.push(Action::Delete(pod));
                }
                false
            }
            Some(pod) => judge.is_available(pod),
        };
        if ordered && !settled {
            return false;
        }
    }
    true
}

/// Pods beyond the wanted number, highest first. False: wait.
fn thin_out<'a>(
    pods: &Pods<'a>,
    ordered: bool,
    judge: &mut Judge,
    actions: &mut Vec<Action<'a>>,
) -> bool {
    // Of several that are not available, the one with the lowest number may
    // go first: it will never let the others follow.
    let stuck = pods
        .condemned
        .iter()
        .rev()
        .find(|pod| !judge.is_available(pod))
        .map(|pod| &pod.metadata.uid);
    for pod in &pods.condemned {
        if pod.metadata.deletion_timestamp.is_some() {
            if ordered {
                return false;
            }
            continue;
        }
        let may_go = judge.is_available(pod) || stuck == Some(&pod.metadata.uid);
        if ordered && !may_go {
            return false;
        }
        actions.push(Action::Delete(pod));
        if ordered {
            return false;
        }
    }
    true
}

/// The next pod of another version, highest number first.
fn update<'a>(
    set: &StatefulSet,
    revisions: Revisions<'_>,
    pods: &Pods<'a>,
    judge: &mut Judge,
    actions: &mut Vec<Action<'a>>,
) {
    let Some(partition) = partition(set) else {
        return;
    };
    let from = usize::try_from(partition).unwrap_or(0);
    for pod in pods.wanted.iter().skip(from).rev() {
        let Some(pod) = pod else { return };
        let leaves = pod.metadata.deletion_timestamp.is_some() || meta::is_finished(pod);
        if revision_of(pod) != Some(revisions.update) && !leaves {
            actions.push(Action::Delete(pod));
            return;
        }
        if !judge.is_available(pod) {
            return;
        }
    }
}

/// How many pods a rolling update leaves alone; none if pods are replaced only
/// when somebody deletes them.
fn partition(set: &StatefulSet) -> Option<i32> {
    let strategy = set.spec.as_ref()?.update_strategy.as_ref();
    if strategy.and_then(|s| s.type_.as_deref()) == Some("OnDelete") {
        return None;
    }
    let rolling = strategy.and_then(|s| s.rolling_update.as_ref());
    Some(rolling.and_then(|r| r.partition).unwrap_or(0))
}

/// Pods that a rolling update leaves alone come back as they were.
fn version(set: &StatefulSet, number: i32) -> Version {
    let (_, start) = range(set);
    match partition(set) {
        Some(partition) if number < start + partition => Version::Current,
        _ => Version::Update,
    }
}

/// The status that the pods give.
pub(crate) fn status(
    set: &StatefulSet,
    revisions: Revisions<'_>,
    pods: &[Arc<Pod>],
    collisions: Option<i32>,
    now: Timestamp,
) -> StatefulSetStatus {
    let spec = set.spec.clone().unwrap_or_default();
    let min_ready = spec.min_ready_seconds.unwrap_or(0);
    let (mut replicas, mut ready, mut available, mut current, mut updated) = (0, 0, 0, 0, 0);
    for pod in pods {
        replicas += 1;
        let state = meta::availability(pod, min_ready, now);
        let is_ready = meta::phase(pod) == "Running" && state != Availability::NotReady;
        ready += i32::from(is_ready);
        available += i32::from(is_ready && state == Availability::Available);
        if pod.metadata.deletion_timestamp.is_none() {
            current += i32::from(revision_of(pod) == Some(revisions.current));
            updated += i32::from(revision_of(pod) == Some(revisions.update));
        }
    }
    let (wanted, _) = range(set);
    let rolls = partition(set).is_some();
    let complete = rolls && updated == wanted && ready == wanted && replicas == wanted;
    let mut status = StatefulSetStatus {
        observed_generation: set.metadata.generation,
        replicas,
        ready_replicas: non_zero(ready),
        available_replicas: Some(available),
        current_replicas: non_zero(current),
        updated_replicas: non_zero(updated),
        current_revision: Some(revisions.current.to_owned()),
        update_revision: Some(revisions.update.to_owned()),
        collision_count: Some(collisions.unwrap_or(0)),
        conditions: set.status.as_ref().and_then(|s| s.conditions.clone()),
    };
    if complete {
        status.current_replicas = status.updated_replicas;
        status.current_revision = status.update_revision.clone();
    }
    status
}

fn non_zero(count: i32) -> Option<i32> {
    (count != 0).then_some(count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn set(replicas: i32, more: Value) -> StatefulSet {
        let mut spec =
            json!({"replicas": replicas, "selector": {}, "template": {}, "serviceName": "s"});
        spec.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        serde_json::from_value(json!({"metadata": {"name": "db"}, "spec": spec})).unwrap()
    }

    /// `number:revision[:state]`, state one of ready (default), pending, leaving, failed.
    fn pods(texts: &[&str]) -> Vec<Arc<Pod>> {
        let pod = |text: &&str| {
            let mut parts = text.split(':');
            let (number, revision) = (parts.next().unwrap(), parts.next().unwrap());
            let state = parts.next().unwrap_or("ready");
            let (phase, ready) = match state {
                "pending" => ("Pending", "False"),
                "failed" => ("Failed", "False"),
                _ => ("Running", "True"),
            };
            let mut pod = json!({
                "metadata": {"name": format!("db-{number}"), "uid": number,
                    "labels": {"controller-revision-hash": revision}},
                "status": {"phase": phase, "conditions": [{"type": "Ready", "status": ready,
                    "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
            if state == "leaving" {
                pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
            }
            Arc::new(serde_json::from_value(pod).unwrap())
        };
        texts.iter().map(pod).collect()
    }

    const REVISIONS: Revisions<'static> = Revisions {
        current: "a",
        update: "b",
    };

    fn decide(set: &StatefulSet, texts: &[&str]) -> Vec<String> {
        let pods = pods(texts);
        let now = "2026-01-01T00:01:00Z".parse().unwrap();
        let text = |action: &Action<'_>| match action {
            Action::Create { ordinal, version } => format!("+{ordinal}{version:?}"),
            Action::Delete(pod) => format!("-{}", ordinal(set, pod).unwrap()),
        };
        plan(set, REVISIONS, &pods, now)
            .actions
            .iter()
            .map(text)
            .collect()
    }

    #[test]
    fn ordered_sets_grow_and_shrink_one_by_one() {
        let three = set(3, json!({}));
        assert_eq!(decide(&three, &[]), ["+0Update"]);
        assert_eq!(decide(&three, &["0:b:pending"]), [""; 0]);
        assert_eq!(decide(&three, &["0:b"]), ["+1Update"]);
        assert_eq!(decide(&three, &["0:b", "2:b"]), ["+1Update"]);
        assert_eq!(decide(&three, &["0:b", "1:b", "2:b"]), [""; 0]);
        let one = set(1, json!({}));
        assert_eq!(decide(&one, &["0:b", "1:b", "2:b"]), ["-2"]);
        assert_eq!(decide(&one, &["0:b", "1:b", "2:b:leaving"]), [""; 0]);
        assert_eq!(decide(&one, &["0:b:pending", "1:b", "2:b"]), [""; 0]);
        // A broken one does not keep the others for ever.
        assert_eq!(decide(&one, &["0:b", "1:b", "2:b:pending"]), ["-2"]);
        assert_eq!(
            decide(&one, &["0:b", "1:b:pending", "2:b:pending"]),
            [""; 0]
        );
    }

    #[test]
    fn parallel_sets_do_all_at_once() {
        let parallel = |replicas| set(replicas, json!({"podManagementPolicy": "Parallel"}));
        assert_eq!(
            decide(&parallel(3), &["1:b:pending"]),
            ["+0Update", "+2Update"]
        );
        assert_eq!(
            decide(&parallel(1), &["0:b", "1:b", "2:b:leaving", "3:b:pending"]),
            ["-3", "-1"]
        );
    }

    #[test]
    fn updates_go_from_the_highest_number_down() {
        let three = set(3, json!({}));
        assert_eq!(decide(&three, &["0:a", "1:a", "2:a"]), ["-2"]);
        assert_eq!(decide(&three, &["0:a", "1:a", "2:a:leaving"]), [""; 0]);
        assert_eq!(decide(&three, &["0:a", "1:a"]), ["+2Update"]);
        assert_eq!(decide(&three, &["0:a", "1:a", "2:b:pending"]), [""; 0]);
        assert_eq!(decide(&three, &["0:a", "1:a", "2:b"]), ["-1"]);
        assert_eq!(decide(&three, &["0:a", "1:b", "2:b"]), ["-0"]);
    }

    #[test]
    fn a_partition_keeps_the_lower_numbers_as_they_are() {
        let canary = set(
            3,
            json!({"updateStrategy": {"type": "RollingUpdate",
            "rollingUpdate": {"partition": 2}}}),
        );
        assert_eq!(decide(&canary, &["0:a", "1:a", "2:a"]), ["-2"]);
        assert_eq!(decide(&canary, &["0:a", "1:a", "2:b"]), [""; 0]);
        assert_eq!(decide(&canary, &["0:a", "2:b"]), ["+1Current"]);
        assert_eq!(decide(&canary, &["0:a", "1:a"]), ["+2Update"]);
    }

    #[test]
    fn on_delete_replaces_only_what_somebody_deletes() {
        let careful = set(2, json!({"updateStrategy": {"type": "OnDelete"}}));
        assert_eq!(decide(&careful, &["0:a", "1:a"]), [""; 0]);
        assert_eq!(decide(&careful, &["0:a"]), ["+1Update"]);
    }

    #[test]
    fn ended_pods_are_replaced_and_numbers_may_start_elsewhere() {
        assert_eq!(decide(&set(2, json!({})), &["0:b:failed", "1:b"]), ["-0"]);
        let shifted = set(2, json!({"ordinals": {"start": 5}}));
        assert_eq!(decide(&shifted, &["5:b"]), ["+6Update"]);
        assert_eq!(decide(&shifted, &["0:b", "5:b", "6:b"]), ["-0"]);
    }

    #[test]
    fn a_pod_counts_only_after_min_ready_seconds() {
        let slow = set(2, json!({"minReadySeconds": 90}));
        let pods = pods(&["0:b"]);
        let now = "2026-01-01T00:01:00Z".parse().unwrap();
        let plan = plan(&slow, REVISIONS, &pods, now);
        assert_eq!(
            (plan.actions.len(), plan.recheck),
            (0, Some(Duration::from_secs(30)))
        );
        let status = status(&slow, REVISIONS, &pods, None, now);
        assert_eq!(
            (status.ready_replicas, status.available_replicas),
            (Some(1), Some(0))
        );
    }

    #[test]
    fn the_update_becomes_current_when_all_pods_have_it() {
        let now = Timestamp::now();
        let of = |set: &StatefulSet, texts: &[&str]| {
            let status = status(set, REVISIONS, &pods(texts), None, now);
            (
                status.current_revision.unwrap(),
                status.current_replicas,
                status.updated_replicas,
            )
        };
        let two = set(2, json!({}));
        assert_eq!(of(&two, &["0:a", "1:b"]), ("a".into(), Some(1), Some(1)));
        assert_eq!(of(&two, &["0:b", "1:b"]), ("b".into(), Some(2), Some(2)));
        assert_eq!(
            of(&two, &["0:b", "1:b:pending"]),
            ("a".into(), None, Some(2))
        );
        let careful = set(2, json!({"updateStrategy": {"type": "OnDelete"}}));
        assert_eq!(of(&careful, &["0:b", "1:b"]), ("a".into(), None, Some(2)));
    }

    /// Whatever happens to pods in between, an ordered set never has two pods
    /// unavailable by its own doing, and it arrives.
    #[test]
    fn an_ordered_update_arrives() {
        for replicas in 1..5 {
            let set = set(replicas, json!({}));
            let mut state: Vec<String> = (0..replicas).map(|n| format!("{n}:a")).collect();
            for _ in 0..40 {
                let texts: Vec<&str> = state.iter().map(String::as_str).collect();
                let actions = decide(&set, &texts);
                assert!(actions.len() <= 1, "{actions:?}");
                let settle = |text: &String| text.replace(":pending", "");
                let mut next: Vec<String> = state.iter().map(settle).collect();
                for action in actions {
                    let number = &action[1..2];
                    match &action[..1] {
                        "-" => next.retain(|text| !text.starts_with(number)),
                        _ => next.push(format!("{number}:b:pending")),
                    }
                }
                assert!(next.len() + 1 >= state.len());
                state = next;
            }
            assert_eq!(state.len(), usize::try_from(replicas).unwrap());
            assert!(state.iter().all(|text| text.ends_with(":b")), "{state:?}");
        }
    }
}
