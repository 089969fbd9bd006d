//! The parts of the control plane: the API server, and the controllers with
//! the router's service addresses.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use ambit_apiserver::Server;
use ambit_node_agent::controllers::{self, ControllersConfig};
use ambit_node_agent::service_proxy::{self, ServiceProxyConfig};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::Value;

use crate::credentials;
use crate::error::{Doing, LocalError, Result, file};
use crate::kubernetes;
use crate::spawn;
use crate::state::Folder;
use crate::system;

/// The version that the cluster reports: the Kubernetes it is tested against.
pub(crate) const VERSION: &str = concat!("v1.35.0+ambit.", env!("CARGO_PKG_VERSION"));
/// The cluster's domain.
pub(crate) const DOMAIN: &str = "cluster.local";

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
        if let Some(programs) = &cluster.kubernetes {
            let listeners = vec![outside, inside];
            return kubernetes::serve(&folder, &cluster, programs, listeners).await;
        }
        let pki = credentials::load(&folder, &cluster)?;
        let handle = Server::builder()
            .pki(pki)
            .listener(outside)
            .listener(inside)
            .name(cluster.api.ip().to_string())
            .advertise(cluster.inner_api())
            .service_cidrs(cluster.service_subnets.clone())
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

/// Controllers, service addresses of the router, and what the cluster brings
/// itself. Arguments: folder.
pub(crate) fn controllers(arguments: &[String]) -> Result<()> {
    let folder = Folder::at(arguments.first().map(Into::into).unwrap_or_default());
    let cluster = folder.cluster()?;
    let path = credentials::path(&folder, "controllers");
    let kubeconfig = std::fs::read_to_string(&path).map_err(file("reading", path))?;
    run(async move {
        let client = client(&kubeconfig).await?;
        let families = cluster.families();
        let config = ControllersConfig {
            load_balancer_ranges: families
                .iter()
                .map(|family| cluster.addresses().balancers(*family))
                .collect(),
            pod_subnets: cluster.pod_subnets.clone(),
            only_addresses: cluster.kubernetes.is_some(),
            ..ControllersConfig::default()
        };
        let proxy = ServiceProxyConfig {
            families,
            ..ServiceProxyConfig::default()
        };
        system::deploy(&client, &cluster).await?;
        tokio::select! {
            end = controllers::run(client.clone(), config) => ending("controllers", end),
            end = service_proxy::run(client.clone(), proxy) => {
                ending("service addresses", end)
            }
            Err(error) = system::label_nodes(&client, &cluster) => Err(error),
        }
    })
}

/// A part that ends has failed, whatever it says.
pub(crate) fn ending<E: std::fmt::Display>(
    part: &str,
    end: std::result::Result<(), E>,
) -> Result<()> {
    Err(match end {
        Ok(()) => ended(part, &"ended unexpectedly"),
        Err(error) => ended(part, &error),
    })
}

pub(crate) fn ended(part: &str, reason: &dyn std::fmt::Display) -> LocalError {
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
