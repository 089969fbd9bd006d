//! Runs the plugins of a network for a pod, as a container runtime does.
//!
//! What always holds: ADD runs in list order and each plugin gets its predecessor's result; DEL runs
//! in reverse with the configuration that ADD used; a failed ADD is followed by a DEL of the whole
//! list, and the pod does not start.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio::io::AsyncWriteExt;

use super::config::{ConfigError, NetworkList, load};

/// Longest run of one plugin.
const PLUGIN_TIMEOUT: Duration = Duration::from_secs(60);

/// Why pod networking failed.
#[derive(Debug, thiserror::Error)]
pub enum CniError {
    /// No usable configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A plugin's program is nowhere in the search path.
    #[error("failed to find plugin {plugin:?} in path {path:?}")]
    NotFound {
        /// The plugin's `type`.
        plugin: String,
        /// Directories searched.
        path: Vec<PathBuf>,
    },
    /// A plugin answered with an error.
    #[error("plugin type={plugin:?} failed ({command}): {message}")]
    Plugin {
        /// The plugin's `type`.
        plugin: String,
        /// `add` or `delete`.
        command: &'static str,
        /// The plugin's own words.
        message: String,
    },
    /// The chain ended without an address for the pod.
    #[error("network {0:?} gave the pod no address")]
    NoAddress(String),
    /// The pod asks for something that no plugin of the chain does.
    #[error("pod uses hostPort, but no plugin of network {0:?} has the portMappings capability")]
    NoPortMappings(String),
}

/// The pod to connect.
#[derive(Debug, Clone)]
pub struct Attachment {
    /// Sandbox id.
    pub container_id: String,
    /// Path of the pod's network namespace.
    pub netns: PathBuf,
    /// Interface to create, `eth0`.
    pub interface: String,
    /// `K8S_POD_NAMESPACE`.
    pub namespace: String,
    /// `K8S_POD_NAME`.
    pub name: String,
    /// `K8S_POD_UID`.
    pub uid: String,
    /// `portMappings` capability argument, empty if the pod has none.
    pub port_mappings: Vec<Value>,
}

/// What ADD did, to be kept until DEL.
#[derive(Debug, Clone)]
pub struct Attached {
    /// The configuration that was used.
    pub list: NetworkList,
    /// The last plugin's result.
    pub result: Value,
    /// The pod's addresses.
    pub addresses: Vec<IpAddr>,
}

/// The runtime's view of the node's CNI installation.
#[derive(Debug, Clone)]
pub struct Chain {
    conf_dir: PathBuf,
    bin_dirs: Vec<PathBuf>,
}

impl Chain {
    /// `conf_dir` is read at each ADD.
    pub fn new(conf_dir: PathBuf, bin_dirs: Vec<PathBuf>) -> Self {
        Self { conf_dir, bin_dirs }
    }

    /// Whether a network is configured; the node is not ready before.
    ///
    /// # Errors
    /// Why there is none.
    pub fn ready(&self) -> Result<(), ConfigError> {
        load(&self.conf_dir).map(drop)
    }

    /// Connects a pod.
    ///
    /// # Errors
    /// The first plugin's failure; the network has been detached again.
    pub async fn add(&self, pod: &Attachment) -> Result<Attached, CniError> {
        let list = load(&self.conf_dir)?;
        if !pod.port_mappings.is_empty() && !list.has_capability("portMappings") {
            return Err(CniError::NoPortMappings(list.name));
        }
        match self.add_all(&list, pod).await {
            Ok(attached) => Ok(attached),
            Err(error) => {
                if let Err(cleanup) = self.delete_all(&list, None, pod).await {
                    tracing::warn!(pod = pod.name, "detaching after a failed ADD: {cleanup}");
                }
                Err(error)
            }
        }
    }

    async fn add_all(&self, list: &NetworkList, pod: &Attachment) -> Result<Attached, CniError> {
        let mut previous: Option<Value> = None;
        for plugin in &list.plugins {
            let config = plugin_config(list, plugin, previous.as_ref(), pod);
            let output = self.run("ADD", plugin, &config, pod).await?;
            previous = Some(output);
        }
        let result = previous.unwrap_or(Value::Null);
        let addresses = addresses(&result);
        if addresses.is_empty() {
            return Err(CniError::NoAddress(list.name.clone()));
        }
        Ok(Attached {
            list: list.clone(),
            result,
            addresses,
        })
    }

    /// Disconnects a pod, with the configuration its ADD used.
    ///
    /// # Errors
    /// The first failure; all plugins have been asked.
    pub async fn delete(&self, attached: &Attached, pod: &Attachment) -> Result<(), CniError> {
        self.delete_all(&attached.list, Some(&attached.result), pod)
            .await
    }

    async fn delete_all(
        &self,
        list: &NetworkList,
        result: Option<&Value>,
        pod: &Attachment,
    ) -> Result<(), CniError> {
        let mut outcome = Ok(());
        for plugin in list.plugins.iter().rev() {
            let config = plugin_config(list, plugin, result, pod);
            if let Err(error) = self.run("DEL", plugin, &config, pod).await {
                outcome = outcome.and(Err(error));
            }
        }
        outcome
    }

