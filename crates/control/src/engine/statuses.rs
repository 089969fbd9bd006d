//! Which statuses are to be written, and what they say.

use std::collections::BTreeSet;

use ambit_kube_api::gateway_api::gateway::GatewayStatus;
use ambit_kube_api::gateway_api::{
    self, GATEWAY_CONTROLLER, MESH_CONTROLLER, PolicyStatus, RouteStatus,
};
use ambit_kube_api::selector::PolicyTargetReference;
use ambit_kube_api::status::Condition;
use ambit_model::Text;
use ambit_translate::peer_authentication::{self as peers, Level, PeerFacts};
use ambit_translate::policies::PolicyFacts;
use ambit_translate::route_status::route_parents;
use ambit_translate::status::{
    Reach, TargetState, access_condition, bound_condition, peer_condition, policy_condition,
    unreadable_condition,
};
use ambit_translate::{ObjectKey, PodFacts, gateway_status};

use super::query::is_covered;
use super::routes::{kind_of, route_of};
use super::tables::{Tables, in_namespace};
use super::{Engine, Kind};

/// Statuses that may have changed.
#[derive(Debug, Default)]
pub(super) struct Stale {
    everything: bool,
    namespaces: BTreeSet<Text>,
    objects: BTreeSet<(Kind, ObjectKey)>,
}

/// A status that has to be written.
#[derive(Clone, Debug, PartialEq)]
pub struct DesiredStatus {
    /// Kind of the object.
    pub kind: Kind,
    /// The object.
    pub key: ObjectKey,
    /// What is to be said, and what is said now.
    pub subject: Subject,
}

/// A status by its form. Times in what is to be said are not set.
#[derive(Clone, Debug, PartialEq)]
pub enum Subject {
    /// One condition of several; without one, ours goes.
    Condition {
        /// Our condition.
        ours: Option<Condition>,
        /// The conditions that the object has now.
        existing: Vec<Condition>,
    },
    /// Of a gateway.
    Gateway {
        /// All of it.
        desired: GatewayStatus,
        /// What is said now.
        existing: GatewayStatus,
    },
    /// Of a policy of the Gateway API.
    Policy {
        /// All of it, with what others say.
        desired: PolicyStatus,
        /// What is said now.
        existing: PolicyStatus,
    },
    /// Of a route.
    Route {
        /// All of it, with what others say.
        desired: RouteStatus,
        /// What is said now.
        existing: RouteStatus,
    },
}

/// The same but for their times.
fn same(a: &Condition, b: &Condition) -> bool {
    a.type_ == b.type_
        && a.status == b.status
        && a.reason == b.reason
        && a.message == b.message
        && a.observed_generation == b.observed_generation
}

fn all_same(a: &[Condition], b: &[Condition]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
}

fn without_times(status: &GatewayStatus) -> GatewayStatus {
    let mut status = status.clone();
    let listeners = status.listeners.iter_mut().flat_map(|l| &mut l.conditions);
    for condition in status.conditions.iter_mut().chain(listeners) {
        condition.last_transition_time = None;
    }
    status
}

impl Stale {
    pub(super) fn everything(&mut self) {
        self.everything = true;
    }

    pub(super) fn namespace(&mut self, name: &Text) {
        self.namespaces.insert(name.clone());
    }

    pub(super) fn object(&mut self, kind: Kind, key: &ObjectKey) {
        self.objects.insert((kind, key.clone()));
    }

    pub(super) fn is_empty(&self) -> bool {
        !self.everything && self.namespaces.is_empty() && self.objects.is_empty()
    }
}

impl Engine {
    /// All statuses have to be looked at: the one who writes them has changed.
    pub fn mark_statuses(&mut self) {
        self.stale_statuses.everything();
    }

    /// Statuses that differ from what the objects say now. They count as written after that.
    pub fn take_statuses(&mut self) -> Vec<DesiredStatus> {
        if !self.waiting_for.is_empty() {
            return Vec::new();
        }
        let stale = std::mem::take(&mut self.stale_statuses);
        let objects = self.tables.stale_objects(&stale);
        objects
            .into_iter()
            .filter_map(|(kind, key)| self.tables.desired(kind, &key))
            .collect()
    }
}

