//! Up, down, and every way in which a cluster can die.

use std::io::Write;
use std::process::Stdio;
use std::time::Instant;

use ambit_testkit::{Snapshot, wait_for};
use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::{Cluster, PATIENCE, Place};

const PODS: &str = "
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: busy}
spec:
  selector: {matchLabels: {app: busy}}
  template:
    metadata: {labels: {app: busy}}
    spec:
      containers: [{name: c, image: host, command: [sleep, infinity]}]
";

/// A cluster with running pods, and what the host looked like before.
async fn busy(hint: &str) -> Result<(Cluster, Snapshot)> {
    let before = Snapshot::take()?;
    let cluster = Place::new(hint)?.up(&[])?;
    cluster.apply(PODS).await?;
    cluster
        .wait("busy", |set: &k8s_openapi::api::apps::v1::DaemonSet| {
            let status = set.status.as_ref()?;
            (status.number_ready == 2 && status.number_available == Some(2)).then_some(())
        })
        .await?;
    Ok((cluster, before))
}

/// Waits until nothing is left of a cluster, and says what is.
pub fn gone(cluster: &Cluster, before: &Snapshot, link: &str) -> Result<()> {
    let name = cluster.place.name.clone();
    let ours = |item: &str| {
        item.contains(&name)
            || item == format!("link {link}")
            || item.starts_with("nft ")
            || item.starts_with("netns ")
    };
    let mut left = Vec::new();
    let waited = wait_for("the end of the cluster", PATIENCE, || {
        left = Snapshot::take().ok()?.left_since(before, ours);
        left.is_empty().then_some(())
    });
    waited.with_context(|| format!("left: {left:#?}"))?;
    ensure!(!cluster.place.state().exists(), "the state is left");
    ensure!(
        !cluster.place.kubeconfig().exists(),
        "the kubeconfig is left"
    );
    Ok(())
}

pub fn link(cluster: &Cluster) -> Result<String> {
    Ok(format!("ambit{}", cluster.place.index()?))
}

#[tokio::test]
async fn down_leaves_nothing() -> Result<()> {
    let (cluster, before) = busy("down").await?;
    let link = link(&cluster)?;
    ensure!(
        std::path::Path::new("/sys/class/net").join(&link).exists(),
        "no link {link}"
    );
    cluster.place.must("down", &[])?;
    gone(&cluster, &before, &link)
}

#[tokio::test]
async fn the_death_of_the_first_process_leaves_nothing() -> Result<()> {
    let (cluster, before) = busy("guardian").await?;
    let link = link(&cluster)?;
    let (guardian, _) = cluster.place.processes()?;
    kill(Pid::from_raw(guardian), Signal::SIGKILL)?;
    gone(&cluster, &before, &link)
}

#[tokio::test]
async fn the_death_of_the_inner_first_process_leaves_nothing() -> Result<()> {
    let (cluster, before) = busy("init").await?;
    let link = link(&cluster)?;
    let (_, init) = cluster.place.processes()?;
    kill(Pid::from_raw(init), Signal::SIGKILL)?;
    gone(&cluster, &before, &link)
}

#[tokio::test]
async fn what_the_death_of_both_leaves_is_removed_by_the_next_command() -> Result<()> {
    let (cluster, before) = busy("both").await?;
    let link = link(&cluster)?;
    let (guardian, init) = cluster.place.processes()?;
    // Stopped first, so that neither can clean up after the other.
    kill(Pid::from_raw(guardian), Signal::SIGSTOP)?;
    kill(Pid::from_raw(init), Signal::SIGKILL)?;
    kill(Pid::from_raw(guardian), Signal::SIGKILL)?;
    cluster.place.must("down", &[])?;
    gone(&cluster, &before, &link)
}

/// Everything that the cluster runs, on the host's side.
fn running(place: &Place) -> Vec<Pid> {
    let state = place.state();
    let state = state.as_os_str().as_encoded_bytes();
    let ours = |pid: i32| {
        let read = |file| std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        let mentions = |text: &[u8]| text.windows(state.len()).any(|part| part == state);
        mentions(&read("cmdline")) || mentions(&read("environ"))
    };
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| ours(*pid)).map(Pid::from_raw).collect()
}

