//! Who may do what: certificates, tokens, roles, nodes, reviews.

use crate::common::{CONFIG_MAPS, Cluster, PODS, config_map, pod, send, send_with};
use serde_json::{Value, json};

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";
const ACCOUNTS: &str = "/api/v1/namespaces/default/serviceaccounts";

async fn account(cluster: &Cluster, name: &str, rules: Value) {
    cluster
        .post(ACCOUNTS, &json!({"metadata": {"name": name}}))
        .await
        .ok();
    let role = json!({"metadata": {"name": name}, "rules": rules});
    cluster
        .post(&format!("{RBAC}/namespaces/default/roles"), &role)
        .await
        .ok();
    let binding = json!({"metadata": {"name": name}, "roleRef": {"kind": "Role", "name": name},
        "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": "default"}]});
    cluster
        .post(&format!("{RBAC}/namespaces/default/rolebindings"), &binding)
        .await
        .ok();
}

async fn token(cluster: &Cluster, name: &str, spec: Value) -> String {
    let answer = cluster
        .post(
            &format!("{ACCOUNTS}/{name}/token"),
            &json!({ "spec": spec }),
        )
        .await
        .ok();
    answer["status"]["token"].as_str().unwrap().to_string()
}

async fn review(cluster: &Cluster, token: &str, audiences: Value) -> Value {
    let body = json!({"spec": {"token": token, "audiences": audiences}});
    cluster
        .post("/apis/authentication.k8s.io/v1/tokenreviews", &body)
        .await
        .ok()["status"]
        .clone()
}

