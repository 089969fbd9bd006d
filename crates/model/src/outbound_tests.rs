//! Every row of the routing table, as one line of text each.

use super::*;
use crate::service::{LoadBalancing, NamespacedHostname, NetworkCidr, WeightedWaypoint};
use crate::state::Change;
use crate::workload::NetworkAddress;
use rand::SeedableRng;
use rand::rngs::StdRng;

const OWN: &[u16] = &[15001, 15006, 15008];

fn pod(name: &str, address: &str, protocol: Protocol) -> Workload {
    Workload {
        uid: format!("c//Pod/ns/{name}").into(),
        name: name.into(),
        namespace: "ns".into(),
        service_account: name.into(),
        addresses: vec![address.parse().unwrap()],
        protocol,
        ..Workload::default()
    }
}

fn serving(mut w: Workload, host: &str, ports: &[(u16, u16)]) -> Workload {
    let key = NamespacedHostname::new("ns", host);
    w.services.insert(key, ports.iter().copied().collect());
    w
}

fn service(host: &str, vip: &str, ports: &[(u16, u16)]) -> Service {
    Service {
        name: host.into(),
        namespace: "ns".into(),
        hostname: host.into(),
        vips: vec![NetworkAddress {
            network: "".into(),
            address: vip.parse().unwrap(),
        }],
        ports: ports.iter().copied().collect(),
        ..Service::default()
    }
}

fn gateway(host: &str) -> GatewayAddress {
    GatewayAddress {
        destination: GatewayDestination::Hostname(NamespacedHostname::new("ns", host)),
        hbone_mtls_port: 15008,
    }
}

#[derive(Default)]
struct World(MeshState);

impl World {
    fn pod(mut self, w: Workload) -> Self {
        self.0.apply(&Change::Workload(Arc::new(w)));
        self
    }

    fn service(mut self, s: Service) -> Self {
        self.0.apply(&Change::Service(Arc::new(s)));
        self
    }

    fn from(&self, source: &Workload, to: &str) -> Result<Decision, Refusal> {
        let request = Request {
            source,
            original: to.parse().unwrap(),
            network: "",
            own_ports: OWN,
        };
        decide(&self.0, request, &mut StdRng::seed_from_u64(3))
    }

    fn to(&self, to: &str) -> Result<Decision, Refusal> {
        self.from(&pod("client", "10.0.0.1", Protocol::Hbone), to)
    }

    /// The decision in one line.
    fn told(&self, to: &str) -> String {
        match self.to(to) {
            Ok(decision) => tell(&decision),
            Err(refusal) => refusal.to_string(),
        }
    }
}

fn tell(decision: &Decision) -> String {
    let at = |host: &Host, port: u16| match host {
        Host::Ip(ip) => SocketAddr::new(*ip, port).to_string(),
        Host::Name(name) => format!("{name}:{port}"),
        Host::Remote => "remote".into(),
    };
    let asks = |authority: &Authority| match authority {
        Authority::Address(address) => address.to_string(),
        Authority::Dialled(port) => format!("*:{port}"),
        Authority::Name(name, port) => format!("{name}:{port}"),
    };
    let who = |ids: &[Identity]| -> String {
        ids.iter()
            .map(|id| id.service_account.to_string())
            .collect::<Vec<_>>()
            .join(",")
    };
    match &decision.route {
        Route::Plaintext { host, port } => format!("plain {}", at(host, *port)),
        Route::Hbone {
            host,
            port,
            authority,
            identities,
        } => {
            format!(
                "hbone {} for {} by {}",
                at(host, *port),
                asks(authority),
                who(identities)
            )
        }
        Route::DoubleHbone {
            host,
            port,
            authority,
            outer,
            inner,
        } => format!(
            "double {} for {} by {} then {}",
            at(host, *port),
            asks(authority),
            who(outer),
            who(inner)
        ),
    }
}

fn shop() -> World {
    World::default()
        .service(service("cart", "10.1.0.1", &[(80, 8080)]))
        .pod(serving(
            pod("cart", "10.0.0.2", Protocol::Hbone),
            "cart",
            &[(80, 8081)],
        ))
}

#[test]
fn unknown_destinations_pass_through() {
    assert_eq!(shop().told("192.0.2.1:443"), "plain 192.0.2.1:443");
    assert!(shop().to("192.0.2.1:443").unwrap().workload.is_none());
}

#[test]
fn a_service_leads_to_its_endpoint() {
    assert_eq!(
        shop().told("10.1.0.1:80"),
        "hbone 10.0.0.2:15008 for 10.0.0.2:8081 by cart"
    );
    let decision = shop().to("10.1.0.1:80").unwrap();
    assert_eq!(&*decision.service.unwrap().hostname, "cart");
    assert_eq!(&*decision.workload.unwrap().name, "cart");
}

#[test]
fn plaintext_endpoints_are_dialled_directly() {
    let world = World::default()
        .service(service("cart", "10.1.0.1", &[(80, 8080)]))
        .pod(serving(pod("cart", "10.0.0.2", Protocol::Tcp), "cart", &[]));
    assert_eq!(world.told("10.1.0.1:80"), "plain 10.0.0.2:8080");
}

