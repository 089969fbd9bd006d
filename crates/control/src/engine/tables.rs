//! The facts about all objects, and the indexes that find what depends on them.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::Bound;
use std::sync::OnceLock;

use ambit_kube_api::gateway_api::gateway::GatewayStatus;
use ambit_kube_api::gateway_api::{PolicyStatus, RouteStatus};
use ambit_kube_api::status::Condition;
use ambit_model::Text;
use ambit_model::access::Attachment;
use ambit_model::route::RouteKind;
use ambit_translate::authentications::{AuthenticationFacts, FetchedKeys};
use ambit_translate::backend_tls::BackendTlsFacts;
use ambit_translate::labels::selects;
use ambit_translate::overlays::ClassDefaults;
use ambit_translate::peer_authentication::PeerFacts;
use ambit_translate::policies::{AccessTranslation, PolicyFacts, Translation};
use ambit_translate::routes::RouteFacts;
use ambit_translate::scope::in_scope;
use ambit_translate::telemetry::TelemetryFacts;
use ambit_translate::traffic::TrafficFacts;
use ambit_translate::{
    ClassFacts, GatewayFacts, Labels, Mesh, MeshConfig, NamespaceFacts, NodeFacts, ObjectKey,
    PodFacts, ServiceFacts, SliceFacts,
};

use super::ConfigMapData;
use super::index::PairIndex;

/// What the engine is started with. The mesh configuration changes some of it later.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Settings of the mesh.
    pub mesh: Mesh,
    /// Namespace of the control plane.
    pub system_namespace: Text,
    /// Service accounts that may ask for certificates of the pods on their node.
    pub trusted_node_accounts: Vec<ObjectKey>,
}

/// A policy with what follows from it alone.
#[derive(Debug)]
pub(super) struct PolicyEntry {
    pub facts: PolicyFacts,
    pub conditions: Vec<Condition>,
    pub translation: Translation,
    pub access: Option<AccessTranslation>,
}

/// A `RequestAuthentication`.
#[derive(Debug)]
pub(super) struct AuthenticationEntry {
    pub facts: AuthenticationFacts,
    pub conditions: Vec<Condition>,
}

/// A gateway.
#[derive(Debug)]
pub(super) struct GatewayEntry {
    pub facts: GatewayFacts,
    pub status: GatewayStatus,
}

/// A class of gateways.
#[derive(Debug)]
pub(super) struct ClassEntry {
    pub facts: ClassFacts,
    pub conditions: Vec<Condition>,
}

/// A route.
#[derive(Debug)]
pub(super) struct RouteEntry {
    pub facts: RouteFacts,
    pub status: RouteStatus,
}

/// A `BackendTLSPolicy`.
#[derive(Debug)]
pub(super) struct BackendTlsEntry {
    pub facts: BackendTlsFacts,
    pub status: PolicyStatus,
}

/// Kind and name of a route.
pub(super) type RouteKey = (RouteKind, ObjectKey);

/// A `PeerAuthentication`.
#[derive(Debug)]
pub(super) struct PeerEntry {
    pub facts: PeerFacts,
    pub conditions: Vec<Condition>,
}

/// All facts.
#[derive(Debug)]
pub(super) struct Tables {
    pub settings: Settings,
    pub config: MeshConfig,
    pub mesh: Mesh,
    pub namespaces: HashMap<Text, NamespaceFacts>,
    pub nodes: HashMap<Text, NodeFacts>,
    pub pods: BTreeMap<ObjectKey, PodFacts>,
    pub services: BTreeMap<ObjectKey, ServiceFacts>,
    pub slices: BTreeMap<ObjectKey, SliceFacts>,
    pub policies: BTreeMap<ObjectKey, PolicyEntry>,
    pub peers: BTreeMap<ObjectKey, PeerEntry>,
    pub authentications: BTreeMap<ObjectKey, AuthenticationEntry>,
    pub traffic: BTreeMap<ObjectKey, TrafficFacts>,
    pub telemetry: BTreeMap<ObjectKey, TelemetryFacts>,
    pub backend_tls: BTreeMap<ObjectKey, BackendTlsEntry>,
    /// Keys that have been fetched.
    pub keys: FetchedKeys,
    pub classes: BTreeMap<Text, ClassEntry>,
    pub gateways: BTreeMap<ObjectKey, GatewayEntry>,
    pub class_defaults: BTreeMap<ObjectKey, ClassDefaults>,
    /// ConfigMaps that objects name; `None` for those that are not there.
    pub config_maps: BTreeMap<ObjectKey, Option<ConfigMapData>>,
    pub routes: BTreeMap<RouteKey, RouteEntry>,
    /// Conditions of services.
    pub service_conditions: HashMap<ObjectKey, Vec<Condition>>,
    /// Errors of policies and peers that cannot be read, by kind.
    pub unreadable: BTreeMap<(super::Kind, ObjectKey), String>,
    /// What policies are attached to, once somebody has asked; see `last_hop`.
    pub attached: OnceLock<HashSet<Attachment>>,
    pods_by_node: HashMap<Text, BTreeSet<ObjectKey>>,
    pods_by_label: PairIndex,
    services_by_pair: PairIndex,
    slices_by_service: HashMap<ObjectKey, BTreeSet<ObjectKey>>,
    slices_by_pod: HashMap<ObjectKey, BTreeSet<ObjectKey>>,
}

