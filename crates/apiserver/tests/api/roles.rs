//! Roles: what they gather, who may give them away, and what they come to.

use crate::common::{
    Answer, CONFIG_MAPS, Cluster, PODS, config_map, eventually, pod, send, send_with,
};
use kube::Client;
use serde_json::{Value, json};

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";
const ROLES: &str = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles";
const BINDINGS: &str = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings";

async fn cluster_role(cluster: &Cluster, name: &str, rules: Value) {
    let role = json!({"metadata": {"name": name}, "rules": rules});
    cluster
        .post(&format!("{RBAC}/clusterroles"), &role)
        .await
        .ok();
}

fn binding(kind: &str, name: &str, role: &str, user: &str) -> Value {
    json!({"metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}]})
}

/// Gives a user a cluster role everywhere.
async fn bind(cluster: &Cluster, name: &str, role: &str, user: &str) {
    let body = binding("ClusterRole", name, role, user);
    cluster
        .post(&format!("{RBAC}/clusterrolebindings"), &body)
        .await
        .ok();
}

/// A user who has these rules everywhere.
async fn user(cluster: &Cluster, name: &str, rules: Value) -> Client {
    cluster_role(cluster, name, rules).await;
    bind(cluster, name, name, name).await;
    let key = cluster.server.pki().issue_client(name, None).unwrap();
    cluster.as_user(&key).await
}

async fn post(client: &Client, path: &str, body: &Value) -> Answer {
    send(client, "POST", path, "application/json", body.to_string()).await
}

fn rule(groups: &[&str], resources: &[&str], verbs: &[&str]) -> Value {
    json!({"apiGroups": groups, "resources": resources, "verbs": verbs})
}

#[tokio::test]
async fn a_cluster_role_gathers_what_is_labelled_for_it() {
    let cluster = Cluster::start().await;
    let roles = format!("{RBAC}/clusterroles");
    let rules =
        async |name: &str| cluster.get(&format!("{roles}/{name}")).await.ok()["rules"].clone();
    let gathering = json!({"metadata": {"name": "all"}, "rules": [rule(&["mine"], &["x"], &["get"])],
        "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"part": "all"}}]}});
    cluster.post(&roles, &gathering).await.ok();
    let part = |name: &str, resource: &str| {
        json!({"metadata": {"name": name, "labels": {"part": "all"}},
               "rules": [rule(&["test.io"], &[resource], &["get"])]})
    };
    cluster.post(&roles, &part("b", "bs")).await.ok();
    cluster.post(&roles, &part("a", "as")).await.ok();
    cluster.post(&roles, &part("c", "as")).await.ok();
    let expected = json!([
        rule(&["test.io"], &["as"], &["get"]),
        rule(&["test.io"], &["bs"], &["get"])
    ]);
    eventually("all rules are there, each once", async || {
        (rules("all").await == expected).then_some(())
    })
    .await;
    let unlabelled = json!({"metadata": {"labels": {"part": null}}}).to_string();
    let one = format!("{roles}/b");
    cluster
        .send("PATCH", &one, "application/merge-patch+json", unlabelled)
        .await
        .ok();
    eventually("rules go with the label", async || {
        (rules("all").await == json!([rule(&["test.io"], &["as"], &["get"])])).then_some(())
    })
    .await;
    for name in ["a", "c"] {
        cluster
            .send("DELETE", &format!("{roles}/{name}"), "application/json", "")
            .await
            .ok();
    }
    eventually("rules go with the role", async || {
        (rules("all").await == json!([])).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_custom_resource_joins_the_roles_for_people() {
    let cluster = Cluster::start().await;
    let key = cluster.server.pki().issue_client("jane", None).unwrap();
    let jane = cluster.as_user(&key).await;
    cluster
        .post(BINDINGS, &binding("ClusterRole", "jane", "edit", "jane"))
        .await
        .ok();
    let ask = async || {
        let review = json!({"spec": {"resourceAttributes": {"group": "test.io", "resource": "things",
            "verb": "create", "namespace": "default"}}});
        let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
        post(&jane, path, &review).await.ok()["status"].clone()
    };
    assert_eq!(ask().await["allowed"], false);
    let label = json!({"rbac.authorization.k8s.io/aggregate-to-edit": "true"});
    let things = json!({"metadata": {"name": "things", "labels": label},
        "rules": [rule(&["test.io"], &["things"], &["create"])]});
    cluster
        .post(&format!("{RBAC}/clusterroles"), &things)
        .await
        .ok();
    let status = eventually("edit has gathered it", async || {
        Some(ask().await).filter(|status| status["allowed"] == true)
    })
    .await;
    assert_eq!(
        status["reason"],
        "RBAC: allowed by RoleBinding \"jane/default\" of ClusterRole \"edit\" to User \"jane\""
    );
    // What edit has, admin has too.
    let admin = cluster
        .get(&format!("{RBAC}/clusterroles/admin"))
        .await
        .ok();
    let rules = admin["rules"].as_array().unwrap();
    assert!(rules.contains(&rule(&["test.io"], &["things"], &["create"])));
}

#[tokio::test]
async fn nobody_grants_what_they_do_not_have() {
    let cluster = Cluster::start().await;
    let own = json!([
        rule(&["rbac.authorization.k8s.io"], &["roles", "rolebindings", "clusterroles"], &["get", "create", "update", "patch"]),
        rule(&[""], &["configmaps", "pods"], &["get", "list"]),
        {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["mine"], "verbs": ["get"]},
        {"nonResourceURLs": ["/logs/*"], "verbs": ["get"]},
    ]);
    let user = user(&cluster, "jane", own).await;
    let role = |name: &str, rules: Value| json!({"metadata": {"name": name}, "rules": rules});
    for (i, (rules, lacks)) in [
        (json!([]), None),
        (json!([rule(&[""], &["pods"], &["get"])]), None),
        (json!([{"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["mine"], "verbs": ["get"]}]), None),
        (json!([rule(&[""], &["secrets"], &["get"])]), Some(r#"{APIGroups:[""], Resources:["secrets"], Verbs:["get"]}"#)),
        (json!([rule(&["", "apps"], &["pods"], &["get", "watch"])]), Some("{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"watch\"]}\n{APIGroups:[\"apps\"], Resources:[\"pods\"], Verbs:[\"get\" \"watch\"]}")),
        (json!([rule(&["*"], &["pods"], &["get"])]), Some(r#"{APIGroups:["*"], Resources:["pods"], Verbs:["get"]}"#)),
    ].into_iter().enumerate() {
        let answer = post(&user, ROLES, &role(&format!("r{i}"), rules)).await;
        let Some(lacks) = lacks else {
            answer.ok();
            continue;
        };
        let message = answer.refused(403, "Forbidden");
        assert_eq!(message, format!(
            "roles.rbac.authorization.k8s.io \"r{i}\" is forbidden: user \"jane\" (groups=[\"system:authenticated\"]) is attempting to grant RBAC permissions not currently held:\n{lacks}"));
    }
    let roles = format!("{RBAC}/clusterroles");
    let paths = json!([{"nonResourceURLs": ["/logs/x"], "verbs": ["get"]}]);
    post(&user, &roles, &role("paths", paths)).await.ok();
    let paths = json!([{"nonResourceURLs": ["/metrics"], "verbs": ["get"]}]);
    let message = post(&user, &roles, &role("others", paths))
        .await
        .refused(403, "Forbidden");
    assert!(
        message.contains(r#"{NonResourceURLs:["/metrics"], Verbs:["get"]}"#),
        "{message}"
    );
    let mut gathering = role("gathers", json!([]));
    gathering["aggregationRule"] = json!({"clusterRoleSelectors": [{"matchLabels": {"a": "b"}}]});
    let message = post(&user, &roles, &gathering)
        .await
        .refused(403, "Forbidden");
    assert!(
        message.ends_with("must have cluster-admin privileges to use the aggregationRule"),
        "{message}"
    );
    // A change is judged like a creation.
    let wider = json!({"rules": [rule(&[""], &["pods"], &["delete"])]}).to_string();
    let one = format!("{ROLES}/r1");
    let merge = "application/merge-patch+json";
    send(&user, "PATCH", &one, merge, wider)
        .await
        .refused(403, "Forbidden");
    let label = json!({"metadata": {"labels": {"a": "b"}}}).to_string();
    send(&user, "PATCH", &one, merge, label).await.ok();
    // A binding to a role is as much as the role.
    let message = post(
        &user,
        BINDINGS,
        &binding("ClusterRole", "b", "admin", "jane"),
    )
    .await
    .refused(403, "Forbidden");
    assert!(
        message.contains("is attempting to grant RBAC permissions not currently held"),
        "{message}"
    );
    post(&user, BINDINGS, &binding("Role", "b", "r1", "joe"))
        .await
        .ok();
    post(&user, BINDINGS, &binding("Role", "c", "none", "joe"))
        .await
        .refused(404, "NotFound");
}

#[tokio::test]
async fn escalate_and_bind_are_rights_of_their_own() {
    let cluster = Cluster::start().await;
    let group = "rbac.authorization.k8s.io";
    let plain = rule(&[group], &["roles", "rolebindings"], &["create"]);
    let escalate = json!([plain, rule(&[group], &["roles"], &["escalate"])]);
    let escalator = user(&cluster, "escalator", escalate).await;
    let role = json!({"metadata": {"name": "r"}, "rules": [rule(&["*"], &["*"], &["*"])]});
    post(&escalator, ROLES, &role).await.ok();
    post(&escalator, BINDINGS, &binding("Role", "b", "r", "x"))
        .await
        .refused(403, "Forbidden");
    let view = json!([plain, {"apiGroups": [group], "resources": ["clusterroles"],
        "resourceNames": ["view"], "verbs": ["bind"]}]);
    let binder = user(&cluster, "binder", view).await;
    post(&binder, BINDINGS, &binding("ClusterRole", "v", "view", "x"))
        .await
        .ok();
    post(&binder, BINDINGS, &binding("ClusterRole", "e", "edit", "x"))
        .await
        .refused(403, "Forbidden");
    post(
        &binder,
        ROLES,
        &json!({"metadata": {"name": "s"}, "rules": role["rules"]}),
    )
    .await
    .refused(403, "Forbidden");
}

#[tokio::test]
async fn what_one_may_do_can_be_listed() {
    let cluster = Cluster::start().await;
    let own = json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"], "resourceNames": ["a"]}]);
    let jane = user(&cluster, "jane", own.clone()).await;
    let role = json!({"metadata": {"name": "here"}, "rules": [rule(&["apps"], &["deployments"], &["list"])]});
    cluster.post(ROLES, &role).await.ok();
    cluster
        .post(BINDINGS, &binding("Role", "here", "here", "jane"))
        .await
        .ok();
    let path = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews";
    let list = async |client: &Client, namespace: &str| {
        let review = json!({"spec": {"namespace": namespace}});
        post(client, path, &review).await.ok()["status"].clone()
    };
    let status = list(&jane, "default").await;
    assert_eq!(status["incomplete"], false);
    let rules = status["resourceRules"].as_array().unwrap();
    assert!(rules.contains(&own[0]));
    assert!(rules.contains(&role["rules"][0]));
    let paths = status["nonResourceRules"].as_array().unwrap();
    let of_health = |r: &&Value| {
        r["nonResourceURLs"]
            .as_array()
            .unwrap()
            .contains(&json!("/readyz"))
    };
    assert!(paths.iter().any(|r| of_health(&r)));
    let elsewhere = list(&jane, "kube-system").await;
    assert!(
        !elsewhere["resourceRules"]
            .as_array()
            .unwrap()
            .contains(&role["rules"][0])
    );
    let everything = rule(&["*"], &["*"], &["*"]);
    let admin = list(&cluster.client, "default").await;
    let found = admin["resourceRules"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|r| **r == everything);
    assert_eq!(found.count(), 1);
    let node = cluster
        .as_user(&cluster.server.pki().node_client("n").unwrap())
        .await;
    assert_eq!(list(&node, "default").await["incomplete"], true);
}

#[tokio::test]
async fn reviews_know_namespaces_paths_groups_and_any_verb() {
    let cluster = Cluster::start().await;
    cluster_role(
        &cluster,
        "dancers",
        json!([rule(&["test.io"], &["floors"], &["dance"]),
        {"nonResourceURLs": ["/music/*"], "verbs": ["listen"]}]),
    )
    .await;
    let mut body = binding("ClusterRole", "dancers", "dancers", "");
    body["subjects"] =
        json!([{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "dancers"}]);
    cluster
        .post(&format!("{RBAC}/clusterrolebindings"), &body)
        .await
        .ok();
    let reviews = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
    let ask = async |attributes: Value| {
        let mut spec = json!({"user": "jane", "groups": ["dancers"]});
        for (key, value) in attributes.as_object().unwrap() {
            spec[key] = value.clone();
        }
        cluster.post(reviews, &json!({"spec": spec})).await.ok()["status"].clone()
    };
    let floor = |verb: &str| json!({"resourceAttributes": {"group": "test.io", "resource": "floors", "verb": verb}});
    assert_eq!(
        ask(floor("dance")).await,
        json!({"allowed": true, "reason":
        "RBAC: allowed by ClusterRoleBinding \"dancers\" of ClusterRole \"dancers\" to Group \"dancers\""})
    );
    assert_eq!(ask(floor("sleep")).await, json!({"allowed": false}));
    let music = |path: &str| json!({"nonResourceAttributes": {"path": path, "verb": "listen"}});
    assert_eq!(ask(music("/music/now")).await["allowed"], true);
    assert_eq!(ask(music("/noise")).await["allowed"], false);
    // A review of a namespace is about that namespace.
    let local = "/apis/authorization.k8s.io/v1/namespaces/default/localsubjectaccessreviews";
    let review = |namespace: &str| {
        json!({"metadata": {"namespace": "default"}, "spec": {"groups": ["dancers"],
        "resourceAttributes": {"group": "test.io", "resource": "floors", "verb": "dance", "namespace": namespace}}})
    };
    assert_eq!(
        cluster.post(local, &review("default")).await.ok()["status"]["allowed"],
        true
    );
    let message = cluster
        .post(local, &review("other"))
        .await
        .refused(422, "Invalid");
    assert!(message.contains("spec.resourceAttributes.namespace: Invalid value: \"other\": must match metadata.namespace"), "{message}");
    for wrong in [
        json!({"user": "jane"}),
        json!({"resourceAttributes": {"verb": "get", "resource": "pods"}}),
        json!({"user": "jane", "resourceAttributes": {}, "nonResourceAttributes": {}}),
    ] {
        cluster
            .post(reviews, &json!({"spec": wrong}))
            .await
            .refused(422, "Invalid");
    }
}

#[tokio::test]
async fn every_part_of_an_assumed_identity_needs_a_right() {
    let cluster = Cluster::start().await;
    let authentication = "authentication.k8s.io";
    let jane = user(&cluster, "jane", json!([
        {"apiGroups": [""], "resources": ["users"], "verbs": ["impersonate"], "resourceNames": ["joe"]},
        {"apiGroups": [""], "resources": ["groups"], "verbs": ["impersonate"], "resourceNames": ["devs"]},
        {"apiGroups": [authentication], "resources": ["userextras/scopes"], "verbs": ["impersonate"], "resourceNames": ["read"]},
        {"apiGroups": [authentication], "resources": ["uids"], "verbs": ["impersonate"], "resourceNames": ["42"]},
    ])).await;
    let whoami = async |headers: &[(&str, &str)]| {
        let mut headers = headers.to_vec();
        headers.push(("content-type", "application/json"));
        let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
        send_with(&jane, "POST", path, &headers, "{}").await
    };
    let joe = ("impersonate-user", "joe");
    let answer = whoami(&[
        joe,
        ("impersonate-group", "devs"),
        ("impersonate-uid", "42"),
        ("impersonate-extra-scopes", "read"),
    ])
    .await
    .ok();
    assert_eq!(
        answer["status"]["userInfo"],
        json!({"username": "joe", "uid": "42",
        "groups": ["devs", "system:authenticated"], "extra": {"scopes": ["read"]}})
    );
    for (headers, what) in [
        (
            vec![("impersonate-user", "jim")],
            "resource \"users\" in API group \"\"",
        ),
        (
            vec![joe, ("impersonate-group", "system:masters")],
            "resource \"groups\" in API group \"\"",
        ),
        (
            vec![joe, ("impersonate-uid", "43")],
            "resource \"uids\" in API group \"authentication.k8s.io\"",
        ),
        (
            vec![joe, ("impersonate-extra-scopes", "write")],
            "resource \"userextras/scopes\" in API group \"authentication.k8s.io\"",
        ),
        (
            vec![("impersonate-user", "system:serviceaccount:default:x")],
            "resource \"serviceaccounts\" in API group \"\" in the namespace \"default\"",
        ),
    ] {
        let message = whoami(&headers).await.refused(403, "Forbidden");
        assert!(
            message.contains(&format!("cannot impersonate {what}")),
            "{message}"
        );
    }
    let message = whoami(&[("impersonate-group", "devs")])
        .await
        .refused(400, "BadRequest");
    assert!(
        message.contains("without impersonating a user"),
        "{message}"
    );
}

#[tokio::test]
async fn tokens_live_as_long_as_what_they_are_bound_to() {
    let cluster = Cluster::start().await;
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    let token = async |account: &str, kind: &str, name: &str| {
        let reference = json!({"apiVersion": "v1", "kind": kind, "name": name});
        let body = json!({"spec": {"boundObjectRef": reference}});
        let answer = cluster
            .post(&format!("{accounts}/{account}/token"), &body)
            .await
            .ok();
        answer["status"]["token"].as_str().unwrap().to_string()
    };
    let review = async |token: &str| {
        let body = json!({"spec": {"token": token}});
        cluster
            .post("/apis/authentication.k8s.io/v1/tokenreviews", &body)
            .await
            .ok()["status"]
            .clone()
    };
    cluster
        .post("/api/v1/nodes", &json!({"metadata": {"name": "n"}}))
        .await
        .ok();
    cluster
        .post(accounts, &json!({"metadata": {"name": "a"}}))
        .await
        .ok();
    let secret = json!({"metadata": {"name": "s"}});
    let secrets = "/api/v1/namespaces/default/secrets";
    cluster.post(secrets, &secret).await.ok();
    let mut on_node = pod("p");
    on_node["spec"]["nodeName"] = "n".into();
    let made = cluster.post(PODS, &on_node).await.ok();
    for (account, kind, name, path) in [
        (
            "default",
            "Pod",
            "p",
            format!("{PODS}/p?gracePeriodSeconds=0"),
        ),
        ("default", "Secret", "s", format!("{secrets}/s")),
        ("default", "Node", "n", "/api/v1/nodes/n".to_string()),
        ("a", "Node", "n", format!("{accounts}/a")),
    ] {
        if account == "a" {
            cluster
                .post("/api/v1/nodes", &json!({"metadata": {"name": "n"}}))
                .await
                .ok();
        }
        let text = token(account, kind, name).await;
        let status = review(&text).await;
        assert_eq!(status["authenticated"], true, "{kind}");
        let extra = &status["user"]["extra"];
        assert_eq!(
            extra["authentication.kubernetes.io/node-name"].is_array(),
            kind != "Secret"
        );
        if kind == "Pod" {
            assert_eq!(
                extra["authentication.kubernetes.io/pod-uid"],
                json!([made["metadata"]["uid"]])
            );
        }
        cluster
            .send("DELETE", &path, "application/json", "")
            .await
            .ok();
        assert_eq!(review(&text).await["authenticated"], Value::Null, "{kind}");
    }
    // Another pod of the same name is another pod; other kinds are none to be bound to.
    let path = format!("{accounts}/default/token");
    let bound = |kind: &str, name: &str, uid: &str| json!({"spec": {"boundObjectRef": {"apiVersion": "v1", "kind": kind, "name": name, "uid": uid}}});
    cluster.post(PODS, &pod("p")).await.ok();
    let old = made["metadata"]["uid"].as_str().unwrap();
    cluster
        .post(&path, &bound("Pod", "p", old))
        .await
        .refused(409, "Conflict");
    cluster.post(CONFIG_MAPS, &config_map("c")).await.ok();
    let message = cluster
        .post(&path, &bound("ConfigMap", "c", ""))
        .await
        .refused(400, "BadRequest");
    assert_eq!(
        message,
        "cannot bind token to object of type /v1, Kind=ConfigMap"
    );
}
