//! What is kept on disk about clusters: one folder each, with a record of
//! what was made for it. Whoever finds a record without its processes knows
//! everything that is left to remove.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use ambit_node_agent::nft::Family;
use ipnet::IpNet;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::addresses::{self, API_PORT, Addresses};
use crate::error::{LocalError, Result, file};
use crate::kind::Role;

/// The label and the taint of control planes.
pub(crate) const CONTROL_PLANE: &str = "node-role.kubernetes.io/control-plane";
/// Where state is kept when `AMBIT_STATE` does not say.
const DEFAULT_STATE: &str = "/run/ambit-local";

/// Everything about a cluster that its parts need to know. Written before
/// anything is made for it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Cluster {
    pub(crate) name: String,
    /// Distinguishes the clusters of this machine; see [`Addresses`]. None until
    /// one is being taken.
    pub(crate) index: Option<u8>,
    /// The address of the host's link: tells it from that of another cluster,
    /// which may have taken the index since.
    pub(crate) link: [u8; 6],
    /// The program that all parts are.
    pub(crate) program: PathBuf,
    /// Where the host reaches the API server.
    pub(crate) api: SocketAddr,
    /// One for each version of IP, the first one first.
    pub(crate) pod_subnets: Vec<IpNet>,
    /// As many, in the same order.
    pub(crate) service_subnets: Vec<IpNet>,
    pub(crate) nodes: Vec<NodeRecord>,
    /// A folder with the programs of a real control plane, which then takes
    /// the place of ours.
    pub(crate) kubernetes: Option<PathBuf>,
    /// The kubeconfig that has a context for this cluster, beside our own.
    pub(crate) kubeconfig: Option<PathBuf>,
    /// When it was made, seconds since 1970.
    pub(crate) created: i64,
}

/// A node of a cluster.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct NodeRecord {
    pub(crate) name: String,
    pub(crate) role: Role,
    /// Those that the configuration gives it.
    pub(crate) labels: BTreeMap<String, String>,
}

impl NodeRecord {
    /// All labels that it is to have beside those that every node has.
    pub(crate) fn all_labels(&self) -> BTreeMap<String, String> {
        let mut labels = self.labels.clone();
        if self.role == Role::ControlPlane {
            labels.insert(CONTROL_PLANE.to_owned(), String::new());
        }
        labels
    }
}

impl Cluster {
    /// Its addresses, once it has an index.
    pub(crate) fn addresses(&self) -> Addresses {
        Addresses::new(self.index.unwrap_or_default())
    }

    /// The group under each cgroup hierarchy that holds all of its pods, once it
    /// has an index.
    pub(crate) fn cgroup(&self) -> String {
        format!("ambit{}-{}", self.index.unwrap_or_default(), self.name)
    }

    /// The URL of the API server on the host.
    pub(crate) fn url(&self) -> String {
        format!("https://{}", self.api)
    }

    /// The name of its context in a kubeconfig.
    pub(crate) fn context(&self) -> String {
        format!("ambit-{}", self.name)
    }

    /// The versions of IP that it uses, the first one first.
    pub(crate) fn families(&self) -> Vec<Family> {
        let nets = self.pod_subnets.iter();
        nets.map(|net| Family::of(net.addr())).collect()
    }

    /// The router's addresses, the first family's first.
    pub(crate) fn routers(&self) -> Vec<IpAddr> {
        let families = self.families().into_iter();
        families
            .map(|family| self.addresses().router(family))
            .collect()
    }

    /// Where the API server listens inside: at the router, in the first family.
    pub(crate) fn inner_api(&self) -> SocketAddr {
        let family = self.families().first().copied().unwrap_or(Family::V4);
        (self.addresses().router(family), API_PORT).into()
    }

    /// The addresses of a node, the first family's first.
    pub(crate) fn node_addresses(&self, place: usize) -> Vec<IpAddr> {
        let families = self.families().into_iter();
        families
            .map(|family| self.addresses().node(family, place))
            .collect()
    }

    /// The pod subnets of a node, the first family's first.
    pub(crate) fn node_subnets(&self, place: usize) -> Vec<IpNet> {
        let nets = self.pod_subnets.iter();
        nets.filter_map(|net| addresses::pod_subnet(*net, place))
            .collect()
    }

    /// The addresses at an offset in the service subnets.
    pub(crate) fn service_addresses(&self, offset: u32) -> impl Iterator<Item = IpAddr> {
        let nets = self.service_subnets.iter();
        nets.map(move |net| addresses::service_address(*net, offset))
    }

