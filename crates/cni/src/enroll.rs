//! Takes pods into the mesh and out of it, in the one order that leaks nothing: rules, the node
//! proxy's acknowledgement, the probe exemption, the annotation; and on the way out exemption,
//! rules, node proxy, annotation.
//!
//! Between the first two steps the pod's traffic goes nowhere. The annotation tells the control
//! plane, and so all peers, to use HBONE: it is only there when everything else is.

mod ports;
mod state;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use ambit_kube_api::annotations::{REDIRECTION_ENABLED, REDIRECTION_PENDING};
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;

use crate::apply::ApplyError;
use crate::eligibility::{Eligibility, annotation};
use crate::finder::Wanted;
use crate::netns::Netns;

pub use ports::{Annotator, Kernel, LinkError, ProxyLink};
pub use state::{Announcement, Member, PodKey};

use state::Members;

/// Why a pod is not (completely) enrolled or removed.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// The pod has no process in a namespace of its own yet, or any more.
    #[error("no network namespace with the pod's address was found on this node")]
    NoNetns,
    /// The namespace that the plugin named cannot be used.
    #[error("the pod's network namespace {path}: {source}")]
    PluginNetns {
        /// Its path on the node.
        path: String,
        /// What happened.
        #[source]
        source: std::io::Error,
    },
    /// The processes of the node could not be read.
    #[error("the processes of the node cannot be read: {0}; is /proc of the node mounted?")]
    Find(#[source] std::io::Error),
    /// The rules could not be changed.
    #[error(transparent)]
    Rules(#[from] ApplyError),
    /// The node proxy did not take the pod. Its traffic goes nowhere until it does.
    #[error("the node proxy did not take the pod: {0}; see the ztunnel pod of this node")]
    Proxy(#[from] LinkError),
    /// The annotation could not be written.
    #[error("the pod cannot be annotated: {0}; may the agent patch pods/status?")]
    Annotate(String),
    /// The watch has not brought the pod's namespace yet.
    #[error("namespace {0} is not known yet")]
    UnknownNamespace(String),
    /// A blocking step was cut off by the end of the process.
    #[error("the agent is stopping")]
    Stopping,
}

/// What there is to do about a pod of this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Everything is as it should be, or the plugin will see to it.
    Nothing,
    /// Take the pod in (again).
    Enrol,
    /// Take the pod out.
    Unenrol,
    /// The pod has ended: clear what is kept about it.
    Forget,
}

/// Does the work; one for a node.
pub struct Enroller<K, L, A> {
    kernel: Arc<K>,
    link: L,
    annotator: A,
    eligibility: Eligibility,
    members: Mutex<Members>,
    /// Held while the node's exemptions are computed and written, so that the last writer has
    /// seen every change.
    probes: tokio::sync::Mutex<()>,
    locks: Mutex<HashMap<PodKey, Arc<tokio::sync::Mutex<()>>>>,
}

impl<K: Kernel, L: ProxyLink, A: Annotator> Enroller<K, L, A> {
    /// An enroller that knows no pods yet.
    pub fn new(kernel: Arc<K>, link: L, annotator: A, eligibility: Eligibility) -> Self {
        Self {
            kernel,
            link,
            annotator,
            eligibility,
            members: Mutex::default(),
            probes: tokio::sync::Mutex::default(),
            locks: Mutex::default(),
        }
    }

    /// The rules of membership.
    pub fn eligibility(&self) -> &Eligibility {
        &self.eligibility
    }

    /// Names of the pods that something is kept about.
    pub fn known(&self) -> Vec<PodKey> {
        self.members.lock().keys()
    }

    /// Decides about a pod of this node, as the API shows it.
    pub fn decide(
        &self,
        pod: &Pod,
        namespace: &std::collections::BTreeMap<String, String>,
    ) -> Step {
        let known = self.members.lock().get(uid(pod)).map(Member::is_complete);
        let marked = annotation(pod, ambit_kube_api::annotations::REDIRECTION);
        let phase = pod
            .status
            .as_ref()
            .and_then(|s| s.phase.as_deref())
            .unwrap_or_default();
        if matches!(phase, "Succeeded" | "Failed") {
            return if known.is_some() {
                Step::Forget
            } else {
                Step::Nothing
            };
        }
        let eligible = self.eligibility.is_eligible(pod, namespace);
        match (eligible, marked) {
            (true, Some(REDIRECTION_ENABLED)) if known == Some(true) => Step::Nothing,
            (true, _) if phase == "Running" && !addresses(pod).is_empty() => Step::Enrol,
            (false, Some(_)) => Step::Unenrol,
            (false, None) if known.is_some() => Step::Unenrol,
            _ => Step::Nothing,
        }
    }

    /// Takes in the pods that were in the mesh before the agent started, without asking whether
    /// they still should be: whoever is captured stays so until it is decided otherwise.
    /// `reapply` writes their rules again.
    ///
    /// # Errors
    /// When the processes of the node or its own rules are out of reach. What concerns one pod
    /// alone is logged, and tried again as that pod's own enrolment.
    pub async fn restore(&self, pods: &[Arc<Pod>], reapply: bool) -> Result<(), EnrolError> {
        let marked: Vec<Arc<Pod>> = pods
            .iter()
            .filter(|p| self.was_enrolled(p))
            .cloned()
            .collect();
        let wanted: Vec<Wanted> = marked
            .iter()
            .map(|p| Wanted {
                uid: uid(p).to_owned(),
                addresses: addresses(p),
            })
            .collect();
        let mut found = self
            .blocking(move |kernel| kernel.find(&wanted))
            .await?
            .map_err(EnrolError::Find)?;
        for pod in marked {
            let netns = found.remove(uid(&pod)).map(Arc::new);
            if let (true, Some(netns)) = (reapply, netns.clone())
                && let Err(error) = self.apply(&pod, netns).await
            {
                tracing::warn!("pod {}: {error}", PodKey::of(&pod));
            }
            let fd = match &netns {
                Some(netns) => Some(netns.duplicate().map_err(EnrolError::Find)?),
                None => {
                    tracing::warn!("pod {}: {}", PodKey::of(&pod), EnrolError::NoNetns);
                    None
                }
            };
            let member = Member::new(&pod, netns, addresses(&pod), true);
            self.link.retain(&member.announcement(), fd).await;
            self.members.lock().insert(member);
        }
        self.write_probes().await
    }

    fn was_enrolled(&self, pod: &Pod) -> bool {
        let phase = pod
            .status
            .as_ref()
            .and_then(|s| s.phase.as_deref())
            .unwrap_or_default();
        annotation(pod, ambit_kube_api::annotations::REDIRECTION) == Some(REDIRECTION_ENABLED)
            && !matches!(phase, "Succeeded" | "Failed")
            && !self.eligibility.is_node_proxy(pod)
    }

    /// Takes in a pod that is about to start, in the namespace that the plugin names. On an error
    /// nothing is kept: the pod's start fails, and the next try brings a new namespace.
    ///
    /// # Errors
    /// See [`EnrolError`].
    pub async fn enrol_new(
        &self,
        pod: &Pod,
        netns: Netns,
        addresses: Vec<IpAddr>,
    ) -> Result<(), EnrolError> {
        let key = PodKey::of(pod);
        let _turn = self.turn(&key).await;
        let result = self.enrol_locked(pod, Arc::new(netns), addresses).await;
        if result.is_err() {
            self.forget_locked(uid(pod)).await;
        }
        result
    }

    /// Takes in a running pod: its namespace is looked up. While the node proxy has not taken it,
    /// the pod is marked as pending.
    ///
    /// # Errors
    /// See [`EnrolError`]; worth trying again.
    pub async fn enrol_running(&self, pod: &Pod) -> Result<(), EnrolError> {
        let key = PodKey::of(pod);
        let _turn = self.turn(&key).await;
        let known = self
            .members
            .lock()
            .get(uid(pod))
            .and_then(|m| m.netns.clone());
        let netns = match known {
            Some(netns) => netns,
            None => self.find(pod).await?,
        };
        let result = self.enrol_locked(pod, netns, addresses(pod)).await;
        let marked = annotation(pod, ambit_kube_api::annotations::REDIRECTION);
        if matches!(result, Err(EnrolError::Proxy(_))) && marked != Some(REDIRECTION_PENDING) {
            self.annotate(pod, Some(REDIRECTION_PENDING)).await?;
        }
        result
    }

    /// Takes out a running pod.
    ///
    /// # Errors
    /// See [`EnrolError`]; worth trying again.
    pub async fn unenrol(&self, pod: &Pod) -> Result<(), EnrolError> {
        let key = PodKey::of(pod);
        let _turn = self.turn(&key).await;
        let known = self
            .members
            .lock()
            .get(uid(pod))
            .and_then(|m| m.netns.clone());
        let netns = match known {
            Some(netns) => Some(netns),
            // Nothing to clean in a pod without processes; the annotation has to go all the same.
            None => match self.find(pod).await {
                Err(EnrolError::NoNetns) => None,
                other => Some(other?),
            },
        };
        self.members.lock().close(uid(pod));
        self.write_probes().await?;
        if let Some(netns) = netns {
            self.blocking(move |kernel| kernel.remove(&netns)).await??;
        }
        self.link.withdraw(uid(pod)).await?;
        self.members.lock().remove(uid(pod));
        self.annotate(pod, None).await
    }

    /// Clears what is kept about the pods of this name other than the one with this UID.
    pub async fn forget_others(&self, key: &PodKey, current: Option<&str>) {
        let gone = self.members.lock().others(key, current);
        if gone.is_empty() {
            return;
        }
        let _turn = self.turn(key).await;
        for uid in gone {
            self.forget_locked(&uid).await;
        }
    }

    /// Takes every pod out, as far as possible: the mesh is being removed from the node.
    pub async fn unenrol_all(&self, pods: &[Arc<Pod>]) {
        for pod in pods {
            let marked = annotation(pod, ambit_kube_api::annotations::REDIRECTION).is_some();
            let known = self.members.lock().get(uid(pod)).is_some();
            if (marked || known)
                && let Err(error) = self.unenrol(pod).await
            {
                tracing::warn!("pod {}: {error}", PodKey::of(pod));
            }
        }
    }

    async fn enrol_locked(
        &self,
        pod: &Pod,
        netns: Arc<Netns>,
        addresses: Vec<IpAddr>,
    ) -> Result<(), EnrolError> {
        self.apply(pod, netns.clone()).await?;
        let member = Member::new(pod, Some(netns.clone()), addresses, false);
        let announcement = member.announcement();
        self.members.lock().insert(member);
        let fd = netns.duplicate().map_err(EnrolError::Find)?;
        self.link.announce(&announcement, fd).await?;
        self.members.lock().mark_announced(uid(pod));
        self.write_probes().await?;
        self.annotate(pod, Some(REDIRECTION_ENABLED)).await
    }

    async fn forget_locked(&self, uid: &str) {
        self.members.lock().remove(uid);
        if let Err(error) = self.write_probes().await {
            tracing::warn!("the exemptions of pod {uid} stay for now: {error}");
        }
        if let Err(error) = self.link.withdraw(uid).await {
            tracing::warn!("the node proxy keeps pod {uid} for now: {error}");
        }
    }

    async fn apply(&self, pod: &Pod, netns: Arc<Netns>) -> Result<(), EnrolError> {
        let capture = self.eligibility.capture(pod);
        Ok(self
            .blocking(move |kernel| kernel.apply(&netns, &capture))
            .await??)
    }

    async fn find(&self, pod: &Pod) -> Result<Arc<Netns>, EnrolError> {
        let wanted = Wanted {
            uid: uid(pod).to_owned(),
            addresses: addresses(pod),
        };
        let mut found = self
            .blocking(move |kernel| kernel.find(std::slice::from_ref(&wanted)))
            .await?
            .map_err(EnrolError::Find)?;
        found
            .remove(uid(pod))
            .map(Arc::new)
            .ok_or(EnrolError::NoNetns)
    }

    async fn annotate(&self, pod: &Pod, value: Option<&str>) -> Result<(), EnrolError> {
        self.annotator
            .annotate(&PodKey::of(pod), uid(pod), value)
            .await
            .map_err(EnrolError::Annotate)
    }

    /// Writes the node's exemptions as they follow from the members now.
    async fn write_probes(&self) -> Result<(), EnrolError> {
        let _turn = self.probes.lock().await;
        let targets = self.members.lock().probe_targets();
        Ok(self
            .blocking(move |kernel| kernel.set_probes(targets))
            .await??)
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&K) -> T + Send + 'static,
    ) -> Result<T, EnrolError> {
        let kernel = self.kernel.clone();
        tokio::task::spawn_blocking(move || work(&kernel))
            .await
            .map_err(|_| EnrolError::Stopping)
    }

    /// One change at a time for each pod.
    async fn turn(&self, key: &PodKey) -> tokio::sync::OwnedMutexGuard<()> {
        let lock = {
            let mut locks = self.locks.lock();
            locks.retain(|_, lock| Arc::strong_count(lock) > 1);
            locks.entry(key.clone()).or_default().clone()
        };
        lock.lock_owned().await
    }
}

/// UID of a pod from the API.
pub fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

/// Addresses of a pod in its status.
pub fn addresses(pod: &Pod) -> Vec<IpAddr> {
    let Some(status) = &pod.status else {
        return Vec::new();
    };
    let many = status.pod_ips.iter().flatten().map(|p| p.ip.as_str());
    let all: Vec<IpAddr> = many.filter_map(|ip| ip.parse().ok()).collect();
    if !all.is_empty() {
        return all;
    }
    status
        .pod_ip
        .as_deref()
        .and_then(|ip| ip.parse().ok())
        .into_iter()
        .collect()
}

#[cfg(test)]
mod tests;
