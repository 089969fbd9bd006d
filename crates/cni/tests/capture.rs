//! The rules in real network namespaces: what is captured, what passes, what stays after removal.

mod support;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

use ambit_cni::apply::{apply_host, apply_pod, is_applied, remove_host, remove_pod};
use ambit_cni::netns::Netns;
use ambit_cni::rules::{
    HostExemption, PROXY_MARK, PodCapture, ProbeSource, ProbeTarget, host_plan, host_removal,
    pod_plan,
};
use support::{ip, node_and_pod, sh};

fn listen(netns: &Netns, address: &str) -> TcpListener {
    netns
        .run(|| TcpListener::bind(address))
        .expect("enter")
        .expect("bind")
}

fn connect(netns: &Netns, to: &str) -> std::io::Result<TcpStream> {
    let to: SocketAddr = to.parse().expect("address");
    netns
        .run(|| TcpStream::connect_timeout(&to, Duration::from_secs(3)))
        .expect("enter")
}

/// Connects with the proxy's mark, optionally from a foreign source address.
fn connect_as_proxy(netns: &Netns, from: Option<&str>, to: &str) -> std::io::Result<TcpStream> {
    let (from, to): (Option<SocketAddr>, SocketAddr) = (
        from.map(|f| f.parse().expect("address")),
        to.parse().expect("address"),
    );
    netns
        .run(|| {
            let socket = nix::sys::socket::socket(
                nix::sys::socket::AddressFamily::Inet,
                nix::sys::socket::SockType::Stream,
                nix::sys::socket::SockFlag::SOCK_CLOEXEC,
                None,
            )?;
            use nix::sys::socket::{SockaddrStorage, bind, connect, setsockopt, sockopt};
            setsockopt(&socket, sockopt::Mark, &PROXY_MARK)?;
            if let Some(from) = from {
                setsockopt(&socket, sockopt::IpTransparent, &true)?;
                bind(socket.as_raw_fd(), &SockaddrStorage::from(from))?;
            }
            connect(socket.as_raw_fd(), &SockaddrStorage::from(to))?;
            Ok(TcpStream::from(socket))
        })
        .expect("enter")
}

/// Connects from a thread that runs as another user.
fn connect_as_user(netns: &Netns, uid: u32, to: &str) -> std::io::Result<TcpStream> {
    let to: SocketAddr = to.parse().expect("address");
    netns
        .run(|| {
            // SAFETY: a system call with three integers; made directly it changes only the calling
            // thread, which ends right after.
            let result = unsafe { nix::libc::syscall(nix::libc::SYS_setresuid, uid, uid, uid) };
            assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
            TcpStream::connect_timeout(&to, Duration::from_secs(3))
        })
        .expect("enter")
}

