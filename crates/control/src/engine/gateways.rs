//! Gateways: which objects they bind, and what they are made of.

use std::collections::BTreeSet;

use ambit_kube_api::gateway_api::gateway::GatewayStatus;
use ambit_kube_api::status::Condition;
use ambit_kube_api::{annotations, labels};
use ambit_model::Text;
use ambit_model::workload::GatewayAddress;
use ambit_translate::gateway_status::Made;
use ambit_translate::overlays::{ClassDefaults, Overlay};
use ambit_translate::waypoints::{self, Refusal, Subject, Traffic};
use ambit_translate::{ClassFacts, GatewayFacts, Labels, ObjectKey, PodFacts, ServiceFacts};

use super::tables::{ClassEntry, GatewayEntry, Tables, in_namespace};
use super::{ConfigMapData, Engine, Kind, Observed};

/// What became of a label that asks for a waypoint.
pub(super) type Binding = Result<(ObjectKey, GatewayAddress), Refusal>;

/// A waypoint that is to be made.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    /// The gateway.
    pub gateway: GatewayFacts,
    /// What is changed about its objects, in this order.
    pub overlays: Vec<Overlay>,
    /// Applications are told who the caller is.
    pub shows_caller: bool,
}

/// What is changed about the objects of a gateway.
enum Parameters {
    Known(Vec<Overlay>),
    /// A ConfigMap that it names has not been read yet.
    Waiting,
    /// It cannot be made, for this reason.
    Unusable(String),
}

impl Engine {
    /// Waypoints that are to be made, as they are to be.
    pub fn waypoints(&self) -> Vec<Wanted> {
        let tables = &self.tables;
        let ours = tables.gateways.values().filter(|entry| {
            let facts = &entry.facts;
            tables.is_waypoint(facts)
                && !facts.terminating
                && tables.is_active(&facts.key, &facts.labels)
        });
        let wanted = ours.filter_map(|entry| match tables.parameters(&entry.facts) {
            Parameters::Known(overlays) => Some(Wanted {
                gateway: entry.facts.clone(),
                overlays,
                shows_caller: tables.shows_caller(&entry.facts),
            }),
            Parameters::Waiting | Parameters::Unusable(_) => None,
        });
        wanted.collect()
    }

    /// ConfigMaps that objects name.
    pub fn config_maps(&self) -> BTreeSet<ObjectKey> {
        let gateways = self.tables.gateways.values();
        let parameters = gateways.filter_map(|entry| parameters_of(&entry.facts)?.ok());
        let mut maps = self.tables.authority_maps();
        maps.extend(parameters);
        maps
    }

    /// Others may be named than before.
    pub(super) fn config_maps_differ(&mut self) {
        self.dirty.config_maps = true;
        let wanted = self.config_maps();
        let held = &mut self.tables.config_maps;
        held.retain(|key, _| wanted.contains(key));
    }

    pub(super) fn class_defaults(&mut self, key: ObjectKey, defaults: Option<ClassDefaults>) {
        let table = &mut self.tables.class_defaults;
        match defaults {
            Some(defaults) => drop(table.insert(key, defaults)),
            None => drop(table.remove(&key)),
        }
        self.gateways_differ();
    }

    pub(super) fn config_map(&mut self, key: ObjectKey, data: Option<ConfigMapData>) {
        self.backend_tls_of(&key.namespace);
        self.tables.config_maps.insert(key, data);
        self.gateways_differ();
    }

    /// What gateways are made of may be something else.
    fn gateways_differ(&mut self) {
        self.dirty.gateways = true;
        for key in self.tables.gateways.keys().cloned().collect::<Vec<_>>() {
            self.stale_statuses.object(Kind::Gateway, &key);
        }
    }

    /// Classes that we know of.
    pub fn has_class(&self, name: &str) -> bool {
        self.tables.classes.contains_key(name)
    }

    pub(super) fn class(&mut self, name: Text, observed: Option<Observed<ClassFacts>>) {
        let key = ObjectKey::new("", name.clone());
        self.stale_statuses.object(Kind::GatewayClass, &key);
        let new = observed.map(|Observed { facts, status }| ClassEntry {
            facts,
            conditions: status,
        });
        let facts = new.as_ref().map(|entry| entry.facts.clone());
        let old = match new {
            Some(new) => self.tables.classes.insert(name.clone(), new),
            None => self.tables.classes.remove(&name),
        };
        if old.map(|entry| entry.facts) == facts {
            return;
        }
        self.dirty.gateways = true;
        let of_class = |entry: &&GatewayEntry| *entry.facts.spec.gateway_class_name == *name;
        let gateways = self.tables.gateways.values().filter(of_class);
        for key in gateways
            .map(|entry| entry.facts.key.clone())
            .collect::<Vec<_>>()
        {
            self.stale_statuses.object(Kind::Gateway, &key);
            self.mark_bound(&key);
        }
    }

