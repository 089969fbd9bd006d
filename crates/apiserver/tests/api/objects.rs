//! Create, read, update, delete; defaults; errors; discovery.

use crate::common::{
    CONFIG_MAPS, Cluster, DEPLOYMENTS, PODS, config_map, deployment, pod, send_with,
};
use serde_json::{Value, json};

#[tokio::test]
async fn a_start_takes_a_moment_and_brings_the_default_objects() {
    let started = std::time::Instant::now();
    let cluster = Cluster::start().await;
    assert!(
        started.elapsed().as_millis() < 2000,
        "{:?}",
        started.elapsed()
    );
    let list = cluster.get("/api/v1/namespaces").await.ok();
    let names: Vec<&str> = list["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|n| n["metadata"]["name"].as_str().unwrap())
        .collect();
    assert_eq!(
        names,
        ["default", "kube-node-lease", "kube-public", "kube-system"]
    );
    let service = cluster
        .get("/api/v1/namespaces/default/services/kubernetes")
        .await
        .ok();
    assert_eq!(service["spec"]["clusterIP"], "10.96.0.1");
    let ca = cluster
        .get("/api/v1/namespaces/kube-system/configmaps/kube-root-ca.crt")
        .await
        .ok();
    assert_eq!(ca["data"]["ca.crt"], cluster.server.ca_pem());
    cluster
        .get("/api/v1/namespaces/kube-system/serviceaccounts/default")
        .await
        .ok();
    cluster.server.stop().await;
}

#[tokio::test]
async fn pods_get_the_defaults_that_clients_rely_on() {
    let cluster = Cluster::start().await;
    let made = cluster.post(PODS, &pod("p")).await.ok();
    assert_eq!(made["spec"]["securityContext"], json!({}));
    assert_eq!(made["spec"]["serviceAccountName"], "default");
    assert_eq!(made["spec"]["restartPolicy"], "Always");
    assert_eq!(
        made["status"],
        json!({"phase": "Pending", "qosClass": "BestEffort"})
    );
    let mount = &made["spec"]["containers"][0]["volumeMounts"][0];
    assert_eq!(
        mount["mountPath"],
        "/var/run/secrets/kubernetes.io/serviceaccount"
    );
    assert_eq!(made["spec"]["volumes"][0]["name"], mount["name"]);
    assert_eq!(made["spec"]["tolerations"].as_array().unwrap().len(), 2);
    // What is read can be written again.
    let path = format!("{PODS}/p");
    let again = cluster
        .send("PUT", &path, "application/json", made.to_string())
        .await
        .ok();
    assert_eq!(
        again["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"],
        "no change, no write"
    );
    let mut moved = made.clone();
    moved["spec"]["nodeName"] = "elsewhere".into();
    let answer = cluster
        .send("PUT", &path, "application/json", moved.to_string())
        .await;
    assert!(
        answer
            .refused(422, "Invalid")
            .contains("pod updates may not change fields")
    );
}

#[tokio::test]
async fn pods_that_name_no_class_get_the_default_one() {
    let cluster = Cluster::start().await;
    let class = |name: &str, value: i64, policy: &str, default: bool| {
        json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name},
            "value": value, "preemptionPolicy": policy, "globalDefault": default})
    };
    let classes = "/apis/scheduling.k8s.io/v1/priorityclasses";
    let priority = async |pod: Value| {
        let spec = cluster.post(PODS, &pod).await.ok()["spec"].take();
        let fields = ["priorityClassName", "priority", "preemptionPolicy"];
        json!(fields.map(|field| spec[field].clone()))
    };
    let none = json!([null, 0, "PreemptLowerPriority"]);
    assert_eq!(priority(pod("before")).await, none);

    let other = class("other", 7, "PreemptLowerPriority", false);
    cluster.post(classes, &other).await.ok();
    assert_eq!(priority(pod("still")).await, none);
    cluster
        .post(classes, &class("usual", 5, "Never", true))
        .await
        .ok();
    assert_eq!(priority(pod("after")).await, json!(["usual", 5, "Never"]));
    let mut named = pod("named");
    named["spec"]["priorityClassName"] = json!("other");
    assert_eq!(
        priority(named).await,
        json!(["other", 7, "PreemptLowerPriority"])
    );
}

