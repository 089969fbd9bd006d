//! Answers the plugin: `POST /cmdadd` over a unix socket. Only root of the node may ask.

use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Deserialize;
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;

/// Name of the socket in the run directory.
pub const SOCKET: &str = "pluginevent.sock";
/// The longest question.
const MAX_BODY: usize = 64 * 1024;
/// Less than the plugin's own patience, so that it gets a reason and not silence.
const ANSWER_WITHIN: Duration = Duration::from_millis(4500);

/// The plugin's question.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct AddRequest {
    /// Path of the network namespace on the node.
    pub netns: String,
    /// Name of the pod.
    pub pod_name: String,
    /// Namespace of the pod.
    pub pod_namespace: String,
    /// UID of the pod, where the container runtime passes it.
    #[serde(rename = "PodUID", default)]
    pub pod_uid: Option<String>,
    /// Addresses that the pod got.
    #[serde(rename = "IPs", default)]
    ips: Vec<AddressEntry>,
}

#[derive(Clone, Debug, Deserialize)]
struct AddressEntry {
    #[serde(rename = "Address")]
    address: Address,
}

#[derive(Clone, Debug, Deserialize)]
struct Address {
    #[serde(rename = "IP")]
    ip: IpAddr,
}

impl AddRequest {
    /// The pod's addresses, IPv4 ones as such.
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.ips
            .iter()
            .map(|e| e.address.ip.to_canonical())
            .collect()
    }
}

/// Decides about a pod that is about to start.
pub trait AddPod: Send + Sync + 'static {
    /// Captures the pod if it belongs to the mesh, and says whether it does. An error keeps the
    /// pod from starting.
    fn add(&self, request: AddRequest) -> impl Future<Output = Result<bool, String>> + Send;
}

/// A socket that nobody is answered on yet.
#[derive(Debug)]
pub struct PluginServer {
    listener: UnixListener,
    path: PathBuf,
}

impl PluginServer {
    /// Makes the socket in this directory, in place of one that an earlier agent left.
    ///
    /// # Errors
    /// When the directory cannot be made or written.
    pub fn bind(run_dir: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(run_dir)?;
        let path = run_dir.join(SOCKET);
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        Ok(Self { listener, path })
    }

