//! `/exec`, `/attach` and `/portForward`: choose the protocol, answer the upgrade, start the session.

use std::sync::Arc;

use base64::Engine;
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderMap, HeaderValue};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::query::Query;
use super::{Body, answer};
use crate::kubelet::node::Node;
use crate::kubelet::pods::RunningContainer;
use crate::kubelet::streaming::exec::{self, ExecOptions};
use crate::kubelet::streaming::port_forward::{self, Target};
use crate::kubelet::streaming::session::{self, Remote};
use crate::kubelet::streaming::spdy::connection::Connection;
use crate::kubelet::streaming::spdy::sessions::Wanted;
use crate::kubelet::streaming::{attach, spdy, tunnel, websocket};

type Upgraded = TokioIo<hyper::upgrade::Upgraded>;

/// Namespace, pod, container.
type ContainerPath = (String, String, String);

/// A refused request.
type Refusal = Box<Response<Body>>;

/// The protocol of a request, once accepted.
enum Transport {
    WebSocket { key: String, protocol: String },
    Spdy { protocol: String },
}

impl Transport {
    /// Picks the best protocol that both sides know.
    fn choose(headers: &HeaderMap, websocket: &[&str], spdy: &[&str]) -> Result<Self, String> {
        let upgrade = header(headers, "upgrade");
        if upgrade.eq_ignore_ascii_case("websocket") {
            let key = header(headers, "sec-websocket-key");
            let valid = base64::engine::general_purpose::STANDARD
                .decode(&key)
                .is_ok_and(|key| key.len() == 16);
            if !valid || header(headers, "sec-websocket-version") != "13" {
                return Err("not a WebSocket handshake of version 13".to_string());
            }
            let protocol = best(headers, "sec-websocket-protocol", websocket)?;
            return Ok(Self::WebSocket { key, protocol });
        }
        if upgrade.eq_ignore_ascii_case(spdy::UPGRADE) {
            return Ok(Self::Spdy {
                protocol: best(headers, "x-stream-protocol-version", spdy)?,
            });
        }
        Err(format!(
            "unable to upgrade: expected websocket or {}, got {upgrade:?}",
            spdy::UPGRADE
        ))
    }

    /// The `101` answer.
    fn switching(&self) -> Response<Body> {
        let mut response = answer(StatusCode::SWITCHING_PROTOCOLS, "");
        let headers = response.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        let mut set = |name: &'static str, value: &str| {
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.insert(name, value);
            }
        };
        match self {
            Self::WebSocket { key, protocol } => {
                set("upgrade", "websocket");
                set("sec-websocket-accept", &derive_accept_key(key.as_bytes()));
                set("sec-websocket-protocol", protocol);
            }
            Self::Spdy { protocol } => {
                set("upgrade", spdy::UPGRADE);
                set("x-stream-protocol-version", protocol);
            }
        }
        response
    }
}

fn header(headers: &HeaderMap, name: &str) -> String {
    headers
        .get(name)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
        .to_string()
}

/// The first of our protocols that the client offers, in one header or several.
fn best(headers: &HeaderMap, name: &str, ours: &[&str]) -> Result<String, String> {
    let offered: Vec<String> = headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|value| value.trim().to_string())
        .collect();
    ours.iter()
        .find(|own| offered.iter().any(|theirs| theirs == *own))
        .map(|own| own.to_string())
        .ok_or_else(|| {
            format!(
                "unable to negotiate protocol: client supports {offered:?}, server accepts {ours:?}"
            )
        })
}

fn refuse(message: String) -> Response<Body> {
    answer(StatusCode::BAD_REQUEST, message)
}

/// Which streams a session has.
struct Streams {
    stdin: bool,
    stdout: bool,
    stderr: bool,
    tty: bool,
}

impl Streams {
    fn of(query: &Query) -> Self {
        let tty = query.flag(&["tty"]);
        Self {
            stdin: query.flag(&["input", "stdin"]),
            stdout: query.flag(&["output", "stdout"]),
            // A terminal has one output.
            stderr: query.flag(&["error", "stderr"]) && !tty,
            tty,
        }
    }

