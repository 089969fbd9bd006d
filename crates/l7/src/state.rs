//! Routes and policies, for readers that never wait.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ambit_model::access::{AccessPolicy, Attachment};
use ambit_model::route::{Route, Routes, Rules};
use ambit_model::service::NamespacedHostname;
use ambit_model::telemetry::Telemetry;
use ambit_model::token::Authentication;
use ambit_model::traffic::{BackendTls, Settings, TrafficPolicy};
use ambit_model::{Service, Text};
use ambit_proto::l7;
use ambit_wire::xds::{Handler, Received, Rejected};
use arc_swap::{ArcSwap, Guard};
use parking_lot::Mutex;

use crate::reporting::{Environment, Reporting, Reports};
use crate::tokens::Issuers;

/// The class whose policies hold for every waypoint.
const CLASS: &str = "istio-waypoint";

/// What the control plane says about requests, beside workloads and services.
#[derive(Clone, Debug, Default)]
pub(crate) struct L7State {
    routes: Routes,
    policies: Attached<AccessPolicy>,
    issuers: Attached<Issuers>,
    traffic: Traffic,
    reports: Reports,
}

/// What is said about traffic to services.
#[derive(Clone, Debug, Default)]
struct Traffic {
    all: BTreeMap<Text, Arc<TrafficPolicy>>,
    /// The one that holds for a service.
    by_service: HashMap<NamespacedHostname, Arc<TrafficPolicy>>,
    /// TLS to endpoints.
    tls: BTreeMap<Text, Arc<BackendTls>>,
}

impl Traffic {
    /// `own` is the proxy's namespace.
    fn change(&mut self, set: Vec<TrafficPolicy>, removed: Vec<String>, own: &Text) {
        for policy in set {
            self.all.insert(policy.key(), Arc::new(policy));
        }
        for key in removed {
            self.all.remove(&*key);
        }
        self.by_service.clear();
        let order = |policy: &TrafficPolicy| Some((policy.distance(own)?, policy.created));
        for policy in self.all.values() {
            let Some(ours) = order(policy) else { continue };
            let held = self.by_service.get(&policy.service);
            if held
                .and_then(|held| order(held))
                .is_none_or(|held| ours < held)
            {
                let service = policy.service.clone();
                self.by_service.insert(service, policy.clone());
            }
        }
    }
}

/// Objects by what they are attached to.
#[derive(Clone, Debug)]
struct Attached<T> {
    all: BTreeMap<Text, Arc<T>>,
    by_service: HashMap<NamespacedHostname, Vec<Arc<T>>>,
    /// Those of the gateway and of its class.
    everywhere: Vec<Arc<T>>,
}

/// An object of the user that is attached to others.
trait Attachable {
    fn attachments(&self) -> &[Attachment];
}

impl Attachable for AccessPolicy {
    fn attachments(&self) -> &[Attachment] {
        &self.attachments
    }
}

impl Attachable for Issuers {
    fn attachments(&self) -> &[Attachment] {
        &self.authentication.attachments
    }
}

impl<T> Default for Attached<T> {
    fn default() -> Self {
        Self {
            all: BTreeMap::new(),
            by_service: HashMap::new(),
            everywhere: Vec::new(),
        }
    }
}

impl L7State {
    /// The rules for a port of a service, if it has routes.
    pub(crate) fn rules(&self, service: &NamespacedHostname, port: u16) -> Option<&Arc<Rules>> {
        self.routes.rules(service, port)
    }

    /// The policies for what is addressed to a service, or to no service.
    pub(crate) fn policies<'a>(
        &'a self,
        service: Option<&NamespacedHostname>,
    ) -> impl Iterator<Item = &'a AccessPolicy> + Clone {
        self.policies.of(service)
    }

    /// The issuers of tokens for what is addressed to a service, or to no service.
    pub(crate) fn issuers<'a>(
        &'a self,
        service: Option<&NamespacedHostname>,
    ) -> impl Iterator<Item = &'a Issuers> + Clone {
        self.issuers.of(service)
    }

    /// How endpoints of a service's port are chosen and spared.
    pub(crate) fn traffic(&self, service: &NamespacedHostname, port: u16) -> Settings {
        let policy = self.traffic.by_service.get(service);
        let mut settings = policy
            .map(|policy| policy.of_port(port).clone())
            .unwrap_or_default();
        let tls = self.traffic.tls.values();
        let fitting = tls.filter_map(|tls| Some((tls.fit(service, port)?, tls)));
        let best = fitting.min_by(|(a, _), (b, _)| a.cmp(b));
        if let Some((_, policy)) = best {
            settings.tls = Some(policy.tls.clone());
        }
        settings
    }

    /// What holds for traffic to services, one for each.
    pub(crate) fn traffic_policies(&self) -> impl Iterator<Item = &Arc<TrafficPolicy>> {
        self.traffic.by_service.values()
    }

    /// What is told about traffic to a service, or to none.
    pub(crate) fn reporting(&self, service: Option<&Service>) -> &Arc<Reporting> {
        self.reports.of(service)
    }

    /// What is told about traffic, by object.
    pub(crate) fn telemetries(&self) -> impl Iterator<Item = &Arc<Telemetry>> {
        self.reports.all()
    }

    /// All routes.
    pub(crate) fn routes(&self) -> impl Iterator<Item = &Arc<Route>> {
        self.routes.all()
    }

    /// All policies.
    pub(crate) fn all_policies(&self) -> impl Iterator<Item = &Arc<AccessPolicy>> {
        self.policies.all.values()
    }
}

