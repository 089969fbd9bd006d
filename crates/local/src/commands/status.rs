//! `ambit local status`: what there is, as the API server sees it.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, ListParams};
use serde::Serialize;

use super::living;
use super::output::{Format, age, show, table};
use crate::error::{Result, file};
use crate::kind::Role;
use crate::network::block_on;
use crate::parts;
use crate::state::{Cluster, Folder, ProcessId, State};

/// How long the API server may take to answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// Options of `status`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The cluster's name; without it, all clusters are listed, or the only one is shown
    #[arg(long, short = 'n')]
    name: Option<String>,
    /// Print the result as JSON or YAML
    #[arg(long, short = 'o')]
    output: Option<Format>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    name: String,
    server: String,
    context: String,
    /// The first process.
    pid: i32,
    /// The first process inside; its network namespace is the router's.
    router_pid: Option<i32>,
    uptime_seconds: i64,
    load_balancers: String,
    /// Whether the API server answers.
    answers: bool,
    nodes: Vec<NodeStatus>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct NodeStatus {
    name: String,
    role: Role,
    ready: bool,
    /// The node's first process; its namespaces are the node's.
    pid: Option<i32>,
    address: String,
    pod_subnet: String,
    pods: usize,
}

/// Shows the status.
pub(super) fn run(args: &Args) -> Result<()> {
    if let Some(name) = &args.name {
        let status = status(&living(name)?)?;
        return show(args.output, &status, &one(&status));
    }
    let state = State::from_env();
    state.check_readable()?;
    let folders = state
        .names()
        .into_iter()
        .map(|name| state.folder(&name))
        .filter(Folder::is_alive);
    let all = folders
        .map(|folder| status(&folder))
        .collect::<Result<Vec<_>>>()?;
    let text = match all.as_slice() {
        [] => "No local clusters; `ambit local up` makes one.\n".to_owned(),
        [only] => one(only),
        many => list(many),
    };
    show(args.output, &all, &text)
}

fn status(folder: &Folder) -> Result<Status> {
    let cluster = folder.cluster()?;
    let processes = folder.processes()?;
    let path = folder.kubeconfig();
    let kubeconfig = std::fs::read_to_string(&path).map_err(file("reading", path))?;
    let seen = block_on(async {
        let client = parts::client(&kubeconfig).await?;
        let all = ListParams::default();
        let asked = async {
            let nodes = Api::<Node>::all(client.clone()).list(&all).await.ok()?;
            let pods = Api::<Pod>::all(client).list(&all).await.ok()?;
            Some((nodes.items, pods.items))
        };
        Ok(tokio::time::timeout(PATIENCE, asked).await.ok().flatten())
    })?;
    let (first, last) = cluster.addresses().balancers();
    Ok(Status {
        server: cluster.url(),
        context: cluster.context(),
        pid: processes.guardian.pid,
        router_pid: processes.init.map(|init| init.pid),
        uptime_seconds: jiff::Timestamp::now().as_second() - cluster.created,
        load_balancers: format!("{first}-{last}"),
        answers: seen.is_some(),
        nodes: nodes(&cluster, processes.init, &seen.unwrap_or_default()),
        name: cluster.name,
    })
}

fn nodes(
    cluster: &Cluster,
    init: Option<ProcessId>,
    (nodes, pods): &(Vec<Node>, Vec<Pod>),
) -> Vec<NodeStatus> {
    let describe = |(place, record): (usize, &crate::state::NodeRecord)| {
        let node = nodes
            .iter()
            .find(|n| n.metadata.name.as_ref() == Some(&record.name));
        let is_here = |pod: &&Pod| {
            pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref()) == Some(&record.name)
        };
        let subnet = node
            .and_then(|n| n.spec.as_ref())
            .and_then(|spec| spec.pod_cidr.clone());
        NodeStatus {
            name: record.name.clone(),
            role: record.role,
            ready: node.is_some_and(is_ready),
            pid: init.and_then(|init| init.child(&[crate::NODE, "node", &record.name])),
            address: cluster.addresses().node(place).to_string(),
            pod_subnet: subnet.unwrap_or_default(),
            pods: pods.iter().filter(is_here).count(),
        }
    };
    cluster.nodes.iter().enumerate().map(describe).collect()
}

/// Whether a node says that it is ready.
pub(super) fn is_ready(node: &Node) -> bool {
    node.status
        .as_ref()
        .and_then(|status| status.conditions.as_ref())
        .is_some_and(|all| all.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
}

fn one(status: &Status) -> String {
    let answers = if status.answers {
        ""
    } else {
        " (does not answer)"
    };
    let mut text = format!(
        "Cluster {}: up {}, first process {}\nAPI server: {}{answers}\nContext: {}\nLoad balancers: {}\n\n",
        status.name,
        age(status.uptime_seconds),
        status.pid,
        status.server,
        status.context,
        status.load_balancers
    );
    let head = ["NODE", "ROLE", "STATUS", "ADDRESS", "PODS IN", "PODS"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for node in &status.nodes {
        rows.push(vec![
            node.name.clone(),
            if node.role == Role::ControlPlane {
                "control-plane"
            } else {
                "worker"
            }
            .to_owned(),
            if node.ready { "Ready" } else { "NotReady" }.to_owned(),
            node.address.clone(),
            node.pod_subnet.clone(),
            node.pods.to_string(),
        ]);
    }
    text.push_str(&table(&rows));
    text
}

fn list(all: &[Status]) -> String {
    let mut rows = vec![
        ["NAME", "NODES", "UP", "SERVER"]
            .map(str::to_owned)
            .to_vec(),
    ];
    for status in all {
        let ready = status.nodes.iter().filter(|node| node.ready).count();
        rows.push(vec![
            status.name.clone(),
            format!("{ready}/{}", status.nodes.len()),
            age(status.uptime_seconds),
            status.server.clone(),
        ]);
    }
    table(&rows)
}
