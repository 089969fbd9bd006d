//! The whole agent against a real API server (in this process), a node proxy's end of ZDS, real
//! pod network namespaces, and the real plugin.

mod support;

/// The plugin, which is a program of its own crate.
fn plugin() -> std::path::PathBuf {
    ambit_testkit::program("istio-cni").expect("cargo build --workspace builds the plugin")
}

use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ambit_cni::agent::{Args, run_until};
use ambit_cni::netns::Netns;
use ambit_runtime::signals::Shutdown;
use ambit_wire::zds::PeerCheck;
use ambit_wire::zds::proxy::{Dialer, Request};
use clap::Parser;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};

const REDIRECTION: &str = "ambient.istio.io/redirection";

#[derive(Parser)]
struct Program {
    #[command(flatten)]
    args: Args,
}

/// A node as the agent's pod sees it, with its cluster.
struct World {
    api: Option<ambit_apiserver::Handle>,
    client: Client,
    dir: tempfile::TempDir,
    /// The node's own namespace, and a pod's.
    node: Netns,
    pod: Netns,
    /// What the node proxy was told.
    told: Arc<Mutex<Vec<String>>>,
    shutdown: Shutdown,
}

/// The path of an open namespace, for other processes.
fn path_of(netns: &Netns) -> String {
    format!(
        "/proc/{}/fd/{}",
        std::process::id(),
        netns.as_fd().as_raw_fd()
    )
}

impl World {
    async fn new() -> Self {
        let api = ambit_apiserver::Server::builder()
            .start()
            .await
            .expect("API server");
        let dir = tempfile::tempdir().expect("dir");
        let kubeconfig = dir.path().join("kubeconfig");
        std::fs::write(&kubeconfig, api.admin_kubeconfig().expect("kubeconfig")).expect("write");
        let options = ambit_kube_api::ClientOptions {
            kubeconfig: Some(kubeconfig),
            context: None,
        };
        let client = ambit_kube_api::client(&options).await.expect("client");
        let (node, pod) = support::node_and_pod();
        let world = Self {
            api: Some(api),
            client,
            node,
            pod,
            told: Arc::default(),
            shutdown: Shutdown::new(),
            dir,
        };
        world.make_node();
        world.make_objects().await;
        world
    }

