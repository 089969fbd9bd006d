//! `ambit local up`: from a configuration to nodes that are ready.

use std::hash::{BuildHasher, Hasher};
use std::io::Read;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::StreamExt;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Node;
use kube::api::Api;
use kube::runtime::wait::await_condition;
use kube::runtime::{WatchStreamExt, watcher};
use serde::Serialize;

use super::output::{Format, show};
use super::progress::Progress;
use crate::addresses::node_name;
use crate::cleanup;
use crate::error::{Doing, LocalError, Result, file};
use crate::guardian;
use crate::kind::{Config, check_name};
use crate::kubeconfig;
use crate::network::block_on;
use crate::parts;
use crate::preflight;
use crate::report::{Report, receive};
use crate::spawn;
use crate::state::{Cluster, Folder, NodeRecord, State};
use crate::system::DNS;

/// Options of `up`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The cluster's name; also in the file, this one counts
    #[arg(long, short = 'n')]
    name: Option<String>,
    /// A configuration in kind's format, or - for standard input; without it, one control plane and two workers
    #[arg(long, short = 'c')]
    config: Option<PathBuf>,
    /// Seconds to wait for nodes and DNS to be ready; 0 does not wait
    #[arg(long, default_value_t = 60)]
    wait: u64,
    /// Run a real Kubernetes control plane from a folder with its programs (see docs/testing.md), in place of ours
    #[arg(long, value_name = "FOLDER")]
    kubernetes: Option<PathBuf>,
    /// Print the result as JSON or YAML
    #[arg(long, short = 'o')]
    output: Option<Format>,
}

/// The result for scripts.
#[derive(Serialize)]
struct Outcome<'a> {
    name: &'a str,
    context: String,
    kubeconfig: String,
    server: String,
    nodes: Vec<&'a str>,
}

/// Makes the cluster.
pub(super) fn run(args: &Args) -> Result<()> {
    let config = read_config(args.config.as_deref())?;
    let name = args.name.clone().or_else(|| config.name.clone());
    let name = name.unwrap_or_else(|| super::DEFAULT_NAME.to_owned());
    check_name(&name)?;
    preflight::check()?;
    let kubernetes = args.kubernetes.as_deref().map(programs).transpose()?;
    let state = State::from_env();
    let folder = state.folder(&name);
    let progress = Progress::start(&format!("Creating cluster {name:?} ..."));
    let cluster = {
        let _lock = state.lock()?;
        make_room(&folder, &name)?;
        start(&folder, &name, config, kubernetes, &progress)?
    };
    finish(&folder, &cluster, args, &progress).inspect_err(|_| {
        // Half a cluster helps nobody.
        let _ = super::down::end(&folder);
    })?;
    drop(progress);
    let nodes = cluster
        .nodes
        .iter()
        .map(|node| node.name.as_str())
        .collect();
    let result = Outcome {
        name: &name,
        context: cluster.context(),
        kubeconfig: folder.kubeconfig().display().to_string(),
        server: cluster.url(),
        nodes,
    };
    let text = format!(
        "Set kubectl context to {:?}\nYou can now use your cluster with:\n\n  kubectl get nodes --context {}\n",
        cluster.context(),
        cluster.context()
    );
    show(args.output, &result, &text)
}

fn read_config(path: Option<&Path>) -> Result<Config> {
    let text = match path {
        None => return Ok(Config::default()),
        Some(path) if path == Path::new("-") => {
            let mut text = String::new();
            std::io::stdin()
                .read_to_string(&mut text)
                .doing("reading the configuration")?;
            text
        }
        Some(path) => std::fs::read_to_string(path).map_err(file("reading", path))?,
    };
    Ok(Config::parse(&text)?)
}

/// The folder as every part of the cluster finds it.
fn programs(folder: &Path) -> Result<PathBuf> {
    let folder = folder.canonicalize().map_err(file("finding", folder))?;
    let server = folder.join("kube-apiserver");
    std::fs::metadata(&server).map_err(file("finding", server))?;
    Ok(folder)
}

/// A living cluster of that name is in the way; what is left of a dead one is
/// removed.
fn make_room(folder: &Folder, name: &str) -> Result<()> {
    if folder.is_alive() {
        return Err(LocalError::Exists(name.to_owned()));
    }
    if folder.exists() {
        cleanup::remove(folder, true)
    } else {
        Ok(())
    }
}

/// An address of a link that nobody else has: local, of one station.
fn random_link() -> [u8; 6] {
    let random = std::hash::RandomState::new().build_hasher().finish();
    let [a, b, c, d, e, ..] = random.to_ne_bytes();
    [0x02, a, b, c, d, e]
}

