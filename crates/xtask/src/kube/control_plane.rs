//! The real control plane: etcd, kube-apiserver and controllers, in a folder that goes with them.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use ambit_apiserver::kubeconfig;
use ambit_apiserver::pki::{ClusterPki, KeyCert};
use ambit_testkit::{Namespace, Process, die_with_parent};
use anyhow::{Context, bail};

use super::Interrupt;
use super::build::Programs;

/// A cold start takes about five seconds on two busy processors.
const READY: Duration = Duration::from_secs(120);
/// Lines of each log that are shown when something went wrong.
const TAIL: usize = 15;

/// The controllers without which the API itself would act differently: owners and dependents,
/// ends of namespaces, service accounts and the CA in each of them, aggregated roles. None that
/// reconciles workloads: they would change objects while cases look at them.
const CONTROLLERS: &[&str] = &[
    "clusterrole-aggregation-controller",
    "garbage-collector-controller",
    "namespace-controller",
    "root-ca-certificate-publisher-controller",
    "serviceaccount-controller",
];

/// Where a control plane runs, and how much of it.
pub enum Extent {
    /// On loopback, with the controllers that the API itself needs: for the cases.
    Api,
    /// On a machine of its own, with everything that workloads need.
    Whole(Namespace, IpAddr),
}

/// A running control plane. Dropping it ends its processes and removes its folder.
pub struct ControlPlane {
    // In this order: what uses another ends before it, and the folder goes last.
    processes: Vec<(&'static str, Process)>,
    extent: Extent,
    ports: Ports,
    folder: Folder,
}

/// Where its parts listen.
#[derive(Clone, Copy)]
struct Ports {
    etcd: u16,
    peers: u16,
    api: u16,
}

/// A temporary folder.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl ControlPlane {
    /// Starts one and waits until it is ready.
    ///
    /// # Errors
    /// When a part does not start or does not become ready; the message shows the end of its log.
    pub fn start(
        programs: &Programs,
        extent: Extent,
        interrupt: &Interrupt,
    ) -> anyhow::Result<Self> {
        let folder = std::env::temp_dir().join(format!("ambit-kube-{}", std::process::id()));
        fs::create_dir_all(&folder).context("cannot make a folder for the control plane")?;
        let ports = match &extent {
            Extent::Api => Ports::free()?,
            Extent::Whole(..) => Ports {
                etcd: 2379,
                peers: 2380,
                api: 6443,
            },
        };
        let mut it = Self {
            processes: Vec::new(),
            extent,
            ports,
            folder: Folder(folder),
        };
        it.write_keys()?;
        it.launch("etcd", it.etcd(programs))?;
        it.launch("kube-apiserver", it.api_server(programs))?;
        it.wait_until_ready(programs, interrupt)?;
        it.launch("kube-controller-manager", it.controllers(programs))?;
        if let Extent::Whole(..) = it.extent {
            it.launch("kube-scheduler", it.scheduler(programs))?;
        }
        Ok(it)
    }

    /// Where the API server is.
    pub fn url(&self) -> String {
        format!("https://{}:{}", self.ip(), self.ports.api)
    }

    fn ip(&self) -> IpAddr {
        match &self.extent {
            Extent::Api => Ipv4Addr::LOCALHOST.into(),
            Extent::Whole(_, ip) => *ip,
        }
    }

