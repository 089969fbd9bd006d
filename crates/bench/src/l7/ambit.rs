//! Ambit's waypoint, with discovery from a server of the benchmark, as a control plane serves it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ambit_model::access::{
    AccessPolicy, AccessRule, Action as Access, Attachment, Condition, Key, Operation, PathPattern,
    Source, Value, Values,
};
use ambit_model::policy::StringMatch;
use ambit_model::route::{Action, Backend, Forward, Match, Parent, PathMatch, Route, Rule, Target};
use ambit_model::service::{AppProtocol, NamespacedHostname};
use ambit_model::token::{Authentication, TokenRule, usual_places};
use ambit_model::workload::{GatewayAddress, GatewayDestination, NetworkAddress, Protocol};
use ambit_model::{Service, Text, Workload};
use ambit_proto::{discovery, l7, type_url, workload as pb};
use ambit_testkit::Process;
use ambit_wire::ca::Authority;
use ambit_wire::tls::{Incoming, ServerCertificate, server_config};
use ambit_wire::xds::{Authenticator, Batch, Logs, Resource, StreamRequest, TypeOptions, service};
use anyhow::Result;
use prost::Message;
use tokio::net::TcpListener;
use tonic::Status;

use super::places::{APPLICATION, ISSUER, NAMESPACE, SERVICE};
use super::rig::Place;
use super::variant::Variant;

/// Where discovery is served, in the waypoint's own pod.
const DISCOVERY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 15010);
/// How long the discovery's certificate lives.
const HOUR: Duration = Duration::from_secs(3600);
/// The name of the waypoint, its service and its account.
const WAYPOINT: &str = "waypoint";

/// Starts it.
pub fn start(program: &Path, place: &Place<'_>) -> Result<Process> {
    let roots = place.files.join("discovery-root.pem");
    serve(place, &roots)?;
    let mut command = place.pod.namespace().command(program);
    command
        .env_clear()
        .env("RUST_LOG", "warn")
        .env("POD_NAME", "waypoint-1")
        .env("POD_NAMESPACE", NAMESPACE)
        .env("SERVICE_ACCOUNT", WAYPOINT)
        .env("INSTANCE_IP", place.pod.ip().to_string())
        .env("GATEWAY_NAME", WAYPOINT)
        .env("XDS_ADDRESS", format!("https://{DISCOVERY}"))
        .env("XDS_ROOT_CA", roots)
        .env("FAKE_CA", "true")
        .env("FAKE_CA_DIR", place.files)
        .env(
            "WAYPOINT_WORKER_THREADS",
            place.variant.workers().to_string(),
        );
    Process::start(&mut command)
}

/// Lets everybody in: who may ask is not what is measured here.
struct Open;

impl Authenticator for Open {
    type Peer = &'static str;

    async fn authenticate(&self, _: &StreamRequest) -> Result<Self::Peer, Status> {
        Ok("the waypoint")
    }

    fn check_node(&self, _: &Self::Peer, _: &discovery::Node) -> Result<(), Status> {
        Ok(())
    }
}

fn serve(place: &Place<'_>, roots: &Path) -> Result<()> {
    let authority = Authority::self_signed("cluster.local", HOUR)?;
    std::fs::write(roots, authority.root_pem())?;
    let (chain, key) = authority.issue_server(&[DISCOVERY.ip().to_string()], HOUR)?;
    let certificate = ServerCertificate::from_pem(chain.as_bytes(), key.as_bytes())?;
    let config = server_config(certificate, None)?;
    let urls = [
        type_url::ADDRESS,
        type_url::ROUTE,
        type_url::POLICY,
        type_url::AUTHENTICATION,
        type_url::TRAFFIC,
    ];
    let logs = Logs::new(&urls.map(|type_url| TypeOptions {
        type_url,
        versioned: true,
    }));
    let publish = |url, set: Vec<Resource>| {
        let remove = Vec::new();
        logs.get(url).map(|log| log.publish(Batch { set, remove }))
    };
    let (target, workload) = (target(), endpoint(place));
    publish(
        type_url::ADDRESS,
        vec![
            resource(&target.key().to_string(), &pb::Address::from(&target)),
            resource(&workload.uid, &pb::Address::from(&workload)),
        ],
    );
    let routes = place.variant.paths().map(|path| route(&path));
    let routes = routes.map(|route| resource(&route.key(), &l7::Route::from(&route)));
    publish(type_url::ROUTE, routes.collect());
    if place.variant == Variant::Policy {
        let policy = policy();
        let message = l7::Policy::from(&policy);
        publish(type_url::POLICY, vec![resource(&policy.key(), &message)]);
        let tokens = authentication(place);
        let message = l7::Authentication::from(&tokens);
        let message = resource(&tokens.key(), &message);
        publish(type_url::AUTHENTICATION, vec![message]);
    }
    logs.open();
    let namespace = place.pod.namespace();
    let listener = namespace.block_on(TcpListener::bind(DISCOVERY))??;
    namespace.spawn(async move {
        let server = tonic::transport::Server::builder().add_service(service(logs, Arc::new(Open)));
        let incoming = Incoming::new(listener, config);
        if let Err(e) = server.serve_with_incoming(incoming).await {
            eprintln!("discovery ended: {e}");
        }
    })?;
    Ok(())
}

