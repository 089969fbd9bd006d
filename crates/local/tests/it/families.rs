//! Clusters of IPv6 alone and of both versions of IP.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use ambit_testkit::{Snapshot, eventually};
use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, ListParams};

use crate::harness::{Cluster, PATIENCE, Place, is_ready};
use crate::lifecycle::{gone, link};

fn objects(cluster: &str) -> String {
    let pod = |name: &str, node: &str| {
        format!(
            "
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {name}}}}}
spec:
  nodeName: {cluster}-{node}
  containers:
  - name: c
    image: docker.io/istio/examples-helloworld-v1
    ports: [{{name: http, containerPort: 5000}}]
    readinessProbe: {{tcpSocket: {{port: http}}, periodSeconds: 1}}
"
        )
    };
    let service = |name: &str, more: &str| {
        format!(
            "
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec: {{{more}, selector: {{app: server}}, ports: [{{name: web, port: 80, targetPort: http}}]}}
"
        )
    };
    [
        pod("server", "worker2"),
        pod("client", "worker"),
        service("plain", "type: ClusterIP"),
        service(
            "both",
            "type: LoadBalancer, ipFamilyPolicy: PreferDualStack",
        ),
        service("heads", "clusterIP: None, ipFamilyPolicy: PreferDualStack"),
    ]
    .join("---\n")
}

async fn cluster(hint: &str, family: &str) -> Result<Cluster> {
    let place = Place::new(hint)?;
    let config = place.kubeconfig().with_file_name("kind.yaml");
    let text = format!(
        "{{kind: Cluster, apiVersion: kind.x-k8s.io/v1alpha4, networking: {{ipFamily: {family}}}, \
          nodes: [{{role: control-plane}}, {{role: worker}}, {{role: worker}}]}}"
    );
    std::fs::write(&config, text)?;
    let cluster = place.up(&["--config", &config.display().to_string()])?;
    cluster.apply(&objects(&cluster.place.name)).await?;
    for name in ["server", "client"] {
        cluster
            .wait(name, |pod: &Pod| is_ready(pod).then_some(()))
            .await?;
    }
    Ok(cluster)
}

/// The versions among addresses, as `46`, `4` or `6`.
fn versions<'a>(addresses: impl IntoIterator<Item = &'a String>) -> Result<String> {
    let mut found = String::new();
    for address in addresses {
        let address: IpAddr = address.parse()?;
        found.push(if address.is_ipv4() { '4' } else { '6' });
    }
    Ok(found)
}

async fn service(cluster: &Cluster, name: &str) -> Result<Service> {
    let api: Api<Service> = Api::default_namespaced(cluster.client().await?);
    Ok(api.get(name).await?)
}

/// Everything that a cluster of these versions is to show.
async fn check(cluster: &Cluster, wanted: &str) -> Result<()> {
    let pods: Api<Pod> = Api::default_namespaced(cluster.client().await?);
    let status = pods.get("server").await?.status.context("a status")?;
    let ips: Vec<String> = status
        .pod_ips
        .iter()
        .flatten()
        .map(|ip| ip.ip.clone())
        .collect();
    ensure!(versions(&ips)? == wanted, "podIPs {ips:?}");
    let hosts: Vec<String> = status
        .host_ips
        .iter()
        .flatten()
        .map(|ip| ip.ip.clone())
        .collect();
    ensure!(versions(&hosts)? == wanted, "hostIPs {hosts:?}");

    let addresses = |service: &Service| {
        let spec = service.spec.clone().unwrap_or_default();
        spec.cluster_ips.unwrap_or_default()
    };
    let plain = addresses(&service(cluster, "plain").await?);
    let first = wanted.get(..1).context("a version")?;
    ensure!(versions(&plain)? == first, "plain {plain:?}");
    let both = addresses(&service(cluster, "both").await?);
    ensure!(versions(&both)? == wanted, "both {both:?}");
    let slices: Api<EndpointSlice> = Api::default_namespaced(cluster.client().await?);
    let own = ListParams::default().labels("kubernetes.io/service-name=both");
    let types: BTreeSet<_> = slices
        .list(&own)
        .await?
        .into_iter()
        .map(|s| s.address_type)
        .collect();
    ensure!(types.len() == wanted.len(), "slices {types:?}");

    // By name, by every address of the service and of the pod.
    let mut targets: Vec<String> = vec!["plain:80".into(), "both:80".into(), "heads:5000".into()];
    targets.extend(both.iter().map(|ip| at(ip, 80)));
    targets.extend(ips.iter().map(|ip| at(ip, 5000)));
    for target in &targets {
        reached(cluster, target).await?;
    }
    outside(cluster, wanted).await?;
    policy(cluster, &targets).await
}

