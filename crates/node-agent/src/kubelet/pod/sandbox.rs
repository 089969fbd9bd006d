//! A pod's sandbox: its first process, its network namespace's name, its place in the CNI network.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::{Value, json};

use crate::cni::chain::{Attached, Attachment};
use crate::kubelet::cgroup::PodCgroup;
use crate::kubelet::init::spec::{InitSpec, Namespaces, SandboxSpec};
use crate::kubelet::node::Node;
use crate::kubelet::process::{self, Process, Stdio};
use crate::kubelet::resolver;

/// A running sandbox.
pub(super) struct Sandbox {
    pub id: String,
    pub process: Process,
    /// Name of the pod's network namespace; absent for host-network pods.
    pub netns: Option<PathBuf>,
    /// The pod's addresses; the node's for host-network pods.
    pub addresses: Vec<IpAddr>,
    network: Option<(Attachment, Attached)>,
    host_pid: bool,
    host_ipc: bool,
}

/// What the pod's specification says about namespaces.
struct Sharing {
    network: bool,
    pid: bool,
    ipc: bool,
}

impl Sharing {
    fn of(pod: &Pod) -> Self {
        let spec = pod.spec.as_ref();
        Self {
            network: spec.and_then(|s| s.host_network) == Some(true),
            pid: spec.and_then(|s| s.host_pid) == Some(true),
            ipc: spec.and_then(|s| s.host_ipc) == Some(true),
        }
    }
}

impl Sandbox {
    /// Makes the sandbox and connects it. On failure nothing is left.
    ///
    /// # Errors
    /// A message for `FailedCreatePodSandBox`.
    pub(super) async fn create(
        node: &Node,
        pod: &Pod,
        cgroup: &PodCgroup,
        dir: &Path,
    ) -> Result<Self, String> {
        let sharing = Sharing::of(pod);
        let id = new_id();
        let text = |error: io::Error| format!("failed to prepare sandbox: {error}");
        let scratch = dir.join("sandbox");
        std::fs::create_dir_all(&scratch).map_err(text)?;
        let group = cgroup.container(&id).map_err(text)?;
        let spec = sandbox_spec(pod, &sharing, &scratch, group.procs());
        let started = process::start(
            &node.config.init_program,
            &InitSpec::Sandbox(spec),
            Stdio::Null,
        )
        .await
        .map_err(|error| format!("failed to start sandbox: {error}"))?;
        let mut sandbox = Self {
            id,
            process: started.process,
            netns: None,
            addresses: node.config.node_ips.clone(),
            network: None,
            host_pid: sharing.pid,
            host_ipc: sharing.ipc,
        };
        if sharing.network {
            return Ok(sandbox);
        }
        if let Err(error) = sandbox.connect(node, pod).await {
            sandbox.destroy(node).await;
            return Err(error);
        }
        Ok(sandbox)
    }

    async fn connect(&mut self, node: &Node, pod: &Pod) -> Result<(), String> {
        let netns = name_netns(&node.config.cni.netns_dir, &self.process)
            .map_err(|error| format!("failed to name the network namespace: {error}"))?;
        self.netns = Some(netns.clone());
        let attachment = attachment(pod, &self.id, netns);
        let attached = node.chain.add(&attachment).await.map_err(|error| {
            format!("failed to setup network for sandbox {:?}: {error}", self.id)
        })?;
        self.addresses = attached.addresses.clone();
        self.network = Some((attachment, attached));
        match &node.config.policies {
            Some(policies) => policies
                .admit(pod, &self.addresses)
                .await
                .map_err(|error| format!("failed to apply network policies: {error}")),
            None => Ok(()),
        }
    }

    /// The namespaces that containers join.
    pub(super) fn namespaces(&self) -> Namespaces {
        let own = self.netns.is_some();
        let namespace = |name: &str, wanted: bool| wanted.then(|| self.process.namespace(name));
        Namespaces {
            net: namespace("net", own),
            uts: namespace("uts", own),
            ipc: namespace("ipc", !self.host_ipc),
            pid: namespace("pid", !self.host_pid),
            mnt: None,
        }
    }

