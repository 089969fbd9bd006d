//! The steps of the walk, in their order. Each returns what it found, for the summary.

use anyhow::{Context, bail, ensure};

use super::link::{Link, Watch};
use super::{Cluster, Step, Walk, waypoint};
use crate::kube::IMAGES;

/// The step that `--without-enrolment` leaves out.
pub const ENROLMENT: &str = "Enroll the namespace";

/// All steps.
pub const ALL: &[Step] = &[
    ("Bring up a cluster", cluster_up),
    ("Install the mesh", install),
    ("Deploy Bookinfo", deploy),
    ("A request through Bookinfo", request),
    (
        "Not enrolled: the proxies reach the pods by TCP",
        workloads_tcp,
    ),
    (
        "Not enrolled: the link between the nodes is readable",
        link_readable,
    ),
    (ENROLMENT, enroll),
    (
        "Enrolled: the link between the nodes carries TLS only",
        link_encrypted,
    ),
    ("Both proxies log both identities", access_log),
    ("The proxy's sockets in the pod", sockets),
    (
        "Authorization: only productpage reaches reviews",
        authorization,
    ),
    ("STRICT: a pod outside the mesh is refused", strict),
    ("A waypoint for the namespace", waypoint::apply),
    ("A split between the versions of reviews", waypoint::split),
    (
        "L7 policy: only GET, only from productpage",
        waypoint::policy,
    ),
    ("A token opens the way", waypoint::token),
    ("Retries hide a backend that fails", waypoint::retries),
    ("The waypoint goes", waypoint::delete),
    ("Label removed: plaintext again", unenroll),
];

/// What a real cluster shows beside that.
pub const REAL: &[Step] = &[
    ("ztunnel is replaced, and requests go on", restart),
    ("Uninstall: pods start without the mesh", uninstall),
];

/// A text of reviews that is easy to find in a capture.
const NEEDLE: &str = "An extremely entertaining play by Shakespeare";
const TITLE: &str = "<title>Simple Bookstore App</title>";
pub(super) const CURL: &str = "kubectl exec -n bookinfo deploy/curl -- curl -s --max-time 10";
/// Requests per capture: with three versions of reviews on two nodes, some cross the link.
const REQUESTS: usize = 12;

fn cluster_up(walk: &Walk) -> anyhow::Result<String> {
    let wanted = match &walk.cluster {
        Cluster::Local(name, programs) => {
            let mut up = format!("ambit local up --name {name}");
            if let Some(folder) = programs {
                up.push_str(&format!(" --kubernetes {}", folder.display()));
            }
            walk.shell.show(&up)?;
            3
        }
        Cluster::Real(real) => real.nodes().count(),
    };
    let nodes = walk.shell.show("kubectl get nodes")?;
    let ready = nodes
        .lines()
        .filter(|line| line.split_whitespace().nth(1) == Some("Ready"))
        .count();
    ensure!(
        ready == wanted,
        "{wanted} nodes should be Ready, {ready} are"
    );
    Ok(format!("{ready} nodes are ready"))
}

fn install(walk: &Walk) -> anyhow::Result<String> {
    let mut install = "ambit install --set profile=ambient -y".to_owned();
    if let Cluster::Real(_) = walk.cluster {
        let (hub, tag) = IMAGES;
        install.push_str(&format!(" --set hub={hub} --set tag={tag}"));
    }
    walk.shell.show(&install)?;
    let pods = walk.shell.show("kubectl get pods -n istio-system")?;
    let running = pods
        .lines()
        .skip(1)
        .filter(|line| line.contains("1/1") && line.contains("Running"));
    let count = running.count();
    ensure!(
        count == pods.lines().count() - 1,
        "not every pod of istio-system is running"
    );
    for role in ["istiod-", "istio-cni-node-", "ztunnel-"] {
        ensure!(pods.contains(role), "no pod {role}… is there");
    }
    Ok(format!("{count} pods run in istio-system"))
}

