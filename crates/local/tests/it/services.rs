//! Every way to reach a service: policies, affinity, node ports, datagrams,
//! names of pods, endpoints of one's own.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use ambit_testkit::eventually;
use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, ListParams};

use crate::harness::{Cluster, PATIENCE, Place, is_ready};

/// A server on each worker, with a name of its own, and a client beside the
/// first.
fn pods(cluster: &str) -> String {
    let pod = |name: &str, node: &str, more: &str| {
        format!(
            "
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {app}}}}}
spec:
  nodeName: {cluster}-{node}
  {more}
  containers:
  - name: c
    image: docker.io/istio/examples-helloworld-v1
    ports: [{{name: http, containerPort: 5000}}]
    readinessProbe: {{tcpSocket: {{port: http}}, periodSeconds: 1}}
",
            app = name.trim_end_matches(|c: char| c == '-' || c.is_ascii_digit())
        )
    };
    let named = |name: &str| format!("hostname: {name}\n  subdomain: crowd");
    [
        pod("web-0", "worker", &named("web-0")),
        pod("web-1", "worker2", &named("web-1")),
        pod("client", "worker", ""),
        "
apiVersion: v1
kind: Pod
metadata: {name: never, labels: {app: never}}
spec:
  hostname: never
  subdomain: early
  containers:
  - {name: c, image: host, command: [sleep, infinity], readinessProbe: {exec: {command: ['false']}}}
"
        .to_owned(),
    ]
    .join("---\n")
}

const SERVICES: &str = "
apiVersion: v1
kind: Service
metadata: {name: sticky}
spec: {selector: {app: web}, sessionAffinity: ClientIP, ports: [{port: 80, targetPort: http}]}
---
apiVersion: v1
kind: Service
metadata: {name: near}
spec: {selector: {app: web}, internalTrafficPolicy: Local, ports: [{port: 80, targetPort: http}]}
---
apiVersion: v1
kind: Service
metadata: {name: many}
spec:
  selector: {app: web}
  ports:
  - {name: web, port: 80, targetPort: http}
  - {name: who, port: 81, targetPort: 5001}
  - {name: grams, port: 81, targetPort: 5002, protocol: UDP}
---
apiVersion: v1
kind: Service
metadata: {name: outer}
spec: {type: NodePort, selector: {app: web}, ports: [{port: 80, targetPort: 5001}]}
---
apiVersion: v1
kind: Service
metadata: {name: seen}
spec:
  type: LoadBalancer
  externalTrafficPolicy: Local
  selector: {app: web}
  ports: [{port: 80, targetPort: 5001}]
---
apiVersion: v1
kind: Service
metadata: {name: unseen}
spec: {type: LoadBalancer, selector: {app: web}, ports: [{port: 80, targetPort: 5001}]}
---
apiVersion: v1
kind: Service
metadata: {name: crowd}
spec: {clusterIP: None, selector: {app: web}, ports: [{name: web, port: 5000}]}
---
apiVersion: v1
kind: Service
metadata: {name: early}
spec: {clusterIP: None, publishNotReadyAddresses: true, selector: {app: never}}
---
apiVersion: v1
kind: Service
metadata: {name: alias}
spec: {type: ExternalName, externalName: many.default.svc.cluster.local}
---
apiVersion: v1
kind: Service
metadata: {name: own}
spec: {ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: older}
spec: {ports: [{port: 80}]}
";

