//! Waypoints on a local cluster: no way around one that has a policy, and no failed request while one
//! is replaced.

mod common;

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use anyhow::{Context, Result, ensure};
use common::captures::{captures, nothing_leaked, pods};
use common::{Cluster, eventually, repository};

const REVIEWS: &str = "http://reviews:9080/reviews/0";

const ONLY_GET: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: only-get, namespace: bookinfo}
spec:
  targetRefs: [{group: '', kind: Service, name: reviews}]
  action: ALLOW
  rules: [{to: [{operation: {methods: [GET]}}]}]
";

fn expect(cluster: &Cluster, namespace: &str, url: &str, wanted: u16) -> Result<()> {
    let answer = cluster.curl(namespace, url)?;
    ensure!(
        answer == Ok(wanted),
        "{url} from {namespace}: {answer:?}, not {wanted}"
    );
    Ok(())
}

/// Nothing comes back, whatever curl calls it.
fn refused(cluster: &Cluster, namespace: &str, url: &str) -> Result<()> {
    let answer = cluster.curl(namespace, url)?;
    ensure!(
        answer.is_err(),
        "{url} from {namespace} is answered {answer:?}"
    );
    Ok(())
}

fn with_waypoint(label: &str) -> Result<Cluster> {
    let cluster = Cluster::with_bookinfo(label, true)?;
    cluster.ambit("waypoint apply -n bookinfo --enroll-namespace --wait")?;
    eventually(20, || {
        let table = cluster.ambit("ztunnel-config services --service-namespace bookinfo")?;
        let bound = |line: &str| line.contains(" reviews ") && line.contains(" waypoint ");
        ensure!(table.lines().any(bound), "{table}");
        Ok(())
    })?;
    eventually(20, || expect(&cluster, "bookinfo", REVIEWS, 200))?;
    Ok(cluster)
}

#[test]
fn no_way_around_a_waypoint_with_a_policy() -> Result<()> {
    let cluster = with_waypoint("last-hop")?;
    cluster.kubectl("create namespace outside")?;
    let curl = repository().join("samples/curl/curl.yaml");
    cluster.kubectl(&format!("apply -n outside -f {}", curl.display()))?;
    cluster.kubectl("wait -n outside --for=condition=Available deployment/curl --timeout=60s")?;
    let address = cluster.kubectl(
        "get pods -n bookinfo -l app=reviews,version=v1 -o jsonpath={.items[0].status.podIP}",
    )?;
    let pod = format!("http://{address}:9080/reviews/0");
    let outside = "http://reviews.bookinfo:9080/reviews/0";

    // The control: without a policy there is nothing to go around.
    for (namespace, url) in [("bookinfo", pod.as_str()), ("outside", outside)] {
        eventually(10, || expect(&cluster, namespace, url, 200))?;
    }

    cluster.apply(ONLY_GET)?;
    eventually(20, || refused(&cluster, "bookinfo", &pod))?;
    eventually(20, || refused(&cluster, "outside", outside))?;
    let addresses = pods(&cluster)?;
    let seen = captures(&cluster)?;
    for _ in 0..6 {
        expect(&cluster, "bookinfo", REVIEWS, 200)?;
        refused(&cluster, "bookinfo", &pod)?;
    }
    nothing_leaked(seen, &addresses)?;
    let logs = cluster.kubectl("logs -n istio-system -l app=ztunnel --tail=200")?;
    ensure!(
        logs.contains("last_hop_only_through_waypoint.bookinfo"),
        "no reason in the log: {logs}"
    );
    let post = "exec -n bookinfo deploy/curl -- curl -s --max-time 5 -X POST";
    let said = cluster.kubectl(&format!("{post} {REVIEWS}"))?;
    ensure!(said.trim() == "RBAC: access denied", "POST says {said:?}");

    // The namespace asks for a waypoint that is not there any more.
    cluster.ambit("waypoint delete -n bookinfo waypoint")?;
    eventually(30, || refused(&cluster, "bookinfo", REVIEWS))?;
    refused(&cluster, "bookinfo", &pod)?;
    cluster.kubectl("delete authorizationpolicy only-get -n bookinfo")?;
    eventually(20, || expect(&cluster, "bookinfo", &pod, 200))?;
    Ok(())
}

#[test]
fn a_waypoint_is_replaced_without_a_failed_request() -> Result<()> {
    let cluster = with_waypoint("rollout")?;
    let (stop, asked, failed) = (
        AtomicBool::new(false),
        AtomicU32::new(0),
        std::sync::Mutex::new(Vec::new()),
    );
    std::thread::scope(|scope| -> Result<()> {
        for _ in 0..3 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    asked.fetch_add(1, Ordering::Relaxed);
                    match cluster.curl("bookinfo", REVIEWS) {
                        Ok(Ok(200)) => {}
                        other => {
                            let mut failed = failed.lock().expect("no thread panics");
                            failed.push(format!("{other:?}"));
                        }
                    }
                }
            });
        }
        let result = (|| {
            let restart = "rollout restart -n bookinfo deployment/waypoint";
            let status = "rollout status -n bookinfo deployment/waypoint --timeout=90s";
            for _ in 0..2 {
                cluster.kubectl(restart)?;
                cluster.kubectl(status)?;
            }
            let scale = |n: u8| format!("scale -n bookinfo deployment/waypoint --replicas={n}");
            cluster.kubectl(&scale(2))?;
            cluster.kubectl(status)?;
            cluster.kubectl(&scale(1))?;
            eventually(60, || {
                let pods = cluster.kubectl(
                    "get pods -n bookinfo -l gateway.networking.k8s.io/gateway-name --no-headers",
                )?;
                ensure!(pods.lines().count() == 1, "{pods}");
                Ok(())
            })
        })();
        stop.store(true, Ordering::Relaxed);
        result
    })?;
    let failed = failed.into_inner().ok().context("no thread panics")?;
    let asked = asked.into_inner();
    ensure!(asked > 20, "only {asked} requests");
    ensure!(
        failed.is_empty(),
        "{} of {asked} failed: {failed:?}",
        failed.len()
    );
    Ok(())
}