/// Accepts one connection and gives back its peer.
fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    listener.set_nonblocking(true).expect("nonblocking");
    for _ in 0..300 {
        match listener.accept() {
            Ok((stream, peer)) => {
                stream.set_nonblocking(false).expect("blocking");
                stream
                    .set_read_timeout(Some(Duration::from_secs(5)))
                    .expect("timeout");
                return (stream, peer);
            }
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
    panic!("no connection arrived at {:?}", listener.local_addr());
}

fn nothing_arrives(listener: &TcpListener) {
    listener.set_nonblocking(true).expect("nonblocking");
    assert!(
        listener.accept().is_err(),
        "unexpected connection at {:?}",
        listener.local_addr()
    );
}

fn capture(ports: &[u16]) -> PodCapture {
    PodCapture {
        probes: ProbeSource::for_ports(ports.iter().copied()),
        ..Default::default()
    }
}

fn apply(pod: &Netns, capture: &PodCapture) {
    apply_pod(pod, &pod_plan(capture), capture.ipv6).expect("apply");
}

#[test]
fn apply_is_idempotent_and_removal_leaves_nothing() {
    let (_node, pod) = node_and_pod();
    let rules_before = (ip(&pod, "rule"), ip(&pod, "-6 rule"));
    assert!(!is_applied(&pod).expect("list"));
    remove_pod(&pod).expect("removing what is not there");

    apply(&pod, &capture(&[8080]));
    let first = sh(&pod, "nft -s list ruleset");
    for table in [
        "istio-ambient-nat",
        "istio-ambient-mangle",
        "istio-ambient-raw",
    ] {
        assert!(first.contains(&format!("table inet {table}")), "{first}");
    }
    assert!(ip(&pod, "rule").contains("32764:\tfrom all fwmark 0x111/0xfff lookup 100"));
    assert!(ip(&pod, "-6 rule").contains("fwmark 0x111/0xfff lookup 100"));
    assert!(ip(&pod, "route show table 100").contains("local default dev lo"));
    assert!(ip(&pod, "-6 route show table 100").contains("local default dev lo"));

    apply(&pod, &capture(&[8080]));
    assert_eq!(
        first,
        sh(&pod, "nft -s list ruleset"),
        "a second application changes nothing"
    );
    assert_eq!(ip(&pod, "rule").matches("0x111").count(), 1);
    assert!(is_applied(&pod).expect("list"));

    remove_pod(&pod).expect("remove");
    assert_eq!(sh(&pod, "nft list ruleset"), "");
    assert_eq!((ip(&pod, "rule"), ip(&pod, "-6 rule")), rules_before);
    assert_eq!(ip(&pod, "route show table 100 2>/dev/null || true"), "");
    remove_pod(&pod).expect("remove twice");
}

#[test]
fn a_later_plan_replaces_an_earlier_one() {
    let (_node, pod) = node_and_pod();
    apply(&pod, &capture(&[8080]));
    let without_dns = PodCapture {
        dns: false,
        ..capture(&[])
    };
    apply(&pod, &without_dns);
    let rules = sh(&pod, "nft list ruleset");
    assert!(
        !rules.contains("15053") && !rules.contains("8080"),
        "{rules}"
    );
}

#[test]
fn tcp_is_captured_in_both_directions_and_the_proxy_passes() {
    let (node, pod) = node_and_pod();
    apply(&pod, &capture(&[]));
    let outbound = listen(&pod, "[::]:15001");
    let inbound = listen(&pod, "[::]:15006");
    let hbone = listen(&pod, "[::]:15008");
    let app = listen(&pod, "[::]:8080");
    let outside = listen(&node, "[::]:9999");

    for remote in ["10.9.0.1:9999", "[fd99::1]:9999"] {
        let _client = connect(&pod, remote).expect("captured");
        accept(&outbound);
        nothing_arrives(&outside);
    }
    for address in ["10.9.0.2:8080", "[fd99::2]:8080"] {
        let _client = connect(&node, address).expect("captured");
        accept(&inbound);
        nothing_arrives(&app);
    }
    let _client = connect(&node, "10.9.0.2:15008").expect("not redirected");
    accept(&hbone);
    let _proxy = connect_as_proxy(&pod, None, "10.9.0.1:9999").expect("proxy passes");
    accept(&outside);
    let _local = connect(&pod, "127.0.0.1:8080").expect("loopback");
    accept(&app);
    let _own = connect(&pod, "10.9.0.2:8080").expect("own address");
    accept(&app);
    nothing_arrives(&outbound);
    nothing_arrives(&inbound);
}

#[test]
fn answers_to_a_foreign_source_address_return_to_the_proxy() {
    let (_node, pod) = node_and_pod();
    apply(&pod, &capture(&[]));
    let app = listen(&pod, "0.0.0.0:8080");
    let mut proxy =
        connect_as_proxy(&pod, Some("10.77.0.9:0"), "10.9.0.2:8080").expect("spoofed source");
    let (mut served, peer) = accept(&app);
    assert_eq!(peer.ip().to_string(), "10.77.0.9");
    served.write_all(b"answer").expect("write");
    let mut answer = [0; 6];
    proxy
        .set_read_timeout(Some(Duration::from_secs(5)))
        .expect("timeout");
    proxy
        .read_exact(&mut answer)
        .expect("the answer comes back inside the pod");
    assert_eq!(&answer, b"answer");
}

#[test]
fn dns_goes_to_the_proxy_unless_it_asks_itself() {
    let (node, pod) = node_and_pod();
    apply(&pod, &capture(&[]));
    let proxy = pod
        .run(|| UdpSocket::bind("127.0.0.1:15053"))
        .expect("enter")
        .expect("bind");
    let server = node
        .run(|| UdpSocket::bind("10.9.0.1:53"))
        .expect("enter")
        .expect("bind");
    let client = pod
        .run(|| UdpSocket::bind("0.0.0.0:0"))
        .expect("enter")
        .expect("bind");
    client.send_to(b"question", "10.9.0.1:53").expect("send");
    proxy
        .set_read_timeout(Some(Duration::from_secs(5)))
        .expect("timeout");
    let mut buffer = [0; 64];
    let (n, from) = proxy.recv_from(&mut buffer).expect("captured");
    assert_eq!(&buffer[..n], b"question");
    proxy.send_to(b"reply", from).expect("send");
    client
        .set_read_timeout(Some(Duration::from_secs(5)))
        .expect("timeout");
    let (n, from) = client.recv_from(&mut buffer).expect("reply");
    assert_eq!(
        (&buffer[..n], from.to_string().as_str()),
        (&b"reply"[..], "10.9.0.1:53")
    );

    let upstream = pod
        .run(|| UdpSocket::bind("0.0.0.0:0"))
        .expect("enter")
        .expect("bind");
    nix::sys::socket::setsockopt(&upstream, nix::sys::socket::sockopt::Mark, &PROXY_MARK)
        .expect("mark");
    upstream.send_to(b"forwarded", "10.9.0.1:53").expect("send");
    server
        .set_read_timeout(Some(Duration::from_secs(5)))
        .expect("timeout");
    let (n, _) = server.recv_from(&mut buffer).expect("passes");
    assert_eq!(&buffer[..n], b"forwarded");
}

#[test]
fn probes_pass_on_their_ports_and_nothing_else_does() {
    let (node, pod) = node_and_pod();
    apply(&pod, &capture(&[8080]));
    let exemption = HostExemption {
        targets: BTreeMap::from([(
            ProbeTarget {
                address: "10.9.0.2".parse().expect("address"),
                port: 8080,
            },
            "uid".to_owned(),
        )]),
        ..Default::default()
    };
    apply_host(&node, &host_plan(&exemption)).expect("apply");
    apply_host(&node, &host_plan(&exemption)).expect("apply again");
    let app = listen(&pod, "0.0.0.0:8080");
    let other = listen(&pod, "0.0.0.0:8081");
    let inbound = listen(&pod, "[::]:15006");

    let _probe = connect(&node, "10.9.0.2:8080").expect("probe");
    let (_, peer) = accept(&app);
    assert_eq!(peer.ip().to_string(), "169.254.7.127");

    let _not_a_probe_port = connect(&node, "10.9.0.2:8081").expect("captured");
    accept(&inbound);
    nothing_arrives(&other);

    // Another user of the node, and traffic that the node only forwards, are captured.
    let _other_user = connect_as_user(&node, 65534, "10.9.0.2:8080").expect("captured");
    accept(&inbound);
    let client = support::new_netns();
    let fd = format!("/proc/{}/fd/{}", std::process::id(), {
        use std::os::fd::AsFd;
        client.as_fd().as_raw_fd()
    });
    ip(
        &node,
        &format!("link add far0 type veth peer name eth0 netns {fd}"),
    );
    ip(&node, "addr add 10.9.1.1/24 dev far0");
    ip(&node, "link set far0 up");
    ip(&client, "addr add 10.9.1.2/24 dev eth0");
    ip(&client, "link set eth0 up");
    ip(&client, "route add default via 10.9.1.1");
    sh(&node, "echo 1 > /proc/sys/net/ipv4/ip_forward");
    let _forwarded = connect(&client, "10.9.0.2:8080").expect("captured");
    let (_, peer) = accept(&inbound);
    assert!(peer.ip().to_string().contains("10.9.1.2"), "{peer}");
    nothing_arrives(&app);

    remove_host(&node, &host_removal()).expect("remove");
    assert_eq!(sh(&node, "nft list ruleset"), "");
}

#[test]
fn connections_from_before_the_capture_are_cut() {
    for tracked in [false, true] {
        let (node, pod) = node_and_pod();
        if tracked {
            // Somebody else's rules make the kernel track connections in the pod.
            sh(
                &pod,
                "nft add table ip other; nft add chain ip other c \
                      '{ type nat hook output priority 0; }'; nft add rule ip other c accept",
            );
        }
        let server = listen(&node, "0.0.0.0:9999");
        let mut client = connect(&pod, "10.9.0.1:9999").expect("plaintext before");
        let (mut served, _) = accept(&server);
        client.write_all(b"before").expect("write");
        let mut buffer = [0; 6];
        served.read_exact(&mut buffer).expect("read");

        apply(&pod, &capture(&[]));
        let _outbound = listen(&pod, "[::]:15001");
        // The first write may be accepted locally; the answer to it is a reset.
        let _ = client.write_all(b"after!");
        client
            .set_read_timeout(Some(Duration::from_secs(5)))
            .expect("timeout");
        let result = client.read(&mut buffer);
        assert_eq!(
            result.as_ref().err().map(std::io::Error::kind),
            Some(std::io::ErrorKind::ConnectionReset),
            "tracked={tracked}: {result:?}"
        );
        served
            .set_read_timeout(Some(Duration::from_millis(300)))
            .expect("timeout");
        assert!(
            served.read(&mut buffer).is_err(),
            "tracked={tracked}: bytes left in plaintext"
        );
    }
}

#[test]
fn live_captured_connections_survive_a_second_application() {
    let (node, pod) = node_and_pod();
    apply(&pod, &capture(&[]));
    let inbound = listen(&pod, "[::]:15006");
    let mut client = connect(&node, "10.9.0.2:8080").expect("captured");
    let (mut served, _) = accept(&inbound);
    apply(&pod, &capture(&[]));
    client.write_all(b"still").expect("write");
    let mut buffer = [0; 5];
    served.read_exact(&mut buffer).expect("read");
    assert_eq!(&buffer, b"still");
}

#[test]
fn rules_that_nft_refuses_say_so() {
    let (_node, pod) = node_and_pod();
    let bad = PodCapture {
        reroute_interfaces: vec!["an-interface-name-that-is-far-too-long-for-linux".into()],
        ..Default::default()
    };
    let error = apply_pod(&pod, &pod_plan(&bad), true)
        .expect_err("refused")
        .to_string();
    assert!(error.starts_with("nft refused the rules: "), "{error}");
    assert!(
        !is_applied(&pod).expect("list"),
        "nothing of the batch is there"
    );
}

#[test]
fn a_namespace_that_cannot_be_entered_is_an_error() {
    let file = tempfile::NamedTempFile::new().expect("file");
    let not_a_namespace = Netns::open(file.path()).expect("opens");
    assert!(apply_pod(&not_a_namespace, &pod_plan(&PodCapture::default()), true).is_err());
}
