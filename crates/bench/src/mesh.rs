//! A mesh of two node proxies: what a control plane and a node agent would give them.
//!
//! Workloads come from a local file, certificates from a small authority that signs whatever
//! identity it is asked for, pods over ZDS. All three are the documented interfaces, so that any
//! ztunnel can take Ambit's place.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use ambit_testkit::{Namespace, Network, Node, Pod, Process, capture_pod};
use ambit_wire::ca::{Authority, Call, Issuer, service};
use ambit_wire::tls::{Incoming, ServerCertificate, server_config};
use ambit_wire::zds;
use anyhow::{Context, Result, bail};
use tempfile::TempDir;
use tonic::Status;

use crate::contender::Program;
use crate::cpu;

const NAMESPACE: &str = "bench";
/// The router, as nodes see it; the authority listens there.
const AUTHORITY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(169, 254, 2, 1)), 15012);
const STARTING: Duration = Duration::from_secs(20);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Where a proxy is to stand.
pub struct Proxy<'a> {
    pub node: &'a Node,
    pub pod: &'a Pod,
    /// Name of pod and service account.
    pub name: &'static str,
}

/// Running proxies.
pub struct Mesh {
    proxies: Vec<(Process, PathBuf)>,
    _agents: tokio::runtime::Runtime,
    _files: TempDir,
}

