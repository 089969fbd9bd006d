//! When is an object ready, and if it is not, why not.

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::api::ListParams;
use kube::core::Selector;
use kube::runtime::wait::await_condition;
use kube::{Api, Client};
use serde_json::Value;

/// Waits until an object is ready, however long it takes. Kinds that are ready as soon as they
/// exist return at once.
pub(crate) async fn wait(client: &Client, object: &Value) {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default();
    loop {
        let result = match object["kind"].as_str() {
            Some("Deployment") => {
                let api = Api::<Deployment>::namespaced(client.clone(), namespace);
                await_condition(api, name, |d: Option<&Deployment>| {
                    d.is_some_and(deployment_ready)
                })
                .await
                .map(drop)
            }
            Some("DaemonSet") => {
                let api = Api::<DaemonSet>::namespaced(client.clone(), namespace);
                await_condition(api, name, |d: Option<&DaemonSet>| {
                    d.is_some_and(daemon_set_ready)
                })
                .await
                .map(drop)
            }
            Some("CustomResourceDefinition") => {
                let api = Api::<CustomResourceDefinition>::all(client.clone());
                let established =
                    |c: Option<&CustomResourceDefinition>| c.is_some_and(crd_established);
                await_condition(api, name, established).await.map(drop)
            }
            _ => return,
        };
        match result {
            Ok(()) => return,
            Err(error) => {
                tracing::debug!("waiting for {name}: {error}");
                tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            }
        }
    }
}

/// Kinds that [`wait`] waits for.
pub(crate) fn is_awaited(object: &Value) -> bool {
    matches!(
        object["kind"].as_str(),
        Some("Deployment" | "DaemonSet" | "CustomResourceDefinition")
    )
}

fn deployment_ready(deployment: &Deployment) -> bool {
    let wanted = deployment
        .spec
        .as_ref()
        .and_then(|s| s.replicas)
        .unwrap_or(1);
    let Some(status) = &deployment.status else {
        return false;
    };
    let current = status.observed_generation.unwrap_or_default()
        >= deployment.metadata.generation.unwrap_or_default();
    let count = |n: Option<i32>| n.unwrap_or_default();
    current
        && count(status.updated_replicas) >= wanted
        && count(status.ready_replicas) >= wanted
        && count(status.available_replicas) >= wanted
        && count(status.replicas) == count(status.updated_replicas)
}

fn daemon_set_ready(set: &DaemonSet) -> bool {
    let Some(status) = &set.status else {
        return false;
    };
    let current = status.observed_generation.unwrap_or_default()
        >= set.metadata.generation.unwrap_or_default();
    let desired = status.desired_number_scheduled;
    let rolling = set
        .spec
        .as_ref()
        .and_then(|s| s.update_strategy.as_ref())
        .and_then(|u| u.rolling_update.as_ref());
    let tolerated = match rolling.and_then(|r| r.max_unavailable.as_ref()) {
        // On a first installation every pod is new; the tolerance is for updates.
        Some(IntOrString::Int(n)) if status.number_available.unwrap_or_default() > *n => *n,
        _ => 0,
    };
    current
        && status.number_ready >= desired - tolerated
        && status.updated_number_scheduled.unwrap_or_default() >= desired - tolerated
}

fn crd_established(crd: &CustomResourceDefinition) -> bool {
    let conditions = crd
        .status
        .iter()
        .flat_map(|s| s.conditions.iter().flatten());
    conditions
        .into_iter()
        .any(|c| c.type_ == "Established" && c.status == "True")
}

/// `Kind/namespace/name`, with the reason of a pod that does not come up where there is one.
pub(crate) async fn explain(client: &Client, object: &Value) -> String {
    let text = |key: &str| object["metadata"][key].as_str().unwrap_or_default();
    let name = crate::kinds::describe(
        object["kind"].as_str().unwrap_or_default(),
        text("namespace"),
        text("name"),
    );
    match reason(client, text("namespace"), object).await {
        Some(reason) => format!("{name} ({reason})"),
        None => name,
    }
}

