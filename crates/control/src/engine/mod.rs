//! What the control plane knows, and what follows from it.
//!
//! Changes of objects go in, changed resources come out. The engine keeps the facts about every
//! object with indexes over them; a change marks what depends on it, and only that is derived
//! again, by the pure functions of `ambit-translate`. It does no I/O and knows no time, so that a
//! test is a list of changes and a look at the output.

mod apply;
mod backend_tls;
mod derive;
mod dirty;
mod gateways;
mod index;
mod last_hop;
mod query;
mod routes;
mod statuses;
mod tables;

use std::collections::{BTreeMap, BTreeSet};

use ambit_kube_api::gateway_api::gateway::GatewayStatus;
use ambit_kube_api::gateway_api::{PolicyStatus, RouteStatus};
use ambit_kube_api::status::Condition;
use ambit_model::access::AccessPolicy;
use ambit_model::policy::Authorization;
use ambit_model::route::Route;
use ambit_model::telemetry::Telemetry;
use ambit_model::token::Authentication;
use ambit_model::traffic::{BackendTls, TrafficPolicy};
use ambit_model::{Service, Text, Workload};
use ambit_translate::authentications::{AuthenticationFacts, KeySource};
use ambit_translate::backend_tls::BackendTlsFacts;
use ambit_translate::overlays::ClassDefaults;
use ambit_translate::peer_authentication::PeerFacts;
use ambit_translate::policies::PolicyFacts;
use ambit_translate::routes::RouteFacts;
use ambit_translate::telemetry::TelemetryFacts;
use ambit_translate::traffic::TrafficFacts;
use ambit_translate::{
    ClassFacts, Finding, GatewayFacts, MeshConfig, NamespaceFacts, NodeFacts, ObjectKey, PodFacts,
    ServiceFacts, SliceFacts,
};

use dirty::Dirty;
use tables::Tables;

pub use gateways::Wanted;
pub use query::PodAccount;
pub use statuses::{DesiredStatus, Subject};
pub use tables::Settings;

/// Condition of services about their waypoint.
pub const BOUND: &str = ambit_translate::status::WAYPOINT_BOUND;

/// What stands in a ConfigMap.
pub type ConfigMapData = BTreeMap<String, String>;

/// A kind of object that is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Namespaces.
    Namespace,
    /// Nodes.
    Node,
    /// Pods.
    Pod,
    /// Services.
    Service,
    /// EndpointSlices.
    EndpointSlice,
    /// AuthorizationPolicies.
    AuthorizationPolicy,
    /// PeerAuthentications.
    PeerAuthentication,
    /// RequestAuthentications.
    RequestAuthentication,
    /// DestinationRules.
    DestinationRule,
    /// Telemetries.
    Telemetry,
    /// Classes of gateways.
    GatewayClass,
    /// Gateways.
    Gateway,
    /// Routes of HTTP.
    HttpRoute,
    /// Routes of gRPC.
    GrpcRoute,
    /// Routes of TCP.
    TcpRoute,
    /// Routes of TLS.
    TlsRoute,
    /// TLS to the endpoints of services.
    BackendTlsPolicy,
    /// The ConfigMap with the mesh configuration.
    MeshConfig,
    /// ConfigMaps with what holds for all gateways of a class.
    ClassDefaults,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Kind; 19] = [
        Kind::Namespace,
        Kind::Node,
        Kind::Pod,
        Kind::Service,
        Kind::EndpointSlice,
        Kind::AuthorizationPolicy,
        Kind::PeerAuthentication,
        Kind::RequestAuthentication,
        Kind::DestinationRule,
        Kind::Telemetry,
        Kind::GatewayClass,
        Kind::Gateway,
        Kind::HttpRoute,
        Kind::GrpcRoute,
        Kind::TcpRoute,
        Kind::TlsRoute,
        Kind::BackendTlsPolicy,
        Kind::MeshConfig,
        Kind::ClassDefaults,
    ];

    /// Its name, for logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Namespace => "Namespace",
            Kind::Node => "Node",
            Kind::Pod => "Pod",
            Kind::Service => "Service",
            Kind::EndpointSlice => "EndpointSlice",
            Kind::AuthorizationPolicy => "AuthorizationPolicy",
            Kind::PeerAuthentication => "PeerAuthentication",
            Kind::RequestAuthentication => "RequestAuthentication",
            Kind::DestinationRule => "DestinationRule",
            Kind::Telemetry => "Telemetry",
            Kind::GatewayClass => "GatewayClass",
            Kind::Gateway => "Gateway",
            Kind::HttpRoute => "HTTPRoute",
            Kind::GrpcRoute => "GRPCRoute",
            Kind::TcpRoute => "TCPRoute",
            Kind::TlsRoute => "TLSRoute",
            Kind::BackendTlsPolicy => "BackendTLSPolicy",
            Kind::MeshConfig => "MeshConfig",
            Kind::ClassDefaults => "ClassDefaults",
        }
    }
}

