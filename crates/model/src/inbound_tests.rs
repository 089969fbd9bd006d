//! Where tunnels lead, and which lead nowhere.

use super::*;
use crate::service::PortMap;
use crate::state::Change;
use crate::workload::{ApplicationTunnel, NetworkAddress};

const OWN: &[u16] = &[15001, 15006, 15008];

fn ip(s: &str) -> IpAddr {
    s.parse().unwrap()
}

fn key(host: &str) -> NamespacedHostname {
    NamespacedHostname::new("ns", host)
}

fn local() -> Workload {
    Workload {
        uid: "c//Pod/ns/p".into(),
        name: "p".into(),
        namespace: "ns".into(),
        addresses: vec![ip("10.0.0.1")],
        services: [(key("cart"), PortMap::from([(80, 8080)]))].into(),
        ..Workload::default()
    }
}

fn service(host: &str, vip: Option<&str>) -> Service {
    let vips = vip.map(|vip| NetworkAddress {
        network: "".into(),
        address: ip(vip),
    });
    Service {
        name: host.into(),
        namespace: "ns".into(),
        hostname: host.into(),
        vips: vips.into_iter().collect(),
        ports: PortMap::from([(80, 8080), (81, 0)]),
        ..Service::default()
    }
}

fn state(services: Vec<Service>, w: &Workload) -> MeshState {
    let mut state = MeshState::new(None);
    for s in services {
        state.apply(&Change::Service(Arc::new(s)));
    }
    state.apply(&Change::Workload(Arc::new(w.clone())));
    state
}

fn ask(state: &MeshState, w: &Workload, authority: &str) -> Result<Target, Refusal> {
    let (host, port) = authority.rsplit_once(':').unwrap();
    let authority = match authority.parse() {
        Ok(address) => Authority::Address(address),
        Err(_) => Authority::Name(host.into(), port.parse().unwrap()),
    };
    target(state, w, ip("10.0.0.1"), &authority, "", OWN)
}

fn address(state: &MeshState, w: &Workload, authority: &str) -> String {
    match ask(state, w, authority) {
        Ok(target) => target.address.to_string(),
        Err(refusal) => format!("{} {refusal}", refusal.status()),
    }
}

#[test]
fn only_the_pods_own_address_is_reached() {
    let w = local();
    let state = state(vec![service("cart", Some("10.1.0.1"))], &w);
    assert_eq!(address(&state, &w, "10.0.0.1:8080"), "10.0.0.1:8080");
    assert_eq!(
        address(&state, &w, "10.0.0.2:8080"),
        "400 ip mismatch: 10.0.0.1 != 10.0.0.2"
    );
    assert_eq!(
        address(&state, &w, "10.1.0.1:80"),
        "400 ip mismatch: 10.0.0.1 != 10.1.0.1"
    );
}

#[test]
fn names_lead_to_the_pods_port() {
    let w = local();
    let state = state(vec![service("cart", Some("10.1.0.1"))], &w);
    assert_eq!(address(&state, &w, "cart:80"), "10.0.0.1:8080");
    assert_eq!(
        address(&state, &w, "cart:81"),
        "503 requested service cart:81 found, but cannot resolve port"
    );
    assert_eq!(
        address(&state, &w, "nobody:80"),
        "503 no service or workload for hostname: nobody"
    );
}

#[test]
fn the_proxys_own_ports_are_refused() {
    let w = local();
    let state = state(vec![], &w);
    assert_eq!(
        address(&state, &w, "10.0.0.1:15006"),
        "503 attempted recursive call to ourselves"
    );
    let plain = |port| check_plaintext(SocketAddr::new(ip("10.0.0.1"), port), OWN);
    assert_eq!(plain(15008), Err(Refusal::Loop));
    assert_eq!(plain(8080), Ok(()));
}

fn tunnelled(protocol: ApplicationTunnelProtocol, port: Option<u16>) -> Workload {
    Workload {
        application_tunnel: Some(ApplicationTunnel { protocol, port }),
        ..local()
    }
}

#[test]
fn a_tunnel_of_the_application_takes_any_address() {
    let w = tunnelled(ApplicationTunnelProtocol::Proxy, Some(15088));
    let state = state(
        vec![service("cart", Some("10.1.0.1")), service("none", None)],
        &w,
    );
    let target = ask(&state, &w, "10.9.9.9:80").unwrap();
    assert_eq!(target.address.to_string(), "10.0.0.1:15088");
    let header = target.proxy_header.unwrap();
    assert_eq!(header.destination.to_string(), "10.9.9.9:80");
    let by_name = ask(&state, &w, "cart:80").unwrap().proxy_header.unwrap();
    assert_eq!(by_name.destination.to_string(), "10.1.0.1:80");
    assert_eq!(
        address(&state, &w, "none:80"),
        "503 requested service none found, but has no IP addresses"
    );
    let silent = tunnelled(ApplicationTunnelProtocol::None, Some(15088));
    let target = ask(&state, &silent, "10.9.9.9:80").unwrap();
    assert_eq!((target.address.port(), target.proxy_header), (15088, None));
}

#[test]
fn a_waypoint_takes_what_points_at_it() {
    let w = Workload {
        services: [(key("wp"), PortMap::new())].into(),
        ..local()
    };
    let reference = |host: &str| GatewayAddress {
        destination: GatewayDestination::Hostname(key(host)),
        hbone_mtls_port: 15008,
    };
    let behind = Service {
        waypoint: Some(reference("wp")),
        ..service("behind", Some("10.1.0.2"))
    };
    let other = Service {
        waypoint: Some(reference("x")),
        ..service("other", Some("10.1.0.3"))
    };
    let state = state(vec![service("wp", None), behind, other], &w);
    assert_eq!(address(&state, &w, "10.1.0.2:80"), "10.0.0.1:80");
    assert_eq!(
        address(&state, &w, "10.1.0.3:80"),
        "400 ip mismatch: 10.0.0.1 != 10.1.0.3"
    );
}

#[test]
fn the_service_that_is_told() {
    let mut w = local();
    w.services.insert(key("admin"), PortMap::from([(90, 9090)]));
    let state = state(vec![service("cart", None), service("admin", None)], &w);
    let told = |port, named| service_for(&state, &w, port, named).map(|s| s.hostname.to_string());
    assert_eq!(told(9090, None).as_deref(), Some("admin"));
    assert_eq!(told(9090, Some("cart")).as_deref(), Some("cart"));
    assert_eq!(told(9090, Some("stranger")).as_deref(), Some("admin"));
    assert_eq!(told(1, None), None);
}
