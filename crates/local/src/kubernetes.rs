//! The real control plane in place of ours: etcd, kube-apiserver, its controllers and its
//! scheduler, with the same nodes. It shows that nodes and mesh depend on Kubernetes' API and not
//! on our server.
//!
//! They run where our API server would, as its process's children, from a folder with programs of
//! these names. They need listeners of their own, so the ones that the cluster has opened already
//! are relayed, byte by byte: TLS goes from client to kube-apiserver.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use ambit_apiserver::kubeconfig;
use ambit_apiserver::pki::{ClusterPki, KeyCert};
use ipnet::IpNet;
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::task::JoinSet;

use crate::credentials;
use crate::error::{Doing, LocalError, Result, file};
use crate::parts::DOMAIN;
use crate::state::{Cluster, Folder, write_private};

/// Where kube-apiserver listens: the cluster's own port is the relay's.
const API_PORT: u16 = 6444;
const ETCD_PORT: u16 = 2379;

/// Runs the control plane until one of its programs ends.
pub(crate) async fn serve(
    folder: &Folder,
    cluster: &Cluster,
    programs: &Path,
    listeners: Vec<std::net::TcpListener>,
) -> Result<()> {
    let it = ControlPlane {
        programs: programs.to_owned(),
        files: folder.keys(),
        logs: folder.clone(),
        api: SocketAddr::new(cluster.inner_api().ip(), API_PORT),
    };
    it.write_keys(&credentials::load(folder, cluster)?)?;
    for listener in listeners {
        relay(listener, it.api)?;
    }
    let mut running = JoinSet::new();
    it.start(&mut running, "etcd", it.etcd())?;
    it.start(&mut running, "kube-apiserver", it.api_server(cluster))?;
    // The others give up on an API server that is not there in time.
    tokio::select! {
        end = running.join_next() => return Err(ended(end)),
        ready = it.ready() => ready?,
    }
    it.start(
        &mut running,
        "kube-controller-manager",
        it.controllers(cluster),
    )?;
    it.start(&mut running, "kube-scheduler", it.scheduler())?;
    Err(ended(running.join_next().await))
}

