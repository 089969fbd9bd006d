//! The command line and the environment, as Istio's charts use them.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ambit_kube_api::{labels, names};
use ambit_model::telemetry::{Share, Tracing};
use ambit_runtime::config::{ConfigError, Env, Origin, parse_duration};
use ambit_translate::mesh::DEFAULT_SAMPLING;
use ambit_translate::mesh_config::parse_accounts;
use ambit_translate::{Mesh, ObjectKey, telemetry};
use clap::{Parser, Subcommand};

use crate::ca::Lifetimes;
use crate::deployer::WaypointSettings;

/// The control plane.
#[derive(Clone, Debug, Parser)]
#[command(name = "istiod", about = "The control plane of the mesh.", version)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What the program can do.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Watch the cluster, configure proxies, issue certificates.
    Discovery(Box<Discovery>),
}

/// Flags of `discovery`. Names as in Istio.
#[derive(Clone, Debug, clap::Args)]
pub struct Discovery {
    /// Address of readiness and debug pages.
    #[arg(long = "httpAddr", default_value = ":8080", value_parser = address)]
    pub http: SocketAddr,
    /// Address of discovery and certificates over TLS.
    #[arg(long = "secureGRPCAddr", default_value = ":15012", value_parser = address)]
    pub secure_grpc: SocketAddr,
    /// Address of discovery without TLS; nothing listens there unless it is given.
    #[arg(long = "grpcAddr", value_parser = address)]
    pub grpc: Option<SocketAddr>,
    /// Address of metrics and version.
    #[arg(long = "monitoringAddr", default_value = ":15014", value_parser = address)]
    pub monitoring: SocketAddr,
    /// Loopback port with the debug pages, for port-forwards; 0 for none.
    #[arg(long = "ctrlz_port", default_value_t = 9876)]
    pub ctrlz_port: u16,
    /// DNS suffix of the cluster.
    #[arg(long, default_value = names::DEFAULT_CLUSTER_DOMAIN)]
    pub domain: String,
    /// Longest life of a client's connection.
    #[arg(long = "keepaliveMaxServerConnectionAge", value_parser = parse_duration)]
    pub max_connection_age: Option<Duration>,
    /// Log levels, `default:info,xds:debug`.
    #[arg(long = "log_output_level", default_value = "default:info")]
    pub log_output_level: String,
    /// Write the log as JSON.
    #[arg(long = "log_as_json")]
    pub log_as_json: bool,
    /// Namespace of the node agents; they are found by their tokens, so it is not needed here.
    #[arg(long = "cniNamespace", hide = true)]
    pub cni_namespace: Option<String>,
    /// Kubeconfig to use instead of the pod's service account.
    #[arg(long)]
    pub kubeconfig: Option<PathBuf>,
}

/// `:port` is every address of the machine.
fn address(text: &str) -> Result<SocketAddr, String> {
    let refuse = |_| format!("{text:?} is not an address such as :15014 or 127.0.0.1:15014");
    match text.strip_prefix(':') {
        Some(port) => {
            let port = port.parse().map_err(|_| refuse(()))?;
            Ok(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port))
        }
        None => text.parse().map_err(|_| refuse(())),
    }
}

/// The same address without IPv6, for machines that have none.
pub(crate) fn without_ipv6(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => {
            SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), address.port())
        }
        other => other,
    }
}

impl Discovery {
    /// Log directives: Istio's `scope:level` list, in which `default` is everything else.
    pub fn log_directives(&self) -> String {
        let directives = self.log_output_level.split(',').filter_map(|part| {
            let part = part.trim();
            let (scope, level) = part.rsplit_once(':').unwrap_or(("default", part));
            let level = match level {
                "" => return None,
                "none" => "off",
                "fatal" => "error",
                other => other,
            };
            Some(match scope {
                "default" | "all" => level.to_owned(),
                scope => format!("{scope}={level}"),
            })
        });
        directives.collect::<Vec<_>>().join(",")
    }
}

/// Settings of the control plane, from flags and environment.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Name of this replica, which is its pod's.
    pub pod_name: String,
    /// Namespace of the control plane.
    pub namespace: String,
    /// Settings of the mesh, before the mesh configuration is read.
    pub mesh: Mesh,
    /// Name of the ConfigMap with the mesh configuration.
    pub mesh_config_map: String,
    /// Name of the ConfigMap with the root certificate.
    pub root_config_map: String,
    /// Audiences that a token may be for.
    pub audiences: Vec<String>,
    /// Service accounts that may ask for the certificates of the pods on their node.
    pub trusted_node_accounts: Vec<ObjectKey>,
    /// Lifetimes of certificates.
    pub lifetimes: Lifetimes,
    /// Another name under which clients reach the control plane.
    pub custom_host: Option<String>,
    /// Statuses are written.
    pub write_statuses: bool,
    /// Debug pages ask for a token.
    pub guard_debug: bool,
    /// How waypoints are made.
    pub waypoint: WaypointSettings,
}

