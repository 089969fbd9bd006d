//! The node proxy between pods in network namespaces: what travels how, who is let in, and what
//! happens when something goes wrong.

// Helpers of tests may panic as tests do.
#![allow(clippy::unwrap_used)]

mod rig;
mod upset;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use ambit_model::Authorization;
use ambit_model::policy::{Action, Match, PolicyScope, StringMatch};
use ambit_model::workload::Protocol;
use ambit_testkit::{Capture, wait_for};

use rig::{APP, Mesh, PATIENCE, a_service, greeting, serving};

const SECRET: &str = "the secret of the rose";

fn policy(name: &str, action: Action, m: Match) -> Authorization {
    Authorization {
        name: name.into(),
        namespace: "shop".into(),
        scope: PolicyScope::Namespace,
        action,
        rules: vec![vec![vec![m]]],
        dry_run: false,
    }
}

fn strict() -> Authorization {
    let anybody = vec![StringMatch::Presence];
    policy(
        "strict",
        Action::Deny,
        Match {
            not_principals: anybody,
            ..Match::default()
        },
    )
}

fn only(principal: &str) -> Match {
    let principal = format!("cluster.local/ns/shop/sa/{principal}");
    Match {
        principals: vec![StringMatch::Exact(principal.as_str().into())],
        ..Match::default()
    }
}

#[test]
fn between_enrolled_pods_only_tls_travels() {
    let mesh = Mesh::start("tls");
    let (client, server) = (
        mesh.pod(0, "client", "client"),
        mesh.pod(1, "server", "server"),
    );
    server.serve();

    // The control: without the mesh the same check finds the text.
    let capture = Capture::start(mesh.node(0).namespace(), "eth0").unwrap();
    let reply = client.ask((server.ip(), APP), SECRET).unwrap();
    assert_eq!(
        (reply.client, reply.rest.as_str()),
        (client.ip(), "the secret of the rose bye")
    );
    let packets = capture.stop().unwrap();
    assert!(packets.saw_plaintext(SECRET));
    assert!(packets.only_tls_on_port(15008).is_err());

    for pod in [&client, &server] {
        mesh.publish([pod.workload(Protocol::Hbone)]);
        mesh.enrol(pod).unwrap();
    }
    let capture = Capture::start(mesh.node(0).namespace(), "eth0").unwrap();
    let reply = client.ask((server.ip(), APP), SECRET).unwrap();
    assert_eq!(reply.rest, "the secret of the rose bye");
    assert_eq!(
        reply.client,
        client.ip(),
        "the application sees who really asks"
    );
    let packets = capture.stop().unwrap();
    assert!(!packets.saw_plaintext(SECRET));
    packets.only_tls_on_port(15008).unwrap();

    let hbone = format!("dst.hbone_addr={}:{APP}", server.ip());
    let complete = "connection complete";
    let out = mesh.wait_for_line(0, &[complete, "direction=\"outbound\"", &hbone]);
    let into = mesh.wait_for_line(1, &[complete, "direction=\"inbound\"", &hbone]);
    for line in [&out, &into] {
        for part in [
            "src.workload=\"client\"",
            "src.identity=\"spiffe://cluster.local/ns/shop/sa/client\"",
            "dst.workload=\"server\"",
            "dst.identity=\"spiffe://cluster.local/ns/shop/sa/server\"",
            &format!("dst.addr={}:15008", server.ip()),
        ] {
            assert!(line.contains(part), "{part} in {line}");
        }
    }
    assert!(
        out.contains("bytes_sent=22 ") && into.contains("bytes_recv=22 "),
        "{out}\n{into}"
    );
    for (node, reporter) in [(0, "source"), (1, "destination")] {
        let page = mesh.get(node, 15020, "/metrics");
        let line = page.lines().find(|line| {
            line.starts_with("istio_tcp_connections_closed_total{")
                && line.contains(&format!("reporter=\"{reporter}\""))
        });
        let line = line.unwrap_or_else(|| panic!("no metric of {reporter} in {page}"));
        assert!(
            line.contains("connection_security_policy=\"mutual_tls\""),
            "{line}"
        );
        assert!(line.contains("response_flags=\"-\""), "{line}");
    }
}

