//! Failed pods of a job: when a pod counts as failed, what the job's failure
//! policy makes of it, and how long its successor waits.

use std::time::Duration;

use k8s_openapi::api::batch::v1::{
    Job, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyRule,
};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use k8s_openapi::jiff::Timestamp;

use crate::controllers::meta;

/// First wait before a failed pod gets a successor; doubles with each failure in a row.
const FIRST_DELAY: Duration = Duration::from_secs(10);
/// Longest wait.
const LONGEST_DELAY: Duration = Duration::from_secs(600);

/// What a policy makes of a failed pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It counts towards the back-off limit.
    Count,
    /// It does not count.
    Ignore,
    /// Its index has failed for good.
    FailIndex,
    /// The job has failed, with this message.
    FailJob(String),
}

/// Whether only pods that have ended are replaced, not those that are terminating.
pub(crate) fn replaces_only_ended(job: &Job) -> bool {
    let spec = job.spec.as_ref();
    let policy = spec.and_then(|spec| spec.pod_replacement_policy.as_deref());
    policy == Some("Failed") || spec.is_some_and(|spec| spec.pod_failure_policy.is_some())
}

/// Whether the pod counts as failed. One that was deleted before it could end
/// does, unless the job waits for the end.
pub(crate) fn is_failed(job: &Job, pod: &Pod) -> bool {
    match meta::phase(pod) {
        "Failed" => true,
        "Succeeded" => false,
        _ => pod.metadata.deletion_timestamp.is_some() && !replaces_only_ended(job),
    }
}

/// What the job's failure policy says about a failed pod.
pub(crate) fn judge(job: &Job, pod: &Pod) -> Outcome {
    let policy = job
        .spec
        .as_ref()
        .and_then(|spec| spec.pod_failure_policy.as_ref());
    let rules = policy.map(|policy| policy.rules.as_slice());
    for (index, rule) in rules.unwrap_or_default().iter().enumerate() {
        let Some(cause) = matched(rule, pod) else {
            continue;
        };
        return match rule.action.as_str() {
            "Ignore" => Outcome::Ignore,
            "FailIndex" => Outcome::FailIndex,
            "FailJob" => {
                Outcome::FailJob(format!("{cause} matching FailJob rule at index {index}"))
            }
            _ => Outcome::Count,
        };
    }
    Outcome::Count
}

/// Why a rule applies to the pod, in words.
fn matched(rule: &PodFailurePolicyRule, pod: &Pod) -> Option<String> {
    let name = meta::display(&pod.metadata);
    if let Some(codes) = &rule.on_exit_codes {
        let (container, code) = statuses(pod).find_map(|status| failed_with(codes, status))?;
        return Some(format!(
            "Container {container} for pod {name} failed with exit code {code}"
        ));
    }
    let conditions = pod
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref());
    let patterns = rule.on_pod_conditions.as_deref().unwrap_or_default();
    let hit = conditions.into_iter().flatten().find(|condition| {
        patterns.iter().any(|pattern| {
            let status = pattern
                .status
                .as_deref()
                .filter(|status| !status.is_empty());
            pattern.type_ == condition.type_ && condition.status == status.unwrap_or("True")
        })
    })?;
    Some(format!("Pod {name} has condition {}", hit.type_))
}

fn statuses(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    let status = pod.status.as_ref();
    let main = status.and_then(|status| status.container_statuses.as_ref());
    let init = status.and_then(|status| status.init_container_statuses.as_ref());
    main.into_iter().chain(init).flatten()
}

fn failed_with(
    codes: &PodFailurePolicyOnExitCodesRequirement,
    status: &ContainerStatus,
) -> Option<(String, i32)> {
    let wanted = codes.container_name.as_ref();
    if wanted.is_some_and(|name| *name != status.name) {
        return None;
    }
    let code = status.state.as_ref()?.terminated.as_ref()?.exit_code;
    let listed = codes.values.contains(&code);
    let hit = code != 0 && (codes.operator == "In") == listed;
    hit.then(|| (status.name.clone(), code))
}

