//! The settings of the node proxy, from its environment.
//!
//! A value that is there and cannot be used stops the start; so does a setting that asks for
//! something this proxy does not have, because running without it would mean something else than
//! what was asked for.

mod proxy_config;
mod threads;

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use ambit_model::Text;
use ambit_proxy_core::settings::{self, Certificates, Server};
use ambit_proxy_core::store::LocalConfig;
use ambit_runtime::config::{ConfigError, Env};
use ambit_transport::hbone::Http2Settings;
use ambit_transport::hbone::pool::PoolSettings;
use ambit_transport::socket::{Keepalive, PROXY_MARK, Transparent};

use proxy_config::ProxyConfig;

const IN_CLUSTER: &str = "https://istiod.istio-system.svc:15012";
const ELSEWHERE: &str = "https://localhost:15012";

/// The proxy's own pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnPod {
    /// Name.
    pub name: String,
    /// Namespace.
    pub namespace: String,
    /// Service account.
    pub service_account: String,
    /// Address.
    pub ip: String,
}

/// All settings. What each means is in the configuration reference, under its variable.
#[derive(Clone, Debug)]
pub struct Config {
    /// `ENABLE_PROXY`.
    pub proxy: bool,
    /// `DNS_CAPTURE` of the proxy metadata.
    pub dns_proxy: bool,
    /// `NETWORK`.
    pub network: Text,
    /// `NODE_NAME`.
    pub node_name: Option<Text>,
    /// `POD_NAME`, `POD_NAMESPACE`, `SERVICE_ACCOUNT`, `INSTANCE_IP`.
    pub own_pod: OwnPod,
    /// `CLUSTER_ID`.
    pub cluster_id: Text,
    /// `CLUSTER_DOMAIN`.
    pub cluster_domain: Text,
    /// `XDS_ADDRESS`; `None` is off.
    pub xds: Option<Server>,
    /// `CA_ADDRESS`, `FAKE_CA_DIR`, `SECRET_TTL`, `TLS12_ENABLED`, `COMPLIANCE_POLICY`.
    pub certificates: Certificates,
    /// `LOCAL_XDS_PATH`, `LOCAL_XDS`.
    pub local: Option<LocalConfig>,
    /// Metadata of the xDS node.
    pub metadata: BTreeMap<String, serde_json::Value>,
    /// `PREFERED_SERVICE_NAMESPACE`.
    pub preferred_namespace: Option<Text>,
    /// `INPOD_UDS`.
    pub zds_socket: PathBuf,
    /// `INPOD_PORT_REUSE`.
    pub reuse_port: bool,
    /// `PACKET_MARK`.
    pub mark: Option<u32>,
    /// `ENABLE_ORIG_SRC`.
    pub original_source: Transparent,
    /// `IPV6_ENABLED`.
    pub ipv6: bool,
    /// `KEEPALIVE_…`; `None` is off.
    pub keepalive: Option<Keepalive>,
    /// `POOL_…`.
    pub pool: PoolSettings,
    /// `HTTP2_…`, as client.
    pub client: Http2Settings,
    /// `HTTP2_…`, as server.
    pub server: Http2Settings,
    /// `CONNECTION_TERMINATION_DEADLINE`, `TERMINATION_GRACE_PERIOD_SECONDS`.
    pub termination: Duration,
    /// `LOCALHOST_APP_TUNNEL`.
    pub localhost_app_tunnel: bool,
    /// `ENABLE_RESPONSE_BAGGAGE`.
    pub baggage: bool,
    /// `AUTHZ_POLICY_INFO_LOGGING`.
    pub policy_log: bool,
    /// `ZTUNNEL_WORKER_THREADS`.
    pub workers: NonZeroUsize,
    /// Port of the admin page, on loopback.
    pub admin_port: u16,
    /// Port of the metrics.
    pub stats_port: u16,
    /// Port of the readiness page.
    pub readiness_port: u16,
    /// `ISTIO_META_ISTIO_VERSION`.
    pub istio_version: String,
}

