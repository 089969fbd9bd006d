//! Admission webhooks: who is asked, what they may do, and what happens when they cannot be asked.

mod configurations;
mod program;

use crate::common::{
    Answer, CONFIG_MAPS, Cluster, DEPLOYMENTS, PODS, config_map, deployment, eventually, pod,
};
use program::Program;
use serde_json::{Value, json};

const CONFIGURATIONS: &str = "/apis/admissionregistration.k8s.io/v1";
const EVERYTHING: &str = "*/*";

/// A cluster with a webhook program beside it.
async fn start() -> (Cluster, Program) {
    (Cluster::start().await, Program::start().await)
}

/// A webhook for creations and changes of config maps, with more settings or others.
fn hook(client: &Value, more: &Value) -> Value {
    let mut hook = json!({"name": "hook.test.example", "clientConfig": client, "sideEffects": "None",
        "admissionReviewVersions": ["v1"], "rules": [rule(&["CREATE", "UPDATE"], "", "configmaps")]});
    for (key, value) in more.as_object().unwrap() {
        hook[key] = value.clone();
    }
    hook
}

fn rule(operations: &[&str], group: &str, resource: &str) -> Value {
    json!({"operations": operations, "apiGroups": [group], "apiVersions": ["*"], "resources": [resource]})
}

/// Sends a configuration: "validating" or "mutating".
async fn configure(cluster: &Cluster, kind: &str, name: &str, hooks: &[Value]) -> Answer {
    let body = json!({"metadata": {"name": name}, "webhooks": hooks});
    let path = format!("{CONFIGURATIONS}/{kind}webhookconfigurations");
    cluster.post(&path, &body).await
}

async fn validating(cluster: &Cluster, hooks: &[Value]) {
    configure(cluster, "validating", "v", hooks).await.ok();
}

async fn mutating(cluster: &Cluster, hooks: &[Value]) {
    configure(cluster, "mutating", "m", hooks).await.ok();
}

async fn create(cluster: &Cluster, name: &str) -> Answer {
    cluster.post(CONFIG_MAPS, &config_map(name)).await
}

fn labelled(name: &str, labels: Value) -> Value {
    let mut map = config_map(name);
    map["metadata"]["labels"] = labels;
    map
}

#[tokio::test]
async fn a_webhook_sees_the_whole_request() {
    let (cluster, program) = start().await;
    validating(
        &cluster,
        &[hook(&program.at("/allow"), &json!({"timeoutSeconds": 7}))],
    )
    .await;
    let path = format!("{CONFIG_MAPS}?fieldManager=me&fieldValidation=Strict");
    let made = cluster.post(&path, &config_map("a")).await.ok();
    let asked = program.asked();
    let request = &asked[0].1;
    let what = json!({"group": "", "version": "v1", "resource": "configmaps"});
    let kind = json!({"group": "", "version": "v1", "kind": "ConfigMap"});
    for (key, value) in [
        ("kind", &kind),
        ("requestKind", &kind),
        ("resource", &what),
        ("requestResource", &what),
        ("name", &json!("a")),
        ("namespace", &json!("default")),
        ("operation", &json!("CREATE")),
        ("dryRun", &json!(false)),
        ("oldObject", &Value::Null),
    ] {
        assert_eq!(request[key], *value, "{key}");
    }
    assert_eq!(request["userInfo"]["username"], "kubernetes-admin");
    assert_eq!(
        request["options"],
        json!({"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1",
        "fieldManager": "me", "fieldValidation": "Strict"})
    );
    // What it sees is what is stored, but for the version that the store gives.
    let mut object = made.clone();
    object["metadata"]
        .as_object_mut()
        .unwrap()
        .remove("resourceVersion");
    assert_eq!(request["object"], object);

    let mut changed = made.clone();
    changed["data"]["a"] = "2".into();
    let one = format!("{CONFIG_MAPS}/a");
    cluster
        .send("PUT", &one, "application/json", changed.to_string())
        .await
        .ok();
    let asked = program.asked();
    assert_eq!(asked[0].1["operation"], "UPDATE");
    assert_eq!(asked[0].1["options"]["kind"], "UpdateOptions");
    assert_eq!(asked[0].1["object"]["data"]["a"], "2");
    assert_eq!(asked[0].1["oldObject"]["data"]["a"], "1");
    assert_eq!(
        asked[0].1["oldObject"]["metadata"]["resourceVersion"],
        made["metadata"]["resourceVersion"]
    );
    // Nobody asked to see deletions.
    cluster
        .send("DELETE", &one, "application/json", "")
        .await
        .ok();
    assert!(program.asked().is_empty());
}

