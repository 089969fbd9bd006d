//! Facts about a service.

use std::net::IpAddr;

use ambit_kube_api::annotations;
use ambit_model::Text;
use ambit_model::service::{AppProtocol, IpFamilies};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;

use crate::key::ObjectKey;
use crate::labels::{Labels, labels_from};

/// A service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceFacts {
    /// Namespace and name.
    pub key: ObjectKey,
    /// Labels.
    pub labels: Labels,
    /// Virtual addresses; none for a headless service.
    pub vips: Vec<IpAddr>,
    /// Which pods serve it; without pairs, its EndpointSlices say.
    pub selector: Labels,
    /// TCP ports.
    pub ports: Vec<ServicePort>,
    /// Only endpoints on the client's node.
    pub node_local: bool,
    /// Preference among endpoints, if the service states one.
    pub distribution: Option<Distribution>,
    /// Endpoints that are not ready count too.
    pub publish_not_ready: bool,
    /// Address families.
    pub ip_families: Option<IpFamilies>,
}

/// A TCP port of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Name; may be empty when it is the only port.
    pub name: Text,
    /// Number.
    pub port: u16,
    /// The port of the pods.
    pub target: TargetPort,
    /// What is spoken on it.
    pub protocol: AppProtocol,
}

/// The port of the pods behind a service port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetPort {
    /// The same on all pods.
    Number(u16),
    /// Each pod's port of this name.
    Name(Text),
}

/// Which endpoints are preferred.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Distribution {
    /// Those in the client's zone, then region (`PreferSameZone`, also called `PreferClose`).
    SameZone,
    /// Those on the client's node, then as [`Distribution::SameZone`].
    SameNode,
}

impl Distribution {
    /// Reads the value of the field or annotation. Other values state no preference.
    pub fn parse(value: &str) -> Option<Self> {
        match value.to_ascii_lowercase().as_str() {
            "preferclose" | "prefersamezone" => Some(Self::SameZone),
            "prefersamenode" => Some(Self::SameNode),
            _ => None,
        }
    }
}

impl ServiceFacts {
    /// The facts about a service; none about an alias of an outside name (`ExternalName`).
    pub fn of(service: &core::Service) -> Option<Self> {
        let spec = service.spec.as_ref()?;
        if spec.type_.as_deref() == Some("ExternalName") {
            return None;
        }
        let own = service.annotations().get(annotations::TRAFFIC_DISTRIBUTION);
        let distribution = spec.traffic_distribution.as_ref().or(own);
        Some(Self {
            key: ObjectKey::of(service),
            labels: labels_from(service.metadata.labels.as_ref()),
            vips: vips(spec),
            selector: labels_from(spec.selector.as_ref()),
            ports: spec.ports.iter().flatten().filter_map(port).collect(),
            node_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
            distribution: distribution.and_then(|v| Distribution::parse(v)),
            publish_not_ready: spec.publish_not_ready_addresses.unwrap_or_default(),
            ip_families: ip_families(spec),
        })
    }
}

fn vips(spec: &core::ServiceSpec) -> Vec<IpAddr> {
    let listed = spec.cluster_ips.iter().flatten().map(String::as_str);
    let mut vips: Vec<IpAddr> = Vec::new();
    for text in listed.chain(spec.cluster_ip.as_deref()) {
        if let Ok(ip) = text.parse::<IpAddr>()
            && !vips.contains(&ip)
        {
            vips.push(ip);
        }
    }
    vips
}

fn ip_families(spec: &core::ServiceSpec) -> Option<IpFamilies> {
    let families: Vec<&str> = spec
        .ip_families
        .iter()
        .flatten()
        .map(String::as_str)
        .collect();
    match families[..] {
        ["IPv4"] => Some(IpFamilies::Ipv4),
        ["IPv6"] => Some(IpFamilies::Ipv6),
        [_, _] => Some(IpFamilies::Dual),
        _ => None,
    }
}

fn port(port: &core::ServicePort) -> Option<ServicePort> {
    if port.protocol.as_deref().unwrap_or("TCP") != "TCP" {
        return None;
    }
    let number = u16::try_from(port.port).ok()?;
    let target = match &port.target_port {
        None | Some(IntOrString::Int(0)) => TargetPort::Number(number),
        Some(IntOrString::Int(target)) => TargetPort::Number(u16::try_from(*target).ok()?),
        Some(IntOrString::String(name)) => match name.parse() {
            Ok(target) => TargetPort::Number(target),
            Err(_) => TargetPort::Name(name.as_str().into()),
        },
    };
    let name = port.name.as_deref().unwrap_or_default();
    Some(ServicePort {
        name: name.into(),
        port: number,
        target,
        protocol: app_protocol(port.app_protocol.as_deref(), name, number),
    })
}