    pub(super) fn gateway(
        &mut self,
        key: ObjectKey,
        observed: Option<Observed<GatewayFacts, GatewayStatus>>,
    ) {
        self.stale_statuses.object(Kind::Gateway, &key);
        let understood = self.tables.mesh.legacy_waypoint;
        let new = observed.map(|Observed { facts, status }| GatewayEntry {
            facts: if understood {
                facts.modernized()
            } else {
                facts
            },
            status,
        });
        let facts = new.as_ref().map(|entry| entry.facts.clone());
        let old = match new {
            Some(new) => self.tables.gateways.insert(key.clone(), new),
            None => self.tables.gateways.remove(&key),
        };
        let old = old.map(|entry| entry.facts);
        if old == facts {
            return;
        }
        if understood && old.iter().chain(&facts).any(GatewayFacts::is_legacy) {
            // No label says what it is for.
            self.mark_namespace(&key.namespace);
            self.relabelled(&key.namespace);
        }
        self.dirty.gateways = true;
        self.config_maps_differ();
        self.stale_statuses.namespace(&key.namespace);
        self.mark_bound(&key);
    }

    /// Marks what asks for a gateway.
    fn mark_bound(&mut self, gateway: &ObjectKey) {
        if !self.waiting_for.is_empty() {
            return;
        }
        let tables = &self.tables;
        let asks = |subject: Subject<'_>| {
            waypoints::wanted(&subject).is_some_and(|wanted| wanted.gateway == *gateway)
        };
        let services = tables.services.values();
        let services =
            services.filter(|s| asks(tables.subject(Traffic::Service, &s.key, &s.labels)));
        let services: Vec<ObjectKey> = services.map(|s| s.key.clone()).collect();
        let pods = tables.pods.values();
        let pods = pods.filter(|p| asks(tables.subject(Traffic::Workload, &p.key, &p.labels)));
        self.dirty.pods.extend(pods.map(|p| p.key.clone()));
        for key in services {
            // Their pods may be guarded by another policy: see `last_hop`.
            let behind = tables.services.get(&key).map(|s| tables.pods_behind(s));
            self.dirty.pods.extend(behind.unwrap_or_default());
            self.stale_statuses.object(Kind::Service, &key);
            self.dirty.services.insert(key);
        }
    }

    /// Labels of a namespace have changed: what they ask of its objects may be something else now.
    pub(super) fn relabelled(&mut self, namespace: &Text) {
        let tables = &self.tables;
        let pods = in_namespace(&tables.pods, namespace).map(|(key, _)| key.clone());
        self.dirty.pods.extend(pods);
        let services = in_namespace(&tables.services, namespace).map(|(key, _)| key.clone());
        for key in services.collect::<Vec<_>>() {
            self.stale_statuses.object(Kind::Service, &key);
        }
        self.stale_statuses.namespace(namespace);
    }
}

impl Tables {
    pub(super) fn is_waypoint(&self, facts: &GatewayFacts) -> bool {
        facts.is_waypoint(self.class_of(facts)) || (self.mesh.legacy_waypoint && facts.is_legacy())
    }

    /// The waypoint of the first release that is for an object: the namespace's, and for a workload
    /// that of its service account.
    fn legacy<'a>(&'a self, traffic: Traffic, key: &'a ObjectKey) -> Option<&'a ObjectKey> {
        if !self.mesh.legacy_waypoint {
            return None;
        }
        let account = match traffic {
            Traffic::Service => None,
            Traffic::Workload => Some(&self.pods.get(key)?.service_account),
        };
        let is_for = |entry: &GatewayEntry| {
            let named = entry
                .facts
                .annotations
                .get(annotations::LEGACY_SERVICE_ACCOUNT);
            entry.facts.is_legacy()
                && (account.is_none() || named.is_none() || named == account)
                && !entry.facts.terminating
        };
        let gateways = in_namespace(&self.gateways, &key.namespace);
        let mut ours = gateways.filter(|(_, entry)| is_for(entry));
        ours.next().map(|(key, _)| key)
    }

    fn class_of(&self, facts: &GatewayFacts) -> Option<&ClassFacts> {
        let entry = self.classes.get(&*facts.spec.gateway_class_name)?;
        Some(&entry.facts)
    }

