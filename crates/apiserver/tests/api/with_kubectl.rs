//! The walkthrough's commands with every stock kubectl that is installed.
//!
//! Where there is none, the test says so; the wire is covered by the other tests.

use crate::common::{Cluster, eventually};
use ambit_testkit::words;
use futures_util::StreamExt;
use serde_json::json;
use std::path::Path;

struct Kubectl<'a> {
    binary: &'a Path,
    home: &'a Path,
    namespace: String,
}

struct Output {
    ok: bool,
    stdout: String,
    stderr: String,
    command: String,
}

impl Kubectl<'_> {
    async fn run(&self, command: &str) -> Output {
        self.run_with(command, "").await
    }

    async fn run_with(&self, command: &str, input: &str) -> Output {
        use tokio::io::AsyncWriteExt;
        let mut child = tokio::process::Command::new(self.binary)
            .args(["-n", &self.namespace])
            .args(words(command))
            .env("HOME", self.home)
            .env("KUBECONFIG", self.home.join("kubeconfig"))
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.replace("NAMESPACE", &self.namespace);
        stdin.write_all(input.as_bytes()).await.unwrap();
        drop(stdin);
        let limit = std::time::Duration::from_secs(60);
        let output = tokio::time::timeout(limit, child.wait_with_output())
            .await
            .expect(command)
            .unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        let stderr: Vec<&str> = stderr
            .lines()
            .filter(|l| !l.contains("version difference"))
            .collect();
        Output {
            ok: output.status.success(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: stderr.join("\n"),
            command: format!(
                "{} {command}",
                self.binary.file_name().unwrap().to_string_lossy()
            ),
        }
    }

    /// The command works and prints this.
    #[track_caller]
    fn expect(&self, output: Output, text: &str) {
        assert!(
            output.ok,
            "{}: {}{}",
            output.command, output.stdout, output.stderr
        );
        assert!(
            output.stdout.contains(text),
            "{}: {:?} lacks {text:?}",
            output.command,
            output.stdout
        );
    }
}

const MANIFEST: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: web, labels: {app: web}}
spec: {selector: {app: web}, ports: [{port: 80, name: http}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 1
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: c, image: "web:1", ports: [{containerPort: 80}]}]}
"#;

const DEFINITION: &str = r#"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: gizmos.NAMESPACE.example.com}
spec:
  group: NAMESPACE.example.com
  scope: Namespaced
  names: {plural: gizmos, kind: Gizmo, shortNames: [gz]}
  versions:
  - name: v1
    served: true
    storage: true
    additionalPrinterColumns: [{name: Size, type: integer, jsonPath: .spec.size}]
    schema:
      openAPIV3Schema:
        type: object
        properties: {spec: {type: object, properties: {size: {type: integer}}}}
"#;

const GIZMO: &str = r#"
apiVersion: NAMESPACE.example.com/v1
kind: Gizmo
metadata: {name: g}
spec: {size: 3}
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_version_walks_through() {
    let clients = ambit_testkit::kubectls();
    if clients.is_empty() {
        println!("no kubectl is installed: only the in-process tests cover the wire");
        return;
    }
    let cluster = Cluster::start().await;
    // A few at a time: each waits more than it works.
    let walks = clients
        .iter()
        .map(|client| walk(&cluster, &client.path, client.minor));
    futures_util::stream::iter(walks)
        .buffer_unordered(4)
        .collect::<Vec<()>>()
        .await;
}

async fn walk(cluster: &Cluster, binary: &Path, number: u32) {
    println!("walking with {}", binary.display());
    let home = tempfile::tempdir().unwrap();
    let config = cluster.server.admin_kubeconfig().unwrap();
    std::fs::write(home.path().join("kubeconfig"), config).unwrap();
    let namespace = format!("walk{number}");
    let kubectl = Kubectl {
        binary,
        home: home.path(),
        namespace,
    };
    create(&kubectl).await;
    apply(&kubectl).await;
    show(&kubectl, cluster).await;
    change(&kubectl).await;
    wait(&kubectl, cluster).await;
    rights(&kubectl).await;
    custom(&kubectl).await;
    mistakes(&kubectl).await;
    delete(&kubectl).await;
}

async fn create(k: &Kubectl<'_>) {
    let ns = &k.namespace;
    k.expect(k.run(&format!("create namespace {ns}")).await, "created");
    k.expect(
        k.run("create configmap c --from-literal=a=b").await,
        "configmap/c created",
    );
    k.expect(
        k.run("create secret generic s --from-literal=a=b").await,
        "secret/s created",
    );
    k.expect(
        k.run("create serviceaccount robot").await,
        "serviceaccount/robot created",
    );
    k.expect(
        k.run("create deployment d --image=x:1 --replicas=2").await,
        "deployment.apps/d created",
    );
    k.expect(
        k.run("create role r --verb=get --resource=pods").await,
        "created",
    );
    k.expect(
        k.run(&format!(
            "create rolebinding r --role=r --serviceaccount={ns}:robot"
        ))
        .await,
        "created",
    );
    k.expect(k.run("run p --image=x:1").await, "pod/p created");
    k.expect(
        k.run("expose deployment d --port=80").await,
        "service/d exposed",
    );
    k.expect(k.run("create token robot --duration=10m").await, "ey");
    let secret = k.run("get secret s -o jsonpath={.data.a}").await;
    k.expect(secret, "Yg==");
}