    fn wanted(&self) -> Wanted {
        Wanted {
            stdin: self.stdin,
            stdout: self.stdout,
            stderr: self.stderr,
            resize: self.tty,
        }
    }
}

/// `/exec/{namespace}/{pod}[/{uid}]/{container}?command=…`
pub(super) async fn exec(
    request: Request<Incoming>,
    node: &Arc<Node>,
    path: ContainerPath,
) -> Response<Body> {
    let query = Query::parse(request.uri().query());
    let streams = Streams::of(&query);
    let command = query.all("command");
    if command.is_empty() {
        return refuse("you must specify at least one command for the container".to_string());
    }
    let container = match running(node, &path) {
        Ok(container) => container,
        Err(refusal) => return *refusal,
    };
    let options = ExecOptions {
        command,
        stdin: streams.stdin,
        tty: streams.tty,
    };
    let program = node.config.init_program.clone();
    start(request, streams, move |session| async move {
        exec::run(&program, &container, options, session).await
    })
}

/// `/attach/{namespace}/{pod}[/{uid}]/{container}`
pub(super) async fn attach(
    request: Request<Incoming>,
    node: &Arc<Node>,
    path: ContainerPath,
) -> Response<Body> {
    let query = Query::parse(request.uri().query());
    let streams = Streams::of(&query);
    let container = match running(node, &path) {
        Ok(container) => container,
        Err(refusal) => return *refusal,
    };
    let with_stdin = streams.stdin;
    start(request, streams, move |session| async move {
        attach::run(&container, with_stdin, session).await
    })
}

fn running(
    node: &Node,
    (namespace, pod, container): &ContainerPath,
) -> Result<RunningContainer, Refusal> {
    let missing = |text: String| Box::new(answer(StatusCode::NOT_FOUND, text));
    let Some(entry) = node.pods.find(namespace, pod) else {
        return Err(missing(format!(
            "pod {pod:?} in namespace {namespace:?} is not on this node"
        )));
    };
    let running = entry.running.get(container).cloned();
    running.ok_or_else(|| {
        missing(format!(
            "container {container:?} in pod {pod:?} is not running"
        ))
    })
}

/// Answers the upgrade and runs the session behind it.
fn start<F, Fut>(mut request: Request<Incoming>, streams: Streams, run: F) -> Response<Body>
where
    F: FnOnce(session::Session) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send,
{
    let chosen = Transport::choose(
        request.headers(),
        &websocket::SESSION_PROTOCOLS,
        &spdy::SESSION_PROTOCOLS,
    );
    let transport = match chosen {
        Ok(transport) => transport,
        Err(message) => return refuse(message),
    };
    let response = transport.switching();
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let socket = match upgrade.await {
            Ok(socket) => TokioIo::new(socket),
            Err(error) => return tracing::debug!("upgrade: {error}"),
        };
        let (session, remote) = session::pair();
        tokio::join!(carry(transport, socket, streams, remote), run(session));
    });
    response
}

async fn carry(transport: Transport, socket: Upgraded, streams: Streams, mut remote: Remote) {
    if !streams.stdin {
        remote.stdin = None;
    }
    match transport {
        Transport::WebSocket { .. } => {
            let socket = WebSocketStream::from_raw_socket(socket, Role::Server, None).await;
            websocket::carry(socket, remote).await;
        }
        Transport::Spdy { .. } => {
            spdy::sessions::carry(Connection::accept(socket), streams.wanted(), remote).await;
        }
    }
}

