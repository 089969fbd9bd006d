//! Faults on demand: nodes that are switched off or cut off, parts that stand
//! still, and the way back.

use std::time::Duration;

use ambit_testkit::{Snapshot, eventually};
use anyhow::{Context, Result, ensure};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, ListParams};
use serde_json::Value;

use crate::harness::{Cluster, PATIENCE, Place, is_ready};
use crate::lifecycle::{gone, link};

/// A node is given up after 40 seconds of silence.
const GIVEN_UP: Duration = Duration::from_secs(120);

const SERVER: &str = "
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: server}
spec:
  selector: {matchLabels: {app: server}}
  template:
    metadata: {labels: {app: server}}
    spec:
      containers:
      - name: c
        image: docker.io/istio/examples-helloworld-v1
        readinessProbe: {tcpSocket: {port: 5000}, periodSeconds: 1}
";

/// One pod that leaves a lost node after two seconds, and prefers no node.
const MOVER: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: mover}
spec:
  replicas: 2
  selector: {matchLabels: {app: mover}}
  template:
    metadata: {labels: {app: mover}}
    spec:
      terminationGracePeriodSeconds: 1
      tolerations:
      - {key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 2}
      containers: [{name: c, image: host, command: [sleep, infinity]}]
";

/// A cluster with a server on each worker.
async fn serving(hint: &str) -> Result<Cluster> {
    let cluster = Place::new(hint)?.up(&[])?;
    cluster.apply(SERVER).await?;
    cluster
        .wait("server", |set: &DaemonSet| {
            let status = set.status.as_ref()?;
            (status.number_available == Some(2)).then_some(())
        })
        .await?;
    Ok(cluster)
}

/// Asks for a fault. The verb comes first, the cluster's name last.
fn fault(cluster: &Cluster, words: &[&str]) -> Result<std::process::Output> {
    let mut command = cluster.place.program()?;
    Ok(command
        .args(words)
        .args(["--name", &cluster.place.name])
        .output()?)
}

fn ask(cluster: &Cluster, words: &[&str]) -> Result<String> {
    let output = fault(cluster, words)?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{words:?}: {errors}");
    Ok(String::from_utf8(output.stdout)?)
}

fn refusal(cluster: &Cluster, words: &[&str]) -> Result<String> {
    let output = fault(cluster, words)?;
    ensure!(!output.status.success(), "{words:?} was not refused");
    Ok(String::from_utf8(output.stderr)?)
}

fn status(cluster: &Cluster) -> Result<Value> {
    Ok(serde_json::from_str(
        &cluster.place.must("status", &["-o", "json"])?,
    )?)
}

fn node_status(cluster: &Cluster, short: &str) -> Result<Value> {
    let name = format!("{}-{short}", cluster.place.name);
    let status = status(cluster)?;
    let nodes = status["nodes"].as_array().cloned().unwrap_or_default();
    nodes
        .into_iter()
        .find(|node| node["name"] == name.as_str())
        .context("no such node")
}

async fn node_is(cluster: &Cluster, short: &str, ready: &str) -> Result<()> {
    let name = format!("{}-{short}", cluster.place.name);
    let nodes: Api<Node> = Api::all(cluster.client().await?);
    eventually(
        &format!("{name} to be ready: {ready}"),
        GIVEN_UP,
        async || {
            let conditions = nodes.get(&name).await.ok()?.status?.conditions?;
            let found = conditions.iter().find(|c| c.type_ == "Ready")?;
            (found.status == ready).then_some(())
        },
    )
    .await
}

async fn pods_of(cluster: &Cluster, app: &str) -> Result<Vec<Pod>> {
    let pods: Api<Pod> = Api::default_namespaced(cluster.client().await?);
    let own = ListParams::default().labels(&format!("app={app}"));
    Ok(pods.list(&own).await?.items)
}

fn node_of(pod: &Pod) -> &str {
    let spec = pod.spec.as_ref();
    spec.and_then(|spec| spec.node_name.as_deref())
        .unwrap_or_default()
}

