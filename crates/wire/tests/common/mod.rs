//! A control plane in the test's process: TLS, tokens, a log of resources and an authority.
#![allow(dead_code, missing_docs, clippy::unwrap_used)]

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ambit_proto::discovery::Node;
use ambit_wire::ca::{self, Authority, Call, Issuer};
use ambit_wire::credentials::{Credentials, Token};
use ambit_wire::tls::{Incoming, Roots, ServerCertificate, Target, server_config};
use ambit_wire::xds::{self, Authenticator, Batch, Logs, Resource, StreamRequest, TypeOptions};
use bytes::Bytes;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tonic::Status;
use tonic::metadata::MetadataMap;
use tonic::transport::Server;

pub const LIMIT: Duration = Duration::from_secs(30);
pub const DAY: Duration = Duration::from_secs(86_400);
pub const NAME: &str = "istiod.istio-system.svc";

/// Waits for a condition, and says which one when it never comes.
pub async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(LIMIT, wait)
        .await
        .unwrap_or_else(|_| panic!("never: {what}"));
}

/// A server on a runtime of its own, so that it can end as a process does: with all connections.
pub struct ControlPlane {
    pub address: SocketAddr,
    runtime: Option<Runtime>,
}

/// The token `good:<namespace>` belongs to a proxy of that namespace.
pub struct Tokens;

pub struct Peer(pub String);

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn namespace_of(metadata: &MetadataMap) -> Result<String, Status> {
    let refuse = || Status::unauthenticated("request authenticate failure");
    let value = metadata.get("authorization").ok_or_else(refuse)?;
    let token = value.to_str().map_err(|_| refuse())?;
    Ok(token
        .strip_prefix("Bearer good:")
        .ok_or_else(refuse)?
        .to_owned())
}

impl Authenticator for Tokens {
    type Peer = Peer;

    async fn authenticate(&self, request: &StreamRequest) -> Result<Peer, Status> {
        assert!(request.peer.is_some(), "the address of the client is known");
        namespace_of(&request.metadata).map(Peer)
    }

    fn check_node(&self, peer: &Peer, node: &Node) -> Result<(), Status> {
        match node.id.contains(&format!(".{}~", peer.0)) {
            true => Ok(()),
            false => Err(Status::permission_denied("the node is not the token's")),
        }
    }
}

/// Issues what is asked for to whoever has a token; `wrong` gets a certificate for somebody else.
pub struct Generous(pub Arc<Authority>);

impl Issuer for Generous {
    async fn issue(&self, call: Call) -> Result<Vec<String>, Status> {
        namespace_of(&call.metadata)?;
        let wanted = call
            .impersonated_identity
            .unwrap_or("spiffe://td/ns/own/sa/own".to_owned());
        let wanted = wanted.replace("/sa/wrong", "/sa/other");
        let identity = wanted
            .parse()
            .map_err(|_| Status::unauthenticated("no identity"))?;
        let lifetime = Duration::from_secs(u64::try_from(call.validity_seconds).unwrap());
        let issued = self.0.issue(&call.csr, &identity, lifetime);
        issued.map_err(|error| Status::invalid_argument(error.to_string()))
    }
}

impl ControlPlane {
    /// Starts on a port (0 for any), with a serving certificate of `authority` for [`NAME`].
    pub async fn start(port: u16, authority: &Arc<Authority>, logs: Logs) -> Self {
        let (chain, key) = authority.issue_server(&[NAME.to_owned()], DAY).unwrap();
        let certificate = ServerCertificate::from_pem(chain.as_bytes(), key.as_bytes()).unwrap();
        let config = server_config(certificate, None).unwrap();
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let listener = bind(port).await;
        let address = listener.local_addr().unwrap();
        let issuer = Arc::new(Generous(authority.clone()));
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            Server::builder()
                .add_service(xds::service(logs, Arc::new(Tokens)))
                .add_service(ca::service(issuer))
                .serve_with_incoming(Incoming::new(listener, config))
                .await
                .unwrap();
        });
        Self {
            address,
            runtime: Some(runtime),
        }
    }

    /// Ends at once, as a process that is killed.
    pub fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        self.end();
    }
}

/// The port of a server that has just gone may need a moment.
async fn bind(port: u16) -> std::net::TcpListener {
    for _ in 0..1000 {
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)).await {
            return listener.into_std().unwrap();
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("port {port} stays in use");
}

pub fn new_authority() -> Arc<Authority> {
    Arc::new(Authority::self_signed("cluster.local", 10 * DAY).unwrap())
}

pub fn target(address: SocketAddr, roots: &Path) -> Target {
    // The address is no name of the certificate; the alternative name is.
    Target::new(
        &address.to_string(),
        Roots::File(roots.to_owned()),
        Some(NAME),
    )
    .unwrap()
}

pub fn credentials(token: &str) -> Credentials {
    let token = match token {
        "" => Token::None,
        token => Token::Literal(token.to_owned()),
    };
    Credentials {
        token,
        cluster_id: "Kubernetes".to_owned(),
        headers: Default::default(),
    }
}

pub fn node(namespace: &str) -> Node {
    let id = format!("ztunnel~1.1.1.1~zt.{namespace}~{namespace}.svc.cluster.local");
    xds::client::node(
        id,
        [("NAMESPACE".to_owned(), xds::client::text_value(namespace))].into(),
    )
}

pub const TYPE: &str = "type.googleapis.com/istio.workload.Address";
pub const OTHER: &str = "type.googleapis.com/istio.security.Authorization";

pub fn logs() -> Logs {
    Logs::new(&[
        TypeOptions {
            type_url: TYPE,
            versioned: true,
        },
        TypeOptions {
            type_url: OTHER,
            versioned: false,
        },
    ])
}

/// Publishes resources of [`TYPE`] whose bodies are encoded strings.
pub fn publish(logs: &Logs, set: &[(&str, &str)], remove: &[&str]) {
    let resource = |(name, text): &(&str, &str)| Resource {
        name: (*name).into(),
        aliases: Vec::new(),
        groups: Vec::new(),
        body: Bytes::from(prost::Message::encode_to_vec(&(*text).to_owned())),
    };
    let batch = Batch {
        set: set.iter().map(resource).collect(),
        remove: remove.iter().map(|name| (*name).into()).collect(),
    };
    logs.get(TYPE).unwrap().publish(batch);
}