fn deploy(walk: &Walk) -> anyhow::Result<String> {
    let shell = &walk.shell;
    shell.show("kubectl create namespace bookinfo")?;
    shell.show("kubectl apply -n bookinfo -f samples/bookinfo/platform/kube/bookinfo.yaml")?;
    shell.show("kubectl apply -n bookinfo -f samples/curl/curl.yaml")?;
    shell.show(
        "kubectl wait -n bookinfo --for=condition=Available deployment --all --timeout=60s",
    )?;
    let pods = shell.show("kubectl get pods -n bookinfo -o wide")?;
    Ok(format!("{} pods", pods.lines().count() - 1))
}

fn request(walk: &Walk) -> anyhow::Result<String> {
    let keep = |line: &str| line.contains("<title>") || line.contains("Reviews served by");
    let lines = walk
        .shell
        .show_lines(&format!("{CURL} http://productpage:9080/productpage"), keep)?;
    ensure!(
        lines.iter().any(|line| line.contains(TITLE)),
        "the page has no title"
    );
    Ok("the page is there".into())
}

/// `NAMESPACE POD NAME ADDRESS NODE WAYPOINT PROTOCOL` of the namespace's pods: the last column.
fn protocols(table: &str) -> Vec<String> {
    let rows = table.lines().filter(|line| line.starts_with("bookinfo "));
    rows.filter_map(|line| line.split_whitespace().last().map(str::to_owned))
        .collect()
}

const WORKLOADS: &str = "ambit ztunnel-config workloads --workload-namespace bookinfo";

/// Waits until every workload has `protocol`, then shows the table.
fn all_workloads(walk: &Walk, protocol: &str) -> anyhow::Result<String> {
    walk.shell.wait(20, || {
        let found = protocols(&walk.shell.quiet(WORKLOADS)?);
        ensure!(!found.is_empty(), "no workload of bookinfo is known");
        ensure!(
            found.iter().all(|p| p == protocol),
            "not all are {protocol}: {}",
            found.join(" ")
        );
        Ok(())
    })?;
    let table = walk.shell.show(WORKLOADS)?;
    Ok(format!(
        "{} workloads, all {protocol}",
        protocols(&table).len()
    ))
}

fn workloads_tcp(walk: &Walk) -> anyhow::Result<String> {
    all_workloads(walk, "TCP")
}

/// Fetches the page several times while the link is watched.
fn watched(walk: &Walk) -> anyhow::Result<Link> {
    let command =
        format!("{CURL} -o /dev/null -w %{{http_code}} http://productpage:9080/productpage");
    println!("$ for i in $(seq {REQUESTS}); do {command}; done   # while the link is captured");
    let watch = Watch::begin(&walk.shell, &walk.cluster)?;
    for _ in 0..REQUESTS {
        let code = walk.shell.quiet(&command)?;
        ensure!(code.trim() == "200", "the page answered {code:?}");
    }
    watch.end()
}

fn link_readable(walk: &Walk) -> anyhow::Result<String> {
    let link = watched(walk)?;
    link.show(NEEDLE);
    ensure!(
        link.plaintext(NEEDLE),
        "the text of a review should be readable on the link"
    );
    Ok(format!(
        "the text of a review is readable ({} packets)",
        link.packets()
    ))
}

/// Name, UID, start time and restarts of each pod: none may change by enrolment.
fn pod_identities(walk: &Walk) -> anyhow::Result<String> {
    let path = "jsonpath={range .items[*]}{.metadata.name} {.metadata.uid} {.status.startTime} \
                {.status.containerStatuses[0].restartCount}{\"\\n\"}{end}";
    walk.shell
        .quiet(&format!("kubectl get pods -n bookinfo -o '{path}'"))
}

fn enroll(walk: &Walk) -> anyhow::Result<String> {
    let before = pod_identities(walk)?;
    walk.shell
        .show("kubectl label namespace bookinfo istio.io/dataplane-mode=ambient")?;
    let found = all_workloads(walk, "HBONE")?;
    walk.shell.show("kubectl get pods -n bookinfo")?;
    ensure!(
        before == pod_identities(walk)?,
        "a pod was replaced or restarted"
    );
    Ok(format!("{found}; no pod was restarted"))
}