/// The pod of an application on a node.
async fn pod_on(cluster: &Cluster, app: &str, short: &str) -> Result<Pod> {
    let name = format!("{}-{short}", cluster.place.name);
    let pods = pods_of(cluster, app).await?;
    pods.into_iter()
        .find(|pod| node_of(pod) == name)
        .context("no pod there")
}

fn name(pod: &Pod) -> String {
    pod.metadata.name.clone().unwrap_or_default()
}

fn address(pod: &Pod) -> Result<String> {
    let status = pod.status.clone().unwrap_or_default();
    status.pod_ip.context("no address")
}

#[tokio::test]
async fn a_node_that_is_switched_off_loses_its_pods_and_comes_back() -> Result<()> {
    let cluster = serving("stopped").await?;
    cluster.apply(MOVER).await?;
    let available = |count: i32| {
        move |set: &Deployment| {
            let status = set.status.as_ref()?;
            (status.available_replicas == Some(count)).then_some(())
        }
    };
    cluster.wait("mover", available(2)).await?;

    let said = ask(&cluster, &["node", "stop", "worker2"])?;
    ensure!(said.contains("-worker2 stopped"), "{said}");
    let stopped = node_status(&cluster, "worker2")?;
    ensure!(
        stopped["stopped"] == true && stopped["pid"].is_null(),
        "{stopped}"
    );
    ask(&cluster, &["node", "stop", "worker2"])?;

    node_is(&cluster, "worker2", "Unknown").await?;
    let survivor = format!("{}-worker", cluster.place.name);
    eventually("the pods to move", GIVEN_UP, async || {
        let pods = pods_of(&cluster, "mover").await.ok()?;
        let here = pods
            .iter()
            .filter(|p| is_ready(p) && node_of(p) == survivor);
        (here.count() == 2).then_some(())
    })
    .await?;
    let daemon = pod_on(&cluster, "server", "worker2").await?;
    ensure!(
        daemon.metadata.deletion_timestamp.is_none(),
        "a daemon tolerates a lost node"
    );

    ask(&cluster, &["node", "start", "worker2"])?;
    node_is(&cluster, "worker2", "True").await?;
    eventually("the node's pods to settle", PATIENCE, async || {
        let old = pods_of(&cluster, "mover").await.ok()?;
        let server = pod_on(&cluster, "server", "worker2").await.ok()?;
        (old.len() == 2 && is_ready(&server)).then_some(())
    })
    .await
}

#[tokio::test]
async fn a_node_that_is_cut_off_goes_on_alone() -> Result<()> {
    let cluster = serving("cut").await?;
    let (near, far) = (
        pod_on(&cluster, "server", "worker").await?,
        pod_on(&cluster, "server", "worker2").await?,
    );
    let target = format!("{}:5000", address(&far)?);
    let asked = cluster.exec(&name(&near), &["curl", &target]).await?;
    ensure!(asked == name(&far), "{asked}");

    ask(&cluster, &["node", "cut", "worker2"])?;
    ask(&cluster, &["node", "cut", "worker2"])?;
    let asked = cluster.exec(&name(&near), &["curl", &target]).await?;
    ensure!(asked.starts_with("error"), "still connected: {asked}");
    ensure!(
        cluster.exec(&name(&far), &["echo", "hi"]).await.is_err(),
        "the kubelet is still reached"
    );
    ensure!(node_status(&cluster, "worker2")?["cut"] == true, "no cut");
    let text = cluster.place.must("status", &[])?;
    ensure!(text.contains(",Cut"), "{text}");

    ask(&cluster, &["node", "join", "worker2"])?;
    eventually("the other pod to answer", PATIENCE, async || {
        let asked = cluster.exec(&name(&near), &["curl", &target]).await.ok()?;
        (asked == name(&far)).then_some(())
    })
    .await?;
    let far = pod_on(&cluster, "server", "worker2").await?;
    let statuses = far.status.clone().unwrap_or_default().container_statuses;
    let restarts: i32 = statuses.iter().flatten().map(|c| c.restart_count).sum();
    ensure!(restarts == 0, "the pod was restarted");
    cluster.exec(&name(&far), &["echo", "hi"]).await?;
    Ok(())
}

