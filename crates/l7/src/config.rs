//! The settings of a waypoint, from its environment, as the control plane writes it.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::time::Duration;

use ambit_model::Text;
use ambit_model::service::NamespacedHostname;
use ambit_proxy_core::settings::{self, Certificates, Server};
use ambit_proxy_core::store::{LocalConfig, PodName};
use ambit_runtime::config::{ConfigError, Env};
use ambit_transport::hbone::Http2Settings;
use ambit_transport::hbone::pool::PoolSettings;

/// Port on which tunnels come in.
pub const HBONE: u16 = ambit_model::outbound::HBONE_PORT;

/// Longest time for the head of a request to come in.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);

/// All settings.
#[derive(Clone, Debug)]
pub struct Config {
    /// The waypoint's own pod: `POD_NAME`, `POD_NAMESPACE`, `SERVICE_ACCOUNT`.
    pub pod: PodName,
    /// `INSTANCE_IP`.
    pub ip: String,
    /// `GATEWAY_NAME`: the Gateway that it was made for.
    pub gateway: Text,
    /// The service that clients find it by: `GATEWAY_SERVICE` in its namespace.
    pub service: NamespacedHostname,
    /// `TRUST_DOMAIN`.
    pub trust_domain: Text,
    /// `ISTIO_META_NETWORK`.
    pub network: Text,
    /// `ISTIO_META_CLUSTER_ID`.
    pub cluster_id: Text,
    /// `XDS_ADDRESS`, or else that of the authority; empty is none.
    pub xds: Option<Server>,
    /// `CA_ADDR`, `FAKE_CA_DIR`, `SECRET_TTL`.
    pub certificates: Certificates,
    /// `LOCAL_XDS_PATH`, `LOCAL_XDS`: workloads and services without a control plane.
    pub local: Option<LocalConfig>,
    /// `IPV6_ENABLED`.
    pub ipv6: bool,
    /// `HTTP2_…`, as client.
    pub client: Http2Settings,
    /// `HTTP2_…`, as server.
    pub server: Http2Settings,
    /// `POOL_…`.
    pub pool: PoolSettings,
    /// `CONNECTION_TERMINATION_DEADLINE`, `TERMINATION_GRACE_PERIOD_SECONDS`.
    pub termination: Duration,
    /// `WAYPOINT_WORKER_THREADS`.
    pub workers: NonZeroUsize,
    /// Longest time for the head of a request to come in. No setting: tests have less patience.
    pub head_timeout: Duration,
    /// `SHOW_CALLER`: applications are told who the caller is, in `x-forwarded-client-cert`.
    pub show_caller: bool,
    /// The environment, for tags of spans that name parts of it.
    pub environment: BTreeMap<String, String>,
    /// Port of the admin page, on loopback.
    pub admin_port: u16,
    /// Port of the metrics.
    pub stats_port: u16,
    /// Port of the readiness page.
    pub readiness_port: u16,
}

