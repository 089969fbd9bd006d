//! NetworkPolicy, enforced on a node with nftables.
//!
//! Policies, pods and namespaces become a [`plan`], the plan becomes the
//! content of nftables tables ([`render`]), and the difference to what is in
//! force becomes one atomic transaction. A pod is admitted before its first
//! container starts: by then every policy that was there before the pod is in
//! force for it.

pub mod plan;
pub mod policy;
pub mod render;

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Namespace, Pod as PodObject};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::Client;
use kube::api::{Api, ListParams};
use kube::runtime::watcher;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::informer::{Cache, ObjectKey, Queue};
use crate::nft::{self, Family, NftError, Objects};
use plan::{Labels, Pod};
use policy::Policy;

/// How long a pod waits for its policies to be in force.
const PATIENCE: Duration = Duration::from_secs(20);

/// Why policies are not enforced.
#[derive(Debug, thiserror::Error)]
pub enum NetworkPolicyError {
    /// The rules were refused, or `nft` is not there.
    #[error("network policies were not applied: {0}")]
    Apply(#[from] NftError),
    /// The policies for a pod cannot be read.
    #[error("network policies of namespace {namespace}: {source}")]
    Read {
        /// The pod's namespace.
        namespace: String,
        /// The API server's answer.
        #[source]
        source: Box<kube::Error>,
    },
    /// The rules for a pod did not come into force.
    #[error("network policies were not in force after {} s", PATIENCE.as_secs())]
    Late,
    /// The worker ended, which only a defect can cause.
    #[error("the enforcement of network policies ended unexpectedly")]
    Ended,
}

/// The policies of a node.
pub struct NetworkPolicies {
    client: Client,
    node: String,
    families: Vec<Family>,
    policies: Arc<Cache<NetworkPolicy>>,
    pods: Arc<Cache<PodObject>>,
    namespaces: Arc<Cache<Namespace>>,
    /// Pods of this node whose addresses the API may not know yet, by UID.
    admitted: Mutex<BTreeMap<String, Pod>>,
    wake: Arc<Queue<()>>,
    /// Counts what is to come into force, and how far that is.
    wanted: AtomicU64,
    applied: watch::Sender<u64>,
    /// What is in force, by family; unknown at first, while a transaction
    /// runs, and after one failed.
    current: Mutex<Option<Vec<Objects>>>,
}

impl NetworkPolicies {
    /// The policies of the node `node`; enforced once [`run`](Self::run) runs.
    pub fn new(client: Client, node: String, families: Vec<Family>) -> Arc<Self> {
        let wake = Queue::new();
        let this = Self {
            client,
            node,
            families,
            policies: Cache::new(),
            pods: Cache::new(),
            namespaces: Cache::new(),
            admitted: Mutex::default(),
            wake: wake.clone(),
            wanted: AtomicU64::new(0),
            applied: watch::Sender::new(0),
            current: Mutex::new(None),
        };
        let waker = wake.clone();
        this.policies.on_change(move |_, _| waker.add(()));
        let (waker, node) = (wake.clone(), this.node.clone());
        this.pods.on_change(move |old, new| {
            let facts = |pod: Option<&PodObject>| pod.and_then(|pod| Pod::new(pod, &node));
            if facts(old) != facts(new) {
                waker.add(());
            }
        });
        this.namespaces.on_change(move |old, new| {
            let labels = |n: Option<&Namespace>| n.and_then(|n| n.metadata.labels.clone());
            if labels(old) != labels(new) {
                wake.add(());
            }
        });
        Arc::new(this)
    }

    /// Enforces, in the calling process's network namespace, until dropped.
    ///
    /// # Errors
    /// When the very first transaction fails: then nothing here can work. Later
    /// failures are logged and tried again from scratch.
    pub async fn run(&self) -> Result<(), NetworkPolicyError> {
        let mut tasks = JoinSet::new();
        let (client, everything) = (&self.client, watcher::Config::default);
        tasks.spawn(
            self.policies
                .clone()
                .run(Api::all(client.clone()), everything()),
        );
        tasks.spawn(
            self.pods
                .clone()
                .run(Api::all(client.clone()), everything()),
        );
        tasks.spawn(
            self.namespaces
                .clone()
                .run(Api::all(client.clone()), everything()),
        );
        self.policies.synced().await;
        self.pods.synced().await;
        self.namespaces.synced().await;
        self.reconcile().await?;
        self.wake
            .work("network policies", |()| self.reconcile())
            .await;
        Err(NetworkPolicyError::Ended)
    }

