//! CONNECT requests over a tunnel.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use ambit_testkit::eventually;
use ambit_transport::copy::{self, Counters};
use ambit_transport::hbone::{
    Authority, Baggage, ConnectError, ConnectRequest, Forwarded, Http2Settings, TraceParent, client,
};
use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{CLIENT, Mesh, SERVER, SOON, echo, id, serve, soon, tcp_pair};

#[tokio::test]
async fn a_request_arrives_with_all_that_it_says() {
    let mesh = Mesh::new().await;
    let (tunnel, mut connection) = mesh.tunnel().await;
    assert_eq!(tunnel.peer_identity(), Some(&id(SERVER)));
    assert_eq!(connection.peer_identity(), Some(&id(CLIENT)));
    let request = ConnectRequest {
        authority: "10.244.2.9:8080".into(),
        baggage: Some(Baggage {
            service: Some("cart".into()),
            ..Baggage::default()
        }),
        forwarded: Some(Forwarded {
            source: "10.244.1.7:41234".parse().unwrap(),
            host: Some("pay.shop.svc.cluster.local".into()),
        }),
        traceparent: Some(TraceParent::random()),
        ..ConnectRequest::default()
    };
    let sent = request.clone();
    let opening = tokio::spawn(async move { tunnel.open(&sent).await });
    let received = soon(connection.accept()).await.unwrap().unwrap();
    let head = received.head();
    assert_eq!(
        head.authority,
        Ok(Authority::Address("10.244.2.9:8080".parse().unwrap()))
    );
    assert_eq!(head.baggage, request.baggage);
    assert_eq!(
        head.forwarded_host.as_deref(),
        Some("pay.shop.svc.cluster.local")
    );
    assert_eq!(head.traceparent, request.traceparent);
    assert_eq!(received.peer_identity(), Some(&id(CLIENT)));
    let answer = Baggage {
        service: Some("pay".into()),
        ..Baggage::default()
    };
    let stream = received.accept(Some(&answer)).unwrap();
    tokio::spawn(async move { while connection.accept().await.is_some() {} });
    let opened = soon(opening).await.unwrap().unwrap();
    assert_eq!(opened.baggage, Some(answer));
    assert_eq!(opened.peer, Some(id(SERVER)));
    drop(stream);
}

#[tokio::test]
async fn each_direction_ends_by_itself() {
    let mesh = Mesh::new().await;
    let (tunnel, connection) = mesh.tunnel().await;
    serve(connection, echo);
    let mut stream = tunnel
        .open(&ConnectRequest::new("10.0.0.1:80"))
        .await
        .unwrap()
        .stream;
    soon(stream.write_all(b"hello")).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    soon(stream.read_to_string(&mut answer)).await.unwrap();
    assert_eq!(answer, "hello");
}

#[tokio::test]
async fn a_refusal_has_its_status_and_leaves_the_tunnel_alone() {
    let mesh = Mesh::new().await;
    let (tunnel, connection) = mesh.tunnel().await;
    serve(connection, async |request| {
        match request.head().authority.as_ref().unwrap().port() {
            1 => request.refuse(StatusCode::UNAUTHORIZED),
            _ => echo(request).await,
        }
    });
    for _ in 0..300 {
        let error = soon(tunnel.open(&ConnectRequest::new("10.0.0.1:1")))
            .await
            .err()
            .unwrap();
        assert_eq!(error.to_string(), "http status: 401 Unauthorized");
    }
    assert_eq!(tunnel.active(), 0);
    let mut stream = soon(tunnel.open(&ConnectRequest::new("10.0.0.1:2")))
        .await
        .unwrap()
        .stream;
    stream.write_all(b"x").await.unwrap();
    assert_eq!(soon(stream.read_u8()).await.unwrap(), b'x');
}

#[tokio::test]
async fn a_dropped_request_is_reset() {
    let mesh = Mesh::new().await;
    let (tunnel, connection) = mesh.tunnel().await;
    serve(connection, async |request| drop(request));
    let result = soon(tunnel.open(&ConnectRequest::new("10.0.0.1:1"))).await;
    assert!(matches!(result, Err(ConnectError::Http2(_))));
}

