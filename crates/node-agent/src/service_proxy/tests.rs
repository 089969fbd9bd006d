//! The rules in the kernel: a network namespace of its own, real sockets.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

use nftables::helper;

use super::rules::{Front, Protocol, Rules};
use super::transaction;

const VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
const OTHER: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 2);
const NODE: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);

/// Runs `body` on a thread in a new network namespace that ends with it.
fn in_namespace(body: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(move || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)
            .expect("this test needs root, to make a network namespace");
        for command in [
            "link set lo up",
            "address add 10.1.0.1/32 dev lo",
            "address add 10.1.0.2/32 dev lo",
            "link add out0 type veth peer name out1",
            "address add 10.1.0.9/32 dev out0",
            "link set out0 up",
            "link set out1 up",
            "route add 10.96.0.0/16 dev out0",
        ] {
            let status = Command::new("ip")
                .args(command.split(' '))
                .status()
                .expect("the program ip");
            assert!(status.success(), "ip {command}");
        }
        body();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn apply(before: Option<&Rules>, wanted: &Rules) {
    let steps = transaction::transaction(before, wanted, Some(NODE));
    let document = transaction::document(&steps).expect("a document");
    helper::apply_ruleset_raw(&document, helper::DEFAULT_NFT, helper::DEFAULT_ARGS)
        .unwrap_or_else(|error| panic!("{error}\n{document}"));
}

/// A server that names itself to whoever connects.
fn server(name: &'static str, address: &str) -> SocketAddrV4 {
    let listener = TcpListener::bind(address).expect("an address to listen on");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut stream = stream;
            let _ = stream.write_all(name.as_bytes());
        }
    });
    address.to_string().parse().expect("an IPv4 address")
}

fn ask(address: Ipv4Addr, port: u16) -> Result<String, ErrorKind> {
    let target = SocketAddrV4::new(address, port).into();
    let mut stream = TcpStream::connect_timeout(&target, Duration::from_secs(5))
        .map_err(|error| error.kind())?;
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .map_err(|error| error.kind())?;
    Ok(answer)
}

#[test]
fn services_lead_to_all_their_endpoints_and_follow_changes() {
    in_namespace(|| {
        let (one, two) = (server("one", "10.1.0.1:0"), server("two", "10.1.0.2:0"));
        let front = Front::Address(VIP, Protocol::Tcp, 80);
        let port = Front::NodePort(Protocol::Tcp, 30080);
        let both = BTreeSet::from([one, two]);
        let first = Rules::from([(front, both.clone()), (port, both)]);
        apply(None, &first);
        let answers: BTreeSet<_> = (0..60).map(|_| ask(VIP, 80).expect("an answer")).collect();
        assert_eq!(
            answers,
            BTreeSet::from(["one".to_owned(), "two".to_owned()])
        );
        assert!(ask(NODE, 30080).is_ok(), "the node's port");

        let second = Rules::from([(front, BTreeSet::from([two]))]);
        apply(Some(&first), &second);
        assert!((0..20).all(|_| ask(VIP, 80).as_deref() == Ok("two")));
        assert!(ask(NODE, 30080).is_err());

        let third = Rules::from([(front, BTreeSet::new())]);
        apply(Some(&second), &third);
        assert_eq!(
            ask(VIP, 80),
            Err(ErrorKind::ConnectionRefused),
            "no endpoint: refused at once"
        );

        let other = Front::Address(OTHER, Protocol::Tcp, 8080);
        let fourth = Rules::from([(other, BTreeSet::from([one]))]);
        apply(Some(&third), &fourth);
        assert_eq!(ask(OTHER, 8080).as_deref(), Ok("one"));

        // A proxy that starts again takes over whatever is there.
        apply(None, &second);
        assert_eq!(ask(VIP, 80).as_deref(), Ok("two"));
    });
}