async fn apply(k: &Kubectl<'_>) {
    k.expect(
        k.run_with("apply -f -", MANIFEST).await,
        "service/web created\ndeployment.apps/web created",
    );
    k.expect(
        k.run_with("apply -f -", MANIFEST).await,
        "service/web unchanged\ndeployment.apps/web unchanged",
    );
    let changed = MANIFEST
        .replace("web:1", "web:2")
        .replace(", ports: [{containerPort: 80}]", "");
    k.expect(
        k.run_with("apply -f -", &changed).await,
        "deployment.apps/web configured",
    );
    let containers = k
        .run("get deployment web -o jsonpath={.spec.template.spec.containers[0]}")
        .await;
    assert!(!containers.stdout.contains("containerPort") && containers.stdout.contains("web:2"));
    k.expect(
        k.run_with("apply --server-side --force-conflicts -f -", MANIFEST)
            .await,
        "serverside-applied",
    );
    k.expect(
        k.run_with("apply --dry-run=server -f -", MANIFEST).await,
        "(server dry run)",
    );
    let diff = k
        .run_with("diff -f -", &MANIFEST.replace("web:1", "web:7"))
        .await;
    assert!(
        !diff.ok && diff.stdout.contains("web:7"),
        "{}{}",
        diff.stdout,
        diff.stderr
    );
}

async fn show(k: &Kubectl<'_>, cluster: &Cluster) {
    k.expect(
        k.run("get pods").await,
        "NAME   READY   STATUS    RESTARTS   AGE\np      0/1     Pending   0",
    );
    k.expect(
        k.run("get pods -o wide").await,
        "NOMINATED NODE   READINESS GATES",
    );
    k.expect(k.run("get all").await, "deployment.apps/web");
    k.expect(k.run("get deployments -A -l app=d").await, "NAMESPACE");
    k.expect(
        k.run("get cm c -o yaml").await,
        "data:\n  a: b\nkind: ConfigMap",
    );
    k.expect(k.run("get cm c -o json").await, "\"kind\": \"ConfigMap\"");
    k.expect(
        k.run("get pods,services -o name").await,
        "pod/p\nservice/d\nservice/web",
    );
    k.expect(
        k.run("get namespaces --show-labels").await,
        "kubernetes.io/metadata.name=default",
    );
    k.expect(
        k.run("get cm --sort-by=.metadata.name").await,
        "kube-root-ca.crt",
    );
    k.expect(k.run("describe pod p").await, "QoS Class:");
    k.expect(k.run("describe deployment web").await, "StrategyType:");
    k.expect(k.run("api-resources").await, "endpointslices");
    k.expect(k.run("api-versions").await, "discovery.k8s.io/v1");
    k.expect(k.run("version").await, "v1.35");
    k.expect(k.run("explain pod.spec.containers.image").await, "image");
    k.expect(k.run("logs p").await, "");
    // A watch sees what happens while it lasts.
    let watching = k.run("get cm -w --request-timeout=4s");
    let (seen, ()) = tokio::join!(watching, async {
        tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
        let path = format!("/api/v1/namespaces/{}/configmaps", k.namespace);
        cluster
            .post(&path, &crate::common::config_map("seen"))
            .await
            .ok();
    });
    assert!(
        seen.stdout.contains("seen "),
        "{}{}",
        seen.stdout,
        seen.stderr
    );
}

async fn change(k: &Kubectl<'_>) {
    k.expect(k.run("label cm c x=y").await, "configmap/c labeled");
    k.expect(k.run("label cm c x-").await, "configmap/c unlabeled");
    k.expect(k.run("annotate cm c x=y").await, "configmap/c annotate");
    k.expect(
        k.run("patch cm c -p '{\"data\":{\"q\":\"1\"}}'").await,
        "patched",
    );
    k.expect(
        k.run("patch cm c --type=merge -p '{\"data\":{\"q\":\"2\"}}'")
            .await,
        "patched",
    );
    let json =
        "patch cm c --type=json -p '[{\"op\":\"replace\",\"path\":\"/data/q\",\"value\":\"3\"}]'";
    k.expect(k.run(json).await, "patched");
    k.expect(k.run("get cm c -o jsonpath={.data.q}").await, "3");
    k.expect(k.run("scale deployment d --replicas=5").await, "scaled");
    k.expect(k.run("set image deployment/d x=x:2").await, "image updated");
    k.expect(k.run("rollout restart deployment/d").await, "restarted");
    let bad =
        "patch deployment d --subresource=status --type=merge -p '{\"status\":{\"replicas\":5}}'";
    k.expect(k.run(bad).await, "patched");
}

