//! What the leader does: roots in all namespaces, statuses; and the pages.

use ambit_kube_api::status::Condition;
use ambit_kube_api::{AuthorizationPolicy, PeerAuthentication};
use ambit_runtime::ready::Ready;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::Api;
use kube::api::PostParams;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{Cluster, SYSTEM, eventually};

async fn condition(cluster: &Cluster, name: &str, words: &str) -> Condition {
    eventually(&format!("status with {words:?}"), async || {
        let policy: AuthorizationPolicy = cluster.api("shop").get(name).await.unwrap();
        let condition = policy.status?.conditions.into_iter().next()?;
        condition
            .message
            .as_ref()?
            .contains(words)
            .then_some(condition)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statuses_say_where_policies_are_enforced() {
    let cluster = Cluster::start().await;
    cluster
        .pod("shop", "cart-1", "cart", "n1", "10.244.1.3")
        .await;
    let control = cluster.control(None).await;
    let policy = |name: &str, principal: &str| {
        json!({
            "metadata": {"name": name, "namespace": "shop"},
            "spec": {
                "selector": {"matchLabels": {"app": "cart"}},
                "rules": [{"from": [{"source": {"principals": [principal]}}]}]
            }
        })
    };
    cluster
        .create::<AuthorizationPolicy>(policy("good", "cluster.local/ns/shop/sa/web"))
        .await;
    let bad = policy("bad", "spiffe://cluster.local/ns/shop/sa/web");
    cluster.create::<AuthorizationPolicy>(bad).await;

    let good = condition(&cluster, "good", "none of them in the mesh").await;
    assert_eq!(good.type_.as_deref(), Some("ZtunnelAccepted"));
    assert_eq!(
        (good.status.as_deref(), good.reason.as_deref()),
        (Some("True"), Some("Accepted"))
    );
    assert!(good.last_transition_time.is_some() && good.observed_generation.is_some());
    let bad = condition(&cluster, "bad", "AMB-1001").await;
    assert_eq!(
        (bad.status.as_deref(), bad.reason.as_deref()),
        (Some("False"), Some("Invalid"))
    );
    assert!(bad.message.unwrap().contains("without spiffe://"));

    cluster.capture("shop", "cart-1").await;
    let again = condition(&cluster, "good", "enforced for 1 workload").await;
    assert_eq!(again.last_transition_time, good.last_transition_time);

    cluster
        .create::<PeerAuthentication>(json!({
            "metadata": {"name": "strict", "namespace": "shop"}, "spec": {"mtls": {"mode": "STRICT"}}
        }))
        .await;
    eventually("status of the PeerAuthentication", async || {
        let peer: PeerAuthentication = cluster.api("shop").get("strict").await.unwrap();
        let message = peer.status?.conditions.into_iter().next()?.message?;
        message.contains("enforced for 1 workload").then_some(())
    })
    .await;
    control.kill();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_root_is_in_every_namespace_and_stays() {
    let cluster = Cluster::start().await;
    let control = cluster.control(None).await;
    let root = cluster.root("shop").await;
    assert_eq!(cluster.root("default").await, root);

    let late: Namespace = serde_json::from_value(json!({"metadata": {"name": "late"}})).unwrap();
    let namespaces: Api<Namespace> = Api::all(cluster.client.clone());
    namespaces
        .create(&PostParams::default(), &late)
        .await
        .unwrap();
    assert_eq!(cluster.root("late").await, root);

    let maps = cluster.api::<ConfigMap>("shop");
    let mut map = maps.get("istio-ca-root-cert").await.unwrap();
    assert_eq!(
        map.metadata.labels.as_ref().unwrap()["istio.io/config"],
        "true"
    );
    map.data = Some([("root-cert.pem".to_owned(), "forged".to_owned())].into());
    maps.replace("istio-ca-root-cert", &PostParams::default(), &map)
        .await
        .unwrap();
    eventually("the repaired root", async || {
        (cluster.root("shop").await == root).then_some(())
    })
    .await;
    cluster
        .delete::<ConfigMap>("shop", "istio-ca-root-cert")
        .await;
    assert_eq!(cluster.root("shop").await, root);
    control.kill();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_leader_takes_over_at_once_when_the_first_stops() {
    let cluster = Cluster::start().await;
    let first = cluster.replica("istiod-1", None).await;
    cluster.root(SYSTEM).await;
    let second = cluster.replica("istiod-2", None).await;
    first.stop().await;
    cluster
        .delete::<ConfigMap>("shop", "istio-ca-root-cert")
        .await;
    cluster.root("shop").await;
    second.kill();
}

/// A page, with status line and headers.
async fn page(address: std::net::SocketAddr, path: &str, token: Option<&str>) -> String {
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let token = token
        .map(|t| format!("authorization: Bearer {t}\r\n"))
        .unwrap_or_default();
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\n{token}connection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

async fn wait_ready(ready: &Ready) {
    tokio::time::timeout(std::time::Duration::from_secs(30), ready.wait())
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages() {
    let cluster = Cluster::start().await;
    cluster
        .pod("shop", "cart-1", "cart", "n1", "10.244.1.3")
        .await;
    let control = cluster.control(None).await;
    wait_ready(&control.ready).await;
    let (http, monitoring) = (control.http[0], control.monitoring[0]);
    assert!(page(http, "/ready", None).await.starts_with("HTTP/1.1 200"));
    assert!(
        page(monitoring, "/version", None)
            .await
            .starts_with("HTTP/1.1 200")
    );
    let metrics = page(monitoring, "/metrics", None).await;
    for name in [
        "pilot_k8s_reg_events_total",
        "citadel_server_csr_count_total",
        "istio_build",
    ] {
        assert!(metrics.contains(name), "{name} is not in {metrics}");
    }

    assert!(
        page(http, "/debug/ambientz", None)
            .await
            .starts_with("HTTP/1.1 401")
    );
    let shop = cluster
        .token("shop", "cart", Some("cart-1"), "istio-ca")
        .await;
    assert!(
        page(http, "/debug/ambientz", Some(&shop))
            .await
            .starts_with("HTTP/1.1 403")
    );
    let system = cluster.ztunnel_token().await;
    let all = page(http, "/debug/ambientz", Some(&system)).await;
    assert!(all.contains("Kubernetes//Pod/shop/cart-1"), "{all}");
    let registry = page(http, "/debug/registryz", Some(&system)).await;
    assert!(registry.contains("\"notSynced\": []"), "{registry}");
    control.kill();
}