/// Ports of the proxy in every pod.
pub mod port {
    /// What the pod sends.
    pub const OUTBOUND: u16 = 15001;
    /// Plaintext that reaches the pod.
    pub const PLAINTEXT: u16 = 15006;
    /// Tunnels that reach the pod.
    pub const HBONE: u16 = ambit_model::outbound::HBONE_PORT;
    /// Ports that nothing may be sent to through the proxy: it would come back for ever.
    pub const OWN: &[u16] = &[OUTBOUND, PLAINTEXT, HBONE];
}

impl Config {
    /// Reads the settings.
    pub fn from_env(env: &Env) -> Result<Self, ConfigError> {
        refuse_unsupported(env)?;
        let proxy_config = ProxyConfig::load(env)?;
        let mut metadata = proxy_config.metadata();
        metadata.extend(node_metadata(env)?);
        let own_pod = OwnPod {
            name: env.text_or("POD_NAME", ""),
            namespace: env.text_or("POD_NAMESPACE", ""),
            service_account: env.text_or("SERVICE_ACCOUNT", ""),
            ip: env.text_or("INSTANCE_IP", ""),
        };
        let cluster_id = env
            .non_empty("ISTIO_META_CLUSTER_ID")
            .or_else(|| env.non_empty("CLUSTER_ID"))
            .unwrap_or_else(|| "Kubernetes".to_owned());
        let default_address = proxy_config.discovery_address.clone().unwrap_or_else(|| {
            let in_cluster = env.text("KUBERNETES_SERVICE_HOST").is_some();
            if in_cluster {
                IN_CLUSTER.into()
            } else {
                ELSEWHERE.into()
            }
        });
        let (client, server) = settings::http2(env)?;
        Ok(Self {
            proxy: env.flag("ENABLE_PROXY", true)?,
            dns_proxy: is_on(metadata.get("DNS_CAPTURE")),
            network: env.text_or("NETWORK", "").into(),
            node_name: env.non_empty("NODE_NAME").map(Text::from),
            xds: match env.text("XDS_ADDRESS") {
                Some(off) if off.is_empty() => None,
                set => {
                    let address = set.as_ref().unwrap_or(&default_address);
                    Some(Server::from_env(env, "XDS", address, &cluster_id)?)
                }
            },
            certificates: Certificates {
                ca: {
                    let address = env.non_empty("CA_ADDRESS").unwrap_or(default_address);
                    Server::from_env(env, "CA", &address, &cluster_id)?
                },
                fake_ca: settings::fake_ca(env)?,
                lifetime: env.duration("SECRET_TTL", Duration::from_secs(24 * 60 * 60))?,
                tls: settings::tls(env)?,
                impersonate: true,
            },
            own_pod,
            cluster_id: cluster_id.into(),
            cluster_domain: env.text_or("CLUSTER_DOMAIN", "cluster.local").into(),
            local: LocalConfig::from_env(env)?,
            preferred_namespace: env.non_empty("PREFERED_SERVICE_NAMESPACE").map(Text::from),
            zds_socket: env
                .text_or("INPOD_UDS", "/var/run/ztunnel/ztunnel.sock")
                .into(),
            reuse_port: env.flag("INPOD_PORT_REUSE", true)?,
            mark: Some(env.parsed_or("PACKET_MARK", PROXY_MARK)?),
            original_source: match env.optional_flag("ENABLE_ORIG_SRC")? {
                None => Transparent::BestEffort,
                Some(true) => Transparent::Required,
                Some(false) => Transparent::Never,
            },
            ipv6: env.flag("IPV6_ENABLED", true)?,
            keepalive: keepalive(env)?,
            pool: PoolSettings {
                max_streams: env.parsed_or("POOL_MAX_STREAMS_PER_CONNECTION", 100)?,
                release_after: env
                    .duration("POOL_UNUSED_RELEASE_TIMEOUT", Duration::from_secs(5 * 60))?,
            },
            client,
            server,
            termination: settings::termination(env)?,
            localhost_app_tunnel: env.flag("LOCALHOST_APP_TUNNEL", true)?,
            baggage: env.flag("ENABLE_RESPONSE_BAGGAGE", true)?,
            policy_log: env.text("AUTHZ_POLICY_INFO_LOGGING").as_deref() == Some("true"),
            workers: threads::from_env(env, proxy_config.concurrency)?,
            admin_port: proxy_config.proxy_admin_port.unwrap_or(15000),
            stats_port: proxy_config.stats_port.unwrap_or(15020),
            readiness_port: 15021,
            istio_version: metadata
                .get("ISTIO_VERSION")
                .and_then(|v| v.as_str())
                .unwrap_or("unknown")
                .to_owned(),
            metadata,
        })
    }