#[tokio::test]
async fn parts_stand_still_and_go_on() -> Result<()> {
    let cluster = serving("paused").await?;
    let pod = name(&pod_on(&cluster, "server", "worker").await?);

    // The API server: its socket takes connections, nobody answers.
    ask(&cluster, &["pause", "apiserver"])?;
    ask(&cluster, &["pause", "apiserver"])?;
    let paused = status(&cluster)?;
    ensure!(
        paused["answers"] == false && paused["paused"][0] == "apiserver",
        "{paused}"
    );
    let text = cluster.place.must("status", &[])?;
    ensure!(text.contains("Paused: apiserver"), "{text}");
    ask(&cluster, &["resume", "apiserver"])?;
    cluster.exec(&pod, &["echo", "hi"]).await?;

    // The controllers: nobody makes pods. Names are found all the same.
    ask(&cluster, &["pause", "controllers"])?;
    cluster.apply(MOVER).await?;
    let found = cluster
        .exec(&pod, &["curl", "kubernetes.default:443"])
        .await?;
    ensure!(
        !found.contains("resolve") && !found.contains("lookup"),
        "{found}"
    );
    ensure!(
        pods_of(&cluster, "mover").await?.is_empty(),
        "controllers still work"
    );
    ask(&cluster, &["resume", "controllers"])?;
    eventually("the controllers to go on", PATIENCE, async || {
        let pods = pods_of(&cluster, "mover").await.ok()?;
        (pods.iter().filter(|pod| is_ready(pod)).count() == 2).then_some(())
    })
    .await?;

    // A node's agent: its pods go on, and new ones do not start.
    let agent = format!("{}-worker2", cluster.place.name);
    let said = ask(&cluster, &["pause", "worker2", "-o", "json"])?;
    ensure!(said.contains(&agent), "{said}");
    let lonely = format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: lonely, labels: {{app: lonely}}}}, \
         spec: {{nodeName: {agent}, containers: [{{name: c, image: host, command: [sleep, infinity]}}]}}}}"
    );
    cluster.apply(&lonely).await?;
    let target = address(&pod_on(&cluster, "server", "worker2").await?)?;
    let asked = cluster
        .exec(&pod, &["curl", &format!("{target}:5000")])
        .await?;
    ensure!(asked.starts_with("server-"), "{asked}");
    let lonely = pods_of(&cluster, "lonely").await?;
    ensure!(!lonely.iter().any(is_ready), "a paused agent starts pods");
    ask(&cluster, &["resume", &agent])?;
    cluster
        .wait("lonely", |pod: &Pod| is_ready(pod).then_some(()))
        .await
}

#[tokio::test]
async fn a_fault_that_cannot_be_is_refused_with_what_can() -> Result<()> {
    let cluster = Place::new("nofault")?.up(&[])?;
    let nodes = refusal(&cluster, &["node", "stop", "worker9"])?;
    ensure!(
        nodes.contains("-worker2") && nodes.contains("no such node"),
        "{nodes}"
    );
    let parts = refusal(&cluster, &["pause", "etcd"])?;
    ensure!(parts.contains("apiserver, controllers, nofault"), "{parts}");
    ask(&cluster, &["node", "stop", "worker"])?;
    for words in [&["pause", "worker"][..], &["node", "cut", "worker"]] {
        let why = refusal(&cluster, words)?;
        ensure!(why.contains("is stopped"), "{why}");
    }
    Ok(())
}

#[tokio::test]
async fn a_cluster_with_every_fault_goes_down() -> Result<()> {
    let before = Snapshot::take()?;
    let cluster = serving("broken").await?;
    let link = link(&cluster)?;
    ask(&cluster, &["node", "stop", "worker"])?;
    ask(&cluster, &["node", "cut", "worker2"])?;
    for part in ["worker2", "controllers", "apiserver"] {
        ask(&cluster, &["pause", part])?;
    }
    cluster.place.must("down", &[])?;
    gone(&cluster, &before, &link)
}
