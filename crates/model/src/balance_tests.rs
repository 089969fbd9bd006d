//! The choice of endpoints: each rule on its own, and all against a naive ranking.

use super::*;
use crate::service::{LoadBalancing, NamespacedHostname, PortMap};
use crate::state::{Change, MeshState};
use crate::workload::{ApplicationTunnel, ApplicationTunnelProtocol, HealthStatus, Locality};
use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;

fn key() -> NamespacedHostname {
    NamespacedHostname::new("ns", "h")
}

fn endpoint(name: &str) -> Workload {
    Workload {
        uid: name.into(),
        name: name.into(),
        addresses: vec!["10.0.0.1".parse().unwrap()],
        services: [(key(), PortMap::from([(80, 8080)]))].into(),
        ..Workload::default()
    }
}

fn service() -> Service {
    Service {
        namespace: "ns".into(),
        hostname: "h".into(),
        ports: PortMap::from([(80, 9090), (81, 0)]),
        ..Service::default()
    }
}

fn state(service: &Service, endpoints: &[Workload]) -> MeshState {
    let mut state = MeshState::new(None);
    for w in endpoints {
        state.apply(&Change::Workload(Arc::new(w.clone())));
    }
    state.apply(&Change::Service(Arc::new(service.clone())));
    state
}

fn pick_port(s: &Service, all: &[Workload], port: u16, purpose: Purpose) -> Option<(String, u16)> {
    let state = state(s, all);
    let (s, entry) = state.service(&key()).unwrap();
    let mut rng = StdRng::seed_from_u64(7);
    let chosen = pick(s, entry, &Workload::default(), port, purpose, &mut rng)?;
    Some((chosen.workload.name.to_string(), chosen.port))
}

#[test]
fn the_endpoints_own_port_comes_first() {
    let bare = Workload {
        services: [(key(), PortMap::new())].into(),
        ..endpoint("bare")
    };
    let standard = |w: Workload, port| pick_port(&service(), &[w], port, Purpose::Standard);
    assert_eq!(standard(endpoint("a"), 80), Some(("a".into(), 8080)));
    assert_eq!(standard(bare.clone(), 80), Some(("bare".into(), 9090)));
    assert_eq!(
        standard(bare, 81),
        None,
        "named, and the endpoint does not know it"
    );
    assert_eq!(
        standard(endpoint("a"), 82),
        None,
        "not a port of the service"
    );
}

#[test]
fn a_tunnel_of_the_application_serves_ports_that_the_service_lacks() {
    let tunnel = ApplicationTunnel {
        protocol: ApplicationTunnelProtocol::Proxy,
        port: Some(15088),
    };
    let w = Workload {
        application_tunnel: Some(tunnel),
        ..endpoint("a")
    };
    let all = [w];
    assert_eq!(
        pick_port(&service(), &all, 15008, Purpose::Waypoint),
        Some(("a".into(), 15008))
    );
    assert_eq!(pick_port(&service(), &all, 15008, Purpose::Standard), None);
}

#[test]
fn what_cannot_take_traffic_is_left_out() {
    let nowhere = Workload {
        addresses: Vec::new(),
        ..endpoint("a")
    };
    let by_name = Workload {
        hostname: "x.example".into(),
        ..nowhere.clone()
    };
    let idle = Workload {
        capacity: 0,
        ..endpoint("a")
    };
    let sick = Workload {
        status: HealthStatus::Unhealthy,
        ..endpoint("a")
    };
    let can = |w: Workload| pick_port(&service(), &[w], 80, Purpose::Standard).is_some();
    assert!(!can(nowhere) && can(by_name) && !can(idle) && !can(sick));
}

#[test]
fn draws_follow_the_weights() {
    let all = [
        Workload {
            capacity: 1,
            ..endpoint("one")
        },
        Workload {
            capacity: 3,
            ..endpoint("three")
        },
    ];
    let service = service();
    let state = state(&service, &all);
    let (s, entry) = state.service(&key()).unwrap();
    let mut rng = StdRng::seed_from_u64(1);
    let source = Workload::default();
    let hits = (0..4000)
        .filter_map(|_| pick(s, entry, &source, 80, Purpose::Standard, &mut rng))
        .filter(|chosen| &*chosen.workload.name == "three")
        .count();
    assert!((2850..3150).contains(&hits), "{hits}");
}

