//! The server over real sockets on loopback.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use parking_lot::RwLock;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use super::answer::Authority;
use super::server::{self, Responder};
use super::upstream::Upstream;
use super::zone::tests::zone;

const ANY: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 0);

/// A server for the test zone; its addresses for UDP and TCP.
async fn serve(upstream: Vec<SocketAddr>) -> (SocketAddr, SocketAddr) {
    let responder = Arc::new(Responder {
        authority: Authority::new("cluster.local").expect("a domain"),
        zone: RwLock::new(zone()),
        upstream: Upstream::new(upstream),
    });
    let socket = UdpSocket::bind(ANY).await.expect("a socket");
    let listener = TcpListener::bind(ANY).await.expect("a listener");
    let addresses = (
        socket.local_addr().expect("an address"),
        listener.local_addr().expect("an address"),
    );
    tokio::spawn(server::serve_udp(responder.clone(), Arc::new(socket)));
    tokio::spawn(server::serve_tcp(responder, listener));
    addresses
}

fn question(name: &str) -> Message {
    let mut message = Message::query();
    message.add_query(Query::query(
        Name::from_ascii(name).expect("a name"),
        RecordType::A,
    ));
    message
}

async fn ask_udp(server: SocketAddr, packets: &[Vec<u8>]) -> Message {
    let socket = UdpSocket::bind(ANY).await.expect("a socket");
    for packet in packets {
        socket.send_to(packet, server).await.expect("sent");
    }
    let mut buffer = [0; 4096];
    let received = tokio::time::timeout(Duration::from_secs(20), socket.recv(&mut buffer));
    let length = received
        .await
        .expect("an answer in time")
        .expect("an answer");
    Message::from_vec(&buffer[..length]).expect("a message")
}

async fn ask_tcp(server: SocketAddr, message: &Message) -> Message {
    let packet = message.to_vec().expect("bytes");
    let mut stream = TcpStream::connect(server).await.expect("a connection");
    stream
        .write_u16(packet.len().try_into().expect("a length"))
        .await
        .expect("sent");
    stream.write_all(&packet).await.expect("sent");
    let mut answer = vec![0; stream.read_u16().await.expect("a length").into()];
    stream.read_exact(&mut answer).await.expect("an answer");
    Message::from_vec(&answer).expect("a message")
}

#[tokio::test]
async fn names_are_answered_over_both_transports_and_garbage_is_not() {
    let (udp, tcp) = serve(Vec::new()).await;
    let message = question("plain.ns.svc.cluster.local.");
    let packet = message.to_vec().expect("bytes");
    let answer = ask_udp(udp, &[b"\x00garbage".to_vec(), Vec::new(), packet]).await;
    assert_eq!(answer.metadata.id, message.metadata.id);
    assert_eq!(answer.answers.len(), 1);
    assert_eq!(ask_tcp(tcp, &message).await.answers, answer.answers);
}

#[tokio::test]
async fn without_upstream_other_names_do_not_exist() {
    let (udp, _) = serve(Vec::new()).await;
    let packet = question("example.com.").to_vec().expect("bytes");
    let answer = ask_udp(udp, &[packet]).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
}

#[tokio::test]
async fn other_names_are_asked_upstream_and_forgeries_are_dropped() {
    let upstream = UdpSocket::bind(ANY).await.expect("a socket");
    let address = upstream.local_addr().expect("an address");
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        while let Ok((length, client)) = upstream.recv_from(&mut buffer).await {
            let request = Message::from_vec(&buffer[..length]).expect("a message");
            let mut answer = request.clone().into_response();
            answer.metadata.id = request.metadata.id.wrapping_add(1);
            answer.metadata.response_code = ResponseCode::Refused;
            let forged = answer.to_vec().expect("bytes");
            upstream.send_to(&forged, client).await.expect("sent");
            answer.metadata.id = request.metadata.id;
            answer.metadata.response_code = ResponseCode::NoError;
            upstream
                .send_to(&answer.to_vec().expect("bytes"), client)
                .await
                .expect("sent");
        }
    });
    // The first server does not answer at all: nobody listens there.
    let silent = UdpSocket::bind(ANY)
        .await
        .expect("a socket")
        .local_addr()
        .expect("an address");
    let (udp, _) = serve(vec![silent, address]).await;
    let message = question("example.com.");
    let answer = ask_udp(udp, &[message.to_vec().expect("bytes")]).await;
    assert_eq!(answer.metadata.id, message.metadata.id);
    assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
}
