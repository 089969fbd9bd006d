//! What the runtime passes: the plugin's configuration on standard input, the pod in `CNI_ARGS`.

use serde_json::{Value, json};

use super::{CniError, DEFAULT_SPEC_VERSION};

/// Pods of the agent itself have this prefix; they must start while no agent runs.
const AGENT_POD_PREFIX: &str = "istio-cni-node-";

/// The plugin's entry of the conflist, completed by the runtime.
#[derive(Debug)]
pub struct NetworkConfig {
    version: String,
    ambient_enabled: bool,
    exclude_namespaces: Vec<String>,
    agent_namespace: String,
    /// Directory of the agent's sockets.
    pub run_dir: String,
    /// The result of the plugins before this one.
    pub previous_result: Option<Value>,
}

/// The pod that is starting.
#[derive(Debug, PartialEq, Eq)]
pub struct Pod {
    pub name: String,
    pub namespace: String,
    /// Kubernetes UID, where the runtime passes it.
    pub uid: Option<String>,
}

impl NetworkConfig {
    /// Reads the configuration.
    pub fn parse(input: &[u8]) -> Result<Self, CniError> {
        let config: Value = serde_json::from_slice(input).map_err(|e| {
            CniError::new(6, format!("the plugin's configuration is not JSON: {e}"))
        })?;
        let Some(config) = config.as_object() else {
            return Err(CniError::new(
                6,
                "the plugin's configuration is not a JSON object",
            ));
        };
        let text = |key: &str, default: &str| match config.get(key) {
            None | Some(Value::Null) => Ok(default.to_owned()),
            Some(Value::String(s)) => Ok(s.clone()),
            Some(other) => Err(wrong_type(key, "a string", other)),
        };
        let ambient_enabled = match config.get("ambient_enabled") {
            None | Some(Value::Null) => false,
            Some(Value::Bool(b)) => *b,
            Some(other) => return Err(wrong_type("ambient_enabled", "a boolean", other)),
        };
        let exclude_namespaces = match config.get("exclude_namespaces") {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Array(all)) => all
                .iter()
                .map(|v| v.as_str().map(str::to_owned))
                .collect::<Option<_>>()
                .ok_or_else(|| wrong_type("exclude_namespaces", "strings", &json!(all)))?,
            Some(other) => return Err(wrong_type("exclude_namespaces", "a list", other)),
        };
        Ok(Self {
            version: text("cniVersion", DEFAULT_SPEC_VERSION)?,
            ambient_enabled,
            exclude_namespaces,
            agent_namespace: text("pod_namespace", "istio-system")?,
            run_dir: text("cni_agent_run_dir", "/var/run/istio-cni")?,
            previous_result: config.get("prevResult").filter(|v| !v.is_null()).cloned(),
        })
    }

    /// Whether the agent has to be asked about this pod.
    pub fn concerns(&self, pod: &Pod) -> bool {
        let own_agent =
            pod.namespace == self.agent_namespace && pod.name.starts_with(AGENT_POD_PREFIX);
        self.ambient_enabled && !own_agent && !self.exclude_namespaces.contains(&pod.namespace)
    }

    /// The result to print: that of the plugins before, unchanged.
    pub fn result(&self) -> Value {
        self.previous_result.clone().unwrap_or_else(
            || json!({"cniVersion": self.version, "interfaces": [], "ips": [], "dns": {}}),
        )
    }
}

fn wrong_type(key: &str, wanted: &str, got: &Value) -> CniError {
    CniError::new(
        7,
        format!("{key} of the plugin's configuration must be {wanted}, not {got}"),
    )
}

impl Pod {
    /// Finds the pod in `CNI_ARGS` (`K8S_POD_NAME=…;K8S_POD_NAMESPACE=…`). `None` when the
    /// container is no Kubernetes pod at all.
    pub fn from_args(args: &str) -> Result<Option<Self>, CniError> {
        let get = |key: &str| {
            args.split(';')
                .filter_map(|pair| pair.split_once('='))
                .find(|(k, v)| *k == key && !v.is_empty())
                .map(|(_, v)| v.to_owned())
        };
        match (get("K8S_POD_NAME"), get("K8S_POD_NAMESPACE")) {
            (Some(name), Some(namespace)) => Ok(Some(Self {
                name,
                namespace,
                uid: get("K8S_POD_UID"),
            })),
            (None, None) => Ok(None),
            _ => Err(CniError::new(
                4,
                format!(
                    "CNI_ARGS names half a pod: {args:?}; K8S_POD_NAME and K8S_POD_NAMESPACE are needed"
                ),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(namespace: &str, name: &str) -> Pod {
        Pod {
            name: name.into(),
            namespace: namespace.into(),
            uid: None,
        }
    }

    #[test]
    fn whom_the_agent_is_asked_about() {
        let config = NetworkConfig::parse(
            br#"{"cniVersion":"1.0.0","ambient_enabled":true,"exclude_namespaces":["kube-system"],"pod_namespace":"mesh"}"#,
        )
        .expect("config");
        assert!(config.concerns(&pod("shop", "cart")));
        assert!(
            config.concerns(&pod("shop", "istio-cni-node-x")),
            "a name alone exempts nothing"
        );
        assert!(config.concerns(&pod("mesh", "ztunnel-x")));
        assert!(!config.concerns(&pod("mesh", "istio-cni-node-x")));
        assert!(!config.concerns(&pod("kube-system", "coredns-x")));
        let off = NetworkConfig::parse(br#"{"ambient_enabled":false}"#).expect("config");
        assert!(!off.concerns(&pod("shop", "cart")));
    }

    #[test]
    fn a_wrong_configuration_is_an_error() {
        for (text, code) in [
            ("", 6),
            ("[]", 6),
            (r#"{"ambient_enabled":"yes"}"#, 7),
            (r#"{"exclude_namespaces":"kube-system"}"#, 7),
            (r#"{"exclude_namespaces":[1]}"#, 7),
            (r#"{"cni_agent_run_dir":7}"#, 7),
        ] {
            assert_eq!(
                NetworkConfig::parse(text.as_bytes()).expect_err(text).code,
                code,
                "{text}"
            );
        }
    }

    #[test]
    fn the_result_before_is_passed_on_unchanged() {
        let config = NetworkConfig::parse(
            br#"{"prevResult":{"z":1,"cniVersion":"0.4.0","ips":[{"address":"10.0.0.1/24"}]}}"#,
        )
        .expect("config");
        assert_eq!(
            config.result().to_string(),
            r#"{"z":1,"cniVersion":"0.4.0","ips":[{"address":"10.0.0.1/24"}]}"#
        );
        let first = NetworkConfig::parse(br#"{"cniVersion":"1.0.0"}"#).expect("config");
        assert_eq!(first.result()["cniVersion"], "1.0.0");
    }

    #[test]
    fn the_pod_comes_from_the_arguments() {
        let found = Pod::from_args(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=cart;K8S_POD_UID=u-1",
        );
        let wanted = Pod {
            name: "cart".into(),
            namespace: "shop".into(),
            uid: Some("u-1".into()),
        };
        assert_eq!(found.expect("pod"), Some(wanted));
        assert_eq!(Pod::from_args("").expect("no pod"), None);
        assert!(Pod::from_args("K8S_POD_NAME=cart").is_err());
    }
}