fn resource(name: &str, message: &impl Message) -> Resource {
    Resource {
        name: name.into(),
        aliases: Vec::new(),
        groups: Vec::new(),
        body: message.encode_to_vec().into(),
    }
}

fn key() -> NamespacedHostname {
    NamespacedHostname::new(NAMESPACE, "server.bench.svc.cluster.local")
}

/// The service that is asked for, which the waypoint serves.
fn target() -> Service {
    let NamespacedHostname {
        namespace,
        hostname,
    } = key();
    let own = NamespacedHostname::new(NAMESPACE, "waypoint.bench.svc.cluster.local");
    Service {
        name: "server".into(),
        namespace,
        hostname,
        vips: vec![NetworkAddress {
            network: Text::default(),
            address: SERVICE.ip(),
        }],
        ports: [(SERVICE.port(), APPLICATION)].into(),
        // What the client speaks goes on.
        app_protocols: [(SERVICE.port(), AppProtocol::Http11)].into(),
        waypoint: Some(GatewayAddress {
            destination: GatewayDestination::Hostname(own),
            hbone_mtls_port: super::places::HBONE,
        }),
        ..Service::default()
    }
}

fn endpoint(place: &Place<'_>) -> Workload {
    Workload {
        uid: "Kubernetes//Pod/bench/server".into(),
        name: "server".into(),
        namespace: NAMESPACE.into(),
        trust_domain: "cluster.local".into(),
        service_account: "server".into(),
        addresses: vec![place.server],
        protocol: Protocol::Hbone,
        services: [(key(), Default::default())].into(),
        ..Workload::default()
    }
}

/// All that begins with a path goes to the service.
fn route(path: &str) -> Route {
    let target = Target {
        service: key(),
        port: SERVICE.port(),
    };
    let backend = Backend {
        target: Some(target),
        weight: 1,
        ..Backend::default()
    };
    let rule = Rule {
        matches: vec![Match {
            path: Some(PathMatch::Segments(path.into())),
            ..Match::default()
        }],
        action: Action::Forward(Forward {
            backends: vec![backend],
            ..Forward::default()
        }),
        ..Rule::default()
    };
    Route {
        namespace: NAMESPACE.into(),
        name: path.trim_matches('/').into(),
        parents: vec![Parent {
            service: key(),
            port: None,
        }],
        rules: vec![rule],
        ..Route::default()
    }
}

fn any<T>(value: T) -> Values<T> {
    Values {
        any: vec![value],
        none: Vec::new(),
    }
}

fn exact(text: &str) -> Values<StringMatch> {
    any(StringMatch::Exact(text.into()))
}

/// Lets this client get what begins with the path, with a token of the issuer and a claim in it.
fn policy() -> AccessPolicy {
    let principal = super::places::identity("client").principal();
    let from = Source {
        principals: exact(&principal),
        request_principals: exact(&format!("{ISSUER}/somebody")),
        ..Source::default()
    };
    let to = Operation {
        methods: exact("GET"),
        paths: any(PathPattern::Text(StringMatch::Prefix("/route-".into()))),
        ..Operation::default()
    };
    let group = Condition {
        key: Key::AuthClaim(vec!["group".into()]),
        values: any(Value::Text(StringMatch::Exact("shoppers".into()))),
    };
    AccessPolicy {
        namespace: NAMESPACE.into(),
        name: "shoppers".into(),
        attachments: vec![Attachment::Service(key())],
        action: Access::Allow,
        rules: vec![AccessRule {
            from: vec![from],
            to: vec![to],
            when: vec![group],
            requires: Vec::new(),
        }],
        dry_run: false,
        provider: None,
        requires: vec!["jwt".into()],
    }
}

fn authentication(place: &Place<'_>) -> Authentication {
    Authentication {
        namespace: NAMESPACE.into(),
        name: "issuer".into(),
        attachments: vec![Attachment::Service(key())],
        rules: vec![TokenRule {
            issuer: ISSUER.into(),
            keys: place.tokens.keys.to_string().into(),
            places: usual_places(),
            forward: true,
            ..TokenRule::default()
        }],
    }
}