impl Tables {
    /// Objects whose status may have changed. What happens in a namespace concerns its own objects
    /// and those of the root namespace.
    fn stale_objects(&self, stale: &Stale) -> BTreeSet<(Kind, ObjectKey)> {
        let policy = |key: &ObjectKey| (Kind::AuthorizationPolicy, key.clone());
        let peer = |key: &ObjectKey| (Kind::PeerAuthentication, key.clone());
        let token = |key: &ObjectKey| (Kind::RequestAuthentication, key.clone());
        let backend_tls = |key: &ObjectKey| (Kind::BackendTlsPolicy, key.clone());
        if stale.everything {
            let classes = self
                .classes
                .keys()
                .map(|name| ObjectKey::new("", name.clone()));
            let routes = self.routes.keys();
            return self
                .policies
                .keys()
                .map(policy)
                .chain(self.peers.keys().map(peer))
                .chain(self.authentications.keys().map(token))
                .chain(self.services.keys().map(|key| (Kind::Service, key.clone())))
                .chain(self.gateways.keys().map(|key| (Kind::Gateway, key.clone())))
                .chain(classes.map(|key| (Kind::GatewayClass, key)))
                .chain(routes.map(|(route, key)| (kind_of(*route), key.clone())))
                .chain(self.backend_tls.keys().map(backend_tls))
                .collect();
        }
        let mut objects = stale.objects.clone();
        let root = (!stale.namespaces.is_empty()).then_some(&self.mesh.root_namespace);
        for namespace in stale.namespaces.iter().chain(root) {
            objects.extend(in_namespace(&self.policies, namespace).map(|(key, _)| policy(key)));
            objects.extend(in_namespace(&self.peers, namespace).map(|(key, _)| peer(key)));
            let tokens = in_namespace(&self.authentications, namespace);
            objects.extend(tokens.map(|(key, _)| token(key)));
            let routes = self
                .routes
                .keys()
                .filter(|(_, key)| key.namespace == *namespace);
            objects.extend(routes.map(|(route, key)| (kind_of(*route), key.clone())));
        }
        objects
    }

    fn desired(&self, kind: Kind, key: &ObjectKey) -> Option<DesiredStatus> {
        let subject = match kind {
            Kind::AuthorizationPolicy => self.of_policy(key)?,
            Kind::PeerAuthentication => self.of_peer(key)?,
            Kind::RequestAuthentication => self.of_authentication(key)?,
            Kind::Service => self.of_service(key)?,
            Kind::GatewayClass => self.of_class(key)?,
            Kind::Gateway => self.of_gateway(key)?,
            Kind::BackendTlsPolicy => self.of_backend_tls(key)?,
            Kind::HttpRoute | Kind::GrpcRoute | Kind::TcpRoute | Kind::TlsRoute => {
                self.of_route(kind, key)?
            }
            _ => return None,
        };
        Some(DesiredStatus {
            kind,
            key: key.clone(),
            subject,
        })
    }

    fn of_policy(&self, key: &ObjectKey) -> Option<Subject> {
        let entry = self.policies.get(key)?;
        self.is_active(key, &entry.facts.labels).then_some(())?;
        let generation = entry.facts.generation;
        let condition = match &entry.access {
            Some(access) => {
                let targets = self.targets(&key.namespace, entry.facts.targets());
                let targets: Vec<_> = targets.collect();
                access_condition(&targets, &access.findings, generation)
            }
            None => {
                let reach = self.policy_reach(&entry.facts);
                policy_condition(&entry.translation, reach, generation)
            }
        };
        self.unless_said(Kind::AuthorizationPolicy, key, condition, &entry.conditions)
    }

    fn of_peer(&self, key: &ObjectKey) -> Option<Subject> {
        let entry = self.peers.get(key)?;
        self.is_active(key, &entry.facts.labels).then_some(())?;
        let condition = self.peer_status(&entry.facts);
        self.unless_said(Kind::PeerAuthentication, key, condition, &entry.conditions)
    }

    fn of_authentication(&self, key: &ObjectKey) -> Option<Subject> {
        let entry = self.authentications.get(key)?;
        self.is_active(key, &entry.facts.labels).then_some(())?;
        let targets: Vec<_> = self
            .targets(&key.namespace, entry.facts.targets())
            .collect();
        let findings = self.authentication(&entry.facts).findings;
        let condition = access_condition(&targets, &findings, entry.facts.generation);
        self.unless_said(
            Kind::RequestAuthentication,
            key,
            condition,
            &entry.conditions,
        )
    }

