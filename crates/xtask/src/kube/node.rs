//! A real node: kubelet, containerd and kube-proxy in namespaces of their own.

use std::fs;
use std::path::{Path, PathBuf};

use ambit_apiserver::kubeconfig;
use ambit_testkit::{Process, die_with_parent};
use anyhow::Context;

use super::build::Programs;
use super::control_plane::ControlPlane;
use super::machine::PLACES;

/// What the first process does.
const SCRIPT: &str = include_str!("node.sh");
/// Lines of each log that are shown when something went wrong.
const TAIL: usize = 20;

/// A running node. Dropping it ends all its processes.
pub struct Node {
    process: Process,
    machine: ambit_testkit::Node,
    files: PathBuf,
}

/// What a node needs of its cluster.
pub struct Parts<'a> {
    /// The real Kubernetes.
    pub programs: &'a Programs,
    /// Where the API server is, and the keys.
    pub control_plane: &'a ControlPlane,
    /// The archive of images that containerd gets.
    pub images: &'a Path,
    /// The address of the cluster's DNS.
    pub dns: &'a str,
    /// The cgroup of its pods, which is there.
    pub cgroup: &'a str,
}

impl Node {
    /// Starts one on this machine of the network, with its files in a folder.
    ///
    /// # Errors
    /// When its files cannot be written or it cannot be started.
    pub fn start(
        name: &str,
        machine: ambit_testkit::Node,
        files: PathBuf,
        parts: &Parts<'_>,
    ) -> anyhow::Result<Self> {
        fs::create_dir_all(&files).with_context(|| format!("cannot make {}", files.display()))?;
        write_files(name, &machine, &files, parts)?;
        let mut command = machine.namespace().command("unshare");
        command
            .args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"])
            .args(["sh", "-c", SCRIPT, "node"])
            .arg(&files)
            .arg(&parts.programs.folder)
            .arg(parts.images)
            .args([name, &machine.ip().to_string()])
            .args(PLACES);
        die_with_parent(&mut command);
        let process = Process::start_logged(&mut command, &files.join("node.log"))?;
        Ok(Self {
            process,
            machine,
            files,
        })
    }

    /// Its machine, whose `eth0` leads to the others.
    pub fn machine(&self) -> &ambit_testkit::Node {
        &self.machine
    }

    /// # Errors
    /// When it has ended; the message shows its logs.
    pub fn check(&mut self) -> anyhow::Result<()> {
        match self.process.exited()? {
            None => Ok(()),
            Some(status) => anyhow::bail!("a node ended with {status}:\n{}", self.tails()),
        }
    }

    /// The ends of its logs.
    pub fn tails(&self) -> String {
        let tail = |name: &str| {
            let log = fs::read_to_string(self.files.join(name)).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let from = lines.len().saturating_sub(TAIL);
            format!(
                "== {}/{name}\n{}",
                self.files.display(),
                lines[from..].join("\n")
            )
        };
        let logs = [
            "node.log",
            "import.log",
            "containerd.log",
            "kube-proxy.log",
            "kubelet.log",
        ];
        logs.map(tail).join("\n")
    }
}

fn write_files(
    name: &str,
    machine: &ambit_testkit::Node,
    files: &Path,
    parts: &Parts<'_>,
) -> anyhow::Result<()> {
    let write = |file: &str, text: &str| {
        let path = files.join(file);
        kubeconfig::write_private(&path, text.as_bytes())
            .with_context(|| format!("cannot write {}", path.display()))
    };
    let keys = parts.control_plane.keys()?;
    let url = parts.control_plane.url();
    let config = |user: &ambit_apiserver::pki::KeyCert| {
        kubeconfig::with_certificate("kubernetes", &url, keys.ca_pem(), user)
    };
    write("kubelet.conf", &config(&keys.node_client(name)?))?;
    let proxy = keys.issue_client("system:kube-proxy", None)?;
    write("proxy.conf", &config(&proxy))?;
    let serving = keys.node_serving(name, &[machine.ip()])?;
    write("kubelet.crt", &serving.cert_pem)?;
    write("kubelet.key", &serving.key_pem)?;
    // No way out of the cluster: other names do not exist.
    write("resolv.conf", "nameserver 127.0.0.1\n")?;
    write("pods.conflist", &network(machine.number()))?;
    write("containerd.toml", &containerd(files))?;
    write("kubelet.yaml", &kubelet(files, parts))
}

/// The primary plugins of the node's pods; the mesh chains its own behind them.
fn network(number: u8) -> String {
    format!(
        r#"{{"cniVersion": "0.4.0", "name": "pods", "plugins": [
  {{"type": "ptp", "ipMasq": false, "mtu": 1500, "ipam": {{"type": "host-local",
    "ranges": [[{{"subnet": "10.244.{number}.0/24"}}]], "routes": [{{"dst": "0.0.0.0/0"}}]}}}},
  {{"type": "portmap", "capabilities": {{"portMappings": true}}}}]}}
"#
    )
}

/// Without what a machine in a sandbox does not allow (negative scores for the out-of-memory
/// killer, AppArmor), and without plugins that write outside of its folders.
fn containerd(files: &Path) -> String {
    format!(
        r#"version = 2
root = "{files}/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.internal.v1.opt"]
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "registry.k8s.io/pause:3.10"
  restrict_oom_score_adj = true
  disable_apparmor = true
  enable_unprivileged_ports = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/opt/cni/bin"
    conf_dir = "/etc/cni/net.d"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = false
"#,
        files = files.display()
    )
}

fn kubelet(files: &Path, parts: &Parts<'_>) -> String {
    format!(
        r"apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {{anonymous: {{enabled: false}}, webhook: {{enabled: false}}, x509: {{clientCAFile: '{ca}'}}}}
authorization: {{mode: AlwaysAllow}}
cgroupDriver: cgroupfs
cgroupRoot: /{cgroup}
clusterDNS: [{dns}]
clusterDomain: cluster.local
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
enforceNodeAllocatable: []
evictionHard: {{memory.available: 10Mi, nodefs.available: 1%, imagefs.available: 1%}}
failCgroupV1: false
failSwapOn: false
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
makeIPTablesUtilChains: false
nodeStatusUpdateFrequency: 4s
resolvConf: '{files}/resolv.conf'
tlsCertFile: '{files}/kubelet.crt'
tlsPrivateKeyFile: '{files}/kubelet.key'
",
        ca = parts.control_plane.ca().display(),
        cgroup = parts.cgroup,
        dns = parts.dns,
        files = files.display(),
    )
}
