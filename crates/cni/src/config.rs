//! The agent's settings: flags, or environment variables of the same name in capitals.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use clap::ArgAction::Set;
use clap::builder::BoolishValueParser;

use crate::eligibility::{DEFAULT_SELECTORS, Eligibility, EnablementSelectors, SelectorError};
use crate::rules::{PROBE_SNAT_V4, PROBE_SNAT_V6};

/// Settings of the node agent. Every flag can be set by an environment variable of its name, upper
/// case with underscores; the flag wins.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Enrol pods into the mesh. Without it the agent only installs the plugin, which then lets
    /// every pod pass.
    #[arg(long, env = "AMBIENT_ENABLED", default_value = "false", action = Set, value_parser = BoolishValueParser::new())]
    pub ambient_enabled: bool,
    /// YAML list of {podSelector, namespaceSelector}; a pod is enrolled when one of them matches.
    #[arg(long, env = "AMBIENT_ENABLEMENT_SELECTOR", default_value = DEFAULT_SELECTORS, hide_default_value = true)]
    pub ambient_enablement_selector: String,
    /// Redirect the DNS of enrolled pods to the node proxy.
    #[arg(long, env = "AMBIENT_DNS_CAPTURE", default_value = "true", action = Set, value_parser = BoolishValueParser::new())]
    pub ambient_dns_capture: bool,
    /// Capture IPv6 as well.
    #[arg(long, env = "AMBIENT_IPV6", default_value = "true", action = Set, value_parser = BoolishValueParser::new())]
    pub ambient_ipv6: bool,
    /// Write the rules of enrolled pods again when the agent starts.
    #[arg(long, env = "AMBIENT_RECONCILE_POD_RULES_ON_STARTUP", default_value = "true", action = Set, value_parser = BoolishValueParser::new())]
    pub ambient_reconcile_pod_rules_on_startup: bool,
    /// Remove the plugin whenever the agent stops, not only when its DaemonSet is gone. Pods that
    /// start meanwhile are then not captured.
    #[arg(long, env = "AMBIENT_DISABLE_SAFE_UPGRADE", default_value = "false", action = Set, value_parser = BoolishValueParser::new())]
    pub ambient_disable_safe_upgrade: bool,
    /// Socket to the node proxy.
    #[arg(
        long,
        env = "ZTUNNEL_UDS_ADDRESS",
        default_value = "/var/run/ztunnel/ztunnel.sock"
    )]
    pub ztunnel_uds_address: PathBuf,
    /// Directory of the socket to the plugin, the same path on the node and in the agent's pod.
    #[arg(long, env = "CNI_AGENT_RUN_DIR", default_value = "/var/run/istio-cni")]
    pub cni_agent_run_dir: PathBuf,
    /// Where the agent's pod sees the node's CNI configuration directory.
    #[arg(
        long,
        env = "MOUNTED_CNI_NET_DIR",
        default_value = "/host/etc/cni/net.d"
    )]
    pub mounted_cni_net_dir: PathBuf,
    /// Where the agent's pod sees the node's CNI program directory.
    #[arg(long, env = "MOUNTED_CNI_BIN_DIR", default_value = "/host/opt/cni/bin")]
    pub mounted_cni_bin_dir: PathBuf,
    /// Where the agent's pod sees the node's files: `proc`, `var/run/netns`.
    #[arg(long, env = "HOST_MOUNTS_PATH", default_value = "/host")]
    pub host_mounts_path: PathBuf,
    /// The plugin to install; default is /opt/cni/bin/istio-cni, else istio-cni beside this program.
    #[arg(long, env = "CNI_PLUGIN_SOURCE")]
    pub cni_plugin_source: Option<PathBuf>,
    /// The configuration file to put the plugin into; default is the first one of the directory.
    #[arg(long, env = "CNI_CONF_NAME")]
    pub cni_conf_name: Option<String>,
    /// Append the plugin to the node's configuration. Otherwise it gets a file of its own.
    #[arg(long, env = "CHAINED_CNI_PLUGIN", default_value = "true", action = Set, value_parser = BoolishValueParser::new())]
    pub chained_cni_plugin: bool,
    /// Write a configuration that sorts first and repeats the node's, instead of editing the node's.
    #[arg(long, env = "ISTIO_OWNED_CNI_CONFIG", default_value = "false", action = Set, value_parser = BoolishValueParser::new())]
    pub istio_owned_cni_config: bool,
    /// Name of that configuration.
    #[arg(long, env = "ISTIO_OWNED_CNI_CONF_FILENAME")]
    pub istio_owned_cni_conf_filename: Option<String>,
    /// Let the group read the configuration (0640 instead of 0600).
    #[arg(long, env = "CNI_CONF_GROUP_READ", default_value = "false", action = Set, value_parser = BoolishValueParser::new())]
    pub cni_conf_group_read: bool,
    /// Namespaces whose pods are never touched, separated by commas.
    #[arg(long, env = "EXCLUDE_NAMESPACES", default_value = "kube-system")]
    pub exclude_namespaces: String,
    /// Port of /metrics.
    #[arg(long, env = "MONITORING_PORT", default_value_t = 15014)]
    pub monitoring_port: u16,
    /// Port of /healthz and /readyz.
    #[arg(long, env = "HEALTH_PORT", default_value_t = 8000)]
    pub health_port: u16,
    /// Log level of the plugin.
    #[arg(long, env = "LOG_LEVEL", default_value = "warn")]
    pub log_level: String,
    /// Levels of the agent's own log: `info`, or `scope:level` separated by commas.
    #[arg(long = "log_output_level", default_value = "info")]
    pub log_output_level: String,
    /// Write the agent's log as JSON.
    #[arg(long = "log_as_json")]
    pub log_as_json: bool,
    /// Source address that exempted host connections get.
    #[arg(long, env = "HOST_PROBE_SNAT_IP", default_value_t = PROBE_SNAT_V4)]
    pub host_probe_snat_ip: Ipv4Addr,
    /// The same for IPv6.
    #[arg(long, env = "HOST_PROBE_SNAT_IPV6", default_value_t = PROBE_SNAT_V6)]
    pub host_probe_snat_ipv6: Ipv6Addr,
    /// Namespace of the node proxy.
    #[arg(long, env = "SYSTEM_NAMESPACE", default_value = "istio-system")]
    pub system_namespace: String,
    /// Name of the node that the agent is for.
    #[arg(long, env = "NODE_NAME", default_value = "")]
    pub node_name: String,
    /// Name of the agent's own pod.
    #[arg(long, env = "POD_NAME", default_value = "")]
    pub pod_name: String,
    /// Namespace of the agent's own pod.
    #[arg(long, env = "POD_NAMESPACE", default_value = "istio-system")]
    pub pod_namespace: String,
    /// Name of the agent's own DaemonSet.
    #[arg(long, env = "DAEMONSET_NAME", default_value = "istio-cni-node")]
    pub daemonset_name: String,
    /// Kubeconfig to use instead of the pod's service account.
    #[arg(long, env = "KUBECONFIG")]
    pub kubeconfig: Option<PathBuf>,
}