    /// The cluster's keys.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn keys(&self) -> anyhow::Result<ClusterPki> {
        Ok(ClusterPki::load_or_generate(
            &self.folder.0,
            Vec::<String>::new(),
        )?)
    }

    /// The certificate of the cluster's CA.
    pub fn ca(&self) -> PathBuf {
        self.path("ca.crt")
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.path("admin.conf")
    }

    /// Prints the ends of the logs.
    pub fn diagnose(&self) {
        for (name, _) in &self.processes {
            println!("== the last lines of {name}\n{}", self.tail(name));
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.0.join(name)
    }

    fn tail(&self, name: &str) -> String {
        let log = fs::read_to_string(self.path(&format!("{name}.log"))).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(TAIL)..].join("\n")
    }

    fn launch(&mut self, name: &'static str, mut command: Command) -> anyhow::Result<()> {
        die_with_parent(&mut command);
        let log = self.path(&format!("{name}.log"));
        let process = Process::start_logged(&mut command, &log)?;
        self.processes.insert(0, (name, process));
        Ok(())
    }

    /// Keys, certificates and kubeconfigs, as kubeadm lays them out.
    fn write_keys(&self) -> anyhow::Result<()> {
        let pki = self.keys()?;
        let ip = self.ip().to_string();
        let names = [&*ip, "localhost", "kubernetes.default.svc", "10.96.0.1"];
        let pair = |name: &str, pair: &KeyCert| -> anyhow::Result<()> {
            write(&self.path(&format!("{name}.crt")), &pair.cert_pem)?;
            write(&self.path(&format!("{name}.key")), &pair.key_pem)
        };
        pair("apiserver", &pki.serving(&names.map(String::from))?)?;
        pair("kubelet-client", &pki.kubelet_client()?)?;
        let config = |file: &str, user: &KeyCert| {
            let text = kubeconfig::with_certificate("kubernetes", &self.url(), pki.ca_pem(), user);
            write(&self.path(file), &text)
        };
        config("admin.conf", &pki.admin()?)?;
        let controllers = pki.issue_client("system:kube-controller-manager", None)?;
        config("controllers.conf", &controllers)?;
        let scheduler = pki.issue_client("system:kube-scheduler", None)?;
        config("scheduler.conf", &scheduler)
    }

    /// One of the programs, where this control plane runs.
    fn command(&self, programs: &Programs, name: &str) -> Command {
        match &self.extent {
            Extent::Api => Command::new(programs.path(name)),
            Extent::Whole(namespace, _) => namespace.command(programs.path(name)),
        }
    }

    fn etcd(&self, programs: &Programs) -> Command {
        let (client, peer) = (etcd_url(self.ports.etcd), etcd_url(self.ports.peers));
        let mut command = self.command(programs, "etcd");
        command
            .arg("--data-dir")
            .arg(self.path("etcd"))
            .args(["--listen-client-urls", &client])
            .args(["--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer])
            .args(["--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("default={peer}")])
            // What it holds need not survive the machine.
            .arg("--unsafe-no-fsync");
        command
    }

    fn api_server(&self, programs: &Programs) -> Command {
        let mut command = self.command(programs, "kube-apiserver");
        let file = |flag: &str, name: &str| format!("--{flag}={}", self.path(name).display());
        match self.extent {
            // The endpoints of `kubernetes` may not be a loopback address.
            Extent::Api => command.arg("--endpoint-reconciler-type=none"),
            Extent::Whole(..) => command.arg("--kubelet-preferred-address-types=InternalIP"),
        };
        command
            .arg(format!("--etcd-servers={}", etcd_url(self.ports.etcd)))
            .arg(format!("--secure-port={}", self.ports.api))
            .arg(format!("--bind-address={}", self.ip()))
            .arg(format!("--advertise-address={}", self.ip()))
            .arg("--authorization-mode=Node,RBAC")
            .arg("--enable-admission-plugins=NodeRestriction")
            .arg("--service-cluster-ip-range=10.96.0.0/16")
            .arg("--service-account-issuer=https://kubernetes.default.svc.cluster.local")
            .arg("--allow-privileged=true")
            .arg(file("cert-dir", "."))
            .arg(file("client-ca-file", "ca.crt"))
            .arg(file("tls-cert-file", "apiserver.crt"))
            .arg(file("tls-private-key-file", "apiserver.key"))
            .arg(file("service-account-key-file", "sa.pub"))
            .arg(file("service-account-signing-key-file", "sa.key"))
            .arg(file("kubelet-certificate-authority", "ca.crt"))
            .arg(file("kubelet-client-certificate", "kubelet-client.crt"))
            .arg(file("kubelet-client-key", "kubelet-client.key"));
        command
    }

    fn controllers(&self, programs: &Programs) -> Command {
        let mut command = self.command(programs, "kube-controller-manager");
        let file = |flag: &str, name: &str| format!("--{flag}={}", self.path(name).display());
        if let Extent::Api = self.extent {
            command.arg(format!("--controllers={}", CONTROLLERS.join(",")));
        }
        command
            .arg(file("kubeconfig", "controllers.conf"))
            .arg(file("root-ca-file", "ca.crt"))
            .arg(file("service-account-private-key-file", "sa.key"))
            .args(["--use-service-account-credentials", "--leader-elect=false"])
            .args(["--kube-api-qps=200", "--kube-api-burst=400"])
            // It serves nothing that anybody here asks for.
            .arg("--secure-port=0");
        command
    }

    fn scheduler(&self, programs: &Programs) -> Command {
        let mut command = self.command(programs, "kube-scheduler");
        command
            .arg(format!(
                "--kubeconfig={}",
                self.path("scheduler.conf").display()
            ))
            .args(["--leader-elect=false", "--secure-port=0"]);
        command
    }

    fn wait_until_ready(
        &mut self,
        programs: &Programs,
        interrupt: &Interrupt,
    ) -> anyhow::Result<()> {
        let end = Instant::now() + READY;
        loop {
            let mut ready = self.command(programs, "kubectl");
            ready
                .arg("--kubeconfig")
                .arg(self.kubeconfig())
                .args(["get", "--raw", "/readyz"]);
            if super::printed(&mut ready).is_ok_and(|answer| answer == "ok") {
                return Ok(());
            }
            interrupt.check()?;
            self.all_running()?;
            if Instant::now() > end {
                bail!(
                    "kube-apiserver is not ready after {READY:?}:\n{}",
                    self.tail("kube-apiserver")
                );
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    fn all_running(&mut self) -> anyhow::Result<()> {
        let mut ended = None;
        for (name, process) in &mut self.processes {
            if let Some(status) = process.exited()? {
                ended = Some((*name, status));
            }
        }
        match ended {
            None => Ok(()),
            Some((name, status)) => bail!("{name} ended with {status}:\n{}", self.tail(name)),
        }
    }
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    kubeconfig::write_private(path, text.as_bytes())
        .with_context(|| format!("cannot write {}", path.display()))
}

fn etcd_url(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}

impl Ports {
    /// Ports that were free a moment ago: the programs do not take listeners that are bound
    /// already.
    fn free() -> anyhow::Result<Self> {
        let bind = || TcpListener::bind("127.0.0.1:0").context("cannot find a free port");
        let all = [bind()?, bind()?, bind()?];
        let port = |listener: &TcpListener| listener.local_addr().map(|address| address.port());
        Ok(Self {
            etcd: port(&all[0])?,
            peers: port(&all[1])?,
            api: port(&all[2])?,
        })
    }
}
