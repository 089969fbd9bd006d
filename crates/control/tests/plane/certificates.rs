//! Certificates: who gets which.

use std::time::Duration;

use ambit_model::Identity;
use ambit_proto::ca::IstioCertificateRequest;
use ambit_proto::ca::istio_certificate_service_client::IstioCertificateServiceClient;
use ambit_wire::ca::{Client, ClientOptions};
use ambit_wire::credentials::{Credentials, Token};
use ambit_wire::tls::Target;
use k8s_openapi::api::core::v1::{Pod, Secret};
use tonic::{Code, Request};

use crate::support::{Cluster, SYSTEM, eventually};

fn client(target: &Target, token: &str, impersonate: bool) -> Client {
    Client::new(ClientOptions {
        target: target.clone(),
        credentials: Credentials {
            token: Token::Literal(token.to_owned()),
            ..Credentials::none()
        },
        lifetime: Duration::from_secs(3600),
        impersonate,
        cert_signer: None,
    })
}

fn identity(namespace: &str, account: &str) -> Identity {
    Identity::new("cluster.local", namespace, account)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_proxy_gets_those_of_its_node() {
    let cluster = Cluster::start().await;
    cluster
        .pod("shop", "cart-1", "cart", "n1", "10.244.1.3")
        .await;
    cluster
        .pod("shop", "web-1", "web", "n2", "10.244.2.3")
        .await;
    let control = cluster.control(None).await;
    let target = cluster.target(&control).await;
    let token = cluster.ztunnel_token().await;
    let proxy = client(&target, &token, true);

    let cart = proxy.fetch(&identity("shop", "cart")).await.unwrap();
    assert_eq!(cart.identity, identity("shop", "cart"));
    let life = cart
        .validity
        .not_after
        .duration_since(cart.validity.not_before)
        .unwrap();
    assert_eq!(life.as_secs(), 3600 + 120);

    for (what, other) in [
        ("a pod of another node", identity("shop", "web")),
        ("a service account without pods", identity("shop", "other")),
        (
            "another trust domain",
            Identity::new("example.org", "shop", "cart"),
        ),
    ] {
        let refused = proxy.fetch(&other).await.expect_err(what).to_string();
        assert!(
            refused.contains("impersonation authentication failure"),
            "{what}: {refused}"
        );
        assert!(refused.contains("Unauthenticated"), "{what}: {refused}");
    }

    // A pod that starts is served as soon as the watch sees it.
    let other = identity("shop", "other");
    let (fetched, ()) = tokio::join!(proxy.fetch(&other), async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        cluster
            .pod("shop", "other-1", "other", "n1", "10.244.1.4")
            .await;
    });
    assert_eq!(fetched.unwrap().identity, other);

    // A pod that is no node proxy gets its own, and nobody else's.
    let token = cluster
        .token("shop", "cart", Some("cart-1"), "istio-ca")
        .await;
    let own = client(&target, &token, false)
        .fetch(&identity("shop", "cart"))
        .await
        .unwrap();
    assert_eq!(own.identity, identity("shop", "cart"));
    let refused = client(&target, &token, true)
        .fetch(&identity("shop", "other"))
        .await;
    assert!(refused.unwrap_err().to_string().contains("not trusted"));
    control.kill();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_requests_are_refused() {
    let cluster = Cluster::start().await;
    let control = cluster.control(None).await;
    let target = cluster.target(&control).await;
    let token = cluster.ztunnel_token().await;
    let send = async |csr: &str, seconds: i64, token: Option<&str>| {
        let mut request = Request::new(IstioCertificateRequest {
            csr: csr.to_owned(),
            validity_duration: seconds,
            metadata: None,
        });
        if let Some(token) = token {
            let value = format!("Bearer {token}").parse().unwrap();
            request.metadata_mut().insert("authorization", value);
        }
        let channel = target.connect().await.unwrap();
        let mut service = IstioCertificateServiceClient::new(channel);
        service
            .create_certificate(request)
            .await
            .expect_err("an answer")
            .code()
    };
    assert_eq!(
        send("garbage", 0, Some(&token)).await,
        Code::InvalidArgument
    );
    assert_eq!(
        send("garbage", 10_000_000, Some(&token)).await,
        Code::InvalidArgument
    );
    assert_eq!(send("garbage", 0, None).await, Code::Unauthenticated);
    assert_eq!(
        send("garbage", 0, Some("garbage")).await,
        Code::Unauthenticated
    );

    // A token dies with its pod.
    cluster.delete::<Pod>(SYSTEM, "ztunnel-n1").await;
    let second = cluster.control(None).await;
    let target = cluster.target(&second).await;
    let refused = client(&target, &token, true)
        .fetch(&identity(SYSTEM, "ztunnel"))
        .await;
    assert!(refused.is_err());
    control.kill();
    second.kill();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_root_survives_a_restart_and_is_shared() {
    let cluster = Cluster::start().await;
    // Two replicas that start at once agree about the root.
    let (first, second) = tokio::join!(
        cluster.replica("istiod-1", None),
        cluster.replica("istiod-2", None)
    );
    let root = cluster.root(SYSTEM).await;
    let secret: Secret = cluster.api(SYSTEM).get("istio-ca-secret").await.unwrap();
    assert_eq!(secret.type_.as_deref(), Some("istio.io/ca-root"));
    let kept = String::from_utf8(secret.data.unwrap()["ca-cert.pem"].0.clone()).unwrap();
    assert_eq!(kept.trim(), root.trim());
    for control in [&first, &second] {
        // TLS with that root works at both.
        cluster.target(control).await.connect().await.unwrap();
    }
    first.kill();
    second.kill();
    let third = cluster.control(None).await;
    cluster.target(&third).await.connect().await.unwrap();
    assert_eq!(cluster.root(SYSTEM).await, root);
    third.kill();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_secret_is_never_replaced() {
    let cluster = Cluster::start().await;
    cluster
        .create::<Secret>(serde_json::json!({
            "metadata": {"name": "istio-ca-secret", "namespace": SYSTEM},
            "stringData": {"ca-cert.pem": "garbage", "ca-key.pem": "garbage"}
        }))
        .await;
    let keeper = ambit_control::ca::Keeper::new(cluster.client.clone(), SYSTEM);
    let error = keeper
        .load_or_make("cluster.local")
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("istio-system/istio-ca-secret"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plugged_authority_replaces_the_own_one_without_restart() {
    let cluster = Cluster::start().await;
    let control = cluster.control(None).await;
    let before = cluster.root(SYSTEM).await;
    let plugged =
        ambit_wire::ca::Authority::self_signed("plugged", Duration::from_secs(86_400)).unwrap();
    cluster
        .create::<Secret>(serde_json::json!({
            "metadata": {"name": "cacerts", "namespace": SYSTEM},
            "stringData": {
                "ca-cert.pem": plugged.certificate_pem(), "ca-key.pem": plugged.key_pem(),
                "root-cert.pem": plugged.root_pem(), "cert-chain.pem": plugged.certificate_pem()
            }
        }))
        .await;
    let after = eventually("the new root", async || {
        Some(cluster.root("shop").await).filter(|root| *root != before)
    })
    .await;
    assert_eq!(after, plugged.root_pem());
    eventually("a server with the new root", async || {
        cluster.target(&control).await.connect().await.ok()
    })
    .await;
    control.kill();
}