#[test]
fn a_pod_address_keeps_its_port() {
    assert_eq!(
        shop().told("10.0.0.2:9999"),
        "hbone 10.0.0.2:15008 for 10.0.0.2:9999 by cart"
    );
}

#[test]
fn a_service_also_vouches_for_identities() {
    let mut s = service("cart", "10.1.0.1", &[(80, 8080)]);
    s.subject_alt_names = ["spiffe://td/ns/x/sa/other", "nonsense"]
        .map(Text::from)
        .to_vec();
    let world = World::default().service(s).pod(serving(
        pod("cart", "10.0.0.2", Protocol::Hbone),
        "cart",
        &[],
    ));
    assert_eq!(
        world.told("10.1.0.1:80"),
        "hbone 10.0.0.2:15008 for 10.0.0.2:8080 by other,cart"
    );
}

#[test]
fn a_known_service_never_falls_through() {
    assert_eq!(
        shop().told("10.1.0.1:81"),
        "no healthy upstream: 10.1.0.1:81"
    );
    let empty = World::default().service(service("cart", "10.1.0.1", &[(80, 8080)]));
    assert_eq!(
        empty.told("10.1.0.1:80"),
        "no healthy upstream: 10.1.0.1:80"
    );
}

fn passthrough(host: &str, vip: &str) -> Service {
    let lb = LoadBalancing {
        mode: LoadBalancingMode::Passthrough,
        ..LoadBalancing::default()
    };
    Service {
        load_balancing: Some(lb),
        ..service(host, vip, &[(80, 80)])
    }
}

#[test]
fn a_passthrough_service_does() {
    let world = World::default().service(passthrough("ext", "10.1.0.1"));
    assert_eq!(world.told("10.1.0.1:80"), "plain 10.1.0.1:80");
}

#[test]
fn an_enrolled_pod_inside_a_range_of_a_service_still_gets_its_tunnel() {
    let mut range = passthrough("ext", "10.1.0.1");
    range.vips.clear();
    range.cidr_vips = vec![NetworkCidr {
        network: "".into(),
        cidr: "10.0.0.0/8".parse().unwrap(),
    }];
    let world = World::default()
        .service(range)
        .pod(pod("cart", "10.0.0.2", Protocol::Hbone));
    assert_eq!(
        world.told("10.0.0.2:80"),
        "hbone 10.0.0.2:15008 for 10.0.0.2:80 by cart"
    );
    assert_eq!(world.told("10.0.0.3:80"), "plain 10.0.0.3:80");
}

#[test]
fn loops_are_refused_on_loopback_only() {
    assert_eq!(shop().to("127.0.0.1:15001").unwrap_err(), Refusal::Loop);
    assert_eq!(shop().told("127.0.0.1:80"), "plain 127.0.0.1:80");
    assert_eq!(shop().told("192.0.2.1:15001"), "plain 192.0.2.1:15001");
}

fn with_waypoint(mut s: Service) -> World {
    s.waypoint = Some(gateway("wp"));
    World::default()
        .service(s)
        .service(service("wp", "10.1.0.9", &[(15008, 15008)]))
        .pod(serving(
            pod("cart", "10.0.0.2", Protocol::Hbone),
            "cart",
            &[],
        ))
        .pod(serving(pod("wp", "10.0.0.9", Protocol::Hbone), "wp", &[]))
}

#[test]
fn a_service_waypoint_is_asked_for_the_untranslated_address() {
    let world = with_waypoint(service("cart", "10.1.0.1", &[(80, 8080)]));
    assert_eq!(
        world.told("10.1.0.1:80"),
        "hbone 10.0.0.9:15008 for 10.1.0.1:80 by wp"
    );
    let decision = world.to("10.1.0.1:80").unwrap();
    assert_eq!(&*decision.workload.unwrap().name, "wp");
    assert_eq!(&*decision.service.unwrap().hostname, "cart");
}

#[test]
fn a_missing_waypoint_refuses() {
    let mut s = service("cart", "10.1.0.1", &[(80, 8080)]);
    s.waypoint = Some(gateway("nowhere"));
    let world = World::default().service(s).pod(serving(
        pod("cart", "10.0.0.2", Protocol::Hbone),
        "cart",
        &[],
    ));
    assert_eq!(
        world.told("10.1.0.1:80"),
        "unknown waypoint: ns/nowhere:15008"
    );
}

#[test]
fn a_canary_waypoint_overrides() {
    let mut s = service("cart", "10.1.0.1", &[(80, 8080)]);
    s.weighted_waypoints = vec![
        WeightedWaypoint {
            destination: gateway("nowhere"),
            weight: 0,
        },
        WeightedWaypoint {
            destination: gateway("wp"),
            weight: 1,
        },
    ];
    s.waypoint = Some(gateway("nowhere"));
    let mut world = with_waypoint(service("cart", "10.1.0.1", &[(80, 8080)]));
    world = world.service(s);
    assert_eq!(
        world.told("10.1.0.1:80"),
        "hbone 10.0.0.9:15008 for 10.1.0.1:80 by wp"
    );
}

