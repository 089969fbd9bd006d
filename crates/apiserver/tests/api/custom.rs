//! Custom resource definitions.

use crate::common::{Cluster, eventually, send_with};
use serde_json::{Value, json};

const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const FOOS: &str = "/apis/example.com/v1/namespaces/default/foos";

fn definition() -> Value {
    let schema = json!({"type": "object", "properties": {
        "spec": {"type": "object", "required": ["size"], "properties": {
            "size": {"type": "integer", "minimum": 1},
            "mode": {"type": "string", "enum": ["A", "B"], "default": "A"},
            "ports": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                "items": {"type": "object", "properties": {"name": {"type": "string"}, "port": {"type": "integer"}}}}},
            "x-kubernetes-validations": [{"rule": "self.size < 10"}]},
        "status": {"type": "object", "properties": {"ready": {"type": "string"}, "replicas": {"type": "integer"}}}}});
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "foos.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced",
            "names": {"plural": "foos", "kind": "Foo", "shortNames": ["fo"], "categories": ["all"]},
            "versions": [
                {"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema},
                 "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.size", "statusReplicasPath": ".status.replicas"}},
                 "additionalPrinterColumns": [
                    {"name": "Size", "type": "integer", "jsonPath": ".spec.size"},
                    {"name": "Ready", "type": "string", "jsonPath": ".status.ready"},
                    {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}]},
                {"name": "v1alpha1", "served": true, "storage": false, "deprecated": true,
                 "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}]}})
}

fn foo(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "example.com/v1", "kind": "Foo", "metadata": {"name": name}, "spec": spec})
}

async fn install(cluster: &Cluster) {
    let answer = cluster.post(CRDS, &definition()).await;
    assert_eq!(answer.code, 201, "{:?}", answer.body);
    assert!(
        answer.warnings[0].contains("1 validation rules"),
        "{:?}",
        answer.warnings
    );
    let conditions = &answer.body["status"]["conditions"];
    assert!(
        conditions
            .as_array()
            .unwrap()
            .iter()
            .any(|c| c["type"] == "Established" && c["status"] == "True")
    );
}

#[tokio::test]
async fn a_definition_is_served_at_once() {
    let cluster = Cluster::start().await;
    cluster.get(FOOS).await.refused(404, "NotFound");
    install(&cluster).await;
    let list = cluster.get(FOOS).await.ok();
    assert_eq!(list["kind"], "FooList");
    let resources = cluster.get("/apis/example.com/v1").await.ok();
    assert_eq!(resources["resources"][0]["shortNames"], json!(["fo"]));
    assert!(
        cluster.get("/openapi/v3").await.ok()["paths"]
            .get("apis/example.com/v1")
            .is_some()
    );
    let made = cluster
        .post(FOOS, &foo("f", json!({"size": 2, "odd": 1})))
        .await;
    assert_eq!(made.warnings, ["299 - \"unknown field \\\"spec.odd\\\"\""]);
    let made = made.ok();
    assert_eq!(made["spec"], json!({"size": 2, "mode": "A"}));
    assert_eq!(made["metadata"]["generation"], 1);
    let accept = "application/json;as=Table;v=v1;g=meta.k8s.io";
    let table = send_with(&cluster.client, "GET", FOOS, &[("accept", accept)], "")
        .await
        .ok();
    assert_eq!(
        table["rows"][0]["cells"].as_array().unwrap()[..3],
        [json!("f"), json!(2), Value::Null]
    );
    let other = cluster
        .get("/apis/example.com/v1alpha1/namespaces/default/foos/f")
        .await;
    assert!(
        other.warnings[0].contains("deprecated"),
        "{:?}",
        other.warnings
    );
    assert_eq!(other.ok()["apiVersion"], "example.com/v1alpha1");
}

