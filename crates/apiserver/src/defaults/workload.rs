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
    for claim in super::items(spec, "volumeClaimTemplates") {
        set_default(claim, "apiVersion", "v1");
        set_default(claim, "kind", "PersistentVolumeClaim");
        set_default(claim, "status", json!({"phase": "Pending"}));
        let spec = claim.entry("spec").or_insert_with(|| json!({}));
        if let Some(spec) = spec.as_object_mut() {
            set_default(spec, "volumeMode", "Filesystem");
        }
    }
    template(spec);
}

/// batch/v1 Job.
pub fn job(value: &mut Value) {
    let (name, uid) = (
        object::name(value).to_string(),
        object::uid(value).to_string(),
    );
    let Some(spec) = object::child(value, "spec") else {
        return;
    };
    job_spec(spec);
    let given = template_labels(spec);
    if spec.get("manualSelector") != Some(&Value::Bool(true)) && !uid.is_empty() {
        select_own_pods(spec, &name, &uid);
    }
    // A job without labels gets those of its pods.
    let labels = given.or_else(|| template_labels(spec));
    if let (Some(metadata), Some(labels)) = (object::metadata(value), labels) {
        set_default(metadata, "labels", labels);
    }
}

fn template_labels(spec: &Map<String, Value>) -> Option<Value> {
    let labels = spec.get("template")?.pointer("/metadata/labels")?;
    labels
        .as_object()
        .is_some_and(|labels| !labels.is_empty())
        .then(|| labels.clone())
}

/// Labels that no other job's pods have, and a selector for them.
fn select_own_pods(spec: &mut Map<String, Value>, name: &str, uid: &str) {
    let Some(template) = spec.get_mut("template") else {
        return;
    };
    if let Some(metadata) = object::metadata(template) {
        let labels = metadata.entry("labels").or_insert_with(|| json!({}));
        if let Some(labels) = labels.as_object_mut() {
            for (key, text) in [
                ("batch.kubernetes.io/controller-uid", uid),
                ("batch.kubernetes.io/job-name", name),
                ("controller-uid", uid),
                ("job-name", name),
            ] {
                set_default(labels, key, text);
            }
        }
    }
    let selector = spec.entry("selector").or_insert_with(|| json!({}));
    if let Some(labels) = object::child(selector, "matchLabels") {
        set_default(labels, "batch.kubernetes.io/controller-uid", uid);
    }
}

fn job_spec(spec: &mut Map<String, Value>) {
    // With a limit per index the limit of the whole is out of the way.
    let limit = if spec.contains_key("backoffLimitPerIndex") {
        i32::MAX
    } else {
        6
    };
    let replacement = if spec.contains_key("podFailurePolicy") {
        "Failed"
    } else {
        "TerminatingOrFailed"
    };
    set_default(spec, "backoffLimit", limit);
    set_default(spec, "completionMode", "NonIndexed");
    set_default(spec, "suspend", false);
    set_default(spec, "manualSelector", false);
    set_default(spec, "podReplacementPolicy", replacement);
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
    let Some(job) = spec.get_mut("jobTemplate") else {
        return;
    };
    object::child(job, "metadata");
    if let Some(inner) = object::child(job, "spec") {
        if let Some(pod) = inner.get_mut("template") {
            object::child(pod, "metadata");
        }
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

    #[test]
    fn jobs_select_their_own_pods() {
        let pods = json!({"spec": {"containers": [], "restartPolicy": "Never"}});
        let mut plain = json!({"metadata": {"name": "j", "uid": "u"}, "spec": {"template": pods}});
        job(&mut plain);
        let uid = "batch.kubernetes.io/controller-uid";
        assert_eq!(plain["spec"]["selector"]["matchLabels"], json!({uid: "u"}));
        assert_eq!(
            plain["spec"]["template"]["metadata"]["labels"]["job-name"],
            "j"
        );
        assert_eq!(plain["metadata"]["labels"][uid], "u");
        assert_eq!(
            (
                &plain["spec"]["completions"],
                &plain["spec"]["backoffLimit"]
            ),
            (&json!(1), &json!(6))
        );
        let once = plain.clone();
        job(&mut plain);
        assert_eq!(plain, once, "defaulting again changes nothing");

        let mut labeled = json!({"metadata": {"name": "j", "uid": "u"}, "spec": {
            "parallelism": 2, "podFailurePolicy": {"rules": []},
            "template": {"metadata": {"labels": {"app": "x"}}, "spec": {"containers": []}}}});
        job(&mut labeled);
        assert_eq!(labeled["metadata"]["labels"], json!({"app": "x"}));
        assert!(labeled["spec"].get("completions").is_none());
        assert_eq!(labeled["spec"]["podReplacementPolicy"], "Failed");
    }
}