fn start(
    folder: &Folder,
    name: &str,
    config: Config,
    kubernetes: Option<PathBuf>,
    progress: &Progress,
) -> Result<Cluster> {
    let wanted = SocketAddr::new(config.api_address, config.api_port);
    let listener = TcpListener::bind(wanted).doing(format!(
        "listening for API clients on {wanted} (networking.apiServerAddress and apiServerPort must \
         be an address of this machine and a free port)"
    ))?;
    let cluster = Cluster {
        name: name.to_owned(),
        index: None,
        link: random_link(),
        program: std::env::current_exe().doing("finding this program")?,
        api: listener.local_addr().doing("finding the API address")?,
        pod_subnets: config.pod_subnets.clone(),
        service_subnets: config.service_subnets.clone(),
        nodes: node_records(name, &config),
        kubernetes,
        kubeconfig: kubeconfig::default_path(),
        created: jiff::Timestamp::now().as_second(),
    };
    folder.create()?;
    folder.write_cluster(&cluster)?;
    let (reports, theirs) = spawn::pipe()?;
    let mut guardian = guardian::start(folder, &cluster.program, &listener, &theirs)?;
    drop((listener, theirs));
    let outcome = follow(reports, progress).map_err(|reason| {
        // It cleans up before it ends, logs included.
        let logs = tails(folder);
        let _ = guardian.wait();
        LocalError::Start { reason, logs }
    });
    outcome?;
    folder.cluster()
}

fn node_records(cluster: &str, config: &Config) -> Vec<NodeRecord> {
    let mut counts = std::collections::HashMap::new();
    config
        .nodes
        .iter()
        .map(|node| {
            let count = counts
                .entry(matches!(node.role, crate::kind::Role::Worker))
                .or_insert(0);
            let name = node_name(cluster, node.role, *count);
            *count += 1;
            NodeRecord {
                name,
                role: node.role,
                labels: node.labels.clone(),
            }
        })
        .collect()
}

/// Shows progress until everything is started.
fn follow(reports: OwnedFd, progress: &Progress) -> std::result::Result<(), String> {
    progress.wait_for("network");
    for report in receive(reports) {
        match report {
            Report::Done(what) => progress.done(&format!("Started the {what}")),
            Report::Started => return Ok(()),
            Report::Failed(reason) => return Err(reason),
        }
    }
    Err("its first process ended".to_owned())
}

/// Waits for the nodes, and makes the cluster kubectl's current one.
fn finish(folder: &Folder, cluster: &Cluster, args: &Args, progress: &Progress) -> Result<()> {
    let path = folder.kubeconfig();
    let text = std::fs::read_to_string(&path).map_err(file("reading", path))?;
    if args.wait > 0 {
        progress.wait_for("nodes");
        let patience = Duration::from_secs(args.wait);
        let ready = block_on(async {
            let client = parts::client(&text).await?;
            let works = async {
                nodes_ready(Api::all(client.clone()), &cluster.nodes).await;
                progress.done(&format!("{} nodes are ready", cluster.nodes.len()));
                progress.wait_for("DNS");
                dns_ready(Api::namespaced(client, DNS.0)).await;
            };
            Ok(tokio::time::timeout(patience, works).await.is_ok())
        })?;
        if !ready {
            let reason = format!(
                "its nodes and its DNS were not ready after {} s",
                patience.as_secs()
            );
            return Err(LocalError::Start {
                reason,
                logs: tails(folder),
            });
        }
        progress.done("DNS answers");
    }
    match &cluster.kubeconfig {
        Some(path) => kubeconfig::merge(path, &text, &cluster.context()),
        None => Ok(()),
    }
}

/// Watches until all nodes are ready and have their labels.
async fn nodes_ready(api: Api<Node>, nodes: &[NodeRecord]) {
    let labelled = |node: &Node| {
        let record = nodes
            .iter()
            .find(|r| node.metadata.name.as_ref() == Some(&r.name));
        record.is_some_and(|record| {
            let has = node.metadata.labels.as_ref();
            record
                .all_labels()
                .iter()
                .all(|(key, value)| has.and_then(|all| all.get(key)) == Some(value))
        })
    };
    let mut ready = std::collections::BTreeSet::new();
    let watch = watcher(api, watcher::Config::default())
        .default_backoff()
        .applied_objects();
    let mut watch = std::pin::pin!(watch);
    while ready.len() < nodes.len() {
        let Some(event) = watch.next().await else {
            return;
        };
        // Failures are tried again by the watch itself.
        let Ok(node) = event else { continue };
        let name = node.metadata.name.clone().unwrap_or_default();
        if super::status::is_ready(&node) && labelled(&node) {
            ready.insert(name);
        } else {
            ready.remove(&name);
        }
    }
}

/// Watches until the DNS server is available.
async fn dns_ready(api: Api<Deployment>) {
    let available = |deployment: Option<&Deployment>| {
        let status = deployment.and_then(|deployment| deployment.status.as_ref());
        status.and_then(|status| status.available_replicas) > Some(0)
    };
    // A watch that fails says nothing about the server.
    while await_condition(api.clone(), DNS.1, available)
        .await
        .is_err()
    {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The last lines of all logs.
fn tails(folder: &Folder) -> String {
    let mut text = String::new();
    for (part, log) in super::logs::all(folder) {
        let lines: Vec<&str> = log.lines().collect();
        for line in lines.iter().skip(lines.len().saturating_sub(5)) {
            text.push_str(&format!("  {part}: {line}\n"));
        }
    }
    text.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_counted_by_role() {
        let names: Vec<_> = node_records("a", &Config::default())
            .into_iter()
            .map(|node| node.name)
            .collect();
        assert_eq!(names, ["a-control-plane", "a-worker", "a-worker2"]);
    }
}