#[tokio::test]
async fn an_account_may_do_what_its_role_says_and_no_more() {
    let cluster = Cluster::start().await;
    account(&cluster, "robot", json!([
        {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list"]},
        {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"], "resourceNames": ["mine"]}])).await;
    let client = cluster
        .with_token(&token(&cluster, "robot", json!({})).await)
        .await;
    let try_it = async |method: &str, path: &str| {
        send(&client, method, path, "application/json", "{}").await
    };
    assert_eq!(try_it("GET", CONFIG_MAPS).await.code, 200);
    let message = try_it("GET", PODS).await.refused(403, "Forbidden");
    assert_eq!(
        message,
        "pods is forbidden: User \"system:serviceaccount:default:robot\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\""
    );
    try_it("GET", "/api/v1/configmaps")
        .await
        .refused(403, "Forbidden");
    try_it("GET", "/api/v1/namespaces/kube-system/configmaps")
        .await
        .refused(403, "Forbidden");
    try_it("GET", &format!("{CONFIG_MAPS}?watch=true"))
        .await
        .refused(403, "Forbidden");
    try_it("POST", CONFIG_MAPS).await.refused(403, "Forbidden");
    let secrets = "/api/v1/namespaces/default/secrets";
    assert_eq!(try_it("GET", &format!("{secrets}/mine")).await.code, 404);
    try_it("GET", &format!("{secrets}/other"))
        .await
        .refused(403, "Forbidden");
    try_it("GET", secrets).await.refused(403, "Forbidden");
    // What nobody serves is no secret worth telling: refused before it is looked up.
    try_it("GET", "/apis/none/v1/things")
        .await
        .refused(403, "Forbidden");
    assert_eq!(try_it("GET", "/version").await.code, 200);
    let message = try_it("GET", "/metrics").await.refused(403, "Forbidden");
    assert!(message.contains("cannot get path \"/metrics\""));
}

#[tokio::test]
async fn nobody_and_bad_tokens() {
    let cluster = Cluster::start().await;
    let forged = cluster.with_token("abc.def.ghi").await;
    send(&forged, "GET", PODS, "application/json", "")
        .await
        .refused(401, "Unauthorized");
    let other = Cluster::start().await;
    let foreign = cluster
        .with_token(&token(&other, "default", json!({})).await)
        .await;
    send(&foreign, "GET", PODS, "application/json", "")
        .await
        .refused(401, "Unauthorized");
    let nobody = cluster.with_token("").await;
    let message = send(&nobody, "GET", PODS, "application/json", "")
        .await
        .refused(403, "Forbidden");
    assert!(message.contains("User \"system:anonymous\""));
    assert_eq!(
        send(&nobody, "GET", "/readyz", "application/json", "")
            .await
            .code,
        200
    );
}

#[tokio::test]
async fn tokens_are_bound_to_audience_and_pod() {
    let cluster = Cluster::start().await;
    let made = cluster.post(PODS, &pod("p")).await.ok();
    let reference =
        json!({"kind": "Pod", "apiVersion": "v1", "name": "p", "uid": made["metadata"]["uid"]});
    let text = token(
        &cluster,
        "default",
        json!({"audiences": ["some-ca"], "expirationSeconds": 600, "boundObjectRef": reference}),
    )
    .await;
    let status = review(&cluster, &text, json!(["some-ca", "other"])).await;
    assert_eq!(status["authenticated"], true);
    assert_eq!(status["audiences"], json!(["some-ca"]));
    assert_eq!(
        status["user"]["username"],
        "system:serviceaccount:default:default"
    );
    assert_eq!(
        status["user"]["extra"]["authentication.kubernetes.io/pod-name"],
        json!(["p"])
    );
    assert!(
        status["user"]["groups"]
            .as_array()
            .unwrap()
            .contains(&json!("system:serviceaccounts:default"))
    );
    let status = review(&cluster, &text, json!([])).await;
    assert_eq!(
        status["authenticated"],
        Value::Null,
        "not for the API server"
    );
    let client = cluster.with_token(&text).await;
    send(&client, "GET", "/version", "application/json", "")
        .await
        .refused(401, "Unauthorized");
    cluster
        .send("DELETE", &format!("{PODS}/p"), "application/json", "")
        .await
        .ok();
    let status = review(&cluster, &text, json!(["some-ca"])).await;
    assert_eq!(status["authenticated"], Value::Null);
    assert!(
        status["error"]
            .as_str()
            .unwrap()
            .contains("does not exist any more")
    );
}

#[tokio::test]
async fn token_requests_are_checked() {
    let cluster = Cluster::start().await;
    let path = format!("{ACCOUNTS}/default/token");
    cluster
        .post(&path, &json!({"spec": {"expirationSeconds": 5}}))
        .await
        .refused(422, "Invalid");
    cluster
        .post(&format!("{ACCOUNTS}/none/token"), &json!({}))
        .await
        .refused(404, "NotFound");
    let wrong = json!({"spec": {"boundObjectRef": {"kind": "Pod", "name": "none"}}});
    cluster.post(&path, &wrong).await.refused(404, "NotFound");
    let keys = cluster.get("/openid/v1/jwks").await.ok();
    assert_eq!(
        (&keys["keys"][0]["kty"], &keys["keys"][0]["alg"]),
        (&json!("EC"), &json!("ES256"))
    );
    cluster.get("/.well-known/openid-configuration").await.ok();
}

#[tokio::test]
async fn nodes_see_their_own_pods_alone() {
    let cluster = Cluster::start().await;
    cluster
        .post(ACCOUNTS, &json!({"metadata": {"name": "app"}}))
        .await
        .ok();
    for (name, node) in [("here", "n1"), ("there", "n2")] {
        let mut p = pod(name);
        p["spec"]["nodeName"] = node.into();
        p["spec"]["serviceAccountName"] = "app".into();
        p["spec"]["volumes"] =
            json!([{"name": "s", "secret": {"secretName": format!("secret-{name}")}}]);
        cluster.post(PODS, &p).await.ok();
    }
    let node = cluster
        .as_user(&cluster.server.pki().node_client("n1").unwrap())
        .await;
    let try_it = async |method: &str, path: &str, body: Value| {
        let kind = if method == "PATCH" {
            "application/merge-patch+json"
        } else {
            "application/json"
        };
        send(&node, method, path, kind, body.to_string()).await
    };
    let list = try_it(
        "GET",
        "/api/v1/pods?fieldSelector=spec.nodeName%3Dn1",
        Value::Null,
    )
    .await
    .ok();
    assert_eq!(list["items"].as_array().unwrap().len(), 1);
    try_it("GET", "/api/v1/pods", Value::Null)
        .await
        .refused(403, "Forbidden");
    try_it(
        "GET",
        "/api/v1/pods?fieldSelector=spec.nodeName%3Dn2",
        Value::Null,
    )
    .await
    .refused(403, "Forbidden");
    let status = json!({"status": {"phase": "Running"}});
    assert_eq!(
        try_it("PATCH", &format!("{PODS}/here/status"), status.clone())
            .await
            .code,
        200
    );
    try_it("PATCH", &format!("{PODS}/there/status"), status)
        .await
        .refused(403, "Forbidden");
    let secrets = "/api/v1/namespaces/default/secrets";
    assert_eq!(
        try_it("GET", &format!("{secrets}/secret-here"), Value::Null)
            .await
            .code,
        404
    );
    try_it("GET", &format!("{secrets}/secret-there"), Value::Null)
        .await
        .refused(403, "Forbidden");
    try_it("GET", secrets, Value::Null)
        .await
        .refused(403, "Forbidden");
    assert_eq!(
        try_it("POST", "/api/v1/nodes", json!({"metadata": {"name": "n1"}}))
            .await
            .code,
        201
    );
    let role = json!({"metadata": {"labels": {"node-role.kubernetes.io/control-plane": ""}}});
    let why = try_it("PATCH", "/api/v1/nodes/n1", role)
        .await
        .refused(403, "Forbidden");
    assert!(
        why.ends_with("modify labels: node-role.kubernetes.io/control-plane"),
        "{why}"
    );
    try_it("PATCH", "/api/v1/nodes/n2/status", json!({}))
        .await
        .refused(403, "Forbidden");
    let draw = json!({"metadata": {"labels": {"node-restriction.kubernetes.io/secure": "yes"}}});
    try_it("PATCH", "/api/v1/nodes/n1", draw)
        .await
        .refused(403, "Forbidden");
    let harmless = json!({"metadata": {"labels": {"a": "b"}}});
    assert_eq!(
        try_it("PATCH", "/api/v1/nodes/n1", harmless).await.code,
        200
    );
    // Tokens only for pods that run there, and bound to them.
    let path = format!("{ACCOUNTS}/app/token");
    let uid = async |name: &str| {
        let pod = cluster.get(&format!("{PODS}/{name}")).await.ok();
        pod["metadata"]["uid"].clone()
    };
    let (here, there) = (uid("here").await, uid("there").await);
    let bound = |name: &str| {
        let uid = if name == "here" { &here } else { &there };
        json!({"spec": {"boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": name, "uid": uid}}})
    };
    let without =
        json!({"spec": {"boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "here"}}});
    let why = try_it("POST", &path, without)
        .await
        .refused(403, "Forbidden");
    assert!(why.ends_with("without a uid"), "{why}");
    assert_eq!(try_it("POST", &path, bound("here")).await.code, 201);
    try_it("POST", &path, bound("there"))
        .await
        .refused(403, "Forbidden");
    try_it("POST", &path, json!({}))
        .await
        .refused(403, "Forbidden");
    try_it("POST", &format!("{ACCOUNTS}/default/token"), bound("here"))
        .await
        .refused(403, "Forbidden");
}

#[tokio::test]
async fn reviews_of_access() {
    let cluster = Cluster::start().await;
    account(
        &cluster,
        "robot",
        json!([{"apiGroups": ["*"], "resources": ["pods", "pods/log"], "verbs": ["get"]}]),
    )
    .await;
    let ask = async |attributes: Value| {
        let body = json!({"spec": {"user": "system:serviceaccount:default:robot", "resourceAttributes": attributes}});
        cluster
            .post("/apis/authorization.k8s.io/v1/subjectaccessreviews", &body)
            .await
            .ok()["status"]["allowed"]
            .clone()
    };
    assert_eq!(
        ask(json!({"verb": "get", "resource": "pods", "namespace": "default"})).await,
        true
    );
    assert_eq!(
        ask(
            json!({"verb": "get", "resource": "pods", "subresource": "log", "namespace": "default"})
        )
        .await,
        true
    );
    assert_eq!(ask(json!({"verb": "get", "resource": "pods", "subresource": "exec", "namespace": "default"})).await, false);
    assert_eq!(ask(json!({"verb": "get", "resource": "pods"})).await, false);
    assert_eq!(
        ask(json!({"verb": "dance", "resource": "pods", "namespace": "default"})).await,
        false
    );
    let own = json!({"spec": {"resourceAttributes": {"verb": "delete", "resource": "nodes"}}});
    let own = cluster
        .post(
            "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
            &own,
        )
        .await
        .ok();
    assert_eq!(own["status"]["allowed"], true);
    let who = cluster
        .post(
            "/apis/authentication.k8s.io/v1/selfsubjectreviews",
            &json!({}),
        )
        .await
        .ok();
    assert_eq!(who["status"]["userInfo"]["username"], "kubernetes-admin");
}

#[tokio::test]
async fn impersonation_needs_the_right_to() {
    let cluster = Cluster::start().await;
    account(
        &cluster,
        "robot",
        json!([{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["list"]}]),
    )
    .await;
    let headers = [("impersonate-user", "system:serviceaccount:default:robot")];
    let answer = send_with(&cluster.client, "GET", CONFIG_MAPS, &headers, "").await;
    assert_eq!(answer.code, 200);
    send_with(&cluster.client, "GET", PODS, &headers, "")
        .await
        .refused(403, "Forbidden");
    let robot = cluster
        .with_token(&token(&cluster, "robot", json!({})).await)
        .await;
    let answer = send_with(
        &robot,
        "GET",
        CONFIG_MAPS,
        &[("impersonate-user", "kubernetes-admin")],
        "",
    )
    .await;
    assert!(
        answer
            .refused(403, "Forbidden")
            .contains("cannot impersonate resource \"users\"")
    );
}

#[tokio::test]
async fn edit_and_view_are_there_to_be_bound() {
    let cluster = Cluster::start().await;
    let user = cluster
        .as_user(
            &cluster
                .server
                .pki()
                .issue_client("jane", Some("devs"))
                .unwrap(),
        )
        .await;
    send(
        &user,
        "POST",
        CONFIG_MAPS,
        "application/json",
        config_map("c").to_string(),
    )
    .await
    .refused(403, "Forbidden");
    let binding = json!({"metadata": {"name": "devs"}, "roleRef": {"kind": "ClusterRole", "name": "edit"},
        "subjects": [{"kind": "Group", "name": "devs"}]});
    cluster
        .post(&format!("{RBAC}/namespaces/default/rolebindings"), &binding)
        .await
        .ok();
    send(
        &user,
        "POST",
        CONFIG_MAPS,
        "application/json",
        config_map("c").to_string(),
    )
    .await
    .ok();
    send(&user, "GET", "/api/v1/nodes", "application/json", "")
        .await
        .refused(403, "Forbidden");
    let roles = format!("{RBAC}/namespaces/default/roles");
    send(&user, "GET", &roles, "application/json", "")
        .await
        .refused(403, "Forbidden");
}