    /// Brings all policies for a new pod of this node into force. The pod has
    /// these addresses; nothing runs in it yet.
    ///
    /// # Errors
    /// When that is not certain: the pod must not start.
    pub async fn admit(
        &self,
        object: &PodObject,
        addresses: &[IpAddr],
    ) -> Result<(), NetworkPolicyError> {
        let Some(mut pod) = Pod::new(object, &self.node) else {
            return Ok(());
        };
        self.catch_up(&pod.key.namespace).await?;
        pod.addresses = addresses.to_vec();
        let uid = object.metadata.uid.clone().unwrap_or_default();
        self.admitted.lock().insert(uid, pod);
        let wanted = self.wanted.fetch_add(1, Ordering::SeqCst) + 1;
        self.wake.add(());
        let mut applied = self.applied.subscribe();
        let in_force = applied.wait_for(|applied| *applied >= wanted);
        match tokio::time::timeout(PATIENCE, in_force).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(NetworkPolicyError::Ended),
            Err(_) => Err(NetworkPolicyError::Late),
        }
    }

    /// Forgets a pod that has ended, before its addresses can be another's.
    pub fn release(&self, uid: &str) {
        if self.admitted.lock().remove(uid).is_some() {
            self.wake.add(());
        }
    }

    /// A watch may be behind: asks for the policies that are there now.
    async fn catch_up(&self, namespace: &str) -> Result<(), NetworkPolicyError> {
        let api = Api::<NetworkPolicy>::namespaced(self.client.clone(), namespace);
        let listed = api.list(&ListParams::default()).await;
        let listed = listed.map_err(|source| NetworkPolicyError::Read {
            namespace: namespace.to_owned(),
            source: Box::new(source),
        })?;
        for policy in listed {
            self.policies.observe(policy);
        }
        Ok(())
    }

    async fn reconcile(&self) -> Result<(), NetworkPolicyError> {
        let wanted = self.wanted.load(Ordering::SeqCst);
        let plan = self.plan();
        let new: Vec<_> = self
            .families
            .iter()
            .map(|f| render::objects(*f, &plan))
            .collect();
        let known = self.current.lock().take();
        let mut script = String::new();
        for (index, (family, new)) in self.families.iter().zip(&new).enumerate() {
            let table = render::table(*family);
            match known.as_ref().and_then(|known| known.get(index)) {
                Some(old) => script.push_str(&nft::changes(table, &[old], &[new])),
                None => {
                    script.push_str(&nft::reset(table));
                    script.push_str(&nft::changes(table, &[], &[new]));
                }
            }
        }
        nft::apply(&script).await?;
        self.current.lock().replace(new);
        self.applied.send_replace(wanted);
        Ok(())
    }

    fn plan(&self) -> plan::Plan {
        let policies = self.policies.list();
        let policies: Vec<_> = policies.iter().map(|p| Arc::new(Policy::new(p))).collect();
        if policies.is_empty() {
            return plan::Plan::default();
        }
        let namespaces = self.namespaces.list();
        let labels: HashMap<String, Labels> = namespaces
            .iter()
            .map(|namespace| {
                let labels = namespace.metadata.labels.clone().unwrap_or_default();
                (ObjectKey::of(&**namespace).name, labels)
            })
            .collect();
        plan::plan(&policies, &self.known_pods(), &labels)
    }

    /// The pods that the API knows, with what is known here before.
    fn known_pods(&self) -> Vec<Pod> {
        let admitted = self.admitted.lock();
        let mut fresh: BTreeMap<&String, &Pod> = admitted.iter().collect();
        let mut all = Vec::new();
        for object in self.pods.list() {
            let Some(mut pod) = Pod::new(&object, &self.node) else {
                continue;
            };
            if let Some(known) = object
                .metadata
                .uid
                .as_ref()
                .and_then(|uid| fresh.remove(uid))
            {
                pod.addresses.clone_from(&known.addresses);
            } else if pod.local {
                // One that has not got its addresses from here, or not any more.
                pod.addresses.clear();
            }
            all.push(pod);
        }
        all.extend(fresh.into_values().cloned());
        all
    }
}

#[cfg(test)]
mod tests;