#[tokio::test]
async fn refusals_are_passed_on_with_their_words() {
    let (cluster, program) = start().await;
    for (path, code, reason, words) in [
        ("/deny", 400, "BadRequest", "denied the request: not today"),
        (
            "/deny/silently",
            400,
            "BadRequest",
            "denied the request without explanation",
        ),
        (
            "/deny/403/Forbidden",
            403,
            "Forbidden",
            "denied the request: no",
        ),
        (
            "/deny/409/Conflict",
            409,
            "Conflict",
            "denied the request: no",
        ),
        ("/deny/200/Odd", 400, "Odd", "denied the request: no"),
    ] {
        for kind in ["validating", "mutating"] {
            let hook = hook(&program.at(path), &json!({}));
            configure(&cluster, kind, "c", &[hook]).await.ok();
            let answer = create(&cluster, "a").await;
            assert_eq!(answer.code, code, "{path}");
            let found = answer.body["reason"].as_str().unwrap_or("BadRequest");
            assert_eq!(found, reason, "{path}");
            let message = answer.body["message"].as_str().unwrap();
            assert_eq!(
                message,
                format!("admission webhook \"hook.test.example\" {words}")
            );
            let path = format!("{CONFIGURATIONS}/{kind}webhookconfigurations/c");
            cluster
                .send("DELETE", &path, "application/json", "")
                .await
                .ok();
        }
    }
    create(&cluster, "a").await.ok();
}

#[tokio::test]
async fn a_webhook_that_does_not_answer_refuses_unless_its_policy_says_otherwise() {
    let (cluster, program) = start().await;
    let elsewhere = Program::start().await;
    let mut stranger = program.at("/allow");
    stranger["caBundle"] = elsewhere.at("/")["caBundle"].clone();
    let free = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let nobody = json!({"url": format!("https://{free}/x"), "caBundle": stranger["caBundle"]});
    let url = |path: &str| {
        format!(
            "Post \"https://127.0.0.1:{}{path}?timeout=1s\"",
            program.port
        )
    };
    let cases = [
        (program.at("/broken"), format!("failed to call webhook: {}: the server answered 500 Internal Server Error: out of order", url("/broken"))),
        (program.at("/slow"), format!("failed to call webhook: {}: context deadline exceeded", url("/slow"))),
        (program.at("/nonsense"), "received invalid webhook response: webhook response was absent".into()),
        (stranger, format!("failed to call webhook: {}: tls: failed to verify certificate", url("/allow"))),
        (nobody, format!("failed to call webhook: Post \"https://{free}/x?timeout=1s\": dial tcp {free}: connect:")),
        (program.behind("missing", "/a"), "failed to call webhook: Post \"https://missing.default.svc:443/a?timeout=1s\": service \"missing\" not found".into()),
    ];
    for (i, (client, why)) in cases.iter().enumerate() {
        for kind in ["validating", "mutating"] {
            let name = format!("c{i}");
            let one = format!("{CONFIGURATIONS}/{kind}webhookconfigurations/{name}");
            let fail = hook(client, &json!({"timeoutSeconds": 1}));
            configure(&cluster, kind, &name, &[fail]).await.ok();
            let message = create(&cluster, &name).await.refused(500, "InternalError");
            let start = format!(
                "Internal error occurred: failed calling webhook \"hook.test.example\": {why}"
            );
            assert!(message.starts_with(&start), "{message}");
            let ignore =
                json!([{"op": "replace", "path": "/webhooks/0/failurePolicy", "value": "Ignore"}]);
            cluster
                .send(
                    "PATCH",
                    &one,
                    "application/json-patch+json",
                    ignore.to_string(),
                )
                .await
                .ok();
            create(&cluster, &format!("{kind}{i}")).await.ok();
            cluster
                .send("DELETE", &one, "application/json", "")
                .await
                .ok();
        }
    }
}

