//! Custom resource definitions.

use crate::common::{Cluster, eventually, send_with};
use futures_util::StreamExt;
use serde_json::{Value, json};

const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const FOOS: &str = "/apis/example.com/v1/namespaces/default/foos";

fn definition() -> Value {
    let schema = json!({"type": "object", "properties": {
        "spec": {"type": "object", "required": ["size"], "properties": {
            "size": {"type": "integer", "minimum": 1},
            "mode": {"type": "string", "enum": ["A", "B"], "default": "A"},
            "ports": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                "items": {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}, "port": {"type": "integer"}}}}},
            "x-kubernetes-validations": [{"rule": "self.size < 10", "messageExpression": "'at most 9, not ' + string(self.size)"}]},
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
        (
            json!({"size": 10}),
            "spec: Invalid value: at most 9, not 10",
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
        (
            "/spec/versions/0/schema",
            json!({}),
            "spec.versions[0].schema.openAPIV3Schema: Required value",
        ),
        (
            "/spec/conversion",
            json!({"strategy": "Webhook"}),
            "conversion webhooks are not supported by this API server",
        ),
        (
            "/spec/versions/0/schema/openAPIV3Schema/properties/spec/x-kubernetes-validations/0/rule",
            json!("self.sise < 10"),
            "spec.versions[0].schema.openAPIV3Schema.properties[spec].x-kubernetes-validations[0].rule: Invalid value: ",
        ),
        (
            "/spec/versions/0/schema/openAPIV3Schema/properties/spec/x-kubernetes-validations/0/rule",
            json!("self.sise < 10"),
            "undefined field 'sise'",
        ),
        (
            "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/mode",
            json!({"type": "string", "enum": ["A"], "default": "C"}),
            "properties[mode].default: Unsupported value: \"C\"",
        ),
        (
            "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/ports/items/required",
            json!([]),
            "so it must have a default or be a required property",
        ),
        (
            "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/mode",
            json!({"type": "string", "oneOf": [{"type": "string"}]}),
            "oneOf[0].type: Forbidden: must be empty to be structural",
        ),
        (
            "/spec/versions/0/subresources/scale/specReplicasPath",
            json!(".status.size"),
            "should be a json path under .spec",
        ),
        (
            "/spec/group",
            json!("example"),
            "should be a domain with at least one dot",
        ),
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
        definition["spec"]["conversion"] = json!({"strategy": "None"});
        *definition.pointer_mut(pointer).unwrap() = value;
        let message = cluster
            .post(CRDS, &definition)
            .await
            .refused(422, "Invalid");
        assert!(message.contains(text), "{message}");
    }
}

/// A change of the definition is seen at once: streams end, stored objects are shown in the new
/// form, also in the other version.
#[tokio::test]
async fn changing_a_definition() {
    let cluster = Cluster::start().await;
    install(&cluster).await;
    let made = cluster.post(FOOS, &foo("f", json!({"size": 2}))).await.ok();
    let version = made["metadata"]["resourceVersion"].as_str().unwrap();
    let request = http::Request::get(format!("{FOOS}?watch=true&resourceVersion=0"));
    let request = request.body(kube::client::Body::empty()).unwrap();
    let response = cluster.client.send(request).await.unwrap();
    let mut stream = http_body_util::BodyDataStream::new(response.into_body());
    let bound = std::time::Duration::from_secs(20);
    let first = tokio::time::timeout(bound, stream.next())
        .await
        .unwrap()
        .unwrap();
    assert!(first.unwrap().starts_with(b"{\"type\":\"ADDED\""));
    let patch = json!([
        {"op": "add", "path": "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/extra",
         "value": {"type": "string", "default": "new"}},
        {"op": "remove", "path": "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/mode"},
        {"op": "replace", "path": "/spec/names/shortNames", "value": ["fx"]}]);
    let path = format!("{CRDS}/foos.example.com");
    let json_patch = "application/json-patch+json";
    cluster
        .send("PATCH", &path, json_patch, patch.to_string())
        .await
        .ok();
    let end = tokio::time::timeout(bound, stream.next()).await;
    assert!(end.expect("the stream ends").is_none());
    let path = format!("{FOOS}/f");
    let shown = cluster.get(&path).await.ok();
    assert_eq!(shown["spec"], json!({"size": 2, "extra": "new"}));
    assert_eq!(shown["metadata"]["resourceVersion"], version);
    let resources = cluster.get("/apis/example.com/v1").await.ok();
    assert_eq!(resources["resources"][0]["shortNames"], json!(["fx"]));
    // A write keeps what it shows.
    let labels = json!({"metadata": {"labels": {"a": "b"}}});
    let merge = "application/merge-patch+json";
    let written = cluster
        .send("PATCH", &path, merge, labels.to_string())
        .await
        .ok();
    assert_eq!(written["spec"], json!({"size": 2, "extra": "new"}));
    let old = cluster
        .get("/apis/example.com/v1alpha1/namespaces/default/foos/f")
        .await
        .ok();
    assert_eq!(old["apiVersion"], "example.com/v1alpha1");
}