impl Tables {
    pub(super) fn new(settings: Settings) -> Self {
        Self {
            mesh: settings.mesh.clone(),
            settings,
            config: MeshConfig::default(),
            namespaces: HashMap::new(),
            nodes: HashMap::new(),
            pods: BTreeMap::new(),
            services: BTreeMap::new(),
            slices: BTreeMap::new(),
            policies: BTreeMap::new(),
            peers: BTreeMap::new(),
            authentications: BTreeMap::new(),
            traffic: BTreeMap::new(),
            telemetry: BTreeMap::new(),
            backend_tls: BTreeMap::new(),
            keys: FetchedKeys::new(),
            classes: BTreeMap::new(),
            gateways: BTreeMap::new(),
            class_defaults: BTreeMap::new(),
            config_maps: BTreeMap::new(),
            routes: BTreeMap::new(),
            service_conditions: HashMap::new(),
            unreadable: BTreeMap::new(),
            attached: OnceLock::new(),
            pods_by_node: HashMap::new(),
            pods_by_label: PairIndex::default(),
            services_by_pair: PairIndex::default(),
            slices_by_service: HashMap::new(),
            slices_by_pod: HashMap::new(),
        }
    }

    /// Whether the objects of a namespace are seen.
    pub(super) fn in_scope(&self, namespace: &Text) -> bool {
        let selectors = &self.config.discovery_selectors;
        selectors.is_empty()
            || self
                .namespaces
                .get(namespace)
                .is_some_and(|ns| in_scope(selectors, &ns.labels))
    }

    /// Replaces a pod; gives the old facts.
    pub(super) fn set_pod(&mut self, key: &ObjectKey, new: Option<PodFacts>) -> Option<PodFacts> {
        if let Some(old) = self.pods.get(key) {
            self.pods_by_label.remove(key, &old.labels);
            remove_from(&mut self.pods_by_node, &old.node, key);
        }
        let Some(new) = new else {
            return self.pods.remove(key);
        };
        self.pods_by_label.insert(key, &new.labels);
        if !new.node.is_empty() {
            self.pods_by_node
                .entry(new.node.clone())
                .or_default()
                .insert(key.clone());
        }
        self.pods.insert(key.clone(), new)
    }

    /// Replaces a service; gives the old facts.
    pub(super) fn set_service(
        &mut self,
        key: &ObjectKey,
        new: Option<ServiceFacts>,
    ) -> Option<ServiceFacts> {
        if let Some(old) = self.services.get(key) {
            // One pair is enough to find it by: a pod that it selects has all of them.
            self.services_by_pair
                .remove(key, old.selector.iter().take(1));
        }
        let Some(new) = new else {
            return self.services.remove(key);
        };
        self.services_by_pair
            .insert(key, new.selector.iter().take(1));
        self.services.insert(key.clone(), new)
    }

    /// Replaces a slice; gives the old facts.
    pub(super) fn set_slice(
        &mut self,
        key: &ObjectKey,
        new: Option<SliceFacts>,
    ) -> Option<SliceFacts> {
        if let Some(old) = self.slices.get(key) {
            remove_from(&mut self.slices_by_service, &old.service, key);
            for pod in old.endpoints.iter().filter_map(|e| e.pod.as_ref()) {
                remove_from(&mut self.slices_by_pod, pod, key);
            }
        }
        let Some(new) = new else {
            return self.slices.remove(key);
        };
        self.slices_by_service
            .entry(new.service.clone())
            .or_default()
            .insert(key.clone());
        for pod in new.endpoints.iter().filter_map(|e| e.pod.as_ref()) {
            self.slices_by_pod
                .entry(pod.clone())
                .or_default()
                .insert(key.clone());
        }
        self.slices.insert(key.clone(), new)
    }

