//! When things go wrong: agents that talk nonsense, pods that go, proxies that end.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use ambit_model::workload::Protocol;
use ambit_proto::zds::workload_request::Payload;
use ambit_proto::zds::{
    AddWorkload, KeepWorkload, SnapshotSent, WorkloadInfo, WorkloadRequest, WorkloadResponse,
    ZdsHello,
};
use ambit_testkit::{Namespace, Process, capture_pod, require_root, wait_for};
use ambit_wire::zds::Packets;
use nix::sys::signal::Signal;
use prost::Message;
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::runtime::Runtime;

use crate::rig::{APP, Mesh, PATIENCE, greeting};

#[test]
fn a_pod_that_goes_takes_its_connections_along() {
    let mesh = Mesh::start("gone");
    let (client, server) = (
        mesh.enrolled(0, "client", "c"),
        mesh.enrolled(1, "server", "s"),
    );
    server.serve();
    let mut stream = client.connect((server.ip(), APP)).unwrap();
    assert_eq!(greeting(&stream), client.ip().to_string());
    mesh.withdraw(&server);
    let mut rest = Vec::new();
    // It ends, in one way or the other.
    let _ = stream.read_to_end(&mut rest);
    assert!(rest.is_empty());
    mesh.wait_for_line(
        1,
        &[
            "src.workload=\"client\"",
            "connection closed due to connection drain",
        ],
    );
    // The capture rules are still there: nobody listens, and nothing gets past.
    assert!(client.is_refused((server.ip(), APP)));
    mesh.announce(&server).unwrap();
    assert!(client.ask((server.ip(), APP), "x").is_ok());
}

#[test]
fn a_proxy_that_cannot_listen_says_so_and_tries_again() {
    let mesh = Mesh::start("busy");
    let pod = mesh.pod(0, "pod", "pod");
    mesh.publish([pod.workload(Protocol::Hbone)]);
    let address: SocketAddr = "0.0.0.0:15008".parse().unwrap();
    let squatter = pod
        .namespace()
        .run(move || std::net::TcpListener::bind(address))
        .unwrap()
        .unwrap();
    let refused = mesh.announce(&pod).unwrap_err().to_string();
    assert!(
        refused.contains("failure to start proxy : cannot listen on port 15008"),
        "{refused}"
    );
    let ready = || mesh.get(0, 15021, "/healthz/ready");
    assert!(ready().contains("workload proxy manager"), "{}", ready());
    drop(squatter);
    wait_for("the next attempt", PATIENCE, || {
        ready().ends_with("\r\nready\n").then_some(())
    })
    .unwrap();
}

#[test]
fn connections_survive_a_proxy_that_is_replaced() {
    let mut mesh = Mesh::start("replaced");
    let (client, server) = (
        mesh.enrolled(0, "client", "c"),
        mesh.enrolled(1, "server", "s"),
    );
    server.serve();
    let to = (server.ip(), APP);
    let mut old = client.connect(to).unwrap();
    assert_eq!(greeting(&old), client.ip().to_string());
    let (mut first, _home) = mesh.replace_proxy(1);
    // Both listen now; the first one lets go.
    wait_for("the second proxy", PATIENCE, || {
        mesh.log(1)
            .contains("proxy of shop/server started")
            .then_some(())
    })
    .unwrap();
    first.signal(Signal::SIGTERM).unwrap();
    wait_for("the drain", PATIENCE, || {
        first.output().contains("draining").then_some(())
    })
    .unwrap();
    for _ in 0..5 {
        assert!(
            client.ask(to, "x").is_ok(),
            "new connections go to the second proxy"
        );
    }
    old.write_all(b"and on").unwrap();
    let mut echo = [0; 6];
    // The drain waits a second for it; a slow machine may find it ended already.
    if old.read_exact(&mut echo).is_ok() {
        assert_eq!(&echo, b"and on");
    }
    drop(old);
    assert!(first.wait(PATIENCE).unwrap().success());
}

#[test]
fn a_killed_proxy_lets_nothing_out_in_plaintext() {
    let mut mesh = Mesh::start("killed");
    let (client, server) = (
        mesh.enrolled(0, "client", "c"),
        mesh.enrolled(1, "server", "s"),
    );
    server.serve();
    let to = (server.ip(), APP);
    assert!(client.ask(to, "x").is_ok());
    let capture = ambit_testkit::Capture::start(mesh.node(0).namespace(), "eth0").unwrap();
    mesh.proxy_of(0).signal(Signal::SIGKILL).unwrap();
    mesh.proxy_of(0).wait(PATIENCE).unwrap();
    assert!(client.ask(to, "nobody may read this").is_err());
    drop(mesh.replace_proxy(0));
    let again = wait_for("the proxy to serve again", PATIENCE, || {
        client.ask(to, "secret").ok()
    });
    assert!(again.is_ok());
    let packets = capture.stop().unwrap();
    assert!(!packets.saw_plaintext("nobody may read this") && !packets.saw_plaintext("secret"));
    packets.only_tls_on_port(15008).unwrap();
}

/// A node agent that says what it likes.
struct Liar {
    runtime: Runtime,
    listener: Socket,
    proxy: Process,
    node: Namespace,
    _directory: tempfile::TempDir,
}

impl Liar {
    fn start(label: &str) -> Self {
        require_root().unwrap();
        let node = Namespace::new(label).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("zds.sock");
        let listener = Socket::new(Domain::UNIX, Type::SEQPACKET, None).unwrap();
        listener.bind(&SockAddr::unix(&path).unwrap()).unwrap();
        listener.listen(8).unwrap();
        listener.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut command = node.command(env!("CARGO_BIN_EXE_ztunnel"));
        command
            .env_clear()
            .env("XDS_ADDRESS", "")
            .env("IPV6_ENABLED", "false")
            .env("ZTUNNEL_WORKER_THREADS", "1")
            .env("INPOD_UDS", &path);
        let proxy = Process::start(&mut command).unwrap();
        Self {
            runtime: Runtime::new().unwrap(),
            listener,
            proxy,
            node,
            _directory: directory,
        }
    }

