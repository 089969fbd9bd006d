//! The indexes of the state through updates and removals.

use super::*;
use crate::service::{LoadBalancing, NetworkCidr, PortMap};
use crate::workload::NetworkAddress;

fn ip(s: &str) -> IpAddr {
    s.parse().unwrap()
}

fn pod(name: &str, address: &str) -> Workload {
    Workload {
        uid: format!("Kubernetes//Pod/ns/{name}").into(),
        name: name.into(),
        namespace: "ns".into(),
        addresses: vec![ip(address)],
        node: "n1".into(),
        ..Workload::default()
    }
}

fn serving(mut w: Workload, host: &str) -> Workload {
    w.services.insert(
        NamespacedHostname::new("ns", host),
        PortMap::from([(80, 8080)]),
    );
    w
}

fn service(namespace: &str, host: &str, vip: &str) -> Service {
    Service {
        name: host.into(),
        namespace: namespace.into(),
        hostname: host.into(),
        vips: vec![NetworkAddress {
            network: "".into(),
            address: ip(vip),
        }],
        ports: PortMap::from([(80, 8080)]),
        ..Service::default()
    }
}

fn put(state: &mut MeshState, w: Workload) {
    state.apply(&Change::Workload(Arc::new(w)));
}

fn serve(state: &mut MeshState, s: Service) {
    state.apply(&Change::Service(Arc::new(s)));
}

fn at(state: &MeshState, address: &str) -> Option<String> {
    state
        .workload_at("", ip(address))
        .map(|w| w.name.to_string())
}

fn endpoints(state: &MeshState, host: &str) -> Vec<String> {
    let (_, entry) = state.service(&NamespacedHostname::new("ns", host)).unwrap();
    entry.endpoints().map(|w| w.name.to_string()).collect()
}

fn seen(state: &MeshState, address: &str, namespace: &str) -> Option<String> {
    state
        .service_at("", ip(address), namespace)
        .map(|(s, _)| s.key().to_string())
}

#[test]
fn an_update_leaves_nothing_of_the_former_version() {
    let mut state = MeshState::new(None);
    serve(&mut state, service("ns", "a", "10.1.0.1"));
    serve(&mut state, service("ns", "b", "10.1.0.2"));
    put(&mut state, serving(pod("p", "10.0.0.1"), "a"));
    assert_eq!(endpoints(&state, "a"), ["p"]);
    put(&mut state, serving(pod("p", "10.0.0.2"), "b"));
    assert!(endpoints(&state, "a").is_empty());
    assert_eq!(endpoints(&state, "b"), ["p"]);
    assert_eq!(at(&state, "10.0.0.1"), None);
    assert_eq!(at(&state, "10.0.0.2").as_deref(), Some("p"));
    state.apply(&Change::RemoveAddress("Kubernetes//Pod/ns/p".into()));
    assert_eq!(at(&state, "10.0.0.2"), None);
    assert!(endpoints(&state, "b").is_empty());
    assert_eq!(state.workloads().count(), 0);
}

#[test]
fn endpoints_may_come_before_their_service() {
    let mut state = MeshState::new(None);
    put(&mut state, serving(pod("p", "10.0.0.1"), "a"));
    assert_eq!(state.staged().count(), 1);
    assert!(state.service(&NamespacedHostname::new("ns", "a")).is_none());
    serve(&mut state, service("ns", "a", "10.1.0.1"));
    assert_eq!(state.staged().count(), 0);
    assert_eq!(endpoints(&state, "a"), ["p"]);
}

#[test]
fn a_service_that_is_sent_again_keeps_its_endpoints() {
    let mut state = MeshState::new(None);
    serve(&mut state, service("ns", "a", "10.1.0.1"));
    put(&mut state, serving(pod("p", "10.0.0.1"), "a"));
    serve(&mut state, service("ns", "a", "10.1.0.9"));
    assert_eq!(endpoints(&state, "a"), ["p"]);
    assert_eq!(seen(&state, "10.1.0.1", "ns"), None);
    assert_eq!(seen(&state, "10.1.0.9", "ns").as_deref(), Some("ns/a"));
    state.apply(&Change::RemoveAddress("ns/a".into()));
    assert_eq!(seen(&state, "10.1.0.9", "ns"), None);
    assert_eq!(state.staged().count(), 1);
}