    /// Disconnects and ends the sandbox. Containers have ended before.
    pub(super) async fn destroy(&mut self, node: &Node) {
        if let Some((attachment, attached)) = self.network.take() {
            // Before the addresses are free, which may soon be another pod's.
            if let Some(policies) = &node.config.policies {
                policies.release(&attachment.uid);
            }
            for attempt in 1..=3 {
                match node.chain.delete(&attached, &attachment).await {
                    Ok(()) => break,
                    Err(error) => {
                        tracing::warn!(
                            pod = attachment.name,
                            attempt,
                            "network not torn down: {error}"
                        );
                        tokio::time::sleep(Duration::from_millis(200)).await;
                    }
                }
            }
        }
        self.process.signal(libc::SIGTERM);
        if tokio::time::timeout(Duration::from_secs(2), self.process.wait())
            .await
            .is_err()
        {
            self.process.signal(libc::SIGKILL);
            self.process.wait().await;
        }
        if let Some(netns) = self.netns.take() {
            unname_netns(&netns);
        }
    }
}

fn sandbox_spec(pod: &Pod, sharing: &Sharing, scratch: &Path, procs: PathBuf) -> SandboxSpec {
    let spec = pod.spec.as_ref();
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    // As with any runtime: unprivileged users of a pod may bind low ports and send pings, because
    // the pod's network is its own.
    let mut sysctls: std::collections::BTreeMap<String, String> = [
        (
            "net.ipv4.ip_unprivileged_port_start".to_string(),
            "0".to_string(),
        ),
        (
            "net.ipv4.ping_group_range".to_string(),
            "0 2147483647".to_string(),
        ),
    ]
    .into();
    let own = spec
        .and_then(|s| s.security_context.as_ref())
        .and_then(|context| context.sysctls.clone());
    sysctls.extend(
        own.unwrap_or_default()
            .into_iter()
            .map(|sysctl| (sysctl.name, sysctl.value)),
    );
    SandboxSpec {
        cgroup_procs: vec![procs],
        hostname: (!sharing.network).then(|| {
            spec.map(|spec| resolver::hostname(spec, name))
                .unwrap_or_default()
        }),
        new_net: !sharing.network,
        new_pid: !sharing.pid,
        new_ipc: !sharing.ipc,
        sysctls,
        scratch: scratch.to_path_buf(),
    }
}

fn attachment(pod: &Pod, id: &str, netns: PathBuf) -> Attachment {
    let meta = &pod.metadata;
    Attachment {
        container_id: id.to_string(),
        netns,
        interface: "eth0".to_string(),
        namespace: meta.namespace.clone().unwrap_or_default(),
        name: meta.name.clone().unwrap_or_default(),
        uid: meta.uid.clone().unwrap_or_default(),
        port_mappings: port_mappings(pod),
    }
}

fn port_mappings(pod: &Pod) -> Vec<Value> {
    let containers = pod.spec.iter().flat_map(|spec| spec.containers.iter());
    containers
        .flat_map(|container| container.ports.iter().flatten())
        .filter_map(|port| {
            let host_port = port.host_port.filter(|port| *port > 0)?;
            let protocol = port.protocol.as_deref().unwrap_or("TCP").to_ascii_lowercase();
            Some(json!({"hostPort": host_port, "containerPort": port.container_port, "protocol": protocol}))
        })
        .collect()
}

/// 64 hexadecimal digits, as container runtimes use.
pub(super) fn new_id() -> String {
    format!(
        "{}{}",
        uuid::Uuid::new_v4().simple(),
        uuid::Uuid::new_v4().simple()
    )
}

/// Gives a process's network namespace a name, as `ip netns` and container runtimes do: a bind mount
/// that other pods see through `HostToContainer` mounts of the directory.
fn name_netns(directory: &Path, process: &Process) -> io::Result<PathBuf> {
    let path = directory.join(format!("cni-{}", uuid::Uuid::new_v4()));
    std::fs::File::create(&path)?;
    let mounted = mount(
        Some(&process.namespace("net")),
        &path,
        None::<&str>,
        MsFlags::MS_BIND,
        None::<&str>,
    );
    if let Err(errno) = mounted {
        let _ = std::fs::remove_file(&path);
        return Err(errno.into());
    }
    Ok(path)
}

fn unname_netns(path: &Path) {
    if let Err(error) = umount2(path, MntFlags::MNT_DETACH) {
        tracing::warn!(netns = %path.display(), "not unmounted: {error}");
    }
    let _ = std::fs::remove_file(path);
}