async fn reason(client: &Client, namespace: &str, object: &Value) -> Option<String> {
    let selector: LabelSelector =
        serde_json::from_value(object["spec"]["selector"].clone()).ok()?;
    let selector: Selector = selector.try_into().ok()?;
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let list = pods
        .list(&ListParams::default().labels_from(&selector))
        .await
        .ok()?;
    if list.items.is_empty() {
        return Some("no pod was made; do the controllers run, and is there a node?".into());
    }
    list.items.iter().find_map(pod_reason)
}

fn pod_reason(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let containers = status
        .init_container_statuses
        .iter()
        .chain(&status.container_statuses);
    if let Some(found) = containers.flatten().find_map(container_reason) {
        return Some(found);
    }
    let scheduled = status
        .conditions
        .iter()
        .flatten()
        .find(|c| c.type_ == "PodScheduled");
    if let Some(condition) = scheduled.filter(|c| c.status == "False") {
        return Some(format!(
            "not scheduled: {}",
            condition.message.as_deref().unwrap_or_default()
        ));
    }
    let ready = status
        .conditions
        .iter()
        .flatten()
        .find(|c| c.type_ == "Ready" && c.status != "True")?;
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let detail = ready.message.as_deref().unwrap_or("not ready");
    Some(format!("pod {name}: {detail}"))
}

fn container_reason(container: &ContainerStatus) -> Option<String> {
    let state = container.state.as_ref()?;
    if let Some(waiting) = &state.waiting {
        let reason = waiting.reason.as_deref().unwrap_or_default();
        if reason.is_empty() || matches!(reason, "ContainerCreating" | "PodInitializing") {
            return None;
        }
        let message = waiting.message.as_deref().unwrap_or_default();
        return Some(format!("container failed to start: {reason}: {message}"));
    }
    let ended = state.terminated.as_ref()?;
    Some(format!(
        "container {} ended with code {}",
        container.name, ended.exit_code
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of<T: serde::de::DeserializeOwned>(value: Value) -> T {
        serde_json::from_value(value).expect("object")
    }

    #[test]
    fn a_deployment_is_ready_when_all_new_replicas_are() {
        let with = |generation: i64, updated: i32, ready: i32, all: i32| {
            deployment_ready(&of(json!({
                "metadata": {"generation": 2},
                "spec": {"replicas": 2, "selector": {}, "template": {}},
                "status": {"observedGeneration": generation, "updatedReplicas": updated,
                           "readyReplicas": ready, "availableReplicas": ready, "replicas": all}
            })))
        };
        assert!(with(2, 2, 2, 2));
        assert!(
            !with(1, 2, 2, 2),
            "the controller has not seen this version"
        );
        assert!(!with(2, 1, 2, 2), "one replica is old");
        assert!(!with(2, 2, 1, 2), "one is not ready");
        assert!(!with(2, 2, 2, 3), "an old one is still there");
    }

    #[test]
    fn a_daemon_set_is_ready_on_every_node() {
        let with = |generation: i64, desired: i32, ready: i32, updated: i32| {
            daemon_set_ready(&of(json!({
                "metadata": {"generation": 1},
                "spec": {"selector": {}, "template": {}, "updateStrategy": {"rollingUpdate": {"maxUnavailable": 1}}},
                "status": {"observedGeneration": generation, "desiredNumberScheduled": desired,
                           "numberReady": ready, "updatedNumberScheduled": updated,
                           "numberAvailable": ready, "currentNumberScheduled": 0, "numberMisscheduled": 0}
            })))
        };
        assert!(with(1, 3, 3, 3));
        assert!(!with(0, 0, 0, 0), "not seen yet");
        assert!(with(1, 0, 0, 0), "no nodes");
        assert!(!with(1, 2, 1, 2), "a first installation tolerates nothing");
        assert!(with(1, 3, 2, 3), "an update tolerates one");
    }

    #[test]
    fn reasons_of_pods() {
        let pod =
            |status: Value| pod_reason(&of(json!({"metadata": {"name": "p"}, "status": status})));
        assert_eq!(
            pod(json!({"containerStatuses": [{"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                "state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}}]}))
            .as_deref(),
            Some("container failed to start: ImagePullBackOff: no such image")
        );
        assert_eq!(
            pod(json!({"conditions": [{"type": "PodScheduled", "status": "False", "message": "no node"}]})).as_deref(),
            Some("not scheduled: no node")
        );
        assert_eq!(pod(json!({})), None);
    }
}
