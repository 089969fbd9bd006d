//! Removing what the kernel does not remove by itself when the last process
//! of a cluster is gone: cgroup directories, the host's link if it is still
//! there, the context in the user's kubeconfig, and our own files.
//!
//! Every step can be repeated, and is done even if another fails.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::error::{LocalError, Result};
use crate::kubeconfig;
use crate::network::{Network, block_on};
use crate::state::{Cluster, Folder};

/// How long the kernel may take to let go of an empty cgroup.
const PATIENCE: Duration = Duration::from_secs(5);

/// Removes everything that is left of a cluster whose processes are gone (or
/// about to be). The calling thread must be in the host's network namespace
/// for `host_link`.
pub(crate) fn remove(folder: &Folder, host_link: bool) -> Result<()> {
    let mut failures: Vec<String> = Vec::new();
    let mut note = |result: Result<()>| {
        if let Err(error) = result {
            failures.push(error.to_string());
        }
    };
    match folder.cluster() {
        Ok(cluster) => {
            // Without an index nothing has been made, and what has the first
            // one's names is another cluster's.
            if cluster.index.is_some() {
                note(remove_cgroups(&cluster.cgroup()));
            }
            if cluster.index.is_some() && host_link {
                note(remove_link(&cluster));
            }
            if let Some(path) = &cluster.kubeconfig {
                note(kubeconfig::remove(path, &cluster.context()));
            }
        }
        // A cluster that was stopped before its record was written has nothing.
        Err(LocalError::File { .. }) => {}
        Err(error) => note(Err(error)),
    }
    note(folder.remove());
    if failures.is_empty() {
        return Ok(());
    }
    let part = "cleaning up".to_owned();
    Err(LocalError::Part {
        part,
        reason: failures.join("; "),
    })
}

fn remove_link(cluster: &Cluster) -> Result<()> {
    let name = cluster.addresses().host_link();
    block_on(async { Network::open()?.remove_own(&name, cluster.link).await })
}

/// Removes a group and all below it from every hierarchy.
fn remove_cgroups(group: &str) -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let start = Instant::now();
    for root in hierarchies(&mounts) {
        let path = root.join(group);
        while path.exists() {
            match remove_tree(&path) {
                Ok(()) => break,
                Err(error) if start.elapsed() > PATIENCE => {
                    return Err(LocalError::File {
                        action: "removing",
                        path,
                        source: error,
                    });
                }
                // Busy until the last process in it is reaped.
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }
    Ok(())
}

fn remove_tree(path: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(path)?.flatten() {
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(path)
}

/// Mount points of cgroup hierarchies, both versions.
fn hierarchies(mountinfo: &str) -> Vec<PathBuf> {
    let mounts = mountinfo.lines().filter_map(|line| {
        let (head, tail) = line.split_once(" - ")?;
        let kind = tail.split(' ').next()?;
        let point = head.split(' ').nth(4)?;
        (kind == "cgroup" || kind == "cgroup2").then(|| PathBuf::from(point))
    });
    mounts.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_of_cgroups_are_found() {
        let text = concat!(
            "25 1 0:22 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw\n",
            "26 25 0:23 / /sys/fs/cgroup/pids rw shared:3 - cgroup cgroup rw,pids\n",
            "27 25 0:24 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
        );
        let found = hierarchies(text);
        assert_eq!(
            found,
            [
                Path::new("/sys/fs/cgroup/pids"),
                Path::new("/sys/fs/cgroup/unified")
            ]
        );
    }
}