impl<T: Attachable> Attached<T> {
    /// Those for what is addressed to a service, or to no service.
    fn of<'a>(
        &'a self,
        service: Option<&NamespacedHostname>,
    ) -> impl Iterator<Item = &'a T> + Clone + use<'a, T> {
        let of_service = service.and_then(|service| self.by_service.get(service));
        let of_service = of_service.map(Vec::as_slice).unwrap_or_default();
        of_service.iter().chain(&self.everywhere).map(Arc::as_ref)
    }

    /// Takes objects in and out.
    fn change(&mut self, set: Vec<(Text, T)>, removed: Vec<String>, gateway: &(Text, Text)) {
        for (key, object) in set {
            self.all.insert(key, Arc::new(object));
        }
        for key in removed {
            self.all.remove(&*key);
        }
        self.index(gateway);
    }

    /// Makes the indexes anew. Such objects are few, and change seldom.
    fn index(&mut self, gateway: &(Text, Text)) {
        self.by_service.clear();
        self.everywhere.clear();
        for object in self.all.values() {
            let is_ours = |attachment: &Attachment| match attachment {
                Attachment::Gateway(namespace, name) => {
                    (namespace, name) == (&gateway.0, &gateway.1)
                }
                Attachment::Class(name) => **name == *CLASS,
                Attachment::Service(_) => false,
            };
            if object.attachments().iter().any(is_ours) {
                self.everywhere.push(object.clone());
                continue;
            }
            for attachment in object.attachments() {
                if let Attachment::Service(service) = attachment {
                    let objects = self.by_service.entry(service.clone()).or_default();
                    objects.push(object.clone());
                }
            }
        }
    }
}

/// The state and its one writer. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Store(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    current: ArcSwap<L7State>,
    /// Namespace and name of the own gateway.
    gateway: (Text, Text),
    writing: Mutex<()>,
    /// Counts changes of traffic policies, each after its state is published.
    traffic_changes: AtomicU64,
}

impl Store {
    /// An empty state for the waypoint of this gateway.
    pub(crate) fn new(namespace: Text, gateway: Text) -> Self {
        Self(Arc::new(Shared {
            current: ArcSwap::default(),
            gateway: (namespace, gateway),
            writing: Mutex::new(()),
            traffic_changes: AtomicU64::new(0),
        }))
    }

    /// The state as it is now. Drop it before the next await.
    pub(crate) fn load(&self) -> Guard<Arc<L7State>> {
        self.0.current.load()
    }

    /// Counts changes of traffic policies. Who reads the count and then the state has a state that is
    /// at least as new.
    pub(crate) fn traffic_changes(&self) -> u64 {
        self.0.traffic_changes.load(Ordering::Acquire)
    }

    /// Changes the state as a whole.
    fn change(&self, change: impl FnOnce(&mut L7State)) {
        let _writing = self.0.writing.lock();
        let mut state = L7State::clone(&self.load());
        change(&mut state);
        self.0.current.store(Arc::new(state));
    }
}

/// Takes routes.
pub(crate) struct RouteHandler(pub(crate) Store);

/// Takes policies.
pub(crate) struct PolicyHandler(pub(crate) Store);

/// Takes what is believed of tokens.
pub(crate) struct AuthenticationHandler(pub(crate) Store);

impl Handler<l7::Route> for RouteHandler {
    fn handle(&self, resources: Vec<Received<l7::Route>>, removed: Vec<String>) -> Vec<Rejected> {
        let (routes, rejected) = converted::<_, Route>(resources);
        self.0.change(|state| {
            let routes = routes.into_iter().map(Arc::new).collect();
            state
                .routes
                .change(routes, removed.into_iter().map(Text::from));
        });
        rejected
    }
}

impl Handler<l7::Policy> for PolicyHandler {
    fn handle(&self, resources: Vec<Received<l7::Policy>>, removed: Vec<String>) -> Vec<Rejected> {
        let (policies, rejected) = converted::<_, AccessPolicy>(resources);
        let policies = policies
            .into_iter()
            .map(|policy| (policy.key(), policy))
            .collect();
        let gateway = &self.0.0.gateway;
        self.0
            .change(|state| state.policies.change(policies, removed, gateway));
        rejected
    }
}

