//! What needs a pod: capture, original destination, preserved source, sockets that stay.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use ambit_testkit::{Namespace, Network, Pod, capture_pod};
use ambit_transport::netns::Netns;
use ambit_transport::socket::{
    self, ConnectOptions, ListenOptions, Transparent, configure_accepted, original_destination,
};

use crate::support::soon;

fn netns(of: &Namespace) -> Netns {
    Netns::try_from(of.try_clone_fd().unwrap()).unwrap()
}

fn connect_from(pod: &Pod, to: impl Into<SocketAddr>) -> TcpStream {
    let to = to.into();
    pod.namespace()
        .run(|| TcpStream::connect(to))
        .unwrap()
        .unwrap()
}

/// A proxy's listener in a pod, for a tokio that runs elsewhere.
fn listen_in(pod: &Pod, port: u16) -> tokio::net::TcpListener {
    let options = ListenOptions::wildcard(port, true);
    let listening = netns(pod.namespace())
        .run(|| socket::listen(&options))
        .unwrap()
        .unwrap();
    assert!(listening.transparent);
    tokio::net::TcpListener::from_std(listening.listener).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn captured_connections_know_where_they_were_going() {
    let network = Network::new("original").unwrap();
    let node = network.node().unwrap();
    let (pod, outside) = (node.pod("pod").unwrap(), node.pod("outside").unwrap());
    capture_pod(pod.namespace()).unwrap();
    let (outbound, inbound) = (listen_in(&pod, 15001), listen_in(&pod, 15006));
    let home = Netns::current().unwrap();

    let client = connect_from(&pod, (outside.ip(), 9999));
    let (accepted, peer) = soon(outbound.accept()).await.unwrap();
    configure_accepted(&accepted, Some(&Default::default())).unwrap();
    assert_eq!(
        original_destination(&accepted).unwrap(),
        (outside.ip(), 9999).into()
    );
    assert_eq!(socket::canonical(peer), client.local_addr().unwrap());

    let client = connect_from(&outside, (pod.ip(), 8080));
    let (accepted, peer) = soon(inbound.accept()).await.unwrap();
    assert_eq!(
        original_destination(&accepted).unwrap(),
        (pod.ip(), 8080).into()
    );
    assert_eq!(socket::canonical(peer), client.local_addr().unwrap());

    assert_eq!(Netns::current().unwrap(), home);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_application_sees_the_real_source() {
    let network = Network::new("source").unwrap();
    let node = network.node().unwrap();
    let (pod, outside) = (node.pod("pod").unwrap(), node.pod("outside").unwrap());
    capture_pod(pod.namespace()).unwrap();
    let application = pod
        .namespace()
        .run(|| TcpListener::bind("0.0.0.0:8080"))
        .unwrap()
        .unwrap();
    let inside = netns(pod.namespace());
    let to: SocketAddr = (pod.ip(), 8080).into();

    let as_outside = ConnectOptions {
        source: Some(outside.ip()),
        ..Default::default()
    };
    let proxy = soon(socket::connect(Some(&inside), to, &as_outside))
        .await
        .unwrap();
    let (mut accepted, peer) = application.accept().unwrap();
    assert_eq!(peer.ip(), outside.ip());
    // Replies find their way back to the proxy, although their address is elsewhere.
    accepted.write_all(b"!").unwrap();
    let mut proxy = proxy.into_std().unwrap();
    proxy.set_nonblocking(false).unwrap();
    proxy.read_exact(&mut [0]).unwrap();

    // A pod that calls itself keeps its own address.
    let as_itself = ConnectOptions {
        source: Some(pod.ip()),
        ..Default::default()
    };
    let _proxy = soon(socket::connect(Some(&inside), to, &as_itself))
        .await
        .unwrap();
    assert_eq!(application.accept().unwrap().1.ip(), pod.ip());
}

#[test]
fn a_closure_runs_inside_and_the_thread_comes_back() {
    let namespace = Namespace::new("inside").unwrap();
    let (inside, home) = (netns(&namespace), Netns::current().unwrap());
    assert_ne!(inside.id(), home.id());
    assert_eq!(inside.run(|| Netns::current().unwrap()).unwrap(), inside);
    assert_eq!(Netns::current().unwrap(), home);
    let nested = inside
        .run(|| home.run(|| Netns::current().unwrap()).unwrap())
        .unwrap();
    assert_eq!(nested, home);
    let panicked = std::panic::catch_unwind(|| inside.run(|| panic!("in the pod")));
    assert!(panicked.is_err());
    assert_eq!(Netns::current().unwrap(), home);
}

#[tokio::test]
async fn two_proxies_can_share_a_port_while_one_takes_over() {
    let options = ListenOptions {
        address: "127.0.0.1:0".parse().unwrap(),
        mark: None,
        transparent: Transparent::Never,
        ..ListenOptions::wildcard(0, false)
    };
    let old = socket::listen(&options).unwrap().listener;
    let address = old.local_addr().unwrap();
    let new = socket::listen(&ListenOptions {
        address,
        ..options.clone()
    })
    .unwrap()
    .listener;
    drop(old);
    let client = tokio::net::TcpStream::connect(address).await.unwrap();
    let new = tokio::net::TcpListener::from_std(new).unwrap();
    let (_, peer) = soon(new.accept()).await.unwrap();
    assert_eq!(peer, client.local_addr().unwrap());
    let alone = ListenOptions {
        address,
        reuse_port: false,
        ..options
    };
    assert!(socket::listen(&alone).is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_nobody_answers_times_out() {
    let network = Network::new("silent").unwrap();
    let node = network.node().unwrap();
    let pod = node.pod("pod").unwrap();
    let options = ConnectOptions {
        timeout: std::time::Duration::from_millis(50),
        ..ConnectOptions::default()
    };
    let silent = "192.0.2.1:80".parse().unwrap();
    let inside = netns(pod.namespace());
    let rules = "add table ip t; \
                 add chain ip t c { type filter hook output priority 0; }; \
                 add rule ip t c ip daddr 192.0.2.1 drop";
    let nft = pod.namespace().command("nft").arg(rules).output().unwrap();
    assert!(
        nft.status.success(),
        "{}",
        String::from_utf8_lossy(&nft.stderr)
    );
    let result = soon(socket::connect(Some(&inside), silent, &options)).await;
    assert!(
        matches!(result, Err(socket::ConnectError::Timeout(to)) if to == silent),
        "{result:?}"
    );
}
