//! `ambit kubectl` against the API server, and beside the stock kubectl where one is installed:
//! the same command must print the same.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::{
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Duration,
};

struct Cluster {
    server: ambit_apiserver::Handle,
    home: tempfile::TempDir,
}

impl Cluster {
    async fn start() -> Cluster {
        let server = ambit_apiserver::Server::builder().start().await.unwrap();
        let home = tempfile::tempdir().unwrap();
        std::fs::write(
            home.path().join("kubeconfig"),
            server.admin_kubeconfig().unwrap(),
        )
        .unwrap();
        Cluster { server, home }
    }

    /// Runs a program with a kubectl command line, off the runtime that serves it.
    async fn run(&self, program: &Path, first: &[&str], line: &str, input: &str) -> Output {
        let mut command = Command::new(program);
        command
            .args(first)
            .args(line.split(' ').map(|w| w.replace('~', " ")))
            .env("HOME", self.home.path())
            .env("KUBECONFIG", self.home.path().join("kubeconfig"))
            .current_dir(self.home.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let input = input.to_string();
        tokio::task::spawn_blocking(move || {
            use std::io::Write;
            let mut child = command.spawn().unwrap();
            child
                .stdin
                .take()
                .unwrap()
                .write_all(input.as_bytes())
                .unwrap();
            child.wait_with_output().unwrap()
        })
        .await
        .unwrap()
    }

    async fn ours(&self, line: &str, input: &str) -> Output {
        self.run(
            Path::new(env!("CARGO_BIN_EXE_ambit")),
            &["kubectl"],
            line,
            input,
        )
        .await
    }

    /// The command succeeds and prints this.
    async fn expect(&self, line: &str, input: &str, text: &str) {
        let output = self.ours(line, input).await;
        let (out, err) = texts(&output);
        assert!(output.status.success(), "{line}: {out}{err}");
        assert!(out.contains(text), "{line}: {out:?} lacks {text:?}");
    }

    /// The command fails and says this.
    async fn refuse(&self, line: &str, input: &str, text: &str) {
        let output = self.ours(line, input).await;
        let (out, err) = texts(&output);
        assert!(!output.status.success(), "{line}: {out}{err}");
        assert!(err.contains(text), "{line}: {err:?} lacks {text:?}");
    }
}

fn texts(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

/// A stock kubectl: the newest that is installed.
fn stock() -> Option<PathBuf> {
    ambit_testkit::kubectls().pop().map(|kubectl| kubectl.path)
}

const MANIFEST: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: web, labels: {app: web}}
spec: {selector: {app: web}, ports: [{port: 80, name: http}, {port: 81, name: more}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 1
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - {name: c, image: "web:1", args: ["--x=y", "a: b"], ports: [{containerPort: 80}]}
      - {name: d, image: "side:1"}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: texts, annotations: {note: "yes"}}
data: {long: "one\ntwo\n", empty: "", number: "80", star: "*", colon: "a: b"}
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_walkthroughs_verbs() {
    let c = Cluster::start().await;
    c.expect("create namespace shop", "", "namespace/shop created")
        .await;
    c.refuse(
        "create namespace shop",
        "",
        "Error from server (AlreadyExists): failed to create: namespaces \"shop\" already exists",
    )
    .await;
    c.expect(
        "label namespace shop istio.io/dataplane-mode=ambient",
        "",
        "namespace/shop labeled",
    )
    .await;
    c.refuse(
        "label namespace shop istio.io/dataplane-mode=none",
        "",
        "error: 'istio.io/dataplane-mode' already has a value (ambient), and --overwrite is false",
    )
    .await;
    c.expect(
        "label namespace shop istio.io/dataplane-mode=none --overwrite",
        "",
        "labeled",
    )
    .await;
    c.expect(
        "label namespace shop istio.io/dataplane-mode-",
        "",
        "namespace/shop unlabeled",
    )
    .await;
    c.refuse(
        "label namespace none a=b",
        "",
        "Error from server (NotFound): namespaces \"none\" not found",
    )
    .await;
    c.expect(
        "annotate namespace shop a=b",
        "",
        "namespace/shop annotated",
    )
    .await;

    let created = "service/web created\ndeployment.apps/web created\nconfigmap/texts created\n";
    c.expect("-n shop apply -f -", MANIFEST, created).await;
    let unchanged =
        "service/web unchanged\ndeployment.apps/web unchanged\nconfigmap/texts unchanged\n";
    c.expect("-n shop apply -f -", MANIFEST, unchanged).await;
    let changed = MANIFEST
        .replace("web:1", "web:2")
        .replace(", {port: 81, name: more}", "")
        .replace("      - {name: d, image: \"side:1\"}\n", "")
        .replace("empty: \"\", ", "");
    let configured =
        "service/web configured\ndeployment.apps/web configured\nconfigmap/texts configured\n";
    c.expect("-n shop apply -f -", &changed, configured).await;
    c.expect(
        "-n shop get deployment web -o jsonpath={.spec.template.spec.containers[*].image}",
        "",
        "web:2",
    )
    .await;
    c.expect(
        "-n shop get service web -o jsonpath={.spec.ports[*].port}",
        "",
        "80",
    )
    .await;
    let left = c.ours("-n shop get cm texts -o jsonpath={.data}", "").await;
    assert!(!texts(&left).0.contains("empty"));
    c.expect(
        "-n shop apply --server-side --force-conflicts -f -",
        MANIFEST,
        "serverside-applied",
    )
    .await;

    std::fs::create_dir(c.home.path().join("manifests")).unwrap();
    std::fs::write(c.home.path().join("manifests/a.yaml"), MANIFEST).unwrap();
    c.expect(
        "-n default apply -f manifests",
        "",
        "deployment.apps/web created",
    )
    .await;
    c.expect("delete -f manifests", "", "deployment.apps \"web\" deleted")
        .await;
    c.expect(
        "-n shop delete deployment,service -l app=web",
        "",
        "service \"web\" deleted",
    )
    .await;
    c.expect(
        "-n shop delete deployment web",
        "",
        "deployment.apps \"web\" deleted",
    )
    .await;
    c.refuse(
        "-n shop delete deployment web",
        "",
        "Error from server (NotFound): deployments.apps \"web\" not found",
    )
    .await;
    c.expect("-n shop delete deployment web --ignore-not-found", "", "")
        .await;
    c.expect(
        "delete namespace shop --timeout=20s",
        "",
        "namespace \"shop\" deleted",
    )
    .await;
    c.refuse("get namespace shop", "", "NotFound").await;
    c.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mistakes_are_explained() {
    let c = Cluster::start().await;
    for (line, input, text) in [
        (
            "get gadgets",
            "",
            "error: the server doesn't have a resource type \"gadgets\"",
        ),
        ("get pods -o odd", "", "unable to match a printer"),
        (
            "apply -f none.yaml",
            "",
            "error: the path \"none.yaml\" does not exist",
        ),
        (
            "apply -f https://example.com/x.yaml",
            "",
            "is a URL: download it first",
        ),
        ("apply -f -", "a: [", "error converting YAML to JSON"),
        ("apply -f -", "a: b", "kind not set"),
        (
            "apply -f -",
            "kind: Gadget\napiVersion: v1\nmetadata: {name: x}\n",
            "no matches for kind \"Gadget\" in version \"v1\"",
        ),
        (
            "apply -f -",
            "kind: ConfigMap\napiVersion: v1\nmetadata: {name: x}\ndatas: {}\n",
            "unknown field \"datas\"",
        ),
        (
            "delete pods",
            "",
            "error: resource(s) were provided, but no name was specified",
        ),
        (
            "wait --for=sometime pod/x",
            "",
            "error: unrecognized condition",
        ),
        (
            "wait --for=condition=Ready pod/x --timeout=5s",
            "",
            "pods \"x\" not found",
        ),
        ("logs none", "", "pods \"none\" not found"),
        (
            "rollout status deployment/none",
            "",
            "deployments.apps \"none\" not found",
        ),
        ("frobnicate", "", "unrecognized subcommand"),
        ("--context=none get pods", "", "none"),
    ] {
        c.refuse(line, input, text).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_and_watching_see_changes() {
    let c = Cluster::start().await;
    c.expect("apply -f -", MANIFEST, "created").await;
    c.refuse(
        "rollout status deployment/web --timeout=1s",
        "",
        "error: timed out waiting for the condition",
    )
    .await;
    let later = async {
        tokio::time::sleep(Duration::from_millis(700)).await;
        let status = r#"{"apiVersion":"apps/v1","kind":"Deployment","status":{"observedGeneration":1,"replicas":1,"updatedReplicas":1,"readyReplicas":1,"availableReplicas":1,"conditions":[{"type":"Available","status":"True"}]}}"#;
        patch_status(&c, status).await;
        // Something for the watch, and the end of it.
        tokio::time::sleep(Duration::from_millis(300)).await;
        c.expect("delete configmap texts", "", "deleted").await;
    };
    let ((), rolled, waited, gone) = tokio::join!(
        later,
        c.ours("rollout status deployment/web --timeout=20s", ""),
        c.ours(
            "wait --for=condition=Available deployment/web --timeout=20s",
            ""
        ),
        c.ours("wait --for=delete configmap/texts --timeout=20s", ""),
    );
    assert!(
        texts(&rolled)
            .0
            .ends_with("deployment \"web\" successfully rolled out\n"),
        "{:?}",
        texts(&rolled)
    );
    assert_eq!(texts(&waited).0, "deployment.apps/web condition met\n");
    assert_eq!(texts(&gone).0, "configmap/texts condition met\n");
}

async fn patch_status(c: &Cluster, body: &str) {
    let kubeconfig =
        kube::config::Kubeconfig::from_yaml(&c.server.admin_kubeconfig().unwrap()).unwrap();
    let options = kube::config::KubeConfigOptions::default();
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options)
        .await
        .unwrap();
    let client = kube::Client::try_from(config).unwrap();
    let request = http::Request::patch("/apis/apps/v1/namespaces/default/deployments/web/status")
        .header("content-type", "application/merge-patch+json")
        .body(body.as_bytes().to_vec())
        .unwrap();
    client.request_text(request).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_output_is_that_of_kubectl() {
    let Some(stock) = stock() else {
        println!("no kubectl is installed: nothing to compare with");
        return;
    };
    let c = Cluster::start().await;
    c.expect("apply -f -", MANIFEST, "created").await;
    c.expect("create -f -", "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: [{name: c, image: x}]}\n", "pod/p created").await;
    for line in [
        "get namespaces",
        "get ns -o name",
        "get pods",
        "get pods -o wide",
        "get pods,services,deployments",
        "get all -A",
        "get deployments -A -o wide",
        "get svc web -o yaml",
        "get svc web -o json",
        "get cm texts -o yaml",
        "get pod p -o yaml",
        "get deployment web -o yaml",
        "get cm -l none=none",
        "get cm -l none=none -o yaml",
        "get cm texts -o name",
        "get ns --show-labels",
        "get svc -L app",
        "get svc --no-headers",
        "get cm texts -o jsonpath={.data.number}",
        "get pods -o jsonpath={range~.items[*]}{.metadata.name}{\"\\n\"}{end}",
        "get clusterroles",
        "get pod none",
        "get pods none other",
        "get nosuch",
        "label cm texts x=y",
        "label cm texts x=y",
        "label cm texts x-",
        "label cm texts keep=1",
        "label cm texts none-",
        "annotate cm texts x=y",
        "annotate cm texts x=y",
        "rollout restart deployment/web",
        "wait --for=condition=Ready pod/p --timeout=1s",
        "delete cm none",
        "delete cm none --ignore-not-found",
    ] {
        let ours = c.ours(line, "").await;
        // Undo what the first one did, if it did anything, so that both find the same.
        let changed = !texts(&ours).0.contains(" not ");
        if let Some(undo) = undo(line).filter(|_| changed) {
            c.ours(undo, "").await;
        }
        if line.starts_with("rollout restart") {
            // Both write the time to the second, and refuse to write the same again.
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let theirs = c.run(&stock, &[], line, "").await;
        let seen = |output: &Output| {
            let (out, err) = texts(output);
            let err: Vec<String> = err
                .lines()
                .filter(|l| !l.contains("version difference"))
                .map(str::to_string)
                .collect();
            (stable(&out), err.join("\n"), output.status.code())
        };
        assert_eq!(seen(&ours), seen(&theirs), "{line}");
    }
}

fn undo(line: &str) -> Option<&'static str> {
    match line {
        "label cm texts x=y" => Some("label cm texts x-"),
        "annotate cm texts x=y" => Some("annotate cm texts x-"),
        "label cm texts keep=1" => Some("label cm texts keep-"),
        "label cm texts x-" => Some("label cm texts x=y"),
        _ => None,
    }
}

/// Output without ages, which differ by the time between two commands.
fn stable(text: &str) -> Vec<String> {
    text.lines()
        .map(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            let is_age = |w: &str| {
                w.ends_with('s')
                    && w.len() > 1
                    && w[..w.len() - 1].chars().all(|c| c.is_ascii_digit())
            };
            let words: Vec<String> = words
                .into_iter()
                .map(|w| {
                    if is_age(w) {
                        "AGE".to_string()
                    } else {
                        w.to_string()
                    }
                })
                .filter(|w| !w.is_empty())
                .collect();
            words.join(" ")
        })
        .collect()
}