    /// The address of the cluster's DNS service, which is of the first family.
    pub(crate) fn dns(&self) -> Option<IpAddr> {
        self.service_addresses(10).next()
    }
}

/// The processes that hold a cluster together.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Processes {
    /// The first process, which cleans up after the rest.
    pub(crate) guardian: ProcessId,
    /// The first process inside the cluster's namespaces.
    pub(crate) init: Option<ProcessId>,
}

/// A process that cannot be mistaken for a later one of the same id.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, PartialEq, Eq)]
pub(crate) struct ProcessId {
    pub(crate) pid: i32,
    /// Start time in clock ticks since boot (`/proc/PID/stat`, field 22).
    pub(crate) started: u64,
}

impl ProcessId {
    /// The process with this id, if there is one.
    pub(crate) fn of(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        Some(Self {
            pid,
            started: start_time(&stat)?,
        })
    }

    /// The child that was started with these arguments after the program's
    /// name: how a node's first process is found from outside.
    pub(crate) fn child(self, arguments: &[&str]) -> Option<i32> {
        let wanted = format!("\nPPid:\t{}\n", self.pid);
        let entries = fs::read_dir("/proc").ok()?.flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        pids.into_iter().find(|pid| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            status.contains(&wanted)
                && command
                    .trim_end_matches('\0')
                    .split('\0')
                    .skip(1)
                    .eq(arguments.iter().copied())
        })
    }

    /// Whether it still runs; a zombie does not.
    pub(crate) fn is_alive(self) -> bool {
        let Ok(stat) = fs::read_to_string(format!("/proc/{}/stat", self.pid)) else {
            return false;
        };
        let state = stat.rsplit_once(')').map(|(_, rest)| rest.trim_start());
        let zombie = state.is_none_or(|rest| rest.starts_with(['Z', 'X']));
        start_time(&stat) == Some(self.started) && !zombie
    }
}

/// Field 22; counted after the command, which may contain anything.
fn start_time(stat: &str) -> Option<u64> {
    stat.rsplit_once(')')?
        .1
        .split_ascii_whitespace()
        .nth(19)?
        .parse()
        .ok()
}

/// The folder of all clusters' state.
#[derive(Debug, Clone)]
pub(crate) struct State {
    root: PathBuf,
}

/// The folder of one cluster's state.
#[derive(Debug, Clone)]
pub(crate) struct Folder {
    path: PathBuf,
}

impl State {
    /// The folder that `AMBIT_STATE` names, or the default one.
    pub(crate) fn from_env() -> Self {
        let root = std::env::var_os("AMBIT_STATE").filter(|value| !value.is_empty());
        Self {
            root: root.map_or_else(|| PathBuf::from(DEFAULT_STATE), PathBuf::from),
        }
    }

    /// Takes the lock under which clusters are made and removed; it is held
    /// until dropped.
    pub(crate) fn lock(&self) -> Result<Flock<File>> {
        fs::create_dir_all(&self.root).map_err(file("making", &self.root))?;
        let path = self.root.join("lock");
        let lock = File::create(&path).map_err(file("making", &path))?;
        Flock::lock(lock, FlockArg::LockExclusive)
            .map_err(|(_, errno)| file("locking", &path)(errno.into()))
    }

    /// The folder of a cluster, whether it exists or not. Absolute.
    pub(crate) fn folder(&self, name: &str) -> Folder {
        let path = self.root.join("clusters").join(name);
        Folder {
            path: std::path::absolute(&path).unwrap_or(path),
        }
    }

    /// Clusters are root's: their state holds keys. Says so to everybody else.
    pub(crate) fn check_readable(&self) -> Result<()> {
        match fs::read_dir(self.root.join("clusters")) {
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                let reason = "clusters are visible to root only; run this with sudo";
                Err(LocalError::Missing(reason.to_owned()))
            }
            _ => Ok(()),
        }
    }

    /// Names of all clusters that have a folder.
    pub(crate) fn names(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.root.join("clusters")) else {
            return Vec::new();
        };
        let mut names: Vec<String> = entries
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.sort();
        names
    }

    /// Removes the folders that hold clusters, if there are none left.
    pub(crate) fn tidy(&self) {
        if fs::remove_dir(self.root.join("clusters")).is_ok() {
            // Whoever waits for the lock has opened it already and is not hurt.
            let _ = fs::remove_file(self.root.join("lock"));
            let _ = fs::remove_dir(&self.root);
        }
    }
}

