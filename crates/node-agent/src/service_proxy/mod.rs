//! Service addresses on a node: what kube-proxy does, with nftables.
//!
//! Services and EndpointSlices become plain [`rules`], those become the
//! content of nftables tables ([`render`]), and the difference to what is in
//! force becomes one atomic transaction ([`state`]).

mod conntrack;
mod health;
pub mod render;
pub mod rules;
pub mod state;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Client;
use kube::api::Api;
use kube::runtime::watcher;
use parking_lot::Mutex;
use tokio::task::JoinSet;

use crate::informer::{Cache, ObjectKey, Queue};
use crate::nft::{self, Family, NftError};
use health::Health;
use render::Place;
use state::State;

/// Label that names the service of a slice.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// What the proxy needs to know of its node.
#[derive(Debug, Clone, Default)]
pub struct ServiceProxyConfig {
    /// The node's name, for traffic that stays on its node; without it every
    /// endpoint is as near.
    pub node_name: Option<String>,
    /// The node's addresses, where node ports answer; without there are none.
    pub node_addresses: Vec<IpAddr>,
    /// Addresses of the node's pods.
    pub pod_subnets: Vec<IpNet>,
    /// The versions of IP that the cluster uses.
    pub families: Vec<Family>,
}

impl ServiceProxyConfig {
    fn place(&self, family: Family) -> Place {
        let ours = |net: &&IpNet| Family::of(net.addr()) == family;
        Place {
            address: self
                .node_addresses
                .iter()
                .copied()
                .find(|address| Family::of(*address) == family),
            pods: self.pod_subnets.iter().filter(ours).copied().collect(),
        }
    }
}

/// Why the proxy cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ServiceProxyError {
    /// The rules were refused, or `nft` is not there.
    #[error("service rules were not applied: {0}")]
    Apply(#[from] NftError),
    /// The worker ended, which only a defect can cause.
    #[error("the service proxy ended unexpectedly")]
    Ended,
}

/// Keeps the rules of the calling network namespace true until dropped.
///
/// # Errors
/// When the very first transaction fails: then nothing here can work. Later
/// failures are logged and tried again from scratch.
pub async fn run(client: Client, config: ServiceProxyConfig) -> Result<(), ServiceProxyError> {
    let proxy = Arc::new(Proxy::new(config).await?);
    let mut tasks = JoinSet::new();
    let everything = watcher::Config::default;
    let (services, slices) = (proxy.services.clone(), proxy.slices.clone());
    tasks.spawn(services.clone().run(Api::all(client.clone()), everything()));
    tasks.spawn(slices.clone().run(Api::all(client), everything()));
    services.synced().await;
    slices.synced().await;
    proxy.wake.add(());
    proxy
        .wake
        .work("service proxy", |()| proxy.reconcile())
        .await;
    Err(ServiceProxyError::Ended)
}

struct Proxy {
    config: ServiceProxyConfig,
    services: Arc<Cache<Service>>,
    slices: Arc<Cache<EndpointSlice>>,
    /// Services to look at again.
    changed: Arc<Mutex<BTreeSet<ObjectKey>>>,
    wake: Arc<Queue<()>>,
    /// What is in force; unknown while a transaction runs, and after one failed.
    current: Mutex<Option<Vec<State>>>,
    health: Health,
}

impl Proxy {
    /// A proxy with empty rules, in force, that hears of changes.
    async fn new(config: ServiceProxyConfig) -> Result<Self, ServiceProxyError> {
        let (states, script) = empty(&config);
        nft::apply(&script).await?;
        let (services, slices) = (Cache::<Service>::new(), Cache::<EndpointSlice>::new());
        let (changed, wake) = (Arc::<Mutex<BTreeSet<ObjectKey>>>::default(), Queue::new());
        let (all, waker) = (changed.clone(), wake.clone());
        services.on_change(move |old, new| {
            if let Some(service) = new.or(old) {
                all.lock().insert(ObjectKey::of(service));
                waker.add(());
            }
        });
        let (all, waker) = (changed.clone(), wake.clone());
        slices.on_change(move |old, new| {
            all.lock()
                .extend([old, new].into_iter().flatten().map(service_of));
            waker.add(());
        });
        Ok(Self {
            config,
            services,
            slices,
            changed,
            wake,
            current: Mutex::new(Some(states)),
            health: Health::default(),
        })
    }

    /// One transaction for all services that changed since the last.
    async fn reconcile(&self) -> Result<(), ServiceProxyError> {
        let known = self.current.lock().take();
        let changed = std::mem::take(&mut *self.changed.lock());
        let (mut states, mut script, changed) = match known {
            Some(states) => (states, String::new(), changed),
            None => {
                let (states, script) = empty(&self.config);
                let all = self.services.list();
                let all = all.iter().map(|service| ObjectKey::of(&**service));
                (states, script, all.collect())
            }
        };
        let mut stale = conntrack::Stale::default();
        for state in &mut states {
            let ports = self.ports(state.family(), &changed);
            stale.note(state, &ports);
            script.push_str(&state.update(ports));
        }
        if !script.is_empty() {
            tracing::debug!("{} services changed", changed.len());
        }
        nft::apply(&script).await?;
        self.current.lock().replace(states);
        stale.forget().await;
        for key in &changed {
            self.check_health(key);
        }
        Ok(())
    }

    fn check_health(&self, key: &ObjectKey) {
        let current = self.current.lock();
        let ports = current.iter().flatten().flat_map(|state| state.ports(key));
        let local: BTreeSet<_> = ports
            .flat_map(|port| &port.local)
            .map(|endpoint| endpoint.ip())
            .collect();
        let service = self.services.get(key);
        let addresses = &self.config.node_addresses;
        self.health
            .follow(key, service.as_deref(), local.len(), addresses);
    }

    fn ports(
        &self,
        family: Family,
        changed: &BTreeSet<ObjectKey>,
    ) -> BTreeMap<ObjectKey, Vec<rules::Port>> {
        let node = self.config.node_name.as_deref();
        let describe = |key: &ObjectKey| {
            let service = self.services.get(key);
            let ports = service.map(|service| {
                let slices = slices_of(&self.slices, key);
                let slices: Vec<_> = slices.iter().map(|slice| &**slice).collect();
                rules::ports(&service, &slices, family, node)
            });
            (key.clone(), ports.unwrap_or_default())
        };
        changed.iter().map(describe).collect()
    }
}

/// No services, in each family.
fn empty(config: &ServiceProxyConfig) -> (Vec<State>, String) {
    let each = config.families.iter();
    let each = each.map(|family| State::new(*family, config.place(*family)));
    let (states, scripts): (Vec<_>, Vec<_>) = each.unzip();
    (states, scripts.concat())
}

fn service_of(slice: &EndpointSlice) -> ObjectKey {
    let labels = slice.metadata.labels.as_ref();
    let name = labels.and_then(|labels| labels.get(SERVICE_NAME));
    let namespace = slice.metadata.namespace.clone().unwrap_or_default();
    ObjectKey::new(namespace, name.cloned().unwrap_or_default())
}

fn slices_of(slices: &Cache<EndpointSlice>, key: &ObjectKey) -> Vec<Arc<EndpointSlice>> {
    let mut all = slices.in_namespace(&key.namespace);
    all.retain(|slice| service_of(slice) == *key);
    all
}

#[cfg(test)]
mod tests;
