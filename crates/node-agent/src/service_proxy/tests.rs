//! The rules in the kernel: a network namespace of its own, real sockets.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::time::Duration;

use super::conntrack::Stale;
use super::render::Place;
use super::rules::Port;
use super::state::State;
use crate::informer::ObjectKey;
use crate::nft::{self, Family, Protocol};

const PATIENCE: Duration = Duration::from_secs(5);

/// Runs `body` on a thread in a new network namespace that ends with it.
fn in_namespace(body: impl AsyncFnOnce() + Send + 'static) {
    let thread = std::thread::spawn(move || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)
            .expect("this test needs root, to make a network namespace");
        for command in [
            "link set lo up",
            "address add 10.1.0.1/32 dev lo",
            "address add 10.1.0.2/32 dev lo",
            "address add fd00:1::1/128 dev lo",
            "link add out0 type veth peer name out1",
            "address add 10.1.0.9/32 dev out0",
            "address add fd00:1::9/128 dev out0 nodad",
            "link set out0 up",
            "link set out1 up",
            "route add 10.96.0.0/16 dev out0",
            "route add fd00:96::/112 dev out0",
        ] {
            let status = Command::new("ip")
                .args(command.split(' '))
                .status()
                .expect("the program ip");
            assert!(status.success(), "ip {command}");
        }
        // One thread: what it starts is in the namespace, too.
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime")
            .block_on(body());
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// A proxy for one node and one family.
struct Proxy {
    state: State,
}

impl Proxy {
    async fn new(family: Family) -> Self {
        let node = match family {
            Family::V4 => "10.1.0.1",
            Family::V6 => "fd00:1::1",
        };
        let place = Place {
            address: node.parse().ok(),
            pods: Vec::new(),
        };
        let (state, script) = State::new(family, place);
        nft::apply(&script).await.expect(&script);
        Self { state }
    }

    async fn set(&mut self, service: &str, ports: Vec<Port>) {
        let changed = BTreeMap::from([(ObjectKey::new("ns", service), ports)]);
        let mut stale = Stale::default();
        stale.note(&self.state, &changed);
        let script = self.state.update(changed);
        nft::apply(&script).await.expect(&script);
        // Here, not on another thread: it is of another namespace.
        stale.forget_here().expect("flows are forgotten");
    }
}

fn port(vip: &str, number: u16, endpoints: &[SocketAddr]) -> Port {
    let endpoints: BTreeSet<_> = endpoints.iter().copied().collect();
    Port {
        name: format!("ns/web/tcp/{number}"),
        protocol: Protocol::Tcp,
        cluster: vip.parse().ok(),
        number,
        balancers: BTreeSet::new(),
        externals: BTreeSet::new(),
        node_port: None,
        local: endpoints.clone(),
        endpoints,
        internal_local: false,
        external_local: false,
        affinity: None,
        sources: BTreeSet::new(),
    }
}

/// A server that names itself to whoever connects.
fn server(name: &'static str, address: &str) -> SocketAddr {
    let listener = TcpListener::bind(address).expect("an address to listen on");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut stream = stream;
            let _ = stream.write_all(name.as_bytes());
        }
    });
    address
}

fn ask(address: &str, port: u16) -> Result<String, ErrorKind> {
    let address: IpAddr = address.parse().expect("an address");
    let mut stream = TcpStream::connect_timeout(&(address, port).into(), PATIENCE)
        .map_err(|error| error.kind())?;
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .map_err(|error| error.kind())?;
    Ok(answer)
}

fn answers(address: &str, port: u16, times: usize) -> BTreeSet<String> {
    (0..times)
        .map(|_| ask(address, port).expect("an answer"))
        .collect()
}

#[test]
fn services_lead_to_all_their_endpoints_and_follow_changes() {
    in_namespace(async || {
        let (one, two) = (server("one", "10.1.0.1:0"), server("two", "10.1.0.2:0"));
        let mut proxy = Proxy::new(Family::V4).await;
        let vip = "10.96.0.1";
        let both = Port {
            node_port: Some(30080),
            ..port(vip, 80, &[one, two])
        };
        proxy.set("web", vec![both]).await;
        assert_eq!(answers(vip, 80, 60).len(), 2);
        assert!(ask("10.1.0.1", 30080).is_ok(), "the node's port");
        assert_eq!(
            ask(vip, 81),
            Err(ErrorKind::ConnectionRefused),
            "a port that the service does not have"
        );

        proxy.set("web", vec![port(vip, 80, &[two])]).await;
        assert_eq!(answers(vip, 80, 20), BTreeSet::from(["two".to_owned()]));
        assert!(ask("10.1.0.1", 30080).is_err());

        proxy.set("web", vec![port(vip, 80, &[])]).await;
        assert_eq!(
            ask(vip, 80),
            Err(ErrorKind::ConnectionRefused),
            "no endpoint: refused at once"
        );

        let other = Port {
            name: "ns/other/tcp/8080".into(),
            ..port("10.96.0.2", 8080, &[one])
        };
        proxy.set("other", vec![other]).await;
        proxy.set("web", Vec::new()).await;
        assert_eq!(ask("10.96.0.2", 8080).as_deref(), Ok("one"));

        // A proxy that starts again takes over whatever is there.
        let mut again = Proxy::new(Family::V4).await;
        assert!(ask("10.96.0.2", 8080).is_err());
        again.set("web", vec![port(vip, 80, &[two])]).await;
        assert_eq!(ask(vip, 80).as_deref(), Ok("two"));
    });
}

