//! The walkthroughs that people know, word for word where they can be: the manifests are the released
//! ones where this machine has them, and ours of the same names where it has not.

mod common;

use std::path::PathBuf;

use anyhow::{Result, ensure};
use common::{Cluster, eventually, repository, shared};

/// A released sample, or ours of the same name.
fn sample(name: &str, ours: &str) -> PathBuf {
    match shared() {
        Some(folder) => folder.join("upstream/samples").join(name),
        None => repository().join("samples").join(ours),
    }
}

fn apply(cluster: &Cluster, namespace: &str, name: &str, ours: &str) -> Result<String> {
    cluster.kubectl(&format!(
        "apply -n {namespace} -f {}",
        sample(name, ours).display()
    ))
}

/// Istio's ambient blog post of 2022: helloworld and sleep in the default namespace.
#[test]
fn helloworld_and_sleep_in_the_default_namespace() -> Result<()> {
    let cluster = Cluster::up("hello")?;
    cluster.ambit("install -y --set profile=ambient")?;
    let pods = cluster.kubectl("-n istio-system get pods")?;
    for (role, count) in [("istio-cni-node-", 3), ("istiod-", 1), ("ztunnel-", 3)] {
        let found = pods
            .lines()
            .filter(|l| l.starts_with(role) && l.contains("1/1"))
            .count();
        ensure!(
            found == count,
            "{role} should be there {count} times:\n{pods}"
        );
    }
    // What watches the mesh is accepted; its images are not here.
    if let Some(shared) = shared() {
        let addon = shared.join("upstream/samples/addon-prometheus.yaml");
        let made = cluster.kubectl(&format!("apply -f {}", addon.display()))?;
        ensure!(
            made.contains("deployment.apps/prometheus created"),
            "{made}"
        );
    }
    apply(
        &cluster,
        "default",
        "helloworld.yaml",
        "helloworld/helloworld.yaml",
    )?;
    apply(&cluster, "default", "sleep.yaml", "sleep/sleep.yaml")?;
    cluster.kubectl("wait --for=condition=Available deployment --all --timeout=90s")?;
    let hello =
        || cluster.kubectl("exec deploy/sleep -- curl -s --max-time 10 helloworld:5000/hello");
    ensure!(
        hello()?.starts_with("Hello version: v"),
        "no answer before enrolment"
    );

    let protocol = |wanted: &str| {
        eventually(30, || {
            let table = cluster.ambit("ztunnel-config workloads --workload-namespace default")?;
            let rows: Vec<&str> = table
                .lines()
                .filter(|l| l.contains("helloworld-v"))
                .collect();
            ensure!(
                rows.len() == 2 && rows.iter().all(|row| row.ends_with(wanted)),
                "{table}"
            );
            Ok(())
        })
    };
    cluster.kubectl("label namespace default istio.io/dataplane-mode=ambient --overwrite=true")?;
    protocol("HBONE")?;
    ensure!(
        hello()?.starts_with("Hello version: v"),
        "no answer after enrolment"
    );

    // By hand, in a shell of the pod, and beside the proxy.
    let sleep = cluster.kubectl("get pods -l app=sleep -o jsonpath={.items[0].metadata.name}")?;
    let typed = "curl -s --max-time 10 helloworld:5000/hello\n";
    let said = cluster.kubectl_typing(&format!("exec -it {sleep} -- sh"), typed)?;
    ensure!(said.contains("Hello version: v"), "the shell said {said}");
    let proxy = "-n istio-system -l app=ztunnel -o jsonpath={.items[0].metadata.name}";
    let proxy = cluster.kubectl(&format!("get pods {proxy}"))?;
    let debug = format!("debug -it -n istio-system {proxy} --image=nicolaka/netshoot");
    let said = cluster.kubectl_typing(&debug, "netstat -tln\nexit\n")?;
    ensure!(said.contains("15020"), "the proxy's neighbour saw {said}");

    // An empty value is not enrolment.
    cluster.kubectl("label namespace default istio.io/dataplane-mode= --overwrite=true")?;
    protocol("TCP")?;
    ensure!(
        hello()?.starts_with("Hello version: v"),
        "no answer after leaving"
    );
    Ok(())
}

