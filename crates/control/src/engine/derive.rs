//! Deriving what is marked.

use std::collections::BTreeMap;

use ambit_model::Text;
use ambit_model::policy::Authorization;
use ambit_translate::authentications::{self, AuthenticationFacts, AuthenticationTranslation};
use ambit_translate::labels::selects;
use ambit_translate::peer_authentication::{self as peers, Candidates};
use ambit_translate::services::service;
use ambit_translate::telemetry;
use ambit_translate::traffic;
use ambit_translate::workloads::{
    PodInput, Serves, endpoint_uid, endpoint_workload, pod_uid, pod_workload,
};
use ambit_translate::{ObjectKey, PodFacts};

use super::dirty::Dirty;
use super::tables::Tables;
use super::{AddressChange, Engine, L7Change, Output, PolicyChange};

impl Engine {
    /// Derives what is marked, and takes the marks off.
    pub(super) fn derive(&mut self, output: &mut Output) {
        let mut dirty = std::mem::take(&mut self.dirty);
        if dirty.everything {
            self.tables.attached.take();
            dirty.mark_all(&self.tables);
        }
        let tables = &self.tables;
        // What is gone comes first: where the same name is derived again, that holds.
        output
            .policies
            .extend(dirty.gone_policies.into_iter().map(PolicyChange::Gone));
        output
            .addresses
            .extend(dirty.gone_addresses.into_iter().map(AddressChange::Gone));

        output
            .addresses
            .extend(dirty.services.iter().map(|key| tables.derive_service(key)));
        for key in &dirty.slices {
            tables.derive_slice(key, &mut output.addresses);
        }
        let mut by_namespace = BTreeMap::new();
        for key in &dirty.pods {
            let candidates = by_namespace
                .entry(&key.namespace)
                .or_insert_with(|| tables.peer_candidates(&key.namespace));
            let (change, guard) = tables.derive_pod(key, candidates);
            self.guards.set(key, guard, &mut output.policies);
            output.addresses.push(change);
        }
        output
            .policies
            .extend(dirty.policies.iter().map(|key| tables.derive_policy(key)));
        output
            .policies
            .extend(dirty.peers.iter().map(|key| tables.derive_converted(key)));
        if dirty.static_strict {
            output.policies.push(tables.derive_static_strict());
        }
        let access = dirty.policies.iter().map(|key| tables.derive_access(key));
        output.l7.extend(access);
        let authentications = dirty.authentications.iter();
        let authentications = authentications.map(|key| tables.derive_authentication(key));
        output.l7.extend(authentications);
        let traffic = dirty.traffic.iter().map(|key| tables.derive_traffic(key));
        output.l7.extend(traffic);
        let backend_tls = dirty.backend_tls.iter();
        let backend_tls = backend_tls.map(|key| tables.derive_backend_tls(key));
        output.l7.extend(backend_tls);
        if dirty.mesh_telemetry {
            let mesh = telemetry::of_mesh(&tables.mesh);
            output.l7.push(L7Change::Telemetry(Box::new(mesh)));
        }
        let telemetry = dirty.telemetry.iter();
        let telemetry = telemetry.map(|key| tables.derive_telemetry(key));
        output.l7.extend(telemetry);
        let routes = dirty.routes.iter().map(|key| tables.derive_route(key));
        output.l7.extend(routes);
    }
}

impl Dirty {
    fn mark_all(&mut self, tables: &Tables) {
        self.pods.extend(tables.pods.keys().cloned());
        self.services.extend(tables.services.keys().cloned());
        self.slices.extend(tables.slices.keys().cloned());
        self.policies.extend(tables.policies.keys().cloned());
        self.peers.extend(tables.peers.keys().cloned());
        self.authentications
            .extend(tables.authentications.keys().cloned());
        self.traffic.extend(tables.traffic.keys().cloned());
        self.telemetry.extend(tables.telemetry.keys().cloned());
        self.backend_tls.extend(tables.backend_tls.keys().cloned());
        self.mesh_telemetry = true;
        self.routes.extend(tables.routes.keys().cloned());
        self.static_strict = true;
    }
}

