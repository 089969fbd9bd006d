//! Where connections to services go, as plain values: the part of a Service
//! and its EndpointSlices that a node's rules depend on, and no more.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

use crate::nft::{Family, Protocol};

/// Label by which a service asks for another proxy than this one.
const OTHER_PROXY: &str = "service.kubernetes.io/service-proxy-name";
/// How long a client stays with an endpoint when the service does not say.
const AFFINITY_SECONDS: u32 = 10_800;

/// What a client connects to. Two services never have the same one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Front {
    /// An address and port: the service's own, a load balancer's, or one that
    /// somebody else routes here.
    Address(IpAddr, Protocol, u16),
    /// A port on this node's addresses.
    NodePort(Protocol, u16),
}

/// Where a port of a service leads, in one family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// Its name in rules: `namespace/service/protocol/port`.
    pub name: String,
    /// Its protocol.
    pub protocol: Protocol,
    /// The service's own address.
    pub cluster: Option<IpAddr>,
    /// Its port there and at other addresses.
    pub number: u16,
    /// Addresses of load balancers.
    pub balancers: BTreeSet<IpAddr>,
    /// Addresses that others route here.
    pub externals: BTreeSet<IpAddr>,
    /// The port on nodes.
    pub node_port: Option<u16>,
    /// All endpoints that can be used.
    pub endpoints: BTreeSet<SocketAddr>,
    /// Those on this node.
    pub local: BTreeSet<SocketAddr>,
    /// Whether the own address leads to this node's endpoints alone.
    pub internal_local: bool,
    /// Whether all other fronts do; they show the client's address then.
    pub external_local: bool,
    /// For how many seconds a client stays with its endpoint.
    pub affinity: Option<u32>,
    /// Who may use load balancers' addresses; empty for everybody.
    pub sources: BTreeSet<IpNet>,
}

impl Port {
    /// Fronts other than the own address.
    pub fn outer(&self) -> impl Iterator<Item = Front> {
        let addresses = self.balancers.iter().chain(&self.externals);
        let fronts = addresses.map(|ip| Front::Address(*ip, self.protocol, self.number));
        let node_port = self
            .node_port
            .map(|port| Front::NodePort(self.protocol, port));
        fronts.chain(node_port)
    }

    /// Where clients connect to, on the node with this address.
    pub fn addresses(&self, node: Option<IpAddr>) -> impl Iterator<Item = SocketAddr> {
        self.fronts().filter_map(move |front| match front {
            Front::Address(address, _, port) => Some(SocketAddr::new(address, port)),
            Front::NodePort(_, port) => node.map(|node| SocketAddr::new(node, port)),
        })
    }

    /// All fronts.
    pub fn fronts(&self) -> impl Iterator<Item = Front> {
        let own = self.cluster;
        own.map(|ip| Front::Address(ip, self.protocol, self.number))
            .into_iter()
            .chain(self.outer())
    }
}

/// Where the ports of a service lead in a family, seen from the node `node`
/// (none: from nowhere in particular, every endpoint is as near). `slices`
/// are its own.
pub fn ports(
    service: &Service,
    slices: &[&EndpointSlice],
    family: Family,
    node: Option<&str>,
) -> Vec<Port> {
    let Some(spec) = service.spec.as_ref().filter(|_| is_proxied(service)) else {
        return Vec::new();
    };
    let address_type = match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    };
    let mut slices = slices.to_vec();
    slices.retain(|slice| slice.address_type == address_type);
    let addresses = Addresses::of(service, spec, family);
    if addresses.is_empty() {
        return Vec::new();
    }
    let given = spec.ports.iter().flatten();
    given
        .filter_map(|port| make_port(service, spec, port, &addresses, &slices, node))
        .collect()
}

fn is_proxied(service: &Service) -> bool {
    let labels = service.metadata.labels.as_ref();
    let spec = service.spec.as_ref();
    !labels.is_some_and(|labels| labels.contains_key(OTHER_PROXY))
        && spec.is_some_and(|spec| {
            spec.type_.as_deref() != Some("ExternalName")
                && spec
                    .cluster_ip
                    .as_deref()
                    .is_some_and(|ip| !ip.is_empty() && ip != "None")
        })
}

/// The addresses of a service in one family.
struct Addresses {
    cluster: Option<IpAddr>,
    balancers: BTreeSet<IpAddr>,
    externals: BTreeSet<IpAddr>,
}

