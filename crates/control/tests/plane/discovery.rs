//! Discovery streams: what comes, what comes again, and for whom.

use std::collections::BTreeMap;

use ambit_kube_api::AuthorizationPolicy;
use ambit_model::workload::Protocol;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Service};
use serde_json::json;
use tonic::Code;

use crate::support::{
    ADDRESS, AUTHORIZATION, Cluster, SYSTEM, Stream, names, workload, ztunnel_node,
};

const CART: &str = "Kubernetes//Pod/shop/cart-1";
const WEB: &str = "Kubernetes//Pod/shop/web-1";

async fn shop() -> Cluster {
    let cluster = Cluster::start().await;
    cluster
        .pod("shop", "cart-1", "cart", "n1", "10.244.1.3")
        .await;
    cluster
        .pod("shop", "web-1", "web", "n2", "10.244.2.3")
        .await;
    cluster
        .create::<Service>(json!({
            "metadata": {"name": "cart", "namespace": "shop"},
            "spec": {"selector": {"app": "cart"}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]}
        }))
        .await;
    cluster
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_state_and_its_changes() {
    let cluster = shop().await;
    let control = cluster.control(None).await;
    let target = cluster.target(&control).await;
    let token = cluster.ztunnel_token().await;
    let mut stream = Stream::open(&target, Some(&token), ztunnel_node("ztunnel-n1", "n1"))
        .await
        .unwrap();

    // The first message is the whole state; nobody gets an empty one because he came early.
    let first = stream.next().await.unwrap();
    assert_eq!(first.type_url, ADDRESS);
    let all = names(&first);
    for name in [CART, WEB, "shop/cart.shop.svc.cluster.local"] {
        assert!(all.iter().any(|n| n == name), "{name} is not among {all:?}");
    }
    let cart = workload(&first, CART).unwrap();
    assert_eq!(
        (cart.protocol, &*cart.node, cart.services.len()),
        (Protocol::Tcp, "n1", 1)
    );
    for resource in &first.resources {
        let body = &resource.resource.as_ref().unwrap().value;
        let hash = format!("{:x}", twox_hash::XxHash64::oneshot(0, body));
        assert_eq!(resource.version, hash, "{}", resource.name);
    }
    assert!(control.ready.is_ready());

    // Policies: answered even when there are none.
    stream.subscribe(AUTHORIZATION).await;
    let policies = stream.next().await.unwrap();
    assert_eq!(
        (policies.type_url.as_str(), policies.resources.len()),
        (AUTHORIZATION, 0)
    );

    // A capture: exactly one resource in exactly one message.
    cluster.capture("shop", "cart-1").await;
    let mut messages = stream.until(CART).await;
    messages.extend(stream.rest().await);
    assert_eq!(messages.len(), 1, "{messages:?}");
    assert_eq!(names(&messages[0]), [CART]);
    assert_eq!(
        workload(&messages[0], CART).unwrap().protocol,
        Protocol::Hbone
    );

    // A policy with a selector: the policy, and the workload that names it.
    cluster
        .create::<AuthorizationPolicy>(json!({
            "metadata": {"name": "only-web", "namespace": "shop"},
            "spec": {
                "selector": {"matchLabels": {"app": "cart"}},
                "rules": [{"from": [{"source": {"principals": ["cluster.local/ns/shop/sa/web"]}}]}]
            }
        }))
        .await;
    let messages = stream.until(CART).await;
    let policy = messages
        .iter()
        .find(|m| m.type_url == AUTHORIZATION)
        .expect("the policy comes first");
    assert_eq!(names(policy), ["shop/only-web"]);
    assert_eq!(policy.resources[0].version, "");
    let cart = workload(messages.last().unwrap(), CART).unwrap();
    assert_eq!(cart.authorization_policies, ["shop/only-web".into()]);

    // It goes.
    cluster
        .delete::<AuthorizationPolicy>("shop", "only-web")
        .await;
    let messages = stream.until("shop/only-web").await;
    assert_eq!(
        messages.last().unwrap().removed_resources,
        ["shop/only-web"]
    );
    cluster.delete::<Pod>("shop", "web-1").await;
    let messages = stream.until(WEB).await;
    assert_eq!(messages.last().unwrap().removed_resources, [WEB]);
    control.kill();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_comes_back_gets_what_changed() {
    let cluster = shop().await;
    let control = cluster.control(None).await;
    let target = cluster.target(&control).await;
    let token = cluster.ztunnel_token().await;
    let node = || ztunnel_node("ztunnel-n1", "n1");
    let mut stream = Stream::open(&target, Some(&token), node()).await.unwrap();
    let first = stream.next().await.unwrap();
    let mut known: BTreeMap<String, String> = first
        .resources
        .iter()
        .map(|r| (r.name.clone(), r.version.clone()))
        .collect();
    drop(stream);
    control.kill();

    // While nobody serves, one pod is captured, and another goes.
    cluster.capture("shop", "cart-1").await;
    cluster.delete::<Pod>("shop", "web-1").await;
    let control = cluster.control(None).await;
    let target = cluster.target(&control).await;
    let mut stream = Stream::resume(&target, Some(&token), node(), known.clone())
        .await
        .unwrap();
    let again = stream.next().await.unwrap();
    assert_eq!(names(&again), [CART]);
    assert_eq!(again.removed_resources, [WEB]);

    // Who knows everything is told that there is nothing.
    known.remove(WEB);
    known.insert(CART.to_owned(), again.resources[0].version.clone());
    let mut stream = Stream::resume(&target, Some(&token), node(), known)
        .await
        .unwrap();
    let nothing = stream.next().await.unwrap();
    assert_eq!(
        (nothing.resources.len(), nothing.removed_resources.len()),
        (0, 0)
    );
    control.kill();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_pods_as_themselves() {
    let cluster = shop().await;
    let control = cluster.control(None).await;
    let target = cluster.target(&control).await;
    let good = cluster.ztunnel_token().await;
    let audience = cluster
        .token(
            SYSTEM,
            "ztunnel",
            Some("ztunnel-n1"),
            "https://kubernetes.default.svc",
        )
        .await;
    let unbound = cluster.token(SYSTEM, "ztunnel", None, "istio-ca").await;
    let own = || ztunnel_node("ztunnel-n1", "n1");
    for (what, token, node, code, words) in [
        (
            "no token",
            None,
            own(),
            Code::Unauthenticated,
            "no bearer token",
        ),
        (
            "garbage",
            Some("garbage"),
            own(),
            Code::Unauthenticated,
            "not valid",
        ),
        (
            "another audience",
            Some(&*audience),
            own(),
            Code::Unauthenticated,
            "authenticate failure",
        ),
        (
            "a token without pod",
            Some(&*unbound),
            own(),
            Code::PermissionDenied,
            "not bound to a pod",
        ),
        (
            "another node",
            Some(&*good),
            ztunnel_node("ztunnel-n1", "n2"),
            Code::PermissionDenied,
            "node is \"n2\"",
        ),
        (
            "another pod",
            Some(&*good),
            ztunnel_node("ztunnel-n2", "n1"),
            Code::PermissionDenied,
            "pod is \"ztunnel-n2\"",
        ),
    ] {
        let refused = match Stream::open(&target, token, node).await {
            Err(status) => status,
            Ok(mut stream) => stream.next().await.expect_err(what),
        };
        assert_eq!(refused.code(), code, "{what}: {refused}");
        assert!(refused.message().contains(words), "{what}: {refused}");
    }
    // None of this hurts the others.
    let mut stream = Stream::open(&target, Some(&good), own()).await.unwrap();
    assert!(!stream.next().await.unwrap().resources.is_empty());
    control.kill();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_mesh_configuration_is_live() {
    let cluster = shop().await;
    let control = cluster.control(None).await;
    let target = cluster.target(&control).await;
    let token = cluster.ztunnel_token().await;
    let mut stream = Stream::open(&target, Some(&token), ztunnel_node("ztunnel-n1", "n1"))
        .await
        .unwrap();
    stream.next().await.unwrap();
    let map = |mesh: &str| json!({"metadata": {"name": "istio", "namespace": SYSTEM}, "data": {"mesh": mesh}});
    cluster
        .create::<ConfigMap>(map("trustDomain: example.org\n"))
        .await;
    let messages = stream.until(CART).await;
    let cart = workload(messages.last().unwrap(), CART).unwrap();
    assert_eq!(&*cart.trust_domain, "example.org");

    // A broken one changes nothing.
    let mut broken: ConfigMap = cluster.api(SYSTEM).get("istio").await.unwrap();
    broken.data = Some([("mesh".to_owned(), "trustDomain: [".to_owned())].into());
    cluster
        .api(SYSTEM)
        .replace("istio", &Default::default(), &broken)
        .await
        .unwrap();
    assert_eq!(stream.rest().await, vec![]);
    control.kill();
}