/// The walkthrough of 2025: Bookinfo with its version services, the log lines, and the way back.
#[test]
fn bookinfo_from_namespace_to_clean_up() -> Result<()> {
    let cluster = Cluster::up("bookinfo")?;
    cluster.ambit("install -y --set profile=ambient")?;
    cluster.kubectl("create ns bookinfo")?;
    cluster.kubectl("label namespace bookinfo istio-discovery=enabled")?;
    let ours = "bookinfo/platform/kube/";
    for name in ["bookinfo.yaml", "bookinfo-versions.yaml"] {
        apply(&cluster, "bookinfo", name, &format!("{ours}{name}"))?;
    }
    apply(&cluster, "bookinfo", "curl.yaml", "curl/curl.yaml")?;
    cluster.kubectl("wait -n bookinfo --for=condition=Available deployment --all --timeout=90s")?;
    let pods = cluster.kubectl("get -n bookinfo pods --no-headers")?;
    ensure!(
        pods.lines()
            .all(|line| line.contains("1/1") && line.contains("Running")),
        "{pods}"
    );

    cluster.kubectl("label namespace bookinfo istio.io/dataplane-mode=ambient")?;
    eventually(30, || {
        let table = cluster.ambit("ztunnel-config workloads --workload-namespace bookinfo")?;
        let rows = table.lines().skip(1);
        ensure!(
            rows.clone().count() >= 7 && rows.clone().all(|row| row.ends_with("HBONE")),
            "{table}"
        );
        Ok(())
    })?;
    let page = "http://productpage:9080/productpage";
    ensure!(cluster.curl("bookinfo", page)? == Ok(200), "no page");
    // Names of one version, and a pod by its address.
    ensure!(
        cluster.curl("bookinfo", "http://reviews-v2:9080/reviews/0")? == Ok(200),
        "no reviews-v2"
    );
    let ip = "jsonpath={.items[0].status.podIP}";
    let ip = cluster.kubectl(&format!("get pods -n bookinfo -l app=details -o {ip}"))?;
    ensure!(
        cluster.curl("bookinfo", &format!("http://{ip}:9080/details/0"))? == Ok(200),
        "no pod"
    );

    eventually(10, || {
        let log = cluster.kubectl("-n istio-system logs -l app=ztunnel --tail=-1")?;
        let line = log
            .lines()
            .find(|l| l.contains("direction=\"outbound\"") && l.contains("dst.service=\"details."))
            .unwrap_or_default();
        for part in [
            "\tinfo\taccess\tconnection complete\tsrc.addr=",
            "src.workload=\"productpage-v1-",
            "src.identity=\"spiffe://cluster.local/ns/bookinfo/sa/bookinfo-productpage\"",
            ":15008 dst.hbone_addr=",
            "dst.service=\"details.bookinfo.svc.cluster.local\"",
            "dst.identity=\"spiffe://cluster.local/ns/bookinfo/sa/bookinfo-details\"",
        ] {
            ensure!(line.contains(part), "{part} is not in {line}");
        }
        Ok(())
    })?;

    // The proxy's sockets, seen from a container that is added to a pod.
    let pod = cluster.kubectl("get pod -n bookinfo -l app=productpage -o name")?;
    let sockets = cluster.kubectl(&format!(
        "debug -it -n bookinfo {} --image quay.io/curl/curl -- netstat -tulpn",
        pod.trim()
    ))?;
    for (protocol, port, times) in [
        ("tcp", "15001", 1),
        ("tcp", "15006", 1),
        ("tcp", "15008", 1),
        ("tcp", "15053", 2),
        ("udp", "15053", 2),
    ] {
        let lines = sockets
            .lines()
            .filter(|line| line.starts_with(protocol) && line.contains(&format!(":{port} ")));
        ensure!(lines.count() == times, "{protocol} {port}: {sockets}");
    }

    cluster.kubectl("label namespace bookinfo istio.io/dataplane-mode-")?;
    for name in ["bookinfo.yaml", "bookinfo-versions.yaml"] {
        let file = sample(name, &format!("{ours}{name}"));
        cluster.kubectl(&format!("delete -n bookinfo -f {}", file.display()))?;
    }
    cluster.ambit("uninstall --purge -y")?;
    eventually(30, || {
        let left = cluster.kubectl("get pods -n istio-system -o name")?;
        ensure!(left.trim().is_empty(), "still there: {left}");
        Ok(())
    })
}