impl Addresses {
    fn of(service: &Service, spec: &ServiceSpec, family: Family) -> Self {
        let parse = |text: &String| {
            let address: IpAddr = text.parse().ok()?;
            (Family::of(address) == family).then_some(address)
        };
        let own = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip);
        let ingress = service
            .status
            .as_ref()
            .and_then(|status| status.load_balancer.as_ref())
            .and_then(|balancer| balancer.ingress.as_ref());
        // An ingress of mode "Proxy" wants to see the packets itself.
        let balanced = ingress
            .into_iter()
            .flatten()
            .filter(|ingress| ingress.ip_mode.as_deref() != Some("Proxy"))
            .filter_map(|ingress| ingress.ip.as_ref());
        Self {
            cluster: own.filter_map(parse).next(),
            balancers: balanced.filter_map(parse).collect(),
            externals: spec
                .external_ips
                .iter()
                .flatten()
                .filter_map(parse)
                .collect(),
        }
    }

    fn is_empty(&self) -> bool {
        self.cluster.is_none() && self.balancers.is_empty() && self.externals.is_empty()
    }
}

fn make_port(
    service: &Service,
    spec: &ServiceSpec,
    port: &ServicePort,
    addresses: &Addresses,
    slices: &[&EndpointSlice],
    node: Option<&str>,
) -> Option<Port> {
    let protocol = Protocol::parse(port.protocol.as_deref())?;
    let number = u16::try_from(port.port).ok()?;
    let metadata = &service.metadata;
    let (namespace, name) = (metadata.namespace.as_deref(), metadata.name.as_deref());
    let all: Vec<_> = backends(slices, port, protocol).collect();
    let local = all.iter().filter(|(_, endpoint)| {
        node.is_none_or(|node| endpoint.node_name.as_deref() == Some(node))
    });
    let node_port = port.node_port.and_then(|port| u16::try_from(port).ok());
    let sources = spec.load_balancer_source_ranges.iter().flatten();
    Some(Port {
        name: format!(
            "{}/{}/{protocol}/{number}",
            namespace.unwrap_or_default(),
            name.unwrap_or_default()
        ),
        protocol,
        number,
        cluster: addresses.cluster,
        balancers: addresses.balancers.clone(),
        externals: addresses.externals.clone(),
        node_port: node_port.filter(|port| *port > 0),
        local: usable(local),
        endpoints: usable(all.iter()),
        internal_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
        external_local: spec.external_traffic_policy.as_deref() == Some("Local"),
        affinity: affinity(spec),
        sources: sources
            .filter_map(|text| text.trim().parse().ok())
            .collect(),
    })
}

fn affinity(spec: &ServiceSpec) -> Option<u32> {
    let wanted = spec.session_affinity.as_deref() == Some("ClientIP");
    let seconds = spec
        .session_affinity_config
        .as_ref()
        .and_then(|config| config.client_ip.as_ref()?.timeout_seconds)
        .and_then(|seconds| u32::try_from(seconds).ok());
    wanted.then(|| seconds.unwrap_or(AFFINITY_SECONDS))
}

/// The endpoints of a port, each with its address there.
fn backends<'a>(
    slices: &'a [&EndpointSlice],
    port: &'a ServicePort,
    protocol: Protocol,
) -> impl Iterator<Item = (SocketAddr, &'a Endpoint)> {
    let name = port.name.as_deref().unwrap_or("");
    let number_in = move |slice: &EndpointSlice| {
        let same = slice.ports.iter().flatten().find(|p| {
            p.name.as_deref().unwrap_or("") == name
                && Protocol::parse(p.protocol.as_deref()) == Some(protocol)
        });
        same.and_then(|p| u16::try_from(p.port?).ok())
    };
    slices.iter().flat_map(move |slice| {
        let number = number_in(slice);
        slice.endpoints.iter().filter_map(move |endpoint| {
            let address: IpAddr = endpoint.addresses.first()?.parse().ok()?;
            Some((SocketAddr::new(address, number?), endpoint))
        })
    })
}