/// What is spoken on a port: `appProtocol`, else the beginning of the port's name, else a few
/// numbers that are known to belong to protocols where the server speaks first.
fn app_protocol(app_protocol: Option<&str>, name: &str, port: u16) -> AppProtocol {
    if let Some(stated) = app_protocol.filter(|p| !p.is_empty()) {
        return match stated.to_ascii_lowercase().as_str() {
            "kubernetes.io/h2c" => AppProtocol::Http2,
            "kubernetes.io/ws" => AppProtocol::Http11,
            "kubernetes.io/wss" => AppProtocol::Tls,
            other => protocol_named(other),
        };
    }
    let name = name.to_ascii_lowercase();
    let is_grpc_web = name == "grpc-web" || name.starts_with("grpc-web-");
    let prefix = if is_grpc_web {
        "grpc-web"
    } else {
        name.split('-').next().unwrap_or_default()
    };
    match protocol_named(prefix) {
        AppProtocol::Unknown if matches!(port, 25 | 53 | 3306 | 27017) => AppProtocol::Tcp,
        protocol => protocol,
    }
}

fn protocol_named(name: &str) -> AppProtocol {
    match name {
        "http" => AppProtocol::Http11,
        "http2" => AppProtocol::Http2,
        "grpc" => AppProtocol::Grpc,
        "tcp" => AppProtocol::Tcp,
        "https" | "tls" => AppProtocol::Tls,
        _ => AppProtocol::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn facts(value: serde_json::Value) -> Option<ServiceFacts> {
        ServiceFacts::of(&serde_json::from_value(value).unwrap())
    }

    #[test]
    fn a_service_with_all_kinds_of_ports() {
        let service = facts(json!({
            "metadata": {"name": "cart", "namespace": "shop"},
            "spec": {
                "clusterIP": "10.96.0.5", "clusterIPs": ["10.96.0.5", "fd00::5"],
                "ipFamilies": ["IPv4", "IPv6"], "selector": {"app": "cart"},
                "ports": [
                    {"name": "http-web", "port": 80, "targetPort": 8080},
                    {"name": "named", "port": 81, "targetPort": "web"},
                    {"name": "text", "port": 82, "targetPort": "9000"},
                    {"name": "same", "port": 83},
                    {"name": "dns", "port": 53, "protocol": "UDP"}
                ]
            }
        }))
        .unwrap();
        assert_eq!(service.vips.len(), 2);
        assert_eq!(service.ip_families, Some(IpFamilies::Dual));
        let targets: Vec<_> = service.ports.iter().map(|p| p.target.clone()).collect();
        assert_eq!(
            targets,
            [
                TargetPort::Number(8080),
                TargetPort::Name("web".into()),
                TargetPort::Number(9000),
                TargetPort::Number(83)
            ]
        );
        assert_eq!(service.ports[0].protocol, AppProtocol::Http11);
    }

    #[test]
    fn headless_and_external() {
        let headless = facts(json!({
            "metadata": {"name": "h", "namespace": "a"}, "spec": {"clusterIP": "None", "clusterIPs": ["None"]}
        }));
        assert!(headless.unwrap().vips.is_empty());
        let external = facts(json!({
            "metadata": {"name": "e", "namespace": "a"},
            "spec": {"type": "ExternalName", "externalName": "example.com"}
        }));
        assert_eq!(external, None);
    }

    #[test]
    fn protocols() {
        for (stated, name, port, expected) in [
            (None, "http", 80, AppProtocol::Http11),
            (None, "http2-x", 80, AppProtocol::Http2),
            (None, "grpc-x", 80, AppProtocol::Grpc),
            (None, "grpc-web-x", 80, AppProtocol::Unknown),
            (None, "https", 443, AppProtocol::Tls),
            (None, "", 3306, AppProtocol::Tcp),
            (None, "mysql", 3306, AppProtocol::Tcp),
            (None, "web", 80, AppProtocol::Unknown),
            (Some("kubernetes.io/h2c"), "http", 80, AppProtocol::Http2),
            (Some("tcp"), "http", 80, AppProtocol::Tcp),
            (Some("example.com/mine"), "http", 80, AppProtocol::Unknown),
        ] {
            assert_eq!(
                app_protocol(stated, name, port),
                expected,
                "{stated:?} {name} {port}"
            );
        }
    }

    #[test]
    fn distribution_prefers_the_field() {
        let service = facts(json!({
            "metadata": {
                "name": "s", "namespace": "a",
                "annotations": {"networking.istio.io/traffic-distribution": "PreferSameNode"}
            },
            "spec": {"trafficDistribution": "PreferClose"}
        }));
        assert_eq!(service.unwrap().distribution, Some(Distribution::SameZone));
        assert_eq!(
            Distribution::parse("preferSAMEnode"),
            Some(Distribution::SameNode)
        );
        assert_eq!(Distribution::parse("any"), None);
    }
}
