//! Which names are answered, with what, and which are forwarded.

use super::*;
use crate::service::{NamespacedHostname, NetworkCidr, PortMap, Visibility};
use crate::state::Change;
use crate::workload::NetworkAddress;
use std::sync::Arc;

fn settings() -> Settings<'static> {
    Settings {
        cluster_domain: "cluster.local",
        network: "",
        preferred_namespace: None,
        ipv6: true,
    }
}

fn client() -> Workload {
    Workload {
        namespace: "ns".into(),
        ..Workload::default()
    }
}

fn service(namespace: &str, hostname: &str, vips: &[&str]) -> Service {
    let vip = |s: &&str| NetworkAddress {
        network: "".into(),
        address: s.parse().unwrap(),
    };
    Service {
        namespace: namespace.into(),
        hostname: hostname.into(),
        vips: vips.iter().map(vip).collect(),
        ..Service::default()
    }
}

fn world(services: Vec<Service>) -> MeshState {
    let mut state = MeshState::new(None);
    for s in services {
        state.apply(&Change::Service(Arc::new(s)));
    }
    state
}

fn ask(state: &MeshState, name: &str, family: Family) -> String {
    match answer(state, &client(), name, family, &settings()) {
        Answer::Forward => "forward".into(),
        Answer::Empty { unsupported: true } => "unsupported".into(),
        Answer::Empty { unsupported: false } => "empty".into(),
        Answer::Addresses { alias, addresses } => {
            let ips: Vec<_> = addresses.iter().map(ToString::to_string).collect();
            let alias = alias.map(|a| format!("{a}: ")).unwrap_or_default();
            format!("{alias}{}", ips.join(" "))
        }
    }
}

fn v4(state: &MeshState, name: &str) -> String {
    ask(state, name, Family::V4)
}

#[test]
fn short_names_mean_what_kubernetes_makes_of_them() {
    let state = world(vec![
        service("ns", "cart.ns.svc.cluster.local", &["10.1.0.1"]),
        service("far", "cart.far.svc.cluster.local", &["10.1.0.2"]),
    ]);
    for (name, expected) in [
        ("cart", "10.1.0.1"),
        ("cart.ns", "10.1.0.1"),
        ("cart.far", "10.1.0.2"),
        ("cart.far.svc", "10.1.0.2"),
        ("cart.far.svc.cluster.local", "10.1.0.2"),
        ("nobody.far", "forward"),
        ("example.com", "forward"),
    ] {
        assert_eq!(v4(&state, name), expected, "{name}");
    }
}

#[test]
fn a_name_under_a_search_domain_is_an_alias() {
    let state = world(vec![
        service("ns", "www.example.com", &["10.1.0.1"]),
        service("ns", "*.wild.example", &["10.1.0.2"]),
    ]);
    assert_eq!(v4(&state, "www.example.com"), "10.1.0.1");
    assert_eq!(
        v4(&state, "www.example.com.ns.svc.cluster.local"),
        "www.example.com: 10.1.0.1"
    );
    assert_eq!(
        v4(&state, "www.example.com.svc.cluster.local"),
        "www.example.com: 10.1.0.1"
    );
    assert_eq!(v4(&state, "a.b.wild.example"), "10.1.0.2");
    assert_eq!(
        v4(&state, "a.wild.example.cluster.local"),
        "10.1.0.2",
        "no alias for a wildcard"
    );
    assert_eq!(v4(&state, "wild.example"), "forward");
}

#[test]
fn the_most_specific_wildcard_wins() {
    let state = world(vec![
        service("ns", "*.example", &["10.1.0.1"]),
        service("ns", "*.a.example", &["10.1.0.2"]),
        service("ns", "x.a.example", &["10.1.0.3"]),
    ]);
    assert_eq!(v4(&state, "b.example"), "10.1.0.1");
    assert_eq!(v4(&state, "b.a.example"), "10.1.0.2");
    assert_eq!(v4(&state, "x.a.example"), "10.1.0.3");
}

#[test]
fn another_family_is_empty_and_never_forwarded() {
    let mut only_v4 = service("ns", "a.ns.svc.cluster.local", &["10.1.0.1"]);
    only_v4.ip_families = Some(IpFamilies::Ipv4);
    let auto = service("ns", "b.ns.svc.cluster.local", &["10.1.0.2"]);
    let state = world(vec![only_v4, auto]);
    assert_eq!(ask(&state, "a", Family::V6), "unsupported");
    assert_eq!(ask(&state, "b", Family::V6), "empty");
}

#[test]
fn headless_services_list_their_endpoints_only_inside_the_cluster() {
    let mut state = world(vec![
        service("ns", "h.ns.svc.cluster.local", &[]),
        service("ns", "h.example", &[]),
    ]);
    for (name, ips) in [("a", vec!["10.0.0.1", "fd00::1"]), ("b", vec!["10.0.0.2"])] {
        let key = |h: &str| (NamespacedHostname::new("ns", h), PortMap::new());
        state.apply(&Change::Workload(Arc::new(Workload {
            uid: name.into(),
            addresses: ips.iter().map(|s| s.parse().unwrap()).collect(),
            services: [key("h.ns.svc.cluster.local"), key("h.example")].into(),
            ..Workload::default()
        })));
    }
    assert_eq!(v4(&state, "h"), "10.0.0.1 10.0.0.2");
    assert_eq!(ask(&state, "h", Family::V6), "fd00::1");
    assert_eq!(v4(&state, "h.example"), "forward");
}

#[test]
fn what_the_client_may_not_see_is_forwarded() {
    let hidden = Service {
        visibility: Visibility::Namespace,
        ..service("far", "hidden.example", &["10.1.0.1"])
    };
    let mut ranges = service("ns", "range.example", &[]);
    ranges.cidr_vips = vec![NetworkCidr {
        network: "".into(),
        cidr: "10.0.0.0/8".parse().unwrap(),
    }];
    let state = world(vec![hidden, ranges]);
    assert_eq!(v4(&state, "hidden.example"), "forward");
    assert_eq!(v4(&state, "range.example"), "forward");
}

#[test]
fn addresses_of_other_networks_are_not_told() {
    let mut s = service("ns", "a.ns.svc.cluster.local", &["10.1.0.1"]);
    s.vips.push(NetworkAddress {
        network: "far".into(),
        address: "10.2.0.1".parse().unwrap(),
    });
    assert_eq!(v4(&world(vec![s]), "a"), "10.1.0.1");
}
