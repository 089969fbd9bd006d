//! Finds the network namespaces of running pods: by the pod's UID in the cgroup path of its
//! processes, on any container runtime and either cgroup version.
//!
//! Of a pod's processes the oldest one that is not in the node's own network namespace counts, and
//! only if its namespace really holds one of the pod's addresses: cgroup paths are text, and a
//! process id can be used again between two reads.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use crate::netns::{Netns, NetnsId};

/// A pod to look for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Kubernetes UID of the pod.
    pub uid: String,
    /// Addresses of the pod; its namespace must have at least one of them.
    pub addresses: Vec<IpAddr>,
}

/// Looks through the processes of a node.
#[derive(Clone, Debug)]
pub struct Finder {
    proc: PathBuf,
    host: NetnsId,
}

impl Finder {
    /// A finder over a mounted `/proc` of the node. The network namespace of process 1 is the
    /// node's own.
    ///
    /// # Errors
    /// When the directory is no `/proc` or may not be read.
    pub fn new(proc: impl Into<PathBuf>) -> io::Result<Self> {
        let proc = proc.into();
        let host = Netns::open(proc.join("1/ns/net"))?.id();
        Ok(Self { proc, host })
    }

    /// Identity of the node's own network namespace.
    pub fn host(&self) -> NetnsId {
        self.host
    }

    /// The namespaces of those pods that have one, by UID. One pass over all processes; blocks.
    ///
    /// # Errors
    /// When the directory of processes cannot be listed.
    pub fn find(&self, wanted: &[Wanted]) -> io::Result<HashMap<String, Netns>> {
        let uids: HashSet<&str> = wanted.iter().map(|w| w.uid.as_str()).collect();
        let mut candidates: HashMap<String, Vec<(u64, PathBuf)>> = HashMap::new();
        for entry in std::fs::read_dir(&self.proc)?.flatten() {
            if !entry
                .file_name()
                .as_encoded_bytes()
                .iter()
                .all(u8::is_ascii_digit)
            {
                continue;
            }
            let directory = entry.path();
            // A process may end at any moment; then it is not the one we look for.
            let Some(uid) = pod_of(&directory).filter(|uid| uids.contains(uid.as_str())) else {
                continue;
            };
            if let Some(started) = start_time(&directory) {
                candidates
                    .entry(uid)
                    .or_default()
                    .push((started, directory));
            }
        }
        let mut found = HashMap::new();
        for pod in wanted {
            let Some(mut processes) = candidates.remove(&pod.uid) else {
                continue;
            };
            processes.sort();
            if let Some(netns) = processes
                .iter()
                .find_map(|(_, p)| self.open(p, &pod.addresses))
            {
                found.insert(pod.uid.clone(), netns);
            }
        }
        Ok(found)
    }

    /// The namespace of a process, if it is a pod's and has one of the addresses.
    fn open(&self, process: &Path, addresses: &[IpAddr]) -> Option<Netns> {
        let netns = Netns::open(process.join("ns/net")).ok()?;
        if netns.id() == self.host {
            return None;
        }
        let present = netns.addresses().ok()?;
        addresses
            .iter()
            .any(|a| present.contains(a))
            .then_some(netns)
    }

    /// The user id of the kubelet, by the names of its usual programs; 0 where none runs.
    pub fn kubelet_user(&self) -> u32 {
        use std::os::unix::fs::MetadataExt;
        let Ok(entries) = std::fs::read_dir(&self.proc) else {
            return 0;
        };
        for entry in entries.flatten() {
            let Ok(name) = std::fs::read_to_string(entry.path().join("comm")) else {
                continue;
            };
            if ["kubelet", "k3s-server", "k3s-agent", "k3s", "kubelite"].contains(&name.trim())
                && let Ok(meta) = entry.metadata()
            {
                return meta.uid();
            }
        }
        0
    }
}

/// The pod that a process belongs to.
fn pod_of(process: &Path) -> Option<String> {
    let text = std::fs::read_to_string(process.join("cgroup")).ok()?;
    text.lines().find_map(pod_in_cgroup)
}

/// The pod UID in a line of `/proc/<pid>/cgroup`: a path segment `pod<uid>`, or with the systemd
/// driver `…-pod<uid>.slice` with underscores for dashes.
fn pod_in_cgroup(line: &str) -> Option<String> {
    let path = line.splitn(3, ':').nth(2)?;
    path.split('/').find_map(|segment| {
        let segment = segment.strip_suffix(".slice").unwrap_or(segment);
        let uid = match segment.strip_prefix("pod") {
            Some(uid) => uid,
            None => segment.rsplit_once("-pod")?.1,
        };
        let uid = uid.replace('_', "-");
        is_uid(&uid).then_some(uid)
    })
}

/// UUIDs, and the 32 hexadecimal digits of static pods.
fn is_uid(text: &str) -> bool {
    let digits = text.chars().filter(char::is_ascii_hexdigit).count();
    let dashes = text.chars().filter(|c| *c == '-').count();
    digits == 32 && (dashes == 4 || dashes == 0) && digits + dashes == text.len()
}

/// Field 22 of `/proc/<pid>/stat`, in clock ticks since boot.
fn start_time(process: &Path) -> Option<u64> {
    let stat = std::fs::read_to_string(process.join("stat")).ok()?;
    // The name in parentheses may hold anything; the fields after it are numbers.
    stat.rsplit_once(')')?
        .1
        .split_whitespace()
        .nth(19)?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pod_uids_in_cgroup_paths() {
        let uid = "2f1b6f3e-90c1-4f6a-8a2e-5a1d3c7b9e10";
        for line in [
            format!("0::/kubepods/burstable/pod{uid}/8f3a"),
            format!(
                "4:memory:/kubepods.slice/kubepods-pod{}.slice/cri-containerd-ab.scope",
                uid.replace('-', "_")
            ),
            format!(
                "0::/../../kubepods-besteffort-pod{}.slice/crio-1",
                uid.replace('-', "_")
            ),
            format!("12:pids:/kubelet/kubepods/pod{uid}"),
        ] {
            assert_eq!(pod_in_cgroup(&line).as_deref(), Some(uid), "{line}");
        }
        assert_eq!(
            pod_in_cgroup("0::/kubepods/pod0123456789abcdef0123456789abcdef/x").as_deref(),
            Some("0123456789abcdef0123456789abcdef")
        );
        for line in [
            "",
            "0::/",
            "0::/user.slice/podman-7",
            "0::/kubepods/podnothex/x",
            "1:cpu",
        ] {
            assert_eq!(pod_in_cgroup(line), None, "{line}");
        }
    }

    #[test]
    fn a_missing_proc_is_an_error() {
        assert!(Finder::new("/nonexistent").is_err());
    }
}
