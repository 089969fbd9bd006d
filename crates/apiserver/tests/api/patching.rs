//! JSON, merge and strategic merge patches over the wire.

use crate::common::{CONFIG_MAPS, Cluster, DEPLOYMENTS, config_map, deployment};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, ResourceExt,
    runtime::finalizer::{Event, finalizer},
};
use serde_json::json;
use std::sync::Arc;

const JSON: &str = "application/json-patch+json";
const MERGE: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";

#[tokio::test]
async fn the_three_kinds() {
    let cluster = Cluster::start().await;
    cluster.post(DEPLOYMENTS, &deployment("d")).await.ok();
    let path = format!("{DEPLOYMENTS}/d");
    let patch =
        json!({"spec": {"template": {"spec": {"containers": [{"name": "side", "image": "y:1"}]}}}});
    let done = cluster
        .send("PATCH", &path, STRATEGIC, patch.to_string())
        .await
        .ok();
    assert_eq!(
        done["spec"]["template"]["spec"]["containers"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
    let patch = json!([{"op": "replace", "path": "/spec/replicas", "value": 4}]);
    let done = cluster
        .send("PATCH", &path, JSON, patch.to_string())
        .await
        .ok();
    assert_eq!(done["spec"]["replicas"], 4);
    let done = cluster
        .send(
            "PATCH",
            &path,
            MERGE,
            json!({"spec": {"replicas": null}}).to_string(),
        )
        .await
        .ok();
    assert_eq!(done["spec"]["replicas"], 1, "defaulted again");
    let same = cluster
        .send(
            "PATCH",
            &path,
            MERGE,
            json!({"spec": {"replicas": 1}}).to_string(),
        )
        .await
        .ok();
    assert_eq!(
        same["metadata"]["resourceVersion"],
        done["metadata"]["resourceVersion"]
    );
    let stale = json!({"metadata": {"resourceVersion": "1"}, "spec": {"replicas": 2}});
    cluster
        .send("PATCH", &path, MERGE, stale.to_string())
        .await
        .refused(409, "Conflict");
    cluster
        .send("PATCH", &path, "text/plain", "{}")
        .await
        .refused(415, "UnsupportedMediaType");
    let failed = json!([{"op": "test", "path": "/spec/replicas", "value": 9}]);
    cluster
        .send("PATCH", &path, JSON, failed.to_string())
        .await
        .refused(422, "Invalid");
    cluster
        .send("PATCH", &format!("{DEPLOYMENTS}/none"), MERGE, "{}")
        .await
        .refused(404, "NotFound");
    let typed = json!({"spec": {"selector": {"matchLabels": {"app": "other"}}}});
    let message = cluster
        .send("PATCH", &path, MERGE, typed.to_string())
        .await
        .refused(422, "Invalid");
    assert!(
        message.contains("spec.selector: Invalid value"),
        "{message}"
    );
}

/// The helper of kube-rs sends `test /metadata/finalizers null`.
#[tokio::test]
async fn finalizers_of_kube_rs() {
    let cluster = Cluster::start().await;
    cluster.post(CONFIG_MAPS, &config_map("c")).await.ok();
    let maps: Api<ConfigMap> = Api::default_namespaced(cluster.client.clone());
    let run = async || {
        let map = Arc::new(maps.get("c").await.unwrap());
        finalizer(&maps, "example.com/f", map, |event| async move {
            Ok::<_, std::io::Error>(match event {
                Event::Apply(_) | Event::Cleanup(_) => {
                    kube::runtime::controller::Action::await_change()
                }
            })
        })
        .await
        .unwrap();
    };
    run().await;
    assert_eq!(maps.get("c").await.unwrap().finalizers(), ["example.com/f"]);
    maps.delete("c", &Default::default()).await.unwrap();
    assert!(
        maps.get("c")
            .await
            .unwrap()
            .metadata
            .deletion_timestamp
            .is_some()
    );
    run().await;
    assert!(maps.get_opt("c").await.unwrap().is_none());
}