#[test]
fn unhealthy_endpoints_count_only_where_the_service_says_so() {
    let mut state = MeshState::new(None);
    let sick = Workload {
        status: HealthStatus::Unhealthy,
        ..pod("p", "10.0.0.1")
    };
    put(&mut state, serving(sick, "a"));
    serve(&mut state, service("ns", "a", "10.1.0.1"));
    assert!(endpoints(&state, "a").is_empty());
    let lb = LoadBalancing {
        health_policy: HealthPolicy::AllowAll,
        ..LoadBalancing::default()
    };
    serve(
        &mut state,
        Service {
            load_balancing: Some(lb),
            ..service("ns", "a", "10.1.0.1")
        },
    );
    assert_eq!(endpoints(&state, "a"), ["p"]);
}

#[test]
fn the_nodes_network_is_never_found_by_address() {
    let mut state = MeshState::new(None);
    let host = Workload {
        network_mode: NetworkMode::HostNetwork,
        ..pod("p", "10.0.0.1")
    };
    put(&mut state, host);
    assert_eq!(at(&state, "10.0.0.1"), None);
    assert!(state.workload("Kubernetes//Pod/ns/p").is_some());
}

#[test]
fn the_best_of_several_at_one_address_is_found() {
    let mut state = MeshState::new(None);
    let named = |uid: &str, protocol| Workload {
        uid: uid.into(),
        name: uid.into(),
        protocol,
        ..pod("x", "10.0.0.1")
    };
    let (entry, tunnel) = ("c/networking.istio.io/WorkloadEntry/ns/a", "c/x/y/ns/b");
    let (plain, best) = ("c//Pod/ns/c", "c//Pod/ns/d");
    for (uid, protocol) in [
        (entry, Protocol::Tcp),
        (best, Protocol::Hbone),
        (plain, Protocol::Tcp),
        (tunnel, Protocol::Hbone),
    ] {
        put(&mut state, named(uid, protocol));
    }
    for expected in [best, plain, tunnel, entry] {
        assert_eq!(at(&state, "10.0.0.1").as_deref(), Some(expected));
        state.apply(&Change::RemoveAddress(expected.into()));
    }
    assert_eq!(at(&state, "10.0.0.1"), None);
}

#[test]
fn only_workloads_of_the_node_are_found_by_name() {
    let mut state = MeshState::new(Some("n1".into()));
    put(&mut state, pod("here", "10.0.0.1"));
    put(
        &mut state,
        Workload {
            node: "n2".into(),
            ..pod("there", "10.0.0.2")
        },
    );
    let find = |name: &str, sa: &str| {
        state
            .local_workload(&"ns".into(), &name.into(), sa)
            .is_some()
    };
    assert!(find("here", "default"));
    assert!(!find("here", "other"));
    assert!(!find("there", "default"));
}

#[test]
fn which_of_several_services_at_one_address() {
    let mut state = MeshState::new(None);
    serve(&mut state, service("a", "h", "10.1.0.1"));
    serve(
        &mut state,
        Service {
            canonical: true,
            ..service("b", "h", "10.1.0.1")
        },
    );
    serve(&mut state, service("c", "h", "10.1.0.1"));
    assert_eq!(
        seen(&state, "10.1.0.1", "c").as_deref(),
        Some("c/h"),
        "own namespace"
    );
    assert_eq!(
        seen(&state, "10.1.0.1", "x").as_deref(),
        Some("b/h"),
        "canonical"
    );
    state.apply(&Change::RemoveAddress("b/h".into()));
    assert_eq!(
        seen(&state, "10.1.0.1", "x").as_deref(),
        Some("a/h"),
        "the first"
    );
    let named = state.service_named("h", "x", Some("c")).unwrap();
    assert_eq!(&*named.0.namespace, "c", "preferred");
}

