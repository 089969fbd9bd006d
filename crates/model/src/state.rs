//! What one proxy knows of the mesh, indexed for its questions.
//!
//! Always true: every index entry belongs to a workload, service or policy that is held; an
//! update of a workload leaves nothing of its former version behind; endpoints of a service may
//! come before the service and outlive its replacement; workloads of the node's network are never
//! found by address.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::policy::{Authorization, PolicyScope};
use crate::service::{HealthPolicy, NamespacedHostname, Visibility};
use crate::workload::{HealthStatus, NetworkMode, Protocol};
use crate::{Service, Text, Workload};

/// One change of the state.
#[derive(Clone, Debug)]
pub enum Change {
    /// A workload is new, or different.
    Workload(Arc<Workload>),
    /// A service is new, or different.
    Service(Arc<Service>),
    /// A policy is new, or different.
    Policy(Arc<Authorization>),
    /// What has this name, a workload's uid or `namespace/hostname` of a service, is gone.
    RemoveAddress(Text),
    /// The policy of this key is gone.
    RemovePolicy(Text),
}

/// Endpoints by uid.
pub type Endpoints = BTreeMap<Text, Arc<Workload>>;

/// A service, as far as it is known, and what serves it.
#[derive(Clone, Debug, Default)]
pub struct ServiceEntry {
    service: Option<Arc<Service>>,
    endpoints: Endpoints,
}

impl ServiceEntry {
    /// The service; `None` while only endpoints have named it.
    pub fn service(&self) -> Option<&Arc<Service>> {
        self.service.as_ref()
    }

    /// The workloads that may receive its traffic, whatever their ports.
    pub fn endpoints(&self) -> impl Iterator<Item = &Arc<Workload>> {
        let all = self
            .service
            .as_ref()
            .and_then(|s| s.load_balancing.as_ref())
            .is_some_and(|lb| lb.health_policy == HealthPolicy::AllowAll);
        self.endpoints
            .values()
            .filter(move |w| all || w.status == HealthStatus::Healthy)
    }
}

/// Workloads that share an address, the one that is found first.
#[derive(Clone, Debug)]
enum AtAddress {
    One(Arc<Workload>),
    Several(Vec<Arc<Workload>>),
}

type ByNetwork<T> = HashMap<Text, HashMap<IpAddr, T>>;

/// What an address stands for.
#[derive(Clone, Debug)]
pub enum Found<'a> {
    /// A workload.
    Workload(&'a Arc<Workload>),
    /// A service.
    Service(&'a Arc<Service>, &'a ServiceEntry),
}

/// The state. See the module's description for what always holds.
#[derive(Clone, Debug, Default)]
pub struct MeshState {
    /// Only workloads of this node are found by name; all are, when it is `None`.
    node: Option<Text>,
    workloads: HashMap<Text, Arc<Workload>>,
    by_address: ByNetwork<AtAddress>,
    by_hostname: HashMap<Text, Endpoints>,
    local: HashMap<(Text, Text), Endpoints>,
    services: HashMap<NamespacedHostname, ServiceEntry>,
    owners: HashMap<Text, Vec<NamespacedHostname>>,
    vips: ByNetwork<Vec<NamespacedHostname>>,
    ranges: Vec<(Text, IpNet, NamespacedHostname)>,
    policies: HashMap<Text, Arc<Authorization>>,
    namespace_policies: HashMap<Text, BTreeMap<Text, Arc<Authorization>>>,
    global_policies: BTreeMap<Text, Arc<Authorization>>,
}

impl MeshState {
    /// An empty state for a proxy on `node`.
    pub fn new(node: Option<Text>) -> Self {
        Self {
            node,
            ..Self::default()
        }
    }

    /// Applies one change.
    pub fn apply(&mut self, change: &Change) {
        match change {
            Change::Workload(w) => self.insert_workload(w.clone()),
            Change::Service(s) => self.insert_service(s.clone()),
            Change::Policy(p) => self.insert_policy(p.clone()),
            Change::RemoveAddress(name) => self.remove_address(name),
            Change::RemovePolicy(key) => self.remove_policy(key),
        }
    }