#[tokio::test]
async fn mutating_webhooks_change_objects_before_validating_ones_and_rules_see_them() {
    let (cluster, program) = start().await;
    mutating(&cluster, &[hook(&program.at("/label/first"), &json!({}))]).await;
    let second = hook(&program.at("/label/second"), &json!({}));
    configure(&cluster, "mutating", "n", &[second]).await.ok();
    validating(&cluster, &[hook(&program.at("/allow"), &json!({}))]).await;
    let made = create(&cluster, "a").await.ok();
    assert_eq!(
        made["metadata"]["labels"],
        json!({"first": "yes", "second": "yes"})
    );
    let asked = program.asked();
    assert_eq!(asked[0].1["object"]["metadata"]["labels"], Value::Null);
    assert_eq!(
        asked[1].1["object"]["metadata"]["labels"],
        json!({"first": "yes"})
    );
    assert_eq!(asked[2].0, "/allow");
    assert_eq!(
        asked[2].1["object"]["metadata"]["labels"],
        made["metadata"]["labels"]
    );
    // Apply, patch and update ask too, and each time about the whole object.
    let one = format!("{CONFIG_MAPS}/a");
    let patch = json!({"metadata": {"labels": {"first": null}}}).to_string();
    let patched = cluster
        .send("PATCH", &one, "application/merge-patch+json", patch)
        .await
        .ok();
    assert_eq!(patched["metadata"]["labels"]["first"], "yes");
    assert_eq!(
        patched["metadata"]["resourceVersion"],
        made["metadata"]["resourceVersion"]
    );
    let apply = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "b"}});
    let path = format!("{CONFIG_MAPS}/b?fieldManager=me");
    let applied = cluster
        .send(
            "PATCH",
            &path,
            "application/apply-patch+yaml",
            apply.to_string(),
        )
        .await;
    assert_eq!(applied.ok()["metadata"]["labels"]["second"], "yes");
}

#[tokio::test]
async fn what_a_webhook_makes_of_an_object_is_judged_as_if_a_client_had_sent_it() {
    let (cluster, program) = start().await;
    let pods = json!({"rules": [rule(&["CREATE"], "", "pods")]});
    let replace = async |path: &str, name: &str| {
        let one = format!("{CONFIGURATIONS}/mutatingwebhookconfigurations/m");
        cluster.send("DELETE", &one, "application/json", "").await;
        mutating(&cluster, &[hook(&program.at(path), &pods)]).await;
        cluster.post(PODS, &pod(name)).await
    };
    let message = replace("/bad-patch", "a")
        .await
        .refused(500, "InternalError");
    assert!(
        message.starts_with("Internal error occurred: "),
        "{message}"
    );
    // A field that does not exist is dropped; identity and status are not for webhooks to give.
    let made = replace("/field/unknown", "b").await.ok();
    assert_eq!(made["unknown"], Value::Null);
    let made = replace("/status", "c").await.ok();
    assert_eq!(made["status"]["phase"], "Pending");
    // A label that is none is refused by the rules of all objects.
    let message = replace("/label/-bad-", "d").await.refused(422, "Invalid");
    assert!(message.contains("metadata.labels"), "{message}");
}

#[tokio::test]
async fn a_webhook_is_asked_again_when_a_later_one_changed_the_object() {
    let (cluster, program) = start().await;
    let named = |name: &str, path: &str, again: &str| {
        let more = json!({"name": format!("{name}.test.example"), "reinvocationPolicy": again});
        hook(&program.at(path), &more)
    };
    mutating(
        &cluster,
        &[
            named("a", "/count/a", "IfNeeded"),
            named("b", "/count/b", "Never"),
            named("c", "/allow", "IfNeeded"),
        ],
    )
    .await;
    let made = create(&cluster, "a").await.ok();
    // Only the first has somebody behind it who changed something.
    assert_eq!(made["metadata"]["labels"], json!({"a": "xx", "b": "x"}));
    // Its second change is a reason to ask the last one again, once.
    assert_eq!(
        program.paths(),
        ["/count/a", "/count/b", "/allow", "/count/a", "/allow"]
    );
}