impl Config {
    /// Reads the settings.
    pub fn from_env(env: &Env) -> Result<Self, ConfigError> {
        let needed = "the control plane sets it on the pods of waypoints";
        let namespace: Text = env.required("POD_NAMESPACE", needed)?.into();
        let gateway: Text = env.required("GATEWAY_NAME", needed)?.into();
        let name = env.text_or("GATEWAY_SERVICE", &gateway);
        let domain = env.text_or("CLUSTER_DOMAIN", "cluster.local");
        let cluster_id = env.text_or("ISTIO_META_CLUSTER_ID", "Kubernetes");
        let ca = env.text_or("CA_ADDR", "istiod.istio-system.svc:15012");
        let xds = match env.text("XDS_ADDRESS") {
            Some(off) if off.is_empty() => None,
            set => {
                let address = set.as_ref().unwrap_or(&ca);
                Some(Server::from_env(
                    env,
                    "XDS",
                    &with_scheme(address),
                    &cluster_id,
                )?)
            }
        };
        let (mut client, mut server) = settings::http2(env)?;
        // A request is small beside a connection of an application: what waits is memory.
        client.send_buffer = client.send_buffer.min(64 * 1024);
        server.send_buffer = server.send_buffer.min(64 * 1024);
        let cpus = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        Ok(Self {
            pod: PodName {
                name: env.text_or("POD_NAME", "").into(),
                namespace: namespace.clone(),
                service_account: env.text_or("SERVICE_ACCOUNT", "default").into(),
            },
            ip: env.text_or("INSTANCE_IP", ""),
            gateway,
            service: NamespacedHostname {
                hostname: format!("{name}.{namespace}.svc.{domain}").into(),
                namespace,
            },
            trust_domain: env.text_or("TRUST_DOMAIN", "cluster.local").into(),
            network: env.text_or("ISTIO_META_NETWORK", "").into(),
            certificates: Certificates {
                ca: Server::from_env(env, "CA", &with_scheme(&ca), &cluster_id)?,
                fake_ca: settings::fake_ca(env)?,
                lifetime: env.duration("SECRET_TTL", Duration::from_secs(24 * 60 * 60))?,
                tls: settings::tls(env)?,
                impersonate: false,
            },
            cluster_id: cluster_id.into(),
            xds,
            local: LocalConfig::from_env(env)?,
            ipv6: env.flag("IPV6_ENABLED", true)?,
            client,
            server,
            pool: PoolSettings {
                max_streams: env.parsed_or("POOL_MAX_STREAMS_PER_CONNECTION", 100)?,
                release_after: env
                    .duration("POOL_UNUSED_RELEASE_TIMEOUT", Duration::from_secs(60 * 60))?,
            },
            termination: settings::termination(env)?,
            workers: env.parsed_or("WAYPOINT_WORKER_THREADS", cpus)?,
            head_timeout: HEAD_TIMEOUT,
            show_caller: env.flag("SHOW_CALLER", false)?,
            environment: env.with_prefix(""),
            admin_port: 15000,
            stats_port: 15020,
            readiness_port: 15021,
        })
    }

    /// The id of the xDS node.
    pub fn node_id(&self) -> String {
        let ip = if self.ip.is_empty() {
            "1.1.1.1"
        } else {
            &self.ip
        };
        let PodName {
            name, namespace, ..
        } = &self.pod;
        format!("waypoint~{ip}~{name}.{namespace}~{namespace}.svc.cluster.local")
    }
}

/// An address without a scheme is one of TLS.
fn with_scheme(address: &str) -> String {
    match address.contains("://") {
        true => address.to_owned(),
        false => format!("https://{address}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_control_plane_writes() {
        let env: Env = [
            ("POD_NAME", "waypoint-1"),
            ("POD_NAMESPACE", "shop"),
            ("SERVICE_ACCOUNT", "waypoint"),
            ("INSTANCE_IP", "10.244.1.2"),
            ("GATEWAY_NAME", "waypoint"),
            ("CA_ADDR", "istiod.istio-system.svc:15012"),
        ]
        .into_iter()
        .collect();
        let config = Config::from_env(&env).unwrap();
        assert_eq!(&*config.service.hostname, "waypoint.shop.svc.cluster.local");
        assert_eq!(
            config.xds.as_ref().unwrap().target.address(),
            "istiod.istio-system.svc:15012"
        );
        assert_eq!(
            config.node_id(),
            "waypoint~10.244.1.2~waypoint-1.shop~shop.svc.cluster.local"
        );
    }

    #[test]
    fn without_a_gateway_there_is_nothing_to_do() {
        let env: Env = [("POD_NAMESPACE", "shop")].into_iter().collect();
        let error = Config::from_env(&env).unwrap_err().to_string();
        assert!(error.contains("GATEWAY_NAME"), "{error}");
    }
}