/// Local ports in LISTEN (or, for UDP, bound), with how often each is there.
fn ports(table: &str, udp: bool) -> BTreeMap<u16, usize> {
    let mut ports = BTreeMap::new();
    for line in table.lines().skip(1) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let listening = if udp { "07" } else { "0A" };
        if fields[3] == listening {
            let port = fields[1].rsplit(':').next().unwrap();
            *ports
                .entry(u16::from_str_radix(port, 16).unwrap())
                .or_default() += 1;
        }
    }
    ports
}

#[test]
fn a_pod_shows_each_port_of_the_proxy_once() {
    let mesh = Mesh::start("ports");
    let pod = mesh.enrolled(0, "pod", "pod");
    let read = |file: &str| {
        let path = format!("/proc/thread-self/net/{file}");
        pod.namespace()
            .run(move || std::fs::read_to_string(path))
            .unwrap()
            .unwrap()
    };
    let (tcp, tcp6) = (ports(&read("tcp"), false), ports(&read("tcp6"), false));
    assert_eq!(
        tcp6.iter()
            .filter(|(p, _)| **p != 15053)
            .map(|(p, n)| (*p, *n))
            .collect::<Vec<_>>(),
        [(15001, 1), (15006, 1), (15008, 1)]
    );
    assert_eq!(tcp, [(15053, 1)].into());
    assert_eq!(ports(&read("udp"), true), [(15053, 1)].into());
}

#[test]
fn a_service_leads_to_its_endpoint_and_never_past_it() {
    let mesh = Mesh::start("service");
    let (client, server) = (
        mesh.enrolled(0, "client", "client"),
        mesh.enrolled(1, "server", "s"),
    );
    server.serve();
    mesh.publish_service(&a_service("server.shop.svc.cluster.local", "10.96.0.7"));
    mesh.publish([serving(
        server.workload(Protocol::Hbone),
        "server.shop.svc.cluster.local",
    )]);
    mesh.publish_service(&a_service("empty.shop.svc.cluster.local", "10.96.0.8"));

    let vip: SocketAddr = "10.96.0.7:80".parse().unwrap();
    assert_eq!(client.ask(vip, "x").unwrap().client, client.ip());
    mesh.wait_for_line(
        1,
        &[
            "connection complete",
            "dst.service=\"server.shop.svc.cluster.local\"",
            "inbound",
        ],
    );
    for nothing in ["10.96.0.8:80", "10.96.0.7:81"] {
        assert!(client.is_refused(nothing.parse::<SocketAddr>().unwrap()));
        mesh.wait_for_line(0, &[&format!("no healthy upstream: {nothing}")]);
    }
}

#[test]
fn what_the_mesh_does_not_know_passes_through_as_it_is() {
    let mesh = Mesh::start("outside");
    let client = mesh.enrolled(0, "client", "client");
    let outside = mesh.pod(1, "outside", "outside");
    outside.serve();
    let capture = Capture::start(mesh.node(0).namespace(), "eth0").unwrap();
    assert_eq!(
        client.ask((outside.ip(), APP), SECRET).unwrap().client,
        client.ip()
    );
    assert!(capture.stop().unwrap().saw_plaintext(SECRET));
    let line = mesh.wait_for_line(0, &["connection complete", "outbound"]);
    assert!(
        !line.contains("identity") && !line.contains("hbone_addr"),
        "{line}"
    );
}

#[test]
fn strict_refuses_plaintext_and_permissive_takes_it() {
    let mesh = Mesh::start("strict");
    let server = mesh.enrolled(1, "server", "server");
    server.serve();
    let (inside, outside) = (mesh.enrolled(0, "in", "in"), mesh.pod(0, "out", "out"));
    let to = (server.ip(), APP);
    assert_eq!(outside.ask(to, "x").unwrap().client, outside.ip());
    mesh.apply(&strict());
    assert!(outside.is_refused(to));
    mesh.wait_for_line(
        1,
        &[
            "policy rejection: explicitly denied by: shop/strict",
            "inbound",
            "error\taccess",
        ],
    );
    assert_eq!(inside.ask(to, "x").unwrap().client, inside.ip());
    let page = mesh.get(1, 15020, "/metrics");
    assert!(page.contains("response_flags=\"DENY\""), "{page}");
}

