//! Health check node ports: by them an outer load balancer finds the nodes
//! that have endpoints of a service with `externalTrafficPolicy: Local`.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Response, StatusCode};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Service;
use parking_lot::Mutex;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::informer::ObjectKey;

/// Tells how many endpoints a node has, as kube-proxy does.
const WEIGHT: &str = "x-load-balancing-endpoint-weight";
/// How long to wait before a port that is taken is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// The ports that are served, by service.
#[derive(Default)]
pub(super) struct Health {
    served: Mutex<HashMap<ObjectKey, Served>>,
}

struct Served {
    port: u16,
    local: Arc<AtomicUsize>,
    /// Ends with this value.
    _listeners: JoinSet<()>,
}

impl Health {
    /// Serves the port of a service that has one, on these addresses; `local`
    /// is the number of endpoints on this node.
    pub(super) fn follow(
        &self,
        key: &ObjectKey,
        service: Option<&Service>,
        local: usize,
        addresses: &[IpAddr],
    ) {
        let mut served = self.served.lock();
        let Some(port) = service.and_then(wanted) else {
            served.remove(key);
            return;
        };
        if let Some(known) = served.get(key).filter(|known| known.port == port) {
            known.local.store(local, Ordering::Relaxed);
            return;
        }
        let local = Arc::new(AtomicUsize::new(local));
        let mut listeners = JoinSet::new();
        for address in addresses {
            let at = SocketAddr::new(*address, port);
            listeners.spawn(listen(at, key.clone(), local.clone()));
        }
        let new = Served {
            port,
            local,
            _listeners: listeners,
        };
        served.insert(key.clone(), new);
    }
}

fn wanted(service: &Service) -> Option<u16> {
    let spec = service.spec.as_ref()?;
    let local = spec.type_.as_deref() == Some("LoadBalancer")
        && spec.external_traffic_policy.as_deref() == Some("Local");
    let port = spec.health_check_node_port.filter(|_| local)?;
    u16::try_from(port).ok().filter(|port| *port > 0)
}

async fn listen(address: SocketAddr, key: ObjectKey, local: Arc<AtomicUsize>) {
    let listener = loop {
        match TcpListener::bind(address).await {
            Ok(listener) => break listener,
            Err(error) => {
                tracing::warn!("no health check of {key} on {address}: {error}");
                tokio::time::sleep(RETRY).await;
            }
        }
    };
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(RETRY).await;
            continue;
        };
        let (key, local) = (key.clone(), local.clone());
        connections.spawn(async move {
            let service = service_fn(move |_| {
                let response = answer(&key, local.load(Ordering::Relaxed));
                std::future::ready(Ok::<_, Infallible>(response))
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service);
            if let Err(error) = connection.await {
                tracing::debug!("health check: {error}");
            }
        });
    }
}

fn answer(key: &ObjectKey, local: usize) -> Response<Full<Bytes>> {
    let body = json!({
        "service": {"namespace": key.namespace, "name": key.name},
        "localEndpoints": local, "serviceProxyHealthy": true});
    let mut response = Response::new(Full::new(body.to_string().into()));
    if local == 0 {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(WEIGHT, HeaderValue::from(local));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_local_load_balancers_have_one() {
        let port = |kind: &str, policy: &str| {
            let service = json!({"metadata": {}, "spec": {
                "type": kind, "externalTrafficPolicy": policy, "healthCheckNodePort": 30000}});
            wanted(&serde_json::from_value(service).expect("a service"))
        };
        assert_eq!(port("LoadBalancer", "Local"), Some(30000));
        assert_eq!(port("LoadBalancer", "Cluster"), None);
        assert_eq!(port("NodePort", "Local"), None);
    }

    #[test]
    fn a_node_without_endpoints_is_not_healthy() {
        let key = ObjectKey::new("ns", "web");
        assert_eq!(answer(&key, 2).status(), StatusCode::OK);
        assert_eq!(answer(&key, 2).headers()[WEIGHT], "2");
        assert_eq!(answer(&key, 0).status(), StatusCode::SERVICE_UNAVAILABLE);
    }
}