#[tokio::test]
async fn rules_and_selectors_say_which_requests_concern_a_webhook() {
    let (cluster, program) = start().await;
    let namespaces = "/api/v1/namespaces";
    let team = json!({"metadata": {"name": "team", "labels": {"team": "yes"}}});
    cluster.post(namespaces, &team).await.ok();
    let theirs = "/api/v1/namespaces/team/configmaps";
    let everything = rule(&["*"], "*", EVERYTHING);
    let scoped = |scope: &str| {
        let mut rule = everything.clone();
        rule["scope"] = scope.into();
        json!({"rules": [rule]})
    };
    let selected = |key: &str, value: Value| json!({key: value, "rules": [rule(&["*"], "", "configmaps"), rule(&["*"], "", "namespaces")]});
    let team = json!({"matchLabels": {"team": "yes"}});
    let not_team = json!({"matchExpressions": [{"key": "team", "operator": "DoesNotExist"}]});
    let names = ["kubernetes.io/metadata.name"];
    let by_name =
        json!({"matchExpressions": [{"key": names[0], "operator": "In", "values": ["team"]}]});
    let condition = |text: &str| json!({"rules": [everything], "matchConditions": [{"name": "c", "expression": text}]});
    // For each webhook: is it asked about a map in default, in team, a labelled one, a namespace?
    let cases = [
        (scoped("*"), [true, true, true, true]),
        (scoped("Namespaced"), [true, true, true, false]),
        (scoped("Cluster"), [false, false, false, true]),
        (json!({"rules": [rule(&["UPDATE"], "*", "*")]}), [false; 4]),
        (json!({"rules": [rule(&["CREATE"], "*", "*")]}), [true; 4]),
        (json!({"rules": [rule(&["*"], "apps", "*")]}), [false; 4]),
        (json!({"rules": [rule(&["*"], "", "*/status")]}), [false; 4]),
        (
            json!({"rules": [rule(&["*"], "", "namespaces")]}),
            [false, false, false, true],
        ),
        (json!({"rules": []}), [false; 4]),
        (
            selected("namespaceSelector", team.clone()),
            [false, true, false, true],
        ),
        (
            selected("namespaceSelector", not_team),
            [true, false, true, false],
        ),
        (
            selected("namespaceSelector", by_name),
            [false, true, false, false],
        ),
        (selected("objectSelector", team), [false, false, true, true]),
        (
            condition("object.metadata.name != 'a'"),
            [false, true, true, true],
        ),
        (
            condition("request.namespace == 'team'"),
            [false, true, false, false],
        ),
        (
            condition("request.resource.resource == 'namespaces' && request.operation == 'CREATE'"),
            [false, false, false, true],
        ),
        (
            condition("has(object.metadata.labels) && object.metadata.labels['team'] == 'yes'"),
            [false, false, true, true],
        ),
        (
            condition("!('system:masters' in request.userInfo.groups)"),
            [false; 4],
        ),
    ];
    for (i, (more, expected)) in cases.iter().enumerate() {
        let name = format!("c{i}");
        let hooks = [hook(&program.at("/allow"), more)];
        configure(&cluster, "validating", &name, &hooks).await.ok();
        let namespace = json!({"metadata": {"name": format!("n{i}"), "labels": {"team": "yes"}}});
        let requests = [
            (CONFIG_MAPS, config_map("a")),
            (theirs, config_map("b")),
            (CONFIG_MAPS, labelled("c", json!({"team": "yes"}))),
            (namespaces, namespace),
        ];
        for ((path, body), expected) in requests.iter().zip(expected) {
            cluster.post(&format!("{path}?dryRun=All"), body).await.ok();
            assert_eq!(
                !program.asked().is_empty(),
                *expected,
                "{more} {path} {body}"
            );
        }
        let one = format!("{CONFIGURATIONS}/validatingwebhookconfigurations/{name}");
        cluster
            .send("DELETE", &one, "application/json", "")
            .await
            .ok();
    }
}