fn link_encrypted(walk: &Walk) -> anyhow::Result<String> {
    let link = watched(walk)?;
    link.show(NEEDLE);
    ensure!(
        !link.plaintext(NEEDLE),
        "plaintext: the text of a review is readable on the link"
    );
    link.only_tls_between_pods()?;
    Ok(format!(
        "nothing but TLS on port 15008 ({} packets)",
        link.packets()
    ))
}

fn access_log(walk: &Walk) -> anyhow::Result<String> {
    let complete = |line: &str, direction: &str| {
        line.contains("connection complete")
            && line.contains(
                "src.identity=\"spiffe://cluster.local/ns/bookinfo/sa/bookinfo-productpage\"",
            )
            && line
                .contains("dst.identity=\"spiffe://cluster.local/ns/bookinfo/sa/bookinfo-details\"")
            && line.contains(&format!("direction=\"{direction}\""))
    };
    let command = "kubectl logs -n istio-system -l app=ztunnel --tail=-1";
    let lines: Vec<String> = walk
        .shell
        .quiet(command)?
        .lines()
        .map(str::to_owned)
        .collect();
    println!("$ {command} | grep -E 'inbound|outbound'");
    for direction in ["outbound", "inbound"] {
        let line = lines.iter().rev().find(|line| complete(line, direction));
        println!(
            "  {}",
            line.with_context(|| format!("no {direction} line with both identities"))?
        );
    }
    Ok("one line on each side".into())
}

fn sockets(walk: &Walk) -> anyhow::Result<String> {
    let table = walk
        .shell
        .show("kubectl exec -n bookinfo deploy/productpage-v1 -- netstat -tulpn")?;
    for (protocol, address) in [
        ("tcp", "127.0.0.1:15053"),
        ("tcp", "::1:15053"),
        ("tcp", ":::15008"),
        ("tcp", ":::15001"),
        ("tcp", ":::15006"),
        ("udp", "127.0.0.1:15053"),
        ("udp", "::1:15053"),
    ] {
        let times = table
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>())
            .filter(|row| row.first() == Some(&protocol) && row.get(3) == Some(&address))
            .count();
        ensure!(
            times == 1,
            "{protocol} {address} should be listed once, it is {times} times"
        );
    }
    Ok("15001, 15006, 15008 and 15053 are open in productpage's network namespace".into())
}

const ONLY_PRODUCTPAGE: &str = r#"apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata:
  name: reviews-from-productpage
  namespace: bookinfo
spec:
  selector:
    matchLabels:
      app: reviews
  action: ALLOW
  rules:
  - from:
    - source:
        principals: ["cluster.local/ns/bookinfo/sa/bookinfo-productpage"]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata:
  name: details-from-productpage
  namespace: bookinfo
spec:
  selector:
    matchLabels:
      app: details
  action: ALLOW
  rules:
  - from:
    - source:
        principals: ["cluster.local/ns/bookinfo/sa/bookinfo-productpage"]
"#;

/// A request to `url` must get an answer, or must be cut, within ten seconds from now.
fn reaches(walk: &Walk, from: &str, url: &str, wanted: bool) -> anyhow::Result<()> {
    let command = format!(
        "kubectl exec {from} -- curl -sS --max-time 5 -o /dev/null -w %{{http_code}}\\n {url}"
    );
    walk.shell.wait(10, || {
        let output = walk.shell.run(&command)?;
        let answered = output.code == 0 && output.stdout.contains("200");
        ensure!(
            answered == wanted,
            "{} {url}",
            if wanted { "cannot reach" } else { "reaches" }
        );
        Ok(())
    })?;
    let output = walk.shell.attempt(&command)?;
    ensure!(
        (output.code == 0) == wanted,
        "the answer of {url} changed again"
    );
    Ok(())
}

