//! The parts of the control plane: the API server, and the controllers with
//! the router's service addresses and the cluster's DNS.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use ambit_apiserver::Server;
use ambit_node_agent::controllers::{self, ControllersConfig};
use ambit_node_agent::dns::{self, DnsConfig};
use ambit_node_agent::service_proxy::{self, ServiceProxyConfig};
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config, Resource};
use serde_json::Value;

use crate::addresses::API_PORT;
use crate::credentials;
use crate::error::{Doing, LocalError, Result, file};
use crate::spawn;
use crate::state::{Cluster, Folder};

/// The version that the cluster reports: the Kubernetes it is tested against.
pub(crate) const VERSION: &str = concat!("v1.35.0+ambit.", env!("CARGO_PKG_VERSION"));
/// The cluster's domain.
pub(crate) const DOMAIN: &str = "cluster.local";
const DNS_PORT: u16 = 53;
const DNS_NAME: &str = "kube-dns";
const SYSTEM: &str = "kube-system";

/// Runs a part for ever, on a runtime of its own.
pub(crate) fn run(part: impl Future<Output = Result<()>>) -> Result<()> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .doing("starting a runtime")?
        .block_on(part)
}

/// The API server. Arguments: folder, listener on the host, listener inside.
pub(crate) fn api_server(arguments: &[String]) -> Result<()> {
    let folder = Folder::at(arguments.first().map(Into::into).unwrap_or_default());
    let outside = TcpListener::from(spawn::inherited(arguments.get(1), "the API listener")?);
    let inside = TcpListener::from(spawn::inherited(arguments.get(2), "the inner listener")?);
    let cluster = folder.cluster()?;
    run(async move {
        let pki = credentials::load(&folder, &cluster)?;
        let handle = Server::builder()
            .pki(pki)
            .listener(outside)
            .listener(inside)
            .name(cluster.api.ip().to_string())
            .advertise((cluster.addresses().router(), API_PORT).into())
            .service_cidrs(vec![cluster.service_subnet.into()])
            .version(VERSION)
            .url(cluster.url())
            .start()
            .await
            .map_err(|error| ended("the API server", &error))?;
        std::future::pending::<()>().await;
        drop(handle);
        Ok(())
    })
}

/// Controllers, service addresses of the router, DNS. Arguments: folder.
pub(crate) fn controllers(arguments: &[String]) -> Result<()> {
    let folder = Folder::at(arguments.first().map(Into::into).unwrap_or_default());
    let cluster = folder.cluster()?;
    let path = credentials::path(&folder, "controllers");
    let kubeconfig = std::fs::read_to_string(&path).map_err(file("reading", path))?;
    run(async move {
        let client = client(&kubeconfig).await?;
        let addresses = cluster.addresses();
        let config = ControllersConfig {
            load_balancer_range: Some(addresses.balancers()),
            pod_subnet: Some(cluster.pod_subnet),
            ..ControllersConfig::default()
        };
        let listen: SocketAddr = (addresses.router(), DNS_PORT).into();
        let names = DnsConfig {
            listen,
            domain: DOMAIN.to_owned(),
            upstream: Vec::new(),
        };
        announce_dns(&client, &cluster).await?;
        tokio::select! {
            end = controllers::run(client.clone(), config) => Err(ending("controllers", end)),
            end = dns::run(client.clone(), names) => Err(ending("DNS", end)),
            end = service_proxy::run(client, ServiceProxyConfig::default()) => {
                Err(ending("service addresses", end))
            }
        }
    })
}

fn ending<E: std::fmt::Display>(part: &str, end: std::result::Result<(), E>) -> LocalError {
    match end {
        Ok(()) => ended(part, &"ended unexpectedly"),
        Err(error) => ended(part, &error),
    }
}

fn ended(part: &str, reason: &dyn std::fmt::Display) -> LocalError {
    LocalError::Part {
        part: part.to_owned(),
        reason: reason.to_string(),
    }
}

/// A client from the text of a kubeconfig.
pub(crate) async fn client(kubeconfig: &str) -> Result<Client> {
    let broken = |error: &dyn std::fmt::Display| ended("a kubeconfig of the cluster", error);
    let parsed = Kubeconfig::from_yaml(kubeconfig).map_err(|error| broken(&error))?;
    let config = Config::from_custom_kubeconfig(parsed, &KubeConfigOptions::default())
        .await
        .map_err(|error| broken(&error))?;
    Client::try_from(config).map_err(|error| broken(&error))
}

