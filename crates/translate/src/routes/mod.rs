//! `HTTPRoute`, `GRPCRoute`, `TCPRoute` and `TLSRoute` → [`model::route::Route`](ambit_model::route::Route).
//!
//! What a bad object does, and what its status says:
//!
//! | in the route | requests that meet it | `ResolvedRefs` |
//! |---|---|---|
//! | backend does not exist, or is of an unknown kind | its share gets 500, or is closed (TCP) | `BackendNotFound`, `InvalidKind` |
//! | backend without a port | its share gets 500 | `InvalidDestination` |
//! | filter that is not known, or not where it stands | the rule answers 500 | `InvalidFilter` |
//! | expression that is none, duration that is none | the rule answers 500 | `InvalidConfiguration` |
//! | parent that does not exist | – | `Accepted` is false: `NoMatchingParent` |

mod backends;
mod duration;
mod filters;
mod grpc;
mod http;
mod matches;
mod tcp;

use std::collections::{BTreeMap, BTreeSet};

use ambit_kube_api::gateway_api::{
    GRPCRoute, GrpcRouteSpec, HTTPRoute, HttpRouteSpec, ParentReference, TCPRoute, TLSRoute,
    TcpRouteSpec, TlsRouteSpec,
};
use ambit_model::Text;
use ambit_model::route::{Parent, Route, RouteKind};
use ambit_model::service::NamespacedHostname;
use kube::ResourceExt;

use crate::facts::ServiceFacts;
use crate::key::ObjectKey;
use crate::labels::{Labels, labels_from};
use crate::mesh::Mesh;

/// What is known about a route.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteFacts {
    /// Namespace and name.
    pub key: ObjectKey,
    /// Labels of the object itself.
    pub labels: Labels,
    /// Version of the object, for its status.
    pub generation: Option<i64>,
    created: i64,
    spec: Spec,
}

#[derive(Clone, Debug, PartialEq)]
enum Spec {
    Http(HttpRouteSpec),
    Grpc(GrpcRouteSpec),
    Tcp(TcpRouteSpec),
    Tls(TlsRouteSpec),
}

/// Why references of a route cannot be resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unresolved {
    /// The reason of the condition `ResolvedRefs`.
    pub reason: &'static str,
    /// For people.
    pub message: String,
}

impl Unresolved {
    fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
        }
    }
}

/// A route as it is sent, and what is to be said about it.
#[derive(Clone, Debug)]
pub struct Translation {
    /// What is sent.
    pub route: Route,
    /// Parents that are services of the mesh, in the order of the object, each with the service.
    pub parents: Vec<(ParentReference, ObjectKey)>,
    /// What cannot be resolved, worst first.
    pub unresolved: Vec<Unresolved>,
}

/// What a translation looks at.
#[derive(Clone, Copy, Debug)]
pub struct World<'a> {
    /// Settings of the mesh.
    pub mesh: &'a Mesh,
    /// Services.
    pub services: &'a BTreeMap<ObjectKey, ServiceFacts>,
}

impl RouteFacts {
    /// The facts about an `HTTPRoute`.
    pub fn http(route: &HTTPRoute) -> Self {
        Self::of(route, Spec::Http(route.spec.clone()))
    }

    /// The facts about a `GRPCRoute`.
    pub fn grpc(route: &GRPCRoute) -> Self {
        Self::of(route, Spec::Grpc(route.spec.clone()))
    }

    /// The facts about a `TCPRoute`.
    pub fn tcp(route: &TCPRoute) -> Self {
        Self::of(route, Spec::Tcp(route.spec.clone()))
    }

    /// The facts about a `TLSRoute`.
    pub fn tls(route: &TLSRoute) -> Self {
        Self::of(route, Spec::Tls(route.spec.clone()))
    }

    fn of(object: &impl ResourceExt, spec: Spec) -> Self {
        let created = object.creation_timestamp();
        Self {
            key: ObjectKey::of(object),
            labels: labels_from(Some(object.labels())),
            generation: object.meta().generation,
            created: created.map_or(0, |time| time.0.as_second()),
            spec,
        }
    }