    /// The proxy's next connection, after its hello.
    fn accept(&self) -> Client<'_> {
        let (socket, _) = self.listener.accept().unwrap();
        let _context = self.runtime.enter();
        let packets = Packets::new(OwnedFd::from(socket)).unwrap();
        let client = Client {
            liar: self,
            packets,
        };
        let hello = client.receive().expect("a hello");
        assert_eq!(ZdsHello::decode(&hello[..]).unwrap().version, 1);
        client
    }

    fn lives(&mut self) -> bool {
        self.proxy.exited().unwrap().is_none()
    }
}

struct Client<'a> {
    liar: &'a Liar,
    packets: Packets,
}

impl Client<'_> {
    fn receive(&self) -> Option<Vec<u8>> {
        let receive = async { tokio::time::timeout(PATIENCE, self.packets.receive()).await };
        let received = self.liar.runtime.block_on(receive);
        received
            .expect("an answer")
            .ok()
            .flatten()
            .map(|packet| packet.data)
    }

    /// Sends bytes, and gives the error in the answer; empty is ok.
    fn send(&self, bytes: &[u8], fd: Option<BorrowedFd<'_>>) -> Option<String> {
        self.liar
            .runtime
            .block_on(self.packets.send(bytes, fd))
            .unwrap();
        let answer = WorkloadResponse::decode(&self.receive()?[..]).unwrap();
        let ambit_proto::zds::workload_response::Payload::Ack(ack) = answer.payload?;
        Some(ack.error)
    }

    fn ask(&self, payload: Payload, fd: Option<BorrowedFd<'_>>) -> Option<String> {
        self.send(
            &WorkloadRequest {
                payload: Some(payload),
            }
            .encode_to_vec(),
            fd,
        )
    }
}

fn add(uid: &str, info: bool) -> Payload {
    let workload_info = info.then(|| WorkloadInfo {
        name: uid.into(),
        namespace: "shop".into(),
        service_account: "default".into(),
    });
    Payload::Add(AddWorkload {
        uid: uid.into(),
        workload_info,
    })
}

fn keep(uid: &str) -> Payload {
    Payload::Keep(KeepWorkload { uid: uid.into() })
}

#[test]
fn an_agent_that_talks_nonsense_is_hung_up_on_and_nothing_else_happens() {
    let mut liar = Liar::start("liar");
    let pod = Namespace::new("liar/pod").unwrap();
    capture_pod(&pod).unwrap();
    let netns = Arc::new(pod.try_clone_fd().unwrap());
    let listens = || {
        let path = "/proc/thread-self/net/tcp";
        let table = pod
            .run(move || std::fs::read_to_string(path))
            .unwrap()
            .unwrap();
        table.contains(":3AA0 ")
    };
    let agent = liar.accept();
    assert_eq!(
        agent.ask(add("p", true), Some(netns.as_fd())),
        Some(String::new())
    );
    assert_eq!(
        agent.ask(Payload::SnapshotSent(SnapshotSent {}), None),
        Some(String::new())
    );
    assert!(listens());

    // Each of these ends the connection with a reason; the pod's proxy goes on through all of it.
    type Lie<'a> = (&'a str, Box<dyn Fn(&Client<'_>) -> Option<String> + 'a>);
    let device = std::fs::File::open("/dev/null").unwrap();
    let complete = |c: &Client<'_>| {
        assert_eq!(c.ask(keep("p"), None), Some(String::new()));
        assert_eq!(
            c.ask(Payload::SnapshotSent(SnapshotSent {}), None),
            Some(String::new())
        );
    };
    let lies: Vec<Lie<'_>> = vec![
        ("decode", Box::new(|c| c.send(&[0xff, 0xff, 0xff], None))),
        ("no payload", Box::new(|c| c.send(&[0x78, 1], None))),
        ("descriptor", Box::new(|c| c.ask(add("q", true), None))),
        (
            "without workload info",
            Box::new(|c| c.ask(add("q", false), Some(netns.as_fd()))),
        ),
        (
            "takes none",
            Box::new(|c| c.ask(keep("p"), Some(netns.as_fd()))),
        ),
        (
            "keep after the snapshot",
            Box::new(|c| {
                complete(c);
                c.ask(keep("p"), None)
            }),
        ),
        (
            "second snapshot",
            Box::new(|c| {
                complete(c);
                c.ask(Payload::SnapshotSent(SnapshotSent {}), None)
            }),
        ),
    ];
    drop(agent);
    for (reason, lie) in lies {
        let agent = liar.accept();
        let error = lie(&agent).unwrap_or_default();
        assert!(error.contains(reason), "{reason}: {error}");
        assert_eq!(agent.receive(), None, "hung up after {reason}");
        assert!(listens(), "after {reason}");
    }
    // What is not a namespace is only refused.
    let agent = liar.accept();
    let error = agent.ask(add("q", true), Some(device.as_fd())).unwrap();
    assert!(error.contains("not a network namespace"), "{error}");
    // And a snapshot without the pod ends its proxy.
    assert_eq!(
        agent.ask(Payload::SnapshotSent(SnapshotSent {}), None),
        Some(String::new())
    );
    wait_for("the sockets to close", PATIENCE, || {
        (!listens()).then_some(())
    })
    .unwrap();
    drop(agent);
    assert!(liar.lives(), "{}", liar.proxy.output());
    let _ = &liar.node;
}