impl Tables {
    fn derive_service(&self, key: &ObjectKey) -> AddressChange {
        match self
            .services
            .get(key)
            .filter(|_| self.in_scope(&key.namespace))
        {
            Some(facts) => {
                let namespace = self.namespaces.get(&key.namespace);
                let distribution = namespace.and_then(|ns| ns.distribution);
                let waypoint = self.service_binding(facts).and_then(Result::ok);
                let waypoint = waypoint.map(|(_, address)| address);
                let service = service(&self.mesh, facts, distribution, waypoint);
                AddressChange::Service(Box::new(service))
            }
            None => {
                let hostname = self.mesh.hostname(&key.namespace, &key.name);
                AddressChange::Gone(format!("{}/{hostname}", key.namespace).into())
            }
        }
    }

    /// Workloads of the endpoints of a slice that are no pods.
    fn derive_slice(&self, key: &ObjectKey, changes: &mut Vec<AddressChange>) {
        let Some(slice) = self.slices.get(key) else {
            return;
        };
        let service = self
            .services
            .get(&slice.service)
            .filter(|_| self.in_scope(&key.namespace));
        for endpoint in slice.endpoints.iter().filter(|e| e.pod.is_none()) {
            let workload =
                service.and_then(|service| endpoint_workload(&self.mesh, service, slice, endpoint));
            match (workload, endpoint.addresses.first()) {
                (Some(workload), _) => changes.push(AddressChange::Workload(Box::new(workload))),
                (None, Some(ip)) => {
                    let uid = endpoint_uid(&self.mesh, key, *ip);
                    changes.push(AddressChange::Gone(uid));
                }
                (None, None) => {}
            }
        }
    }

    /// The `PeerAuthentication`s that can matter in a namespace.
    pub(super) fn peer_candidates<'a>(&'a self, namespace: &'a Text) -> Candidates<'a> {
        let root = self.active_peers(&self.mesh.root_namespace);
        Candidates::new(&self.mesh, root, self.active_peers(namespace))
    }

    /// The workload of a pod, and the policy that keeps callers from going around its waypoints.
    fn derive_pod(
        &self,
        key: &ObjectKey,
        candidates: &Candidates<'_>,
    ) -> (AddressChange, Option<Authorization>) {
        let pod = self.pods.get(key).filter(|_| self.in_scope(&key.namespace));
        let derived = pod.and_then(|pod| {
            let services = self.services_of(pod);
            let guard = self.guard(pod, &services);
            let mut policies = self.policies_of(pod, candidates);
            policies.extend(guard.as_ref().map(Authorization::key));
            let input = PodInput {
                pod,
                locality: self.nodes.get(&pod.node).map(|node| &node.locality),
                services,
                policies,
                waypoint: self.pod_binding(pod).and_then(Result::ok).map(|(_, a)| a),
            };
            Some((pod_workload(&self.mesh, &input)?, guard))
        });
        match derived {
            Some((workload, guard)) => (AddressChange::Workload(Box::new(workload)), guard),
            None => (AddressChange::Gone(pod_uid(&self.mesh, key)), None),
        }
    }

    fn services_of<'a>(&'a self, pod: &'a PodFacts) -> Vec<Serves<'a>> {
        let selected = self.services_selecting(pod).map(Serves::Selected);
        let listed = self
            .slices_listing(&pod.key)
            .map(|(s, slice)| Serves::Listed(s, slice));
        selected.chain(listed).collect()
    }

