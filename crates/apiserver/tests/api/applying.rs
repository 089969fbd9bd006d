//! Server-side apply over the wire.

use crate::common::{CONFIG_MAPS, Cluster, DEPLOYMENTS, config_map, deployment};
use serde_json::{Value, json};

const APPLY: &str = "application/apply-patch+yaml";

async fn apply(cluster: &Cluster, path: &str, query: &str, body: &Value) -> crate::common::Answer {
    cluster
        .send("PATCH", &format!("{path}?{query}"), APPLY, body.to_string())
        .await
}

#[tokio::test]
async fn create_change_and_conflict() {
    let cluster = Cluster::start().await;
    let path = format!("{CONFIG_MAPS}/c");
    let first = apply(&cluster, &path, "fieldManager=a", &config_map("c")).await;
    assert_eq!(first.code, 201);
    let managers = &first.body["metadata"]["managedFields"];
    assert_eq!(
        (&managers[0]["manager"], &managers[0]["operation"]),
        (&json!("a"), &json!("Apply"))
    );
    assert_eq!(managers[0]["fieldsV1"], json!({"f:data": {"f:a": {}}}));
    let version = first.body["metadata"]["resourceVersion"].clone();
    let again = apply(&cluster, &path, "fieldManager=a", &config_map("c"))
        .await
        .ok();
    assert_eq!(
        again["metadata"]["resourceVersion"], version,
        "nothing changed"
    );

    let mut other = config_map("c");
    other["data"]["a"] = "2".into();
    let conflict = apply(&cluster, &path, "fieldManager=b", &other).await;
    let message = conflict.refused(409, "Conflict");
    assert_eq!(
        message,
        "Apply failed with 1 conflict: conflict with \"a\": .data.a"
    );
    assert_eq!(
        conflict.body["details"]["causes"][0]["reason"],
        "FieldManagerConflict"
    );
    let forced = apply(&cluster, &path, "fieldManager=b&force=true", &other)
        .await
        .ok();
    assert_eq!(forced["data"]["a"], "2");
    let message = apply(&cluster, &path, "fieldManager=a", &config_map("c"))
        .await
        .refused(409, "Conflict");
    assert!(message.contains("conflict with \"b\""));

    // Without the field, a gives it up; b keeps it.
    let mut without = config_map("c");
    without["data"] = json!({"b": "3"});
    let done = apply(&cluster, &path, "fieldManager=a", &without)
        .await
        .ok();
    assert_eq!(done["data"], json!({"a": "2", "b": "3"}));
    let mut none = config_map("c");
    none["data"] = json!({});
    let done = apply(&cluster, &path, "fieldManager=b", &none).await.ok();
    assert_eq!(done["data"], json!({"b": "3"}));
}

#[tokio::test]
async fn updates_are_conflicts_too() {
    let cluster = Cluster::start().await;
    let path = format!("{DEPLOYMENTS}/d");
    let mut wanted = deployment("d");
    wanted["spec"]["replicas"] = 2.into();
    apply(&cluster, &path, "fieldManager=a", &wanted).await.ok();
    let merge = "application/merge-patch+json";
    cluster
        .send(
            "PATCH",
            &format!("{path}?fieldManager=hpa"),
            merge,
            r#"{"spec":{"replicas":5}}"#,
        )
        .await
        .ok();
    let message = apply(&cluster, &path, "fieldManager=a", &wanted)
        .await
        .refused(409, "Conflict");
    assert!(
        message.contains("conflict with \"hpa\" using apps/v1: .spec.replicas"),
        "{message}"
    );
    apply(&cluster, &path, "fieldManager=a", &deployment("d"))
        .await
        .ok();
    assert_eq!(cluster.get(&path).await.ok()["spec"]["replicas"], 5);
}

#[tokio::test]
async fn status_has_managers_of_its_own() {
    let cluster = Cluster::start().await;
    let path = format!("{DEPLOYMENTS}/d");
    apply(&cluster, &path, "fieldManager=a", &deployment("d"))
        .await
        .ok();
    let status = json!({"apiVersion": "apps/v1", "kind": "Deployment", "status": {"replicas": 1}});
    let done = apply(
        &cluster,
        &format!("{path}/status"),
        "fieldManager=a&force=true",
        &status,
    )
    .await
    .ok();
    assert_eq!(done["status"]["replicas"], 1);
    let done = apply(&cluster, &path, "fieldManager=a", &deployment("d"))
        .await
        .ok();
    assert_eq!(done["status"]["replicas"], 1);
    let missing = apply(
        &cluster,
        &format!("{DEPLOYMENTS}/none/status"),
        "fieldManager=a",
        &status,
    )
    .await;
    missing.refused(404, "NotFound");
}

#[tokio::test]
async fn what_an_apply_must_say() {
    let cluster = Cluster::start().await;
    let path = format!("{CONFIG_MAPS}/c");
    apply(&cluster, &path, "", &config_map("c"))
        .await
        .refused(422, "Invalid");
    apply(&cluster, &path, "fieldManager=a", &json!({"data": {}}))
        .await
        .refused(400, "BadRequest");
    let mut managed = config_map("c");
    managed["metadata"]["managedFields"] = json!([{}]);
    apply(&cluster, &path, "fieldManager=a", &managed)
        .await
        .refused(400, "BadRequest");
    let dry = apply(
        &cluster,
        &path,
        "fieldManager=a&dryRun=All",
        &config_map("c"),
    )
    .await;
    assert_eq!(dry.code, 201);
    cluster.get(&path).await.refused(404, "NotFound");
    let yaml = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: c\ndata:\n  x: word\n";
    let done = cluster
        .send("PATCH", &format!("{path}?fieldManager=a"), APPLY, yaml)
        .await
        .ok();
    assert_eq!(done["data"]["x"], "word");
}