const PEERS: &str = "
apiVersion: v1
kind: Service
metadata: {name: peers}
spec: {clusterIP: None, selector: {app: peers}, ports: [{port: 5000}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: peers}
spec:
  serviceName: peers
  replicas: 2
  selector: {matchLabels: {app: peers}}
  template:
    metadata: {labels: {app: peers}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{name: c, image: docker.io/istio/examples-helloworld-v1}]
";

struct World {
    cluster: Cluster,
}

impl World {
    async fn new() -> Result<Self> {
        let cluster = Place::new("kinds")?.up(&[])?;
        cluster.apply(&pods(&cluster.place.name)).await?;
        cluster.apply(SERVICES).await?;
        for name in ["web-0", "web-1", "client"] {
            cluster
                .wait(name, |pod: &Pod| is_ready(pod).then_some(()))
                .await?;
        }
        Ok(Self { cluster })
    }

    async fn pod_address(&self, name: &str) -> Result<String> {
        let address = self
            .cluster
            .wait(name, |pod: &Pod| pod.status.as_ref()?.pod_ip.clone());
        address.await
    }

    async fn service(&self, name: &str) -> Result<Service> {
        let services: Api<Service> = Api::default_namespaced(self.cluster.client().await?);
        Ok(services.get(name).await?)
    }

    async fn balancer(&self, name: &str) -> Result<IpAddr> {
        self.cluster
            .wait(name, |service: &Service| {
                let balancer = service.status.as_ref()?.load_balancer.as_ref()?;
                balancer
                    .ingress
                    .as_ref()?
                    .first()?
                    .ip
                    .as_ref()?
                    .parse()
                    .ok()
            })
            .await
    }

    async fn ask(&self, target: &str) -> Result<String> {
        self.cluster.exec("client", &["curl", target]).await
    }

    /// Waits for an answer, while rules and names follow.
    async fn answer(&self, target: &str, accept: impl Fn(&str) -> bool) -> Result<String> {
        let mut last = String::new();
        let answer = eventually(target, PATIENCE, async || {
            last = self.ask(target).await.ok()?;
            accept(&last).then(|| last.clone())
        });
        let answer = answer.await;
        answer.with_context(|| format!("{target}: last {last:?}"))
    }

    /// The addresses of the nodes by the last part of their names.
    fn node(&self, short: &str) -> Result<IpAddr> {
        let text = self.cluster.place.must("status", &["-o", "json"])?;
        let status: serde_json::Value = serde_json::from_str(&text)?;
        let name = format!("{}-{short}", self.cluster.place.name);
        let nodes = status["nodes"].as_array().context("nodes")?;
        let node = nodes.iter().find(|node| node["name"] == name.as_str());
        let address = node.and_then(|node| node["address"].as_str());
        Ok(address.context("an address")?.parse()?)
    }

    /// This machine's address, and the router's.
    fn ends(&self) -> Result<[String; 2]> {
        let index = self.cluster.place.index()?;
        Ok([1, 2].map(|last| format!("172.30.{index}.{last}")))
    }
}

/// Asks from this machine.
fn from_host(target: SocketAddr, path: &str) -> Result<String> {
    let patience = Duration::from_secs(1);
    let mut stream = TcpStream::connect_timeout(&target, patience)?;
    stream.set_read_timeout(Some(patience))?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn last_line(answer: &str) -> String {
    answer
        .rsplit("\r\n")
        .next()
        .unwrap_or_default()
        .trim()
        .to_owned()
}

async fn eventually_from_host(target: SocketAddr, wanted: &str) -> Result<()> {
    let mut last = String::new();
    let what = target.to_string();
    let outcome = eventually(&what, PATIENCE, async || {
        last = from_host(target, "/")
            .map(|a| last_line(&a))
            .unwrap_or_else(|e| e.to_string());
        (last == wanted).then_some(())
    });
    let outcome = outcome.await;
    outcome.with_context(|| format!("{target}: last {last:?}, not {wanted:?}"))
}

#[tokio::test]
async fn every_kind_of_service() -> Result<()> {
    let world = World::new().await?;
    inside(&world).await?;
    names(&world).await?;
    peers(&world).await?;
    own_endpoints(&world).await?;
    outside(&world).await
}

async fn inside(world: &World) -> Result<()> {
    world
        .answer("sticky:80", |said| said.starts_with("web-"))
        .await?;
    let mut seen = BTreeSet::new();
    for _ in 0..8 {
        seen.insert(world.ask("sticky:80").await?);
    }
    ensure!(seen.len() == 1, "the client does not stay: {seen:?}");
    for _ in 0..8 {
        let near = world
            .answer("near:80", |said| !said.starts_with("error"))
            .await?;
        ensure!(near == "web-0", "{near} is not on the client's node");
    }
    let own = world.pod_address("client").await?;
    let seen = world
        .answer("many:81", |said| !said.starts_with("error"))
        .await?;
    ensure!(seen == own, "the server saw {seen}, not {own}");
    world
        .answer("udp:many:81", |said| said.starts_with("web-"))
        .await?;
    let closed = world.ask("many:82").await?;
    ensure!(closed.contains("refused"), "a port that is none: {closed}");
    Ok(())
}

async fn names(world: &World) -> Result<()> {
    for name in ["web-0", "web-1"] {
        for target in [
            format!("{name}.crowd:5000"),
            format!("{name}.crowd.default.svc.cluster.local:5000"),
        ] {
            let said = world
                .answer(&target, |said| !said.starts_with("error"))
                .await?;
            ensure!(said == name, "{target}: {said}");
        }
    }
    let alias = world
        .answer("alias:80", |said| !said.starts_with("error"))
        .await?;
    ensure!(alias.starts_with("web-"), "{alias}");
    // Not ready, and named all the same: nothing listens there.
    let early = world.answer("never.early:5000", |said| said.contains("refused"));
    early.await?;
    Ok(())
}

/// Pods of a StatefulSet have names, which stay when another pod takes one's place.
async fn peers(world: &World) -> Result<()> {
    world.cluster.apply(PEERS).await?;
    let named = async |name: &str| {
        let target = format!("{name}.peers.default.svc.cluster.local:5000");
        world.answer(&target, |said| said == name).await
    };
    named("peers-0").await?;
    named("peers-1").await?;
    let before = world.pod_address("peers-1").await?;
    let pods: Api<Pod> = Api::default_namespaced(world.cluster.client().await?);
    pods.delete("peers-1", &Default::default()).await?;
    let moved = eventually("another pod of this name", PATIENCE, async || {
        let pod = pods.get_opt("peers-1").await.ok()??;
        (pod.status?.pod_ip? != before).then_some(())
    });
    moved.await?;
    named("peers-1").await?;
    Ok(())
}

async fn own_endpoints(world: &World) -> Result<()> {
    let address = world.pod_address("web-1").await?;
    let slice = format!(
        "{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4,
          metadata: {{name: mine, labels: {{kubernetes.io/service-name: own}}}},
          endpoints: [{{addresses: [{address}]}}], ports: [{{port: 5000}}]}}"
    );
    world.cluster.apply(&slice).await?;
    let endpoints = format!(
        "{{apiVersion: v1, kind: Endpoints, metadata: {{name: older}},
          subsets: [{{addresses: [{{ip: {address}}}], ports: [{{port: 5000}}]}}]}}"
    );
    world.cluster.apply(&endpoints).await?;
    for service in ["own:80", "older:80"] {
        world.answer(service, |said| said == "web-1").await?;
    }
    let slices: Api<EndpointSlice> = Api::default_namespaced(world.cluster.client().await?);
    let mirrored = ListParams::default().labels("kubernetes.io/service-name=older");
    ensure!(slices.list(&mirrored).await?.items.len() == 1, "no mirror");
    Ok(())
}

