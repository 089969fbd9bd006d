//! What the proxy knows of the mesh, for readers that never wait.
//!
//! Two copies of the state exist. Readers use the published one through an atomic pointer; the one
//! writer brings the other up to date and publishes it in its place. A reader holds on to a
//! snapshot for the length of one decision, not across an await.

mod discovery;
mod file;
pub mod shape;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ambit_model::intern::Interner;
use ambit_model::state::{Change, MeshState};
use ambit_model::workload::Protocol;
use ambit_model::{Identity, Text, Workload};
use arc_swap::{ArcSwap, Guard};
use tokio::sync::watch;

pub use discovery::{Addresses, Policies, handlers};
pub use file::{FileError, LocalConfig};

/// How long a connection waits for the workload that it belongs to.
pub const LOCAL_WORKLOAD_TIMEOUT: Duration = Duration::from_secs(5);

/// A pod of this node as the node agent names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PodName {
    /// Pod name.
    pub name: Text,
    /// Namespace.
    pub namespace: Text,
    /// Service account.
    pub service_account: Text,
}

/// The workload of a pod is not known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("failed to fetch information about local workload: {service_account}.{namespace} ({name})")]
pub struct UnknownLocalWorkload {
    /// Pod name.
    pub name: Text,
    /// Namespace.
    pub namespace: Text,
    /// Service account.
    pub service_account: Text,
}

/// The reading side. Clones share one state.
#[derive(Clone, Debug)]
pub struct Store(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    current: ArcSwap<MeshState>,
    /// Counts batches, each after its state is published.
    changes: AtomicU64,
    /// Counts batches that changed workloads.
    workloads: watch::Sender<u64>,
    /// Counts batches that changed policies.
    policies: watch::Sender<u64>,
    local_identities: watch::Sender<Arc<BTreeSet<Identity>>>,
}

/// The one writer.
#[derive(Debug)]
pub struct Writer {
    store: Store,
    /// The copy that is not published, and what it has not seen yet.
    spare: Option<Arc<MeshState>>,
    behind: Vec<Change>,
    interner: Interner,
}

/// An empty state for a proxy on `node`; without one, every workload counts as local.
pub fn new(node: Option<Text>) -> (Store, Writer) {
    let empty = MeshState::new(node);
    let store = Store(Arc::new(Shared {
        current: ArcSwap::from_pointee(empty.clone()),
        changes: AtomicU64::new(0),
        workloads: watch::Sender::new(0),
        policies: watch::Sender::new(0),
        local_identities: watch::Sender::default(),
    }));
    let writer = Writer {
        store: store.clone(),
        spare: Some(Arc::new(empty)),
        behind: Vec::new(),
        interner: Interner::default(),
    };
    (store, writer)
}

impl Store {
    /// The state as it is now. Drop it before the next await.
    pub fn load(&self) -> Guard<Arc<MeshState>> {
        self.0.current.load()
    }

    /// Counts changes of the state. Who reads the count and then the state has a state that is at least
    /// as new.
    pub fn changes(&self) -> u64 {
        self.0.changes.load(Ordering::Acquire)
    }

    /// The workload of a pod of this node, if it is known now.
    pub fn local_workload(&self, pod: &PodName) -> Option<Arc<Workload>> {
        let state = self.load();
        state
            .local_workload(&pod.namespace, &pod.name, &pod.service_account)
            .cloned()
    }

    /// The workload of a pod of this node, waiting for it for a bounded time: a pod may speak
    /// before the control plane has told us of it.
    pub async fn wait_for_local_workload(
        &self,
        pod: &PodName,
        timeout: Duration,
    ) -> Result<Arc<Workload>, UnknownLocalWorkload> {
        if let Some(workload) = self.local_workload(pod) {
            return Ok(workload);
        }
        let mut changes = self.0.workloads.subscribe();
        let search = async {
            loop {
                if let Some(workload) = self.local_workload(pod) {
                    return workload;
                }
                // The sender lives in `self`, so that this only returns on a change.
                let _ = changes.changed().await;
            }
        };
        tokio::time::timeout(timeout, search)
            .await
            .map_err(|_| UnknownLocalWorkload {
                name: pod.name.clone(),
                namespace: pod.namespace.clone(),
                service_account: pod.service_account.clone(),
            })
    }

    /// Changes whenever policies do, after the new ones are in force.
    pub fn policy_changes(&self) -> watch::Receiver<u64> {
        self.0.policies.subscribe()
    }

    /// The identities that workloads of this node need certificates for.
    pub fn local_identities(&self) -> watch::Receiver<Arc<BTreeSet<Identity>>> {
        self.0.local_identities.subscribe()
    }
}

impl Writer {
    /// The reading side.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Applies changes in order, and publishes the result at once as a whole.
    pub fn apply(&mut self, mut changes: Vec<Change>) {
        if changes.is_empty() {
            return;
        }
        for change in &mut changes {
            self.share_texts(change);
        }
        let mut next = self.catch_up();
        if let Some(state) = Arc::get_mut(&mut next) {
            changes.iter().for_each(|change| state.apply(change));
        }
        let workloads = changes
            .iter()
            .any(|change| matches!(change, Change::Workload(_) | Change::RemoveAddress(_)));
        let policies = changes
            .iter()
            .any(|change| matches!(change, Change::Policy(_) | Change::RemovePolicy(_)));
        let identities = workloads.then(|| local_identities(&next));
        self.spare = Some(self.store.0.current.swap(next));
        self.store.0.changes.fetch_add(1, Ordering::Release);
        self.behind = changes;
        self.tell(identities, policies);
    }

