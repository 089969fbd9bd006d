//! Taking changes in: replace the facts, and mark what depends on what was or is now.

use ambit_kube_api::labels;
use ambit_model::Text;
use ambit_model::access::Attachment;
use ambit_translate::authentications::{AuthenticationFacts, KeySource};
use ambit_translate::labels::selects;
use ambit_translate::peer_authentication::{Level, PeerFacts};
use ambit_translate::policies::{self, PolicyFacts};
use ambit_translate::telemetry::{self, TelemetryFacts};
use ambit_translate::traffic::{self, TrafficFacts};
use ambit_translate::workloads::endpoint_uid;
use ambit_translate::{
    Code, Finding, Labels, MeshConfig, NamespaceFacts, NodeFacts, ObjectKey, PodFacts,
    ServiceFacts, SliceFacts,
};

use super::tables::{AuthenticationEntry, PeerEntry, PolicyEntry, in_namespace};
use super::{Change, Engine, Kind, Observed, Output};

impl Engine {
    pub(super) fn take(&mut self, change: Change, output: &mut Output) {
        match change {
            Change::Namespace(name, facts) => self.namespace(name, facts),
            Change::Node(name, facts) => self.node(name, facts),
            Change::Pod(key, facts) => self.pod(key, facts),
            Change::Service(key, facts) => self.service(key, facts),
            Change::Slice(key, facts) => self.slice(key, facts),
            Change::Policy(key, observed) => self.policy(key, observed),
            Change::Peer(key, observed) => self.peer(key, observed),
            Change::Authentication(key, observed) => self.authentication(key, observed),
            Change::Traffic(key, facts) => self.traffic(key, facts.map(|facts| *facts), output),
            Change::Telemetry(key, facts) => {
                self.telemetry(key, facts.map(|facts| *facts), output);
            }
            Change::Keys(source, keys) => self.keys(source, keys),
            Change::Class(name, observed) => self.class(name, observed),
            Change::Gateway(key, observed) => self.gateway(key, observed),
            Change::Route(kind, key, observed) => self.route(kind, key, observed),
            Change::BackendTls(key, observed) => {
                self.backend_tls(key, observed.map(|observed| *observed));
            }
            Change::ClassDefaults(key, defaults) => self.class_defaults(key, defaults),
            Change::ConfigMap(key, data) => self.config_map(key, data),
            Change::MeshConfig(config) => self.mesh_config(config),
            Change::Unreadable(kind, key, error) => {
                let finding = Finding::new(Code::UnreadableObject, kind.name(), error.clone());
                output.findings.push((key.clone(), finding));
                if matches!(kind, Kind::AuthorizationPolicy | Kind::PeerAuthentication) {
                    self.stale_statuses.object(kind, &key);
                    self.tables.unreadable.insert((kind, key), error);
                }
            }
            Change::Synced(kind) => {
                self.waiting_for.remove(&kind);
            }
        }
    }

    fn namespace(&mut self, name: Text, facts: Option<NamespaceFacts>) {
        let was_seen = self.tables.in_scope(&name);
        let old = match facts.clone() {
            Some(new) => self.tables.namespaces.insert(name.clone(), new),
            None => self.tables.namespaces.remove(&name),
        };
        if self.tables.in_scope(&name) != was_seen {
            self.tables.attached.take();
            self.mark_namespace(&name);
        }
        let distribution = |f: &Option<NamespaceFacts>| f.as_ref().and_then(|f| f.distribution);
        let labels = |f: &Option<NamespaceFacts>| f.as_ref().map(|f| f.labels.clone());
        let relabelled = labels(&old) != labels(&facts);
        if distribution(&old) != distribution(&facts) || relabelled {
            let keys = in_namespace(&self.tables.services, &name).map(|(key, _)| key.clone());
            self.dirty.services.extend(keys);
        }
        if relabelled {
            self.relabelled(&name);
        }
        if name == self.tables.settings.system_namespace {
            self.update_mesh();
        }
    }