#[tokio::test]
async fn a_start_that_is_cut_short_at_any_moment_leaves_nothing_for_good() -> Result<()> {
    for (round, delay) in [1, 10, 30, 60, 100, 200, 400, 800, 1600].iter().enumerate() {
        let before = Snapshot::take()?;
        let place = Place::new("cut")?;
        let mut up = place.program()?;
        up.args(["up", "--name", &place.name]).stdout(Stdio::null());
        let mut up = up.stderr(Stdio::null()).spawn()?;
        // The moment is what this is about; whatever is there by now dies, without a word.
        std::thread::sleep(std::time::Duration::from_millis(*delay));
        for signal in [Signal::SIGSTOP, Signal::SIGKILL] {
            for pid in running(&place) {
                let _ = kill(pid, signal);
            }
        }
        up.wait()?;
        wait_for("the last process's end", PATIENCE, || {
            running(&place).is_empty().then_some(())
        })?;
        if round % 2 == 0 {
            // What never began cannot be taken down.
            place.run("down", &[])?;
        } else {
            place.must("up", &[])?;
            place.must("down", &[])?;
        }
        let ours = |item: &str| item.contains(&place.name);
        let mut left = Vec::new();
        wait_for("the end of the cluster", PATIENCE, || {
            left = Snapshot::take().ok()?.left_since(&before, ours);
            left.is_empty().then_some(())
        })
        .with_context(|| format!("cut after {delay} ms, left: {left:#?}"))?;
        ensure!(
            !place.cluster().exists(),
            "cut after {delay} ms: the record is left"
        );
    }
    Ok(())
}