    async fn run(
        &self,
        command: &'static str,
        plugin: &Map<String, Value>,
        config: &Value,
        pod: &Attachment,
    ) -> Result<Value, CniError> {
        let kind = plugin
            .get("type")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let verb = if command == "ADD" { "add" } else { "delete" };
        let failed = |message: String| CniError::Plugin {
            plugin: kind.to_string(),
            command: verb,
            message,
        };
        let program = self.find(kind)?;
        let output = tokio::time::timeout(
            PLUGIN_TIMEOUT,
            execute(&program, command, config, pod, &self.bin_dirs),
        )
        .await
        .map_err(|_| failed(format!("no answer within {} s", PLUGIN_TIMEOUT.as_secs())))?
        .map_err(|error| failed(error.to_string()))?;
        if output.status.success() {
            return parse_result(command, &output.stdout).map_err(failed);
        }
        Err(failed(error_message(&output)))
    }

    fn find(&self, kind: &str) -> Result<PathBuf, CniError> {
        // A type with a slash would escape the plugin directories.
        let found = (!kind.contains('/'))
            .then(|| {
                self.bin_dirs
                    .iter()
                    .map(|directory| directory.join(kind))
                    .find(|path| path.is_file())
            })
            .flatten();
        found.ok_or_else(|| CniError::NotFound {
            plugin: kind.to_string(),
            path: self.bin_dirs.clone(),
        })
    }
}

async fn execute(
    program: &Path,
    command: &str,
    config: &Value,
    pod: &Attachment,
    bin_dirs: &[PathBuf],
) -> std::io::Result<std::process::Output> {
    let search = bin_dirs
        .iter()
        .map(|path| path.to_string_lossy())
        .collect::<Vec<_>>()
        .join(":");
    let arguments = format!(
        "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={};K8S_POD_INFRA_CONTAINER_ID={};K8S_POD_UID={}",
        pod.namespace, pod.name, pod.container_id, pod.uid
    );
    let mut child = tokio::process::Command::new(program)
        .env("CNI_COMMAND", command)
        .env("CNI_CONTAINERID", &pod.container_id)
        .env("CNI_NETNS", &pod.netns)
        .env("CNI_IFNAME", &pod.interface)
        .env("CNI_PATH", search)
        .env("CNI_ARGS", arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // A plugin that does not read its input may still answer.
        let _ = stdin.write_all(config.to_string().as_bytes()).await;
    }
    child.wait_with_output().await
}

/// What one plugin gets on standard input.
fn plugin_config(
    list: &NetworkList,
    plugin: &Map<String, Value>,
    previous: Option<&Value>,
    pod: &Attachment,
) -> Value {
    let mut config = plugin.clone();
    config.insert("name".to_string(), json!(list.name));
    config.insert("cniVersion".to_string(), json!(list.cni_version));
    let takes_ports = plugin
        .get("capabilities")
        .and_then(|c| c.get("portMappings"))
        .and_then(Value::as_bool);
    config.remove("capabilities");
    if takes_ports == Some(true) && !pod.port_mappings.is_empty() {
        config.insert(
            "runtimeConfig".to_string(),
            json!({"portMappings": pod.port_mappings}),
        );
    }
    if let Some(previous) = previous {
        config.insert("prevResult".to_string(), previous.clone());
    }
    Value::Object(config)
}

fn parse_result(command: &str, stdout: &[u8]) -> Result<Value, String> {
    if command != "ADD" {
        return Ok(Value::Null);
    }
    match serde_json::from_slice(stdout) {
        Ok(value @ Value::Object(_)) => Ok(value),
        Ok(_) => Err("the plugin's result is not an object".to_string()),
        Err(error) => Err(format!("the plugin's result cannot be read: {error}")),
    }
}

