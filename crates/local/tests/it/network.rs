//! Services, names and addresses, as pods and the host see them.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{IpAddr, TcpStream};
use std::time::Duration;

use ambit_testkit::eventually;
use anyhow::{Context, Result, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::api::{Api, ListParams};

use crate::harness::{Cluster, PATIENCE, Place, is_ready};

const HELLO: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: hello}
spec:
  replicas: 2
  selector: {matchLabels: {app: hello}}
  template:
    metadata: {labels: {app: hello}}
    spec:
      containers:
      - name: c
        image: docker.io/istio/examples-helloworld-v1
        ports: [{name: http, containerPort: 5000}]
        readinessProbe: {tcpSocket: {port: http}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: hello}
spec: {type: LoadBalancer, selector: {app: hello}, ports: [{name: web, port: 80, targetPort: http}]}
---
apiVersion: v1
kind: Service
metadata: {name: direct}
spec: {clusterIP: None, selector: {app: hello}, ports: [{name: web, port: 5000}]}
---
apiVersion: v1
kind: Service
metadata: {name: nobody}
spec: {selector: {app: nobody}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Pod
metadata: {name: client}
spec:
  containers: [{name: c, image: curlimages/curl, command: [sleep, infinity]}]
";

async fn hello(cluster: &Cluster) -> Result<Vec<Pod>> {
    cluster.apply(HELLO).await?;
    cluster
        .wait("hello", |d: &Deployment| {
            (d.status.as_ref()?.available_replicas == Some(2)).then_some(())
        })
        .await?;
    cluster
        .wait("client", |pod: &Pod| is_ready(pod).then_some(()))
        .await?;
    let pods: Api<Pod> = Api::default_namespaced(cluster.client().await?);
    Ok(pods
        .list(&ListParams::default().labels("app=hello"))
        .await?
        .items)
}

fn name(pod: &Pod) -> String {
    pod.metadata.name.clone().unwrap_or_default()
}

#[tokio::test]
async fn services_names_and_addresses() -> Result<()> {
    let cluster = Place::new("services")?.up(&[])?;
    let pods = hello(&cluster).await?;
    let names: BTreeSet<String> = pods.iter().map(name).collect();
    let nodes: BTreeSet<_> = pods
        .iter()
        .map(|p| p.spec.clone().unwrap_or_default().node_name)
        .collect();
    ensure!(nodes.len() == 2, "both pods are on one node");

    // The service's address leads to both, by its short and its full name.
    let mut seen = BTreeSet::new();
    eventually("both pods to answer", PATIENCE, async || {
        seen.insert(cluster.exec("client", &["curl", "hello:80"]).await.ok()?);
        (seen.is_superset(&names)).then_some(())
    })
    .await?;
    let full = cluster
        .exec("client", &["curl", "hello.default.svc.cluster.local:80"])
        .await?;
    ensure!(names.contains(&full), "{full}");

    // A headless name leads to the pods themselves, and each has a name.
    let direct = cluster.exec("client", &["curl", "direct:5000"]).await?;
    ensure!(names.contains(&direct), "{direct}");
    let one = pods.first().context("a pod")?;
    let address = one
        .status
        .as_ref()
        .and_then(|s| s.pod_ip.clone())
        .context("an address")?;
    let dashed = format!("{}.direct:5000", address.replace('.', "-"));
    ensure!(
        cluster.exec("client", &["curl", &dashed]).await? == name(one),
        "{dashed}"
    );

    // A pod reaches itself through its own service.
    let mut own = BTreeSet::new();
    eventually("a pod to reach itself", PATIENCE, async || {
        own.insert(cluster.exec(&name(one), &["curl", "hello:80"]).await.ok()?);
        own.is_superset(&names).then_some(())
    })
    .await?;

    let refused = cluster.exec("client", &["curl", "nobody:80"]).await?;
    ensure!(
        refused.contains("refused"),
        "a service without pods: {refused}"
    );
    let unknown = cluster.exec("client", &["curl", "no-such-name:80"]).await?;
    ensure!(unknown.contains("error"), "an unknown name: {unknown}");

    host_reaches(&cluster, &names).await
}

/// The load balancer's address works from the host, and from pods.
async fn host_reaches(cluster: &Cluster, names: &BTreeSet<String>) -> Result<()> {
    let address = cluster
        .wait("hello", |service: &Service| {
            let ingress = service
                .status
                .as_ref()?
                .load_balancer
                .as_ref()?
                .ingress
                .clone()?;
            ingress.first()?.ip.as_ref()?.parse::<IpAddr>().ok()
        })
        .await?;
    let mut seen = BTreeSet::new();
    eventually("both pods to answer the host", PATIENCE, async || {
        let mut stream =
            TcpStream::connect_timeout(&(address, 80).into(), Duration::from_secs(2)).ok()?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        seen.insert(answer.rsplit("\r\n").next()?.trim().to_owned());
        seen.is_superset(names).then_some(())
    })
    .await?;
    let inside = cluster
        .exec("client", &["curl", &format!("{address}:80")])
        .await?;
    ensure!(names.contains(&inside), "from a pod: {inside}");
    Ok(())
}