#[test]
fn a_hidden_service_is_not_found_from_elsewhere() {
    let mut state = MeshState::new(None);
    let hidden = Service {
        visibility: Visibility::Namespace,
        ..service("a", "h", "10.1.0.1")
    };
    serve(&mut state, hidden);
    assert_eq!(seen(&state, "10.1.0.1", "b"), None);
    assert_eq!(seen(&state, "10.1.0.1", "a").as_deref(), Some("a/h"));
}

#[test]
fn the_longest_range_wins_after_the_own_namespace() {
    let mut state = MeshState::new(None);
    let range = |ns: &str, cidr: &str| Service {
        vips: Vec::new(),
        cidr_vips: vec![NetworkCidr {
            network: "".into(),
            cidr: cidr.parse().unwrap(),
        }],
        ..service(ns, "r", "10.1.0.1")
    };
    serve(&mut state, range("a", "10.0.0.0/8"));
    serve(&mut state, range("b", "10.2.0.0/16"));
    assert_eq!(seen(&state, "10.2.0.1", "x").as_deref(), Some("b/r"));
    assert_eq!(seen(&state, "10.2.0.1", "a").as_deref(), Some("a/r"));
    assert_eq!(seen(&state, "11.2.0.1", "a"), None);
    serve(&mut state, service("c", "exact", "10.2.0.1"));
    assert_eq!(seen(&state, "10.2.0.1", "a").as_deref(), Some("c/exact"));
}

#[test]
fn the_two_orders_of_lookup() {
    let mut state = MeshState::new(None);
    serve(&mut state, service("ns", "a", "10.0.0.1"));
    put(&mut state, pod("p", "10.0.0.1"));
    assert!(matches!(
        state.find("", ip("10.0.0.1"), "ns"),
        Some(Found::Workload(_))
    ));
    let owner = crate::waypoint::owner(&state, "", ip("10.0.0.1"), "ns");
    assert!(matches!(owner, Some(Found::Service(..))));
    assert!(state.find("other", ip("10.0.0.1"), "ns").is_none());
}

#[test]
fn the_policies_of_a_workload() {
    let mut state = MeshState::new(None);
    let policy = |name: &str, namespace: &str, scope| {
        Change::Policy(Arc::new(Authorization {
            name: name.into(),
            namespace: namespace.into(),
            scope,
            action: crate::policy::Action::Allow,
            rules: Vec::new(),
            dry_run: false,
        }))
    };
    for change in [
        policy("global", "root", PolicyScope::Global),
        policy("mine", "ns", PolicyScope::Namespace),
        policy("other", "x", PolicyScope::Namespace),
        policy("selected", "ns", PolicyScope::WorkloadSelector),
        policy("unselected", "ns", PolicyScope::WorkloadSelector),
    ] {
        state.apply(&change);
    }
    let keys = ["ns/selected", "ns/mine", "ns/missing"]
        .map(Text::from)
        .to_vec();
    let w = Workload {
        authorization_policies: keys,
        ..pod("p", "10.0.0.1")
    };
    let names = |state: &MeshState| -> Vec<String> {
        let mut names: Vec<_> = state.policies_of(&w).map(|p| p.key().to_string()).collect();
        names.sort();
        names
    };
    assert_eq!(names(&state), ["ns/mine", "ns/selected", "root/global"]);
    let missing: Vec<_> = state
        .unknown_policies(&w)
        .map(|key| key.to_string())
        .collect();
    assert_eq!(missing, ["ns/missing"]);
    // A policy that changes its scope is found only by its new one.
    state.apply(&policy("mine", "ns", PolicyScope::Global));
    state.apply(&Change::RemovePolicy("ns/selected".into()));
    assert_eq!(names(&state), ["ns/mine", "root/global"]);
}