    pub(super) fn subject<'a>(
        &'a self,
        traffic: Traffic,
        key: &'a ObjectKey,
        labels: &'a Labels,
    ) -> Subject<'a> {
        static NONE: Labels = Labels::new();
        Subject {
            traffic,
            legacy: self.legacy(traffic, key),
            namespace: &key.namespace,
            labels,
            namespace_labels: self
                .namespaces
                .get(&key.namespace)
                .map_or(&NONE, |ns| &ns.labels),
        }
    }

    fn bind(&self, subject: &Subject<'_>) -> Option<Binding> {
        waypoints::bind(&self.mesh, subject, |key| {
            let facts = &self.gateways.get(key)?.facts;
            Some((facts, self.class_of(facts)))
        })
    }

    /// The waypoint of a service.
    pub(super) fn service_binding(&self, service: &ServiceFacts) -> Option<Binding> {
        self.bind(&self.subject(Traffic::Service, &service.key, &service.labels))
    }

    /// The waypoint of a pod, for what is addressed to the pod itself.
    pub(super) fn pod_binding(&self, pod: &PodFacts) -> Option<Binding> {
        self.bind(&self.subject(Traffic::Workload, &pod.key, &pod.labels))
    }

    /// The service belongs to a gateway.
    pub(super) fn is_of_gateway(&self, key: &ObjectKey) -> bool {
        self.services
            .get(key)
            .is_some_and(|s| s.labels.contains_key(labels::GATEWAY_MANAGED))
    }

    /// What is changed about the objects of a gateway: for all of its class, then for it alone.
    fn parameters(&self, facts: &GatewayFacts) -> Parameters {
        let class = &facts.spec.gateway_class_name;
        let defaults = self.class_defaults.values();
        let defaults = defaults.filter(|defaults| *defaults.class == **class);
        let oldest = defaults.min_by_key(|defaults| (defaults.created, &defaults.key));
        let mut found: Vec<(&ObjectKey, &ConfigMapData)> = Vec::new();
        found.extend(oldest.map(|defaults| (&defaults.key, &defaults.data)));
        let own = match parameters_of(facts).transpose() {
            Ok(own) => own,
            Err(why) => return Parameters::Unusable(why),
        };
        if let Some(own) = &own {
            match self.config_maps.get_key_value(own) {
                None => return Parameters::Waiting,
                Some((_, None)) => {
                    return Parameters::Unusable(format!("ConfigMap {own} is not there"));
                }
                Some((key, Some(data))) => found.push((key, data)),
            }
        }
        let overlays = found
            .into_iter()
            .map(|(key, data)| Overlay::read(facts, key, data));
        match overlays.collect() {
            Ok(overlays) => Parameters::Known(overlays),
            Err(why) => Parameters::Unusable(why),
        }
    }

    /// The gateway asks for it, or else its class.
    fn shows_caller(&self, facts: &GatewayFacts) -> bool {
        let infrastructure = facts.spec.infrastructure.as_ref();
        let given = infrastructure.and_then(|i| i.annotations.get(annotations::SHOW_CALLER));
        let own = facts.annotations.get(annotations::SHOW_CALLER);
        let class = self.class_of(facts);
        let of_class = class.and_then(|class| class.annotations.get(annotations::SHOW_CALLER));
        let said = given.map(String::as_str).or(own.or(of_class).map(|t| &**t));
        said == Some("true")
    }

    /// Why a gateway cannot be made as its parameters ask.
    pub(super) fn unusable(&self, facts: &GatewayFacts) -> Option<String> {
        match self.parameters(facts) {
            Parameters::Unusable(why) => Some(why),
            Parameters::Known(_) | Parameters::Waiting => None,
        }
    }

    /// What a waypoint consists of now.
    pub(super) fn made<'a>(&'a self, facts: &GatewayFacts, unusable: Option<&'a str>) -> Made<'a> {
        let name = ambit_translate::waypoints::object_name(facts);
        let key = ObjectKey::new(facts.key.namespace.clone(), name);
        let service = self.services.get(&key);
        let ready = service.map(|service| {
            let pods = self.pods_selected(&service.key.namespace, &service.selector);
            pods.filter(|pod| pod.ready && !pod.ended).count()
        });
        Made {
            service,
            ready_pods: ready.unwrap_or_default(),
            unusable,
        }
    }

    /// Keeps the conditions of a service, if it has any.
    pub(super) fn note_conditions(&mut self, key: &ObjectKey, conditions: Vec<Condition>) {
        match conditions.is_empty() {
            true => drop(self.service_conditions.remove(key)),
            false => drop(self.service_conditions.insert(key.clone(), conditions)),
        }
    }
}

/// The ConfigMap that a gateway names.
///
/// # Errors
/// It names something else.
fn parameters_of(facts: &GatewayFacts) -> Option<Result<ObjectKey, String>> {
    let named = facts
        .spec
        .infrastructure
        .as_ref()?
        .parameters_ref
        .as_ref()?;
    let is_map = named.group.is_empty() && named.kind == "ConfigMap";
    Some(match is_map {
        true => Ok(ObjectKey::new(
            facts.key.namespace.clone(),
            named.name.as_str(),
        )),
        false => Err(format!(
            "{} of {:?} is no ConfigMap, which parametersRef must name",
            named.kind, named.group
        )),
    })
}
