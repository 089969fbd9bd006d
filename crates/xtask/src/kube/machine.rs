//! What a real node changes on the machine around it, put back when the cluster goes: sysctls,
//! cgroups, and folders that containers' programs expect at fixed places.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;

/// The sysctls that a kubelet sets for the whole machine, and the one that three of them need.
const SYSCTLS: [&str; 4] = [
    "fs/inotify/max_user_instances",
    "kernel/panic",
    "kernel/panic_on_oops",
    "vm/overcommit_memory",
];
/// inotify instances that kubelets, containerds and agents may open together.
const INOTIFY: &str = "1024";
/// Places that nodes cover with folders of their own.
pub const PLACES: [&str; 6] = [
    "/etc/cni/net.d",
    "/opt/cni/bin",
    "/var/lib/cni",
    "/var/lib/kubelet",
    "/var/log/containers",
    "/var/log/pods",
];
const CGROUPS: &str = "/sys/fs/cgroup";
/// How long processes that were killed may need to leave their cgroups.
const PATIENCE: Duration = Duration::from_secs(20);

/// The machine as it was. Dropping it puts everything back.
#[derive(Default)]
pub struct Machine {
    sysctls: Vec<(PathBuf, String)>,
    cgroups: Vec<PathBuf>,
    folders: Vec<PathBuf>,
}

impl Machine {
    /// Remembers the sysctls, raises the limit of inotify, and makes the places.
    ///
    /// # Errors
    /// When something cannot be read or made.
    pub fn prepare() -> anyhow::Result<Self> {
        let mut it = Self::default();
        for name in SYSCTLS {
            let path = Path::new("/proc/sys").join(name);
            let value = fs::read_to_string(&path).with_context(|| format!("cannot read {name}"))?;
            it.sysctls.push((path, value));
        }
        fs::write(Path::new("/proc/sys").join(SYSCTLS[0]), INOTIFY)
            .context("cannot raise the limit of inotify instances")?;
        for place in PLACES {
            it.folder(Path::new(place))?;
        }
        Ok(it)
    }

    /// Makes a folder and those above it; the ones that were not there go in the end.
    fn folder(&mut self, path: &Path) -> anyhow::Result<()> {
        if path.is_dir() {
            return Ok(());
        }
        if let Some(above) = path.parent() {
            self.folder(above)?;
        }
        fs::create_dir(path).with_context(|| format!("cannot make {}", path.display()))?;
        self.folders.push(path.to_owned());
        Ok(())
    }

    /// Makes a group of this name in every hierarchy, with the processors and memory of the one
    /// above it.
    ///
    /// # Errors
    /// When a hierarchy does not let us.
    pub fn cgroup(&mut self, name: &str) -> anyhow::Result<()> {
        for hierarchy in hierarchies()? {
            let group = hierarchy.join(name);
            fs::create_dir(&group).with_context(|| format!("cannot make {}", group.display()))?;
            self.cgroups.push(group.clone());
            for file in ["cpuset.cpus", "cpuset.mems"] {
                if let Ok(value) = fs::read_to_string(hierarchy.join(file)) {
                    fs::write(group.join(file), value)
                        .with_context(|| format!("cannot set {file} of {}", group.display()))?;
                }
            }
        }
        Ok(())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let end = Instant::now() + PATIENCE;
        for group in &self.cgroups {
            while !remove_group(group) && Instant::now() < end {
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        for folder in self.folders.iter().rev() {
            // Not empty: somebody else uses it by now.
            let _ = fs::remove_dir(folder);
        }
        for (path, value) in &self.sysctls {
            if let Err(error) = fs::write(path, value) {
                eprintln!("cannot put back {}: {error}", path.display());
            }
        }
    }
}

/// The places where cgroups can be made: one in version 2, several in version 1.
fn hierarchies() -> anyhow::Result<Vec<PathBuf>> {
    let root = Path::new(CGROUPS);
    let is_group = |path: &Path| path.join("cgroup.procs").exists();
    if is_group(root) {
        return Ok(vec![root.to_owned()]);
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(root).context("cannot list the cgroup hierarchies")? {
        let entry = entry?;
        if entry.file_type()?.is_dir() && is_group(&entry.path()) {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// Removes a group and those below it. False while somebody is in one of them.
fn remove_group(group: &Path) -> bool {
    let Ok(entries) = fs::read_dir(group) else {
        return !group.exists();
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_group(&entry.path());
        }
    }
    fs::remove_dir(group).is_ok()
}
