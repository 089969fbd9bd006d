//! What users keep when parts of the mesh die: nothing leaks, and service comes back by itself.

mod common;

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use common::captures::{captures, nothing_leaked, pods};
use common::{Cluster, eventually};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const PAGE: &str = "http://productpage:9080/productpage";
/// How soon requests must work again.
const RECOVERY: Duration = Duration::from_secs(3);

#[test]
fn killing_every_ztunnel_under_load_leaks_nothing_and_heals_within_seconds() -> Result<()> {
    let cluster = Cluster::with_bookinfo("kill-ztunnel", true)?;
    eventually(30, || {
        ensure!(cluster.curl("bookinfo", PAGE)? == Ok(200), "no page yet");
        Ok(())
    })?;
    let pods = pods(&cluster)?;
    let captures = captures(&cluster)?;
    let (stop, answered) = (AtomicBool::new(false), AtomicU32::new(0));

    std::thread::scope(|scope| -> Result<()> {
        let load = || {
            while !stop.load(Ordering::Relaxed) {
                if matches!(cluster.curl("bookinfo", PAGE), Ok(Ok(200))) {
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            }
        };
        scope.spawn(load);
        scope.spawn(load);
        let result = (|| {
            eventually(20, || {
                ensure!(answered.load(Ordering::Relaxed) > 3, "no load yet");
                Ok(())
            })?;
            let proxies = cluster.processes("ztunnel")?;
            ensure!(!proxies.is_empty(), "no ztunnel process was found");
            for pid in proxies {
                // Gone already if it was a parent's child that went with it.
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
            let killed = Instant::now();
            let before = answered.load(Ordering::Relaxed);
            eventually(30, || {
                ensure!(
                    answered.load(Ordering::Relaxed) > before + 2,
                    "no answer since the kill"
                );
                Ok(())
            })?;
            let took = killed.elapsed();
            ensure!(took < RECOVERY, "requests worked again after {took:?} only");
            Ok(())
        })();
        stop.store(true, Ordering::Relaxed);
        result
    })?;
    nothing_leaked(captures, &pods)?;
    Ok(())
}

#[test]
fn without_a_control_plane_traffic_goes_on() -> Result<()> {
    let cluster = Cluster::with_bookinfo("kill-istiod", true)?;
    eventually(30, || {
        ensure!(cluster.curl("bookinfo", PAGE)? == Ok(200), "no page yet");
        Ok(())
    })?;
    cluster.kubectl("scale -n istio-system deployment/istiod --replicas=0")?;
    eventually(30, || {
        let left = cluster.kubectl("get pods -n istio-system -l app=istiod -o name")?;
        ensure!(left.trim().is_empty(), "istiod is still there");
        Ok(())
    })?;
    for _ in 0..10 {
        ensure!(
            cluster.curl("bookinfo", PAGE)? == Ok(200),
            "a request failed"
        );
    }
    Ok(())
}

/// Whether a process runs where somebody listens on the port that outbound connections are
/// redirected to.
fn is_captured(pid: i32) -> Result<bool> {
    let outbound = format!(":{:04X}", 15001);
    let sockets = std::fs::read_to_string(format!("/proc/{pid}/net/tcp6"))?;
    Ok(sockets.lines().any(|line| {
        let local = line.split_whitespace().nth(1);
        local.is_some_and(|local| local.ends_with(&outbound))
    }))
}

/// Every process of `details` that runs is captured; how many there are.
fn all_captured(cluster: &Cluster) -> Result<usize> {
    let mut running = 0;
    for pid in cluster.processes("details")? {
        // One that ends between the two looks needs no capture.
        if let Ok(captured) = is_captured(pid) {
            ensure!(captured, "process {pid} runs outside the mesh");
            running += 1;
        }
    }
    Ok(running)
}

fn available(cluster: &Cluster, replicas: usize) -> Result<()> {
    eventually(90, || {
        let path = "jsonpath={.status.availableReplicas}";
        let found = cluster.kubectl(&format!("get -n bookinfo deploy/details-v1 -o {path}"))?;
        ensure!(
            found.trim() == replicas.to_string(),
            "{found} of {replicas} are available: {}{}",
            cluster.kubectl("get pods -n bookinfo -l app=details -o wide")?,
            cluster.kubectl("get events -n bookinfo --field-selector type=Warning")?
        );
        Ok(())
    })
}

#[test]
fn while_the_api_server_is_paused_no_pod_starts_uncaptured() -> Result<()> {
    let cluster = Cluster::with_bookinfo("pause-api", true)?;
    let server = cluster.processes("apiserver")?;
    ensure!(!server.is_empty(), "no API server was found");
    let signal = |signal| {
        server
            .iter()
            .try_for_each(|pid| kill(Pid::from_raw(*pid), signal))
    };

    let mut held_back = 0;
    // The pause meets the new pods in another stage of their start each time.
    for (round, wait) in [0, 20, 60, 120, 250].into_iter().enumerate() {
        let replicas = 3 * (round + 1);
        let scale = format!("scale -n bookinfo deployment/details-v1 --replicas={replicas}");
        cluster.kubectl(&scale)?;
        std::thread::sleep(Duration::from_millis(wait));
        signal(Signal::SIGSTOP)?;
        let checked = (0..10).try_fold(0, |_, _| {
            std::thread::sleep(Duration::from_millis(300));
            all_captured(&cluster)
        });
        signal(Signal::SIGCONT)?;
        held_back += replicas.saturating_sub(checked?);
        available(&cluster, replicas)?;
        ensure!(
            all_captured(&cluster)? == replicas,
            "not all {replicas} pods run"
        );
    }
    ensure!(held_back > 0, "the pauses came too late to meet any start");

    // The check can fail: outside the mesh nobody listens.
    cluster.kubectl("label namespace bookinfo istio.io/dataplane-mode-")?;
    eventually(30, || {
        ensure!(
            all_captured(&cluster).is_err(),
            "still captured without the label"
        );
        Ok(())
    })
}

#[test]
fn while_the_node_agent_is_paused_no_new_pod_starts() -> Result<()> {
    let cluster = Cluster::with_bookinfo("pause-agent", true)?;
    let agents = cluster.processes("install-cni")?;
    ensure!(!agents.is_empty(), "no node agent was found");
    let signal = |signal| {
        for pid in &agents {
            // An agent that has ended needs no signal.
            let _ = kill(Pid::from_raw(*pid), signal);
        }
    };

    signal(Signal::SIGSTOP);
    let outcome = (|| {
        cluster.kubectl("scale -n bookinfo deployment/details-v1 --replicas=2")?;
        let refused = eventually(30, || {
            let events = cluster.kubectl("get events -n bookinfo")?;
            ensure!(
                events.contains("FailedCreatePodSandBox"),
                "the start was not refused"
            );
            Ok(())
        });
        let running = cluster.kubectl(
            "get pods -n bookinfo -l app=details --field-selector=status.phase=Running -o name",
        )?;
        ensure!(
            running.lines().count() == 1,
            "the new pod started uncaptured: {running}"
        );
        refused
    })();
    signal(Signal::SIGCONT);
    outcome?;

    // When the agent is back, so is the pod, and it is captured.
    eventually(90, || {
        let ready = "jsonpath={.items[*].metadata.annotations.ambient\\.istio\\.io/redirection}";
        let annotations =
            cluster.kubectl(&format!("get pods -n bookinfo -l app=details -o {ready}"))?;
        ensure!(
            annotations
                .split_whitespace()
                .filter(|a| *a == "enabled")
                .count()
                == 2,
            "{annotations}"
        );
        Ok(())
    })
}
