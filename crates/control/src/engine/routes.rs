//! Routes: what depends on what, and what is sent.

use ambit_kube_api::gateway_api::RouteStatus;
use ambit_model::Text;
use ambit_model::route::RouteKind;
use ambit_translate::ObjectKey;
use ambit_translate::route_status::ParentState;
use ambit_translate::routes::{self, RouteFacts, Translation, World};
use ambit_translate::waypoints::{self, Traffic};

use super::tables::{RouteEntry, RouteKey, Tables};
use super::{Engine, Kind, L7Change, Observed};

/// The kind of an object that is a route of this kind.
pub(super) fn kind_of(route: RouteKind) -> Kind {
    match route {
        RouteKind::Grpc => Kind::GrpcRoute,
        RouteKind::Tcp => Kind::TcpRoute,
        RouteKind::Tls => Kind::TlsRoute,
        RouteKind::Http => Kind::HttpRoute,
    }
}

/// The route that an object of this kind is.
pub(super) fn route_of(kind: Kind) -> RouteKind {
    match kind {
        Kind::GrpcRoute => RouteKind::Grpc,
        Kind::TcpRoute => RouteKind::Tcp,
        Kind::TlsRoute => RouteKind::Tls,
        _ => RouteKind::Http,
    }
}

impl Engine {
    pub(super) fn route(
        &mut self,
        kind: Kind,
        key: ObjectKey,
        observed: Option<Observed<RouteFacts, RouteStatus>>,
    ) {
        self.stale_statuses.object(kind, &key);
        let key: RouteKey = (route_of(kind), key);
        let new = observed.map(|Observed { facts, status }| RouteEntry { facts, status });
        let facts = new.as_ref().map(|entry| entry.facts.clone());
        let old = match new {
            Some(new) => self.tables.routes.insert(key.clone(), new),
            None => self.tables.routes.remove(&key),
        };
        if old.map(|entry| entry.facts) != facts {
            self.dirty.routes.insert(key);
        }
    }

    /// Marks the routes that refer to a service which appeared, went, or has other labels.
    pub(super) fn service_of_routes(&mut self, service: &ObjectKey, appeared: bool) {
        if !self.waiting_for.is_empty() {
            // Everything is derived when all has been seen.
            return;
        }
        let routes = self.tables.routes.iter();
        let routes = routes.filter(|(_, entry)| entry.facts.services().contains(service));
        for (key, _) in routes {
            self.stale_statuses.object(kind_of(key.0), &key.1);
            if appeared {
                self.dirty.routes.insert(key.clone());
            }
        }
        let policies = self.tables.policies.iter();
        let attached = policies
            .filter(|(key, entry)| key.namespace == service.namespace && entry.facts.has_targets());
        for (key, _) in attached {
            self.stale_statuses.object(Kind::AuthorizationPolicy, key);
        }
        let tokens = self.tables.authentications.keys();
        for key in tokens.filter(|key| key.namespace == service.namespace) {
            self.stale_statuses.object(Kind::RequestAuthentication, key);
        }
    }
}

impl Tables {
    pub(super) fn translated(&self, facts: &RouteFacts) -> Translation {
        let world = World {
            mesh: &self.mesh,
            services: &self.services,
        };
        routes::translate(world, facts)
    }

    pub(super) fn derive_route(&self, key: &RouteKey) -> L7Change {
        let entry = self.routes.get(key);
        let active = entry.filter(|entry| self.is_active(&key.1, &entry.facts.labels));
        let route = active.map(|entry| self.translated(&entry.facts).route);
        match route.filter(|route| !route.parents.is_empty()) {
            Some(route) => L7Change::Route(Box::new(route)),
            None => {
                let (kind, ObjectKey { namespace, name }) = key;
                let name: Text = format!("{}/{namespace}/{name}", kind.name()).into();
                L7Change::RouteGone(name)
            }
        }
    }

    /// What is known about a service as the parent of a route.
    pub(super) fn parent_state(&self, service: &ObjectKey) -> ParentState {
        let Some(facts) = self.services.get(service) else {
            return ParentState::Missing;
        };
        let subject = self.subject(Traffic::Service, &facts.key, &facts.labels);
        match waypoints::wanted(&subject) {
            Some(_) => ParentState::Waypoint,
            None => ParentState::NoWaypoint,
        }
    }
}
