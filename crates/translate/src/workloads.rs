//! Pods, and endpoints that are no pods, → [`model::Workload`](ambit_model::Workload).

use std::collections::BTreeMap;
use std::net::IpAddr;

use ambit_kube_api::labels as keys;
use ambit_model::service::{NamespacedHostname, PortMap};
use ambit_model::workload::{
    GatewayAddress, HealthStatus, Locality, NetworkMode, Protocol, WorkloadType,
};
use ambit_model::{Text, Workload};

use crate::facts::{Endpoint, PodFacts, ServiceFacts, SliceFacts, TargetPort};
use crate::key::ObjectKey;
use crate::labels::first;
use crate::mesh::Mesh;
use crate::services::service_key;

/// Why a pod serves a service.
#[derive(Clone, Copy, Debug)]
pub enum Serves<'a> {
    /// The selector of the service selects it.
    Selected(&'a ServiceFacts),
    /// A slice of a service without selector refers to it.
    Listed(&'a ServiceFacts, &'a SliceFacts),
}

/// Everything that the workload of a pod depends on.
#[derive(Debug)]
pub struct PodInput<'a> {
    /// The pod.
    pub pod: &'a PodFacts,
    /// Where its node is.
    pub locality: Option<&'a Locality>,
    /// Services that it serves.
    pub services: Vec<Serves<'a>>,
    /// Keys of the policies that select it.
    pub policies: Vec<Text>,
    /// The waypoint that looks into what is addressed to the pod itself.
    pub waypoint: Option<GatewayAddress>,
}

/// The key under which proxies know the workload of a pod.
pub fn pod_uid(mesh: &Mesh, pod: &ObjectKey) -> Text {
    format!("{}//Pod/{}/{}", mesh.cluster_id, pod.namespace, pod.name).into()
}

/// The workload of a pod, once it has an address and as long as it has not come to its end.
pub fn pod_workload(mesh: &Mesh, input: &PodInput<'_>) -> Option<Workload> {
    let pod = input.pod;
    if pod.addresses.is_empty() || pod.ended {
        return None;
    }
    let named = |keys: &[&str], otherwise: &str| {
        first(&pod.labels, keys)
            .cloned()
            .unwrap_or_else(|| otherwise.into())
    };
    Some(Workload {
        uid: pod_uid(mesh, &pod.key),
        name: pod.key.name.clone(),
        namespace: pod.key.namespace.clone(),
        addresses: pod.addresses.clone(),
        network: mesh.network.clone(),
        protocol: if pod.in_mesh() {
            Protocol::Hbone
        } else {
            Protocol::Tcp
        },
        trust_domain: mesh.trust_domain.clone(),
        service_account: pod.service_account.clone(),
        node: pod.node.clone(),
        canonical_name: named(
            &[keys::CANONICAL_NAME, keys::APP_NAME, keys::APP],
            &pod.workload_name,
        ),
        canonical_revision: named(
            &[keys::CANONICAL_REVISION, keys::APP_VERSION, keys::VERSION],
            "latest",
        ),
        workload_type: WorkloadType::Pod,
        workload_name: pod.workload_name.clone(),
        native_tunnel: pod.native_tunnel,
        services: input
            .services
            .iter()
            .map(|s| served(mesh, pod, s))
            .collect(),
        authorization_policies: input.policies.clone(),
        waypoint: input.waypoint.clone(),
        status: if pod.ready {
            HealthStatus::Healthy
        } else {
            HealthStatus::Unhealthy
        },
        cluster_id: mesh.cluster_id.clone(),
        locality: input.locality.cloned().unwrap_or_default(),
        network_mode: if pod.host_network {
            NetworkMode::HostNetwork
        } else {
            NetworkMode::Standard
        },
        ..Workload::default()
    })
}

