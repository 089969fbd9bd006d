//! Bytes and endings between sockets and tunnels.

use std::sync::Arc;
use std::time::Duration;

use ambit_transport::copy::{Counters, bidirectional};
use ambit_transport::hbone::ConnectRequest;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{Mesh, serve, soon, tcp_pair};

/// Bytes that repeat nowhere within a buffer's length.
fn pattern(length: usize, seed: u32) -> Vec<u8> {
    let next = |x: &mut u32| {
        *x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        Some((*x >> 24) as u8)
    };
    std::iter::repeat_n((), length)
        .scan(seed, |x, ()| next(x))
        .collect()
}

/// Says where bytes differ, which are too many to show.
fn same(direction: &str, got: &[u8], sent: &[u8]) {
    let differ = got.iter().zip(sent).position(|(a, b)| a != b);
    assert!(
        got == sent,
        "the bytes {direction} differ: {} of {} came, the first other one is {differ:?}",
        got.len(),
        sent.len()
    );
}

/// Sends `there` and ends, reads to the end.
async fn exchange(mut client: TcpStream, mut server: TcpStream, there: &[u8], back: &[u8]) {
    let both = async {
        let (mut server_read, mut server_write) = server.split();
        let (mut client_read, mut client_write) = client.split();
        let send = async {
            client_write.write_all(there).await.unwrap();
            client_write.shutdown().await.unwrap();
        };
        let answer = async {
            server_write.write_all(back).await.unwrap();
            server_write.shutdown().await.unwrap();
        };
        let (mut got_there, mut got_back) = (Vec::new(), Vec::new());
        let (_, _, a, b) = tokio::join!(
            send,
            answer,
            server_read.read_to_end(&mut got_there),
            client_read.read_to_end(&mut got_back)
        );
        a.unwrap();
        b.unwrap();
        same("to the server", &got_there, there);
        same("to the client", &got_back, back);
    };
    tokio::time::timeout(Duration::from_secs(60), both)
        .await
        .unwrap();
}

#[tokio::test]
async fn tcp_to_tcp() {
    let (client, down) = tcp_pair().await;
    let (up, server) = tcp_pair().await;
    let counters = Arc::new(Counters::default());
    let counted = counters.clone();
    let copy = tokio::spawn(async move { bidirectional(down, up, &counted).await });
    let (there, back) = (pattern(5_000_000, 1), pattern(3_000_000, 2));
    exchange(client, server, &there, &back).await;
    soon(copy).await.unwrap().unwrap();
    assert_eq!(
        (counters.sent(), counters.received()),
        (5_000_000, 3_000_000)
    );
}

/// The whole way: socket, tunnel, socket; the two ends of the application's connection.
async fn through_a_tunnel() -> (TcpStream, TcpStream, Arc<Counters>, Arc<Counters>) {
    let mesh = Mesh::new().await;
    let (tunnel, connection) = mesh.tunnel().await;
    let (up, server) = tcp_pair().await;
    let inbound = Arc::new(Counters::default());
    let (counted, up) = (inbound.clone(), std::sync::Mutex::new(Some(up)));
    serve(connection, move |request| {
        let up = up.lock().unwrap().take().unwrap();
        let counted = counted.clone();
        async move {
            let stream = request.accept(None).unwrap();
            let _ = bidirectional(stream, up, &counted).await;
        }
    });
    let opened = tunnel
        .open(&ConnectRequest::new("10.0.0.1:80"))
        .await
        .unwrap();
    let (client, down) = tcp_pair().await;
    let outbound = Arc::new(Counters::default());
    let counted = outbound.clone();
    tokio::spawn(async move { bidirectional(down, opened.stream, &counted).await });
    (client, server, outbound, inbound)
}

