//! Workloads and services over the wire, and what rejects one.

use super::*;
use proptest::prelude::*;
use prost::Message;

fn workload() -> pb::Workload {
    pb::Workload {
        uid: "Kubernetes//Pod/shop/cart-0".into(),
        name: "cart-0".into(),
        namespace: "shop".into(),
        addresses: vec![Bytes::from_static(&[10, 0, 0, 7])],
        ..Default::default()
    }
}

fn reject(change: impl FnOnce(&mut pb::Workload)) -> ConvertError {
    let mut message = workload();
    change(&mut message);
    Workload::try_from(message).unwrap_err()
}

fn reject_service(change: impl FnOnce(&mut pb::Service)) -> ConvertError {
    let mut message = pb::Service {
        hostname: "a.b".into(),
        ..Default::default()
    };
    change(&mut message);
    Service::try_from(message).unwrap_err()
}

fn address(bytes: &'static [u8], length: Option<u32>) -> pb::NetworkAddress {
    pb::NetworkAddress {
        network: "".into(),
        address: Bytes::from_static(bytes),
        length,
    }
}

#[test]
fn empty_fields_mean_their_defaults() {
    let w = Workload::try_from(workload()).unwrap();
    assert_eq!(&*w.trust_domain, "cluster.local");
    assert_eq!(&*w.service_account, "default");
    assert_eq!(&*w.cluster_id, "Kubernetes");
    assert_eq!(w.capacity, 1);
    assert_eq!(w.protocol, Protocol::Tcp);
    let zero = pb::Workload {
        capacity: Some(0),
        ..workload()
    };
    assert_eq!(Workload::try_from(zero).unwrap().capacity, 0);
}

#[test]
fn an_ipv4_address_in_ipv6_clothes_is_ipv4() {
    let mapped = std::net::Ipv4Addr::new(10, 0, 0, 7)
        .to_ipv6_mapped()
        .octets();
    let message = pb::Workload {
        addresses: vec![Bytes::copy_from_slice(&mapped)],
        ..workload()
    };
    let w = Workload::try_from(message).unwrap();
    assert_eq!(w.addresses, vec!["10.0.0.7".parse::<IpAddr>().unwrap()]);
}

#[test]
fn names_of_unknown_kind_fall_back() {
    let message = pb::Workload {
        workload_type: 77,
        ..workload()
    };
    assert_eq!(
        Workload::try_from(message).unwrap().workload_type,
        WorkloadType::Deployment
    );
    let message = pb::Service {
        visibility: 77,
        ..Default::default()
    };
    assert_eq!(
        Service::try_from(message).unwrap().visibility,
        Visibility::Public
    );
}

#[test]
fn ports_are_sixteen_bits() {
    let message = pb::Service {
        ports: vec![pb::Port {
            service_port: 65536 + 80,
            target_port: 8080,
            app_protocol: 9,
        }],
        ..Default::default()
    };
    let service = Service::try_from(message).unwrap();
    assert_eq!(service.ports, PortMap::from([(80, 8080)]));
    assert!(service.app_protocols.is_empty());
}