    /// Pods on a node.
    pub(super) fn pods_on(&self, node: &Text) -> impl Iterator<Item = &PodFacts> {
        self.pods_by_node
            .get(node)
            .into_iter()
            .flatten()
            .filter_map(|key| self.pods.get(key))
    }

    /// Pods of a namespace that a selector selects; a selector without pairs selects all.
    pub(super) fn pods_selected<'a>(
        &'a self,
        namespace: &'a Text,
        selector: &'a Labels,
    ) -> Box<dyn Iterator<Item = &'a PodFacts> + 'a> {
        match self.pods_by_label.candidates(namespace, selector) {
            None => Box::new(in_namespace(&self.pods, namespace).map(|(_, pod)| pod)),
            Some(names) => Box::new(
                names
                    .into_iter()
                    .filter_map(|name| {
                        self.pods.get(&ObjectKey {
                            namespace: namespace.clone(),
                            name: name.clone(),
                        })
                    })
                    .filter(|pod| selects(selector, &pod.labels)),
            ),
        }
    }

    /// Services whose selector selects a pod.
    pub(super) fn services_selecting<'a>(
        &'a self,
        pod: &'a PodFacts,
    ) -> impl Iterator<Item = &'a ServiceFacts> {
        let namespace = &pod.key.namespace;
        self.services_by_pair
            .any(namespace, &pod.labels)
            .filter_map(|name| {
                self.services.get(&ObjectKey {
                    namespace: namespace.clone(),
                    name: name.clone(),
                })
            })
            .filter(|service| selects(&service.selector, &pod.labels))
    }

    /// Slices of services without selector that list a pod, with their services.
    pub(super) fn slices_listing<'a>(
        &'a self,
        pod: &ObjectKey,
    ) -> impl Iterator<Item = (&'a ServiceFacts, &'a SliceFacts)> {
        self.slices_by_pod
            .get(pod)
            .into_iter()
            .flatten()
            .filter_map(|key| {
                let slice = self.slices.get(key)?;
                let service = self.services.get(&slice.service)?;
                service.selector.is_empty().then_some((service, slice))
            })
    }

    /// Slices of a service.
    pub(super) fn slices_of(&self, service: &ObjectKey) -> impl Iterator<Item = &SliceFacts> {
        self.slices_by_service
            .get(service)
            .into_iter()
            .flatten()
            .filter_map(|key| self.slices.get(key))
    }

    /// Policies of a namespace that count: of this revision, in a namespace that is seen.
    pub(super) fn active_policies<'a>(
        &'a self,
        namespace: &'a Text,
    ) -> impl Iterator<Item = &'a PolicyEntry> {
        in_namespace(&self.policies, namespace)
            .map(|(_, entry)| entry)
            .filter(|entry| self.is_active(&entry.facts.key, &entry.facts.labels))
    }

    /// `PeerAuthentication`s of a namespace that count.
    pub(super) fn active_peers<'a>(
        &'a self,
        namespace: &'a Text,
    ) -> impl Iterator<Item = &'a PeerFacts> {
        in_namespace(&self.peers, namespace)
            .map(|(_, entry)| &entry.facts)
            .filter(|facts| self.is_active(&facts.key, &facts.labels))
    }

    /// Whether a configuration object counts.
    pub(super) fn is_active(&self, key: &ObjectKey, labels: &Labels) -> bool {
        self.mesh.owns(labels) && self.in_scope(&key.namespace)
    }
}

/// Entries of a namespace.
pub(super) fn in_namespace<'a, T>(
    table: &'a BTreeMap<ObjectKey, T>,
    namespace: &'a Text,
) -> impl Iterator<Item = (&'a ObjectKey, &'a T)> {
    let first = ObjectKey {
        namespace: namespace.clone(),
        name: "".into(),
    };
    table
        .range((Bound::Included(first), Bound::Unbounded))
        .take_while(move |(key, _)| key.namespace == *namespace)
}

fn remove_from<K: std::hash::Hash + Eq>(
    index: &mut HashMap<K, BTreeSet<ObjectKey>>,
    key: &K,
    object: &ObjectKey,
) {
    if let Some(objects) = index.get_mut(key) {
        objects.remove(object);
        if objects.is_empty() {
            index.remove(key);
        }
    }
}
