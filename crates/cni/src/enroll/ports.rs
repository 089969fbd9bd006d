//! What enrolment needs from outside: the kernel, the node proxy, the API. Traits, so that the
//! order of steps is tested without any of them.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;

use super::state::{Announcement, PodKey};
use crate::apply::ApplyError;
use crate::finder::Wanted;
use crate::netns::Netns;
use crate::rules::{PodCapture, ProbeTarget};

/// Namespaces and rules of the node. All methods block for milliseconds.
pub trait Kernel: Send + Sync + 'static {
    /// The namespaces of running pods, by UID.
    ///
    /// # Errors
    /// When the processes of the node cannot be listed.
    fn find(&self, wanted: &[Wanted]) -> io::Result<HashMap<String, Netns>>;

    /// Captures the traffic of a pod.
    ///
    /// # Errors
    /// When the rules are not in force.
    fn apply(&self, netns: &Netns, capture: &PodCapture) -> Result<(), ApplyError>;

    /// Captures no longer.
    ///
    /// # Errors
    /// When rules may have stayed.
    fn remove(&self, netns: &Netns) -> Result<(), ApplyError>;

    /// Replaces the exemptions of the node: target → UID of the pod.
    ///
    /// # Errors
    /// When the earlier exemptions are still in force.
    fn set_probes(&self, targets: BTreeMap<ProbeTarget, String>) -> Result<(), ApplyError>;
}

/// The node proxy did not do what it was told.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct LinkError(pub String);

/// The channel to the node proxy.
pub trait ProxyLink: Send + Sync + 'static {
    /// Hands over a pod; done when the proxy has acknowledged it.
    fn announce(
        &self,
        pod: &Announcement,
        netns: OwnedFd,
    ) -> impl Future<Output = Result<(), LinkError>> + Send;

    /// Notes a pod that a proxy may already serve, for the snapshot of the proxy that connects
    /// next. Without a namespace the proxy keeps what it has.
    fn retain(&self, pod: &Announcement, netns: Option<OwnedFd>)
    -> impl Future<Output = ()> + Send;

    /// Takes back a pod. No connected proxy is no error.
    fn withdraw(&self, uid: &str) -> impl Future<Output = Result<(), LinkError>> + Send;
}

/// Writes the annotation that peers act on.
pub trait Annotator: Send + Sync + 'static {
    /// Sets or removes the redirection annotation of exactly this pod. A pod that is gone is no
    /// error when the annotation is removed.
    fn annotate(
        &self,
        pod: &PodKey,
        uid: &str,
        value: Option<&str>,
    ) -> impl Future<Output = Result<(), String>> + Send;
}
