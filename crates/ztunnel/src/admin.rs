//! `/config_dump`: all that this proxy knows and does, for `istioctl ztunnel-config` and for people.

use std::collections::BTreeMap;
use std::sync::Arc;

use ambit_proxy_core::dump;
use ambit_runtime::build_info::build_info;
use ambit_runtime::config::Effective;
use ambit_runtime::http::{Reply, Router, reply};
use ambit_transport::socket::Transparent;
use http::StatusCode;
use serde_json::{Map, Value, json};
use tokio::sync::watch;

use crate::agent::PodState;
use crate::config::{Config, port};
use crate::shared::{Shared, Worker};

/// What the page is made of.
#[derive(Clone)]
pub(crate) struct Dump {
    pub(crate) shared: Arc<Shared>,
    pub(crate) workers: Vec<Arc<Worker>>,
    pub(crate) pods: watch::Receiver<Vec<PodState>>,
    pub(crate) effective: Arc<BTreeMap<String, Effective>>,
}

/// The routes of the node proxy on the admin port, beside those of every process.
pub(crate) fn routes(dump: Dump) -> Router {
    Router::new().get("/config_dump", move |_| {
        let dump = dump.clone();
        async move { dump.page() }
    })
}

impl Dump {
    fn page(&self) -> Reply {
        let config = &self.shared.config;
        let mut page = dump::state(&self.shared.store.load());
        let mut put = |key: &str, value: Value| page.insert(key.to_owned(), value);
        put("staticConfig", dump::static_config(config.local.as_ref()));
        put("version", to_value(&build_info()));
        put("config", self.config());
        put("certificates", self.shared.certificates.dump());
        put("workloadState", self.pods());
        reply(StatusCode::OK, "application/json", dump::page(page))
    }

    fn pods(&self) -> Value {
        let states = self.pods.borrow().clone();
        let pod = |pod: PodState| {
            let mut shown = (Vec::new(), Vec::new());
            for worker in &self.workers {
                worker.connections.show(&pod.uid, &mut shown);
            }
            let (inbound, outbound) = shown;
            let value = json!({
                "state": pod.state,
                "info": pod.info,
                "connections": { "inbound": inbound, "outbound": outbound },
            });
            (pod.uid, value)
        };
        Value::Object(states.into_iter().map(pod).collect())
    }

    /// The settings under Istio's names, and where each came from.
    fn config(&self) -> Value {
        let c = &self.shared.config;
        let mut config = Map::new();
        for part in [ports(c), of_mesh(c), of_control_plane(c), of_data_path(c)] {
            if let Value::Object(part) = part {
                config.extend(part);
            }
        }
        config.insert("effective".to_owned(), to_value(&*self.effective));
        Value::Object(config)
    }
}

fn ports(c: &Config) -> Value {
    let wildcard = |port: u16| format!("{}:{port}", if c.ipv6 { "[::]" } else { "0.0.0.0" });
    json!({
        "adminAddr": {"Localhost": [c.ipv6, c.admin_port]},
        "statsAddr": {"SocketAddr": wildcard(c.stats_port)},
        "readinessAddr": {"SocketAddr": wildcard(c.readiness_port)},
        "inboundAddr": wildcard(port::HBONE),
        "inboundPlaintextAddr": wildcard(port::PLAINTEXT),
        "outboundAddr": wildcard(port::OUTBOUND),
        "dnsProxyAddr": {"Localhost": [c.ipv6, ambit_proxy_core::dns::PORT]},
        "socks5Addr": null,
        "illegalPorts": port::OWN,
    })
}

fn of_mesh(c: &Config) -> Value {
    json!({
        "proxy": c.proxy,
        "dnsProxy": c.dns_proxy,
        "proxyMode": "Shared",
        "network": c.network,
        "localNode": c.node_name,
        "clusterId": c.cluster_id,
        "clusterDomain": c.cluster_domain,
        "proxyMetadata": c.metadata,
        "preferedServiceNamespace": c.preferred_namespace,
        "ztunnelWorkload": {
            "name": c.own_pod.name,
            "namespace": c.own_pod.namespace,
            "serviceAccount": c.own_pod.service_account,
        },
    })
}

fn of_control_plane(c: &Config) -> Value {
    json!({
        "xdsAddress": c.xds.as_ref().map(|s| s.target.address()),
        "caAddress": c.certificates.ca.target.address(),
        "xdsOnDemand": false,
        "fakeCa": c.certificates.fake_ca.is_some(),
        "crlPath": null,
        "secretTtl": c.certificates.lifetime,
    })
}

fn of_data_path(c: &Config) -> Value {
    json!({
        "windowSize": c.client.stream_window,
        "connectionWindowSize": c.client.connection_window,
        "frameSize": c.client.max_frame_size,
        "poolMaxStreamsPerConn": c.pool.max_streams,
        "poolUnusedReleaseTimeout": c.pool.release_after,
        "selfTerminationDeadline": c.termination,
        "numWorkerThreads": c.workers,
        "requireOriginalSource": match c.original_source {
            Transparent::BestEffort => None,
            Transparent::Required => Some(true),
            Transparent::Never => Some(false),
        },
        "inpodUds": c.zds_socket,
        "inpodPortReuse": c.reuse_port,
        "packetMark": c.mark,
        "socketConfig": {
            "keepaliveEnabled": c.keepalive.is_some(),
            "keepaliveTime": c.keepalive.map(|k| k.time),
            "keepaliveInterval": c.keepalive.map(|k| k.interval),
            "keepaliveRetries": c.keepalive.map(|k| k.retries),
            "userTimeoutEnabled": c.keepalive.is_some_and(|k| k.user_timeout),
        },
        "localhostAppTunnel": c.localhost_app_tunnel,
        "enableEnhancedBaggage": c.baggage,
        "ipv6Enabled": c.ipv6,
    })
}

fn to_value<T: serde::Serialize + ?Sized>(value: &T) -> Value {
    // Plain data with text keys, for which this cannot fail.
    serde_json::to_value(value).unwrap_or(Value::Null)
}
