//! Which endpoints a service has, as pure values: the pods that its selector
//! picks, their state, and the ports they answer on.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ObjectReference, Pod, Service, ServicePort};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::meta;

/// The most endpoints that one slice holds.
const MAX_ENDPOINTS: usize = 100;

/// Content of one slice.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Slice {
    /// `IPv4` or `IPv6`.
    pub(crate) family: &'static str,
    pub(crate) ports: Vec<EndpointPort>,
    pub(crate) endpoints: Vec<Endpoint>,
}

/// The slices of a service with a selector; `pods` are those of its namespace.
pub(crate) fn slices(service: &Service, pods: &[Arc<Pod>]) -> Vec<Slice> {
    let mut slices = Vec::new();
    for family in families(service) {
        let mut groups: BTreeMap<String, Slice> = BTreeMap::new();
        for pod in pods.iter().filter(|pod| selects(service, pod)) {
            let Some(address) = address(pod, family) else {
                continue;
            };
            let ports = ports(service, pod);
            // Pods that resolve a named port differently need slices of their own.
            let key = ports
                .iter()
                .map(|p| format!("{:?}={:?},", p.name, p.port))
                .collect();
            groups
                .entry(key)
                .or_insert_with(|| Slice {
                    family,
                    ports,
                    endpoints: Vec::new(),
                })
                .endpoints
                .push(endpoint(service, pod, address));
        }
        if groups.is_empty() {
            // A service without pods still says so, with its ports.
            let ports = Vec::new();
            slices.push(Slice {
                family,
                ports,
                endpoints: Vec::new(),
            });
        }
        for group in groups.into_values() {
            for endpoints in group.endpoints.chunks(MAX_ENDPOINTS) {
                slices.push(Slice {
                    family,
                    ports: group.ports.clone(),
                    endpoints: endpoints.to_vec(),
                });
            }
        }
    }
    slices
}

/// Whether the selector of the service picks the pod; without a selector
/// nobody's endpoints are managed here.
pub(crate) fn selects(service: &Service, pod: &Pod) -> bool {
    let Some(selector) = selector(service) else {
        return false;
    };
    let labels = pod.metadata.labels.as_ref();
    selector
        .iter()
        .all(|(key, value)| labels.and_then(|l| l.get(key)) == Some(value))
}

/// The selector of a service whose endpoints are managed here.
pub(crate) fn selector(service: &Service) -> Option<&BTreeMap<String, String>> {
    let spec = service.spec.as_ref()?;
    if spec.type_.as_deref() == Some("ExternalName") {
        return None;
    }
    spec.selector
        .as_ref()
        .filter(|selector| !selector.is_empty())
}

/// Whether the service has no address of its own.
pub(crate) fn is_headless(service: &Service) -> bool {
    service
        .spec
        .as_ref()
        .and_then(|spec| spec.cluster_ip.as_deref())
        == Some("None")
}

/// The families of a service, the first one first.
pub(crate) fn families(service: &Service) -> Vec<&'static str> {
    let given = service
        .spec
        .as_ref()
        .and_then(|spec| spec.ip_families.as_ref());
    let named = |name: &String| if name == "IPv6" { "IPv6" } else { "IPv4" };
    match given {
        Some(families) if !families.is_empty() => families.iter().map(named).collect(),
        _ => vec!["IPv4"],
    }
}

fn address(pod: &Pod, family: &str) -> Option<String> {
    if meta::is_finished(pod) {
        return None;
    }
    let status = pod.status.as_ref()?;
    let listed = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str());
    let all = listed.chain(status.pod_ip.as_deref());
    let fits = |text: &&str| match text.parse::<IpAddr>() {
        Ok(IpAddr::V4(_)) => family == "IPv4",
        Ok(IpAddr::V6(_)) => family == "IPv6",
        Err(_) => false,
    };
    all.into_iter().find(fits).map(str::to_owned)
}

fn endpoint(service: &Service, pod: &Pod, address: String) -> Endpoint {
    let spec = service.spec.clone().unwrap_or_default();
    let serving = meta::ready_since(pod).is_some();
    let terminating = pod.metadata.deletion_timestamp.is_some();
    let publish = spec.publish_not_ready_addresses == Some(true);
    let pod_spec = pod.spec.as_ref();
    let subdomain = pod_spec.and_then(|s| s.subdomain.as_deref());
    let named = subdomain.is_some() && subdomain == service.metadata.name.as_deref();
    Endpoint {
        addresses: vec![address],
        conditions: Some(EndpointConditions {
            ready: Some(publish || (serving && !terminating)),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname: pod_spec.filter(|_| named).and_then(|s| s.hostname.clone()),
        node_name: pod_spec.and_then(|s| s.node_name.clone()),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".to_owned()),
            name: pod.metadata.name.clone(),
            namespace: pod.metadata.namespace.clone(),
            uid: pod.metadata.uid.clone(),
            ..ObjectReference::default()
        }),
        ..Endpoint::default()
    }
}

fn ports(service: &Service, pod: &Pod) -> Vec<EndpointPort> {
    let given = service.spec.as_ref().and_then(|spec| spec.ports.as_ref());
    given
        .into_iter()
        .flatten()
        .filter_map(|port| {
            Some(EndpointPort {
                name: Some(port.name.clone().unwrap_or_default()),
                port: Some(target_port(port, pod)?),
                protocol: Some(protocol(port)),
                app_protocol: port.app_protocol.clone(),
            })
        })
        .collect()
}