#[tokio::test]
async fn a_condition_that_cannot_be_evaluated_counts_as_a_failure() {
    let (cluster, program) = start().await;
    let broken = json!([{"name": "first", "expression": "object.data.missing == 'x'"}]);
    validating(
        &cluster,
        &[hook(
            &program.at("/deny"),
            &json!({"matchConditions": broken}),
        )],
    )
    .await;
    let message = create(&cluster, "a").await.refused(403, "Forbidden");
    assert!(
        message.contains("expression \"first\" resulted in error: no such key: missing"),
        "{message}"
    );
    // One that is false settles it all the same.
    let settled = json!([{"op": "add", "path": "/webhooks/0/matchConditions/1", "value":
        {"name": "second", "expression": "object.metadata.name == 'other'"}}]);
    let one = format!("{CONFIGURATIONS}/validatingwebhookconfigurations/v");
    cluster
        .send(
            "PATCH",
            &one,
            "application/json-patch+json",
            settled.to_string(),
        )
        .await
        .ok();
    create(&cluster, "a").await.ok();
    let ignore = json!([{"op": "replace", "path": "/webhooks/0/failurePolicy", "value": "Ignore"}]);
    cluster
        .send(
            "PATCH",
            &one,
            "application/json-patch+json",
            ignore.to_string(),
        )
        .await
        .ok();
    create(&cluster, "other").await.ok();
    assert!(program.asked().is_empty());
}

#[tokio::test]
async fn deletions_are_admitted_with_the_object_that_goes() {
    let (cluster, program) = start().await;
    create(&cluster, "a").await.ok();
    create(&cluster, "b").await.ok();
    let keep = json!({"rules": [rule(&["DELETE"], "", "configmaps")],
        "matchConditions": [{"name": "kept", "expression": "oldObject.metadata.name == 'a'"}]});
    validating(&cluster, &[hook(&program.at("/deny"), &keep)]).await;
    let one = format!("{CONFIG_MAPS}/a");
    let options = json!({"propagationPolicy": "Background"}).to_string();
    let refusal = cluster
        .send("DELETE", &one, "application/json", options)
        .await;
    assert_eq!(refusal.code, 400);
    assert_eq!(
        refusal.body["message"],
        "admission webhook \"hook.test.example\" denied the request: not today"
    );
    assert_eq!(refusal.body["reason"], Value::Null);
    let asked = program.asked();
    assert_eq!(asked[0].1["object"], Value::Null);
    assert_eq!(asked[0].1["oldObject"]["metadata"]["name"], "a");
    assert_eq!(
        asked[0].1["options"],
        json!({"kind": "DeleteOptions",
        "apiVersion": "meta.k8s.io/v1", "propagationPolicy": "Background"})
    );
    // A collection goes as far as it is allowed to.
    let answer = cluster
        .send("DELETE", CONFIG_MAPS, "application/json", "")
        .await;
    assert_eq!(answer.code, 400);
    assert_eq!(cluster.get(&one).await.code, 200);
}

#[tokio::test]
async fn dry_runs_are_only_for_webhooks_without_side_effects() {
    let (cluster, program) = start().await;
    let effects = hook(
        &program.at("/allow"),
        &json!({"sideEffects": "NoneOnDryRun"}),
    );
    validating(&cluster, &[effects]).await;
    let path = format!("{CONFIG_MAPS}?dryRun=All");
    cluster.post(&path, &config_map("a")).await.ok();
    let asked = program.asked();
    assert_eq!(asked[0].1["dryRun"], true);
    assert_eq!(asked[0].1["options"]["dryRun"], json!(["All"]));
    assert_eq!(cluster.get(&format!("{CONFIG_MAPS}/a")).await.code, 404);
}

#[tokio::test]
async fn warnings_reach_the_client_and_come_once() {
    let (cluster, program) = start().await;
    let hooks = ["a", "b"].map(|name| {
        hook(
            &program.at("/warn"),
            &json!({"name": format!("{name}.test.example")}),
        )
    });
    validating(&cluster, &hooks).await;
    mutating(&cluster, &[hook(&program.at("/warn"), &json!({}))]).await;
    let answer = create(&cluster, "a").await;
    assert_eq!(answer.warnings, ["299 - \"mind the gap\""]);
    answer.ok();
    assert_eq!(program.paths().len(), 3);
}