#[test]
fn what_rejects_a_workload() {
    use ConvertError as E;
    assert_eq!(
        Address::try_from(pb::Address { r#type: None }).unwrap_err(),
        E::NoType
    );
    assert_eq!(
        reject(|w| w.addresses = vec![Bytes::from_static(&[1, 2, 3])]),
        E::AddressLength(3)
    );
    assert_eq!(
        reject(|w| w.waypoint = Some(pb::GatewayAddress::default())),
        E::NoGatewayDestination
    );
    assert_eq!(
        reject(|w| w.services = BTreeMap::from([("nothing".into(), pb::PortList::default())])),
        E::ServiceKey("nothing".into())
    );
    let unsupported = |field, value| E::UnsupportedValue { field, value };
    assert_eq!(
        reject(|w| w.tunnel_protocol = 2),
        unsupported("tunnel_protocol", 2)
    );
    assert_eq!(
        reject(|w| w.tunnel_protocol = 9),
        unsupported("tunnel_protocol", 9)
    );
    assert_eq!(reject(|w| w.status = 9), unsupported("status", 9));
    assert_eq!(
        reject(|w| w.network_mode = 9),
        unsupported("network_mode", 9)
    );
    assert_eq!(
        reject(|w| w.application_tunnel = Some(pb::ApplicationTunnel {
            protocol: 9,
            port: 0
        })),
        unsupported("application_tunnel.protocol", 9)
    );
}

#[test]
fn what_rejects_a_service() {
    use ConvertError as E;
    let unsupported = |field, value| E::UnsupportedValue { field, value };
    assert_eq!(
        reject_service(|s| s.addresses = vec![address(&[10, 0, 0, 1], Some(33))]),
        E::PrefixLength {
            address: "10.0.0.1".parse().unwrap(),
            length: 33
        }
    );
    assert_eq!(
        reject_service(|s| s.weighted_waypoints = vec![pb::WeightedWaypoint::default()]),
        E::NoWeightedWaypointDestination
    );
    assert_eq!(
        reject_service(|s| s.ip_families = 9),
        unsupported("ip_families", 9)
    );
    let lb = |scopes: Vec<i32>, mode, health_policy| {
        Some(pb::LoadBalancing {
            routing_preference: scopes,
            mode,
            health_policy,
        })
    };
    assert_eq!(
        reject_service(|s| s.load_balancing = lb(vec![0], 0, 0)),
        unsupported("load_balancing.routing_preference", 0)
    );
    assert_eq!(
        reject_service(|s| s.load_balancing = lb(vec![1], 9, 0)),
        unsupported("load_balancing.mode", 9)
    );
    assert_eq!(
        reject_service(|s| s.load_balancing = lb(vec![1], 0, 9)),
        unsupported("load_balancing.health_policy", 9)
    );
}

#[test]
fn a_short_prefix_makes_a_range() {
    let message = pb::Service {
        addresses: vec![
            address(&[10, 0, 0, 1], None),
            address(&[10, 0, 0, 2], Some(32)),
            address(&[10, 1, 2, 3], Some(16)),
        ],
        ..Default::default()
    };
    let service = Service::try_from(message).unwrap();
    assert_eq!(service.vips.len(), 2);
    assert_eq!(service.cidr_vips[0].cidr.to_string(), "10.1.0.0/16");
}

#[test]
fn numbers_on_the_wire_are_the_public_ones() {
    let message = pb::Address::from(&Workload {
        uid: "u".into(),
        namespace: "n".into(),
        services: BTreeMap::from([(NamespacedHostname::new("n", "h"), PortMap::from([(80, 81)]))]),
        ..Workload::default()
    });
    let expected: &[u8] = &[
        0x0a, 23, // Address.workload = 1
        0x12, 1, b'n', // namespace = 2
        0xa2, 1, 1, b'u', // uid = 20
        0xb2, 1, 13, // services = 22, an entry of
        0x0a, 3, b'n', b'/', b'h', // key = 1
        0x12, 6, // value = 2, a PortList
        0x0a, 4, // ports = 1
        0x08, 80, 0x10, 81, // service_port = 1, target_port = 2
    ];
    assert_eq!(message.encode_to_vec(), expected);
}

fn text() -> impl Strategy<Value = Text> {
    "[a-z]{0,6}".prop_map(Text::from)
}

fn ip() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        any::<u32>().prop_map(|v| IpAddr::V4(v.into())),
        any::<u128>().prop_map(|v| IpAddr::V6(v.into()).to_canonical()),
    ]
}

fn gateway_address() -> impl Strategy<Value = GatewayAddress> {
    let by_name = (text(), text())
        .prop_map(|(n, h)| GatewayDestination::Hostname(NamespacedHostname::new(n, h)));
    let by_ip = (text(), ip()).prop_map(|(network, address)| {
        GatewayDestination::Address(NetworkAddress { network, address })
    });
    (prop_oneof![by_name, by_ip], any::<u16>()).prop_map(|(destination, hbone_mtls_port)| {
        GatewayAddress {
            destination,
            hbone_mtls_port,
        }
    })
}