    /// The id of the xDS node.
    pub fn node_id(&self) -> String {
        let OwnPod {
            name,
            namespace,
            ip,
            ..
        } = &self.own_pod;
        let ip = if ip.is_empty() { "1.1.1.1" } else { ip };
        format!("ztunnel~{ip}~{name}.{namespace}~{namespace}.svc.cluster.local")
    }
}

/// DNS is captured unless the metadata says something else than `true`.
fn is_on(value: Option<&serde_json::Value>) -> bool {
    match value {
        None => true,
        Some(serde_json::Value::String(text)) => text.eq_ignore_ascii_case("true"),
        Some(value) => *value == serde_json::Value::Bool(true),
    }
}

fn refuse_unsupported(env: &Env) -> Result<(), ConfigError> {
    let refuse = |name: &str, value: String, reason: &str| ConfigError::Invalid {
        name: name.to_owned(),
        value,
        reason: reason.to_owned(),
    };
    if let Some(mode) = env.non_empty("PROXY_MODE").filter(|mode| mode != "shared") {
        return Err(refuse(
            "PROXY_MODE",
            mode,
            "only the shared mode is supported",
        ));
    }
    for (name, reason) in [
        ("UNSTABLE_ENABLE_SOCKS5", "the SOCKS5 port is not supported"),
        ("XDS_ON_DEMAND", "on-demand discovery is not supported"),
    ] {
        if env.flag(name, false)? {
            return Err(refuse(name, "true".to_owned(), reason));
        }
    }
    match env.non_empty("CRL_PATH") {
        Some(path) => Err(refuse(
            "CRL_PATH",
            path,
            "revocation lists are not supported",
        )),
        None => Ok(()),
    }
}

fn node_metadata(env: &Env) -> Result<BTreeMap<String, serde_json::Value>, ConfigError> {
    let mut metadata = BTreeMap::new();
    for (key, text) in env.with_prefix("ISTIO_META_") {
        metadata.insert(key, text.into());
    }
    for (key, text) in env.with_prefix("ISTIO_METAJSON_") {
        let value = serde_json::from_str(&text).map_err(|e| ConfigError::Invalid {
            name: format!("ISTIO_METAJSON_{key}"),
            value: text,
            reason: e.to_string(),
        })?;
        metadata.insert(key, value);
    }
    for (key, variable) in [
        ("NAME", "POD_NAME"),
        ("NAMESPACE", "POD_NAMESPACE"),
        ("INSTANCE_IPS", "INSTANCE_IP"),
        ("NODE_NAME", "NODE_NAME"),
    ] {
        if let Some(text) = env.non_empty(variable) {
            metadata.insert(key.to_owned(), text.into());
        }
    }
    Ok(metadata)
}

fn keepalive(env: &Env) -> Result<Option<Keepalive>, ConfigError> {
    let default = Keepalive::default();
    let keepalive = Keepalive {
        time: env.duration("KEEPALIVE_TIME", default.time)?,
        interval: env.duration("KEEPALIVE_INTERVAL", default.interval)?,
        retries: env.parsed_or("KEEPALIVE_RETRIES", default.retries)?,
        user_timeout: env.flag("USER_TIMEOUT_ENABLED", false)?,
    };
    Ok(env.flag("KEEPALIVE_ENABLED", true)?.then_some(keepalive))
}

#[cfg(test)]
mod tests;