#[tokio::test]
async fn through_a_tunnel_in_both_directions_at_once() {
    let (client, server, outbound, inbound) = through_a_tunnel().await;
    // More than a stream's window, so that windows must open again.
    let (there, back) = (pattern(20_000_000, 3), pattern(9_000_000, 4));
    exchange(client, server, &there, &back).await;
    for counters in [outbound, inbound] {
        assert_eq!(
            (counters.sent(), counters.received()),
            (20_000_000, 9_000_000)
        );
    }
}

/// A server that is going away sends what it has begun, and closes; the client gets all of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_server_that_goes_away_takes_no_answer_along() {
    for seed in 0..10 {
        let mesh = Mesh::new().await;
        let (tunnel, mut connection) = mesh.tunnel().await;
        let (up, server) = tcp_pair().await;
        let serving = tokio::spawn(async move {
            let request = connection.accept().await.unwrap().unwrap();
            let stream = request.accept(None).unwrap();
            let counters = Counters::default();
            let copy = tokio::spawn(async move { bidirectional(stream, up, &counters).await });
            connection.graceful_shutdown();
            while connection.accept().await.is_some() {}
            drop(connection);
            copy.await.unwrap()
        });
        let request = ConnectRequest::new("10.0.0.1:80");
        let opened = soon(tunnel.open(&request)).await.unwrap();
        let (client, down) = tcp_pair().await;
        tokio::spawn(async move { bidirectional(down, opened.stream, &Counters::default()).await });
        let back = pattern(9_000_000, seed);
        // The client has said all; what it still sends is for the tunnel alone.
        exchange(client, server, b"please", &back).await;
        soon(serving).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_half_closed_connection_goes_on() {
    let (mut client, mut server, outbound, _) = through_a_tunnel().await;
    client.write_all(b"request").await.unwrap();
    client.shutdown().await.unwrap();
    let mut request = Vec::new();
    soon(server.read_to_end(&mut request)).await.unwrap();
    assert_eq!(request, b"request");
    for i in 0..5u8 {
        server.write_all(&[i]).await.unwrap();
        assert_eq!(soon(client.read_u8()).await.unwrap(), i);
    }
    assert_eq!((outbound.sent(), outbound.received()), (7, 5));
    drop(server);
    assert_eq!(soon(client.read(&mut [0])).await.unwrap(), 0);
}

#[tokio::test]
async fn a_reset_of_the_client_reaches_the_server_and_is_no_error() {
    let (client, down) = tcp_pair().await;
    let (up, mut server) = tcp_pair().await;
    let copy = tokio::spawn(async move { bidirectional(down, up, &Counters::default()).await });
    SockRef::from(&client)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(client);
    let _ = soon(server.read(&mut [0])).await;
    soon(copy).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_reset_crosses_the_tunnel() {
    let (client, mut server, ..) = through_a_tunnel().await;
    SockRef::from(&client)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(client);
    let _ = soon(server.read(&mut [0])).await;
    // And the other way: the server goes away while the client is still there.
    let (mut client, server, ..) = through_a_tunnel().await;
    SockRef::from(&server)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(server);
    let _ = soon(client.read(&mut [0])).await;
}

#[tokio::test]
async fn a_tunnel_that_breaks_under_the_copy_is_an_error() {
    let mesh = Mesh::new().await;
    let (tunnel, mut connection) = mesh.tunnel().await;
    let opening =
        tokio::spawn(async move { tunnel.open(&ConnectRequest::new("10.0.0.1:80")).await });
    let held = soon(connection.accept())
        .await
        .unwrap()
        .unwrap()
        .accept(None)
        .unwrap();
    let driver = tokio::spawn(async move { while connection.accept().await.is_some() {} });
    let stream = soon(opening).await.unwrap().unwrap().stream;
    let (_client, down) = tcp_pair().await;
    let copy = tokio::spawn(async move { bidirectional(down, stream, &Counters::default()).await });
    tokio::task::yield_now().await;
    driver.abort();
    let error = soon(copy).await.unwrap().unwrap_err().to_string();
    assert!(error.starts_with("receive: "), "{error}");
    drop(held);
}
