//! Where connections to service addresses go, as plain values: the part of
//! Services and EndpointSlices that a node's rules depend on, and no more.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Service, ServicePort};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

/// Label by which a service asks for another proxy than this one.
const OTHER_PROXY: &str = "service.kubernetes.io/service-proxy-name";
/// Label that names the service of a slice.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// A transport protocol of a service port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    fn parse(text: Option<&str>) -> Option<Self> {
        match text.unwrap_or("TCP") {
            "TCP" => Some(Self::Tcp),
            "UDP" => Some(Self::Udp),
            "SCTP" => Some(Self::Sctp),
            _ => None,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}

/// What a client connects to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Front {
    /// An address of a service: cluster IP, load balancer or external IP.
    Address(Ipv4Addr, Protocol, u16),
    /// A port on every address of this node.
    NodePort(Protocol, u16),
}

impl Front {
    /// The protocol.
    pub fn protocol(&self) -> Protocol {
        match self {
            Self::Address(_, protocol, _) | Self::NodePort(protocol, _) => *protocol,
        }
    }
}

impl fmt::Display for Front {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address, protocol, port) => write!(f, "{address}/{protocol}/{port}"),
            Self::NodePort(protocol, port) => write!(f, "node/{protocol}/{port}"),
        }
    }
}

/// All fronts with the endpoints behind them; none means "refuse".
pub type Rules = BTreeMap<Front, BTreeSet<SocketAddrV4>>;

/// The rules of the node `node` for these services.
pub fn rules(
    services: &[Arc<Service>],
    slices: &[Arc<EndpointSlice>],
    node: Option<&str>,
) -> Rules {
    let mut by_service: BTreeMap<(&str, &str), Vec<&EndpointSlice>> = BTreeMap::new();
    for slice in slices.iter().filter(|slice| slice.address_type == "IPv4") {
        let service = slice
            .metadata
            .labels
            .as_ref()
            .and_then(|labels| labels.get(SERVICE_NAME));
        if let Some(name) = service {
            let namespace = slice.metadata.namespace.as_deref().unwrap_or_default();
            by_service.entry((namespace, name)).or_default().push(slice);
        }
    }
    let mut rules = Rules::new();
    for service in services.iter().filter(|service| is_proxied(service)) {
        let key = (
            service.metadata.namespace.as_deref().unwrap_or_default(),
            service.metadata.name.as_deref().unwrap_or_default(),
        );
        let slices = by_service.get(&key).map(Vec::as_slice).unwrap_or_default();
        add_service(&mut rules, service, slices, node);
    }
    rules
}

fn is_proxied(service: &Service) -> bool {
    let labels = service.metadata.labels.as_ref();
    let Some(spec) = &service.spec else {
        return false;
    };
    !labels.is_some_and(|labels| labels.contains_key(OTHER_PROXY))
        && spec.type_.as_deref() != Some("ExternalName")
        && spec
            .cluster_ip
            .as_deref()
            .is_some_and(|ip| !ip.is_empty() && ip != "None")
}

fn add_service(
    rules: &mut Rules,
    service: &Service,
    slices: &[&EndpointSlice],
    node: Option<&str>,
) {
    let Some(spec) = &service.spec else { return };
    let local_only = spec.internal_traffic_policy.as_deref() == Some("Local");
    for port in spec.ports.iter().flatten() {
        let (Some(protocol), Ok(number)) = (
            Protocol::parse(port.protocol.as_deref()),
            u16::try_from(port.port),
        ) else {
            continue;
        };
        let all = endpoints(slices, port, protocol, None);
        let internal = if local_only {
            endpoints(slices, port, protocol, node)
        } else {
            all.clone()
        };
        for address in cluster_addresses(service) {
            rules.insert(Front::Address(address, protocol, number), internal.clone());
        }
        for address in outer_addresses(service) {
            rules.insert(Front::Address(address, protocol, number), all.clone());
        }
        let node_port = port
            .node_port
            .and_then(|port| u16::try_from(port).ok())
            .filter(|p| *p > 0);
        if let Some(node_port) = node_port {
            rules.insert(Front::NodePort(protocol, node_port), all.clone());
        }
    }
}

fn cluster_addresses(service: &Service) -> Vec<Ipv4Addr> {
    let spec = service.spec.as_ref();
    let listed = spec
        .and_then(|spec| spec.cluster_ips.clone())
        .unwrap_or_default();
    let first = spec.and_then(|spec| spec.cluster_ip.clone());
    let mut all: Vec<_> = listed
        .iter()
        .chain(&first)
        .filter_map(|ip| ip.parse().ok())
        .collect();
    all.dedup();
    all
}

fn outer_addresses(service: &Service) -> Vec<Ipv4Addr> {
    let external = service
        .spec
        .as_ref()
        .and_then(|spec| spec.external_ips.clone());
    let ingress = service
        .status
        .as_ref()
        .and_then(|status| status.load_balancer.as_ref())
        .and_then(|balancer| balancer.ingress.clone())
        .unwrap_or_default();
    // An ingress of mode "Proxy" wants to see the packets itself.
    let balanced = ingress
        .into_iter()
        .filter(|ingress| ingress.ip_mode.as_deref() != Some("Proxy"))
        .filter_map(|ingress| ingress.ip);
    external
        .into_iter()
        .flatten()
        .chain(balanced)
        .filter_map(|ip| ip.parse().ok())
        .collect()
}