    /// Our condition, unless the object says it already.
    fn unless_said(
        &self,
        kind: Kind,
        key: &ObjectKey,
        condition: Condition,
        existing: &[Condition],
    ) -> Option<Subject> {
        let ours = match self.unreadable.get(&(kind, key.clone())) {
            Some(error) => unreadable_condition(error, None),
            None => condition,
        };
        (!existing.iter().any(|c| same(c, &ours))).then(|| Subject::Condition {
            ours: Some(ours),
            existing: existing.to_vec(),
        })
    }

    /// The condition of a service about its waypoint; it goes when nothing asks for one.
    fn of_service(&self, key: &ObjectKey) -> Option<Subject> {
        let facts = self.services.get(key)?;
        let existing = self
            .service_conditions
            .get(key)
            .map(Vec::as_slice)
            .unwrap_or_default();
        let binding = match self.in_scope(&key.namespace) {
            true => self.service_binding(facts),
            false => None,
        };
        let ours = binding.map(|binding| bound_condition(&binding.map(|(gateway, _)| gateway)));
        let said = existing
            .iter()
            .find(|c| c.type_.as_deref() == Some(super::BOUND));
        let unchanged = match (&ours, said) {
            (None, None) => true,
            (Some(ours), Some(said)) => same(ours, said),
            _ => false,
        };
        (!unchanged).then(|| Subject::Condition {
            ours,
            existing: existing.to_vec(),
        })
    }

    fn of_class(&self, key: &ObjectKey) -> Option<Subject> {
        let entry = self.classes.get(&key.name)?;
        let ours = *entry.facts.controller == *gateway_api::MESH_CONTROLLER;
        ours.then_some(())?;
        let condition = gateway_status::class(&entry.facts);
        self.unless_said(Kind::GatewayClass, key, condition, &entry.conditions)
    }

    fn of_gateway(&self, key: &ObjectKey) -> Option<Subject> {
        let entry = self.gateways.get(key)?;
        let active = self.is_active(key, &entry.facts.labels);
        (active && self.is_waypoint(&entry.facts)).then_some(())?;
        let unusable = self.unusable(&entry.facts);
        let made = self.made(&entry.facts, unusable.as_deref());
        let desired = gateway_status::waypoint(&self.mesh, &entry.facts, made);
        (without_times(&entry.status) != desired).then(|| Subject::Gateway {
            desired,
            existing: entry.status.clone(),
        })
    }

    fn of_backend_tls(&self, key: &ObjectKey) -> Option<Subject> {
        let entry = self.backend_tls.get(key)?;
        self.is_active(key, &entry.facts.labels).then_some(())?;
        let ours = self.translated_tls(&entry.facts).ancestors;
        let said = entry.status.ancestors.iter();
        let (our_said, others): (Vec<_>, Vec<_>) =
            said.partition(|a| a.controller_name == MESH_CONTROLLER);
        let unchanged = ours.len() == our_said.len()
            && ours.iter().zip(&our_said).all(|(a, b)| {
                a.ancestor_ref == b.ancestor_ref && all_same(&a.conditions, &b.conditions)
            });
        let ancestors = others.into_iter().cloned().chain(ours).collect();
        (!unchanged).then(|| Subject::Policy {
            desired: PolicyStatus { ancestors },
            existing: entry.status.clone(),
        })
    }

    fn of_route(&self, kind: Kind, key: &ObjectKey) -> Option<Subject> {
        let entry = self.routes.get(&(route_of(kind), key.clone()))?;
        self.is_active(key, &entry.facts.labels).then_some(())?;
        let translation = self.translated(&entry.facts);
        let state = |service: &ObjectKey| self.parent_state(service);
        let ours = route_parents(&entry.facts, &translation, state);
        let said = entry.status.parents.iter();
        let (our_said, others): (Vec<_>, Vec<_>) =
            said.partition(|p| p.controller_name == GATEWAY_CONTROLLER);
        let unchanged = ours.len() == our_said.len()
            && ours.iter().zip(&our_said).all(|(a, b)| {
                a.parent_ref == b.parent_ref && all_same(&a.conditions, &b.conditions)
            });
        let parents = others.into_iter().cloned().chain(ours).collect();
        (!unchanged).then(|| Subject::Route {
            desired: RouteStatus { parents },
            existing: entry.status.clone(),
        })
    }