#[tokio::test]
async fn generation_counts_changes_of_the_spec_alone() {
    let cluster = Cluster::start().await;
    let made = cluster.post(DEPLOYMENTS, &deployment("d")).await.ok();
    assert_eq!(made["metadata"]["generation"], 1);
    let path = format!("{DEPLOYMENTS}/d");
    let merge = "application/merge-patch+json";
    let labelled = cluster
        .send(
            "PATCH",
            &path,
            merge,
            json!({"metadata": {"labels": {"a": "b"}}}).to_string(),
        )
        .await
        .ok();
    assert_eq!(labelled["metadata"]["generation"], 1);
    let status = json!({"status": {"replicas": 1}, "spec": {"replicas": 7}});
    let with_status = cluster
        .send(
            "PATCH",
            &format!("{path}/status"),
            merge,
            status.to_string(),
        )
        .await
        .ok();
    assert_eq!(with_status["metadata"]["generation"], 1);
    assert_eq!(
        (
            &with_status["status"]["replicas"],
            &with_status["spec"]["replicas"]
        ),
        (&json!(1), &json!(1))
    );
    let scaled = cluster
        .send(
            "PATCH",
            &format!("{path}/scale"),
            merge,
            json!({"spec": {"replicas": 3}}).to_string(),
        )
        .await
        .ok();
    assert_eq!(
        (&scaled["kind"], &scaled["spec"]["replicas"]),
        (&json!("Scale"), &json!(3))
    );
    assert_eq!(scaled["status"]["selector"], "app=d");
    let now = cluster.get(&path).await.ok();
    assert_eq!(now["metadata"]["generation"], 2);
    assert_eq!(
        now["status"]["replicas"], 1,
        "the main path leaves the status alone"
    );
}

#[tokio::test]
async fn conflicts_and_names() {
    let cluster = Cluster::start().await;
    let made = cluster.post(CONFIG_MAPS, &config_map("c")).await.ok();
    let answer = cluster.post(CONFIG_MAPS, &config_map("c")).await;
    assert_eq!(
        answer.refused(409, "AlreadyExists"),
        "configmaps \"c\" already exists"
    );
    let path = format!("{CONFIG_MAPS}/c");
    let mut next = made.clone();
    next["data"]["a"] = "2".into();
    cluster
        .send("PUT", &path, "application/json", next.to_string())
        .await
        .ok();
    let stale = cluster
        .send("PUT", &path, "application/json", next.to_string())
        .await;
    assert!(
        stale
            .refused(409, "Conflict")
            .contains("the object has been modified")
    );
    let mut generated = config_map("");
    generated["metadata"] = json!({"generateName": "x-"});
    let name = cluster.post(CONFIG_MAPS, &generated).await.ok()["metadata"]["name"].clone();
    assert_eq!(name.as_str().unwrap().len(), 7);
    let bad = cluster.post(CONFIG_MAPS, &config_map("Bad_Name")).await;
    assert!(
        bad.refused(422, "Invalid")
            .starts_with("ConfigMap \"Bad_Name\" is invalid: metadata.name: Invalid value")
    );
    let nowhere = cluster
        .post("/api/v1/namespaces/nowhere/configmaps", &config_map("c"))
        .await;
    assert_eq!(
        nowhere.refused(404, "NotFound"),
        "namespaces \"nowhere\" not found"
    );
}

