//! Owners, finalizers, grace periods, namespaces that go, addresses of services.

use crate::common::{
    CONFIG_MAPS, Cluster, DEPLOYMENTS, PODS, config_map, deployment, eventually, pod,
};
use serde_json::{Value, json};

async fn gone(cluster: &Cluster, path: &str) {
    eventually(&format!("{path} goes"), async || {
        (cluster.get(path).await.code == 404).then_some(())
    })
    .await;
}

/// A config map owned by a deployment.
async fn owned(cluster: &Cluster, name: &str, owner: &Value) {
    let mut map = config_map(name);
    map["metadata"]["ownerReferences"] = json!([{"apiVersion": "apps/v1", "kind": "Deployment",
        "name": owner["metadata"]["name"], "uid": owner["metadata"]["uid"], "controller": true, "blockOwnerDeletion": true}]);
    cluster.post(CONFIG_MAPS, &map).await.ok();
}

async fn delete(cluster: &Cluster, path: &str, options: Value) -> Value {
    cluster
        .send("DELETE", path, "application/json", options.to_string())
        .await
        .ok()
}

#[tokio::test]
async fn what_is_owned_goes_in_the_background() {
    let cluster = Cluster::start().await;
    let owner = cluster.post(DEPLOYMENTS, &deployment("d")).await.ok();
    owned(&cluster, "c", &owner).await;
    let status = delete(
        &cluster,
        &format!("{DEPLOYMENTS}/d"),
        json!({"propagationPolicy": "Background"}),
    )
    .await;
    assert_eq!(
        (&status["kind"], &status["status"]),
        (&json!("Status"), &json!("Success"))
    );
    gone(&cluster, &format!("{CONFIG_MAPS}/c")).await;
    // What is made for an owner that is gone goes at once.
    owned(&cluster, "late", &owner).await;
    gone(&cluster, &format!("{CONFIG_MAPS}/late")).await;
}