    /// What became of the targets of a policy.
    fn targets<'a>(
        &'a self,
        namespace: &'a Text,
        targets: impl Iterator<Item = &'a PolicyTargetReference>,
    ) -> impl Iterator<Item = TargetState> {
        targets.map(move |target| {
            let key = ObjectKey::new(namespace.clone(), target.name.as_str());
            match (target.group.as_str(), target.kind.as_str()) {
                ("" | "core", "Service") => self.service_target(&key),
                (gateway_api::GROUP, "Gateway") => {
                    let found = self.gateways.get(&key);
                    match found.is_some_and(|entry| !entry.facts.addresses.is_empty()) {
                        true => TargetState::Bound(key.to_string()),
                        false => TargetState::Missing(format!("Gateway {key} is not bound")),
                    }
                }
                (gateway_api::GROUP, "GatewayClass") if *namespace == self.mesh.root_namespace => {
                    match self.classes.get(&*target.name) {
                        Some(class) if *class.facts.controller == *gateway_api::MESH_CONTROLLER => {
                            TargetState::Bound(target.name.clone())
                        }
                        Some(_) => TargetState::Invalid(format!(
                            "GatewayClass {} is not one of waypoints",
                            target.name
                        )),
                        None => TargetState::Missing(format!(
                            "GatewayClass {} is not bound",
                            target.name
                        )),
                    }
                }
                _ => TargetState::Invalid(format!("{}.{}:{key}", target.kind, target.group)),
            }
        })
    }

    fn service_target(&self, key: &ObjectKey) -> TargetState {
        let Some(service) = self.services.get(key) else {
            return TargetState::Missing(format!("Service {key} was not found"));
        };
        match self.service_binding(service) {
            Some(Ok((gateway, _))) => TargetState::Bound(gateway.to_string()),
            Some(Err(refusal)) => TargetState::NotBound(format!("Service {key}: {refusal}")),
            None => TargetState::NotBound(format!("Service {key} is not bound to a waypoint")),
        }
    }

    fn policy_reach(&self, facts: &PolicyFacts) -> Reach {
        let everywhere = facts.key.namespace == self.mesh.root_namespace;
        let none = ambit_translate::Labels::new();
        let selector = facts.selector.as_ref().unwrap_or(&none);
        if everywhere {
            let selected =
                |pod: &&PodFacts| ambit_translate::labels::selects(selector, &pod.labels);
            reach(
                self.pods
                    .values()
                    .filter(selected)
                    .filter(|p| self.in_scope(&p.key.namespace)),
            )
        } else {
            reach(self.pods_selected(&facts.key.namespace, selector))
        }
    }

    fn peer_status(&self, facts: &PeerFacts) -> Condition {
        let namespace = &facts.key.namespace;
        let own = self.peer_candidates(namespace);
        let findings = peers::findings(&self.mesh, facts, own.winner(&self.mesh, facts));
        let reach = match facts.level(&self.mesh) {
            // The mesh's object holds wherever nothing narrower does.
            Level::Mesh => reach(self.pods.values().filter(|pod| {
                self.in_scope(&pod.key.namespace)
                    && self.decides(&self.peer_candidates(&pod.key.namespace), facts, pod)
            })),
            Level::Namespace | Level::Workload => reach(
                in_namespace(&self.pods, namespace)
                    .map(|(_, pod)| pod)
                    .filter(|pod| self.decides(&own, facts, pod)),
            ),
            Level::Nothing => Reach::default(),
        };
        peer_condition(&findings, reach, facts.generation)
    }

    fn decides(
        &self,
        candidates: &peers::Candidates<'_>,
        facts: &PeerFacts,
        pod: &PodFacts,
    ) -> bool {
        candidates
            .deciding(&pod.labels)
            .is_some_and(|deciding| deciding.key == facts.key)
    }
}

fn reach<'a>(pods: impl Iterator<Item = &'a PodFacts>) -> Reach {
    let mut reach = Reach::default();
    for pod in pods.filter(|pod| is_covered(pod)) {
        reach.covered += 1;
        reach.enforced += usize::from(pod.in_mesh());
    }
    reach
}