/// The programs that images are made of: those that the catalogue names, all
/// beside this one.
pub(crate) fn programs(program: &Path) -> BTreeMap<String, PathBuf> {
    let mut programs = BTreeMap::new();
    // The catalogue is part of this program; a test reads it.
    let catalogue: Value = serde_saphyr::from_str(crate::CATALOGUE).unwrap_or_default();
    for image in catalogue["images"].as_array().into_iter().flatten() {
        let named = [&image["applets"], &image["files"]];
        for name in named
            .iter()
            .filter_map(|map| map.as_object())
            .flat_map(|map| map.values())
        {
            if let Some(name) = name.as_str() {
                programs.insert(name.to_owned(), program.with_file_name(name));
            }
        }
    }
    programs.insert("ambit".to_owned(), program.to_owned());
    programs
}

/// Makes the DNS service and its one endpoint, unless they are there.
async fn announce_dns(client: &Client, cluster: &Cluster) -> Result<()> {
    let names = [("udp", "UDP"), ("tcp", "TCP")];
    let labels = |more: (&str, &str)| {
        let all = [
            ("k8s-app", DNS_NAME),
            ("kubernetes.io/name", "CoreDNS"),
            more,
        ];
        Some(
            all.map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
        )
    };
    let service = Service {
        metadata: ObjectMeta {
            name: Some(DNS_NAME.to_owned()),
            namespace: Some(SYSTEM.to_owned()),
            labels: labels(("kubernetes.io/cluster-service", "true")),
            ..ObjectMeta::default()
        },
        spec: Some(ServiceSpec {
            cluster_ip: Some(cluster.dns().to_string()),
            ports: Some(
                names
                    .iter()
                    .map(|(name, protocol)| ServicePort {
                        name: Some(port_name(name)),
                        port: DNS_PORT.into(),
                        protocol: Some((*protocol).to_owned()),
                        ..ServicePort::default()
                    })
                    .collect(),
            ),
            ..ServiceSpec::default()
        }),
        status: None,
    };
    let slice = EndpointSlice {
        metadata: ObjectMeta {
            name: Some(DNS_NAME.to_owned()),
            namespace: Some(SYSTEM.to_owned()),
            labels: labels(("kubernetes.io/service-name", DNS_NAME)),
            ..ObjectMeta::default()
        },
        address_type: "IPv4".to_owned(),
        endpoints: vec![Endpoint {
            addresses: vec![cluster.addresses().router().to_string()],
            conditions: Some(EndpointConditions {
                ready: Some(true),
                ..Default::default()
            }),
            ..Endpoint::default()
        }],
        ports: Some(
            names
                .iter()
                .map(|(name, protocol)| EndpointPort {
                    name: Some(port_name(name)),
                    port: Some(DNS_PORT.into()),
                    protocol: Some((*protocol).to_owned()),
                    app_protocol: None,
                })
                .collect(),
        ),
    };
    create(Api::namespaced(client.clone(), SYSTEM), &service).await?;
    create(Api::namespaced(client.clone(), SYSTEM), &slice).await
}

fn port_name(protocol: &str) -> String {
    if protocol == "udp" {
        "dns".to_owned()
    } else {
        "dns-tcp".to_owned()
    }
}

/// Creates an object of the cluster's own, waiting for the API server.
async fn create<K>(api: Api<K>, object: &K) -> Result<()>
where
    K: Resource<DynamicType = ()>
        + Clone
        + serde::Serialize
        + serde::de::DeserializeOwned
        + std::fmt::Debug,
{
    loop {
        match api.create(&PostParams::default(), object).await {
            Ok(_) => return Ok(()),
            Err(kube::Error::Api(status)) if status.code == 409 => return Ok(()),
            Err(kube::Error::Api(status)) => {
                return Err(ended("the cluster's own objects", &status.message));
            }
            // Not there yet, or not any more; the cluster's init knows which.
            Err(error) => {
                tracing::info!("the API server does not answer yet: {error}");
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ambit_node_agent::catalogue::Catalogue;

    #[test]
    fn the_catalogue_is_valid_and_knows_the_usual_names() {
        let programs = programs(Path::new("/somewhere/ambit"));
        let catalogue = Catalogue::parse(crate::CATALOGUE, &programs).expect("a catalogue");
        for name in [
            "host",
            "docker.io/istio/pilot:1.30.0",
            "istio/ztunnel:latest",
            "registry.example/mesh/install-cni:dev",
            "registry.istio.io/release/examples-bookinfo-reviews-v3:1.20.3",
            "docker.io/istio/examples-helloworld-v2:1.0",
            "curlimages/curl",
            "quay.io/curl/curl:8",
            "busybox",
            "registry.k8s.io/pause:3.10",
        ] {
            assert!(catalogue.lookup(name).is_ok(), "{name}");
        }
        assert!(catalogue.lookup("docker.io/library/nginx").is_err());
        let plugin = programs.get("istio-cni").map(PathBuf::as_path);
        assert_eq!(plugin, Some(Path::new("/somewhere/istio-cni")));
    }
}
