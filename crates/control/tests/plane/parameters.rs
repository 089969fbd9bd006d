//! Gateways with parameters: what their objects are changed to, and what is said of those that cannot
//! be used.

use ambit_kube_api::gateway_api::Gateway;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::support::{Cluster, SYSTEM, eventually};

/// Why the gateway is, or is not, accepted.
async fn accepted(cluster: &Cluster, reason: &str) -> String {
    eventually(&format!("a gateway with reason {reason}"), async || {
        let gateway: Gateway = cluster.api("shop").get("waypoint").await.unwrap();
        let conditions = gateway.status?.conditions.into_iter();
        let mut accepted = conditions.filter(|c| c.type_.as_deref() == Some("Accepted"));
        let condition = accepted.next()?;
        (condition.reason.as_deref() == Some(reason)).then_some(condition.message?)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parameters_make_an_autoscaler_and_a_disruption_budget() {
    let cluster = Cluster::start().await;
    let defaults = json!({
        "metadata": {
            "name": "defaults", "namespace": SYSTEM,
            "labels": {"gateway.istio.io/defaults-for-class": "istio-waypoint"},
        },
        "data": {"deployment": "metadata: {annotations: {of: class}}\nspec: {replicas: 2}"},
    });
    cluster.create::<ConfigMap>(defaults).await;
    let gateway = json!({
        "metadata": {"name": "waypoint", "namespace": "shop"},
        "spec": {
            "gatewayClassName": "istio-waypoint",
            "listeners": [{"name": "mesh", "port": 15008, "protocol": "HBONE"}],
            "infrastructure": {
                "parametersRef": {"group": "", "kind": "ConfigMap", "name": "params"},
            },
        },
    });
    cluster.create::<Gateway>(gateway).await;
    let control = cluster.control(None).await;

    // Nothing is made until the parameters are there.
    let message = accepted(&cluster, "InvalidParameters").await;
    assert!(message.contains("shop/params is not there"), "{message}");
    let deployments = cluster.api::<Deployment>("shop");
    assert!(deployments.get_opt("waypoint").await.unwrap().is_none());

    let params = json!({
        "metadata": {"name": "params", "namespace": "shop"},
        "data": {
            "deployment": "metadata: {annotations: {of: gateway}}",
            "horizontalPodAutoscaler": "spec: {minReplicas: 2, maxReplicas: 4}",
            "podDisruptionBudget": "spec: {minAvailable: 1}",
        },
    });
    cluster.create::<ConfigMap>(params).await;
    accepted(&cluster, "Accepted").await;
    let budgets = cluster.api::<PodDisruptionBudget>("shop");
    let autoscalers = cluster.api::<HorizontalPodAutoscaler>("shop");
    eventually("a disruption budget", async || {
        budgets.get_opt("waypoint").await.unwrap()
    })
    .await;
    let autoscaler = autoscalers.get("waypoint").await.unwrap();
    assert_eq!(autoscaler.spec.unwrap().max_replicas, 4);
    let deployment = deployments.get("waypoint").await.unwrap();
    assert_eq!(deployment.metadata.annotations.unwrap()["of"], "gateway");
    assert_eq!(deployment.spec.unwrap().replicas, Some(2));

    // What is not asked for any more goes; what cannot be used changes nothing.
    let maps = cluster.api::<ConfigMap>("shop");
    let change = |data| json!({"data": data});
    let patch = Patch::Merge(change(json!({"horizontalPodAutoscaler": null})));
    maps.patch("params", &PatchParams::default(), &patch)
        .await
        .unwrap();
    eventually("no autoscaler", async || {
        let there = autoscalers.get_opt("waypoint").await.unwrap();
        there.is_none().then_some(())
    })
    .await;
    let patch = Patch::Merge(change(json!({"service": "metadata: {name: other}"})));
    maps.patch("params", &PatchParams::default(), &patch)
        .await
        .unwrap();
    let message = accepted(&cluster, "InvalidParameters").await;
    assert!(
        message.contains("service in ConfigMap shop/params"),
        "{message}"
    );
    assert!(budgets.get_opt("waypoint").await.unwrap().is_some());
    control.kill();
}