/// How one of the programs ended.
type Ending = (&'static str, std::io::Result<ExitStatus>);

fn ended(end: Option<std::result::Result<Ending, tokio::task::JoinError>>) -> LocalError {
    let (part, reason) = match end {
        Some(Ok((part, Ok(status)))) => (part, format!("ended with {status}; see its log")),
        Some(Ok((part, Err(error)))) => (part, error.to_string()),
        _ => ("the control plane", "ended".to_owned()),
    };
    LocalError::Part {
        part: part.to_owned(),
        reason,
    }
}

/// Connects everybody who comes with the API server. A server that is not there yet shows as a
/// connection that ends at once, which clients try again.
fn relay(listener: std::net::TcpListener, to: SocketAddr) -> Result<()> {
    listener.set_nonblocking(true).doing("relaying the API")?;
    let listener = TcpListener::from_std(listener).doing("relaying the API")?;
    tokio::spawn(async move {
        loop {
            let Ok((mut client, _)) = listener.accept().await else {
                // Out of descriptors, most likely: wait for some to be closed.
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                continue;
            };
            tokio::spawn(async move {
                if let Ok(mut server) = TcpStream::connect(to).await {
                    // Watch events are small and must go out at once.
                    let _ = (client.set_nodelay(true), server.set_nodelay(true));
                    // Either end may break the connection off; the other one sees it.
                    let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                }
            });
        }
    });
    Ok(())
}

struct ControlPlane {
    programs: PathBuf,
    files: PathBuf,
    logs: Folder,
    api: SocketAddr,
}

impl ControlPlane {
    fn start(
        &self,
        running: &mut JoinSet<Ending>,
        name: &'static str,
        mut command: Command,
    ) -> Result<()> {
        let path = self.logs.log(name);
        let log = std::fs::File::create(&path).map_err(file("creating", &path))?;
        let errors = log.try_clone().map_err(file("opening", &path))?;
        command.stdin(Stdio::null()).stdout(log).stderr(errors);
        let program = self.programs.join(name);
        let mut child = command.spawn().map_err(file("starting", program))?;
        running.spawn(async move { (name, child.wait().await) });
        Ok(())
    }

    /// Waits until the API server serves, its first roles included.
    async fn ready(&self) -> Result<()> {
        let path = self.files.join("kube-scheduler.conf");
        let text = std::fs::read_to_string(&path).map_err(file("reading", &path))?;
        let client = crate::parts::client(&text).await?;
        loop {
            let request = http::Request::get("/readyz").body(Vec::new());
            let request = request.map_err(failed)?;
            if client.request_text(request).await.is_ok() {
                return Ok(());
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    }

    fn program(&self, name: &str) -> Command {
        Command::new(self.programs.join(name))
    }

    /// A flag with the path of a file of ours.
    fn flag(&self, flag: &str, name: &str) -> String {
        format!("--{flag}={}", self.files.join(name).display())
    }

    /// What the programs want as files; the rest of the keys is there.
    fn write_keys(&self, keys: &ClusterPki) -> Result<()> {
        let write = |name: &str, text: &str| write_private(&self.files.join(name), text.as_bytes());
        let pair = |name: &str, pair: &KeyCert| {
            write(&format!("{name}.crt"), &pair.cert_pem)?;
            write(&format!("{name}.key"), &pair.key_pem)
        };
        pair("apiserver", &keys.serving(&[]).map_err(failed)?)?;
        pair("kubelet-client", &keys.kubelet_client().map_err(failed)?)?;
        for name in ["kube-controller-manager", "kube-scheduler"] {
            let user = keys.issue_client(&format!("system:{name}"), None);
            let url = format!("https://{}", self.api);
            let user = user.map_err(failed)?;
            let text = kubeconfig::with_certificate("kubernetes", &url, keys.ca_pem(), &user);
            write(&format!("{name}.conf"), &text)?;
        }
        Ok(())
    }

    fn etcd(&self) -> Command {
        let url = etcd_url(ETCD_PORT);
        let peers = etcd_url(ETCD_PORT + 1);
        let mut command = self.program("etcd");
        command
            .arg("--data-dir")
            .arg(self.files.join("etcd"))
            .args(["--listen-client-urls", &url])
            .args(["--advertise-client-urls", &url])
            .args(["--listen-peer-urls", &peers])
            .args(["--initial-advertise-peer-urls", &peers])
            .args(["--initial-cluster", &format!("default={peers}")])
            // The cluster forgets everything anyway when it ends.
            .arg("--unsafe-no-fsync");
        command
    }

    fn api_server(&self, cluster: &Cluster) -> Command {
        let mut command = self.program("kube-apiserver");
        command
            .arg(format!("--etcd-servers={}", etcd_url(ETCD_PORT)))
            .arg(format!("--secure-port={}", self.api.port()))
            .arg(format!("--bind-address={}", self.api.ip()))
            .arg(format!("--advertise-address={}", self.api.ip()))
            .args(["--authorization-mode=Node,RBAC", "--allow-privileged=true"])
            .arg("--enable-admission-plugins=NodeRestriction")
            .arg(format!(
                "--service-cluster-ip-range={}",
                list(&cluster.service_subnets)
            ))
            .arg(format!(
                "--service-account-issuer=https://kubernetes.default.svc.{DOMAIN}"
            ))
            .arg("--kubelet-preferred-address-types=InternalIP")
            .arg(self.flag("client-ca-file", "ca.crt"))
            .arg(self.flag("tls-cert-file", "apiserver.crt"))
            .arg(self.flag("tls-private-key-file", "apiserver.key"))
            .arg(self.flag("service-account-key-file", "sa.pub"))
            .arg(self.flag("service-account-signing-key-file", "sa.key"))
            .arg(self.flag("kubelet-certificate-authority", "ca.crt"))
            .arg(self.flag("kubelet-client-certificate", "kubelet-client.crt"))
            .arg(self.flag("kubelet-client-key", "kubelet-client.key"));
        command
    }

    fn controllers(&self, cluster: &Cluster) -> Command {
        let mut command = self.program("kube-controller-manager");
        command
            .arg(self.flag("kubeconfig", "kube-controller-manager.conf"))
            .arg(self.flag("root-ca-file", "ca.crt"))
            .arg(self.flag("service-account-private-key-file", "sa.key"))
            .arg(self.flag("cluster-signing-cert-file", "ca.crt"))
            .arg(self.flag("cluster-signing-key-file", "ca.key"))
            .arg(format!("--cluster-cidr={}", list(&cluster.pod_subnets)))
            .args(["--use-service-account-credentials", "--leader-elect=false"])
            // Nodes know their pods' addresses themselves.
            .args(["--allocate-node-cidrs=false", "--secure-port=0"]);
        command
    }

    fn scheduler(&self) -> Command {
        let mut command = self.program("kube-scheduler");
        command
            .arg(self.flag("kubeconfig", "kube-scheduler.conf"))
            .args(["--leader-elect=false", "--secure-port=0"]);
        command
    }
}

fn list(subnets: &[IpNet]) -> String {
    let texts: Vec<String> = subnets.iter().map(IpNet::to_string).collect();
    texts.join(",")
}

fn etcd_url(port: u16) -> String {
    format!("http://{}:{port}", Ipv4Addr::LOCALHOST)
}

fn failed(error: impl std::fmt::Display) -> LocalError {
    LocalError::Part {
        part: "the cluster's keys".to_owned(),
        reason: error.to_string(),
    }
}