impl Args {
    /// The rules of membership that these settings describe.
    ///
    /// # Errors
    /// When the enablement selectors are not valid.
    pub fn eligibility(&self) -> Result<Eligibility, SelectorError> {
        Ok(Eligibility {
            selectors: EnablementSelectors::parse(&self.ambient_enablement_selector)?,
            exclude_namespaces: self.excluded(),
            system_namespace: self.system_namespace.clone(),
            dns_capture: self.ambient_dns_capture,
            ipv6: self.ambient_ipv6,
        })
    }

    /// The excluded namespaces as a set.
    pub fn excluded(&self) -> BTreeSet<String> {
        let names = self.exclude_namespaces.split(',').map(str::trim);
        names.filter(|n| !n.is_empty()).map(str::to_owned).collect()
    }

    /// The level directives of the agent's log, from Istio's notation (`default:info,cni:debug`).
    pub fn log_directives(&self) -> String {
        let one = |part: &str| match part.split_once(':') {
            Some(("default" | "all", level)) => level.to_owned(),
            Some((scope, level)) => format!("{scope}={level}"),
            None => part.to_owned(),
        };
        let parts = self
            .log_output_level
            .split(',')
            .map(str::trim)
            .filter(|p| !p.is_empty());
        parts.map(one).collect::<Vec<_>>().join(",")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn defaults_flags_and_errors() {
        let args = Program::try_parse_from(["install-cni"])
            .expect("defaults")
            .args;
        assert!(!args.ambient_enabled && args.ambient_ipv6);
        assert!(args.eligibility().is_ok());
        assert_eq!(args.excluded(), ["kube-system".to_owned()].into());
        let args = Program::try_parse_from([
            "install-cni",
            "--ambient-enabled=true",
            "--exclude-namespaces=a, b,",
            "--log_output_level=default:info,cni:debug",
        ])
        .expect("flags")
        .args;
        assert!(args.ambient_enabled);
        assert_eq!(args.excluded(), ["a".to_owned(), "b".to_owned()].into());
        assert_eq!(args.log_directives(), "info,cni=debug");
        assert!(Program::try_parse_from(["install-cni", "--ambient-enabled=maybe"]).is_err());
        assert!(Program::try_parse_from(["install-cni", "--no-such-flag"]).is_err());
    }
}
