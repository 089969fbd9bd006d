//! The cluster's DNS server: names of services and their endpoints, from the
//! Kubernetes API; everything else goes to other name servers, if there are
//! any, and does not exist otherwise.

pub mod answer;
mod server;
#[cfg(test)]
mod tests;
pub mod upstream;
pub mod zone;

use std::net::SocketAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Client;
use kube::api::Api;
use kube::runtime::watcher;
use parking_lot::RwLock;
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinSet;

use crate::informer::{Cache, ObjectKey, Queue};
use answer::Authority;
use server::Responder;
use upstream::Upstream;
use zone::{Entry, Zone};

/// Label that names the service of a slice.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// What the DNS server needs to know.
#[derive(Debug, Clone)]
pub struct DnsConfig {
    /// Where to listen, UDP and TCP.
    pub listen: SocketAddr,
    /// The cluster's domain, usually `cluster.local`.
    pub domain: String,
    /// Servers for all other names, in the order to ask them.
    pub upstream: Vec<SocketAddr>,
}

/// Why the DNS server cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    /// The cluster's domain is not a name.
    #[error("{0:?} is not a domain name")]
    Domain(String),
    /// The address cannot be listened on.
    #[error("listening for DNS on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// A task ended, which only a defect can cause.
    #[error("the DNS server ended unexpectedly")]
    Ended,
}

/// Serves until dropped. Questions that come before the first lists are
/// complete wait in the sockets.
///
/// # Errors
/// See [`DnsError`].
pub async fn run(client: Client, config: DnsConfig) -> Result<(), DnsError> {
    let authority =
        Authority::new(&config.domain).map_err(|_| DnsError::Domain(config.domain.clone()))?;
    let failed = |source| DnsError::Listen {
        address: config.listen,
        source,
    };
    let socket = UdpSocket::bind(config.listen).await.map_err(failed)?;
    let listener = TcpListener::bind(config.listen).await.map_err(failed)?;
    let responder = Arc::new(Responder {
        authority,
        zone: RwLock::new(Zone::default()),
        upstream: Upstream::new(config.upstream),
    });
    let (services, slices) = (Cache::<Service>::new(), Cache::<EndpointSlice>::new());
    let queue = Queue::new();
    let changed = queue.clone();
    services.on_change(move |old, new| {
        if let Some(service) = new.or(old) {
            changed.add(ObjectKey::of(service));
        }
    });
    let changed = queue.clone();
    slices.on_change(move |old, new| {
        for slice in [old, new].into_iter().flatten() {
            changed.add(service_of(slice));
        }
    });
    let mut tasks = JoinSet::new();
    let everything = watcher::Config::default;
    tasks.spawn(services.clone().run(Api::all(client.clone()), everything()));
    tasks.spawn(slices.clone().run(Api::all(client), everything()));
    services.synced().await;
    slices.synced().await;
    for service in services.list() {
        refresh(&responder, &services, &slices, ObjectKey::of(&*service));
    }
    tracing::info!("answering DNS for {} on {}", config.domain, config.listen);
    tasks.spawn(server::serve_udp(responder.clone(), Arc::new(socket)));
    tasks.spawn(server::serve_tcp(responder.clone(), listener));
    tasks.spawn(async move {
        queue
            .work("dns", |key| {
                refresh(&responder, &services, &slices, key);
                std::future::ready(Ok::<_, DnsError>(()))
            })
            .await;
    });
    tasks.join_next().await;
    Err(DnsError::Ended)
}

fn service_of(slice: &EndpointSlice) -> ObjectKey {
    let name = slice
        .metadata
        .labels
        .as_ref()
        .and_then(|labels| labels.get(SERVICE_NAME));
    let namespace = slice.metadata.namespace.clone().unwrap_or_default();
    ObjectKey::new(namespace, name.cloned().unwrap_or_default())
}

fn refresh(
    responder: &Responder,
    services: &Cache<Service>,
    slices: &Cache<EndpointSlice>,
    key: ObjectKey,
) {
    let entry = services.get(&key).map(|service| {
        let all = slices.in_namespace(&key.namespace);
        let own: Vec<_> = all
            .iter()
            .map(|s| &**s)
            .filter(|s| service_of(s) == key)
            .collect();
        Entry::new(&service, &own)
    });
    responder.zone.write().set(key, entry);
}