impl Mesh {
    /// Starts everything and waits until both pods are served.
    pub fn start(network: &Network, ends: [Proxy<'_>; 2], program: &Program) -> Result<Self> {
        let files = tempfile::tempdir()?;
        let authority = Authority::self_signed("cluster.local", DAY)?;
        let roots = files.path().join("root-cert.pem");
        std::fs::write(&roots, authority.root_pem())?;
        serve_authority(network.router(), authority)?;
        let config = files.path().join("config.yaml");
        std::fs::write(&config, workloads(&ends)?)?;
        let agents = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let mut proxies = Vec::new();
        for end in &ends {
            let log = files.path().join(format!("{}.log", end.name));
            let socket = files.path().join(format!("{}.sock", end.name));
            let agent = zds::agent::Agent::new();
            {
                // The listener registers with the runtime that it is made in.
                let _inside = agents.enter();
                agents.spawn(agent.listen(&socket, zds::PeerCheck::uid(0))?);
            }
            let mut command = command(program, end, &socket, &config, &roots);
            let mut process = Process::start_logged(&mut command, &log)?;
            capture_pod(end.pod.namespace())?;
            forget_closed_connections_soon(end.pod.namespace())?;
            if let Err(e) = agents.block_on(announce(&agent, end)) {
                bail!("{e:#}; exited: {:?}\n{}", process.exited()?, tail(&log));
            }
            proxies.push((process, log));
        }
        Ok(Self {
            proxies,
            _agents: agents,
            _files: files,
        })
    }

    /// The same with relays in place of proxies, which need none of the rest.
    pub fn relays(ends: [Proxy<'_>; 2]) -> Result<Self> {
        let (relays, files) = crate::relay::start(ends)?;
        let agents = tokio::runtime::Builder::new_current_thread().build()?;
        let proxies = relays
            .into_iter()
            .map(|relay| (relay, PathBuf::new()))
            .collect();
        Ok(Self {
            proxies,
            _agents: agents,
            _files: files,
        })
    }

    /// Their process ids.
    pub fn processes(&self) -> Vec<u32> {
        self.proxies
            .iter()
            .map(|(process, _)| process.id())
            .collect()
    }

    /// Resident memory of a proxy, on average, MB.
    pub fn resident_mb(&self) -> Result<f64> {
        let processes = self.processes();
        let mut total = 0.0;
        for pid in &processes {
            total += cpu::resident_mb(*pid)?;
        }
        Ok(total / processes.len() as f64)
    }

    /// The end of the proxies' logs.
    pub fn last_lines(&self) -> String {
        self.proxies
            .iter()
            .map(|(_, log)| format!("\n{}:\n{}", log.display(), tail(log)))
            .collect()
    }
}

fn command(
    program: &Program,
    end: &Proxy<'_>,
    socket: &Path,
    config: &Path,
    roots: &Path,
) -> Command {
    let mut command = end.node.namespace().command(&program.program);
    command
        .args(&program.arguments)
        .env_clear()
        .env("RUST_LOG", "info")
        .env("PROXY_MODE", "shared")
        .env("INPOD_UDS", socket)
        .env("NODE_NAME", end.name)
        .env("CLUSTER_ID", "Kubernetes")
        .env("XDS_ADDRESS", "")
        .env("LOCAL_XDS_PATH", config)
        .env("CA_ADDRESS", format!("https://{AUTHORITY}"))
        .env("CA_ROOT_CA", roots)
        .env("AUTH_TOKEN", "the authority of the benchmark asks for none");
    command
}

async fn announce(agent: &zds::agent::Agent, end: &Proxy<'_>) -> Result<()> {
    let mut connected = agent.connected();
    let waited = tokio::time::timeout(STARTING, connected.wait_for(|n| *n > 0)).await;
    waited.context("the proxy did not connect to the ZDS socket")??;
    let pod = zds::Pod {
        uid: format!("uid-{}", end.name),
        name: end.name.to_owned(),
        namespace: NAMESPACE.to_owned(),
        service_account: end.name.to_owned(),
    };
    let netns = Arc::new(end.pod.namespace().try_clone_fd()?);
    agent
        .add(pod, netns)
        .await
        .context("the proxy did not take the pod")
}

/// Workloads in the form of the local configuration file. JSON is YAML.
fn workloads(ends: &[Proxy<'_>; 2]) -> Result<String> {
    let workload = |end: &Proxy<'_>| {
        serde_json::json!({
            "uid": format!("Kubernetes//Pod/{NAMESPACE}/{}", end.name),
            "name": end.name,
            "namespace": NAMESPACE,
            "serviceAccount": end.name,
            "trustDomain": "cluster.local",
            "workloadIps": [end.pod.ip()],
            "protocol": "HBONE",
            "node": end.name,
            "clusterId": "Kubernetes",
            "workloadName": end.name,
            "workloadType": "deployment",
            "canonicalName": end.name,
            "canonicalRevision": "v1",
            "services": {},
        })
    };
    let document = serde_json::json!({
        "workloads": ends.iter().map(workload).collect::<Vec<_>>(),
        "services": [],
        "policies": [],
    });
    Ok(serde_json::to_string_pretty(&document)?)
}

/// Signs for everybody: who may have what is not what is measured here.
struct Generous(Authority);

impl Issuer for Generous {
    async fn issue(&self, call: Call) -> Result<Vec<String>, Status> {
        let identity = call
            .impersonated_identity
            .ok_or_else(|| Status::invalid_argument("no identity"))?;
        let identity = identity
            .parse()
            .map_err(|_| Status::invalid_argument("no identity"))?;
        self.0
            .issue(&call.csr, &identity, DAY)
            .map_err(|e| Status::invalid_argument(e.to_string()))
    }
}

fn serve_authority(router: &Namespace, authority: Authority) -> Result<()> {
    let (chain, key) = authority.issue_server(&[AUTHORITY.ip().to_string()], DAY)?;
    let certificate = ServerCertificate::from_pem(chain.as_bytes(), key.as_bytes())?;
    let config = server_config(certificate, None)?;
    let issuer = Arc::new(Generous(authority));
    let listener = router.block_on(tokio::net::TcpListener::bind(AUTHORITY))??;
    router.spawn(async move {
        let server = tonic::transport::Server::builder().add_service(service(issuer));
        if let Err(e) = server
            .serve_with_incoming(Incoming::new(listener, config))
            .await
        {
            eprintln!("the authority ended: {e}");
        }
    })?;
    Ok(())
}

/// Connection tracking remembers closed connections for two minutes, and is shared by all of the
/// host: at thousands of connections a second it would be full before the benchmark is over.
pub fn forget_closed_connections_soon(pod: &Namespace) -> Result<()> {
    pod.run(|| {
        for state in ["time_wait", "close_wait", "last_ack", "fin_wait"] {
            let path = format!("/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_{state}");
            std::fs::write(&path, "1").with_context(|| format!("cannot write {path}"))?;
        }
        Ok(())
    })?
}

fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}