/// Those that are ready; when none is, those that still serve while they
/// leave.
fn usable<'a>(
    backends: impl Iterator<Item = &'a (SocketAddr, &'a Endpoint)>,
) -> BTreeSet<SocketAddr> {
    let (mut ready, mut serving) = (BTreeSet::new(), BTreeSet::new());
    for (address, endpoint) in backends {
        let conditions = endpoint.conditions.clone().unwrap_or_default();
        // An unknown state counts as ready (discovery.k8s.io/v1).
        if conditions.ready.unwrap_or(true) {
            ready.insert(*address);
        } else if conditions.serving == Some(true) && conditions.terminating == Some(true) {
            serving.insert(*address);
        }
    }
    if ready.is_empty() { serving } else { ready }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use serde_json::{Value, json};

    pub(crate) fn service(spec: Value, status: Value) -> Service {
        let object =
            json!({"metadata": {"name": "web", "namespace": "ns"}, "spec": spec, "status": status});
        serde_json::from_value(object).expect("a service")
    }

    pub(crate) fn slice(family: &str, port: u16, endpoints: Value) -> EndpointSlice {
        let object = json!({
            "metadata": {"name": "web-1", "namespace": "ns"},
            "addressType": family, "endpoints": endpoints,
            "ports": [{"name": "", "port": port, "protocol": "TCP"}]});
        serde_json::from_value(object).expect("a slice")
    }

    /// An endpoint on a node of the same name.
    pub(crate) fn endpoint(address: &str, ready: bool, serving: bool, leaving: bool) -> Value {
        json!({"addresses": [address], "nodeName": address,
            "conditions": {"ready": ready, "serving": serving, "terminating": leaving}})
    }

    fn one(service: &Service, slices: &[&EndpointSlice], node: Option<&str>) -> Port {
        let mut all = ports(service, slices, Family::V4, node);
        assert_eq!(all.len(), 1, "{all:?}");
        all.remove(0)
    }

    fn shown(addresses: &BTreeSet<SocketAddr>) -> String {
        let all: Vec<_> = addresses.iter().map(ToString::to_string).collect();
        all.join(" ")
    }

    #[test]
    fn every_front_of_a_port_and_its_ready_endpoints() {
        let service = service(
            json!({"clusterIP": "10.96.0.5", "clusterIPs": ["10.96.0.5", "fd00::5"],
                "type": "LoadBalancer", "externalIPs": ["192.0.2.9", "fd00::9"],
                "ports": [{"port": 80, "targetPort": 8080, "nodePort": 30080}]}),
            json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}, {"ip": "192.0.2.2", "ipMode": "Proxy"}]}}),
        );
        let (four, six) = (
            slice(
                "IPv4",
                8080,
                json!([
                    endpoint("10.0.0.1", true, true, false),
                    endpoint("10.0.0.2", false, false, false)
                ]),
            ),
            slice(
                "IPv6",
                8080,
                json!([endpoint("fd00::a", true, true, false)]),
            ),
        );
        let port = one(&service, &[&four, &six], None);
        assert_eq!(shown(&port.endpoints), "10.0.0.1:8080");
        let fronts: Vec<_> = port.fronts().collect();
        let at = |text: &str| Front::Address(text.parse().expect("an address"), Protocol::Tcp, 80);
        assert_eq!(
            fronts,
            [
                at("10.96.0.5"),
                at("192.0.2.1"),
                at("192.0.2.9"),
                Front::NodePort(Protocol::Tcp, 30080)
            ]
        );
        let six = ports(&service, &[&four, &six], Family::V6, None);
        assert_eq!(shown(&six[0].endpoints), "[fd00::a]:8080");
        assert_eq!(six[0].cluster, Some("fd00::5".parse().expect("an address")));
    }

    #[test]
    fn leaving_endpoints_serve_only_when_no_other_is_left() {
        let service = service(
            json!({"clusterIP": "10.96.0.5", "ports": [{"port": 80}]}),
            json!({}),
        );
        let leaving = endpoint("10.0.0.1", false, true, true);
        let alone = slice("IPv4", 80, json!([leaving.clone()]));
        assert_eq!(
            shown(&one(&service, &[&alone], None).endpoints),
            "10.0.0.1:80"
        );
        let other = endpoint("10.0.0.2", true, true, false);
        let both = slice("IPv4", 80, json!([leaving, other]));
        let port = one(&service, &[&both], Some("10.0.0.1"));
        assert_eq!(shown(&port.endpoints), "10.0.0.2:80");
        // On its own node the leaving one is the last.
        assert_eq!(shown(&port.local), "10.0.0.1:80");
    }

    #[test]
    fn headless_external_and_foreign_services_have_no_fronts() {
        for spec in [
            json!({"clusterIP": "None", "ports": [{"port": 80}]}),
            json!({"type": "ExternalName", "externalName": "x", "ports": [{"port": 80}]}),
        ] {
            assert!(ports(&service(spec, json!({})), &[], Family::V4, None).is_empty());
        }
        let spec = json!({"clusterIP": "10.96.0.5", "ports": [{"port": 80}]});
        let mut foreign = service(spec, json!({}));
        foreign.metadata.labels = Some([(OTHER_PROXY.to_owned(), "x".to_owned())].into());
        assert!(ports(&foreign, &[], Family::V4, None).is_empty());
    }

    #[test]
    fn policies_affinity_and_ranges_are_read() {
        let service = service(
            json!({"clusterIP": "10.96.0.5", "internalTrafficPolicy": "Local",
                "externalTrafficPolicy": "Local", "sessionAffinity": "ClientIP",
                "loadBalancerSourceRanges": ["192.0.2.0/24"], "ports": [{"port": 80}]}),
            json!({}),
        );
        let port = one(&service, &[], None);
        assert!(port.internal_local && port.external_local);
        assert_eq!(port.affinity, Some(AFFINITY_SECONDS));
        assert_eq!(port.sources.len(), 1);
    }
}