/// The service and the pod's target port of each of its ports. A port whose target has a name that
/// the pod does not have is left out: the pod does not serve it.
fn served(mesh: &Mesh, pod: &PodFacts, serves: &Serves<'_>) -> (NamespacedHostname, PortMap) {
    let (service, slice) = match *serves {
        Serves::Selected(service) => (service, None),
        Serves::Listed(service, slice) => (service, Some(slice)),
    };
    let ports = service.ports.iter().filter_map(|p| {
        let by_slice = slice.and_then(|s| s.port(&p.name));
        let target = by_slice.or_else(|| match &p.target {
            TargetPort::Number(target) => Some(*target),
            TargetPort::Name(name) => pod.port(name),
        })?;
        Some((p.port, target))
    });
    (service_key(mesh, service), ports.collect())
}

/// The key under which proxies know an endpoint that is no pod.
pub fn endpoint_uid(mesh: &Mesh, slice: &ObjectKey, address: IpAddr) -> Text {
    let (cluster, namespace, name) = (&mesh.cluster_id, &slice.namespace, &slice.name);
    format!("{cluster}/discovery.k8s.io/EndpointSlice/{namespace}/{name}/{address}").into()
}

/// The workload of an endpoint that is no pod. Nothing is known about who it is, and its address
/// may be anybody's, so it is found as an endpoint of its service only.
pub fn endpoint_workload(
    mesh: &Mesh,
    service: &ServiceFacts,
    slice: &SliceFacts,
    endpoint: &Endpoint,
) -> Option<Workload> {
    if endpoint.pod.is_some() {
        return None;
    }
    let address = *endpoint.addresses.first()?;
    let ports: PortMap = service
        .ports
        .iter()
        .filter_map(|p| Some((p.port, slice.port(&p.name)?)))
        .collect();
    Some(Workload {
        uid: endpoint_uid(mesh, &slice.key, address),
        name: slice.key.name.clone(),
        namespace: slice.key.namespace.clone(),
        addresses: endpoint.addresses.clone(),
        network: mesh.network.clone(),
        trust_domain: mesh.trust_domain.clone(),
        services: BTreeMap::from([(service_key(mesh, service), ports)]),
        canonical_name: service.key.name.clone(),
        canonical_revision: "latest".into(),
        workload_type: WorkloadType::Pod,
        workload_name: service.key.name.clone(),
        status: if endpoint.ready {
            HealthStatus::Healthy
        } else {
            HealthStatus::Unhealthy
        },
        cluster_id: mesh.cluster_id.clone(),
        network_mode: NetworkMode::HostNetwork,
        ..Workload::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(extra: impl FnOnce(&mut serde_json::Value)) -> PodFacts {
        let mut object = json!({
            "metadata": {
                "name": "cart-5d8b-x", "generateName": "cart-5d8b-", "namespace": "shop", "uid": "u1",
                "labels": {"app": "cart", "version": "v2", "pod-template-hash": "5d8b"},
                "annotations": {"ambient.istio.io/redirection": "enabled"},
                "ownerReferences": [
                    {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "cart-5d8b", "uid": "r", "controller": true}
                ]
            },
            "spec": {
                "nodeName": "n1", "serviceAccountName": "cart",
                "containers": [{"name": "c", "ports": [{"name": "web", "containerPort": 8080}]}]
            },
            "status": {
                "phase": "Running", "podIPs": [{"ip": "10.0.0.1"}],
                "conditions": [{"type": "Ready", "status": "True"}]
            }
        });
        extra(&mut object);
        PodFacts::of(&serde_json::from_value(object).unwrap())
    }

    fn service(ports: serde_json::Value) -> ServiceFacts {
        let object = json!({
            "metadata": {"name": "cart", "namespace": "shop"},
            "spec": {"clusterIP": "10.96.0.5", "ports": ports}
        });
        ServiceFacts::of(&serde_json::from_value(object).unwrap()).unwrap()
    }

    fn slice(endpoints: serde_json::Value) -> SliceFacts {
        let object = json!({
            "metadata": {"name": "cart-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "cart"}},
            "addressType": "IPv4", "endpoints": endpoints,
            "ports": [{"name": "http", "port": 9999}]
        });
        SliceFacts::of(&serde_json::from_value(object).unwrap()).unwrap()
    }

    fn translate(pod: &PodFacts, services: Vec<Serves<'_>>) -> Option<Workload> {
        let locality = Locality {
            region: "r".into(),
            zone: "z".into(),
            subzone: "".into(),
        };
        let input = PodInput {
            pod,
            locality: Some(&locality),
            services,
            policies: vec!["shop/only-web".into()],
            waypoint: None,
        };
        pod_workload(&Mesh::default(), &input)
    }

    #[test]
    fn a_pod_of_a_deployment() {
        let ports = json!([
            {"name": "http", "port": 80, "targetPort": 8080},
            {"name": "named", "port": 81, "targetPort": "web"},
            {"name": "absent", "port": 82, "targetPort": "admin"}
        ]);
        let (pod, service) = (pod(|_| {}), service(ports));
        insta::assert_debug_snapshot!(translate(&pod, vec![Serves::Selected(&service)]).unwrap());
    }

    #[test]
    fn only_pods_that_can_be_reached() {
        let none = |extra: fn(&mut serde_json::Value)| translate(&pod(extra), vec![]).is_none();
        assert!(none(|p| p["status"]["podIPs"] = json!([])));
        assert!(none(|p| p["status"]["phase"] = json!("Succeeded")));
        assert!(none(|p| p["status"]["phase"] = json!("Failed")));
        assert!(!none(|p| p["status"]["phase"] = json!("Pending")));
    }

    #[test]
    fn protocol_follows_capture() {
        let protocol =
            |extra: fn(&mut serde_json::Value)| translate(&pod(extra), vec![]).unwrap().protocol;
        assert_eq!(protocol(|_| {}), Protocol::Hbone);
        assert_eq!(
            protocol(|p| p["metadata"]["annotations"] = json!({})),
            Protocol::Tcp
        );
        assert_eq!(
            protocol(|p| {
                p["metadata"]["annotations"] = json!({});
                p["metadata"]["labels"]["networking.istio.io/tunnel"] = json!("http");
            }),
            Protocol::Hbone
        );
    }

    #[test]
    fn health_and_network() {
        let workload = translate(&pod(|p| p["status"]["conditions"] = json!([])), vec![]).unwrap();
        assert_eq!(workload.status, HealthStatus::Unhealthy);
        let workload = translate(&pod(|p| p["spec"]["hostNetwork"] = json!(true)), vec![]).unwrap();
        assert_eq!(workload.network_mode, NetworkMode::HostNetwork);
    }

    #[test]
    fn a_listed_pod_takes_the_ports_of_the_slice() {
        let service = service(json!([{"name": "http", "port": 80, "targetPort": 8080}]));
        let slice = slice(
            json!([{"addresses": ["10.0.0.1"], "targetRef": {"kind": "Pod", "name": "cart-5d8b-x"}}]),
        );
        let workload = translate(&pod(|_| {}), vec![Serves::Listed(&service, &slice)]).unwrap();
        let key = NamespacedHostname::new("shop", "cart.shop.svc.cluster.local");
        assert_eq!(workload.services[&key], PortMap::from([(80, 9999)]));
        assert!(
            endpoint_workload(&Mesh::default(), &service, &slice, &slice.endpoints[0]).is_none()
        );
    }

    #[test]
    fn an_endpoint_that_is_no_pod() {
        let service = service(json!([{"name": "http", "port": 80}]));
        let slice = slice(json!([{"addresses": ["192.0.2.1"], "conditions": {"ready": false}}]));
        insta::assert_debug_snapshot!(
            endpoint_workload(&Mesh::default(), &service, &slice, &slice.endpoints[0]).unwrap()
        );
    }
}
