//! The real [`Kernel`]: `/proc` of the node, `nft` and netlink.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};

use crate::apply::{ApplyError, apply_host, apply_pod, remove_host, remove_pod};
use crate::enroll::Kernel;
use crate::finder::{Finder, Wanted};
use crate::netns::Netns;
use crate::rules::{HostExemption, PodCapture, ProbeTarget, host_plan, host_removal, pod_plan};

/// The node that the agent's pod runs on, seen through its mounts.
pub struct HostKernel {
    mounts: PathBuf,
    finder: Finder,
    host: Netns,
    exemption: HostExemption,
}

impl HostKernel {
    /// Opens the node's `/proc` and network namespace below `mounts`. `exemption` gives the
    /// addresses of exempted connections; its user is looked up.
    ///
    /// # Errors
    /// When `/proc` of the node is not mounted there.
    pub fn open(mounts: &Path, exemption: HostExemption) -> io::Result<Self> {
        let finder = Finder::new(mounts.join("proc"))?;
        let host = Netns::open(mounts.join("proc/1/ns/net"))?;
        let exemption = HostExemption {
            kubelet_user: finder.kubelet_user(),
            ..exemption
        };
        Ok(Self {
            mounts: mounts.to_owned(),
            finder,
            host,
            exemption,
        })
    }

    /// Opens the namespace that the plugin names, by its path on the node.
    ///
    /// # Errors
    /// When it is not there, or is the node's own.
    pub fn open_pod(&self, path: &str) -> io::Result<Netns> {
        let below = |path: &str| self.mounts.join(path.trim_start_matches('/'));
        // /run and /var/run are one directory on the node, but only the latter is mounted here.
        let netns = Netns::open(below(path)).or_else(|error| match path.strip_prefix("/run/") {
            Some(rest) => Netns::open(below("/var/run").join(rest)),
            None => Err(error),
        })?;
        if netns.id() == self.finder.host() {
            return Err(io::Error::other(
                "this is the network namespace of the node itself",
            ));
        }
        Ok(netns)
    }

    /// Removes the node's exemptions.
    ///
    /// # Errors
    /// When they may have stayed.
    pub fn clear_probes(&self) -> Result<(), ApplyError> {
        remove_host(&self.host, &host_removal())
    }
}

impl Kernel for HostKernel {
    fn find(&self, wanted: &[Wanted]) -> io::Result<HashMap<String, Netns>> {
        if wanted.is_empty() {
            return Ok(HashMap::new());
        }
        self.finder.find(wanted)
    }

    fn apply(&self, netns: &Netns, capture: &PodCapture) -> Result<(), ApplyError> {
        apply_pod(netns, &pod_plan(capture), capture.ipv6)
    }

    fn remove(&self, netns: &Netns) -> Result<(), ApplyError> {
        remove_pod(netns)
    }

    fn set_probes(&self, targets: BTreeMap<ProbeTarget, String>) -> Result<(), ApplyError> {
        let exemption = HostExemption {
            targets,
            ..self.exemption.clone()
        };
        apply_host(&self.host, &host_plan(&exemption))
    }
}