    fn at(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    /// `/host` of the agent: processes with cgroups and namespaces, CNI directories.
    fn make_node(&self) {
        for folder in [
            "host/proc/1/ns",
            "host/proc/77/ns",
            "host/var/run/netns",
            "net.d",
            "bin",
            "run",
        ] {
            std::fs::create_dir_all(self.at(folder)).expect("mkdir");
        }
        let link =
            |to: String, from: &str| std::os::unix::fs::symlink(to, self.at(from)).expect("link");
        link(path_of(&self.node), "host/proc/1/ns/net");
        link(path_of(&self.pod), "host/proc/77/ns/net");
        link(path_of(&self.pod), "host/var/run/netns/new");
        let write = |path: &str, text: &str| std::fs::write(self.at(path), text).expect("write");
        write(
            "host/proc/77/stat",
            "77 (app) S 1 77 77 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 4711 0 0\n",
        );
        write(
            "net.d/10-ptp.conflist",
            r#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"ptp"}]}"#,
        );
    }

    async fn make_objects(&self) {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        for name in ["shop", "istio-system"] {
            let namespace: Namespace =
                serde_json::from_value(json!({"metadata": {"name": name}})).expect("namespace");
            namespaces
                .create(&PostParams::default(), &namespace)
                .await
                .expect("namespace");
        }
        let set: DaemonSet = serde_json::from_value(json!({
            "metadata": {"name": "istio-cni-node"},
            "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {
                "metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}
        }))
        .expect("set");
        let sets: Api<DaemonSet> = Api::namespaced(self.client.clone(), "istio-system");
        sets.create(&PostParams::default(), &set)
            .await
            .expect("set");
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), "shop")
    }

    /// A pod of the agent's node with the address of the pod namespace; running or about to.
    async fn make_pod(&self, name: &str, running: bool) -> Pod {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": name},
            "spec": {"nodeName": "worker", "containers": [{"name": "app", "image": "i",
                "readinessProbe": {"httpGet": {"port": 9080}}}]}
        }))
        .expect("pod");
        let pod = self
            .pods()
            .create(&PostParams::default(), &pod)
            .await
            .expect("create pod");
        let uid = pod.metadata.uid.clone().expect("uid");
        let cgroup = format!("0::/kubepods/pod{uid}/app\n");
        std::fs::write(self.at("host/proc/77/cgroup"), cgroup).expect("write");
        if running {
            let status = json!({"status": {"phase": "Running", "podIP": "10.9.0.2", "podIPs": [{"ip": "10.9.0.2"}]}});
            let patch = Patch::Merge(status);
            self.pods()
                .patch_status(name, &PatchParams::default(), &patch)
                .await
                .expect("status");
        }
        pod
    }

    async fn label(&self, mode: Option<&str>) {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let patch = json!({"metadata": {"labels": {"istio.io/dataplane-mode": mode}}});
        namespaces
            .patch("shop", &PatchParams::default(), &Patch::Merge(patch))
            .await
            .expect("label");
    }

    /// Starts the agent; it ends with the shutdown.
    fn start_agent(&self) -> tokio::task::JoinHandle<()> {
        let flag = |name: &str, path: &str| format!("--{name}={}", self.at(path).display());
        let flags = [
            "install-cni".to_owned(),
            "--ambient-enabled=true".to_owned(),
            "--node-name=worker".to_owned(),
            "--monitoring-port=0".to_owned(),
            "--health-port=0".to_owned(),
            flag("host-mounts-path", "host"),
            flag("mounted-cni-net-dir", "net.d"),
            flag("mounted-cni-bin-dir", "bin"),
            flag("cni-agent-run-dir", "run"),
            flag("ztunnel-uds-address", "zds/ztunnel.sock"),
            flag("kubeconfig", "kubeconfig"),
            format!("--cni-plugin-source={}", plugin().display()),
        ];
        let args = Program::try_parse_from(flags).expect("flags").args;
        let shutdown = self.shutdown.clone();
        tokio::spawn(async move { run_until(args, shutdown).await.expect("agent") })
    }

    /// A node proxy that takes everything.
    fn start_proxy(&self) {
        let (path, told) = (self.at("zds/ztunnel.sock"), self.told.clone());
        tokio::spawn(async move {
            let mut dialer = Dialer::new(path, PeerCheck::uid(0));
            let mut connection = dialer.connect().await;
            while let Ok(Some(request)) = connection.next().await {
                let line = match request {
                    Request::Add { pod, .. } => format!("add {}", pod.name),
                    Request::Keep { .. } => "keep".to_owned(),
                    Request::Delete { .. } => "delete".to_owned(),
                    Request::SnapshotSent => "snapshot".to_owned(),
                };
                told.lock().expect("lock").push(line);
                connection.ack(Ok(())).await.expect("ack");
            }
        });
    }

    fn told(&self) -> Vec<String> {
        self.told.lock().expect("lock").clone()
    }

    async fn redirection(&self, pod: &str) -> Option<String> {
        let pod = self.pods().get(pod).await.expect("pod");
        pod.metadata.annotations?.get(REDIRECTION).cloned()
    }

    async fn wait_for_redirection(&self, pod: &str, wanted: Option<&str>) {
        let what = format!("{pod} {wanted:?}");
        eventually(&what, async || {
            self.redirection(pod).await.as_deref() == wanted
        })
        .await;
    }

    fn captured(&self) -> bool {
        support::sh(&self.pod, "nft list tables").contains("istio-ambient-nat")
    }

    fn exempt(&self) -> bool {
        support::sh(&self.node, "nft list ruleset").contains("10.9.0.2 . 9080")
    }

    fn conflist(&self) -> String {
        std::fs::read_to_string(self.at("net.d/10-ptp.conflist")).expect("conflist")
    }

    /// Runs the installed plugin as a container runtime would.
    async fn add(&self, namespace: &str, pod: &Pod) -> (bool, Value) {
        let config: Value = serde_json::from_str(&self.conflist()).expect("JSON");
        let plugins = config["plugins"].as_array().expect("plugins");
        let mut own = plugins
            .iter()
            .find(|p| p["type"] == "istio-cni")
            .expect("installed")
            .clone();
        own["cniVersion"] = json!("1.0.0");
        own["prevResult"] = json!({"cniVersion": "1.0.0", "ips": [{"address": "10.9.0.2/24"}]});
        let args = format!(
            "K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={};K8S_POD_UID={}",
            pod.metadata.name.clone().expect("name"),
            pod.metadata.uid.clone().unwrap_or_default()
        );
        let program = self.at("bin/istio-cni");
        tokio::task::spawn_blocking(move || {
            let mut child = Command::new(program)
                .envs([("CNI_COMMAND", "ADD"), ("CNI_NETNS", "/run/netns/new")])
                .env("CNI_ARGS", args)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .expect("plugin");
            let mut stdin = child.stdin.take().expect("stdin");
            std::io::Write::write_all(&mut stdin, own.to_string().as_bytes()).expect("write");
            drop(stdin);
            let output = child.wait_with_output().expect("output");
            let answer = serde_json::from_slice(&output.stdout).expect("JSON");
            (output.status.success(), answer)
        })
        .await
        .expect("join")
    }

    async fn installed(&self) {
        eventually("the plugin is installed", async || {
            self.conflist().contains("istio-cni")
        })
        .await;
    }
}

