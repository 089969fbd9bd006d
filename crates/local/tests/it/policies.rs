//! NetworkPolicy as pods on two nodes meet it.

use std::collections::BTreeMap;

use ambit_testkit::eventually;
use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, DynamicObject};
use kube::core::{ApiResource, GroupVersionKind};

use crate::harness::{Cluster, PATIENCE, Place, is_ready};

/// A server and clients: `near` beside the server, `far` on the other node,
/// and `other` in another namespace. Each answers on 5000, called `http`.
fn pods(cluster: &str) -> String {
    let pod = |namespace: &str, name: &str, node: &str| {
        format!(
            "
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: {namespace}, labels: {{app: {name}}}}}
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
    [
        "apiVersion: v1\nkind: Namespace\nmetadata: {name: elsewhere, labels: {team: b}}\n"
            .to_owned(),
        pod("default", "server", "worker"),
        pod("default", "near", "worker"),
        pod("default", "far", "worker2"),
        pod("elsewhere", "other", "worker2"),
    ]
    .join("---\n")
}

const CLIENTS: [(&str, &str); 3] = [
    ("default", "near"),
    ("default", "far"),
    ("elsewhere", "other"),
];

struct World {
    cluster: Cluster,
    addresses: BTreeMap<&'static str, String>,
}

impl World {
    async fn new(hint: &str) -> Result<Self> {
        let cluster = Place::new(hint)?.up(&[])?;
        cluster.apply(&pods(&cluster.place.name)).await?;
        let client = cluster.client().await?;
        let mut addresses = BTreeMap::new();
        for (namespace, name) in CLIENTS.into_iter().chain([("default", "server")]) {
            let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
            let what = format!("the pod {name}");
            let address = eventually(&what, PATIENCE, async || {
                let pod = api.get(name).await.ok()?;
                if is_ready(&pod) {
                    pod.status?.pod_ip
                } else {
                    None
                }
            });
            addresses.insert(name, address.await?);
        }
        Ok(Self { cluster, addresses })
    }

    /// Whether a client gets an answer from an address.
    async fn reaches(&self, client: (&str, &str), target: &str) -> Result<bool> {
        let said = self
            .cluster
            .exec_in(client.0, client.1, &["curl", target])
            .await?;
        Ok(!said.starts_with("error"))
    }

    /// Waits until exactly these clients reach the server's port 5000.
    async fn only(&self, allowed: &[&str]) -> Result<()> {
        let target = format!("{}:5000", self.addresses["server"]);
        self.only_at(&target, allowed).await
    }

    async fn only_at(&self, target: &str, allowed: &[&str]) -> Result<()> {
        let mut found = Vec::new();
        let done = eventually("the policy", PATIENCE, async || {
            found.clear();
            for client in CLIENTS {
                if self.reaches(client, target).await.ok()? {
                    found.push(client.1);
                }
            }
            (found == allowed).then_some(())
        });
        let outcome = done.await;
        outcome.with_context(|| format!("{target}: {found:?} instead of {allowed:?}"))
    }

    async fn policy(&self, spec: &str) -> Result<()> {
        let text = format!(
            "{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{name: p}}, spec: {spec}}}"
        );
        self.cluster.apply(&text).await
    }

    async fn remove_policy(&self) -> Result<()> {
        let kind = GroupVersionKind::gvk("networking.k8s.io", "v1", "NetworkPolicy");
        let api: Api<DynamicObject> = Api::default_namespaced_with(
            self.cluster.client().await?,
            &ApiResource::from_gvk(&kind),
        );
        api.delete("p", &DeleteParams::default()).await?;
        Ok(())
    }
}

#[tokio::test]
async fn policies_open_and_close_pods() -> Result<()> {
    let world = World::new("policies").await?;
    let all = ["near", "far", "other"];
    world.only(&all).await?;

    let server = "podSelector: {matchLabels: {app: server}}";
    world.policy(&format!("{{{server}}}")).await?;
    world.only(&[]).await?;
    let cases: [(&str, &[&str]); 7] = [
        ("{from: [{podSelector: {}}]}", &["near", "far"]),
        (
            "{from: [{podSelector: {matchExpressions: [{key: app, operator: NotIn, values: [near]}]}}]}",
            &["far"],
        ),
        (
            "{from: [{namespaceSelector: {matchLabels: {team: b}}}]}",
            &["other"],
        ),
        (
            "{from: [{namespaceSelector: {}, podSelector: {matchLabels: {app: other}}}, {podSelector: {matchLabels: {app: near}}}]}",
            &["near", "other"],
        ),
        ("{ports: [{port: http}]}", &all),
        ("{ports: [{port: 4000, endPort: 4999}]}", &[]),
        (
            "{ports: [{port: 5000, protocol: UDP}, {port: 4999, endPort: 5001}]}",
            &all,
        ),
    ];
    for (rule, allowed) in cases {
        world
            .policy(&format!("{{{server}, ingress: [{rule}]}}"))
            .await?;
        world.only(allowed).await.context(rule)?;
    }
    let far = &world.addresses["far"];
    let block = format!("{{from: [{{ipBlock: {{cidr: 10.244.0.0/16, except: [{far}/32]}}}}]}}");
    world
        .policy(&format!("{{{server}, ingress: [{block}]}}"))
        .await?;
    world.only(&["near", "other"]).await?;

    // What clients may reach: names, and one pod, but not the other.
    world
        .policy(
            "{podSelector: {matchLabels: {app: near}}, policyTypes: [Egress], egress: [
              {to: [{podSelector: {matchLabels: {app: server}}}], ports: [{port: http}]},
              {to: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: kube-system}},
                     podSelector: {matchLabels: {k8s-app: kube-dns}}}],
               ports: [{port: 53, protocol: UDP}]}]}",
        )
        .await?;
    world.only(&all).await?;
    let near = ("default", "near");
    let target = format!("{}:5000", world.addresses["other"]);
    world.only_at(&target, &["far", "other"]).await?;
    let named = world
        .cluster
        .exec("near", &["curl", "kubernetes.default:443"])
        .await?;
    ensure!(!named.contains("lookup"), "names are not found: {named}");
    ensure!(
        world
            .reaches(near, &format!("{}:5000", world.addresses["near"]))
            .await?,
        "a pod reaches itself"
    );
    world.remove_policy().await?;
    world.only_at(&target, &all).await
}

/// Everything is denied before the pod is there: its probe passes all the
/// same, and nobody else ever gets in.
#[tokio::test]
async fn a_new_pod_starts_under_its_policies() -> Result<()> {
    let world = World::new("admitted").await?;
    world
        .policy("{podSelector: {matchLabels: {app: late}}}")
        .await?;
    let late = pods(&world.cluster.place.name)
        .split("---\n")
        .find(|pod| pod.contains("name: near"))
        .context("a pod")?
        .replace("near", "late");
    world.cluster.apply(&late).await?;
    let address = world
        .cluster
        .wait("late", |pod: &Pod| pod.status.as_ref()?.pod_ip.clone())
        .await?;
    // From the first moment that it has an address.
    let target = format!("{address}:5000");
    for _ in 0..3 {
        for client in CLIENTS {
            ensure!(!world.reaches(client, &target).await?, "{client:?} got in");
        }
    }
    world
        .cluster
        .wait("late", |pod: &Pod| is_ready(pod).then_some(()))
        .await
}
