//! Defaults of the kinds that make pods.

use super::pod;
use crate::object::{self, set_default};
use serde_json::{Map, Value, json};

/// Defaults of the pod template in a spec.
fn template(spec: &mut Map<String, Value>) {
    if let Some(template) = spec.get_mut("template")
        && let Some(inner) = object::child(template, "spec")
    {
        pod::template_spec(inner);
    }
}

/// apps/v1 Deployment.
pub fn deployment(value: &mut Value) {
    let Some(spec) = object::child(value, "spec") else {
        return;
    };
    set_default(spec, "replicas", 1);
    set_default(spec, "revisionHistoryLimit", 10);
    set_default(spec, "progressDeadlineSeconds", 600);
    let strategy = spec.entry("strategy").or_insert_with(|| json!({}));
    rolling(
        strategy,
        "RollingUpdate",
        &[("maxUnavailable", json!("25%")), ("maxSurge", json!("25%"))],
    );
    template(spec);
}

fn rolling(strategy: &mut Value, kind: &str, limits: &[(&str, Value)]) {
    let Some(map) = strategy.as_object_mut() else {
        return;
    };
    set_default(map, "type", kind);
    if map.get("type").and_then(Value::as_str) == Some("RollingUpdate")
        && let Some(update) = object::child(strategy, "rollingUpdate")
    {
        for (key, value) in limits {
            set_default(update, key, value.clone());
        }
    }
}

/// apps/v1 ReplicaSet.
pub fn replica_set(value: &mut Value) {
    let Some(spec) = object::child(value, "spec") else {
        return;
    };
    set_default(spec, "replicas", 1);
    template(spec);
}

/// apps/v1 DaemonSet.
pub fn daemon_set(value: &mut Value) {
    let Some(spec) = object::child(value, "spec") else {
        return;
    };
    set_default(spec, "revisionHistoryLimit", 10);
    let strategy = spec.entry("updateStrategy").or_insert_with(|| json!({}));
    rolling(
        strategy,
        "RollingUpdate",
        &[("maxUnavailable", json!(1)), ("maxSurge", json!(0))],
    );
    template(spec);
}

/// apps/v1 StatefulSet.
pub fn stateful_set(value: &mut Value) {
    let Some(spec) = object::child(value, "spec") else {
        return;
    };
    set_default(spec, "replicas", 1);
    set_default(spec, "revisionHistoryLimit", 10);
    set_default(spec, "podManagementPolicy", "OrderedReady");
    set_default(
        spec,
        "persistentVolumeClaimRetentionPolicy",
        json!({"whenDeleted": "Retain", "whenScaled": "Retain"}),
    );
    let strategy = spec.entry("updateStrategy").or_insert_with(|| json!({}));
    rolling(strategy, "RollingUpdate", &[("partition", json!(0))]);
    template(spec);
}

/// batch/v1 Job.
pub fn job(value: &mut Value) {
    let uid = object::uid(value).to_string();
    let Some(spec) = object::child(value, "spec") else {
        return;
    };
    job_spec(spec);
    if spec.get("manualSelector") != Some(&Value::Bool(true)) && !uid.is_empty() {
        set_default(
            spec,
            "selector",
            json!({"matchLabels": {"batch.kubernetes.io/controller-uid": uid}}),
        );
    }
}

fn job_spec(spec: &mut Map<String, Value>) {
    set_default(spec, "backoffLimit", 6);
    set_default(spec, "completionMode", "NonIndexed");
    set_default(spec, "suspend", false);
    set_default(spec, "manualSelector", false);
    set_default(spec, "podReplacementPolicy", "TerminatingOrFailed");
    if !spec.contains_key("completions") && !spec.contains_key("parallelism") {
        set_default(spec, "completions", 1);
    }
    set_default(spec, "parallelism", 1);
    template(spec);
}

/// batch/v1 CronJob.
pub fn cron_job(value: &mut Value) {
    let Some(spec) = object::child(value, "spec") else {
        return;
    };
    set_default(spec, "concurrencyPolicy", "Allow");
    set_default(spec, "suspend", false);
    set_default(spec, "successfulJobsHistoryLimit", 3);
    set_default(spec, "failedJobsHistoryLimit", 1);
    if let Some(inner) = spec
        .get_mut("jobTemplate")
        .and_then(|t| object::child(t, "spec"))
    {
        template(inner);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deployments() {
        let mut d =
            json!({"spec": {"template": {"spec": {"containers": [{"name": "a", "image": "b"}]}}}});
        deployment(&mut d);
        assert_eq!(d["spec"]["strategy"]["rollingUpdate"]["maxSurge"], "25%");
        assert_eq!(d["spec"]["template"]["spec"]["restartPolicy"], "Always");
        assert!(
            d["spec"]["template"]["spec"]
                .get("enableServiceLinks")
                .is_none()
        );
        let mut d = json!({"spec": {"strategy": {"type": "Recreate"}}});
        deployment(&mut d);
        assert_eq!(d["spec"]["strategy"], json!({"type": "Recreate"}));
    }
}
