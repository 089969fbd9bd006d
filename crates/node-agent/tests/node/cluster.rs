//! A node with its API server for the scenarios.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ambit_apiserver::Server;
use ambit_node_agent::catalogue::Catalogue;
use ambit_node_agent::kubelet::{
    self, API_SERVER_CLIENT, CniConfig, KubeletConfig, PrimaryNetwork, ServerConfig,
};
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::api::{DeleteParams, LogParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use nix::mount::{MsFlags, mount};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

/// Name of the node.
pub const NODE: &str = "n1";
/// The node's address, on its loopback interface.
pub const NODE_IP: &str = "172.30.0.1";
/// The node's own directory, a tmpfs.
const HOME: &str = "/run/node";

/// Images of the tests: the host, and one with an applet.
const CATALOGUE: &str = "
images:
- names: [host]
- names: [docker.io/test/shell]
  entrypoint: [myshell, -c]
  cmd: ['echo default; sleep 1000']
  applets: {myshell: shell}
  env: {FROM_IMAGE: 'yes'}
- names: [docker.io/test/server]
  entrypoint: [test-server]
  applets: {test-server: server}
";

/// The running pieces.
pub struct Cluster {
    pub client: Client,
    pub cgroups: String,
    stop: CancellationToken,
    kubelet: tokio::task::JoinHandle<Result<(), kubelet::KubeletError>>,
}

/// Prepares the namespaces and runs the scenarios in a runtime.
pub fn run_inside<F, Fut>(filter: Option<&str>, scenarios: F) -> ExitCode
where
    F: FnOnce(Option<String>) -> Fut,
    Fut: Future<Output = bool>,
{
    if let Err(error) = prepare() {
        eprintln!("cannot prepare the node: {error}");
        return ExitCode::FAILURE;
    }
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    if std::env::var_os("NODE_TEST_LOG").is_some() {
        tracing_subscriber::fmt()
            .with_writer(std::io::stderr)
            .with_max_level(tracing::Level::DEBUG)
            .init();
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let passed = runtime.block_on(scenarios(filter.map(str::to_string)));
    if passed {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn prepare() -> std::io::Result<()> {
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_PRIVATE | MsFlags::MS_REC, none)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), "/proc", Some("proc"), flags, none)?;
    mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), none)?;
    std::fs::create_dir_all(HOME)?;
    nix::unistd::sethostname(NODE)?;
    // `ip` is not everywhere; the node needs just loopback.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None)?;
    // SAFETY: an all-zero ifreq is a valid value of this plain C structure.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    use std::os::fd::AsRawFd;
    // SAFETY: SIOCSIFFLAGS reads an ifreq, which lives for the whole call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &request) };
    if result < 0 {
        Err(std::io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Packets to pods need a source that is not 127.0.0.1.
async fn add_address() {
    let (connection, handle, _) = rtnetlink::new_connection().unwrap();
    tokio::spawn(connection);
    handle
        .address()
        .add(1, NODE_IP.parse().unwrap(), 32)
        .execute()
        .await
        .unwrap();
}

/// A path in the node's directory.
pub fn home(name: &str) -> PathBuf {
    Path::new(HOME).join(name)
}

impl Cluster {
    pub async fn start() -> Self {
        add_address().await;
        let api = Server::builder().start().await.unwrap();
        let pki = api.pki();
        let node_ip: IpAddr = NODE_IP.parse().unwrap();
        let serving = pki.node_serving(NODE, &[node_ip]).unwrap();
        let user = pki.node_client(NODE).unwrap();
        let program = std::env::current_exe().unwrap();
        let cgroups = format!("/node-test-{}", uuid::Uuid::new_v4().simple());
        let shell = PathBuf::from("/bin/sh").canonicalize().unwrap();
        let programs = BTreeMap::from([
            ("shell".to_string(), shell),
            ("server".to_string(), program.clone()),
        ]);
        std::fs::write(
            home("resolv.conf"),
            "nameserver 192.0.2.1\nsearch example.org\n",
        )
        .unwrap();
        let config = KubeletConfig {
            node_name: NODE.to_string(),
            client: client(&api.kubeconfig(NODE, &user)).await,
            node_ips: vec![node_ip],
            pod_cidrs: vec!["10.244.1.0/24".parse().unwrap()],
            labels: BTreeMap::from([("zone".to_string(), "a".to_string())]),
            taints: Vec::new(),
            version: "v1.35.0".to_string(),
            state_dir: home("state"),
            log_dir: home("logs"),
            cni: CniConfig {
                conf_dir: home("net.d"),
                bin_dirs: vec![home("bin")],
                netns_dir: "/run/netns".into(),
                primary: Some(PrimaryNetwork {
                    program: program.clone(),
                    mtu: 1500,
                    data_dir: home("addresses"),
                }),
            },
            policies: None,
            cluster_dns: vec!["10.96.0.10".parse().unwrap()],
            cluster_domain: "cluster.local".to_string(),
            resolv_conf: home("resolv.conf"),
            cgroup_parent: cgroups.clone(),
            init_program: program,
            catalogue: Arc::new(Catalogue::parse(CATALOGUE, &programs).unwrap()),
            server: ServerConfig {
                listen: (node_ip, 10250).into(),
                client_ca_pem: api.ca_pem().to_string(),
                allowed_clients: vec![API_SERVER_CLIENT.to_string()],
                serving: Some((serving.cert_pem, serving.key_pem)),
            },
        };
        let admin = api.admin_kubeconfig().unwrap();
        std::fs::write(home("admin.kubeconfig"), &admin).unwrap();
        let stop = CancellationToken::new();
        let kubelet = tokio::spawn(kubelet::run(config, stop.clone()));
        let client = client(&admin).await;
        // The server lives as long as the test process.
        std::mem::forget(api);
        Self {
            client,
            cgroups,
            stop,
            kubelet,
        }
    }

    /// Ends the kubelet and says how it ended.
    pub async fn stop(self) -> Result<(), String> {
        self.stop.cancel();
        let ended = tokio::time::timeout(Duration::from_secs(60), self.kubelet).await;
        ended
            .map_err(|_| "did not end".to_string())?
            .map_err(|e| e.to_string())?
            .map_err(|e| e.to_string())
    }

    pub fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), "default")
    }

    /// Creates a pod bound to the node; `spec` has containers and whatever else.
    pub async fn create(&self, name: &str, spec: Value) -> Pod {
        let mut spec = spec;
        spec["nodeName"] = json!(NODE);
        let pod = json!({"metadata": {"name": name, "labels": {"app": name}}, "spec": spec});
        let pod: Pod = serde_json::from_value(pod).unwrap();
        self.pods()
            .create(&PostParams::default(), &pod)
            .await
            .unwrap()
    }

    /// Creates a pod with one container `c` of image `host` that runs a shell script.
    pub async fn script(&self, name: &str, script: &str) -> Pod {
        self.create(name, json!({"containers": [shell("c", script)]}))
            .await
    }

    /// Waits until the pod's status satisfies a condition; fails with the last status.
    pub async fn until(&self, name: &str, what: &str, condition: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let pod = self.pods().get(name).await.unwrap();
            let pod = serde_json::to_value(pod).unwrap();
            if condition(&pod) {
                return pod;
            }
            if Instant::now() > deadline {
                let events = self.events(name).await.join("\n");
                panic!("{name}: not {what}: {:#}\nevents:\n{events}", pod["status"]);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub async fn until_ready(&self, name: &str) -> Value {
        self.until(name, "ready", |pod| condition(pod, "Ready") == "True")
            .await
    }

    pub async fn until_gone(&self, name: &str) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.pods().get_opt(name).await.unwrap().is_some() {
            assert!(Instant::now() < deadline, "{name} is still there");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub async fn delete(&self, name: &str) {
        self.pods()
            .delete(name, &DeleteParams::default())
            .await
            .unwrap();
    }

    /// Waits for a text in the pod's log.
    pub async fn until_logged(&self, name: &str, text: &str) -> String {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let logs = self
                .pods()
                .logs(name, &LogParams::default())
                .await
                .unwrap_or_default();
            if logs.contains(text) {
                return logs;
            }
            assert!(
                Instant::now() < deadline,
                "{name} did not log {text:?}:\n{logs}"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// `reason: message` of a pod's events.
    pub async fn events(&self, name: &str) -> Vec<String> {
        let events: Api<Event> = Api::namespaced(self.client.clone(), "default");
        let list = events.list(&Default::default()).await.unwrap();
        let own = list
            .items
            .into_iter()
            .filter(|event| event.involved_object.name.as_deref() == Some(name));
        own.map(|event| {
            format!(
                "{}: {}",
                event.reason.unwrap_or_default(),
                event.message.unwrap_or_default()
            )
        })
        .collect()
    }

    /// Waits for an event that contains a text.
    pub async fn until_event(&self, name: &str, text: &str) {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let events = self.events(name).await;
            if events.iter().any(|event| event.contains(text)) {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "{name} has no event with {text:?}: {events:#?}"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// A container that runs a shell script.
pub fn shell(name: &str, script: &str) -> Value {
    json!({"name": name, "image": "host", "command": ["/bin/sh", "-c", script], "terminationMessagePolicy": "File"})
}

/// The status of a condition.
pub fn condition(pod: &Value, name: &str) -> String {
    let list = pod["status"]["conditions"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let found = list.iter().find(|condition| condition["type"] == name);
    found
        .and_then(|condition| condition["status"].as_str())
        .unwrap_or_default()
        .to_string()
}

async fn client(kubeconfig: &str) -> Client {
    let kubeconfig = Kubeconfig::from_yaml(kubeconfig).unwrap();
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .unwrap();
    Client::try_from(config).unwrap()
}