#[tokio::test]
async fn subresources_are_asked_about_with_kinds_of_their_own() {
    let (cluster, program) = start().await;
    cluster.post(DEPLOYMENTS, &deployment("d")).await.ok();
    cluster.post(PODS, &pod("p")).await.ok();
    let rules = json!({"rules": [rule(&["*"], "*", "*/*")]});
    validating(&cluster, &[hook(&program.at("/allow"), &rules)]).await;
    let scale = json!({"spec": {"replicas": 3}}).to_string();
    let path = format!("{DEPLOYMENTS}/d/scale");
    cluster
        .send("PATCH", &path, "application/merge-patch+json", scale)
        .await
        .ok();
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p"}, "target": {"name": "n"}});
    cluster
        .post(&format!("{PODS}/p/binding"), &binding)
        .await
        .ok();
    let status = json!({"status": {"phase": "Running"}}).to_string();
    let path = format!("{PODS}/p/status");
    cluster
        .send("PATCH", &path, "application/merge-patch+json", status)
        .await
        .ok();
    cluster
        .get(&format!("{PODS}/p/exec?command=ls&container=c&stdout=true"))
        .await;
    let account = "/api/v1/namespaces/default/serviceaccounts/default/token";
    cluster.post(account, &json!({"spec": {}})).await.ok();
    let eviction =
        json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}});
    cluster
        .post(&format!("{PODS}/p/eviction"), &eviction)
        .await
        .ok();
    let review = json!({"spec": {"nonResourceAttributes": {"path": "/x", "verb": "get"}}});
    let reviews = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    cluster.post(reviews, &review).await.ok();
    let seen: Vec<String> = program
        .asked()
        .iter()
        .map(|(_, r)| {
            let text = |pointer: &str| {
                r.pointer(pointer)
                    .and_then(Value::as_str)
                    .unwrap_or_default()
                    .to_string()
            };
            let of = if r["object"].is_null() {
                "-".to_string()
            } else {
                text("/object/kind")
            };
            assert_eq!(of, text("/kind/kind"));
            let name = format!("{}/{}", text("/kind/group"), text("/kind/version"));
            [
                text("/operation"),
                text("/resource/resource"),
                text("/subResource"),
                name,
                of,
            ]
            .join(" ")
        })
        .collect();
    assert_eq!(
        seen,
        [
            "UPDATE deployments scale autoscaling/v1 Scale",
            "CREATE pods binding /v1 Binding",
            "UPDATE pods status /v1 Pod",
            "CONNECT pods exec /v1 PodExecOptions",
            "CREATE serviceaccounts token authentication.k8s.io/v1 TokenRequest",
            "CREATE pods eviction policy/v1 Eviction",
            "CREATE selfsubjectaccessreviews  authorization.k8s.io/v1 SelfSubjectAccessReview",
        ]
    );
    // A webhook decides about a scale.
    mutating(
        &cluster,
        &[hook(
            &program.at("/replicas/7"),
            &json!({"rules": [rule(&["UPDATE"], "apps", "deployments/scale")]}),
        )],
    )
    .await;
    let scale = json!({"spec": {"replicas": 2}}).to_string();
    let path = format!("{DEPLOYMENTS}/d/scale");
    let scaled = cluster
        .send("PATCH", &path, "application/merge-patch+json", scale)
        .await
        .ok();
    assert_eq!(scaled["spec"]["replicas"], 7);
}