#[test]
fn a_front_belongs_to_one_service_and_is_handed_on() {
    in_namespace(async || {
        let (one, two) = (server("one", "10.1.0.1:0"), server("two", "10.1.0.2:0"));
        let mut proxy = Proxy::new(Family::V4).await;
        let shared = |name: &str, own: &str, endpoint| Port {
            name: format!("ns/{name}/tcp/80"),
            externals: BTreeSet::from(["10.96.9.9".parse().expect("an address")]),
            ..port(own, 80, &[endpoint])
        };
        proxy.set("a", vec![shared("a", "10.96.0.1", one)]).await;
        proxy.set("b", vec![shared("b", "10.96.0.2", two)]).await;
        assert_eq!(ask("10.96.9.9", 80).as_deref(), Ok("one"));
        assert_eq!(ask("10.96.0.2", 80).as_deref(), Ok("two"));
        proxy.set("a", Vec::new()).await;
        assert_eq!(ask("10.96.9.9", 80).as_deref(), Ok("two"));
        proxy.set("a", vec![shared("a", "10.96.0.1", one)]).await;
        proxy.set("b", Vec::new()).await;
        assert_eq!(ask("10.96.9.9", 80).as_deref(), Ok("one"));
    });
}

#[test]
fn a_client_stays_with_its_endpoint() {
    in_namespace(async || {
        let (one, two) = (server("one", "10.1.0.1:0"), server("two", "10.1.0.2:0"));
        let mut proxy = Proxy::new(Family::V4).await;
        let vip = "10.96.0.1";
        let sticky = |endpoints: &[SocketAddr]| Port {
            affinity: Some(100),
            ..port(vip, 80, endpoints)
        };
        proxy.set("web", vec![sticky(&[one, two])]).await;
        let first = answers(vip, 80, 40);
        assert_eq!(first.len(), 1, "{first:?}");
        // The endpoint that it stays with goes: the other takes over.
        let left = if first.contains("one") { two } else { one };
        proxy.set("web", vec![sticky(&[left])]).await;
        assert_ne!(answers(vip, 80, 5), first);
        // Without affinity both are met again.
        proxy.set("web", vec![port(vip, 80, &[one, two])]).await;
        assert_eq!(answers(vip, 80, 60).len(), 2);
    });
}

#[test]
fn both_families_work_alike() {
    in_namespace(async || {
        let one = server("one", "[fd00:1::1]:0");
        let mut proxy = Proxy::new(Family::V6).await;
        let served = Port {
            node_port: Some(30080),
            affinity: Some(100),
            ..port("fd00:96::1", 80, &[one])
        };
        proxy.set("web", vec![served]).await;
        assert_eq!(ask("fd00:96::1", 80).as_deref(), Ok("one"));
        assert_eq!(ask("fd00:1::1", 30080).as_deref(), Ok("one"));
        proxy.set("web", vec![port("fd00:96::1", 80, &[])]).await;
        assert_eq!(ask("fd00:96::1", 80), Err(ErrorKind::ConnectionRefused));
    });
}

#[test]
fn load_balancers_are_for_those_who_may_use_them() {
    in_namespace(async || {
        let one = server("one", "10.1.0.1:0");
        let mut proxy = Proxy::new(Family::V4).await;
        let guarded = |sources: &str| Port {
            balancers: BTreeSet::from(["10.96.7.7".parse().expect("an address")]),
            sources: sources.split(',').flat_map(str::parse).collect(),
            ..port("10.96.0.1", 80, &[one])
        };
        let both = "10.1.0.0/30,10.1.0.8/30,10.1.0.8/29,fd00::/8";
        proxy.set("web", vec![guarded(both)]).await;
        assert_eq!(ask("10.96.7.7", 80).as_deref(), Ok("one"));
        proxy.set("web", vec![guarded("fd00::/8")]).await;
        let address = "10.96.7.7:80".parse().expect("an address");
        let refused = TcpStream::connect_timeout(&address, Duration::from_millis(300));
        assert!(refused.is_err(), "everybody may");
        assert_eq!(ask("10.96.0.1", 80).as_deref(), Ok("one"));
    });
}

/// A server that names itself in datagrams.
fn echo(name: &'static str, address: &str) -> SocketAddr {
    let socket = UdpSocket::bind(address).expect("an address");
    let address = socket.local_addr().expect("an address");
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((_, client)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(name.as_bytes(), client);
        }
    });
    address
}

#[test]
fn datagrams_of_one_socket_follow_the_endpoints() {
    in_namespace(async || {
        let (one, two) = (echo("one", "10.1.0.1:0"), echo("two", "10.1.0.2:0"));
        let mut proxy = Proxy::new(Family::V4).await;
        let udp = |endpoints: &[SocketAddr]| Port {
            name: "ns/web/udp/53".into(),
            protocol: Protocol::Udp,
            ..port("10.96.0.1", 53, endpoints)
        };
        proxy.set("web", vec![udp(&[one])]).await;
        let client = UdpSocket::bind("10.1.0.9:0").expect("a socket");
        client.connect("10.96.0.1:53").expect("a destination");
        client.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let asked = || -> std::io::Result<String> {
            client.send(b"who?")?;
            let mut buffer = [0; 64];
            let length = client.recv(&mut buffer)?;
            Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
        };
        assert_eq!(asked().expect("an answer"), "one");
        // One more endpoint: the flow stays where it is.
        proxy.set("web", vec![udp(&[one, two])]).await;
        assert_eq!(asked().expect("an answer"), "one");
        proxy.set("web", vec![udp(&[two])]).await;
        assert_eq!(asked().expect("an answer"), "two");
        proxy.set("web", vec![udp(&[])]).await;
        assert!(asked().is_err(), "nobody answers");
        proxy.set("web", vec![udp(&[one])]).await;
        // What was refused before may still be told.
        let answer = (0..5).find_map(|_| asked().ok());
        assert_eq!(answer.as_deref(), Some("one"));
    });
}
