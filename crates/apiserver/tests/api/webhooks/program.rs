//! A webhook as somebody would run it: HTTPS, a certificate of its own CA, one behaviour per path.

use ambit_apiserver::pki::ClusterPki;
use base64::{Engine, engine::general_purpose::STANDARD};
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, body::Bytes, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use serde_json::{Value, json};
use std::{
    convert::Infallible,
    net::Ipv4Addr,
    sync::{Arc, Mutex},
};
use tokio::net::TcpListener;

/// Names in the certificate: an address, and the services of the tests.
const NAMES: [&str; 3] = ["127.0.0.1", "localhost", "hooks.default.svc"];

pub struct Program {
    pub port: u16,
    ca: String,
    asked: Arc<Mutex<Vec<(String, Value)>>>,
}

impl Program {
    pub async fn start() -> Program {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let pki = ClusterPki::generate(["unused"]).unwrap();
        let key = pki
            .issue_server("hooks", None, &NAMES.map(str::to_string))
            .unwrap();
        let config = rustls::ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(
                vec![CertificateDer::from_pem_slice(key.cert_pem.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(key.key_pem.as_bytes()).unwrap(),
            )
            .unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let seen = asked.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, seen) = (acceptor.clone(), seen.clone());
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else {
                        return;
                    };
                    let service = service_fn(move |request| answer(request, seen.clone()));
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        let ca = STANDARD.encode(pki.ca_pem());
        Program { port, ca, asked }
    }

    /// How a configuration names it, for a behaviour.
    pub fn at(&self, path: &str) -> Value {
        json!({"url": format!("https://127.0.0.1:{}{path}", self.port), "caBundle": self.ca})
    }

    /// How a configuration names a service that leads to it.
    pub fn behind(&self, service: &str, path: &str) -> Value {
        self.behind_port(service, path, 443)
    }

    /// The same, at a port of the service.
    pub fn behind_port(&self, service: &str, path: &str, port: u16) -> Value {
        json!({"service": {"name": service, "namespace": "default", "path": path, "port": port}, "caBundle": self.ca})
    }

    /// What it was asked since the last time, by path.
    pub fn asked(&self) -> Vec<(String, Value)> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }

    /// The paths of what it was asked since the last time.
    pub fn paths(&self) -> Vec<String> {
        self.asked().into_iter().map(|(path, _)| path).collect()
    }
}

async fn answer(
    request: Request<Incoming>,
    asked: Arc<Mutex<Vec<(String, Value)>>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    assert_eq!(request.method(), "POST");
    assert_eq!(request.headers()["content-type"], "application/json");
    let path = request.uri().path().to_string();
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let review: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(review["kind"], "AdmissionReview");
    assert_eq!(review["apiVersion"], "admission.k8s.io/v1");
    let request = &review["request"];
    asked.lock().unwrap().push((path.clone(), request.clone()));
    let steps: Vec<&str> = path.split('/').skip(1).collect();
    let mut response = match steps.as_slice() {
        ["allow", ..] => json!({"allowed": true}),
        ["deny"] => json!({"allowed": false, "status": {"message": "not today"}}),
        ["deny", "silently"] => json!({"allowed": false}),
        ["deny", code, reason] => json!({"allowed": false, "status": {
            "code": code.parse::<u16>().unwrap(), "reason": reason, "message": "no"}}),
        ["warn"] => json!({"allowed": true, "warnings": ["mind the gap"],
            "auditAnnotations": {"seen": "yes"}}),
        // Adds a label, or writes down how often it was asked.
        ["label", key] => patch(request, key, "yes"),
        ["count", key] => {
            let before = request["object"]["metadata"]["labels"][key].as_str();
            let count = before.unwrap_or_default().len() + 1;
            patch(request, key, &"x".repeat(count))
        }
        ["replicas", n] => {
            let n: u32 = n.parse().unwrap();
            patched(&json!([{"op": "replace", "path": "/spec/replicas", "value": n}]))
        }
        ["field", name] => patched(&json!([{"op": "add", "path": format!("/{name}"), "value": 1}])),
        ["status"] => {
            patched(&json!([{"op": "add", "path": "/status", "value": {"phase": "Running"}}]))
        }
        ["identity"] => {
            patched(&json!([{"op": "replace", "path": "/metadata/uid", "value": "mine"}]))
        }
        ["bad-patch"] => patched(&json!([{"op": "remove", "path": "/not/there"}])),
        ["slow"] => std::future::pending().await,
        ["nonsense"] => return Ok(Response::new(Full::from("{}"))),
        _ => {
            let mut response = Response::new(Full::from("out of order"));
            *response.status_mut() = hyper::StatusCode::INTERNAL_SERVER_ERROR;
            return Ok(response);
        }
    };
    response["uid"] = request["uid"].clone();
    let review = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "response": response});
    Ok(Response::new(Full::from(review.to_string())))
}

fn patch(request: &Value, key: &str, value: &str) -> Value {
    let labels = &request["object"]["metadata"]["labels"];
    match labels.is_object() {
        true => patched(&json!([
            {"op": "add", "path": format!("/metadata/labels/{key}"), "value": value}])),
        false => patched(&json!([
            {"op": "add", "path": "/metadata/labels", "value": {key: value}}])),
    }
}

fn patched(patch: &Value) -> Value {
    json!({"allowed": true, "patchType": "JSONPatch", "patch": STANDARD.encode(patch.to_string())})
}
