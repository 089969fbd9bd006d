//! The names of the cluster's services, as plain values: what a question
//! about `cluster.local` can be answered from.
//!
//! Follows the Kubernetes DNS specification 1.1.0: names of services, of
//! their ports (SRV), of endpoints of headless services, and of pods by
//! address.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::informer::ObjectKey;

/// A port that has an SRV name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// The port's name; ports without one have no SRV name.
    pub name: String,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
    /// The number.
    pub port: u16,
}

/// An endpoint that has a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backend {
    /// Its address.
    pub address: IpAddr,
    /// First label of its name: the pod's hostname, or the address with dashes.
    pub label: String,
    /// Ports as the endpoint has them.
    pub ports: Vec<Port>,
}

/// What one service's names lead to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Entry {
    /// Cluster addresses; none for a headless service.
    pub addresses: Vec<IpAddr>,
    /// The name that an `ExternalName` service stands for.
    pub alias: Option<String>,
    /// Ports of the service.
    pub ports: Vec<Port>,
    /// Ready endpoints.
    pub backends: Vec<Backend>,
}

impl Entry {
    /// The entry of a service with these slices (all of them its own).
    pub fn new(service: &Service, slices: &[&EndpointSlice]) -> Self {
        let spec = service.spec.clone().unwrap_or_default();
        if spec.type_.as_deref() == Some("ExternalName") {
            return Self {
                alias: spec.external_name,
                ..Self::default()
            };
        }
        let single = spec.cluster_ip.into_iter();
        let mut addresses: Vec<IpAddr> = spec
            .cluster_ips
            .into_iter()
            .flatten()
            .chain(single)
            .filter_map(|ip| ip.parse().ok())
            .collect();
        addresses.dedup();
        let ports = spec
            .ports
            .into_iter()
            .flatten()
            .filter_map(|port| make_port(port.name, port.protocol, Some(port.port)))
            .collect();
        Self {
            addresses,
            alias: None,
            ports,
            backends: backends(slices),
        }
    }
}

fn make_port(name: Option<String>, protocol: Option<String>, port: Option<i32>) -> Option<Port> {
    Some(Port {
        name: name.unwrap_or_default(),
        protocol: protocol
            .unwrap_or_else(|| "TCP".to_owned())
            .to_ascii_lowercase(),
        port: u16::try_from(port?).ok()?,
    })
}

fn backends(slices: &[&EndpointSlice]) -> Vec<Backend> {
    let mut all = Vec::new();
    for slice in slices {
        let ports: Vec<Port> = slice
            .ports
            .iter()
            .flatten()
            .filter_map(|p| make_port(p.name.clone(), p.protocol.clone(), p.port))
            .collect();
        for endpoint in &slice.endpoints {
            if endpoint.conditions.as_ref().and_then(|c| c.ready) == Some(false) {
                continue;
            }
            for address in endpoint
                .addresses
                .iter()
                .filter_map(|a| a.parse::<IpAddr>().ok())
            {
                let label = endpoint.hostname.clone().unwrap_or_else(|| dashed(address));
                all.push(Backend {
                    address,
                    label,
                    ports: ports.clone(),
                });
            }
        }
    }
    all
}

/// An address as a label: dots and colons become dashes.
pub fn dashed(address: IpAddr) -> String {
    address.to_string().replace(['.', ':'], "-")
}

/// What a name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found<'a> {
    /// Addresses of the name itself.
    Addresses(Vec<IpAddr>),
    /// Another name, absolute.
    Alias(&'a str),
    /// Ports: port number, labels of the target below the zone, its addresses.
    Ports(Vec<(u16, String, Vec<IpAddr>)>),
    /// The name exists but has no records of its own.
    Empty,
    /// There is no such name.
    Nothing,
}

/// All services of a cluster.
#[derive(Debug, Default)]
pub struct Zone {
    services: HashMap<ObjectKey, Entry>,
    /// How many services each namespace has.
    namespaces: HashMap<String, usize>,
    /// Services by their own addresses, and by those of their endpoints.
    by_address: HashMap<IpAddr, BTreeSet<ObjectKey>>,
}

impl Zone {
    /// Sets or removes the entry of one service.
    pub fn set(&mut self, key: ObjectKey, entry: Option<Entry>) {
        if let Some(before) = self.services.remove(&key) {
            self.forget(&key, &before);
        }
        let Some(entry) = entry else { return };
        *self.namespaces.entry(key.namespace.clone()).or_default() += 1;
        for address in entry.all_addresses() {
            let services = self.by_address.entry(address).or_default();
            services.insert(key.clone());
        }
        self.services.insert(key, entry);
    }