#[test]
fn policies_tell_principals_apart() {
    let mesh = Mesh::start("principals");
    let server = mesh.enrolled(1, "server", "server");
    server.serve();
    let (good, bad) = (
        mesh.enrolled(0, "good", "good"),
        mesh.enrolled(0, "bad", "bad"),
    );
    let to = (server.ip(), APP);
    mesh.apply(&policy("allow", Action::Allow, only("good")));
    assert!(good.ask(to, "x").is_ok());
    assert!(bad.is_refused(to));
    mesh.wait_for_line(
        0,
        &["src.workload=\"bad\"", "http status: 401 Unauthorized"],
    );
    mesh.wait_for_line(
        1,
        &[
            "src.workload=\"bad\"",
            "allow policies exist, but none allowed",
        ],
    );
    let deny = policy("deny", Action::Deny, only("good"));
    mesh.apply(&deny);
    assert!(good.is_refused(to));
    mesh.lift(&deny);
    assert!(good.ask(to, "x").is_ok());
}

#[test]
fn two_pods_of_one_service_account_are_told_apart_by_address() {
    let mesh = Mesh::start("addresses");
    let server = mesh.enrolled(1, "server", "server");
    server.serve();
    let (one, two) = (
        mesh.enrolled(0, "one", "same"),
        mesh.enrolled(0, "two", "same"),
    );
    let to = (server.ip(), APP);
    // Both have a tunnel already: the policy must not be fooled by who opened one first.
    assert!(one.ask(to, "x").is_ok() && two.ask(to, "x").is_ok());
    let from_one = Match {
        source_ips: vec![one.ip().into()],
        ..Match::default()
    };
    mesh.apply(&policy("allow", Action::Allow, from_one));
    assert_eq!(one.ask(to, "x").unwrap().client, one.ip());
    assert!(two.is_refused(to));
}

#[test]
fn a_policy_that_changes_cuts_what_is_open() {
    let mesh = Mesh::start("cut");
    let server = mesh.enrolled(1, "server", "server");
    server.serve();
    let (good, bad) = (
        mesh.enrolled(0, "good", "good"),
        mesh.enrolled(0, "bad", "bad"),
    );
    let outside = mesh.pod(0, "outside", "outside");
    let to = (server.ip(), APP);
    let open = |pod: &rig::Enrolled| {
        let stream = pod.connect(to).unwrap();
        assert_eq!(greeting(&stream), pod.ip().to_string());
        stream
    };
    let (mut kept, mut cut, mut plain) = (open(&good), open(&bad), open(&outside));
    mesh.apply(&policy("allow", Action::Allow, only("good")));
    for stream in [&mut cut, &mut plain] {
        let mut rest = Vec::new();
        let ended = stream.read_to_end(&mut rest);
        assert!(ended.is_ok() || ended.unwrap_err().kind() != std::io::ErrorKind::WouldBlock);
        assert!(rest.is_empty());
    }
    for source in [
        "src.workload=\"bad\"",
        &format!("src.addr={}", outside.ip()),
    ] {
        mesh.wait_for_line(1, &[source, "connection closed due to policy change"]);
    }
    kept.write_all(b"still here").unwrap();
    let mut echo = [0; 10];
    kept.read_exact(&mut echo).unwrap();
    assert_eq!(&echo, b"still here");
}