    pub(super) fn mark_namespace(&mut self, name: &Text) {
        let keys = |table: &mut dyn Iterator<Item = &ObjectKey>| {
            table.cloned().collect::<Vec<ObjectKey>>()
        };
        let tables = &self.tables;
        self.dirty
            .pods
            .extend(keys(&mut in_namespace(&tables.pods, name).map(|(k, _)| k)));
        self.dirty.services.extend(keys(
            &mut in_namespace(&tables.services, name).map(|(k, _)| k),
        ));
        self.dirty.slices.extend(keys(
            &mut in_namespace(&tables.slices, name).map(|(k, _)| k),
        ));
        self.dirty.policies.extend(keys(
            &mut in_namespace(&tables.policies, name).map(|(k, _)| k),
        ));
        self.dirty
            .peers
            .extend(keys(&mut in_namespace(&tables.peers, name).map(|(k, _)| k)));
        self.dirty.static_strict = true;
        self.stale_statuses.namespace(name);
        // Policies of the root namespace reach all others.
        if *name == self.tables.mesh.root_namespace {
            self.dirty.everything = true;
        }
    }

    fn node(&mut self, name: Text, facts: Option<NodeFacts>) {
        let old = match facts.clone() {
            Some(new) => self.tables.nodes.insert(name.clone(), new),
            None => self.tables.nodes.remove(&name),
        };
        if old != facts {
            let pods: Vec<_> = self
                .tables
                .pods_on(&name)
                .map(|pod| pod.key.clone())
                .collect();
            self.dirty.pods.extend(pods);
        }
    }

    fn pod(&mut self, key: ObjectKey, facts: Option<PodFacts>) {
        let old = self.tables.set_pod(&key, facts);
        let new = self.tables.pods.get(&key);
        if old.as_ref() == new {
            return;
        }
        if old.as_ref().map(reach_of) != new.map(reach_of) {
            self.stale_statuses.namespace(&key.namespace);
        }
        for pod in old.iter().chain(new) {
            if let Some(gateway) = pod.labels.get(labels::GATEWAY_NAME) {
                let key = ObjectKey::new(key.namespace.clone(), gateway.clone());
                self.stale_statuses.object(Kind::Gateway, &key);
            }
        }
        self.dirty.pods.insert(key);
    }

    fn service(&mut self, key: ObjectKey, observed: Option<Observed<ServiceFacts>>) {
        let (facts, conditions) = match observed {
            Some(Observed { facts, status }) => (Some(facts), status),
            None => (None, Vec::new()),
        };
        self.tables.note_conditions(&key, conditions);
        self.stale_statuses.object(Kind::Service, &key);
        let old = self.tables.set_service(&key, facts);
        let new = self.tables.services.get(&key);
        if old.as_ref() == new {
            return;
        }
        let appeared = old.is_some() != new.is_some();
        let relabelled = old.as_ref().map(|f| &f.labels) != new.map(|f| &f.labels);
        for facts in old.iter().chain(new).filter(|f| !f.selector.is_empty()) {
            let pods = self.tables.pods_selected(&key.namespace, &facts.selector);
            self.dirty.pods.extend(pods.map(|pod| pod.key.clone()));
        }
        for slice in self.tables.slices_of(&key) {
            self.dirty.slices.insert(slice.key.clone());
            self.dirty
                .pods
                .extend(slice.endpoints.iter().filter_map(|e| e.pod.clone()));
        }
        self.dirty.gateways |= self.tables.is_of_gateway(&key);
        if appeared || relabelled {
            self.service_of_routes(&key, appeared);
        }
        self.backend_tls_of(&key.namespace);
        self.dirty.services.insert(key);
    }

    fn slice(&mut self, key: ObjectKey, facts: Option<SliceFacts>) {
        let old = self.tables.set_slice(&key, facts);
        let new = self.tables.slices.get(&key);
        if old.as_ref() == new {
            return;
        }
        for facts in old.iter().chain(new) {
            // Pods that a selector selects do not depend on slices.
            let service = self.tables.services.get(&facts.service);
            if service.is_some_and(|s| s.selector.is_empty()) {
                self.dirty
                    .pods
                    .extend(facts.endpoints.iter().filter_map(|e| e.pod.clone()));
            }
        }
        if let Some(old) = old {
            let no_pods = old.endpoints.iter().filter(|e| e.pod.is_none());
            let addresses = no_pods.filter_map(|e| e.addresses.first());
            let names = addresses.map(|ip| endpoint_uid(&self.tables.mesh, &key, *ip));
            self.dirty.gone_addresses.extend(names);
        }
        self.dirty.slices.insert(key);
    }

