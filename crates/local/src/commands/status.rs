//! `ambit local status`: what there is, as the API server sees it.

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, ListParams};
use serde::Serialize;

use super::living;
use super::output::{Format, age, show, table};
use crate::control::ask;
use crate::error::{Result, file};
use crate::faults::{API_SERVER, Faults, Request};
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
    /// Parts that are paused; of a node its agent.
    paused: BTreeSet<String>,
    nodes: Vec<NodeStatus>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct NodeStatus {
    name: String,
    role: Role,
    ready: bool,
    /// Whether it is switched off on purpose.
    stopped: bool,
    /// Whether its link is down on purpose.
    cut: bool,
    /// Whether its agent is paused.
    paused: bool,
    /// The node's first process; its namespaces are the node's.
    pid: Option<i32>,
    address: String,
    /// All of them, one for each version of IP.
    addresses: Vec<String>,
    pod_subnets: Vec<String>,
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
    let families = cluster.families().into_iter();
    let balancers = families.map(|family| {
        let (first, last) = cluster.addresses().balancers(family);
        format!("{first}-{last}")
    });
    // A cluster that is not up yet, or not any more, has none.
    let faults = ask(folder, &Request::Show).unwrap_or_default();
    Ok(Status {
        server: cluster.url(),
        context: cluster.context(),
        pid: processes.guardian.pid,
        router_pid: processes.init.map(|init| init.pid),
        uptime_seconds: jiff::Timestamp::now().as_second() - cluster.created,
        load_balancers: balancers.collect::<Vec<_>>().join(", "),
        answers: seen.is_some(),
        nodes: nodes(&cluster, processes.init, &seen.unwrap_or_default(), &faults),
        paused: faults.paused,
        name: cluster.name,
    })
}

fn nodes(
    cluster: &Cluster,
    init: Option<ProcessId>,
    (nodes, pods): &(Vec<Node>, Vec<Pod>),
    faults: &Faults,
) -> Vec<NodeStatus> {
    let describe = |(place, record): (usize, &crate::state::NodeRecord)| {
        let node = nodes
            .iter()
            .find(|n| n.metadata.name.as_ref() == Some(&record.name));
        let is_here = |pod: &&Pod| {
            pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref()) == Some(&record.name)
        };
        let subnets = node
            .and_then(|n| n.spec.as_ref())
            .and_then(|spec| spec.pod_cidrs.clone());
        let addresses = cluster.node_addresses(place);
        let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
        NodeStatus {
            name: record.name.clone(),
            role: record.role,
            ready: node.is_some_and(is_ready),
            stopped: faults.stopped.contains(&record.name),
            cut: faults.cut.contains(&record.name),
            paused: faults.paused.contains(&record.name),
            pid: init.and_then(|init| init.child(&[crate::NODE, "node", &record.name])),
            address: addresses.first().cloned().unwrap_or_default(),
            addresses,
            pod_subnets: subnets.unwrap_or_default(),
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
    let answers = match status.answers {
        true => "",
        false if status.paused.contains(API_SERVER) => " (paused)",
        false => " (does not answer)",
    };
    let paused: Vec<_> = status.paused.iter().map(String::as_str).collect();
    let mut text = format!(
        "Cluster {}: up {}, first process {}\nAPI server: {}{answers}\nContext: {}\nLoad balancers: {}\n\n",
        status.name,
        age(status.uptime_seconds),
        status.pid,
        status.server,
        status.context,
        status.load_balancers
    );
    if !paused.is_empty() {
        text.truncate(text.len() - 1);
        text.push_str(&format!("Paused: {}\n\n", paused.join(", ")));
    }
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
            state(node),
            node.addresses.join(","),
            node.pod_subnets.join(","),
            node.pods.to_string(),
        ]);
    }
    text.push_str(&table(&rows));
    text
}

/// What the API server says of a node, and what was done to it.
fn state(node: &NodeStatus) -> String {
    let mut text = if node.ready { "Ready" } else { "NotReady" }.to_owned();
    for (holds, word) in [
        (node.stopped, ",Stopped"),
        (node.cut, ",Cut"),
        (node.paused, ",Paused"),
    ] {
        text.push_str(if holds { word } else { "" });
    }
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