impl Settings {
    /// Reads the environment.
    ///
    /// # Errors
    /// A variable that is set to something unusable, by name.
    pub fn from_env(env: &Env, args: &Discovery) -> Result<Self, ConfigError> {
        env.note("domain", &args.domain, Origin::Flag);
        let namespace = env.text_or("POD_NAMESPACE", names::SYSTEM_NAMESPACE);
        let revision = match env.text_or("REVISION", labels::DEFAULT_REVISION) {
            empty if empty.is_empty() => labels::DEFAULT_REVISION.to_owned(),
            revision => revision,
        };
        let suffix = match revision.as_str() {
            labels::DEFAULT_REVISION => String::new(),
            revision => format!("-{revision}"),
        };
        let accounts = format!("{namespace}/{}", names::ZTUNNEL_SERVICE_ACCOUNT);
        let accounts = env.text_or("CA_TRUSTED_NODE_ACCOUNTS", &accounts);
        let trusted_node_accounts =
            parse_accounts(accounts.split(',')).map_err(|bad| ConfigError::Invalid {
                name: "CA_TRUSTED_NODE_ACCOUNTS".to_owned(),
                value: accounts.clone(),
                reason: format!("{bad:?} is not of the form namespace/service-account"),
            })?;
        let lifetimes = Lifetimes {
            default: env.duration("DEFAULT_WORKLOAD_CERT_TTL", Duration::from_secs(24 * 3600))?,
            max: env.duration("MAX_WORKLOAD_CERT_TTL", Duration::from_secs(90 * 24 * 3600))?,
        };
        if lifetimes.default > lifetimes.max {
            let message = "DEFAULT_WORKLOAD_CERT_TTL is longer than MAX_WORKLOAD_CERT_TTL";
            return Err(ConfigError::Conflict(message.to_owned()));
        }
        let audiences = env.text_or("TOKEN_AUDIENCES", names::TOKEN_AUDIENCE);
        Ok(Self {
            pod_name: env.text_or("POD_NAME", &format!("istiod-{}", std::process::id())),
            mesh: Mesh {
                cluster_id: env.text_or("CLUSTER_ID", names::DEFAULT_CLUSTER_ID).into(),
                cluster_domain: args.domain.as_str().into(),
                root_namespace: namespace.as_str().into(),
                revision: revision.as_str().into(),
                last_hop: env.parsed_with("LAST_HOP", str::parse)?.unwrap_or_default(),
                legacy_waypoint: env.flag("COMPAT_LEGACY_WAYPOINT", false)?,
                tracing: Tracing {
                    sampling: Some(sampling(env)?),
                    ..Tracing::default()
                },
                dry_run: env.flag("AMBIENT_ENABLE_DRY_RUN_AUTHORIZATION_POLICY", false)?,
                ..Mesh::default()
            },
            mesh_config_map: format!("{}{suffix}", names::MESH_CONFIG_MAP),
            root_config_map: env.text_or("PILOT_CA_CERT_CONFIGMAP", names::ROOT_CERT_CONFIG_MAP),
            audiences: audiences.split(',').map(|a| a.trim().to_owned()).collect(),
            trusted_node_accounts,
            lifetimes,
            custom_host: env.non_empty("ISTIOD_CUSTOM_HOST"),
            write_statuses: env.flag("AMBIENT_ENABLE_STATUS", true)?,
            guard_debug: env.flag("ENABLE_DEBUG_ENDPOINT_AUTH", true)?,
            waypoint: env
                .parsed_with("WAYPOINT_SETTINGS", |text| {
                    serde_json::from_str(text).map_err(|e| e.to_string())
                })?
                .unwrap_or_default(),
            namespace,
        })
    }
}

/// `PILOT_TRACE_SAMPLING`: how many of a hundred requests are traced.
fn sampling(env: &Env) -> Result<Share, ConfigError> {
    let percentage = env.parsed_with("PILOT_TRACE_SAMPLING", |text| match text.parse::<f64>() {
        Ok(percentage) if (0.0..=100.0).contains(&percentage) => Ok(telemetry::share(percentage)),
        _ => Err("it is no number from 0 to 100".to_owned()),
    })?;
    Ok(percentage.unwrap_or(DEFAULT_SAMPLING))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn discovery(args: &[&str]) -> Discovery {
        let all = ["istiod", "discovery"].iter().chain(args);
        let Args {
            command: Command::Discovery(discovery),
        } = Args::parse_from(all);
        *discovery
    }

    #[test]
    fn what_the_chart_passes() {
        let args = discovery(&[
            "--monitoringAddr=:15014",
            "--log_output_level=default:info,xds:debug",
            "--domain",
            "cluster.local",
            "--keepaliveMaxServerConnectionAge",
            "30m",
        ]);
        assert_eq!(args.monitoring.to_string(), "[::]:15014");
        assert_eq!(args.max_connection_age, Some(Duration::from_secs(1800)));
        assert_eq!(args.log_directives(), "info,xds=debug");
        assert_eq!(args.grpc, None);
        assert_eq!(without_ipv6(args.monitoring).to_string(), "0.0.0.0:15014");
        let env: Env = [
            ("POD_NAME", "istiod-1"),
            ("POD_NAMESPACE", "istio-system"),
            (
                "CA_TRUSTED_NODE_ACCOUNTS",
                "istio-system/ztunnel,kube-system/ztunnel",
            ),
            ("REVISION", "canary"),
        ]
        .into_iter()
        .collect();
        let settings = Settings::from_env(&env, &args).unwrap();
        assert_eq!(settings.trusted_node_accounts.len(), 2);
        assert_eq!(settings.mesh_config_map, "istio-canary");
        assert_eq!(settings.audiences, ["istio-ca"]);
    }

    #[test]
    fn bad_settings_are_named() {
        let refused = |name: &str, value: &str| {
            let env: Env = [(name, value)].into_iter().collect();
            Settings::from_env(&env, &discovery(&[]))
                .unwrap_err()
                .to_string()
        };
        assert!(
            refused("CA_TRUSTED_NODE_ACCOUNTS", "ztunnel").contains("CA_TRUSTED_NODE_ACCOUNTS")
        );
        assert!(refused("MAX_WORKLOAD_CERT_TTL", "never").contains("MAX_WORKLOAD_CERT_TTL"));
        assert!(refused("MAX_WORKLOAD_CERT_TTL", "1h").contains("longer"));
        assert!(address("15014").is_err() && address(":x").is_err());
    }
}