    fn policy(&mut self, key: ObjectKey, observed: Option<Observed<PolicyFacts>>) {
        self.tables
            .unreadable
            .remove(&(Kind::AuthorizationPolicy, key.clone()));
        let entry = observed.map(|Observed { facts, status }| PolicyEntry {
            translation: policies::translate(&self.tables.mesh, &facts),
            access: policies::access(&self.tables.mesh, &facts),
            facts,
            conditions: status,
        });
        let facts = entry.as_ref().map(|e| e.facts.clone());
        let mut attachments = attachments_of(entry.as_ref());
        let old = match entry {
            Some(new) => self.tables.policies.insert(key.clone(), new),
            None => self.tables.policies.remove(&key),
        };
        attachments.extend(attachments_of(old.as_ref()));
        let old = old.map(|e| e.facts);
        self.stale_statuses.object(Kind::AuthorizationPolicy, &key);
        if old == facts {
            return;
        }
        self.attached(attachments.into_iter());
        // Workloads name the policies that select them; the others are found by namespace.
        for selector in old.iter().chain(&facts).filter_map(|f| f.selector.as_ref()) {
            self.mark_selected(&key.namespace, selector);
        }
        self.dirty.policies.insert(key);
    }

    /// Marks the pods that a policy of this namespace selects: of the root namespace, everywhere.
    fn mark_selected(&mut self, namespace: &Text, selector: &Labels) {
        let tables = &self.tables;
        if *namespace == tables.mesh.root_namespace {
            let selected = tables
                .pods
                .values()
                .filter(|pod| selects(selector, &pod.labels));
            self.dirty.pods.extend(selected.map(|pod| pod.key.clone()));
        } else {
            let selected = tables.pods_selected(namespace, selector);
            self.dirty.pods.extend(selected.map(|pod| pod.key.clone()));
        }
    }

    fn peer(&mut self, key: ObjectKey, observed: Option<Observed<PeerFacts>>) {
        self.tables
            .unreadable
            .remove(&(Kind::PeerAuthentication, key.clone()));
        let facts = observed.as_ref().map(|o| o.facts.clone());
        let old = match observed {
            Some(Observed { facts, status }) => {
                let conditions = status;
                let entry = PeerEntry { facts, conditions };
                self.tables.peers.insert(key.clone(), entry)
            }
            None => self.tables.peers.remove(&key),
        };
        let old = old.map(|e| e.facts);
        self.stale_statuses.object(Kind::PeerAuthentication, &key);
        if old == facts {
            return;
        }
        for facts in old.iter().chain(&facts) {
            self.mark_peer(facts);
        }
        self.dirty.static_strict = true;
        self.dirty.peers.insert(key);
    }

    fn authentication(&mut self, key: ObjectKey, observed: Option<Observed<AuthenticationFacts>>) {
        self.stale_statuses
            .object(Kind::RequestAuthentication, &key);
        let new = observed.map(|Observed { facts, status }| AuthenticationEntry {
            facts,
            conditions: status,
        });
        let facts = new.as_ref().map(|entry| entry.facts.clone());
        let table = &mut self.tables.authentications;
        let old = match new {
            Some(new) => table.insert(key.clone(), new),
            None => table.remove(&key),
        };
        let old = old.map(|entry| entry.facts);
        if old != facts {
            let translate = |facts| self.tables.authentication(facts);
            let both = old.iter().chain(&facts).map(translate);
            let attachments = both
                .filter_map(|t| t.authentication)
                .flat_map(|a| a.attachments);
            let attachments: Vec<Attachment> = attachments.collect();
            self.attached(attachments.into_iter());
            self.dirty.key_sources = true;
            self.dirty.authentications.insert(key);
        }
    }

    fn traffic(&mut self, key: ObjectKey, facts: Option<TrafficFacts>, output: &mut Output) {
        if let Some(facts) = &facts {
            let findings = traffic::translate(&self.tables.mesh, facts).findings;
            let findings = findings.into_iter().map(|finding| (key.clone(), finding));
            output.findings.extend(findings);
        }
        let old = match facts.clone() {
            Some(new) => self.tables.traffic.insert(key.clone(), new),
            None => self.tables.traffic.remove(&key),
        };
        if old != facts {
            self.dirty.traffic.insert(key);
        }
    }