#[tokio::test]
async fn foreground_waits_for_what_is_owned() {
    let cluster = Cluster::start().await;
    let owner = cluster.post(DEPLOYMENTS, &deployment("d")).await.ok();
    owned(&cluster, "c", &owner).await;
    let map = format!("{CONFIG_MAPS}/c");
    let hold = json!({"metadata": {"finalizers": ["example.com/hold"]}});
    let merge = "application/merge-patch+json";
    cluster
        .send("PATCH", &map, merge, hold.to_string())
        .await
        .ok();
    let path = format!("{DEPLOYMENTS}/d");
    let marked = delete(&cluster, &path, json!({"propagationPolicy": "Foreground"})).await;
    assert_eq!(
        marked["metadata"]["finalizers"],
        json!(["foregroundDeletion"])
    );
    eventually("the map is going", async || {
        cluster.get(&map).await.body["metadata"]
            .get("deletionTimestamp")
            .map(|_| ())
    })
    .await;
    assert_eq!(cluster.get(&path).await.code, 200, "the owner waits");
    cluster
        .send("PATCH", &map, merge, r#"{"metadata":{"finalizers":null}}"#)
        .await
        .ok();
    gone(&cluster, &map).await;
    gone(&cluster, &path).await;
}

#[tokio::test]
async fn orphans_stay() {
    let cluster = Cluster::start().await;
    let owner = cluster.post(DEPLOYMENTS, &deployment("d")).await.ok();
    owned(&cluster, "c", &owner).await;
    delete(
        &cluster,
        &format!("{DEPLOYMENTS}/d"),
        json!({"propagationPolicy": "Orphan"}),
    )
    .await;
    gone(&cluster, &format!("{DEPLOYMENTS}/d")).await;
    let left = cluster.get(&format!("{CONFIG_MAPS}/c")).await.ok();
    assert!(left["metadata"].get("ownerReferences").is_none());
}

#[tokio::test]
async fn finalizers_hold_and_preconditions_protect() {
    let cluster = Cluster::start().await;
    let mut map = config_map("c");
    map["metadata"]["finalizers"] = json!(["example.com/hold"]);
    let made = cluster.post(CONFIG_MAPS, &map).await.ok();
    let path = format!("{CONFIG_MAPS}/c");
    let other = json!({"preconditions": {"uid": "other"}});
    cluster
        .send("DELETE", &path, "application/json", other.to_string())
        .await
        .refused(409, "Conflict");
    let held = delete(
        &cluster,
        &path,
        json!({"preconditions": {"uid": made["metadata"]["uid"]}}),
    )
    .await;
    assert!(held["metadata"].get("deletionTimestamp").is_some());
    let merge = "application/merge-patch+json";
    let more = json!({"metadata": {"finalizers": ["example.com/hold", "example.com/more"]}});
    cluster
        .send("PATCH", &path, merge, more.to_string())
        .await
        .refused(422, "Invalid");
    cluster
        .send("PATCH", &path, merge, r#"{"metadata":{"finalizers":[]}}"#)
        .await
        .ok();
    gone(&cluster, &path).await;
}

#[tokio::test]
async fn pods_on_a_node_get_their_grace() {
    let cluster = Cluster::start().await;
    cluster.post(PODS, &pod("p")).await.ok();
    let binding = json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n1"}});
    cluster
        .post(&format!("{PODS}/p/binding"), &binding)
        .await
        .ok();
    let bound = cluster.get(&format!("{PODS}/p")).await.ok();
    assert_eq!(bound["spec"]["nodeName"], "n1");
    assert_eq!(bound["status"]["conditions"][0]["type"], "PodScheduled");
    cluster
        .post(&format!("{PODS}/p/binding"), &binding)
        .await
        .refused(409, "Conflict");
    let going = delete(&cluster, &format!("{PODS}/p"), Value::Null).await;
    assert_eq!(going["metadata"]["deletionGracePeriodSeconds"], 30);
    // The kubelet's last word.
    delete(
        &cluster,
        &format!("{PODS}/p"),
        json!({"gracePeriodSeconds": 0}),
    )
    .await;
    cluster
        .get(&format!("{PODS}/p"))
        .await
        .refused(404, "NotFound");
}

#[tokio::test]
async fn a_namespace_goes_with_everything_in_it() {
    let cluster = Cluster::start().await;
    let namespace = json!({"metadata": {"name": "n"}});
    cluster.post("/api/v1/namespaces", &namespace).await.ok();
    for i in 0..300 {
        cluster
            .post(
                "/api/v1/namespaces/n/configmaps",
                &config_map(&format!("c{i}")),
            )
            .await
            .ok();
    }
    let mut held = config_map("held");
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    cluster
        .post("/api/v1/namespaces/n/configmaps", &held)
        .await
        .ok();
    let going = delete(&cluster, "/api/v1/namespaces/n", Value::Null).await;
    assert_eq!(going["status"]["phase"], "Terminating");
    let refused = cluster
        .post("/api/v1/namespaces/n/configmaps", &config_map("late"))
        .await;
    assert!(
        refused
            .refused(403, "Forbidden")
            .contains("because it is being terminated")
    );
    assert_eq!(
        refused.body["details"]["causes"][0]["reason"],
        "NamespaceTerminating"
    );
    eventually("the status says what remains", async || {
        let found = cluster.get("/api/v1/namespaces/n").await.body;
        let message = found["status"]["conditions"][0]["message"]
            .as_str()?
            .to_string();
        (message == "Some resources are remaining: configmaps has 1 resource instances")
            .then_some(())
    })
    .await;
    let patch = r#"{"metadata":{"finalizers":null}}"#;
    cluster
        .send(
            "PATCH",
            "/api/v1/namespaces/n/configmaps/held",
            "application/merge-patch+json",
            patch,
        )
        .await
        .ok();
    gone(&cluster, "/api/v1/namespaces/n").await;
    let protected = cluster
        .send(
            "DELETE",
            "/api/v1/namespaces/default",
            "application/json",
            "",
        )
        .await;
    protected.refused(403, "Forbidden");
    // It can be made again, with what every namespace has.
    cluster.post("/api/v1/namespaces", &namespace).await.ok();
    cluster
        .get("/api/v1/namespaces/n/serviceaccounts/default")
        .await
        .ok();
}

#[tokio::test]
async fn collections() {
    let cluster = Cluster::start().await;
    for name in ["a", "b"] {
        let mut map = config_map(name);
        map["metadata"]["labels"] = json!({"n": name});
        cluster.post(CONFIG_MAPS, &map).await.ok();
    }
    let done = cluster
        .send(
            "DELETE",
            &format!("{CONFIG_MAPS}?labelSelector=n%3Da"),
            "application/json",
            "",
        )
        .await
        .ok();
    assert_eq!(done["items"].as_array().unwrap().len(), 1);
    cluster.get(&format!("{CONFIG_MAPS}/b")).await.ok();
}

#[tokio::test]
async fn eviction_heeds_budgets() {
    let cluster = Cluster::start().await;
    let mut p = pod("p");
    p["metadata"]["labels"] = json!({"a": "b"});
    cluster.post(PODS, &p).await.ok();
    let set_status = async |path: &str, status: Value| {
        let merge = "application/merge-patch+json";
        let body = json!({"status": status}).to_string();
        let path = format!("{path}/status");
        cluster.send("PATCH", &path, merge, body).await.ok();
    };
    let ready = json!([{"type": "Ready", "status": "True"}]);
    let running = json!({"phase": "Running", "conditions": ready});
    set_status(&format!("{PODS}/p"), running).await;
    let budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    let budget = json!({"metadata": {"name": "b"}, "spec": {"minAvailable": 1, "selector": {"matchLabels": {"a": "b"}}}});
    cluster.post(budgets, &budget).await.ok();
    // The body of kube-rs, without kind.
    let body = json!({"delete_options": null, "metadata": {"name": "p"}});
    let eviction = format!("{PODS}/p/eviction");
    // Nobody has counted yet, then nothing may be lost.
    let refused = |answer: crate::common::Answer| {
        answer.refused(429, "TooManyRequests");
        answer.body
    };
    let status = refused(cluster.post(&eviction, &body).await);
    assert_eq!(status["details"]["retryAfterSeconds"], 10);
    let counted = json!({"observedGeneration": 1, "disruptionsAllowed": 0, "desiredHealthy": 1,
        "currentHealthy": 1, "expectedPods": 1});
    set_status(&format!("{budgets}/b"), counted).await;
    let status = refused(cluster.post(&eviction, &body).await);
    assert_eq!(
        status["details"]["causes"][0]["message"],
        "The disruption budget b needs 1 healthy pods and has 1 currently"
    );
    let allowed = json!({"observedGeneration": 1, "disruptionsAllowed": 1});
    set_status(&format!("{budgets}/b"), allowed).await;
    cluster.post(&eviction, &body).await.ok();
    gone(&cluster, &format!("{PODS}/p")).await;
    let taken = cluster.get(&format!("{budgets}/b")).await.ok();
    assert_eq!(taken["status"]["disruptionsAllowed"], 0);
    assert!(taken["status"]["disruptedPods"]["p"].is_string());
}

#[tokio::test]
async fn services_get_addresses_and_ports() {
    let cluster = Cluster::start().await;
    let services = "/api/v1/namespaces/default/services";
    let make = async |name: &str, spec: Value| {
        cluster
            .post(services, &json!({"metadata": {"name": name}, "spec": spec}))
            .await
    };
    let ports = json!([{"port": 80}]);
    let a = make("a", json!({"ports": ports})).await.ok();
    let address = a["spec"]["clusterIP"].clone();
    assert!(address.as_str().unwrap().starts_with("10.96."));
    assert_eq!(a["spec"]["clusterIPs"], json!([address]));
    assert_eq!(
        a["spec"]["ports"][0],
        json!({"port": 80, "protocol": "TCP", "targetPort": 80})
    );
    make("same", json!({"ports": ports, "clusterIP": address}))
        .await
        .refused(422, "Invalid");
    make("outside", json!({"ports": ports, "clusterIP": "192.0.2.1"}))
        .await
        .refused(422, "Invalid");
    let headless = make("h", json!({"ports": ports, "clusterIP": "None"}))
        .await
        .ok();
    assert_eq!(headless["spec"]["clusterIP"], "None");
    let external = make(
        "e",
        json!({"type": "ExternalName", "externalName": "example.com"}),
    )
    .await
    .ok();
    assert!(external["spec"].get("clusterIP").is_none());
    let balancer = make("l", json!({"type": "LoadBalancer", "ports": ports}))
        .await
        .ok();
    let node_port = balancer["spec"]["ports"][0]["nodePort"].as_u64().unwrap();
    assert!((30000..32768).contains(&node_port));
    assert_eq!(balancer["status"], json!({"loadBalancer": {}}));
    let taken = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": node_port}]});
    make("n", taken.clone()).await.refused(422, "Invalid");
    // An update keeps what it has.
    let path = format!("{services}/l");
    let mut next = balancer.clone();
    next["spec"]["ports"][0]
        .as_object_mut()
        .unwrap()
        .remove("nodePort");
    next["spec"].as_object_mut().unwrap().remove("clusterIP");
    next["metadata"]["labels"] = json!({"x": "y"});
    let kept = cluster
        .send("PUT", &path, "application/json", next.to_string())
        .await
        .ok();
    assert_eq!(kept["spec"]["ports"][0]["nodePort"], node_port);
    assert_eq!(kept["spec"]["clusterIP"], balancer["spec"]["clusterIP"]);
    // What is deleted is free again.
    cluster
        .send("DELETE", &path, "application/json", "")
        .await
        .ok();
    make("n", taken).await.ok();
    cluster
        .send("DELETE", &format!("{services}/a"), "application/json", "")
        .await
        .ok();
    make("again", json!({"ports": ports, "clusterIP": address}))
        .await
        .ok();
    // Dry runs take nothing.
    let dry = cluster
        .post(
            &format!("{services}?dryRun=All"),
            &json!({"metadata": {"name": "dry"}, "spec": {"ports": ports}}),
        )
        .await
        .ok();
    make(
        "wet",
        json!({"ports": ports, "clusterIP": dry["spec"]["clusterIP"]}),
    )
    .await
    .ok();
}
