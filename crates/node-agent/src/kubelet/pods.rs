//! The table of pods on this node, as the HTTPS endpoint and the probes see them.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use tokio::sync::broadcast;

use super::cgroup::ContainerCgroup;
use super::init::spec::{ExecSpec, InitSpec, Namespaces, ProcessSpec};
use super::logs::{ContainerLog, Stream};
use super::process::{Process, Terminal, Writer};

/// A container that runs now.
#[derive(Clone)]
pub(crate) struct RunningContainer {
    pub process: Process,
    pub cgroup: ContainerCgroup,
    /// User, privileges, environment and directory, which exec sessions share.
    pub template: ProcessSpec,
    pub io: ContainerIo,
}

impl RunningContainer {
    /// What to start to run a command inside this container.
    pub(crate) fn exec_spec(&self, argv: Vec<String>, tty: bool) -> InitSpec {
        let namespace = |name| Some(self.process.namespace(name));
        InitSpec::Exec(Box::new(ExecSpec {
            cgroup_procs: vec![self.cgroup.procs()],
            namespaces: Namespaces {
                net: namespace("net"),
                uts: namespace("uts"),
                ipc: namespace("ipc"),
                pid: namespace("pid"),
                mnt: namespace("mnt"),
            },
            process: ProcessSpec {
                argv,
                tty,
                ..self.template.clone()
            },
        }))
    }
}

/// When a container started, and its output since then.
pub(crate) type Early = (Instant, broadcast::Receiver<(Stream, Bytes)>);

/// A running container's streams, for attach.
#[derive(Clone)]
pub(crate) struct ContainerIo {
    pub output: broadcast::Sender<(Stream, Bytes)>,
    /// What a container with `stdin: true` has printed so far, for its first client: somebody is
    /// on the way, and must see the whole of a command that ends at once.
    pub early: Arc<Mutex<Option<Early>>>,
    /// Present for containers with `stdin: true`; taken away by the first attach with `stdinOnce`.
    pub stdin: Arc<tokio::sync::Mutex<Option<Writer>>>,
    pub stdin_once: bool,
    pub terminal: Option<Terminal>,
}

/// Logs of a container's present and previous run.
#[derive(Clone, Default)]
pub(crate) struct ContainerLogs {
    pub current: Option<Arc<ContainerLog>>,
    pub previous: Option<Arc<ContainerLog>>,
}

/// What others may know about a pod.
#[derive(Clone)]
pub(crate) struct PodEntry {
    pub pod: Arc<Pod>,
    /// The pod's network namespace; absent for host-network pods and before it is connected.
    pub netns: Option<PathBuf>,
    pub host_network: bool,
    pub sandbox_ready: bool,
    pub running: HashMap<String, RunningContainer>,
    pub logs: HashMap<String, ContainerLogs>,
}

/// All pods by uid.
#[derive(Clone, Default)]
pub(crate) struct PodTable {
    pods: Arc<Mutex<HashMap<String, PodEntry>>>,
}

impl PodTable {
    /// Adds a pod or replaces its object.
    pub(crate) fn insert(&self, uid: &str, pod: Arc<Pod>) {
        let host_network = pod.spec.as_ref().and_then(|spec| spec.host_network) == Some(true);
        let mut pods = self.pods.lock();
        match pods.get_mut(uid) {
            Some(entry) => entry.pod = pod,
            None => {
                let entry = PodEntry {
                    pod,
                    netns: None,
                    host_network,
                    sandbox_ready: false,
                    running: HashMap::new(),
                    logs: HashMap::new(),
                };
                pods.insert(uid.to_string(), entry);
            }
        }
    }

    /// Changes an entry, if it is there.
    pub(crate) fn update(&self, uid: &str, change: impl FnOnce(&mut PodEntry)) {
        if let Some(entry) = self.pods.lock().get_mut(uid) {
            change(entry);
        }
    }

    /// Forgets a pod.
    pub(crate) fn remove(&self, uid: &str) {
        self.pods.lock().remove(uid);
    }

    /// Finds a pod by name; if an earlier pod of that name is still ending, the newer one.
    pub(crate) fn find(&self, namespace: &str, name: &str) -> Option<PodEntry> {
        let pods = self.pods.lock();
        pods.values()
            .filter(|entry| {
                let meta = &entry.pod.metadata;
                meta.namespace.as_deref() == Some(namespace) && meta.name.as_deref() == Some(name)
            })
            .max_by_key(|entry| entry.pod.metadata.creation_timestamp.clone())
            .cloned()
    }

    /// All pod objects.
    pub(crate) fn all(&self) -> Vec<Arc<Pod>> {
        self.pods
            .lock()
            .values()
            .map(|entry| entry.pod.clone())
            .collect()
    }
}