fn protocol(port: &ServicePort) -> String {
    port.protocol.clone().unwrap_or_else(|| "TCP".to_owned())
}

/// The port number on the pod; a name that the pod does not have gives none.
fn target_port(port: &ServicePort, pod: &Pod) -> Option<i32> {
    match &port.target_port {
        None => Some(port.port),
        Some(IntOrString::Int(0)) => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(name)) => {
            let containers = pod.spec.iter().flat_map(|spec| {
                spec.containers
                    .iter()
                    .chain(spec.init_containers.iter().flatten())
            });
            containers
                .flat_map(|container| container.ports.iter().flatten())
                .find(|p| {
                    p.name.as_deref() == Some(name)
                        && p.protocol.as_deref().unwrap_or("TCP") == protocol(port)
                })
                .map(|p| p.container_port)
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use serde_json::{Value, json};

    pub(crate) fn service(spec: Value) -> Service {
        let service = json!({"metadata": {"name": "web", "namespace": "ns"}, "spec": spec});
        serde_json::from_value(service).expect("a service")
    }

    pub(crate) fn pod(name: &str, ip: &str, ready: bool, extra: Value) -> Arc<Pod> {
        let status = if ready { "True" } else { "False" };
        let mut spec = json!({"nodeName": "n1", "containers": [
            {"name": "c", "ports": [{"name": "http", "containerPort": 8080}]}]});
        if let (Some(spec), Some(extra)) = (spec.as_object_mut(), extra.as_object()) {
            spec.extend(extra.clone());
        }
        let pod = json!({
            "metadata": {"name": name, "namespace": "ns", "uid": name, "labels": {"app": "web"}},
            "spec": spec,
            "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "conditions": [
                {"type": "Ready", "status": status}]},
        });
        Arc::new(serde_json::from_value(pod).expect("a pod"))
    }

    #[test]
    fn states_of_pods_become_conditions() {
        let service = service(json!({"selector": {"app": "web"}, "ports": [{"port": 80}]}));
        let mut leaving = pod("c", "10.0.0.3", true, json!({}));
        Arc::make_mut(&mut leaving).metadata.deletion_timestamp = Some(meta::now());
        let mut failed = pod("d", "10.0.0.4", true, json!({}));
        Arc::make_mut(&mut failed)
            .status
            .as_mut()
            .expect("status")
            .phase = Some("Failed".into());
        let pods = [
            pod("a", "10.0.0.1", true, json!({})),
            pod("b", "10.0.0.2", false, json!({})),
            leaving,
            failed,
        ];
        let slices = slices(&service, &pods);
        assert_eq!(slices.len(), 1);
        let states: Vec<_> = slices[0]
            .endpoints
            .iter()
            .map(|e| e.conditions.clone().expect("conditions"))
            .map(|c| {
                (
                    c.ready == Some(true),
                    c.serving == Some(true),
                    c.terminating == Some(true),
                )
            })
            .collect();
        assert_eq!(
            states,
            [
                (true, true, false),
                (false, false, false),
                (false, true, true)
            ]
        );
        assert_eq!(slices[0].ports[0].port, Some(80));
        assert_eq!(slices[0].ports[0].name.as_deref(), Some(""));
    }

    #[test]
    fn named_ports_are_those_of_each_pod() {
        let service = service(json!({
            "selector": {"app": "web"},
            "ports": [{"name": "web", "port": 80, "targetPort": "http"}]}));
        let other = json!({"containers": [
            {"name": "c", "ports": [{"name": "http", "containerPort": 9090}]}]});
        let pods = [
            pod("a", "10.0.0.1", true, json!({})),
            pod("b", "10.0.0.2", true, other),
        ];
        let ports: Vec<_> = slices(&service, &pods)
            .iter()
            .map(|s| s.ports[0].port)
            .collect();
        assert_eq!(ports, [Some(8080), Some(9090)]);
    }

    #[test]
    fn headless_names_and_unready_addresses() {
        let service = service(json!({
            "clusterIP": "None", "publishNotReadyAddresses": true,
            "selector": {"app": "web"}, "ports": [{"port": 80}]}));
        let named = pod(
            "a",
            "10.0.0.1",
            false,
            json!({"hostname": "a", "subdomain": "web"}),
        );
        let other = pod(
            "b",
            "10.0.0.2",
            false,
            json!({"hostname": "b", "subdomain": "other"}),
        );
        let slices = slices(&service, &[named, other]);
        let endpoints = &slices[0].endpoints;
        assert_eq!(endpoints[0].hostname.as_deref(), Some("a"));
        assert_eq!(endpoints[1].hostname, None);
        assert_eq!(
            endpoints[0].conditions.as_ref().and_then(|c| c.ready),
            Some(true)
        );
    }

    #[test]
    fn large_services_are_cut_into_slices() {
        let service = service(json!({"selector": {"app": "web"}, "ports": [{"port": 80}]}));
        let pods: Vec<_> = (0..250)
            .map(|i| {
                pod(
                    &format!("p{i}"),
                    &format!("10.0.{}.{}", i / 200, i % 200),
                    true,
                    json!({}),
                )
            })
            .collect();
        let sizes: Vec<_> = slices(&service, &pods)
            .iter()
            .map(|s| s.endpoints.len())
            .collect();
        assert_eq!(sizes, [100, 100, 50]);
    }
}
