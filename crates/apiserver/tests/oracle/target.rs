//! The server under test: ours in this process, or the one of a kubeconfig.

use ambit_apiserver::{Handle, Server};
use http_body_util::BodyExt;
use kube::{
    Client, Config,
    client::Body,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::Value;
use std::time::Duration;

/// How long an answer may take that is not a watch.
const PATIENCE: Duration = Duration::from_secs(20);
/// The name that the server makes field managers of.
const AGENT: &str = "oracle/1";

/// A server and clients of it.
pub struct Target {
    admin: Client,
    anonymous: Client,
    /// Keeps our own server running.
    _server: Option<Handle>,
}

/// What is sent.
pub struct Request {
    pub method: String,
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// As in [`crate::case::Step::token`].
    pub token: Option<String>,
}

impl Request {
    pub fn get(path: &str) -> Self {
        Self::new("GET", path, Vec::new())
    }

    pub fn post(path: &str, object: &Value) -> Self {
        let mut it = Self::new("POST", path, object.to_string().into());
        it.headers = vec![("content-type".into(), "application/json".into())];
        it
    }

    pub fn new(method: &str, path: &str, body: Vec<u8>) -> Self {
        Request {
            method: method.into(),
            path: path.into(),
            headers: Vec::new(),
            body,
            token: None,
        }
    }
}

/// What comes back.
pub struct Answer {
    pub code: u16,
    pub content_type: String,
    pub warnings: Vec<String>,
    pub body: Value,
}

impl Target {
    /// The server of `ORACLE_KUBECONFIG`, or one of our own.
    pub async fn find() -> Target {
        // Another test of this binary may have installed it; it is the same provider.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        if let Some(path) = std::env::var_os("ORACLE_KUBECONFIG") {
            let text = std::fs::read_to_string(path).expect("ORACLE_KUBECONFIG can be read");
            return Target::new(&text, None).await;
        }
        let server = Server::builder().start().await.expect("our server starts");
        let text = server.admin_kubeconfig().expect("our server has keys");
        Target::new(&text, Some(server)).await
    }

    async fn new(kubeconfig: &str, server: Option<Handle>) -> Target {
        let kubeconfig = Kubeconfig::from_yaml(kubeconfig).expect("a kubeconfig");
        let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
            .await
            .expect("a usable kubeconfig");
        // Every answer is looked at, also those that ask to try again.
        config.default_retry = false;
        let mut bare = Config::new(config.cluster_url.clone());
        bare.root_cert = config.root_cert.clone();
        bare.default_retry = false;
        Target {
            admin: Client::try_from(config).expect("a client"),
            anonymous: Client::try_from(bare).expect("a client"),
            _server: server,
        }
    }

    /// Whether this is the real one.
    pub fn is_real(&self) -> bool {
        self._server.is_none()
    }

    /// Sends a request and reads the whole answer.
    pub async fn send(&self, request: &Request) -> Answer {
        let (parts, body) = self.open(request).await.into_parts();
        let bytes = match tokio::time::timeout(PATIENCE, body.collect()).await {
            Ok(body) => body.expect("a whole answer").to_bytes(),
            Err(_) => "the answer has no end".into(),
        };
        let text = |name: &str| -> Vec<String> {
            let values = parts.headers.get_all(name).iter();
            values
                .map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned())
                .collect()
        };
        Answer {
            code: parts.status.as_u16(),
            content_type: text("content-type").concat(),
            warnings: text("warning"),
            body: serde_json::from_slice(&bytes)
                .unwrap_or_else(|_| String::from_utf8_lossy(&bytes).into()),
        }
    }

    /// Sends a request; the body of the answer is still to come.
    pub async fn open(&self, request: &Request) -> http::Response<Body> {
        let mut http = http::Request::builder()
            .method(request.method.as_str())
            .uri(&request.path)
            .header("user-agent", AGENT);
        for (name, value) in &request.headers {
            http = http.header(name, value);
        }
        let client = match request.token.as_deref() {
            None => &self.admin,
            Some("") => &self.anonymous,
            Some(token) => {
                http = http.header("authorization", format!("Bearer {token}"));
                &self.anonymous
            }
        };
        let http = http
            .body(Body::from(request.body.clone()))
            .unwrap_or_else(|e| panic!("{} {}: {e}", request.method, request.path));
        client
            .send(http)
            .await
            .unwrap_or_else(|e| panic!("{} {}: {e}", request.method, request.path))
    }
}