    /// The copy that nobody reads, up to date with the published one and owned alone.
    fn catch_up(&mut self) -> Arc<MeshState> {
        let behind = std::mem::take(&mut self.behind);
        if let Some(mut spare) = self.spare.take()
            && let Some(state) = Arc::get_mut(&mut spare)
        {
            behind.iter().for_each(|change| state.apply(change));
            return spare;
        }
        // A reader still holds the old copy. That is rare and short; copying is the price.
        Arc::new(MeshState::clone(&self.store.load()))
    }

    fn tell(&self, identities: Option<BTreeSet<Identity>>, policies: bool) {
        let shared = &self.store.0;
        if let Some(identities) = identities {
            shared.local_identities.send_if_modified(|known| {
                let changed = **known != identities;
                if changed {
                    *known = Arc::new(identities);
                }
                changed
            });
            shared.workloads.send_modify(|count| *count += 1);
        }
        if policies {
            shared.policies.send_modify(|count| *count += 1);
        }
    }

    fn share_texts(&mut self, change: &mut Change) {
        match change {
            Change::Workload(w) => self.interner.workload(Arc::make_mut(w)),
            Change::Service(s) => self.interner.service(Arc::make_mut(s)),
            Change::Policy(_) | Change::RemoveAddress(_) | Change::RemovePolicy(_) => {}
        }
    }
}

fn local_identities(state: &MeshState) -> BTreeSet<Identity> {
    let needs_certificate = |w: &&Arc<Workload>| w.protocol == Protocol::Hbone || w.native_tunnel;
    state
        .local_workloads()
        .filter(needs_certificate)
        .map(|w| w.identity())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ambit_model::policy::{Action, Authorization, PolicyScope};

    fn pod(name: &str) -> Workload {
        Workload {
            uid: format!("c//Pod/ns/{name}").into(),
            name: name.into(),
            namespace: "ns".into(),
            node: "n1".into(),
            protocol: Protocol::Hbone,
            ..Workload::default()
        }
    }

    fn name(name: &str) -> PodName {
        PodName {
            name: name.into(),
            namespace: "ns".into(),
            service_account: "default".into(),
        }
    }

    fn put(w: Workload) -> Change {
        Change::Workload(Arc::new(w))
    }

    #[test]
    fn both_copies_see_every_change() {
        let (store, mut writer) = new(None);
        for n in 0..10 {
            writer.apply(vec![put(pod(&n.to_string()))]);
            assert_eq!(store.load().workloads().count(), n + 1);
        }
        writer.apply(vec![Change::RemoveAddress("c//Pod/ns/0".into())]);
        writer.apply(vec![put(pod("x"))]);
        assert!(store.local_workload(&name("0")).is_none());
        assert!(store.local_workload(&name("x")).is_some());
    }

    #[test]
    fn a_snapshot_that_is_held_does_not_change() {
        let (store, mut writer) = new(None);
        let held = store.load();
        for n in 0..5 {
            writer.apply(vec![put(pod(&n.to_string()))]);
        }
        assert_eq!(held.workloads().count(), 0);
        assert_eq!(store.load().workloads().count(), 5);
    }

    #[tokio::test]
    async fn a_local_workload_is_waited_for() {
        let (store, mut writer) = new(Some("n1".into()));
        let waiting = tokio::spawn({
            let store = store.clone();
            async move {
                store
                    .wait_for_local_workload(&name("p"), Duration::from_secs(60))
                    .await
            }
        });
        tokio::task::yield_now().await;
        writer.apply(vec![put(Workload {
            node: "n2".into(),
            ..pod("p")
        })]);
        writer.apply(vec![put(pod("p"))]);
        assert_eq!(&*waiting.await.unwrap().unwrap().node, "n1");
        let error = store
            .wait_for_local_workload(&name("q"), Duration::ZERO)
            .await
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "failed to fetch information about local workload: default.ns (q)"
        );
    }

    #[test]
    fn changes_are_told() {
        let (store, mut writer) = new(Some("n1".into()));
        let mut policies = store.policy_changes();
        let mut identities = store.local_identities();
        writer.apply(vec![
            put(pod("p")),
            put(Workload {
                node: "n2".into(),
                ..pod("q")
            }),
        ]);
        assert!(!policies.has_changed().unwrap());
        assert_eq!(identities.borrow_and_update().len(), 1);
        writer.apply(vec![Change::Policy(Arc::new(Authorization {
            name: "p".into(),
            namespace: "ns".into(),
            scope: PolicyScope::Global,
            action: Action::Deny,
            rules: Vec::new(),
            dry_run: false,
        }))]);
        assert!(policies.has_changed().unwrap());
        assert!(!identities.has_changed().unwrap());
        policies.mark_unchanged();
        writer.apply(vec![Change::RemoveAddress("c//Pod/ns/p".into())]);
        assert!(identities.borrow_and_update().is_empty());
    }

    #[test]
    fn names_are_shared_between_workloads() {
        let (store, mut writer) = new(None);
        writer.apply(vec![put(pod("p")), put(pod("q"))]);
        let state = store.load();
        let namespaces: Vec<Text> = state.workloads().map(|w| w.namespace.clone()).collect();
        assert!(Text::ptr_eq(&namespaces[0], &namespaces[1]));
    }
}