fn at(ip: &str, port: u16) -> String {
    match ip.contains(':') {
        true => format!("[{ip}]:{port}"),
        false => format!("{ip}:{port}"),
    }
}

async fn reached(cluster: &Cluster, target: &str) -> Result<()> {
    let mut last = String::new();
    let outcome = eventually(target, PATIENCE, async || {
        last = cluster.exec("client", &["curl", target]).await.ok()?;
        (last == "server").then_some(())
    });
    let outcome = outcome.await;
    outcome.with_context(|| format!("{target}: {last}"))
}

/// Load balancers and node ports answer this machine in each version.
async fn outside(cluster: &Cluster, wanted: &str) -> Result<()> {
    let ingress = cluster
        .wait("both", |service: &Service| {
            let balancer = service.status.as_ref()?.load_balancer.as_ref()?;
            let ips = balancer
                .ingress
                .as_ref()?
                .iter()
                .filter_map(|i| i.ip.clone());
            Some(ips.collect::<Vec<_>>())
        })
        .await?;
    ensure!(versions(&ingress)? == wanted, "ingress {ingress:?}");
    let ports = service(cluster, "both")
        .await?
        .spec
        .and_then(|spec| spec.ports);
    let port = ports
        .and_then(|ports| ports.first()?.node_port)
        .context("a node port")?;
    let port = u16::try_from(port)?;
    let status: serde_json::Value =
        serde_json::from_str(&cluster.place.must("status", &["-o", "json"])?)?;
    let nodes = status["nodes"][0]["addresses"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let nodes = nodes
        .iter()
        .filter_map(|node| Some((node.as_str()?.parse().ok()?, port)));
    let balancers = ingress.iter().filter_map(|ip| Some((ip.parse().ok()?, 80)));
    let all: Vec<(IpAddr, u16)> = nodes.chain(balancers).collect();
    ensure!(all.len() == 2 * wanted.len(), "{all:?}");
    for target in all {
        let target = SocketAddr::from(target);
        let mut last = String::new();
        let what = target.to_string();
        let outcome = eventually(&what, PATIENCE, async || {
            last = ask(target).unwrap_or_else(|error| error.to_string());
            last.ends_with("server").then_some(())
        });
        let outcome = outcome.await;
        outcome.with_context(|| format!("{target}: {last}"))?;
    }
    Ok(())
}

fn ask(target: SocketAddr) -> Result<String> {
    let patience = Duration::from_secs(1);
    let mut stream = TcpStream::connect_timeout(&target, patience)?;
    stream.set_read_timeout(Some(patience))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.trim().to_owned())
}

/// A policy closes a pod in every version.
async fn policy(cluster: &Cluster, targets: &[String]) -> Result<()> {
    let deny = "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: deny}, \
                 spec: {podSelector: {matchLabels: {app: server}}}}";
    cluster.apply(deny).await?;
    for target in targets {
        eventually(&format!("{target} to be closed"), PATIENCE, async || {
            let said = cluster.exec("client", &["curl", target]).await.ok()?;
            said.starts_with("error").then_some(())
        })
        .await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_cluster_of_ipv6_alone() -> Result<()> {
    let before = Snapshot::take()?;
    let cluster = cluster("six", "ipv6").await?;
    check(&cluster, "6").await?;
    let link = link(&cluster)?;
    cluster.place.must("down", &[])?;
    gone(&cluster, &before, &link)
}

#[tokio::test]
async fn a_cluster_of_both_versions() -> Result<()> {
    let cluster = cluster("dual", "dual").await?;
    check(&cluster, "46").await
}