    fn insert_workload(&mut self, w: Arc<Workload>) {
        self.remove_workload(&w.uid.clone());
        if w.network_mode != NetworkMode::HostNetwork {
            let network = self.by_address.entry(w.network.clone()).or_default();
            for ip in &w.addresses {
                match network.get_mut(ip) {
                    Some(at) => at.insert(w.clone()),
                    None => {
                        network.insert(*ip, AtAddress::One(w.clone()));
                    }
                }
            }
        }
        if !w.hostname.is_empty() {
            let named = self.by_hostname.entry(w.hostname.clone()).or_default();
            named.insert(w.uid.clone(), w.clone());
        }
        if self.is_local(&w) {
            let named = self
                .local
                .entry((w.namespace.clone(), w.name.clone()))
                .or_default();
            named.insert(w.uid.clone(), w.clone());
        }
        for key in w.services.keys() {
            let entry = self.services.entry(key.clone()).or_default();
            entry.endpoints.insert(w.uid.clone(), w.clone());
        }
        self.workloads.insert(w.uid.clone(), w);
    }

    fn remove_workload(&mut self, uid: &str) -> Option<Arc<Workload>> {
        let w = self.workloads.remove(uid)?;
        if let Some(network) = self.by_address.get_mut(&w.network) {
            for ip in &w.addresses {
                if network.get_mut(ip).is_some_and(|at| at.remove(uid)) {
                    network.remove(ip);
                }
            }
            if network.is_empty() {
                self.by_address.remove(&w.network);
            }
        }
        remove_named(&mut self.by_hostname, &w.hostname, uid);
        remove_named(&mut self.local, &(w.namespace.clone(), w.name.clone()), uid);
        for key in w.services.keys() {
            if let Some(entry) = self.services.get_mut(key) {
                entry.endpoints.remove(uid);
                if entry.endpoints.is_empty() && entry.service.is_none() {
                    self.services.remove(key);
                }
            }
        }
        Some(w)
    }

    fn insert_service(&mut self, s: Arc<Service>) {
        let key = s.key();
        self.unindex_service(&key);
        for vip in &s.vips {
            let owners = self.vips.entry(vip.network.clone()).or_default();
            let owners = owners.entry(vip.address).or_default();
            if !owners.contains(&key) {
                owners.push(key.clone());
            }
        }
        for range in &s.cidr_vips {
            self.ranges
                .push((range.network.clone(), range.cidr, key.clone()));
        }
        self.owners
            .entry(key.hostname.clone())
            .or_default()
            .push(key.clone());
        self.services.entry(key).or_default().service = Some(s);
    }

    /// Takes a service out of every index; its endpoints stay.
    fn unindex_service(&mut self, key: &NamespacedHostname) {
        let Some(entry) = self.services.get_mut(key) else {
            return;
        };
        let Some(service) = entry.service.take() else {
            return;
        };
        for vip in &service.vips {
            let Some(network) = self.vips.get_mut(&vip.network) else {
                continue;
            };
            let Some(owners) = network.get_mut(&vip.address) else {
                continue;
            };
            owners.retain(|owner| owner != key);
            if owners.is_empty() {
                network.remove(&vip.address);
            }
        }
        if !service.cidr_vips.is_empty() {
            self.ranges.retain(|(_, _, owner)| owner != key);
        }
        if let Some(owners) = self.owners.get_mut(&key.hostname) {
            owners.retain(|owner| owner != key);
            if owners.is_empty() {
                self.owners.remove(&key.hostname);
            }
        }
    }

    fn remove_address(&mut self, name: &Text) {
        if self.remove_workload(name).is_some() {
            return;
        }
        let Ok(key) = name.parse::<NamespacedHostname>() else {
            return;
        };
        self.unindex_service(&key);
        if self
            .services
            .get(&key)
            .is_some_and(|entry| entry.endpoints.is_empty())
        {
            self.services.remove(&key);
        }
    }

    fn insert_policy(&mut self, policy: Arc<Authorization>) {
        let key = policy.key();
        self.remove_policy(&key);
        match policy.scope {
            PolicyScope::Global => {
                self.global_policies.insert(key.clone(), policy.clone());
            }
            PolicyScope::Namespace => {
                let named = self
                    .namespace_policies
                    .entry(policy.namespace.clone())
                    .or_default();
                named.insert(key.clone(), policy.clone());
            }
            PolicyScope::WorkloadSelector => {}
        }
        self.policies.insert(key, policy);
    }

