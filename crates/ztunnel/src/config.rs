//! The settings of the node proxy, from its environment.
//!
//! A value that is there and cannot be used stops the start; so does a setting that asks for
//! something this proxy does not have, because running without it would mean something else than
//! what was asked for.

mod proxy_config;
mod threads;

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ambit_model::Text;
use ambit_proxy_core::store::LocalConfig;
use ambit_runtime::config::{ConfigError, Env};
use ambit_transport::hbone::Http2Settings;
use ambit_transport::hbone::pool::PoolSettings;
use ambit_transport::socket::{Keepalive, PROXY_MARK, Transparent};
use ambit_transport::tls::TlsOptions;
use ambit_wire::credentials::{Credentials, Token};
use ambit_wire::tls::{Roots, Target};

use proxy_config::ProxyConfig;

const ROOT_FILE: &str = "./var/run/secrets/istio/root-cert.pem";
const TOKEN_FILE: &str = "./var/run/secrets/tokens/istio-token";
const IN_CLUSTER: &str = "https://istiod.istio-system.svc:15012";
const ELSEWHERE: &str = "https://localhost:15012";

/// A server of the control plane, and who we are to it.
#[derive(Clone, Debug)]
pub struct Server {
    /// The server.
    pub target: Target,
    /// Token and headers.
    pub credentials: Credentials,
}

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
    /// `CA_ADDRESS`.
    pub ca: Server,
    /// `LOCAL_XDS_PATH`, `LOCAL_XDS`.
    pub local: Option<LocalConfig>,
    /// Metadata of the xDS node.
    pub metadata: BTreeMap<String, serde_json::Value>,
    /// `PREFERED_SERVICE_NAMESPACE`.
    pub preferred_namespace: Option<Text>,
    /// `FAKE_CA_DIR`, with `FAKE_CA`: a directory with `ca-cert.pem` and `ca-key.pem`.
    pub fake_ca: Option<PathBuf>,
    /// `SECRET_TTL`.
    pub secret_ttl: Duration,
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
    /// `TLS12_ENABLED`, `COMPLIANCE_POLICY`.
    pub tls: TlsOptions,
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
        let (client, server) = http2(env)?;
        Ok(Self {
            proxy: env.flag("ENABLE_PROXY", true)?,
            dns_proxy: is_on(metadata.get("DNS_CAPTURE")),
            network: env.text_or("NETWORK", "").into(),
            node_name: env.non_empty("NODE_NAME").map(Text::from),
            xds: match env.text("XDS_ADDRESS") {
                Some(off) if off.is_empty() => None,
                set => Some(control_server(
                    env,
                    "XDS",
                    set,
                    &default_address,
                    &cluster_id,
                )?),
            },
            ca: control_server(
                env,
                "CA",
                env.non_empty("CA_ADDRESS"),
                &default_address,
                &cluster_id,
            )?,
            fake_ca: fake_ca(env)?,
            own_pod,
            cluster_id: cluster_id.into(),
            cluster_domain: env.text_or("CLUSTER_DOMAIN", "cluster.local").into(),
            local: local_config(env)?,
            preferred_namespace: env.non_empty("PREFERED_SERVICE_NAMESPACE").map(Text::from),
            secret_ttl: env.duration("SECRET_TTL", Duration::from_secs(24 * 60 * 60))?,
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
            termination: termination(env)?,
            localhost_app_tunnel: env.flag("LOCALHOST_APP_TUNNEL", true)?,
            baggage: env.flag("ENABLE_RESPONSE_BAGGAGE", true)?,
            policy_log: env.text("AUTHZ_POLICY_INFO_LOGGING").as_deref() == Some("true"),
            tls: TlsOptions {
                tls12: env.text("TLS12_ENABLED").as_deref() == Some("true"),
                post_quantum_only: compliance(env)?,
            },
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

fn control_server(
    env: &Env,
    prefix: &str,
    address: Option<String>,
    default: &str,
    cluster_id: &str,
) -> Result<Server, ConfigError> {
    let address = address.unwrap_or_else(|| default.to_owned());
    let roots = Roots::parse(&env.text_or(&format!("{prefix}_ROOT_CA"), ROOT_FILE));
    let alternative = env.non_empty(&format!("ALT_{prefix}_HOSTNAME"));
    let target =
        Target::new(&address, roots, alternative.as_deref()).map_err(|e| ConfigError::Invalid {
            name: format!("{prefix}_ADDRESS"),
            value: address,
            reason: e.to_string(),
        })?;
    let token = match env.secret("AUTH_TOKEN") {
        Some(text) if !text.is_empty() => Token::parse(&text),
        _ if Path::new(TOKEN_FILE).exists() => Token::File(TOKEN_FILE.into()),
        _ => Token::None,
    };
    let headers = env.with_prefix(&format!("{prefix}_HEADER_"));
    let credentials = Credentials {
        token,
        cluster_id: cluster_id.to_owned(),
        headers,
    };
    Ok(Server {
        target,
        credentials,
    })
}

/// A certificate authority of one's own. There is none built in: a key that everybody has would
/// make every proxy that is started with it by mistake open to everybody.
fn fake_ca(env: &Env) -> Result<Option<PathBuf>, ConfigError> {
    if !env.flag("FAKE_CA", false)? {
        return Ok(None);
    }
    let reason = "FAKE_CA needs a directory with ca-cert.pem and ca-key.pem";
    env.required("FAKE_CA_DIR", reason)
        .map(|dir| Some(dir.into()))
}

fn local_config(env: &Env) -> Result<Option<LocalConfig>, ConfigError> {
    let invalid = |name: &str, value: String, e: &dyn std::fmt::Display| ConfigError::Invalid {
        name: name.to_owned(),
        value,
        reason: e.to_string(),
    };
    match (env.non_empty("LOCAL_XDS_PATH"), env.non_empty("LOCAL_XDS")) {
        (None, None) => Ok(None),
        (Some(_), Some(_)) => Err(ConfigError::Conflict(
            "LOCAL_XDS_PATH and LOCAL_XDS are both set; unset one of them".to_owned(),
        )),
        (Some(path), None) => LocalConfig::read(Path::new(&path))
            .map(Some)
            .map_err(|e| invalid("LOCAL_XDS_PATH", path, &e)),
        (None, Some(text)) => LocalConfig::parse(&text)
            .map(Some)
            .map_err(|e| invalid("LOCAL_XDS", text, &e)),
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

fn http2(env: &Env) -> Result<(Http2Settings, Http2Settings), ConfigError> {
    let (client, server) = (Http2Settings::client(), Http2Settings::server());
    let stream_window = env.parsed_or("HTTP2_STREAM_WINDOW_SIZE", client.stream_window)?;
    let connection_window =
        env.parsed_or("HTTP2_CONNECTION_WINDOW_SIZE", client.connection_window)?;
    let max_frame_size = env.parsed_or("HTTP2_FRAME_SIZE", client.max_frame_size)?;
    for (name, value, range) in [
        (
            "HTTP2_STREAM_WINDOW_SIZE",
            stream_window,
            1..=i32::MAX as u32,
        ),
        (
            "HTTP2_CONNECTION_WINDOW_SIZE",
            connection_window,
            65_535..=i32::MAX as u32,
        ),
        ("HTTP2_FRAME_SIZE", max_frame_size, 16_384..=16_777_215),
    ] {
        if !range.contains(&value) {
            return Err(ConfigError::Invalid {
                name: name.to_owned(),
                value: value.to_string(),
                reason: format!("expected {} to {}", range.start(), range.end()),
            });
        }
    }
    let with = |settings| Http2Settings {
        stream_window,
        connection_window,
        max_frame_size,
        ..settings
    };
    Ok((with(client), with(server)))
}

/// How long connections may take to end: what Kubernetes gives us, less a reserve.
fn termination(env: &Env) -> Result<Duration, ConfigError> {
    if let Some(deadline) = env.optional_duration("CONNECTION_TERMINATION_DEADLINE")? {
        return Ok(deadline);
    }
    let seconds = match env.parsed::<u64>("TERMINATION_GRACE_PERIOD_SECONDS")? {
        None => 5,
        Some(n) if n > 10 => n - 5,
        Some(n) => n.saturating_sub(1).max(1),
    };
    Ok(Duration::from_secs(seconds))
}

fn compliance(env: &Env) -> Result<bool, ConfigError> {
    let policy = env.parsed_with("COMPLIANCE_POLICY", |text| match text {
        "pqc" => Ok(()),
        _ => Err("expected pqc".to_owned()),
    });
    Ok(policy?.is_some())
}

#[cfg(test)]
mod tests;