#[test]
fn a_workload_waypoint_takes_what_is_addressed_to_the_pod() {
    let cart = pod("cart", "10.0.0.2", Protocol::Hbone);
    let behind = Workload {
        waypoint: Some(gateway("wp")),
        ..cart
    };
    let world = World::default()
        .service(service("wp", "10.1.0.9", &[(15008, 15008)]))
        .service(service("cart", "10.1.0.1", &[(80, 8080)]))
        .pod(serving(behind, "cart", &[]))
        .pod(serving(pod("wp", "10.0.0.9", Protocol::Hbone), "wp", &[]));
    assert_eq!(
        world.told("10.0.0.2:80"),
        "hbone 10.0.0.9:15008 for 10.0.0.2:80 by wp"
    );
    // What is addressed to the service goes straight to the pod.
    assert_eq!(
        world.told("10.1.0.1:80"),
        "hbone 10.0.0.2:15008 for 10.0.0.2:8080 by cart"
    );
    // The waypoint itself does not go through itself; identity alone is not enough for that.
    let itself = pod("wp", "10.0.0.9", Protocol::Hbone);
    let direct = tell(&world.from(&itself, "10.0.0.2:80").unwrap());
    assert_eq!(direct, "hbone 10.0.0.2:15008 for 10.0.0.2:80 by cart");
    let impostor = pod("wp", "10.0.0.10", Protocol::Hbone);
    let routed = tell(&world.from(&impostor, "10.0.0.2:80").unwrap());
    assert_eq!(routed, "hbone 10.0.0.9:15008 for 10.0.0.2:80 by wp");
}

#[test]
fn a_workload_known_by_name_is_resolved_by_the_proxy() {
    let ext = Workload {
        addresses: Vec::new(),
        hostname: "x.example".into(),
        ..serving(pod("ext", "10.0.0.2", Protocol::Tcp), "ext", &[])
    };
    let world = World::default()
        .service(service("ext", "10.1.0.1", &[(80, 81)]))
        .pod(ext);
    assert_eq!(world.told("10.1.0.1:80"), "plain x.example:81");
}

fn remote() -> World {
    let gw = Workload {
        uid: "NetworkGateway/far/10.9.0.1/15008".into(),
        network: "far".into(),
        ..pod("gw", "10.9.0.1", Protocol::Hbone)
    };
    let at = GatewayAddress {
        destination: GatewayDestination::Address(NetworkAddress {
            network: "far".into(),
            address: "10.9.0.1".parse().unwrap(),
        }),
        hbone_mtls_port: 15008,
    };
    let there = Workload {
        addresses: Vec::new(),
        network: "far".into(),
        network_gateway: Some(at),
        ..serving(pod("there", "10.0.0.2", Protocol::Hbone), "cart", &[])
    };
    let mut s = service("cart", "10.1.0.1", &[(80, 8080)]);
    s.subject_alt_names = vec!["spiffe://td/ns/ns/sa/there".into()];
    World::default().service(s).pod(gw).pod(there)
}

#[test]
fn another_network_is_reached_through_its_gateway() {
    assert_eq!(
        remote().told("10.1.0.1:80"),
        "double 10.9.0.1:15008 for cart:80 by gw then there"
    );
}

#[test]
fn another_network_without_a_gateway_refuses() {
    let there = Workload {
        network: "far".into(),
        ..serving(pod("there", "10.0.0.2", Protocol::Hbone), "cart", &[])
    };
    let world = World::default()
        .service(service("cart", "10.1.0.1", &[(80, 8080)]))
        .pod(there);
    assert_eq!(
        world.told("10.1.0.1:80"),
        "no valid routing destination for workload: c//Pod/ns/there"
    );
}

#[test]
fn one_of_the_clients_family_is_taken() {
    let ips = ["fd00::1", "10.0.0.1"].map(|s| s.parse().unwrap());
    let mut rng = StdRng::seed_from_u64(1);
    let v4 = "10.9.9.9".parse().unwrap();
    assert_eq!(of_family(&ips, v4, &mut rng), Some(ips[1]));
    assert_eq!(of_family(&ips[..1], v4, &mut rng), Some(ips[0]));
    assert_eq!(of_family(&[], v4, &mut rng), None);
}

#[test]
fn a_family_that_the_service_does_not_have_refuses() {
    let s = Service {
        ip_families: Some(crate::service::IpFamilies::Ipv6),
        ..service("cart", "10.1.0.1", &[(80, 8080)])
    };
    let world = World::default().service(s).pod(serving(
        pod("cart", "10.0.0.2", Protocol::Hbone),
        "cart",
        &[],
    ));
    assert_eq!(
        world.told("10.1.0.1:80"),
        "no valid routing destination for workload: c//Pod/ns/cart"
    );
}