    fn forget(&mut self, key: &ObjectKey, entry: &Entry) {
        if let Some(count) = self.namespaces.get_mut(&key.namespace) {
            *count -= 1;
            if *count == 0 {
                self.namespaces.remove(&key.namespace);
            }
        }
        for address in entry.all_addresses() {
            if let Some(services) = self.by_address.get_mut(&address) {
                services.remove(key);
                if services.is_empty() {
                    self.by_address.remove(&address);
                }
            }
        }
    }

    /// Looks up a name by its labels below the cluster's domain, in lower
    /// case, leftmost first.
    pub fn find(&self, labels: &[&str]) -> Found<'_> {
        match labels {
            [] | ["svc"] | ["pod"] => Found::Empty,
            [namespace, "svc" | "pod"] if self.namespaces.contains_key(*namespace) => Found::Empty,
            [address, namespace, "pod"] => self.pod(address, namespace),
            [rest @ .., service, namespace, "svc"] => {
                match self.services.get(&ObjectKey::new(*namespace, *service)) {
                    Some(entry) => entry.find(rest, service, namespace),
                    None => Found::Nothing,
                }
            }
            _ => Found::Nothing,
        }
    }

    /// The names below the cluster's domain that lead to this address: of the
    /// service that has it, else of endpoints.
    pub fn names_of(&self, address: IpAddr) -> Vec<String> {
        let services = self.by_address.get(&address).into_iter().flatten();
        let known: Vec<_> = services
            .filter_map(|key| Some((key, self.services.get(key)?)))
            .collect();
        let own = known
            .iter()
            .find(|(_, entry)| entry.addresses.contains(&address));
        if let Some((key, _)) = own {
            return vec![name_of(key)];
        }
        let backends = known.iter().flat_map(|(key, entry)| {
            let here = entry.backends.iter().filter(|b| b.address == address);
            here.map(|b| format!("{}.{}", b.label, name_of(key)))
        });
        backends.collect()
    }

    fn pod(&self, label: &str, namespace: &str) -> Found<'_> {
        let four = label.replace('-', ".").parse::<Ipv4Addr>();
        let six = || label.replace('-', ":").parse::<Ipv6Addr>();
        let address = four.map(IpAddr::from).or_else(|_| six().map(IpAddr::from));
        match address {
            Ok(address) if self.namespaces.contains_key(namespace) => {
                Found::Addresses(vec![address])
            }
            _ => Found::Nothing,
        }
    }
}

/// The name of a service below the cluster's domain.
fn name_of(key: &ObjectKey) -> String {
    format!("{}.{}.svc", key.name, key.namespace)
}

impl Entry {
    fn all_addresses(&self) -> impl Iterator<Item = IpAddr> {
        let endpoints = self.backends.iter().map(|backend| backend.address);
        self.addresses.iter().copied().chain(endpoints)
    }