    /// Keys of the policies that a workload names: those whose selector selects it, of its
    /// namespace and of the root namespace, and that of its `PeerAuthentication`.
    fn policies_of(&self, pod: &PodFacts, candidates: &Candidates<'_>) -> Vec<Text> {
        let own = &pod.key.namespace;
        let root = &self.mesh.root_namespace;
        let more = (own != root)
            .then(|| self.active_policies(root))
            .into_iter()
            .flatten();
        let mut keys: Vec<Text> = self
            .active_policies(own)
            .chain(more)
            .filter(|entry| entry.translation.authorization.is_some())
            .filter(|entry| {
                entry
                    .facts
                    .selector
                    .as_ref()
                    .is_some_and(|s| selects(s, &pod.labels))
            })
            .map(|entry| entry.facts.reference())
            .collect();
        keys.sort();
        keys.extend(candidates.policies_of(&self.mesh, &pod.labels));
        keys
    }

    fn derive_policy(&self, key: &ObjectKey) -> PolicyChange {
        let entry = self
            .policies
            .get(key)
            .filter(|e| self.is_active(key, &e.facts.labels));
        match entry.and_then(|entry| entry.translation.authorization.clone()) {
            Some(authorization) => PolicyChange::Policy(authorization),
            None => PolicyChange::Gone(key.text()),
        }
    }

    /// The form of a policy that waypoints enforce.
    fn derive_access(&self, key: &ObjectKey) -> L7Change {
        let entry = self
            .policies
            .get(key)
            .filter(|e| self.is_active(key, &e.facts.labels));
        match entry.and_then(|entry| entry.access.as_ref()?.policy.clone()) {
            Some(policy) => L7Change::Policy(Box::new(policy)),
            None => L7Change::PolicyGone(key.text()),
        }
    }

    fn derive_traffic(&self, key: &ObjectKey) -> L7Change {
        let facts = self.traffic.get(key);
        let active = facts.filter(|facts| self.is_active(key, &facts.labels));
        let translated = active.map(|facts| traffic::translate(&self.mesh, facts));
        match translated.and_then(|translation| translation.policy) {
            Some(policy) => L7Change::Traffic(Box::new(policy)),
            None => L7Change::TrafficGone(key.text()),
        }
    }

    fn derive_telemetry(&self, key: &ObjectKey) -> L7Change {
        let facts = self.telemetry.get(key);
        let active = facts.filter(|facts| self.is_active(key, &facts.labels));
        let translated = active.map(|facts| telemetry::translate(&self.mesh, facts));
        match translated.and_then(|translation| translation.telemetry) {
            Some(telemetry) => L7Change::Telemetry(Box::new(telemetry)),
            None => L7Change::TelemetryGone(key.text()),
        }
    }

    /// An authentication as it is sent to waypoints, with the keys that are here.
    pub(super) fn authentication(&self, facts: &AuthenticationFacts) -> AuthenticationTranslation {
        authentications::translate(&self.mesh, facts, &self.keys)
    }

    fn derive_authentication(&self, key: &ObjectKey) -> L7Change {
        let entry = self
            .authentications
            .get(key)
            .filter(|e| self.is_active(key, &e.facts.labels));
        let translated = entry.map(|e| self.authentication(&e.facts));
        match translated.and_then(|translation| translation.authentication) {
            Some(authentication) => L7Change::Authentication(Box::new(authentication)),
            None => L7Change::AuthenticationGone(key.text()),
        }
    }

    fn derive_converted(&self, key: &ObjectKey) -> PolicyChange {
        let entry = self
            .peers
            .get(key)
            .filter(|e| self.is_active(key, &e.facts.labels));
        let converted = entry.and_then(|entry| {
            let is_workload = entry.facts.level(&self.mesh) == peers::Level::Workload;
            let candidates = is_workload.then(|| self.peer_candidates(&key.namespace))?;
            candidates.converted(&entry.facts)
        });
        match converted {
            Some(authorization) => PolicyChange::Policy(authorization),
            None => PolicyChange::Gone(peers::converted_key(key).text()),
        }
    }

    fn derive_static_strict(&self) -> PolicyChange {
        let any = self
            .peers
            .iter()
            .any(|(key, e)| self.is_active(key, &e.facts.labels));
        match any {
            true => PolicyChange::Policy(peers::static_strict(&self.mesh)),
            false => PolicyChange::Gone(peers::static_strict_key(&self.mesh).text()),
        }
    }
}