proptest! {
    #[test]
    fn a_workload_survives_the_wire(
        names in proptest::collection::vec(text(), 8),
        addresses in proptest::collection::vec(ip(), 0..3),
        waypoint in proptest::option::of(gateway_address()),
        network_gateway in proptest::option::of(gateway_address()),
        hbone: bool, unhealthy: bool, host: bool, native_tunnel: bool,
        tunnel in proptest::option::of((any::<bool>(), any::<u16>())),
        ports in proptest::collection::btree_map(any::<u16>(), any::<u16>(), 0..4),
        capacity: u32,
    ) {
        let w = Workload {
            uid: names[0].clone(), name: names[1].clone(), namespace: names[2].clone(),
            network: names[3].clone(), node: names[4].clone(),
            authorization_policies: vec![names[5].clone()],
            locality: Locality { region: names[6].clone(), ..Locality::default() },
            services: BTreeMap::from([(NamespacedHostname::new("n", names[7].clone()), ports)]),
            addresses, waypoint, network_gateway, native_tunnel, capacity,
            protocol: if hbone { Protocol::Hbone } else { Protocol::Tcp },
            status: if unhealthy { HealthStatus::Unhealthy } else { HealthStatus::Healthy },
            network_mode: if host { NetworkMode::HostNetwork } else { NetworkMode::Standard },
            application_tunnel: tunnel.map(|(proxy, port)| ApplicationTunnel {
                protocol: if proxy { ApplicationTunnelProtocol::Proxy }
                    else { ApplicationTunnelProtocol::None },
                port: Some(port).filter(|p| *p != 0),
            }),
            ..Workload::default()
        };
        let bytes = pb::Address::from(&w).encode_to_vec();
        let back = Address::try_from(pb::Address::decode(&bytes[..]).unwrap()).unwrap();
        prop_assert_eq!(back, Address::Workload(Box::new(w)));
    }

    #[test]
    fn a_service_survives_the_wire(
        vips in proptest::collection::vec((text(), ip()), 0..3),
        range in proptest::option::of((ip(), 0u8..32)),
        ports in proptest::collection::btree_map(any::<u16>(), any::<u16>(), 0..4),
        waypoints in proptest::collection::vec((gateway_address(), any::<u32>()), 0..3),
        mode in 0..4usize, canonical: bool, hidden: bool, families in 0..4usize,
    ) {
        let s = Service {
            name: "s".into(), namespace: "n".into(), hostname: "s.n.svc".into(),
            vips: vips.into_iter()
                .map(|(network, address)| NetworkAddress { network, address }).collect(),
            cidr_vips: range.into_iter().map(|(ip, len)| NetworkCidr {
                network: "".into(), cidr: IpNet::new(ip, len).unwrap().trunc(),
            }).collect(),
            app_protocols: ports.keys().take(1).map(|p| (*p, AppProtocol::Grpc)).collect(),
            ports,
            weighted_waypoints: waypoints.into_iter()
                .map(|(destination, weight)| WeightedWaypoint { destination, weight }).collect(),
            load_balancing: Some(LoadBalancing {
                routing_preferences: vec![Scope::Network, Scope::Region, Scope::Node],
                mode: [LoadBalancingMode::Standard, LoadBalancingMode::Strict,
                    LoadBalancingMode::Failover, LoadBalancingMode::Passthrough][mode],
                health_policy: HealthPolicy::AllowAll,
            }),
            ip_families: [None, Some(IpFamilies::Ipv4), Some(IpFamilies::Ipv6),
                Some(IpFamilies::Dual)][families],
            canonical,
            visibility: if hidden { Visibility::Namespace } else { Visibility::Public },
            ..Service::default()
        };
        let bytes = pb::Address::from(&s).encode_to_vec();
        let back = Address::try_from(pb::Address::decode(&bytes[..]).unwrap()).unwrap();
        prop_assert_eq!(back, Address::Service(Box::new(s)));
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(message) = pb::Address::decode(&bytes[..]) {
            let _ = Address::try_from(message);
        }
    }
}
