//! A server for one test, and ways to talk to it.

use ambit_apiserver::{Handle, Server, pki::KeyCert};
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::Value;
use std::{future::Future, sync::Once, time::Duration};

pub struct Cluster {
    pub server: Handle,
    pub client: Client,
}

impl Cluster {
    pub async fn start() -> Cluster {
        static PROVIDER: Once = Once::new();
        PROVIDER.call_once(|| {
            // Another test binary part may have installed it; either is the same provider.
            let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        });
        let server = Server::builder().start().await.unwrap();
        let client = client(&server.admin_kubeconfig().unwrap()).await;
        Cluster { server, client }
    }

    /// A client with the certificate of another user.
    pub async fn as_user(&self, user: &KeyCert) -> Client {
        client(&self.server.kubeconfig("test", user)).await
    }

    /// A client with a bearer token.
    pub async fn with_token(&self, token: &str) -> Client {
        let text = ambit_apiserver::kubeconfig::with_token(
            "test",
            self.server.url(),
            self.server.ca_pem(),
            token,
        );
        client(&text).await
    }

    /// Sends a request; answers status, headers and body.
    pub async fn send(
        &self,
        method: &str,
        path: &str,
        content_type: &str,
        body: impl Into<Vec<u8>>,
    ) -> Answer {
        send(&self.client, method, path, content_type, body).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send("POST", path, "application/json", body.to_string())
            .await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, "application/json", "").await
    }
}

async fn client(kubeconfig: &str) -> Client {
    let kubeconfig = Kubeconfig::from_yaml(kubeconfig).unwrap();
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .unwrap();
    // The tests look at each answer, also those that ask to try again.
    config.default_retry = false;
    Client::try_from(config).unwrap()
}

pub async fn send(
    client: &Client,
    method: &str,
    path: &str,
    content_type: &str,
    body: impl Into<Vec<u8>>,
) -> Answer {
    send_with(
        client,
        method,
        path,
        &[("content-type", content_type)],
        body,
    )
    .await
}

pub async fn send_with(
    client: &Client,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: impl Into<Vec<u8>>,
) -> Answer {
    use http_body_util::BodyExt;
    let mut request = http::Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(kube::client::Body::from(body.into())).unwrap();
    let response = client.send(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    let warnings = parts
        .headers
        .get_all("warning")
        .iter()
        .map(|w| w.to_str().unwrap().to_string())
        .collect();
    let content_type = parts
        .headers
        .get("content-type")
        .map(|v| v.to_str().unwrap().to_string())
        .unwrap_or_default();
    Answer {
        code: parts.status.as_u16(),
        warnings,
        content_type,
        body: serde_json::from_slice(&bytes).unwrap_or(Value::Null),
        bytes: bytes.to_vec(),
    }
}

#[derive(Debug)]
pub struct Answer {
    pub code: u16,
    pub warnings: Vec<String>,
    pub content_type: String,
    pub body: Value,
    pub bytes: Vec<u8>,
}

impl Answer {
    #[track_caller]
    pub fn ok(self) -> Value {
        assert!(
            self.code < 300,
            "{} {}",
            self.code,
            String::from_utf8_lossy(&self.bytes)
        );
        self.body
    }

    #[track_caller]
    pub fn refused(&self, code: u16, reason: &str) -> String {
        assert_eq!(self.code, code, "{}", String::from_utf8_lossy(&self.bytes));
        assert_eq!(self.body["kind"], "Status");
        assert_eq!(self.body["reason"], reason);
        self.body["message"]
            .as_str()
            .unwrap_or_default()
            .to_string()
    }
}

/// Asks until the answer is something, for at most five seconds.
pub async fn eventually<T, F: Future<Output = Option<T>>>(
    what: &str,
    mut ask: impl FnMut() -> F,
) -> T {
    let end = tokio::time::Instant::now() + Duration::from_secs(5);
    loop {
        if let Some(found) = ask().await {
            return found;
        }
        assert!(tokio::time::Instant::now() < end, "timed out: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub fn pod(name: &str) -> Value {
    serde_json::json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"containers": [{"name": "c", "image": "x:1"}]}})
}

pub fn deployment(name: &str) -> Value {
    serde_json::json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {"selector": {"matchLabels": {"app": name}}, "template": {
            "metadata": {"labels": {"app": name}},
            "spec": {"containers": [{"name": "c", "image": "x:1"}]}}}})
}

pub fn config_map(name: &str) -> Value {
    serde_json::json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": "1"}})
}

pub const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
pub const PODS: &str = "/api/v1/namespaces/default/pods";
pub const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