/// One application does not read, its peer sends single bytes without end. The HTTP/2 library
/// counts small frames that nobody has taken and would end the tunnel; the neighbours must not
/// notice anything, and the sender must be stopped by its own window.
#[tokio::test]
async fn a_stalled_reader_with_a_chatty_sender_does_not_harm_its_neighbours() {
    let mesh = Mesh::new().await;
    let settings = Http2Settings {
        stream_window: 100_000,
        ..Http2Settings::server()
    };
    let (tunnel, connection) = tokio::join!(client::dial(mesh.dial()), mesh.accept(&settings));
    let tunnel = tunnel.unwrap();
    // The stalled application keeps its end of the connection and never reads; the kernel, which
    // would read megabytes on its behalf, is kept short.
    let (stalled, application) = tcp_pair().await;
    socket2::SockRef::from(&stalled)
        .set_recv_buffer_size(8 * 1024)
        .unwrap();
    socket2::SockRef::from(&application)
        .set_send_buffer_size(8 * 1024)
        .unwrap();
    let application = std::sync::Mutex::new(Some(application));
    serve(connection, move |request| {
        let stalled = match request.head().authority.as_ref().unwrap().port() {
            1 => application.lock().unwrap().take(),
            _ => None,
        };
        async move {
            match stalled {
                Some(tcp) => {
                    let stream = request.accept(None).unwrap();
                    let _ = copy::bidirectional(stream, tcp, &Counters::default()).await;
                }
                None => echo(request).await,
            }
        }
    });
    let mut chatty = tunnel
        .open(&ConnectRequest::new("10.0.0.1:1"))
        .await
        .unwrap()
        .stream;
    let mut neighbour = tunnel
        .open(&ConnectRequest::new("10.0.0.1:2"))
        .await
        .unwrap()
        .stream;
    let sent = Arc::new(AtomicU32::new(0));
    let counted = sent.clone();
    let sender = tokio::spawn(async move {
        while chatty.write_all(b"x").await.is_ok() {
            counted.fetch_add(1, Ordering::Relaxed);
        }
    });
    // More frames than the library tolerates unread by default; the window alone stops the sender.
    let all = async || (sent.load(Ordering::Relaxed) >= settings.stream_window).then_some(());
    eventually("the sender to fill its window", SOON, all)
        .await
        .unwrap();
    for _ in 0..20 {
        soon(neighbour.write_all(b"ping")).await.unwrap();
        let mut answer = [0; 4];
        soon(neighbour.read_exact(&mut answer)).await.unwrap();
    }
    assert!(!sender.is_finished() && !tunnel.is_closed());
    drop(stalled);
}

#[tokio::test]
async fn a_peer_that_does_not_answer_pings_is_given_up() {
    let mesh = Mesh::new().await;
    let mut dial = mesh.dial();
    dial.http2.ping_interval = Duration::from_millis(20);
    dial.http2.ping_timeout = Duration::from_millis(50);
    let settings = Http2Settings::server();
    let (tunnel, connection) = tokio::join!(client::dial(dial), mesh.accept(&settings));
    let tunnel = tunnel.unwrap();
    // Nobody drives the other end.
    assert!(
        soon(tunnel.open(&ConnectRequest::new("10.0.0.1:1")))
            .await
            .is_err()
    );
    assert!(tunnel.is_closed());
    drop(connection);
}

#[tokio::test]
async fn a_server_gives_up_a_client_that_does_not_answer_pings() {
    let mesh = Mesh::new().await;
    let settings = Http2Settings {
        ping_interval: Duration::from_millis(20),
        ping_timeout: Duration::from_millis(50),
        ..Http2Settings::server()
    };
    let silent = async {
        let tcp = tokio::net::TcpStream::connect(mesh.address())
            .await
            .unwrap();
        let expected = Arc::from([id(SERVER)]);
        let mut tls = ambit_transport::tls::connect(&mesh.client, expected, mesh.address(), tcp)
            .await
            .unwrap();
        tls.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
            .await
            .unwrap();
        tls.flush().await.unwrap();
        tls
    };
    let (client, mut connection) = tokio::join!(silent, mesh.accept(&settings));
    let error = soon(connection.accept()).await.unwrap().err().unwrap();
    assert_eq!(error.to_string(), "the peer did not answer a ping in time");
    assert!(soon(connection.accept()).await.is_none());
    drop(client);
}

#[tokio::test]
async fn a_drained_server_finishes_what_is_open() {
    let mesh = Mesh::new().await;
    let (tunnel, mut connection) = mesh.tunnel().await;
    let opening = {
        let tunnel = tunnel.clone();
        tokio::spawn(async move { tunnel.open(&ConnectRequest::new("10.0.0.1:80")).await })
    };
    let request = soon(connection.accept()).await.unwrap().unwrap();
    tokio::spawn(echo(request));
    connection.graceful_shutdown();
    let rest = tokio::spawn(async move { while connection.accept().await.is_some() {} });
    let mut stream = soon(opening).await.unwrap().unwrap().stream;
    stream.write_all(b"still here").await.unwrap();
    let mut answer = [0; 10];
    soon(stream.read_exact(&mut answer)).await.unwrap();
    assert!(
        soon(tunnel.open(&ConnectRequest::new("10.0.0.1:80")))
            .await
            .is_err()
    );
    stream.shutdown().await.unwrap();
    soon(stream.read_to_end(&mut Vec::new())).await.unwrap();
    soon(rest).await.unwrap();
}