    fn remove_policy(&mut self, key: &Text) {
        let Some(policy) = self.policies.remove(key) else {
            return;
        };
        self.global_policies.remove(key);
        if let Some(named) = self.namespace_policies.get_mut(&policy.namespace) {
            named.remove(key);
            if named.is_empty() {
                self.namespace_policies.remove(&policy.namespace);
            }
        }
    }

    /// The workload runs on the proxy's own node.
    pub fn is_local(&self, w: &Workload) -> bool {
        self.node.as_ref().is_none_or(|node| *node == w.node)
    }

    /// The workload of this uid.
    pub fn workload(&self, uid: &str) -> Option<&Arc<Workload>> {
        self.workloads.get(uid)
    }

    /// The workload with this address on this network.
    pub fn workload_at(&self, network: &str, ip: IpAddr) -> Option<&Arc<Workload>> {
        Some(self.by_address.get(network)?.get(&ip)?.best())
    }

    /// The pod of this name and service account, on the proxy's own node.
    pub fn local_workload(
        &self,
        namespace: &Text,
        name: &Text,
        service_account: &str,
    ) -> Option<&Arc<Workload>> {
        let named = self.local.get(&(namespace.clone(), name.clone()))?;
        named
            .values()
            .find(|w| *w.service_account == *service_account)
    }

    /// A service by its key, and its endpoints.
    pub fn service(&self, key: &NamespacedHostname) -> Option<(&Arc<Service>, &ServiceEntry)> {
        let entry = self.services.get(key)?;
        Some((entry.service.as_ref()?, entry))
    }

    /// What owns this address, for the decision about waypoints: workloads come first. Services
    /// that the namespace does not see are not found.
    pub fn find(&self, network: &str, ip: IpAddr, namespace: &str) -> Option<Found<'_>> {
        if let Some(w) = self.workload_at(network, ip) {
            return Some(Found::Workload(w));
        }
        self.service_at(network, ip, namespace)
            .map(|(s, e)| Found::Service(s, e))
    }

    /// The service with this virtual address, or else with a range around it.
    pub fn service_at(
        &self,
        network: &str,
        ip: IpAddr,
        namespace: &str,
    ) -> Option<(&Arc<Service>, &ServiceEntry)> {
        let exact = self.vips.get(network).and_then(|vips| vips.get(&ip));
        let exact = exact
            .into_iter()
            .flatten()
            .filter_map(|key| self.service(key));
        prefer(exact, namespace, None).or_else(|| self.service_around(network, ip, namespace))
    }

    fn service_around(
        &self,
        network: &str,
        ip: IpAddr,
        namespace: &str,
    ) -> Option<(&Arc<Service>, &ServiceEntry)> {
        self.ranges
            .iter()
            .filter(|(on, cidr, _)| **on == *network && cidr.contains(&ip))
            .filter_map(|(_, cidr, key)| Some((cidr.prefix_len(), self.service(key)?)))
            .filter(|(_, (s, _))| is_visible(s, namespace))
            // The first of equals wins, which `max_by_key` alone would not give.
            .rev()
            .max_by_key(|(length, (s, _))| (*s.namespace == *namespace, *length, s.canonical))
            .map(|(_, found)| found)
    }

    /// The service that owns a host name, as the namespace sees it. `preferred` is a namespace
    /// that is taken before the first of several equal owners.
    pub fn service_named(
        &self,
        hostname: &str,
        namespace: &str,
        preferred: Option<&str>,
    ) -> Option<(&Arc<Service>, &ServiceEntry)> {
        let owners = self
            .owners
            .get(hostname)?
            .iter()
            .filter_map(|key| self.service(key));
        prefer(owners, namespace, preferred)
    }

    /// A workload of the namespace that is known by host name.
    pub fn workload_named(&self, key: &NamespacedHostname) -> Option<&Arc<Workload>> {
        let named = self.by_hostname.get(&key.hostname)?;
        named.values().find(|w| w.namespace == key.namespace)
    }

    /// The policies that cover a workload; keys that nothing is known of are skipped.
    pub fn policies_of<'a>(
        &'a self,
        w: &'a Workload,
    ) -> impl Iterator<Item = &'a Authorization> + Clone {
        let of_namespace = self.namespace_policies.get(&w.namespace).into_iter();
        let named = w
            .authorization_policies
            .iter()
            .filter_map(|key| self.policies.get(key));
        // What reaches the workload by its scope is not taken a second time by its name.
        let named = named.filter(|p| p.scope == PolicyScope::WorkloadSelector);
        of_namespace
            .flat_map(|policies| policies.values())
            .chain(self.global_policies.values())
            .chain(named)
            .map(Arc::as_ref)
    }

    /// Keys of policies that a workload names and that are not known.
    pub fn unknown_policies<'a>(&'a self, w: &'a Workload) -> impl Iterator<Item = &'a Text> {
        w.authorization_policies
            .iter()
            .filter(|key| !self.policies.contains_key(*key))
    }

    /// The workloads of the proxy's own node, in no order.
    pub fn local_workloads(&self) -> impl Iterator<Item = &Arc<Workload>> {
        self.local.values().flat_map(|named| named.values())
    }

    /// All workloads, in no order.
    pub fn workloads(&self) -> impl Iterator<Item = &Arc<Workload>> {
        self.workloads.values()
    }

    /// All services with their endpoints, in no order.
    pub fn services(&self) -> impl Iterator<Item = (&Arc<Service>, &ServiceEntry)> {
        self.services
            .values()
            .filter_map(|e| Some((e.service.as_ref()?, e)))
    }

    /// Endpoints of services that are not known, in no order.
    pub fn staged(&self) -> impl Iterator<Item = (&NamespacedHostname, &Endpoints)> {
        self.services
            .iter()
            .filter(|(_, e)| e.service.is_none())
            .map(|(k, e)| (k, &e.endpoints))
    }

    /// All policies, in no order.
    pub fn policies(&self) -> impl Iterator<Item = &Arc<Authorization>> {
        self.policies.values()
    }
}