fn authorization(walk: &Walk) -> anyhow::Result<String> {
    let curl = "-n bookinfo deploy/curl";
    reaches(walk, curl, "http://reviews:9080/reviews/0", true)?;
    walk.shell.apply(ONLY_PRODUCTPAGE)?;
    reaches(walk, curl, "http://reviews:9080/reviews/0", false)?;
    reaches(walk, curl, "http://details:9080/details/0", false)?;
    let page = walk.shell.show_lines(
        &format!("{CURL} http://productpage:9080/productpage"),
        |line| line.contains("Book Details") || line.contains("Reviews served by"),
    )?;
    ensure!(
        page.iter().any(|l| l.contains("Reviews served by")),
        "productpage gets no reviews"
    );
    ensure!(
        page.iter().any(|l| l.contains("Book Details")),
        "productpage gets no details"
    );
    Ok("curl is refused, productpage is not".into())
}

const STRICT: &str = r"apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata:
  name: default
  namespace: bookinfo
spec:
  mtls:
    mode: STRICT
";

fn strict(walk: &Walk) -> anyhow::Result<String> {
    let shell = &walk.shell;
    shell.show("kubectl create namespace outside")?;
    shell.show("kubectl apply -n outside -f samples/curl/curl.yaml")?;
    shell
        .show("kubectl wait -n outside --for=condition=Available deployment/curl --timeout=60s")?;
    let (outside, inside) = ("-n outside deploy/curl", "-n bookinfo deploy/curl");
    let url = "http://ratings.bookinfo:9080/ratings/0";
    reaches(walk, outside, url, true)?;
    shell.apply(STRICT)?;
    reaches(walk, outside, url, false)?;
    reaches(walk, inside, url, true)?;
    // The kubelet's probes carry no identity, and still pass.
    let pods = shell.quiet("kubectl get pods -n bookinfo --no-headers")?;
    ensure!(
        pods.lines().all(|line| line.contains("1/1")),
        "a pod is not ready under STRICT"
    );
    Ok("outside the mesh: refused; inside: let in; probes: pass".into())
}

fn unenroll(walk: &Walk) -> anyhow::Result<String> {
    walk.shell
        .show("kubectl delete peerauthentication,authorizationpolicy --all -n bookinfo")?;
    walk.shell
        .show("kubectl label namespace bookinfo istio.io/dataplane-mode-")?;
    let found = all_workloads(walk, "TCP")?;
    let link = watched(walk)?;
    link.show(NEEDLE);
    if !link.plaintext(NEEDLE) {
        bail!("the text of a review should be readable on the link again");
    }
    Ok(format!("{found}; the link is readable again"))
}

fn restart(walk: &Walk) -> anyhow::Result<String> {
    let shell = &walk.shell;
    shell.show("kubectl label namespace bookinfo istio.io/dataplane-mode=ambient")?;
    all_workloads(walk, "HBONE")?;
    shell.show("kubectl rollout restart -n istio-system daemonset/ztunnel")?;
    shell.show("kubectl rollout status -n istio-system daemonset/ztunnel --timeout=120s")?;
    let found = all_workloads(walk, "HBONE")?;
    request(walk)?;
    let link = watched(walk)?;
    link.only_tls_between_pods()?;
    shell.show("kubectl label namespace bookinfo istio.io/dataplane-mode-")?;
    all_workloads(walk, "TCP")?;
    Ok(format!("{found}, through new proxies"))
}

fn uninstall(walk: &Walk) -> anyhow::Result<String> {
    let shell = &walk.shell;
    shell.show("ambit uninstall --purge -y")?;
    shell.wait(60, || {
        let pods = shell.quiet("kubectl get pods -n istio-system --no-headers")?;
        ensure!(pods.is_empty(), "pods are left: {pods}");
        Ok(())
    })?;
    // The plugin that was chained is gone: a new pod gets its network without it.
    shell.show("kubectl rollout restart -n bookinfo deployment/curl")?;
    shell.show("kubectl rollout status -n bookinfo deployment/curl --timeout=60s")?;
    request(walk)?;
    Ok("nothing of the mesh runs, and the page is there".into())
}