    fn find(&self, labels: &[&str], service: &str, namespace: &str) -> Found<'_> {
        match labels {
            [] => match &self.alias {
                Some(alias) => Found::Alias(alias),
                None if !self.addresses.is_empty() => Found::Addresses(self.addresses.clone()),
                None if self.backends.is_empty() => Found::Empty,
                None => Found::Addresses(self.backends.iter().map(|b| b.address).collect()),
            },
            [protocol] if protocol.starts_with('_') => Found::Empty,
            [label] => {
                let named = self
                    .backends
                    .iter()
                    .filter(|b| b.label.eq_ignore_ascii_case(label));
                let addresses: Vec<_> = named.map(|b| b.address).collect();
                if addresses.is_empty() {
                    Found::Nothing
                } else {
                    Found::Addresses(addresses)
                }
            }
            [port, protocol] => match (port.strip_prefix('_'), protocol.strip_prefix('_')) {
                (Some(port), Some(protocol)) => {
                    self.srv(port, protocol, &format!("{service}.{namespace}.svc"))
                }
                _ => Found::Nothing,
            },
            _ => Found::Nothing,
        }
    }

    fn srv(&self, name: &str, protocol: &str, base: &str) -> Found<'_> {
        let matches =
            |port: &&Port| port.name.eq_ignore_ascii_case(name) && port.protocol == protocol;
        let found: Vec<_> = if self.addresses.is_empty() {
            self.backends
                .iter()
                .flat_map(|b| b.ports.iter().filter(matches).map(move |port| (b, port)))
                .map(|(b, port)| (port.port, format!("{}.{base}", b.label), vec![b.address]))
                .collect()
        } else {
            let ports = self.ports.iter().filter(matches);
            ports
                .map(|port| (port.port, base.to_owned(), self.addresses.clone()))
                .collect()
        };
        if found.is_empty() {
            Found::Nothing
        } else {
            Found::Ports(found)
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use serde_json::{Value, json};

    pub(crate) fn entry(spec: Value, endpoints: Value) -> Entry {
        let service = json!({"metadata": {"name": "web"}, "spec": spec});
        let slice = json!({"metadata": {}, "addressType": "IPv4", "endpoints": endpoints,
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}]});
        let service = serde_json::from_value(service).expect("a service");
        let slice = serde_json::from_value(slice).expect("a slice");
        Entry::new(&service, &[&slice])
    }

    pub(crate) fn zone() -> Zone {
        let mut zone = Zone::default();
        let ports = json!([{"name": "http", "port": 80}]);
        let endpoints = json!([
            {"addresses": ["10.0.0.1"], "hostname": "web-0"},
            {"addresses": ["10.0.0.2"], "conditions": {"ready": true}},
            {"addresses": ["10.0.0.3"], "conditions": {"ready": false}}]);
        zone.set(
            ObjectKey::new("ns", "plain"),
            Some(entry(
                json!({"clusterIP": "10.96.0.5", "ports": ports}),
                endpoints.clone(),
            )),
        );
        zone.set(
            ObjectKey::new("ns", "headless"),
            Some(entry(
                json!({"clusterIP": "None", "ports": ports}),
                endpoints,
            )),
        );
        zone.set(
            ObjectKey::new("ns", "outside"),
            Some(entry(
                json!({"type": "ExternalName", "externalName": "example.com"}),
                json!([]),
            )),
        );
        zone
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn services_have_their_address_and_headless_ones_their_endpoints() {
        let zone = zone();
        assert_eq!(
            zone.find(&["plain", "ns", "svc"]),
            Found::Addresses(vec![ip("10.96.0.5")])
        );
        let both = Found::Addresses(vec![ip("10.0.0.1"), ip("10.0.0.2")]);
        assert_eq!(zone.find(&["headless", "ns", "svc"]), both);
        assert_eq!(
            zone.find(&["outside", "ns", "svc"]),
            Found::Alias("example.com")
        );
        assert_eq!(zone.find(&["none", "ns", "svc"]), Found::Nothing);
    }

    #[test]
    fn endpoints_have_names() {
        let zone = zone();
        let first = Found::Addresses(vec![ip("10.0.0.1")]);
        assert_eq!(zone.find(&["web-0", "headless", "ns", "svc"]), first);
        let second = Found::Addresses(vec![ip("10.0.0.2")]);
        assert_eq!(zone.find(&["10-0-0-2", "headless", "ns", "svc"]), second);
        assert_eq!(
            zone.find(&["10-0-0-3", "headless", "ns", "svc"]),
            Found::Nothing
        );
        assert_eq!(
            zone.find(&["10-9-9-9", "ns", "pod"]),
            Found::Addresses(vec![ip("10.9.9.9")])
        );
        assert_eq!(zone.find(&["10-9-9-9", "none", "pod"]), Found::Nothing);
    }

    #[test]
    fn addresses_have_names() {
        let mut zone = zone();
        assert_eq!(zone.names_of(ip("10.96.0.5")), ["plain.ns.svc"]);
        assert_eq!(
            zone.names_of(ip("10.0.0.1")),
            ["web-0.headless.ns.svc", "web-0.plain.ns.svc"]
        );
        assert_eq!(
            zone.find(&["fd00--7", "ns", "pod"]),
            Found::Addresses(vec![ip("fd00::7")])
        );
        zone.set(ObjectKey::new("ns", "headless"), None);
        assert_eq!(zone.names_of(ip("10.0.0.1")), ["web-0.plain.ns.svc"]);
        assert!(zone.names_of(ip("10.9.9.9")).is_empty());
    }

    #[test]
    fn ports_have_names() {
        let zone = zone();
        let plain = Found::Ports(vec![(80, "plain.ns.svc".into(), vec![ip("10.96.0.5")])]);
        assert_eq!(zone.find(&["_http", "_tcp", "plain", "ns", "svc"]), plain);
        let headless = Found::Ports(vec![
            (8080, "web-0.headless.ns.svc".into(), vec![ip("10.0.0.1")]),
            (
                8080,
                "10-0-0-2.headless.ns.svc".into(),
                vec![ip("10.0.0.2")],
            ),
        ]);
        assert_eq!(
            zone.find(&["_http", "_tcp", "headless", "ns", "svc"]),
            headless
        );
        assert_eq!(
            zone.find(&["_http", "_udp", "plain", "ns", "svc"]),
            Found::Nothing
        );
    }

    #[test]
    fn names_on_the_way_exist_without_records() {
        let mut zone = zone();
        for labels in [
            &[][..],
            &["svc"],
            &["ns", "svc"],
            &["_tcp", "plain", "ns", "svc"],
        ] {
            assert_eq!(zone.find(labels), Found::Empty, "{labels:?}");
        }
        for name in ["plain", "headless", "outside"] {
            zone.set(ObjectKey::new("ns", name), None);
        }
        assert_eq!(zone.find(&["ns", "svc"]), Found::Nothing);
    }
}