/// A change of one object: its facts, or `None` when it is gone.
#[derive(Debug)]
pub enum Change {
    /// A namespace.
    Namespace(Text, Option<NamespaceFacts>),
    /// A node.
    Node(Text, Option<NodeFacts>),
    /// A pod.
    Pod(ObjectKey, Option<PodFacts>),
    /// A service.
    Service(ObjectKey, Option<Observed<ServiceFacts>>),
    /// A slice of endpoints.
    Slice(ObjectKey, Option<SliceFacts>),
    /// An `AuthorizationPolicy`.
    Policy(ObjectKey, Option<Observed<PolicyFacts>>),
    /// A `PeerAuthentication`.
    Peer(ObjectKey, Option<Observed<PeerFacts>>),
    /// A `RequestAuthentication`.
    Authentication(ObjectKey, Option<Observed<AuthenticationFacts>>),
    /// A `DestinationRule`.
    Traffic(ObjectKey, Option<Box<TrafficFacts>>),
    /// A `Telemetry`.
    Telemetry(ObjectKey, Option<Box<TelemetryFacts>>),
    /// Keys of issuers, as they have been fetched.
    Keys(KeySource, Text),
    /// A class of gateways, with its status.
    Class(Text, Option<Observed<ClassFacts>>),
    /// A gateway, with its status.
    Gateway(ObjectKey, Option<Observed<GatewayFacts, GatewayStatus>>),
    /// A route, with its status.
    Route(Kind, ObjectKey, Option<Observed<RouteFacts, RouteStatus>>),
    /// A `BackendTLSPolicy`, with its status.
    BackendTls(
        ObjectKey,
        Option<Box<Observed<BackendTlsFacts, PolicyStatus>>>,
    ),
    /// The mesh configuration.
    MeshConfig(MeshConfig),
    /// What holds for all gateways of a class.
    ClassDefaults(ObjectKey, Option<ClassDefaults>),
    /// A ConfigMap that an object names: what stands in it, or that it is not there.
    ConfigMap(ObjectKey, Option<ConfigMapData>),
    /// An object that cannot be read. Its last good version stays.
    Unreadable(Kind, ObjectKey, String),
    /// All objects of a kind have been seen once.
    Synced(Kind),
}

/// Facts about an object that has a status, and the status, whoever wrote it.
#[derive(Clone, Debug, PartialEq)]
pub struct Observed<T, S = Vec<Condition>> {
    /// The facts.
    pub facts: T,
    /// The status, or the conditions in it.
    pub status: S,
}

/// A workload or service that may have changed, or is gone.
#[derive(Clone, Debug, PartialEq)]
pub enum AddressChange {
    /// A workload.
    Workload(Box<Workload>),
    /// A service.
    Service(Box<Service>),
    /// The name of one that is gone.
    Gone(Text),
}

/// A policy that may have changed, or is gone.
#[derive(Clone, Debug, PartialEq)]
pub enum PolicyChange {
    /// A policy.
    Policy(Authorization),
    /// The name of one that is gone.
    Gone(Text),
}

/// What waypoints are told of, beside workloads and services.
#[derive(Clone, Debug)]
pub enum L7Change {
    /// A route.
    Route(Box<Route>),
    /// The name of a route that is gone.
    RouteGone(Text),
    /// A policy.
    Policy(Box<AccessPolicy>),
    /// The name of a policy that is gone.
    PolicyGone(Text),
    /// Which tokens are believed.
    Authentication(Box<Authentication>),
    /// The name of such an object that is gone.
    AuthenticationGone(Text),
    /// How endpoints are chosen and spared.
    Traffic(Box<TrafficPolicy>),
    /// The name of such an object that is gone.
    TrafficGone(Text),
    /// TLS to the endpoints of services.
    BackendTls(Box<BackendTls>),
    /// The name of such an object that is gone.
    BackendTlsGone(Text),
    /// What is told about requests.
    Telemetry(Box<Telemetry>),
    /// The name of such an object that is gone.
    TelemetryGone(Text),
}

/// What follows from a batch of changes.
#[derive(Debug, Default)]
pub struct Output {
    /// Workloads and services.
    pub addresses: Vec<AddressChange>,
    /// Policies.
    pub policies: Vec<PolicyChange>,
    /// What waypoints are told.
    pub l7: Vec<L7Change>,
    /// Waypoints are to be looked at: their objects may be other ones now.
    pub gateways: bool,
    /// Other keys of issuers may be asked for.
    pub key_sources: bool,
    /// Other ConfigMaps may be asked for.
    pub config_maps: bool,
    /// Everything has been seen once with this batch: clients may be answered now.
    pub complete: bool,
    /// There may be statuses to write.
    pub statuses: bool,
    /// What is to be said in the log.
    pub findings: Vec<(ObjectKey, Finding)>,
}

/// The state of the control plane.
#[derive(Debug)]
pub struct Engine {
    tables: Tables,
    dirty: Dirty,
    waiting_for: BTreeSet<Kind>,
    stale_statuses: statuses::Stale,
    guards: last_hop::Guards,
}

impl Engine {
    /// An engine that has seen nothing.
    pub fn new(settings: Settings) -> Self {
        Self {
            tables: Tables::new(settings),
            dirty: Dirty::default(),
            waiting_for: Kind::ALL.into(),
            stale_statuses: statuses::Stale::default(),
            guards: last_hop::Guards::default(),
        }
    }

    /// Takes changes in and gives what follows from them. Until every kind has been seen once
    /// nothing follows: half a picture would tell clients that the rest is gone.
    pub fn apply(&mut self, changes: impl IntoIterator<Item = Change>) -> Output {
        let mut output = Output::default();
        let was_waiting = !self.waiting_for.is_empty();
        for change in changes {
            self.take(change, &mut output);
        }
        if !self.waiting_for.is_empty() {
            return output;
        }
        if was_waiting {
            output.complete = true;
            self.dirty.everything = true;
        }
        output.key_sources = std::mem::take(&mut self.dirty.key_sources) || output.complete;
        output.config_maps = std::mem::take(&mut self.dirty.config_maps) || output.complete;
        output.gateways = std::mem::take(&mut self.dirty.gateways) || output.complete;
        self.derive(&mut output);
        output.statuses = !self.stale_statuses.is_empty();
        output
    }

    /// Kinds that have not been seen completely yet.
    pub fn waiting_for(&self) -> impl Iterator<Item = Kind> {
        self.waiting_for.iter().copied()
    }
}

#[cfg(test)]
mod last_hop_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod waypoint_tests;