#[tokio::test]
async fn mistakes_get_clear_answers() {
    let cluster = Cluster::start().await;
    let cases: Vec<(&str, &str, Value, u16, &str)> = vec![
        (
            "/api/v1/namespaces/default/gizmos",
            "",
            json!({}),
            404,
            "could not find the requested resource",
        ),
        (
            CONFIG_MAPS,
            "",
            json!({"kind": "Secret", "apiVersion": "v1"}),
            400,
            "does not match the expected kind",
        ),
        (
            CONFIG_MAPS,
            "",
            json!({"apiVersion": "v2"}),
            400,
            "does not match the expected API version",
        ),
        (CONFIG_MAPS, "", json!([1]), 400, "not an object"),
        (
            DEPLOYMENTS,
            "",
            json!({"spec": {"replicas": "x"}}),
            400,
            "cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            PODS,
            "",
            json!({"metadata": {"name": "p"}, "spec": {}}),
            422,
            "spec.containers: Required value",
        ),
        (
            PODS,
            "?fieldValidation=Strict",
            json!({"metadata": {"name": "p"}, "spec": {"containrs": []}}),
            400,
            "unknown field \"spec.containrs\"",
        ),
        (
            PODS,
            "?fieldValidation=Odd",
            json!({}),
            422,
            "fieldValidation",
        ),
        (PODS, "?dryRun=Some", json!({}), 422, "dryRun"),
    ];
    for (path, query, body, code, text) in cases {
        let answer = cluster.post(&format!("{path}{query}"), &body).await;
        assert_eq!(answer.code, code, "{path} {body}: {:?}", answer.body);
        assert_eq!(answer.body["kind"], "Status");
        let message = answer.body["message"].as_str().unwrap();
        assert!(message.contains(text), "{message}");
    }
    let twice = r#"{"metadata":{"name":"c"},"data":{"a":"1","a":"2"}}"#;
    let strict = cluster
        .send(
            "POST",
            &format!("{CONFIG_MAPS}?fieldValidation=Strict"),
            "application/json",
            twice,
        )
        .await;
    assert!(
        strict
            .refused(400, "BadRequest")
            .contains("duplicate field \"data.a\"")
    );
    let warned = cluster
        .send("POST", CONFIG_MAPS, "application/json", twice)
        .await;
    assert_eq!(
        warned.warnings,
        ["299 - \"duplicate field \\\"data.a\\\"\""]
    );
    let broken = cluster
        .send("POST", CONFIG_MAPS, "application/json", "{\"a\":")
        .await;
    broken.refused(400, "BadRequest");
    let cbor = cluster
        .send("POST", CONFIG_MAPS, "application/cbor", "x")
        .await;
    cbor.refused(415, "UnsupportedMediaType");
    let large = cluster
        .send("POST", CONFIG_MAPS, "application/json", vec![b' '; 4 << 20])
        .await;
    large.refused(413, "RequestEntityTooLarge");
    let method = cluster
        .send("PUT", CONFIG_MAPS, "application/json", "{}")
        .await;
    method.refused(405, "MethodNotAllowed");
    let form = send_with(
        &cluster.client,
        "GET",
        PODS,
        &[("accept", "application/vnd.kubernetes.protobuf")],
        "",
    )
    .await;
    form.refused(406, "NotAcceptable");
}

#[tokio::test]
async fn dry_run_does_everything_but_write() {
    let cluster = Cluster::start().await;
    let made = cluster
        .post(&format!("{PODS}?dryRun=All"), &pod("p"))
        .await
        .ok();
    assert_eq!(made["spec"]["dnsPolicy"], "ClusterFirst");
    cluster
        .get(&format!("{PODS}/p"))
        .await
        .refused(404, "NotFound");
    cluster.post(CONFIG_MAPS, &config_map("c")).await.ok();
    let path = format!("{CONFIG_MAPS}/c?dryRun=All");
    let patched = cluster
        .send(
            "PATCH",
            &path,
            "application/merge-patch+json",
            r#"{"data":{"a":"9"}}"#,
        )
        .await
        .ok();
    assert_eq!(patched["data"]["a"], "9");
    cluster
        .send("DELETE", &path, "application/json", "")
        .await
        .ok();
    assert_eq!(
        cluster.get(&format!("{CONFIG_MAPS}/c")).await.ok()["data"]["a"],
        "1"
    );
}