/// A port of TCP in front of all versions of reviews, one in front of the first alone, and a route
/// from one to the other. What is spoken within is HTTP, so that the answer tells who gave it.
const TCP: &str = "
apiVersion: v1
kind: Service
metadata: {name: by-tcp, namespace: bookinfo}
spec:
  selector: {app: reviews}
  ports: [{name: tcp-any, port: 9999, targetPort: 9080}]
---
apiVersion: v1
kind: Service
metadata: {name: by-tcp-v1, namespace: bookinfo}
spec:
  selector: {app: reviews, version: v1}
  ports: [{name: tcp-any, port: 9999, targetPort: 9080}]
";

const TCP_ROUTE: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {name: first, namespace: bookinfo}
spec:
  parentRefs: [{group: '', kind: Service, name: by-tcp, port: 9999}]
  rules: [{backendRefs: [{name: by-tcp-v1, port: 9999}]}]
";

const TELEMETRY: &str = "
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: logs, namespace: bookinfo}
spec:
  accessLogging: [{providers: [{name: envoy}], filter: {expression: 'upstream.port == 9080'}}]
";

#[test]
fn connections_follow_a_tcp_route() -> Result<()> {
    let cluster = with_waypoint("tcp-route")?;
    cluster.apply(TCP)?;
    let ask = "exec -n bookinfo deploy/curl -- curl -s --max-time 10 http://by-tcp:9999/reviews/0";
    let versions = |count: usize| -> Result<std::collections::BTreeSet<String>> {
        let mut versions = std::collections::BTreeSet::new();
        for _ in 0..count {
            let answer = cluster.kubectl(ask)?;
            let name = answer.split("\"podname\"").nth(1).unwrap_or_default();
            let version = ["v1", "v2", "v3"]
                .into_iter()
                .find(|v| name.contains(&format!("reviews-{v}")));
            let version = version.with_context(|| format!("who has answered {answer:?}?"))?;
            versions.insert(version.to_owned());
        }
        Ok(versions)
    };
    eventually(20, || {
        let versions = versions(12)?;
        ensure!(versions.len() > 1, "only {versions:?}");
        Ok(())
    })?;
    cluster.apply(TCP_ROUTE)?;
    eventually(20, || {
        let versions = versions(12)?;
        ensure!(
            versions.len() == 1 && versions.contains("v1"),
            "{versions:?}"
        );
        Ok(())
    })?;
    eventually(20, || {
        let status = cluster.kubectl("get tcproute first -n bookinfo -o json")?;
        ensure!(status.contains("\"reason\": \"ResolvedRefs\""), "{status}");
        Ok(())
    })?;
    // Nothing of it was logged, until somebody asks for it.
    let logs = || cluster.kubectl("logs -n bookinfo deploy/waypoint");
    let line = "inbound-vip|9999|tcp|by-tcp.bookinfo.svc.cluster.local";
    ensure!(!logs()?.contains(line), "{}", logs()?);
    cluster.apply(TELEMETRY)?;
    eventually(20, || {
        versions(1)?;
        let logs = logs()?;
        ensure!(logs.contains(line), "{logs}");
        Ok(())
    })
}

/// As the first release of ambient mode wrote it.
const FIRST_RELEASE: &str = "
apiVersion: gateway.networking.k8s.io/v1alpha2
kind: Gateway
metadata:
  name: gateway-helloworld
  annotations:
    istio.io/service-account: sleep
spec:
  gatewayClassName: istio-mesh
";

#[test]
fn a_waypoint_of_the_first_release() -> Result<()> {
    let cluster = Cluster::up("first-release")?;
    cluster.ambit("install -y --set profile=ambient --set compat.legacyWaypoint=true")?;
    for sample in ["helloworld", "sleep"] {
        let folder = repository().join("samples").join(sample);
        cluster.kubectl(&format!("apply -f {}", folder.display()))?;
    }
    cluster.kubectl("label namespace default istio.io/dataplane-mode=ambient --overwrite=true")?;
    cluster.kubectl("wait --for=condition=Available deployment --all --timeout=60s")?;
    cluster.apply(FIRST_RELEASE)?;
    let programmed = "wait gateway/gateway-helloworld --for=condition=Programmed --timeout=60s";
    cluster.kubectl(programmed)?;
    cluster.apply(
        "
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: logs}
spec: {accessLogging: [{providers: [{name: envoy}]}]}
",
    )?;
    eventually(20, || {
        let asked =
            cluster.kubectl("exec deploy/sleep -- curl -s --max-time 5 helloworld:5000/hello")?;
        ensure!(asked.starts_with("Hello version"), "{asked}");
        let logs = cluster.kubectl("logs deploy/gateway-helloworld")?;
        let line = "inbound-vip|5000|http|helloworld.default.svc.cluster.local";
        ensure!(logs.contains(line), "{logs}");
        Ok(())
    })?;
    cluster.kubectl("delete gateways.v1alpha2.gateway.networking.k8s.io gateway-helloworld")?;
    eventually(20, || {
        let table = cluster.ambit("ztunnel-config services --service-namespace default")?;
        let bound = |line: &str| line.contains(" helloworld ") && line.contains(" gateway-");
        ensure!(!table.lines().any(bound), "{table}");
        Ok(())
    })
}