#[tokio::test]
async fn objects_are_checked_against_the_schema() {
    let cluster = Cluster::start().await;
    install(&cluster).await;
    for (spec, text) in [
        (json!({}), "spec.size: Required value"),
        (
            json!({"size": "2"}),
            "spec.size in body must be of type integer: \"string\"",
        ),
        (
            json!({"size": 0}),
            "spec.size in body should be greater than or equal to 1",
        ),
        (
            json!({"size": 1, "mode": "C"}),
            "spec.mode: Unsupported value: \"C\": supported values: \"A\", \"B\"",
        ),
        (
            json!({"size": 1, "ports": [{"name": "a"}, {"name": "a"}]}),
            "spec.ports[1]: Duplicate value: {\"name\":\"a\"}",
        ),
    ] {
        let message = cluster
            .post(FOOS, &foo("f", spec))
            .await
            .refused(422, "Invalid");
        assert!(
            message.starts_with("Foo.example.com \"f\" is invalid: ") && message.contains(text),
            "{message}"
        );
    }
    let strict = cluster
        .post(
            &format!("{FOOS}?fieldValidation=Strict"),
            &foo("f", json!({"size": 1, "odd": 1})),
        )
        .await;
    assert!(
        strict
            .refused(400, "BadRequest")
            .contains("strict decoding error: unknown field \"spec.odd\"")
    );
    cluster.post(FOOS, &foo("f", json!({"size": 1}))).await.ok();
    let path = format!("{FOOS}/f");
    let strategic = cluster
        .send(
            "PATCH",
            &path,
            "application/strategic-merge-patch+json",
            "{}",
        )
        .await;
    strategic.refused(415, "UnsupportedMediaType");
    let put = foo("f", json!({"size": 3}));
    let message = cluster
        .send("PUT", &path, "application/json", put.to_string())
        .await
        .refused(422, "Invalid");
    assert!(message.contains("metadata.resourceVersion: Invalid value"));
}

#[tokio::test]
async fn status_and_scale() {
    let cluster = Cluster::start().await;
    install(&cluster).await;
    let mut made = foo("f", json!({"size": 1}));
    made["status"] = json!({"ready": "ignored"});
    assert!(cluster.post(FOOS, &made).await.ok().get("status").is_none());
    let path = format!("{FOOS}/f");
    let merge = "application/merge-patch+json";
    let patch = json!({"status": {"ready": "yes", "replicas": 1}, "spec": {"size": 9}});
    let done = cluster
        .send("PATCH", &format!("{path}/status"), merge, patch.to_string())
        .await
        .ok();
    assert_eq!(
        (
            &done["status"]["ready"],
            &done["spec"]["size"],
            &done["metadata"]["generation"]
        ),
        (&json!("yes"), &json!(1), &json!(1))
    );
    let scale = cluster
        .send(
            "PATCH",
            &format!("{path}/scale"),
            merge,
            r#"{"spec":{"replicas":4}}"#,
        )
        .await
        .ok();
    assert_eq!(
        (&scale["spec"]["replicas"], &scale["status"]["replicas"]),
        (&json!(4), &json!(1))
    );
    assert_eq!(cluster.get(&path).await.ok()["metadata"]["generation"], 2);
    let bad = json!({"status": {"ready": 7}});
    cluster
        .send("PATCH", &format!("{path}/status"), merge, bad.to_string())
        .await
        .refused(422, "Invalid");
}

#[tokio::test]
async fn deleting_a_definition_deletes_its_objects() {
    let cluster = Cluster::start().await;
    install(&cluster).await;
    cluster.post(FOOS, &foo("f", json!({"size": 1}))).await.ok();
    let path = format!("{CRDS}/foos.example.com");
    cluster
        .send("DELETE", &path, "application/json", "")
        .await
        .ok();
    eventually("the definition goes", async || {
        (cluster.get(&path).await.code == 404).then_some(())
    })
    .await;
    cluster.get(FOOS).await.refused(404, "NotFound");
    install(&cluster).await;
    assert_eq!(cluster.get(FOOS).await.ok()["items"], json!([]));
}

#[tokio::test]
async fn definitions_are_checked() {
    let cluster = Cluster::start().await;
    let broken: Vec<(&str, Value, &str)> = vec![
        (
            "/metadata/name",
            json!("bars.example.com"),
            "must be spec.names.plural+\".\"+spec.group",
        ),
        (
            "/spec/scope",
            json!("Galaxy"),
            "spec.scope: Unsupported value",
        ),
        (
            "/spec/versions/0/storage",
            json!(false),
            "exactly one version marked as storage version",
        ),
        ("/spec/versions/0/schema", json!({}), "schemas are required"),
        (
            "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/mode",
            json!({"type": "string", "pattern": "("}),
            "valid regular expression",
        ),
        (
            "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/mode",
            json!({"type": "array"}),
            "items: Required value",
        ),
    ];
    for (pointer, value, text) in broken {
        let mut definition = definition();
        *definition.pointer_mut(pointer).unwrap() = value;
        let message = cluster
            .post(CRDS, &definition)
            .await
            .refused(422, "Invalid");
        assert!(message.contains(text), "{message}");
    }
}