/// `/portForward/{namespace}/{pod}[/{uid}]`
pub(super) async fn port_forward(
    mut request: Request<Incoming>,
    node: &Arc<Node>,
    namespace: &str,
    pod: &str,
) -> Response<Body> {
    let Some(entry) = node.pods.find(namespace, pod) else {
        return answer(
            StatusCode::NOT_FOUND,
            format!("pod {pod:?} in namespace {namespace:?} is not on this node"),
        );
    };
    if !entry.sandbox_ready {
        return answer(
            StatusCode::NOT_FOUND,
            format!("pod {pod:?} in namespace {namespace:?} is not running"),
        );
    }
    let netns = entry.netns.filter(|_| !entry.host_network);
    let target = Target {
        netns,
        pod: format!("{namespace}/{pod}"),
    };
    let websocket: Vec<&str> = std::iter::once(tunnel::PORT_FORWARD_PROTOCOL)
        .chain(port_forward::CHANNEL_PROTOCOLS)
        .collect();
    let transport = match Transport::choose(
        request.headers(),
        &websocket,
        &[spdy::PORT_FORWARD_PROTOCOL],
    ) {
        Ok(transport) => transport,
        Err(message) => return refuse(message),
    };
    let ports = match ports(&Query::parse(request.uri().query()), &transport) {
        Ok(ports) => ports,
        Err(message) => return refuse(message),
    };
    let response = transport.switching();
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        match upgrade.await {
            Ok(socket) => forward(transport, TokioIo::new(socket), ports, target).await,
            Err(error) => tracing::debug!("upgrade: {error}"),
        }
    });
    response
}

/// The ports of a channel-framed request, in one parameter or several.
fn ports(query: &Query, transport: &Transport) -> Result<Vec<u16>, String> {
    let mut ports = Vec::new();
    for text in query.all("ports").iter().chain(&query.all("port")) {
        for part in text.split(',') {
            ports.push(
                part.parse()
                    .ok()
                    .filter(|port| *port > 0)
                    .ok_or_else(|| format!("unable to parse port {part:?}"))?,
            );
        }
    }
    let by_channel = matches!(transport, Transport::WebSocket { protocol, .. } if protocol != tunnel::PORT_FORWARD_PROTOCOL);
    match (by_channel, ports.len()) {
        (true, 0) => Err("query parameter \"ports\" is required".to_string()),
        // Two channels per port, and channel numbers are bytes.
        (true, 128..) => Err("too many ports".to_string()),
        _ => Ok(ports),
    }
}

async fn forward(transport: Transport, socket: Upgraded, ports: Vec<u16>, target: Target) {
    match transport {
        Transport::Spdy { .. } => port_forward::over_spdy(Connection::accept(socket), target).await,
        Transport::WebSocket { protocol, .. } => {
            let socket = WebSocketStream::from_raw_socket(socket, Role::Server, None).await;
            if protocol == tunnel::PORT_FORWARD_PROTOCOL {
                port_forward::over_spdy(Connection::accept(tunnel::unwrap(socket)), target).await;
            } else {
                port_forward::over_channels(socket, ports, target).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(*name, HeaderValue::from_static(value));
        }
        map
    }

    const KEY: (&str, &str) = ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");

    #[test]
    fn the_best_common_protocol_is_chosen() {
        let request = headers(&[
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            (
                "sec-websocket-protocol",
                "v4.channel.k8s.io, v5.channel.k8s.io",
            ),
            KEY,
        ]);
        let chosen = Transport::choose(&request, &websocket::SESSION_PROTOCOLS, &[]).unwrap();
        let response = chosen.switching();
        assert_eq!(
            response.headers()["sec-websocket-protocol"],
            "v5.channel.k8s.io"
        );
        assert_eq!(
            response.headers()["sec-websocket-accept"],
            "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        );
        let request = headers(&[
            ("upgrade", "SPDY/3.1"),
            ("x-stream-protocol-version", "v5.channel.k8s.io"),
            ("x-stream-protocol-version", "v4.channel.k8s.io"),
        ]);
        let chosen = Transport::choose(&request, &[], &spdy::SESSION_PROTOCOLS).unwrap();
        assert_eq!(
            chosen.switching().headers()["x-stream-protocol-version"],
            "v4.channel.k8s.io"
        );
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let choose = |pairs: &[(&'static str, &'static str)]| {
            Transport::choose(
                &headers(pairs),
                &websocket::SESSION_PROTOCOLS,
                &spdy::SESSION_PROTOCOLS,
            )
            .err()
        };
        assert!(choose(&[]).unwrap().contains("unable to upgrade"));
        assert!(choose(&[("upgrade", "websocket"), KEY]).is_some());
        assert!(
            choose(&[("upgrade", "SPDY/3.1"), ("x-stream-protocol-version", "v1")])
                .unwrap()
                .contains("negotiate")
        );
    }
}