    fn telemetry(&mut self, key: ObjectKey, facts: Option<TelemetryFacts>, output: &mut Output) {
        if let Some(facts) = &facts {
            let findings = telemetry::translate(&self.tables.mesh, facts).findings;
            let findings = findings.into_iter().map(|finding| (key.clone(), finding));
            output.findings.extend(findings);
        }
        let old = match facts.clone() {
            Some(new) => self.tables.telemetry.insert(key.clone(), new),
            None => self.tables.telemetry.remove(&key),
        };
        if old != facts {
            self.dirty.telemetry.insert(key);
        }
    }

    /// Keys have been fetched, for the first time or anew.
    fn keys(&mut self, source: KeySource, keys: Text) {
        let authentications = self.tables.authentications.iter();
        let asks = authentications.filter(|(_, e)| e.facts.key_sources().any(|s| s == source));
        for key in asks.map(|(key, _)| key.clone()).collect::<Vec<_>>() {
            self.stale_statuses
                .object(Kind::RequestAuthentication, &key);
            self.dirty.authentications.insert(key);
        }
        self.tables.keys.insert(source, keys);
    }

    fn mark_peer(&mut self, facts: &PeerFacts) {
        let tables = &self.tables;
        let namespace = &facts.key.namespace;
        match facts.level(&tables.mesh) {
            Level::Mesh => {
                self.dirty.pods.extend(tables.pods.keys().cloned());
                self.dirty.peers.extend(tables.peers.keys().cloned());
                self.stale_statuses.everything();
            }
            Level::Namespace => {
                let pods = in_namespace(&tables.pods, namespace).map(|(key, _)| key.clone());
                self.dirty.pods.extend(pods);
                let peers = in_namespace(&tables.peers, namespace).map(|(key, _)| key.clone());
                self.dirty.peers.extend(peers);
                self.stale_statuses.namespace(namespace);
            }
            Level::Workload => {
                let selector = facts.selector.clone().unwrap_or_default();
                let pods = tables
                    .pods_selected(namespace, &selector)
                    .map(|pod| pod.key.clone());
                self.dirty.pods.extend(pods.collect::<Vec<_>>());
                self.stale_statuses.namespace(namespace);
            }
            Level::Nothing => {}
        }
    }

    fn mesh_config(&mut self, config: MeshConfig) {
        if self.tables.config != config {
            self.tables.config = config;
            // Scope and trust reach everything.
            self.dirty.everything = true;
            self.stale_statuses.everything();
            self.update_mesh();
        }
    }

    /// Derives the settings again that come from the mesh configuration and the system namespace.
    fn update_mesh(&mut self) {
        let tables = &mut self.tables;
        let mut mesh = tables.settings.mesh.clone();
        mesh.trust_domain = tables.config.trust_domain.clone();
        mesh.root_namespace = tables.config.root_namespace.clone();
        mesh.providers = tables.config.providers.clone();
        mesh.locality = tables.config.locality.clone();
        mesh.logs = tables.config.logs.clone();
        let sampling = mesh.tracing.sampling;
        mesh.tracing = tables.config.tracing.clone();
        mesh.tracing.sampling = mesh.tracing.sampling.or(sampling);
        if let Some(system) = tables.namespaces.get(&tables.settings.system_namespace) {
            mesh.network = system.network();
        }
        if mesh == tables.mesh {
            return;
        }
        // What waypoints are made of depends on it.
        self.dirty.gateways = true;
        if mesh.root_namespace != tables.mesh.root_namespace {
            let key = ambit_translate::peer_authentication::static_strict_key(&tables.mesh);
            self.dirty.gone_policies.insert(key.text());
        }
        tables.mesh = mesh;
        for entry in tables.policies.values_mut() {
            entry.translation = policies::translate(&tables.mesh, &entry.facts);
            entry.access = policies::access(&tables.mesh, &entry.facts);
        }
        self.dirty.everything = true;
        self.stale_statuses.everything();
    }
}

/// What a policy for waypoints is attached to.
fn attachments_of(entry: Option<&PolicyEntry>) -> Vec<Attachment> {
    let access = entry.and_then(|entry| entry.access.as_ref());
    let policy = access.and_then(|access| access.policy.as_ref());
    policy
        .map(|policy| policy.attachments.clone())
        .unwrap_or_default()
}

/// What a status says about a pod depends on this.
fn reach_of(pod: &PodFacts) -> (bool, bool, &Labels) {
    (super::query::is_covered(pod), pod.in_mesh(), &pod.labels)
}
