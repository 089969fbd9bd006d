//! What the control plane knows, and what follows from it.
//!
//! Changes of objects go in, changed resources come out. The engine keeps the facts about every
//! object with indexes over them; a change marks what depends on it, and only that is derived
//! again, by the pure functions of `ambit-translate`. It does no I/O and knows no time, so that a
//! test is a list of changes and a look at the output.

mod apply;
mod derive;
mod dirty;
mod index;
mod query;
mod statuses;
mod tables;

use std::collections::BTreeSet;

use ambit_kube_api::status::Condition;
use ambit_model::policy::Authorization;
use ambit_model::{Service, Text, Workload};
use ambit_translate::peer_authentication::PeerFacts;
use ambit_translate::policies::PolicyFacts;
use ambit_translate::{
    Finding, MeshConfig, NamespaceFacts, NodeFacts, ObjectKey, PodFacts, ServiceFacts, SliceFacts,
};

use dirty::Dirty;
use tables::Tables;

pub use query::PodAccount;
pub use statuses::DesiredStatus;
pub use tables::Settings;

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
    /// The ConfigMap with the mesh configuration.
    MeshConfig,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Kind; 8] = [
        Kind::Namespace,
        Kind::Node,
        Kind::Pod,
        Kind::Service,
        Kind::EndpointSlice,
        Kind::AuthorizationPolicy,
        Kind::PeerAuthentication,
        Kind::MeshConfig,
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
            Kind::MeshConfig => "MeshConfig",
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
    Service(ObjectKey, Option<ServiceFacts>),
    /// A slice of endpoints.
    Slice(ObjectKey, Option<SliceFacts>),
    /// An `AuthorizationPolicy`.
    Policy(ObjectKey, Option<Observed<PolicyFacts>>),
    /// A `PeerAuthentication`.
    Peer(ObjectKey, Option<Observed<PeerFacts>>),
    /// The mesh configuration.
    MeshConfig(MeshConfig),
    /// An object that cannot be read. Its last good version stays.
    Unreadable(Kind, ObjectKey, String),
    /// All objects of a kind have been seen once.
    Synced(Kind),
}

/// Facts about an object that has a status, with the conditions in it.
#[derive(Clone, Debug, PartialEq)]
pub struct Observed<T> {
    /// The facts.
    pub facts: T,
    /// The conditions, whoever wrote them.
    pub conditions: Vec<Condition>,
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

/// What follows from a batch of changes.
#[derive(Debug, Default)]
pub struct Output {
    /// Workloads and services.
    pub addresses: Vec<AddressChange>,
    /// Policies.
    pub policies: Vec<PolicyChange>,
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
}

impl Engine {
    /// An engine that has seen nothing.
    pub fn new(settings: Settings) -> Self {
        Self {
            tables: Tables::new(settings),
            dirty: Dirty::default(),
            waiting_for: Kind::ALL.into(),
            stale_statuses: statuses::Stale::default(),
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
mod tests;
