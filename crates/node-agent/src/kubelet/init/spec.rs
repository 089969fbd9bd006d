//! What the kubelet tells its helper, as data. Decided by the kubelet, only carried out here.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// One job of the helper.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub(crate) enum InitSpec {
    Sandbox(SandboxSpec),
    Container(Box<ContainerSpec>),
    Exec(Box<ExecSpec>),
}

/// A pod's namespaces and its first process.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SandboxSpec {
    /// `cgroup.procs` files to write our process id to.
    pub cgroup_procs: Vec<PathBuf>,
    /// Host name, for a pod with its own UTS namespace.
    pub hostname: Option<String>,
    pub new_net: bool,
    pub new_pid: bool,
    pub new_ipc: bool,
    /// Network namespace sysctls, dotted names.
    pub sysctls: BTreeMap<String, String>,
    /// An empty directory that the sandbox mounts its own empty root on.
    pub scratch: PathBuf,
}

/// Namespace files to join; absent means: keep the node's.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Namespaces {
    pub net: Option<PathBuf>,
    pub uts: Option<PathBuf>,
    pub ipc: Option<PathBuf>,
    pub pid: Option<PathBuf>,
    /// Only for exec: the container's own mount namespace.
    pub mnt: Option<PathBuf>,
}

/// The program and its privileges.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ProcessSpec {
    pub argv: Vec<String>,
    pub env: Vec<(String, String)>,
    pub cwd: String,
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    /// Capability numbers; absent means all that the node has (privileged).
    pub capabilities: Option<Vec<u8>>,
    pub no_new_privileges: bool,
    /// Standard input is a terminal that becomes the controlling one.
    pub tty: bool,
}

/// A container to start.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ContainerSpec {
    pub cgroup_procs: Vec<PathBuf>,
    pub namespaces: Namespaces,
    pub rootfs: RootfsSpec,
    pub process: ProcessSpec,
}

/// The container's file system.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct RootfsSpec {
    /// Lower layer, the node's root.
    pub lower: PathBuf,
    pub upper: PathBuf,
    pub work: PathBuf,
    /// Where the overlay is mounted before it becomes `/`.
    pub target: PathBuf,
    pub read_only: bool,
    pub privileged: bool,
    /// Bind mounts, sorted by target.
    pub mounts: Vec<MountSpec>,
}

/// One bind mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MountSpec {
    pub source: PathBuf,
    pub target: String,
    pub read_only: bool,
    /// `HostToContainer`: later mounts below the source appear in the container.
    pub follow_host: bool,
}

/// A process to add to a running container.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ExecSpec {
    pub cgroup_procs: Vec<PathBuf>,
    pub namespaces: Namespaces,
    pub process: ProcessSpec,
}