#[test]
fn a_half_closed_connection_goes_on() {
    let mesh = Mesh::start("half");
    let server = mesh.enrolled(1, "server", "server");
    server.serve();
    let client = mesh.enrolled(0, "client", "client");
    let mut stream = client.connect((server.ip(), APP)).unwrap();
    let text = vec![7u8; 1 << 20];
    let mut writer = stream.try_clone().unwrap();
    let sent = text.clone();
    let writing = std::thread::spawn(move || {
        writer.write_all(&sent).unwrap();
        writer.shutdown(std::net::Shutdown::Write).unwrap();
    });
    let mut received = Vec::new();
    stream.read_to_end(&mut received).unwrap();
    writing.join().unwrap();
    let start = received.iter().position(|b| *b == b'\n').unwrap() + 1;
    assert_eq!(received.len() - start, text.len() + 4);
    assert!(
        received.ends_with(b" bye"),
        "said after the client had closed its side"
    );
}

/// A question for the A records of a name.
fn question(name: &str) -> Vec<u8> {
    let mut message = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        message.push(label.len() as u8);
        message.extend(label.as_bytes());
    }
    message.extend([0, 0, 1, 0, 1]);
    message
}

#[test]
fn captured_dns_knows_the_mesh() {
    let mesh = Mesh::start("dns");
    let client = mesh.enrolled(0, "client", "client");
    mesh.publish_service(&a_service("cart.shop.svc.cluster.local", "10.96.0.7"));
    let answer = client
        .namespace()
        .run(|| {
            let udp = UdpSocket::bind("0.0.0.0:0")?;
            udp.set_read_timeout(Some(PATIENCE))?;
            // Nobody is there; the question is captured on its way.
            udp.connect("10.96.0.10:53")?;
            udp.send(&question("cart.shop"))?;
            let mut buffer = [0; 512];
            let n = udp.recv(&mut buffer)?;
            Ok::<_, std::io::Error>(buffer[..n].to_vec())
        })
        .unwrap()
        .unwrap();
    assert_eq!(answer[..2], [0x12, 0x34]);
    assert_eq!(answer[3] & 0xf, 0, "no error");
    assert!(answer.ends_with(&[10, 96, 0, 7]), "{answer:?}");
    mesh.wait_for_line(
        0,
        &[
            "domain=cart.shop.",
            "result=\"success\"",
            "src.workload=\"client\"",
        ],
    );
}

#[test]
fn the_pages_say_what_goes_on() {
    let mesh = Mesh::start("pages");
    let server = mesh.enrolled(1, "server", "server");
    server.serve();
    let client = mesh.enrolled(0, "client", "client");
    let stream = client.connect((server.ip(), APP)).unwrap();
    assert_eq!(greeting(&stream), client.ip().to_string());
    wait_for("readiness", PATIENCE, || {
        mesh.get(0, 15021, "/healthz/ready")
            .ends_with("ready\n")
            .then_some(())
    })
    .unwrap();
    let dump = |node| -> serde_json::Value {
        let page = mesh.get(node, 15000, "/config_dump");
        serde_json::from_str(page.split_once("\r\n\r\n").unwrap().1).unwrap()
    };
    let (a, b) = (dump(0), dump(1));
    let of = |dump: &serde_json::Value, uid: &str| dump["workloadState"][uid].clone();
    let sent = of(&a, &client.zds.uid);
    assert_eq!(sent["info"]["name"], "client");
    assert_eq!(sent["state"], "Up");
    let actual = format!("{}:15008", server.ip());
    assert_eq!(
        sent["connections"]["outbound"][0]["actualDst"],
        actual.as_str()
    );
    assert_eq!(sent["connections"]["outbound"][0]["protocol"], "HBONE");
    let received = of(&b, &server.zds.uid);
    assert_eq!(received["connections"]["inbound"][0]["protocol"], "HBONE");
    assert_eq!(a["certificates"][0]["state"], "Available");
    assert_eq!(a["workloads"].as_array().unwrap().len(), 2);
    assert_eq!(a["config"]["localNode"], "node1");
    drop(stream);
    wait_for(
        "the connection to leave the page",
        Duration::from_secs(10),
        || {
            of(&dump(0), &client.zds.uid)["connections"]["outbound"]
                .as_array()
                .is_some_and(Vec::is_empty)
                .then_some(())
        },
    )
    .unwrap();
}