async fn eventually(what: &str, condition: impl AsyncFn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition().await {
        assert!(Instant::now() < deadline, "{what} did not happen");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_pod_follows_the_label_and_the_uninstalled_agent_leaves_no_trace() {
    let world = World::new().await;
    let original = world.conflist();
    world.make_pod("cart", true).await;
    let agent = world.start_agent();
    world.installed().await;
    assert!(!world.captured(), "nothing is captured without a label");

    // Labelled while no node proxy is there: captured, waiting.
    world.label(Some("ambient")).await;
    world.wait_for_redirection("cart", Some("pending")).await;
    assert!(world.captured() && !world.exempt());
    world.start_proxy();
    world.wait_for_redirection("cart", Some("enabled")).await;
    assert!(world.exempt());
    assert!(
        world.told().contains(&"add cart".to_owned()),
        "{:?}",
        world.told()
    );

    world.label(None).await;
    world.wait_for_redirection("cart", None).await;
    assert!(!world.captured() && !world.exempt());
    assert_eq!(world.told().last().map(String::as_str), Some("delete"));

    world.label(Some("ambient")).await;
    world.wait_for_redirection("cart", Some("enabled")).await;
    let sets: Api<DaemonSet> = Api::namespaced(world.client.clone(), "istio-system");
    sets.delete("istio-cni-node", &DeleteParams::default())
        .await
        .expect("delete");
    world.shutdown.trigger();
    agent.await.expect("agent ends");
    assert!(!world.captured());
    assert_eq!(world.redirection("cart").await, None);
    let before: Value = serde_json::from_str(&original).expect("JSON");
    assert_eq!(
        serde_json::from_str::<Value>(&world.conflist()).expect("JSON"),
        before
    );
    assert!(!world.at("bin/istio-cni").exists());
    assert_eq!(support::sh(&world.node, "nft list ruleset"), "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_is_replaced_keeps_everything_and_the_next_one_takes_over() {
    let mut world = World::new().await;
    world.label(Some("ambient")).await;
    world.make_pod("cart", true).await;
    let agent = world.start_agent();
    world.start_proxy();
    world.wait_for_redirection("cart", Some("enabled")).await;
    world.shutdown.trigger();
    agent.await.expect("agent ends");
    assert!(world.captured() && world.exempt());
    assert!(world.conflist().contains("istio-cni"));

    world.told.lock().expect("lock").clear();
    world.shutdown = Shutdown::new();
    let agent = world.start_agent();
    world.start_proxy();
    eventually("the snapshot is sent", async || world.told().len() >= 2).await;
    assert_eq!(world.told()[..2], ["add cart", "snapshot"]);
    assert_eq!(world.redirection("cart").await.as_deref(), Some("enabled"));
    world.shutdown.trigger();
    agent.await.expect("agent ends");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_pod_starts_captured_or_not_at_all() {
    let mut world = World::new().await;
    world.label(Some("ambient")).await;
    let agent = world.start_agent();
    world.installed().await;

    let pod = world.make_pod("new", false).await;
    let (started, answer) = world.add("shop", &pod).await;
    assert!(!started, "without a node proxy");
    assert!(
        answer["msg"]
            .as_str()
            .expect("message")
            .contains("node proxy"),
        "{answer}"
    );
    assert_eq!(world.redirection("new").await, None);

    world.start_proxy();
    eventually("the proxy is connected", async || {
        world.told().contains(&"snapshot".into())
    })
    .await;
    let (started, answer) = world.add("shop", &pod).await;
    assert!(started, "{answer}");
    assert_eq!(answer["ips"][0]["address"], "10.9.0.2/24");
    assert!(world.captured() && world.exempt());
    assert_eq!(world.redirection("new").await.as_deref(), Some("enabled"));

    let mut other = pod.clone();
    other.metadata.uid = Some("another".into());
    let (started, answer) = world.add("shop", &other).await;
    assert!(
        !started
            && answer["msg"]
                .as_str()
                .expect("message")
                .contains("not as another"),
        "{answer}"
    );

    // Without the API nobody knows whether the pod belongs to the mesh.
    world.api.take().expect("API").stop().await;
    let (started, _) = world.add("shop", &pod).await;
    assert!(!started, "without the API");
    let (started, _) = world.add("kube-system", &pod).await;
    assert!(started, "excluded namespaces do not depend on the mesh");
    world.shutdown.trigger();
    agent.await.expect("agent ends");
    let (started, _) = world.add("shop", &pod).await;
    assert!(!started, "without the agent");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_outside_the_mesh_starts_untouched_and_a_removed_plugin_comes_back() {
    let world = World::new().await;
    let agent = world.start_agent();
    world.installed().await;
    let pod = world.make_pod("plain", false).await;
    let (started, answer) = world.add("shop", &pod).await;
    assert!(started, "{answer}");
    assert!(!world.captured());

    let conflist: &Path = &world.at("net.d/10-ptp.conflist");
    std::fs::write(
        conflist,
        r#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"calico"}]}"#,
    )
    .expect("write");
    world.installed().await;
    assert!(world.conflist().contains("calico"));
    world.shutdown.trigger();
    agent.await.expect("agent ends");
}