/// Ready endpoints of a port; when there are none, those that still serve
/// while they terminate. `node` limits them to one node.
fn endpoints(
    slices: &[&EndpointSlice],
    port: &ServicePort,
    protocol: Protocol,
    node: Option<&str>,
) -> BTreeSet<SocketAddrV4> {
    let name = port.name.as_deref().unwrap_or("");
    let (mut ready, mut serving) = (BTreeSet::new(), BTreeSet::new());
    for slice in slices {
        let number = slice
            .ports
            .iter()
            .flatten()
            .find(|p| {
                p.name.as_deref().unwrap_or("") == name
                    && Protocol::parse(p.protocol.as_deref()) == Some(protocol)
            })
            .and_then(|p| u16::try_from(p.port?).ok());
        let Some(number) = number else { continue };
        for endpoint in &slice.endpoints {
            if node.is_some_and(|node| endpoint.node_name.as_deref() != Some(node)) {
                continue;
            }
            let addresses = endpoint.addresses.iter().filter_map(|a| a.parse().ok());
            let sockets = addresses.map(|address| SocketAddrV4::new(address, number));
            if is_ready(endpoint) {
                ready.extend(sockets);
            } else if is_leaving_but_serving(endpoint) {
                serving.extend(sockets);
            }
        }
    }
    if ready.is_empty() { serving } else { ready }
}

fn is_ready(endpoint: &Endpoint) -> bool {
    // An unknown state counts as ready (discovery.k8s.io/v1).
    endpoint
        .conditions
        .as_ref()
        .and_then(|conditions| conditions.ready)
        .unwrap_or(true)
}

fn is_leaving_but_serving(endpoint: &Endpoint) -> bool {
    endpoint
        .conditions
        .as_ref()
        .is_some_and(|c| c.serving == Some(true) && c.terminating == Some(true))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn service(spec: Value, status: Value) -> Arc<Service> {
        let object =
            json!({"metadata": {"name": "web", "namespace": "ns"}, "spec": spec, "status": status});
        Arc::new(serde_json::from_value(object).expect("a service"))
    }

    fn slice(port: u16, endpoints: Value) -> Arc<EndpointSlice> {
        let object = json!({
            "metadata": {"name": "web-1", "namespace": "ns", "labels": {SERVICE_NAME: "web"}},
            "addressType": "IPv4", "endpoints": endpoints,
            "ports": [{"name": "", "port": port, "protocol": "TCP"}]});
        Arc::new(serde_json::from_value(object).expect("a slice"))
    }

    fn endpoint(address: &str, ready: bool, serving: bool, terminating: bool) -> Value {
        json!({"addresses": [address], "nodeName": address,
            "conditions": {"ready": ready, "serving": serving, "terminating": terminating}})
    }

    fn shown(rules: &Rules) -> Vec<String> {
        rules
            .iter()
            .map(|(front, endpoints)| {
                let all: Vec<_> = endpoints.iter().map(ToString::to_string).collect();
                format!("{front} -> {}", all.join(" "))
            })
            .collect()
    }

    #[test]
    fn every_address_of_a_service_leads_to_its_ready_endpoints() {
        let service = service(
            json!({"clusterIP": "10.96.0.5", "clusterIPs": ["10.96.0.5"], "type": "LoadBalancer",
                "externalIPs": ["192.0.2.9"],
                "ports": [{"port": 80, "targetPort": 8080, "nodePort": 30080}]}),
            json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}),
        );
        let slice = slice(
            8080,
            json!([
                endpoint("10.0.0.1", true, true, false),
                endpoint("10.0.0.2", false, false, false)
            ]),
        );
        assert_eq!(
            shown(&rules(&[service], &[slice], None)),
            [
                "10.96.0.5/tcp/80 -> 10.0.0.1:8080",
                "192.0.2.1/tcp/80 -> 10.0.0.1:8080",
                "192.0.2.9/tcp/80 -> 10.0.0.1:8080",
                "node/tcp/30080 -> 10.0.0.1:8080",
            ]
        );
    }

    #[test]
    fn leaving_endpoints_serve_only_when_no_other_is_left() {
        let service = service(
            json!({"clusterIP": "10.96.0.5", "ports": [{"port": 80}]}),
            json!({}),
        );
        let leaving = endpoint("10.0.0.1", false, true, true);
        let alone = slice(80, json!([leaving.clone()]));
        assert_eq!(
            shown(&rules(std::slice::from_ref(&service), &[alone], None)),
            ["10.96.0.5/tcp/80 -> 10.0.0.1:80"]
        );
        let both = slice(
            80,
            json!([leaving, endpoint("10.0.0.2", true, true, false)]),
        );
        assert_eq!(
            shown(&rules(&[service], &[both], None)),
            ["10.96.0.5/tcp/80 -> 10.0.0.2:80"]
        );
    }

    #[test]
    fn headless_and_foreign_services_have_no_rules_and_empty_ones_refuse() {
        let headless = service(
            json!({"clusterIP": "None", "ports": [{"port": 80}]}),
            json!({}),
        );
        let external = service(
            json!({"type": "ExternalName", "externalName": "x"}),
            json!({}),
        );
        let empty = service(
            json!({"clusterIP": "10.96.0.5", "ports": [{"port": 80}]}),
            json!({}),
        );
        let rules = rules(&[headless, external, empty], &[], None);
        assert_eq!(shown(&rules), ["10.96.0.5/tcp/80 -> "]);
    }

    #[test]
    fn internal_traffic_can_be_kept_on_the_node() {
        let spec = json!({"clusterIP": "10.96.0.5", "internalTrafficPolicy": "Local", "ports": [{"port": 80}]});
        let slice = slice(
            80,
            json!([
                endpoint("10.0.0.1", true, true, false),
                endpoint("10.0.0.2", true, true, false)
            ]),
        );
        let rules = rules(&[service(spec, json!({}))], &[slice], Some("10.0.0.2"));
        assert_eq!(shown(&rules), ["10.96.0.5/tcp/80 -> 10.0.0.2:80"]);
    }
}