#[test]
fn addresses_follow_the_client_and_the_service() {
    let w = Workload {
        addresses: vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
        ..endpoint("a")
    };
    let of = |families, original: &str| {
        let s = Service {
            ip_families: families,
            ..service()
        };
        match host(&w, Some(&s), original.parse().unwrap()) {
            Some(Host::Ip(ip)) => ip.to_string(),
            other => format!("{other:?}"),
        }
    };
    assert_eq!(of(None, "10.9.9.9:80"), "10.0.0.1");
    assert_eq!(of(None, "[fd00::9]:80"), "fd00::1");
    assert_eq!(of(Some(IpFamilies::Ipv6), "10.9.9.9:80"), "fd00::1");
    assert_eq!(of(Some(IpFamilies::Ipv4), "[fd00::9]:80"), "10.0.0.1");
    assert_eq!(
        of(Some(IpFamilies::Ipv6), "10.0.0.1:80"),
        "10.0.0.1",
        "asked for by address"
    );
    let only_v4 = Workload {
        addresses: vec!["10.0.0.1".parse().unwrap()],
        ..w.clone()
    };
    let v6 = Service {
        ip_families: Some(IpFamilies::Ipv6),
        ..service()
    };
    assert_eq!(
        host(&only_v4, Some(&v6), "10.9.9.9:80".parse().unwrap()),
        None
    );
}

/// Ranks as the reference tells them: how many preferences match from the front; a network in
/// front does not stop the walk and lifts what matches it above all else.
fn naive_candidates(
    lb: Option<&LoadBalancing>,
    source: &Workload,
    all: &[Workload],
) -> Vec<String> {
    let usable = all
        .iter()
        .filter(|w| w.capacity > 0 && w.status == HealthStatus::Healthy);
    let mut ranked = Vec::new();
    for w in usable {
        let Some(lb) = lb.filter(|lb| {
            matches!(
                lb.mode,
                LoadBalancingMode::Failover | LoadBalancingMode::Strict
            )
        }) else {
            ranked.push((0, w));
            continue;
        };
        let (mut raw, mut bonus) = (0, 0);
        for (n, scope) in lb.routing_preferences.iter().enumerate() {
            let matched = match scope {
                Scope::Region => w.locality.region == source.locality.region,
                Scope::Zone => w.locality.zone == source.locality.zone,
                Scope::Subzone => w.locality.subzone == source.locality.subzone,
                Scope::Node => w.node == source.node,
                Scope::Cluster => w.cluster_id == source.cluster_id,
                Scope::Network => w.network == source.network,
            };
            let first_network = n == 0 && *scope == Scope::Network;
            if matched {
                raw += 1;
                if first_network {
                    bonus = lb.routing_preferences.len() - 1;
                }
            } else if !first_network {
                break;
            }
        }
        if lb.mode == LoadBalancingMode::Strict && raw != lb.routing_preferences.len() {
            continue;
        }
        ranked.push((raw + bonus, w));
    }
    let best = ranked.iter().map(|(rank, _)| *rank).max().unwrap_or(0);
    let of_best = ranked.into_iter().filter(|(rank, _)| *rank == best);
    of_best.map(|(_, w)| w.name.to_string()).collect()
}

fn place() -> impl Strategy<Value = (Text, Text, Text, Text)> {
    let one = || prop_oneof![Just("a"), Just("b")].prop_map(Text::from);
    (one(), one(), one(), one())
}

fn placed(mut w: Workload, at: (Text, Text, Text, Text)) -> Workload {
    w.locality = Locality {
        region: at.0,
        zone: at.1,
        subzone: "".into(),
    };
    (w.node, w.network) = (at.2, at.3);
    w
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]
    #[test]
    fn picks_only_and_all_of_the_best(
        places in proptest::collection::vec((place(), 0..3u32, any::<bool>()), 0..5),
        from in place(),
        scopes in proptest::collection::vec(0..4usize, 0..4),
        mode in 0..4usize,
        seed: u64,
    ) {
        let all: Vec<Workload> = places.into_iter().enumerate().map(|(n, (at, capacity, sick))| {
            let status = if sick { HealthStatus::Unhealthy } else { HealthStatus::Healthy };
            placed(Workload { capacity, status, ..endpoint(&n.to_string()) }, at)
        }).collect();
        let source = placed(Workload::default(), from);
        let modes = [LoadBalancingMode::Standard, LoadBalancingMode::Strict,
            LoadBalancingMode::Failover, LoadBalancingMode::Passthrough];
        let kinds = [Scope::Network, Scope::Region, Scope::Zone, Scope::Node];
        let lb = LoadBalancing {
            routing_preferences: scopes.into_iter().map(|n| kinds[n]).collect(),
            mode: modes[mode],
            ..LoadBalancing::default()
        };
        let service = Service { load_balancing: Some(lb.clone()), ..service() };
        let state = state(&service, &all);
        let (s, entry) = state.service(&key()).unwrap();
        let mut rng = StdRng::seed_from_u64(seed);
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..200 {
            if let Some(e) = pick(s, entry, &source, 80, Purpose::Standard, &mut rng) {
                seen.insert(e.workload.name.to_string());
            }
        }
        let expected: std::collections::BTreeSet<String> =
            naive_candidates(Some(&lb), &source, &all).into_iter().collect();
        prop_assert_eq!(seen, expected);
    }
}