/// Objects are stored in one version and shown in each.
#[tokio::test]
async fn several_versions() {
    let cluster = Cluster::start().await;
    install(&cluster).await;
    let alpha = "/apis/example.com/v1alpha1/namespaces/default/foos";
    let body = json!({"apiVersion": "example.com/v1alpha1", "kind": "Foo", "metadata": {"name": "f"},
        "spec": {"size": 20, "other": true}});
    let made = cluster.post(alpha, &body).await.ok();
    assert_eq!(made["apiVersion"], "example.com/v1alpha1");
    // The stored version knows no `other`, and has a default.
    assert_eq!(made["spec"], json!({"size": 20, "mode": "A"}));
    let shown = cluster.get(&format!("{FOOS}/f")).await.ok();
    assert_eq!(
        (&shown["apiVersion"], &shown["spec"]["mode"]),
        (&json!("example.com/v1"), &json!("A"))
    );
    // Rules of v1 judge changes by way of v1: this value stays, another one does not come.
    let merge = "application/merge-patch+json";
    let path = format!("{FOOS}/f");
    let same = json!({"metadata": {"labels": {"a": "b"}}});
    let answer = cluster.send("PATCH", &path, merge, same.to_string()).await;
    assert!(
        answer.warnings[0].contains("at most 9, not 20"),
        "{:?}",
        answer.warnings
    );
    answer.ok();
    let other = json!({"spec": {"size": 21}});
    cluster
        .send("PATCH", &path, merge, other.to_string())
        .await
        .refused(422, "Invalid");
    // A version that objects may be stored in cannot go.
    let definition = format!("{CRDS}/foos.example.com");
    let crd = cluster.get(&definition).await.ok();
    assert_eq!(crd["status"]["storedVersions"], json!(["v1"]));
    let gone = json!([{"op": "remove", "path": "/spec/versions/0"},
        {"op": "replace", "path": "/spec/versions/0/storage", "value": true}]);
    let message = cluster
        .send(
            "PATCH",
            &definition,
            "application/json-patch+json",
            gone.to_string(),
        )
        .await
        .refused(422, "Invalid");
    assert!(
        message.contains("missing from spec.versions; v1 was previously a storage version"),
        "{message}"
    );
}

/// Names that another definition has are not accepted, until it goes.
#[tokio::test]
async fn names_in_use() {
    let cluster = Cluster::start().await;
    install(&cluster).await;
    let mut other = definition();
    other["metadata"]["name"] = json!("bars.example.com");
    other["spec"]["names"] =
        json!({"plural": "bars", "kind": "Foo", "listKind": "BarList", "singular": "bar"});
    let made = cluster.post(CRDS, &other).await.ok();
    let condition = |crd: &Value, kind: &str| {
        let list = crd["status"]["conditions"].as_array().unwrap();
        list.iter().find(|c| c["type"] == kind).unwrap().clone()
    };
    assert_eq!(
        condition(&made, "NamesAccepted")["message"],
        "\"Foo\" is already in use"
    );
    assert_eq!(condition(&made, "Established")["status"], "False");
    let bars = "/apis/example.com/v1/namespaces/default/bars";
    cluster.get(bars).await.refused(404, "NotFound");
    let path = format!("{CRDS}/foos.example.com");
    cluster
        .send("DELETE", &path, "application/json", "")
        .await
        .ok();
    eventually("the name is free", async || {
        (cluster.get(bars).await.code == 200).then_some(())
    })
    .await;
    let crd = cluster.get(&format!("{CRDS}/bars.example.com")).await.ok();
    assert_eq!(condition(&crd, "Established")["status"], "True");
}