    /// Its kind.
    pub fn kind(&self) -> RouteKind {
        match self.spec {
            Spec::Http(_) => RouteKind::Http,
            Spec::Grpc(_) => RouteKind::Grpc,
            Spec::Tcp(_) => RouteKind::Tcp,
            Spec::Tls(_) => RouteKind::Tls,
        }
    }

    /// What it is for.
    pub fn parent_refs(&self) -> &[ParentReference] {
        match &self.spec {
            Spec::Http(spec) => &spec.parent_refs,
            Spec::Grpc(spec) => &spec.parent_refs,
            Spec::Tcp(spec) => &spec.parent_refs,
            Spec::Tls(spec) => &spec.parent_refs,
        }
    }

    /// Everything that it refers to, of the kind of a service: what it says depends on these.
    pub fn services(&self) -> BTreeSet<ObjectKey> {
        let parents = self
            .parent_refs()
            .iter()
            .filter_map(|p| self.parent_service(p));
        let backends = match &self.spec {
            Spec::Http(spec) => backends::referred(
                spec.rules.iter().flat_map(|r| &r.backend_refs),
                spec.rules.iter().flat_map(|r| &r.filters),
            ),
            Spec::Grpc(spec) => backends::referred(
                spec.rules.iter().flat_map(|r| &r.backend_refs),
                spec.rules.iter().flat_map(|r| &r.filters),
            ),
            Spec::Tcp(spec) => tcp::referred(&spec.rules),
            Spec::Tls(spec) => tcp::referred(&spec.rules),
        };
        let own = &self.key.namespace;
        let backends = backends.into_iter().map(|b| backends::key(b, own));
        parents.chain(backends).collect()
    }

    /// The service that a reference names, if it names one.
    pub fn parent_service(&self, parent: &ParentReference) -> Option<ObjectKey> {
        let service = matches!(parent.group_kind(), ("" | "core", "Service"));
        service.then(|| ObjectKey {
            namespace: parent
                .namespace
                .as_deref()
                .map_or_else(|| self.key.namespace.clone(), Text::from),
            name: parent.name.as_str().into(),
        })
    }
}

/// The route as it is sent, and what is to be said about it.
pub fn translate(world: World<'_>, facts: &RouteFacts) -> Translation {
    let mut unresolved = Vec::new();
    let context = Context {
        world,
        namespace: &facts.key.namespace,
    };
    let rules = match &facts.spec {
        Spec::Http(spec) => http::rules(&context, spec, &mut unresolved),
        Spec::Grpc(spec) => grpc::rules(&context, spec, &mut unresolved),
        Spec::Tcp(spec) => tcp::rules(&context, &spec.rules, &[], &mut unresolved),
        Spec::Tls(spec) => tcp::rules(&context, &spec.rules, &spec.hostnames, &mut unresolved),
    };
    let parents: Vec<(ParentReference, ObjectKey)> = facts
        .parent_refs()
        .iter()
        .filter_map(|parent| Some((parent.clone(), facts.parent_service(parent)?)))
        .collect();
    // A route says what happens to the traffic of its own namespace's services, and of no others.
    let own = parents
        .iter()
        .filter(|(_, service)| service.namespace == facts.key.namespace);
    let own = own.map(|(parent, service)| Parent {
        service: NamespacedHostname {
            namespace: service.namespace.clone(),
            hostname: world.mesh.hostname(&service.namespace, &service.name),
        },
        port: parent.port.and_then(|port| u16::try_from(port).ok()),
    });
    Translation {
        route: Route {
            kind: facts.kind(),
            namespace: facts.key.namespace.clone(),
            name: facts.key.name.clone(),
            created: facts.created,
            parents: own.collect(),
            rules,
        },
        parents,
        unresolved,
    }
}

/// Where a rule stands.
struct Context<'a> {
    world: World<'a>,
    namespace: &'a Text,
}

#[cfg(test)]
mod tests;