/// A record without an index is of a start that made nothing; one with an index that another cluster
/// has by now, of one that is gone.
#[tokio::test]
async fn what_is_left_of_a_start_takes_nothing_from_others() -> Result<()> {
    let other = Place::new("other")?.up(&[])?;
    let record = std::fs::read(other.place.cluster().join("cluster.json"))?;
    let mut record: serde_json::Value = serde_json::from_slice(&record)?;
    let index = other.place.index()?;
    let link = format!("/sys/class/net/ambit{index}");
    for taken in [serde_json::Value::Null, index.into()] {
        let place = Place::new("remains")?;
        record["name"] = place.name.clone().into();
        record["index"] = taken.clone();
        record["link"] = serde_json::json!([2, 0, 0, 0, 0, 1]);
        record["kubeconfig"] = serde_json::Value::Null;
        std::fs::create_dir_all(place.cluster())?;
        let file = place.cluster().join("cluster.json");
        std::fs::write(file, record.to_string())?;
        place.must("down", &[])?;
        ensure!(!place.cluster().exists(), "the record is left");
        ensure!(
            std::path::Path::new(&link).exists(),
            "{taken}: {link} is gone"
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_node_that_dies_comes_back_with_its_pods() -> Result<()> {
    let (cluster, _) = busy("node").await?;
    let workers = |status: &serde_json::Value| -> Vec<i64> {
        let nodes = status["nodes"].as_array().into_iter().flatten();
        nodes
            .skip(1)
            .filter_map(|node| node["pid"].as_i64())
            .collect()
    };
    let name = cluster.place.name.clone();
    let status = || -> Result<serde_json::Value> {
        Ok(serde_json::from_str(
            &cluster.place.must("status", &["-o", "json"])?,
        )?)
    };
    let before = workers(&status()?);
    ensure!(before.len() == 2, "no process ids of nodes of {name}");
    for pid in &before {
        kill(Pid::from_raw(i32::try_from(*pid)?), Signal::SIGKILL)?;
    }
    wait_for("new nodes", PATIENCE, || {
        let now = workers(&status().ok()?);
        (now.len() == 2 && now.iter().all(|pid| !before.contains(pid))).then_some(())
    })?;
    let pods: kube::Api<k8s_openapi::api::core::v1::Pod> =
        kube::Api::default_namespaced(cluster.client().await?);
    for pod in pods.list(&kube::api::ListParams::default()).await? {
        let pod = pod.metadata.name.context("a name")?;
        ambit_testkit::eventually("the pod to run again", PATIENCE, async || {
            let said = cluster.exec(&pod, &["echo", "back"]).await.ok()?;
            (said == "back").then_some(())
        })
        .await?;
    }
    Ok(())
}

#[tokio::test]
async fn clusters_do_not_meet() -> Result<()> {
    let one = Place::new("one")?.up(&[])?;
    let two = Place::new("two")?.up(&[])?;
    ensure!(
        one.place.index()? != two.place.index()?,
        "the same addresses"
    );
    for cluster in [&one, &two] {
        let nodes = kube::Api::<k8s_openapi::api::core::v1::Node>::all(cluster.client().await?)
            .list(&kube::api::ListParams::default())
            .await?;
        let own = nodes.iter().all(|node| {
            node.metadata
                .name
                .as_ref()
                .is_some_and(|name| name.starts_with(&cluster.place.name))
        });
        ensure!(own && nodes.items.len() == 3, "nodes of another cluster");
    }
    one.place.must("down", &[])?;
    let status = two.place.must("status", &["-o", "json"])?;
    ensure!(
        status.contains("\"answers\": true"),
        "the second went with the first: {status}"
    );
    Ok(())
}

#[tokio::test]
async fn a_cluster_is_up_within_seconds_and_described() -> Result<()> {
    let start = Instant::now();
    let cluster = Place::new("quick")?.up(&["-o", "json"])?;
    let took = start.elapsed();
    // Three seconds are promised on an idle machine; tests run beside others.
    ensure!(took.as_secs() < 20, "up took {took:?}");
    let status = cluster.place.must("status", &[])?;
    for part in ["control-plane", "-worker2", "Ready", "10.244.2.0/24"] {
        ensure!(status.contains(part), "no {part} in {status}");
    }
    let logs = cluster.place.must("logs", &["apiserver"])?;
    ensure!(logs.contains("API server started"), "logs: {logs}");
    let unknown = cluster.place.run("logs", &["nobody"])?;
    let message = String::from_utf8_lossy(&unknown.stderr).into_owned();
    ensure!(
        !unknown.status.success() && message.contains("apiserver"),
        "{message}"
    );
    let again = cluster.place.run("up", &[])?;
    let message = String::from_utf8_lossy(&again.stderr).into_owned();
    ensure!(
        !again.status.success() && message.contains("exists already"),
        "{message}"
    );
    Ok(())
}

#[test]
fn a_configuration_is_read_from_standard_input() -> Result<()> {
    let place = Place::new("config")?;
    let config = "kind: Cluster\napiVersion: kind.x-k8s.io/v1alpha4\nname: other\n\
        nodes: [{role: control-plane, labels: {zone: a}}]\nnetworking: {podSubnet: 10.10.0.0/16}\n";
    let mut up = place.program()?;
    up.args(["up", "--config=-", "--name", &place.name])
        .stdin(Stdio::piped());
    let mut up = up.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    up.stdin
        .take()
        .context("an input")?
        .write_all(config.as_bytes())?;
    ensure!(up.wait()?.success(), "up failed");
    let cluster = Cluster { place };
    let status = cluster.place.must("status", &[])?;
    ensure!(
        status.contains("10.10.0.0/24") && !status.contains("worker"),
        "{status}"
    );
    Ok(())
}

#[test]
fn what_cannot_work_is_refused_with_the_reason() -> Result<()> {
    let place = Place::new("refused")?;
    let config = place.kubeconfig().with_file_name("kind.yaml");
    let head = "kind: Cluster\napiVersion: kind.x-k8s.io/v1alpha4\n";
    for (text, reason) in [
        (
            format!("{head}nodes: [{{role: control-plane, extraMounts: []}}]"),
            "nodes[0].extraMounts",
        ),
        (format!("{head}---\n{head}"), "exactly one"),
        ("\u{0}\u{1}garbage: [".to_owned(), "configuration"),
        (
            format!("{head}networking: {{apiServerAddress: 192.0.2.77}}"),
            "192.0.2.77",
        ),
    ] {
        std::fs::write(&config, &text)?;
        let output = place.run("up", &["--config", &config.display().to_string()])?;
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(
            !output.status.success() && message.contains(reason),
            "{text}: {message}"
        );
    }
    for verb in ["down", "status", "kubeconfig", "logs"] {
        let output = place.run(verb, &[])?;
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(
            !output.status.success() && message.contains("no local cluster"),
            "{verb}: {message}"
        );
    }
    Ok(())
}