fn remove_named<K: std::hash::Hash + Eq>(index: &mut HashMap<K, Endpoints>, key: &K, uid: &str) {
    if let Some(named) = index.get_mut(key) {
        named.remove(uid);
        if named.is_empty() {
            index.remove(key);
        }
    }
}

/// The namespace may know of the service.
pub fn is_visible(service: &Service, namespace: &str) -> bool {
    service.visibility == Visibility::Public || *service.namespace == *namespace
}

/// One of several services of the same name or address: the client's own namespace, then the
/// canonical owner, then the preferred namespace, then the first.
fn prefer<'a>(
    candidates: impl Iterator<Item = (&'a Arc<Service>, &'a ServiceEntry)>,
    namespace: &str,
    preferred: Option<&str>,
) -> Option<(&'a Arc<Service>, &'a ServiceEntry)> {
    let rank = |s: &Service| {
        if *s.namespace == *namespace {
            3
        } else if s.canonical {
            2
        } else {
            u8::from(preferred.is_some_and(|p| *s.namespace == *p))
        }
    };
    let mut best = None;
    for (s, e) in candidates.filter(|(s, _)| is_visible(s, namespace)) {
        let rank = rank(s);
        if best.as_ref().is_none_or(|(of_best, _)| rank > *of_best) {
            best = Some((rank, (s, e)));
        }
    }
    best.map(|(_, found)| found)
}

/// Which of the workloads at one address is found: pods before others, tunnels before plaintext.
fn address_rank(w: &Workload) -> u8 {
    let pod = w.uid.contains("//Pod/");
    2 * u8::from(pod) + u8::from(w.protocol == Protocol::Hbone)
}

impl AtAddress {
    fn best(&self) -> &Arc<Workload> {
        match self {
            Self::One(w) => w,
            Self::Several(all) => &all[0],
        }
    }

    /// Adds a workload; the first of equal rank stays in front.
    fn insert(&mut self, w: Arc<Workload>) {
        let mut all = match self {
            Self::One(other) => vec![other.clone()],
            Self::Several(all) => std::mem::take(all),
        };
        let rank = address_rank(&w);
        let at = all
            .iter()
            .position(|other| address_rank(other) < rank)
            .unwrap_or(all.len());
        all.insert(at, w);
        *self = Self::Several(all);
    }

    /// Removes a workload; true if none is left.
    fn remove(&mut self, uid: &str) -> bool {
        match self {
            Self::One(w) => *w.uid == *uid,
            Self::Several(all) => {
                all.retain(|w| *w.uid != *uid);
                match &all[..] {
                    [] => return true,
                    [last] => *self = Self::One(last.clone()),
                    _ => {}
                }
                false
            }
        }
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
