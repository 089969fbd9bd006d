//! The name of what owns a pod, as telemetry shows it: of the Deployment rather than of its
//! ReplicaSet, of the CronJob rather than of one Job.

use ambit_kube_api::labels;
use ambit_model::Text;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::ResourceExt;

/// Name of the workload that the pod is an instance of.
pub(super) fn workload_name(pod: &Pod) -> Text {
    if let Some(name) = pod
        .labels()
        .get(labels::WORKLOAD_NAME)
        .filter(|n| !n.is_empty())
    {
        return name.as_str().into();
    }
    // A pod that somebody named is its own workload, whoever owns it.
    if pod
        .metadata
        .generate_name
        .as_deref()
        .unwrap_or_default()
        .is_empty()
    {
        return pod.name_any().into();
    }
    match pod
        .owner_references()
        .iter()
        .find(|o| o.controller == Some(true))
    {
        Some(owner) => name_behind(owner, pod).into(),
        None => pod.name_any().into(),
    }
}

fn name_behind<'a>(owner: &'a OwnerReference, pod: &'a Pod) -> &'a str {
    let label = |key: &str| pod.labels().get(key).map(String::as_str);
    let without_hash = |key| owner.name.strip_suffix(label(key)?)?.strip_suffix('-');
    let behind = match owner.kind.as_str() {
        "ReplicaSet" => without_hash(labels::POD_TEMPLATE_HASH)
            .or_else(|| without_hash(labels::ROLLOUTS_TEMPLATE_HASH)),
        "ReplicationController" => label(labels::DEPLOYMENT_CONFIG),
        "Job" => cron_job_name(&owner.name),
        _ => None,
    };
    behind
        .filter(|name| !name.is_empty())
        .unwrap_or(&owner.name)
}

/// A CronJob names its jobs after itself and the scheduled minute, a number of 8 to 10 digits.
fn cron_job_name(job: &str) -> Option<&str> {
    let (name, time) = job.rsplit_once('-')?;
    let is_time = (8..=10).contains(&time.len()) && time.bytes().all(|b| b.is_ascii_digit());
    is_time.then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn name(generated: bool, owner: Option<(&str, &str)>, labels: serde_json::Value) -> String {
        let mut metadata = json!({"name": "pod-x", "labels": labels});
        if generated {
            metadata["generateName"] = json!("pod-");
        }
        if let Some((kind, name)) = owner {
            metadata["ownerReferences"] = json!([
                {"apiVersion": "v1", "kind": kind, "name": name, "uid": "1", "controller": true}
            ]);
        }
        let pod: Pod = serde_json::from_value(json!({"metadata": metadata})).unwrap();
        workload_name(&pod).to_string()
    }

    #[test]
    fn table() {
        let hash = json!({"pod-template-hash": "5d8b"});
        assert_eq!(
            name(true, Some(("ReplicaSet", "cart-5d8b")), hash.clone()),
            "cart"
        );
        assert_eq!(
            name(true, Some(("ReplicaSet", "cart-other")), hash.clone()),
            "cart-other"
        );
        assert_eq!(
            name(true, Some(("ReplicaSet", "cart-5d8b")), json!({})),
            "cart-5d8b"
        );
        let rollout = json!({"rollouts-pod-template-hash": "77"});
        assert_eq!(name(true, Some(("ReplicaSet", "cart-77")), rollout), "cart");
        let config = json!({"deploymentconfig": "cart"});
        assert_eq!(
            name(true, Some(("ReplicationController", "cart-3")), config),
            "cart"
        );
        assert_eq!(
            name(true, Some(("Job", "backup-28123456")), json!({})),
            "backup"
        );
        assert_eq!(name(true, Some(("Job", "backup-x")), json!({})), "backup-x");
        assert_eq!(name(true, Some(("DaemonSet", "agent")), json!({})), "agent");
        assert_eq!(name(true, None, json!({})), "pod-x");
        assert_eq!(
            name(false, Some(("ReplicaSet", "cart-5d8b")), hash),
            "pod-x"
        );
        let label = json!({"service.istio.io/workload-name": "mine"});
        assert_eq!(name(true, Some(("DaemonSet", "agent")), label), "mine");
    }
}