async fn outside(world: &World) -> Result<()> {
    let port = |service: &Service| {
        let ports = service.spec.as_ref().and_then(|spec| spec.ports.as_ref());
        let port = ports.and_then(|ports| ports.first()?.node_port);
        port.and_then(|port| u16::try_from(port).ok())
            .context("a node port")
    };
    // On every node; the server sees the node, since any may answer.
    let outer = port(&world.service("outer").await?)?;
    for short in ["control-plane", "worker", "worker2"] {
        let node = world.node(short)?;
        eventually_from_host((node, outer).into(), &node.to_string()).await?;
    }
    // Local: where the endpoints are, and the server sees us.
    let [host, router] = world.ends()?;
    let seen = world.service("seen").await?;
    for short in ["worker", "worker2"] {
        eventually_from_host((world.node(short)?, port(&seen)?).into(), &host).await?;
    }
    let elsewhere = (world.node("control-plane")?, port(&seen)?).into();
    ensure!(
        from_host(elsewhere, "/").is_err(),
        "a node without endpoints answers"
    );
    eventually_from_host((world.balancer("seen").await?, 80).into(), &host).await?;
    eventually_from_host((world.balancer("unseen").await?, 80).into(), &router).await?;
    health(world, &seen).await
}

/// Nodes with endpoints are healthy for a load balancer, others are not.
async fn health(world: &World, service: &Service) -> Result<()> {
    let spec = service.spec.as_ref();
    let port = spec
        .and_then(|spec| spec.health_check_node_port)
        .context("a health port")?;
    let port = u16::try_from(port)?;
    for (short, wanted) in [("worker", "200 OK"), ("control-plane", "503")] {
        let at = (world.node(short)?, port).into();
        eventually(&format!("health of {short}"), PATIENCE, async || {
            let answer = from_host(at, "/healthz").ok()?;
            answer.lines().next()?.contains(wanted).then_some(())
        })
        .await?;
    }
    Ok(())
}
