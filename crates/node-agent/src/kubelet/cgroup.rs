//! Kubelet-shaped cgroups: `…/kubepods/<qos>/pod<uid>/<container id>`.
//!
//! They exist so that anything on the node can tell from `/proc/<pid>/cgroup` which pod a process
//! belongs to, as on any node, and so that a container's processes can be found and killed. No
//! controller is enabled and no limit enforced. One hierarchy is used: cgroup v2 where the node has
//! it mounted (also beside v1), else the first usable v1 hierarchy.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The v1 hierarchies to try, in order, where there is no cgroup v2.
const V1_PREFERENCE: [&str; 4] = ["name=systemd", "pids", "freezer", "devices"];

/// Quality of service class, which is a level of the cgroup path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum QosClass {
    Guaranteed,
    Burstable,
    BestEffort,
}

impl QosClass {
    /// The name in `status.qosClass`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }

    fn directory(self) -> &'static str {
        match self {
            Self::Guaranteed => "",
            Self::Burstable => "burstable",
            Self::BestEffort => "besteffort",
        }
    }
}

/// The kubelet's part of the cgroup tree.
#[derive(Debug, Clone)]
pub(crate) struct Cgroups {
    /// Directory given by the configuration; belongs to this kubelet.
    parent: PathBuf,
}

impl Cgroups {
    /// Finds the hierarchy of this node and creates the parent group.
    pub(crate) fn open(parent: &str) -> io::Result<Self> {
        let mountinfo = std::fs::read_to_string("/proc/self/mountinfo")?;
        let root = hierarchy(&mountinfo).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::NotFound,
                "no cgroup hierarchy is mounted; mount cgroup2, usually at /sys/fs/cgroup",
            )
        })?;
        let parent = root.join(parent.trim_start_matches('/'));
        std::fs::create_dir_all(&parent)?;
        Ok(Self { parent })
    }

    /// The group of a pod.
    pub(crate) fn pod(&self, qos: QosClass, uid: &str) -> PodCgroup {
        let mut path = self.parent.join("kubepods");
        if !qos.directory().is_empty() {
            path.push(qos.directory());
        }
        path.push(format!("pod{uid}"));
        PodCgroup { path }
    }

    /// Kills everything below the parent and removes it. Used at start (leftovers) and at the end.
    pub(crate) async fn clear(&self) {
        remove_tree(&self.parent.join("kubepods")).await;
    }

    /// Removes the parent group itself if nothing else is in it.
    pub(crate) fn remove_parent(&self) {
        let _ = std::fs::remove_dir(&self.parent);
    }
}

/// The group of one pod.
#[derive(Debug, Clone)]
pub(crate) struct PodCgroup {
    path: PathBuf,
}

impl PodCgroup {
    /// Creates the group of a container and returns it.
    pub(crate) fn container(&self, id: &str) -> io::Result<ContainerCgroup> {
        let path = self.path.join(id);
        std::fs::create_dir_all(&path)?;
        Ok(ContainerCgroup { path })
    }

    /// Kills what is left of the pod and removes its group.
    pub(crate) async fn remove(&self) {
        remove_tree(&self.path).await;
    }
}

/// The group of one container.
#[derive(Debug, Clone)]
pub(crate) struct ContainerCgroup {
    path: PathBuf,
}

impl ContainerCgroup {
    /// The file a process writes its id to.
    pub(crate) fn procs(&self) -> PathBuf {
        self.path.join("cgroup.procs")
    }

    /// Kills all processes and removes the group.
    pub(crate) async fn remove(&self) {
        remove_tree(&self.path).await;
    }
}

/// Kills the processes of all groups under `path` and removes the groups. Gives up after two
/// seconds: a process in an uninterruptible call keeps its group.
async fn remove_tree(path: &Path) {
    for _ in 0..40 {
        if !path.exists() {
            return;
        }
        let groups = descendants(path);
        for group in &groups {
            for pid in processes(group) {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
        // Deepest first.
        for group in groups.iter().rev() {
            let _ = std::fs::remove_dir(group);
        }
        if path.exists() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    if path.exists() {
        tracing::warn!(cgroup = %path.display(), "cgroup still has processes and was not removed");
    }
}

/// The group and all groups below it, parents first.
fn descendants(path: &Path) -> Vec<PathBuf> {
    let mut found = vec![path.to_path_buf()];
    let mut next = 0;
    while let Some(group) = found.get(next).cloned() {
        next += 1;
        let Ok(entries) = std::fs::read_dir(&group) else {
            continue;
        };
        found.extend(
            entries
                .flatten()
                .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
                .map(|e| e.path()),
        );
    }
    found
}

/// Process ids in a group. A process outside our PID namespace shows as 0 and is skipped.
fn processes(group: &Path) -> Vec<i32> {
    let text = std::fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    text.lines()
        .filter_map(|line| line.parse().ok())
        .filter(|pid| *pid > 1)
        .collect()
}

/// Mount point of the hierarchy to use, from the text of `/proc/self/mountinfo` (proc(5)).
fn hierarchy(mountinfo: &str) -> Option<PathBuf> {
    let mut v1 = Vec::new();
    for line in mountinfo.lines() {
        let Some((before, after)) = line.split_once(" - ") else {
            continue;
        };
        let Some(mount_point) = before.split(' ').nth(4) else {
            continue;
        };
        let mut fields = after.split(' ');
        match fields.next() {
            Some("cgroup2") => return Some(PathBuf::from(mount_point)),
            Some("cgroup") => v1.push((mount_point, fields.nth(1).unwrap_or_default())),
            _ => {}
        }
    }
    V1_PREFERENCE.iter().find_map(|wanted| {
        v1.iter()
            .find(|(_, options)| options.split(',').any(|option| option == *wanted))
            .map(|(mount_point, _)| PathBuf::from(mount_point))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1: &str = "30 29 0:25 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                      31 29 0:26 / /sys/fs/cgroup/pids rw shared:3 - cgroup cgroup rw,pids\n";

    #[test]
    fn v2_wins_over_v1_wherever_it_is_mounted() {
        let hybrid =
            format!("{V1}32 29 0:27 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n");
        assert_eq!(hierarchy(&hybrid), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(hierarchy(V1), Some("/sys/fs/cgroup/pids".into()));
        assert_eq!(hierarchy("1 1 0:1 / / rw - ext4 /dev/x rw\n"), None);
    }

    #[test]
    fn the_path_names_the_pod() {
        let cgroups = Cgroups {
            parent: "/c".into(),
        };
        assert_eq!(
            cgroups.pod(QosClass::BestEffort, "u").path,
            PathBuf::from("/c/kubepods/besteffort/podu")
        );
        assert_eq!(
            cgroups.pod(QosClass::Guaranteed, "u").path,
            PathBuf::from("/c/kubepods/podu")
        );
    }
}