#[tokio::test]
async fn what_nothing_acts_on_says_so() {
    let cluster = Cluster::start().await;
    let quota = json!({"metadata": {"name": "q"}, "spec": {"hard": {"pods": "1"}}});
    let quotas = "/api/v1/namespaces/default/resourcequotas";
    let answer = cluster.post(quotas, &quota).await;
    assert_eq!(answer.code, 201);
    assert!(
        answer.warnings[0].contains("quotas are not enforced"),
        "{:?}",
        answer.warnings
    );
}

#[tokio::test]
async fn discovery_in_all_forms() {
    let cluster = Cluster::start().await;
    let plain = cluster.get("/apis").await.ok();
    assert_eq!(plain["kind"], "APIGroupList");
    let core = cluster.get("/api/v1").await.ok();
    let eviction = core["resources"]
        .as_array()
        .unwrap()
        .iter()
        .find(|r| r["name"] == "pods/eviction")
        .unwrap();
    assert_eq!(
        (&eviction["kind"], &eviction["group"]),
        (&json!("Eviction"), &json!("policy"))
    );
    for version in ["v2", "v2beta1"] {
        let accept =
            format!("application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList");
        let answer = send_with(&cluster.client, "GET", "/apis", &[("accept", &accept)], "").await;
        assert_eq!(answer.content_type, accept);
        let apps = answer.body["items"]
            .as_array()
            .unwrap()
            .iter()
            .find(|i| i["metadata"]["name"] == "apps")
            .unwrap()
            .clone();
        let deployments = &apps["versions"][0]["resources"]
            .as_array()
            .unwrap()
            .iter()
            .find(|r| r["resource"] == "deployments")
            .unwrap()
            .clone();
        assert_eq!(deployments["responseKind"]["kind"], "Deployment");
        assert!(deployments["subresources"].as_array().unwrap().iter().any(|s| s["subresource"] == "scale" && s["responseKind"]["group"] == "autoscaling"));
    }
    let discovery = kube::Discovery::new(cluster.client.clone())
        .run()
        .await
        .unwrap();
    assert!(discovery.groups().count() > 10);
    let discovery = kube::Discovery::new(cluster.client.clone())
        .run_aggregated()
        .await
        .unwrap();
    assert!(discovery.get("apps").is_some());
    let version = cluster.client.apiserver_version().await.unwrap();
    assert_eq!(
        (version.major.as_str(), version.minor.as_str()),
        ("1", "35")
    );
}

#[tokio::test]
async fn openapi_describes_every_group() {
    let cluster = Cluster::start().await;
    let index = cluster.get("/openapi/v3").await.ok();
    let paths = index["paths"].as_object().unwrap();
    assert!(paths.contains_key("api/v1") && paths.contains_key("apis/apps/v1"));
    let url = paths["apis/apps/v1"]["serverRelativeURL"].as_str().unwrap();
    let document = cluster.get(url).await.ok();
    let patch =
        &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
    assert_eq!(
        patch["x-kubernetes-group-version-kind"]["kind"],
        "Deployment"
    );
    assert!(patch.get("requestBody").is_none());
    assert!(
        patch["parameters"]
            .as_array()
            .unwrap()
            .iter()
            .any(|p| p["name"] == "fieldValidation")
    );
    let schema = &document["components"]["schemas"]["io.k8s.api.apps.v1.Deployment"];
    assert_eq!(
        schema["x-kubernetes-group-version-kind"][0]["kind"],
        "Deployment"
    );
    let v2 = cluster.get("/openapi/v2").await;
    assert_eq!(
        v2.content_type,
        "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
    );
    assert!(!v2.bytes.is_empty());
}