/// When a pod ended, as its containers tell, or else when it was deleted.
pub(crate) fn end_of(pod: &Pod) -> Option<Timestamp> {
    let ended = statuses(pod)
        .filter_map(|status| {
            status
                .state
                .as_ref()?
                .terminated
                .as_ref()?
                .finished_at
                .as_ref()
        })
        .map(|time| time.0)
        .max();
    ended.or_else(|| {
        let deleted = pod.metadata.deletion_timestamp.as_ref();
        deleted
            .or(pod.metadata.creation_timestamp.as_ref())
            .map(|time| time.0)
    })
}

/// How long the next pod must wait, given the ends of all that have ended:
/// (when, whether it failed).
pub(crate) fn delay(mut ends: Vec<(Timestamp, bool)>, now: Timestamp) -> Duration {
    ends.sort_unstable();
    let in_a_row = ends.iter().rev().take_while(|(_, failed)| *failed).count();
    let (Some((last, _)), Some(doublings)) = (ends.last(), in_a_row.checked_sub(1)) else {
        return Duration::ZERO;
    };
    let doublings = u32::try_from(doublings).unwrap_or(u32::MAX).min(10);
    let wait = FIRST_DELAY
        .saturating_mul(1 << doublings)
        .min(LONGEST_DELAY);
    let since = now.as_millisecond() - last.as_millisecond();
    wait.saturating_sub(Duration::from_millis(u64::try_from(since).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn job(spec: Value) -> Job {
        serde_json::from_value(json!({"metadata": {"name": "j"}, "spec": spec})).unwrap()
    }

    fn pod(code: i32, conditions: Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "ns"},
            "status": {"phase": "Failed", "conditions": conditions, "containerStatuses": [
                {"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                 "state": {"terminated": {"exitCode": code}}}]}}))
        .unwrap()
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let job = job(json!({"template": {}, "podFailurePolicy": {"rules": [
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            {"action": "FailJob", "onExitCodes": {"containerName": "c", "operator": "In", "values": [42]}},
            {"action": "FailJob", "onExitCodes": {"containerName": "other", "operator": "NotIn", "values": [0]}},
            {"action": "FailIndex", "onExitCodes": {"operator": "NotIn", "values": [1, 2]}},
        ]}}));
        let disrupted = json!([{"type": "DisruptionTarget", "status": "True"}]);
        assert_eq!(judge(&job, &pod(42, disrupted)), Outcome::Ignore);
        assert_eq!(judge(&job, &pod(1, json!([]))), Outcome::Count);
        assert_eq!(judge(&job, &pod(7, json!([]))), Outcome::FailIndex);
        let message =
            "Container c for pod ns/p failed with exit code 42 matching FailJob rule at index 1";
        assert_eq!(
            judge(&job, &pod(42, json!([]))),
            Outcome::FailJob(message.into())
        );
    }

    #[test]
    fn a_deleted_pod_has_failed_unless_the_job_waits_for_its_end() {
        let mut leaving = pod(0, json!([]));
        leaving.status.as_mut().unwrap().phase = Some("Running".into());
        let plain = job(json!({"template": {}}));
        assert!(!is_failed(&plain, &leaving));
        leaving.metadata.deletion_timestamp = Some(meta::now());
        assert!(is_failed(&plain, &leaving));
        let patient = job(json!({"template": {}, "podReplacementPolicy": "Failed"}));
        assert!(!is_failed(&patient, &leaving));
    }

    #[test]
    fn failures_in_a_row_double_the_wait() {
        let at = |seconds: i64| Timestamp::from_second(seconds).unwrap();
        let ends = |list: &[(i64, bool)]| list.iter().map(|(s, f)| (at(*s), *f)).collect();
        assert_eq!(delay(ends(&[]), at(0)), Duration::ZERO);
        assert_eq!(delay(ends(&[(100, false)]), at(100)), Duration::ZERO);
        assert_eq!(delay(ends(&[(100, true)]), at(103)), Duration::from_secs(7));
        assert_eq!(
            delay(ends(&[(100, true), (120, true)]), at(120)),
            Duration::from_secs(20)
        );
        assert_eq!(
            delay(ends(&[(120, true), (110, false), (100, true)]), at(120)),
            Duration::from_secs(10)
        );
        let many: Vec<(i64, bool)> = (0..40).map(|n| (n, true)).collect();
        assert_eq!(delay(ends(&many), at(39)), LONGEST_DELAY);
        assert_eq!(delay(ends(&many), at(10_000)), Duration::ZERO);
    }
}