#[tokio::test]
async fn another_version_of_a_resource_is_shown_as_the_webhook_knows_it() {
    let (cluster, program) = start().await;
    let schema = json!({"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}});
    let versions: Vec<Value> = [("v1", true), ("v2", false)]
        .iter()
        .map(|(name, storage)| json!({"name": name, "served": true, "storage": storage, "schema": schema}))
        .collect();
    let definition = json!({"metadata": {"name": "things.test.io"}, "spec": {"group": "test.io",
        "scope": "Namespaced", "names": {"plural": "things", "kind": "Thing"}, "versions": versions}});
    cluster
        .post(
            "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
            &definition,
        )
        .await
        .ok();
    let mut of_v1 = rule(&["*"], "test.io", "things");
    of_v1["apiVersions"] = json!(["v1"]);
    let exact = json!({"name": "exact.test.example", "matchPolicy": "Exact", "rules": [of_v1]});
    let equivalent = json!({"rules": [of_v1]});
    mutating(
        &cluster,
        &[
            hook(&program.at("/label/exact"), &exact),
            hook(&program.at("/label/any"), &equivalent),
        ],
    )
    .await;
    let thing =
        json!({"apiVersion": "test.io/v2", "kind": "Thing", "metadata": {"name": "t"}, "more": 1});
    let made = cluster
        .post("/apis/test.io/v2/namespaces/default/things", &thing)
        .await
        .ok();
    assert_eq!(made["metadata"]["labels"], json!({"any": "yes"}));
    assert_eq!(made["apiVersion"], "test.io/v2");
    let asked = program.asked();
    let request = &asked[0].1;
    assert_eq!(asked.len(), 1);
    assert_eq!(request["object"]["apiVersion"], "test.io/v1");
    assert_eq!(request["kind"]["version"], "v1");
    assert_eq!(request["requestKind"]["version"], "v2");
    assert_eq!(request["requestResource"]["version"], "v2");
}

#[tokio::test]
async fn nobody_is_asked_about_configurations_of_webhooks() {
    let (cluster, program) = start().await;
    let all = json!({"rules": [rule(&["*"], "*", EVERYTHING)]});
    validating(&cluster, &[hook(&program.at("/deny"), &all)]).await;
    assert_eq!(create(&cluster, "a").await.code, 400);
    program.asked();
    let one = format!("{CONFIGURATIONS}/validatingwebhookconfigurations/v");
    cluster
        .send("DELETE", &one, "application/json", "")
        .await
        .ok();
    assert!(program.asked().is_empty());
    create(&cluster, "a").await.ok();
}

#[tokio::test]
async fn a_webhook_is_reached_through_its_service() {
    let (cluster, program) = start().await;
    let client = program.behind("hooks", "/label/seen");
    mutating(&cluster, &[hook(&client, &json!({}))]).await;
    let message = create(&cluster, "a").await.refused(500, "InternalError");
    assert!(
        message.ends_with("service \"hooks\" not found"),
        "{message}"
    );
    let services = "/api/v1/namespaces/default/services";
    let service = |spec: Value| json!({"metadata": {"name": "hooks"}, "spec": spec});
    let ports = json!([{"port": 443}]);
    let plain = service(json!({ "ports": ports }));
    cluster.post(services, &plain).await.ok();
    let message = create(&cluster, "a").await.refused(500, "InternalError");
    assert!(
        message.ends_with("no endpoints available for service \"hooks\""),
        "{message}"
    );
    // The name in the certificate is the service's, wherever it leads: here to this machine, whose
    // addresses endpoints cannot have.
    let one = format!("{services}/hooks");
    cluster
        .send("DELETE", &one, "application/json", "")
        .await
        .ok();
    let outside = json!({"type": "ExternalName", "externalName": "localhost"});
    cluster.post(services, &service(outside)).await.ok();
    let client = program.behind_port("hooks", "/label/seen", program.port);
    let one = format!("{CONFIGURATIONS}/mutatingwebhookconfigurations/m");
    cluster
        .send("DELETE", &one, "application/json", "")
        .await
        .ok();
    mutating(&cluster, &[hook(&client, &json!({}))]).await;
    let made = create(&cluster, "a").await.ok();
    assert_eq!(made["metadata"]["labels"]["seen"], "yes");
    let asked = program.paths();
    assert_eq!(asked, ["/label/seen"]);
}

#[tokio::test]
async fn the_servers_own_controllers_are_not_held_up_by_webhooks() {
    let (cluster, program) = start().await;
    let namespaces = "/api/v1/namespaces";
    cluster
        .post(namespaces, &json!({"metadata": {"name": "team"}}))
        .await
        .ok();
    let theirs = "/api/v1/namespaces/team/configmaps";
    cluster.post(theirs, &config_map("a")).await.ok();
    let rules = json!({"rules": [rule(&["DELETE"], "", "configmaps"), rule(&["CREATE"], "", "serviceaccounts")]});
    validating(&cluster, &[hook(&program.at("/deny"), &rules)]).await;
    let one = format!("{namespaces}/team");
    cluster
        .send("DELETE", &one, "application/json", "")
        .await
        .ok();
    eventually("the namespace is gone", async || {
        (cluster.get(&one).await.code == 404).then_some(())
    })
    .await;
    assert!(program.asked().is_empty());
}