impl Handler<l7::Authentication> for AuthenticationHandler {
    fn handle(
        &self,
        resources: Vec<Received<l7::Authentication>>,
        removed: Vec<String>,
    ) -> Vec<Rejected> {
        let (objects, rejected) = converted::<_, Authentication>(resources);
        let objects = objects
            .into_iter()
            .map(|object| (object.key(), Issuers::new(object)));
        let (objects, gateway) = (objects.collect(), &self.0.0.gateway);
        self.0
            .change(|state| state.issuers.change(objects, removed, gateway));
        rejected
    }
}

/// Takes what is said about traffic.
pub(crate) struct TrafficHandler(pub(crate) Store);

impl Handler<l7::TrafficPolicy> for TrafficHandler {
    fn handle(
        &self,
        resources: Vec<Received<l7::TrafficPolicy>>,
        removed: Vec<String>,
    ) -> Vec<Rejected> {
        let (policies, rejected) = converted::<_, TrafficPolicy>(resources);
        let (own, _) = &self.0.0.gateway;
        self.0
            .change(|state| state.traffic.change(policies, removed, own));
        self.0.0.traffic_changes.fetch_add(1, Ordering::Release);
        rejected
    }
}

/// Takes what is said about TLS to endpoints.
pub(crate) struct BackendTlsHandler(pub(crate) Store);

impl Handler<l7::BackendTls> for BackendTlsHandler {
    fn handle(
        &self,
        resources: Vec<Received<l7::BackendTls>>,
        removed: Vec<String>,
    ) -> Vec<Rejected> {
        let (policies, rejected) = converted::<_, BackendTls>(resources);
        self.0.change(|state| {
            let held = &mut state.traffic.tls;
            held.extend(policies.into_iter().map(|p| (p.key(), Arc::new(p))));
            held.retain(|key, _| !removed.iter().any(|gone| **gone == **key));
        });
        self.0.0.traffic_changes.fetch_add(1, Ordering::Release);
        rejected
    }
}

/// Takes what is told about traffic.
pub(crate) struct TelemetryHandler(pub(crate) Store, pub(crate) Environment);

impl Handler<l7::Telemetry> for TelemetryHandler {
    fn handle(
        &self,
        resources: Vec<Received<l7::Telemetry>>,
        removed: Vec<String>,
    ) -> Vec<Rejected> {
        let (objects, rejected) = converted::<_, Telemetry>(resources);
        let (gateway, environment) = (&self.0.0.gateway, &self.1);
        self.0.change(|state| {
            let reports = &mut state.reports;
            reports.change(objects, removed, gateway, CLASS, environment);
        });
        rejected
    }
}

/// What can be converted, and what cannot.
fn converted<M, T>(resources: Vec<Received<M>>) -> (Vec<T>, Vec<Rejected>)
where
    T: TryFrom<M>,
    T::Error: std::fmt::Display,
{
    let mut good = Vec::with_capacity(resources.len());
    let mut rejected = Vec::new();
    for resource in resources {
        match T::try_from(resource.message) {
            Ok(value) => good.push(value),
            Err(reason) => rejected.push(Rejected {
                name: resource.name,
                reason: reason.to_string(),
            }),
        }
    }
    (good, rejected)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ambit_model::access::{AccessRule, Action};

    fn policy(name: &str, attachment: Attachment) -> Received<l7::Policy> {
        let policy = AccessPolicy {
            namespace: "shop".into(),
            name: name.into(),
            attachments: vec![attachment],
            action: Action::Deny,
            rules: vec![AccessRule::default()],
            dry_run: false,
            provider: None,
            requires: Vec::new(),
        };
        Received {
            name: policy.key(),
            aliases: Vec::new(),
            message: (&policy).into(),
        }
    }

    #[test]
    fn policies_are_found_by_what_they_are_attached_to() {
        let store = Store::new("shop".into(), "waypoint".into());
        let service = NamespacedHostname::new("shop", "cart");
        PolicyHandler(store.clone()).handle(
            vec![
                policy("service", Attachment::Service(service.clone())),
                policy(
                    "mine",
                    Attachment::Gateway("shop".into(), "waypoint".into()),
                ),
                policy("other", Attachment::Gateway("shop".into(), "other".into())),
                policy("class", Attachment::Class("istio-waypoint".into())),
            ],
            vec![],
        );
        let names = |service: Option<&NamespacedHostname>| {
            let state = store.load();
            let names = state.policies(service).map(|p| p.name.to_string());
            names.collect::<Vec<_>>()
        };
        assert_eq!(names(Some(&service)), ["service", "class", "mine"]);
        assert_eq!(names(None), ["class", "mine"]);
        PolicyHandler(store.clone()).handle(vec![], vec!["shop/service".into()]);
        assert_eq!(names(Some(&service)), ["class", "mine"]);
    }
}
