//! Environment variables of services, as the kubelet gives them to containers: the API server's
//! address always, the namespace's services unless the pod declines (`enableServiceLinks: false`).

use futures_util::StreamExt;
use k8s_openapi::api::core::v1::Service;
use kube::Api;
use kube::runtime::reflector::{self, Store};
use kube::runtime::{WatchStreamExt, watcher};
use tokio::sync::watch;

use super::node::API_TIMEOUT;

/// The services of the cluster, watched.
pub(crate) struct Services {
    store: Store<Service>,
    /// Whether the first list is complete. Not the store's own way of waiting, which wakes only one
    /// of several waiters.
    listed: watch::Receiver<bool>,
    task: tokio::task::AbortHandle,
}

impl Services {
    /// Starts watching.
    pub(crate) fn watch(client: kube::Client) -> Self {
        let (store, writer) = reflector::store();
        let stream = watcher(Api::<Service>::all(client), watcher::Config::default());
        let mut stream = reflector::reflector(writer, stream)
            .default_backoff()
            .boxed();
        let (done, listed) = watch::channel(false);
        let task = tokio::spawn(async move {
            while let Some(event) = stream.next().await {
                match event {
                    Ok(watcher::Event::InitDone) => drop(done.send_replace(true)),
                    Ok(_) => {}
                    Err(error) => tracing::debug!("watching services: {error}"),
                }
            }
        });
        Self {
            store,
            listed,
            task: task.abort_handle(),
        }
    }

    /// Variables for a pod, once the first list is there.
    ///
    /// # Errors
    /// The API server has not answered yet: starting without the variables would be wrong.
    pub(crate) async fn environment(
        &self,
        namespace: &str,
        links: bool,
    ) -> Result<Vec<(String, String)>, String> {
        let mut listed = self.listed.clone();
        match tokio::time::timeout(API_TIMEOUT, listed.wait_for(|listed| *listed)).await {
            Ok(Ok(_)) => {}
            _ => return Err("services have not been listed at least once".to_string()),
        }
        let mut services = self.store.state();
        services.sort_by_key(|service| service.metadata.name.clone());
        Ok(services
            .iter()
            .filter(|service| {
                let of = service.metadata.namespace.as_deref();
                let is_api =
                    of == Some("default") && service.metadata.name.as_deref() == Some("kubernetes");
                is_api || (links && of == Some(namespace))
            })
            .flat_map(|service| variables(service))
            .collect())
    }
}

impl Drop for Services {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// `{SVC}_SERVICE_HOST`, `…_PORT` and the Docker-link form of each port.
fn variables(service: &Service) -> Vec<(String, String)> {
    let Some(spec) = &service.spec else {
        return Vec::new();
    };
    let Some(host) = spec
        .cluster_ip
        .as_deref()
        .filter(|ip| !ip.is_empty() && *ip != "None")
    else {
        return Vec::new();
    };
    let name = service.metadata.name.clone().unwrap_or_default();
    let prefix = name.to_ascii_uppercase().replace(['-', '.'], "_");
    let ports = spec.ports.clone().unwrap_or_default();
    let Some(first) = ports.first() else {
        return Vec::new();
    };
    let authority = match host.contains(':') {
        true => format!("[{host}]"),
        false => host.to_string(),
    };
    let url = |port: i32, protocol: &str| {
        format!("{}://{authority}:{port}", protocol.to_ascii_lowercase())
    };
    let protocol = |text: &Option<String>| text.clone().unwrap_or_else(|| "TCP".to_string());
    let mut list = vec![
        (format!("{prefix}_SERVICE_HOST"), host.to_string()),
        (format!("{prefix}_SERVICE_PORT"), first.port.to_string()),
    ];
    for port in &ports {
        if let Some(name) = port.name.as_deref().filter(|name| !name.is_empty()) {
            let name = name.to_ascii_uppercase().replace('-', "_");
            list.push((
                format!("{prefix}_SERVICE_PORT_{name}"),
                port.port.to_string(),
            ));
        }
    }
    list.push((
        format!("{prefix}_PORT"),
        url(first.port, &protocol(&first.protocol)),
    ));
    for port in &ports {
        let kind = protocol(&port.protocol);
        let base = format!("{prefix}_PORT_{}_{kind}", port.port);
        list.push((base.clone(), url(port.port, &kind)));
        list.push((format!("{base}_PROTO"), kind.to_ascii_lowercase()));
        list.push((format!("{base}_PORT"), port.port.to_string()));
        list.push((format!("{base}_ADDR"), host.to_string()));
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_as_kubernetes_gives_them() {
        let service: Service = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "my-api", "namespace": "n"},
            "spec": {"clusterIP": "10.96.0.1", "ports": [{"name": "https", "port": 443}]}
        }))
        .unwrap();
        let list = variables(&service);
        let get = |name: &str| {
            list.iter()
                .find(|(key, _)| key == name)
                .map(|(_, value)| value.as_str())
        };
        assert_eq!(get("MY_API_SERVICE_HOST"), Some("10.96.0.1"));
        assert_eq!(get("MY_API_SERVICE_PORT"), Some("443"));
        assert_eq!(get("MY_API_SERVICE_PORT_HTTPS"), Some("443"));
        assert_eq!(get("MY_API_PORT"), Some("tcp://10.96.0.1:443"));
        assert_eq!(get("MY_API_PORT_443_TCP_ADDR"), Some("10.96.0.1"));
        let headless: Service = serde_json::from_value(
            serde_json::json!({"metadata": {"name": "h"}, "spec": {"clusterIP": "None"}}),
        )
        .unwrap();
        assert!(variables(&headless).is_empty());
    }
}