    /// Answers until `stop`, then removes the socket.
    pub async fn serve(self, pods: Arc<impl AddPod>, metrics: Metrics, stop: CancellationToken) {
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) if is_root(&stream) => {
                    tokio::spawn(connection(stream, pods.clone(), metrics.clone()));
                }
                Ok(_) => {
                    tracing::warn!("refused a connection of another user to the plugin socket")
                }
                Err(error) => {
                    tracing::warn!("cannot accept on the plugin socket: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
        let _ = std::fs::remove_file(&self.path);
    }
}

fn is_root(stream: &UnixStream) -> bool {
    stream.peer_cred().is_ok_and(|peer| peer.uid() == 0)
}

async fn connection(stream: UnixStream, pods: Arc<impl AddPod>, metrics: Metrics) {
    let service = service_fn(move |request| {
        let (pods, metrics) = (pods.clone(), metrics.clone());
        async move {
            let (status, body) = answer(request, pods.as_ref()).await;
            metrics.request(status.as_u16());
            let mut response = Response::new(Full::new(Bytes::from(body)));
            *response.status_mut() = status;
            Ok::<_, Infallible>(response)
        }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(ANSWER_WITHIN)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!("plugin connection: {error}");
    }
}

async fn answer(request: http::Request<Incoming>, pods: &impl AddPod) -> (StatusCode, String) {
    if request.uri().path() != "/cmdadd" {
        return (StatusCode::NOT_FOUND, "not found\n".into());
    }
    if request.method() != Method::POST {
        return (StatusCode::METHOD_NOT_ALLOWED, "use POST\n".into());
    }
    let body = match Limited::new(request.into_body(), MAX_BODY).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => {
            return (
                StatusCode::BAD_REQUEST,
                format!("unreadable body: {error}\n"),
            );
        }
    };
    let add: AddRequest = match serde_json::from_slice(&body) {
        Ok(add) => add,
        Err(error) => {
            return (
                StatusCode::BAD_REQUEST,
                format!("not a pod to add: {error}\n"),
            );
        }
    };
    let pod = format!("{}/{}", add.pod_namespace, add.pod_name);
    match tokio::time::timeout(ANSWER_WITHIN, pods.add(add)).await {
        Ok(Ok(ambient)) => (StatusCode::OK, format!("{{\"ambient\":{ambient}}}")),
        Ok(Err(reason)) => {
            tracing::warn!("pod {pod} may not start yet: {reason}");
            (StatusCode::INTERNAL_SERVER_ERROR, reason)
        }
        Err(_) => {
            tracing::warn!("pod {pod} may not start yet: it could not be captured in time");
            let reason = "the pod could not be captured in time; see the agent's log";
            (StatusCode::INTERNAL_SERVER_ERROR, reason.into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ambit_runtime::metrics::Registry;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    struct Pods;

    impl AddPod for Pods {
        async fn add(&self, request: AddRequest) -> Result<bool, String> {
            match request.pod_name.as_str() {
                "in" => {
                    assert_eq!(
                        request.addresses(),
                        ["10.0.0.7".parse::<IpAddr>().expect("ip")]
                    );
                    Ok(true)
                }
                "out" => Ok(false),
                "hang" => std::future::pending().await,
                _ => Err("no ztunnel".into()),
            }
        }
    }

    async fn ask(dir: &Path, head: &str, body: &str) -> String {
        let mut stream = UnixStream::connect(dir.join(SOCKET))
            .await
            .expect("connect");
        let text = format!(
            "{head} HTTP/1.1\r\nHost: unix\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(text.as_bytes()).await.expect("write");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("read");
        answer
    }

    #[tokio::test]
    async fn each_question_gets_a_clear_answer() {
        let dir = tempfile::tempdir().expect("dir");
        std::fs::write(dir.path().join(SOCKET), "stale").expect("write");
        let registry = Registry::new();
        let stop = CancellationToken::new();
        let server = PluginServer::bind(dir.path()).expect("bind");
        let served =
            tokio::spawn(server.serve(Arc::new(Pods), Metrics::new(&registry), stop.clone()));
        let pod = |name: &str| {
            format!(
                r#"{{"Netns":"/n","PodName":"{name}","PodNamespace":"shop","IPs":[{{"Interface":1,"Address":{{"IP":"::ffff:10.0.0.7","Mask":"////AA=="}}}}]}}"#
            )
        };
        for (head, body, status, part) in [
            ("POST /cmdadd", pod("in"), 200, r#"{"ambient":true}"#),
            ("POST /cmdadd", pod("out"), 200, r#"{"ambient":false}"#),
            ("POST /cmdadd", pod("bad"), 500, "no ztunnel"),
            ("POST /cmdadd", pod("hang"), 500, "in time"),
            ("POST /cmdadd", String::new(), 400, "not a pod"),
            ("POST /cmdadd", "{}".into(), 400, "not a pod"),
            ("GET /cmdadd", String::new(), 405, "use POST"),
            ("POST /other", String::new(), 404, "not found"),
        ] {
            let answer = ask(dir.path(), head, &body).await;
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {status}")),
                "{head} {body}: {answer}"
            );
            assert!(answer.contains(part), "{head} {body}: {answer}");
        }
        assert!(
            registry
                .encode()
                .contains("istio_cni_plugin_requests_total{response_code=\"500\"} 2")
        );
        stop.cancel();
        served.await.expect("stops");
        assert!(!dir.path().join(SOCKET).exists());
    }

    #[tokio::test]
    async fn another_user_is_refused() {
        let dir = tempfile::tempdir().expect("dir");
        let stop = CancellationToken::new();
        let server = PluginServer::bind(dir.path()).expect("bind");
        tokio::spawn(server.serve(Arc::new(Pods), Metrics::new(&Registry::new()), stop.clone()));
        let open = std::fs::Permissions::from_mode(0o777);
        std::fs::set_permissions(dir.path(), open.clone()).expect("chmod");
        std::fs::set_permissions(dir.path().join(SOCKET), open).expect("chmod");
        let path = dir.path().join(SOCKET);
        let answer = tokio::task::spawn_blocking(move || {
            use std::io::{Read, Write};
            std::thread::spawn(move || {
                // SAFETY: a system call with three integers, for this short-lived thread alone.
                let r = unsafe { libc::syscall(libc::SYS_setresuid, 65534, 65534, 65534) };
                assert_eq!(r, 0, "this test changes its user and needs root");
                let mut stream = std::os::unix::net::UnixStream::connect(path).expect("connect");
                let _ = stream
                    .write_all(b"POST /cmdadd HTTP/1.1\r\nHost: u\r\nContent-Length: 0\r\n\r\n");
                let mut answer = Vec::new();
                let _ = stream.read_to_end(&mut answer);
                answer
            })
            .join()
            .expect("thread")
        })
        .await
        .expect("join");
        assert!(answer.is_empty(), "{}", String::from_utf8_lossy(&answer));
        stop.cancel();
    }
}
