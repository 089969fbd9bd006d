//! The mesh on clusters of IPv6 alone and of both versions of IP.

mod common;

use std::net::SocketAddr;

use ambit_testkit::Packets;
use anyhow::{Result, ensure};
use common::captures::{NEEDLE, captures, nothing_leaked, pods, stop};
use common::{Cluster, eventually};

const PAGE: &str = "http://productpage:9080/productpage";

/// A service that has an IPv6 address alone, whatever the cluster's first version is.
const SIX: &str = "
apiVersion: v1
kind: Service
metadata: {name: reviews-six, namespace: bookinfo}
spec: {ipFamilies: [IPv6], selector: {app: reviews}, ports: [{name: http, port: 9080}]}
";

/// Whether a tunnel of this version of IP carried data.
fn tunnels(all: &[Packets], six: bool) -> bool {
    let hbone = |end: SocketAddr| end.port() == 15008 && end.is_ipv6() == six;
    all.iter().any(|packets| {
        let mut segments = packets.segments();
        segments.any(|s| s.tcp && !s.payload.is_empty() && hbone(s.destination))
    })
}

/// So many that, of three endpoints, one on another node is surely met.
const REQUESTS: usize = 16;

fn load(cluster: &Cluster, urls: &[&str]) -> Result<()> {
    for url in urls {
        for _ in 0..REQUESTS {
            let answer = cluster.curl("bookinfo", url)?;
            ensure!(answer == Ok(200), "{url}: {answer:?}");
        }
    }
    Ok(())
}

/// Bookinfo in plaintext, then enrolled: the link is readable, then it is not. `six` says whether
/// the page itself goes over IPv6.
fn walk(cluster: &Cluster, six: bool) -> Result<()> {
    cluster.install_bookinfo(false)?;
    cluster.apply(SIX)?;
    let urls = [PAGE, "http://reviews-six:9080/reviews/0"];
    eventually(30, || load(cluster, &urls))?;

    // The control: without enrolment the same captures show the text.
    let open = captures(cluster)?;
    load(cluster, &urls)?;
    let open = stop(open)?;
    ensure!(
        open.iter().any(|packets| packets.saw_plaintext(NEEDLE)),
        "the captures see nothing"
    );

    cluster.kubectl("label namespace bookinfo istio.io/dataplane-mode=ambient")?;
    eventually(30, || {
        let table = cluster.ambit("ztunnel-config workloads --workload-namespace bookinfo")?;
        let mut rows = table.lines().skip(1);
        ensure!(rows.all(|row| row.ends_with("HBONE")), "{table}");
        Ok(())
    })?;
    let addresses = pods(cluster)?;
    eventually(30, || load(cluster, &urls))?;
    let closed = captures(cluster)?;
    load(cluster, &urls)?;
    let closed = nothing_leaked(closed, &addresses)?;
    ensure!(tunnels(&closed, true), "no tunnel over IPv6");
    ensure!(six || tunnels(&closed, false), "no tunnel over IPv4");
    Ok(())
}

#[test]
fn bookinfo_over_ipv6_alone() -> Result<()> {
    walk(&Cluster::up_with("six", "ipv6")?, true)
}

#[test]
fn bookinfo_over_both_versions() -> Result<()> {
    walk(&Cluster::up_with("dual", "dual")?, false)
}