async fn wait(k: &Kubectl<'_>, cluster: &Cluster) {
    let path = format!("/apis/apps/v1/namespaces/{}/deployments/d", k.namespace);
    let rolling = k.run("rollout status deployment/d --timeout=20s");
    let waiting = k.run("wait --for=condition=Available deployment/d --timeout=20s");
    let (rolled, waited, ()) = tokio::join!(rolling, waiting, async {
        tokio::time::sleep(std::time::Duration::from_millis(800)).await;
        let now = cluster.get(&path).await.ok();
        let status = json!({"status": {"observedGeneration": now["metadata"]["generation"], "replicas": 5,
            "updatedReplicas": 5, "readyReplicas": 5, "availableReplicas": 5,
            "conditions": [{"type": "Available", "status": "True"}]}});
        let merge = "application/merge-patch+json";
        cluster
            .send(
                "PATCH",
                &format!("{path}/status"),
                merge,
                status.to_string(),
            )
            .await
            .ok();
    });
    k.expect(rolled, "successfully rolled out");
    k.expect(waited, "condition met");
    k.expect(
        k.run("get deployment d").await,
        "d      5/5     5            5",
    );
}

async fn rights(k: &Kubectl<'_>) {
    let robot = format!("--as=system:serviceaccount:{}:robot", k.namespace);
    k.expect(k.run(&format!("auth can-i get pods {robot}")).await, "yes");
    let no = k.run(&format!("auth can-i list pods {robot}")).await;
    assert_eq!(no.stdout.trim(), "no");
    k.expect(k.run(&format!("auth can-i --list {robot}")).await, "pods");
    let refused = k.run(&format!("get secrets {robot}")).await;
    assert!(
        refused
            .stderr
            .contains("Error from server (Forbidden): secrets is forbidden"),
        "{}",
        refused.stderr
    );
}

async fn custom(k: &Kubectl<'_>) {
    k.expect(
        k.run_with("apply -f -", DEFINITION).await,
        "customresourcedefinition",
    );
    k.expect(
        k.run(&format!(
            "wait --for=condition=Established crd/gizmos.{}.example.com --timeout=5s",
            k.namespace
        ))
        .await,
        "met",
    );
    k.expect(k.run_with("apply -f -", GIZMO).await, "/g created");
    k.expect(
        k.run_with("apply -f -", &GIZMO.replace('3', "4")).await,
        "/g configured",
    );
    k.expect(
        k.run(&format!("get gizmos.{}.example.com", k.namespace))
            .await,
        "NAME   SIZE\ng      4",
    );
    let wrong = k.run_with("apply -f -", &GIZMO.replace('3', "big")).await;
    assert!(
        wrong.stderr.contains("must be of type integer"),
        "{}",
        wrong.stderr
    );
    let unknown = k
        .run_with("apply -f -", &GIZMO.replace("size", "sizes"))
        .await;
    assert!(
        unknown.stderr.contains("unknown field \"spec.sizes\""),
        "{}",
        unknown.stderr
    );
}

async fn mistakes(k: &Kubectl<'_>) {
    for (command, input, text) in [
        (
            "get gadgets",
            "",
            "the server doesn't have a resource type \"gadgets\"",
        ),
        (
            "get pod none",
            "",
            "Error from server (NotFound): pods \"none\" not found",
        ),
        ("create configmap c", "", "already exists"),
        (
            "label namespace none a=b",
            "",
            "namespaces \"none\" not found",
        ),
        (
            "apply -f -",
            "kind: Gadget\napiVersion: v1\nmetadata: {name: x}\n",
            "no matches for kind \"Gadget\"",
        ),
        (
            "apply -f -",
            "kind: Pod\napiVersion: v1\nmetadata: {name: x}\nspec: {}\n",
            "spec.containers: Required value",
        ),
        (
            "create -f -",
            "kind: ConfigMap\napiVersion: v1\nmetadata: {name: x}\ndatas: {}\n",
            "unknown field \"datas\"",
        ),
        ("exec p -- true", "", "does not have a host assigned"),
    ] {
        let output = k.run_with(command, input).await;
        assert!(
            !output.ok && output.stderr.contains(text),
            "{command}: {}{}",
            output.stdout,
            output.stderr
        );
    }
}

async fn delete(k: &Kubectl<'_>) {
    k.expect(k.run("delete pod p --now").await, "deleted");
    k.expect(
        k.run("delete deployment d --cascade=foreground").await,
        "deleted",
    );
    k.expect(
        k.run("delete deployment,service -l app=web").await,
        "deleted",
    );
    k.expect(k.run_with("delete -f -", DEFINITION).await, "deleted");
    k.expect(
        k.run(&format!("delete namespace {}", k.namespace)).await,
        "deleted",
    );
    eventually("the namespace goes", async || {
        let left = k
            .run(&format!("get namespace {} --ignore-not-found", k.namespace))
            .await;
        left.stdout.trim().is_empty().then_some(())
    })
    .await;
}