/// The `msg` and `details` of a CNI error, or what the plugin printed instead.
fn error_message(output: &std::process::Output) -> String {
    let text = |key: &str, value: &Value| {
        value
            .get(key)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_string()
    };
    if let Ok(value) = serde_json::from_slice::<Value>(&output.stdout) {
        let (message, details) = (text("msg", &value), text("details", &value));
        if !message.is_empty() {
            return if details.is_empty() {
                message
            } else {
                format!("{message}; {details}")
            };
        }
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    format!(
        "netplugin failed with no error message ({}): {}",
        output.status,
        stderr.trim()
    )
}

/// The addresses of a result (specification 0.3.0 and later).
fn addresses(result: &Value) -> Vec<IpAddr> {
    let ips = result
        .get("ips")
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default();
    ips.iter()
        .filter_map(|ip| ip.get("address").and_then(Value::as_str))
        .filter_map(|address| address.split('/').next().and_then(|text| text.parse().ok()))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A plugin that records what it was given and answers with one more `dns` search entry.
    const RECORDER: &str = r#"#!/bin/sh
config=$(cat)
echo "$CNI_COMMAND $(basename "$0") $CNI_NETNS $CNI_IFNAME $CNI_ARGS" >> "$RECORD_DIR/calls"
echo "$config" > "$RECORD_DIR/$(basename "$0").$CNI_COMMAND"
if [ -e "$RECORD_DIR/fail-$(basename "$0")-$CNI_COMMAND" ]; then
  echo '{"cniVersion":"1.0.0","code":11,"msg":"not today","details":"come back"}'; exit 1
fi
if [ "$CNI_COMMAND" = ADD ]; then
  echo "{\"cniVersion\":\"1.0.0\",\"ips\":[{\"address\":\"10.1.0.2/24\"}],\"from\":\"$(basename "$0")\"}"
fi
"#;

    struct Fixture {
        dir: tempfile::TempDir,
        chain: Chain,
    }

    impl Fixture {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let (conf, bin) = (dir.path().join("conf"), dir.path().join("bin"));
            std::fs::create_dir_all(&conf).unwrap();
            std::fs::create_dir_all(&bin).unwrap();
            for name in ["first", "second"] {
                let text = RECORDER.replace("$RECORD_DIR", dir.path().to_str().unwrap());
                std::fs::write(bin.join(name), text).unwrap();
                std::fs::set_permissions(bin.join(name), std::fs::Permissions::from_mode(0o755))
                    .unwrap();
            }
            let chain = Chain::new(conf, vec![bin]);
            let fixture = Self { dir, chain };
            fixture.configure(&["first", "second"]);
            fixture
        }

        fn configure(&self, plugins: &[&str]) {
            let plugins: Vec<Value> = plugins
                .iter()
                .map(|kind| json!({"type": kind, "own": 1}))
                .collect();
            let list = json!({"name": "net", "cniVersion": "1.0.0", "plugins": plugins});
            std::fs::write(self.dir.path().join("conf/10.conflist"), list.to_string()).unwrap();
        }

        fn read(&self, name: &str) -> String {
            std::fs::read_to_string(self.dir.path().join(name)).unwrap_or_default()
        }

        fn calls(&self) -> Vec<String> {
            let short = |line: &str| line.split(' ').take(2).collect::<Vec<_>>().join(" ");
            self.read("calls").lines().map(short).collect()
        }
    }

    fn pod() -> Attachment {
        Attachment {
            container_id: "abc".into(),
            netns: "/var/run/netns/x".into(),
            interface: "eth0".into(),
            namespace: "ns".into(),
            name: "p".into(),
            uid: "u".into(),
            port_mappings: Vec::new(),
        }
    }

    #[tokio::test]
    async fn add_in_order_delete_in_reverse_results_passed_on() {
        let fixture = Fixture::new();
        let attached = fixture.chain.add(&pod()).await.unwrap();
        assert_eq!(attached.addresses, ["10.1.0.2".parse::<IpAddr>().unwrap()]);
        let second: Value = serde_json::from_str(&fixture.read("second.ADD")).unwrap();
        assert_eq!(second["prevResult"]["from"], "first");
        assert_eq!(
            (&second["name"], &second["own"]),
            (&json!("net"), &json!(1))
        );
        assert!(fixture.read("calls").contains(
            "/var/run/netns/x eth0 IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=p;K8S_POD_INFRA_CONTAINER_ID=abc;K8S_POD_UID=u"
        ));
        // The configuration changes while the pod lives: its removal uses the old one.
        fixture.configure(&["second"]);
        fixture.chain.delete(&attached, &pod()).await.unwrap();
        assert_eq!(
            fixture.calls(),
            ["ADD first", "ADD second", "DEL second", "DEL first"]
        );
    }

    #[tokio::test]
    async fn a_failed_add_is_undone_and_says_why() {
        let fixture = Fixture::new();
        std::fs::write(fixture.dir.path().join("fail-second-ADD"), "").unwrap();
        let error = fixture.chain.add(&pod()).await.unwrap_err().to_string();
        assert_eq!(
            error,
            "plugin type=\"second\" failed (add): not today; come back"
        );
        assert_eq!(
            fixture.calls(),
            ["ADD first", "ADD second", "DEL second", "DEL first"]
        );
    }

    #[tokio::test]
    async fn the_directory_is_read_again_for_each_pod() {
        let fixture = Fixture::new();
        fixture.configure(&["first"]);
        fixture.chain.add(&pod()).await.unwrap();
        fixture.configure(&["first", "second"]);
        fixture.chain.add(&pod()).await.unwrap();
        assert_eq!(fixture.calls(), ["ADD first", "ADD first", "ADD second"]);
        fixture.configure(&["absent"]);
        assert!(matches!(
            fixture.chain.add(&pod()).await,
            Err(CniError::NotFound { .. })
        ));
        fixture.configure(&["../first"]);
        assert!(matches!(
            fixture.chain.add(&pod()).await,
            Err(CniError::NotFound { .. })
        ));
    }

    #[tokio::test]
    async fn host_ports_need_a_plugin_that_maps_them() {
        let fixture = Fixture::new();
        let mut pod = pod();
        pod.port_mappings = vec![json!({"hostPort": 80})];
        assert!(matches!(
            fixture.chain.add(&pod).await,
            Err(CniError::NoPortMappings(_))
        ));
    }
}