impl Folder {
    /// The folder at `path`, made by somebody else.
    pub(crate) fn at(path: PathBuf) -> Self {
        Self { path }
    }

    /// Its path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is there.
    pub(crate) fn exists(&self) -> bool {
        self.path.is_dir()
    }

    /// Makes it, readable for its owner alone: it holds keys.
    pub(crate) fn create(&self) -> Result<()> {
        use std::os::unix::fs::DirBuilderExt;
        for path in [self.path.clone(), self.logs(), self.keys()] {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&path)
                .map_err(file("making", &path))?;
        }
        Ok(())
    }

    /// Removes it with everything in it, and empty folders above.
    pub(crate) fn remove(&self) -> Result<()> {
        match fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(file("removing", &self.path)(error))
            }
            _ => {
                if let Some(root) = self.path.parent().and_then(Path::parent) {
                    State {
                        root: root.to_owned(),
                    }
                    .tidy();
                }
                Ok(())
            }
        }
    }

    /// The administrator's kubeconfig.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.path.join("kubeconfig")
    }

    /// The folder of log files.
    pub(crate) fn logs(&self) -> PathBuf {
        self.path.join("logs")
    }

    /// The log file of one part.
    pub(crate) fn log(&self, part: &str) -> PathBuf {
        self.logs().join(format!("{part}.log"))
    }

    /// The folder of the cluster's keys.
    pub(crate) fn keys(&self) -> PathBuf {
        self.path.join("keys")
    }

    /// Reads the cluster's record.
    pub(crate) fn cluster(&self) -> Result<Cluster> {
        read_json(&self.path.join("cluster.json"))
    }

    /// Writes the cluster's record.
    pub(crate) fn write_cluster(&self, cluster: &Cluster) -> Result<()> {
        write_json(&self.path.join("cluster.json"), cluster)
    }

    /// Reads which processes hold the cluster.
    pub(crate) fn processes(&self) -> Result<Processes> {
        read_json(&self.path.join("processes.json"))
    }

    /// Writes which processes hold the cluster.
    pub(crate) fn write_processes(&self, processes: &Processes) -> Result<()> {
        write_json(&self.path.join("processes.json"), processes)
    }

    /// Whether a process of the cluster is alive.
    pub(crate) fn is_alive(&self) -> bool {
        self.processes().is_ok_and(|processes| {
            processes.guardian.is_alive() || processes.init.is_some_and(ProcessId::is_alive)
        })
    }
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let text = fs::read(path).map_err(file("reading", path))?;
    serde_json::from_slice(&text).map_err(|error| LocalError::Record {
        path: path.to_owned(),
        reason: error.to_string(),
    })
}

fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let text = serde_json::to_vec_pretty(value).map_err(|error| LocalError::Record {
        path: path.to_owned(),
        reason: error.to_string(),
    })?;
    write_private(path, &text)
}

/// Writes a file that only its owner can read, by way of a new file beside
/// it, so that nobody ever reads half of it.
pub(crate) fn write_private(path: &Path, content: &[u8]) -> Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let partial = path.with_extension(format!("new-{}", std::process::id()));
    let written = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&partial)
        .and_then(|mut file| file.write_all(content).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&partial, path));
    if written.is_err() {
        let _ = fs::remove_file(&partial);
    }
    written.map_err(file("writing", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_itself_and_no_other() {
        let me = ProcessId::of(std::process::id().cast_signed()).expect("this process");
        assert!(me.is_alive());
        assert!(
            !ProcessId {
                started: me.started + 1,
                ..me
            }
            .is_alive()
        );
        assert_eq!(
            start_time("1 (a ) b) S 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 77 1"),
            Some(77)
        );
    }

    #[test]
    fn the_last_cluster_takes_the_folder_with_it() {
        let root = tempfile::tempdir().expect("a folder");
        let state = State {
            root: root.path().join("state"),
        };
        drop(state.lock().expect("the lock"));
        for name in ["a", "b"] {
            state.folder(name).create().expect("a folder");
        }
        assert_eq!(state.names(), ["a", "b"]);
        state.folder("a").remove().expect("removed");
        assert_eq!(state.names(), ["b"]);
        state.folder("b").remove().expect("removed");
        assert!(!root.path().join("state").exists());
    }
}
