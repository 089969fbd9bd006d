//! HTTP/2 clients that cost more than they pay: each is cut off, and the next client is served.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::Empty;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::sniff::Protocol;
use crate::testbed::Testbed;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PATIENCE: Duration = Duration::from_secs(10);

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend_from_slice(&[kind, flags]);
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// A header that is in no table, uncompressed (RFC 7541, 6.2.2); lengths below 127.
fn literal(name: &str, value: &str) -> Vec<u8> {
    let mut block = vec![0, name.len() as u8];
    block.extend_from_slice(name.as_bytes());
    block.push(value.len() as u8);
    block.extend_from_slice(value.as_bytes());
    block
}

fn get(path: &str) -> Vec<u8> {
    [
        literal(":method", "GET"),
        literal(":scheme", "http"),
        literal(":authority", "echo"),
        literal(":path", path),
    ]
    .concat()
}

/// What a connection did with bytes: whether all of them were taken, and the kinds of frames that
/// came back.
async fn flood(testbed: &Testbed, bytes: Vec<u8>) -> (bool, Vec<u8>) {
    let stream = testbed.connect(Protocol::Http2);
    let (mut read, mut write) = tokio::io::split(stream);
    let sending = async move {
        let start = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
        let taken = write.write_all(&start).await.is_ok() && write.write_all(&bytes).await.is_ok();
        // The other end ends the connection, or reads its end.
        let _ = write.shutdown().await;
        taken
    };
    let reading = async move {
        let mut answer = Vec::new();
        let _ = read.read_to_end(&mut answer).await;
        answer
    };
    let both = async { tokio::join!(sending, reading) };
    let (taken, answer) = tokio::time::timeout(PATIENCE, both).await.expect("an end");
    let (mut kinds, mut at) = (Vec::new(), 0);
    while let Some(head) = answer.get(at..at + 9) {
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        kinds.push(head[3]);
        at += 9 + length;
    }
    (taken, kinds)
}

/// A request of HTTP/1 is answered.
async fn is_well(testbed: &Testbed) {
    let (answer, _) = testbed
        .exchange(b"GET /a HTTP/1.1\r\nhost: echo\r\n\r\n")
        .await;
    assert!(
        answer.starts_with(b"HTTP/1.1 200"),
        "{:?}",
        String::from_utf8_lossy(&answer)
    );
}

#[tokio::test]
async fn an_ordinary_client_is_served() {
    let testbed = Testbed::new().await;
    let stream = TokioIo::new(testbed.connect(Protocol::Http2));
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), stream)
        .await
        .unwrap();
    tokio::spawn(connection);
    let request = Request::get("http://echo/a")
        .body(Empty::<Bytes>::new())
        .unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.status(), 200);
}

#[tokio::test]
async fn requests_that_are_taken_back_at_once() {
    let testbed = Testbed::new().await;
    let mut bytes = Vec::new();
    for stream in (1..200_000).step_by(2) {
        bytes.extend(frame(HEADERS, END_STREAM | END_HEADERS, stream, &get("/a")));
        bytes.extend(frame(RST_STREAM, 0, stream, &8u32.to_be_bytes()));
    }
    let (taken, kinds) = flood(&testbed, bytes).await;
    assert!(
        !taken && kinds.contains(&GOAWAY),
        "taken: {taken}, {} frames",
        kinds.len()
    );
    is_well(&testbed).await;
}

#[tokio::test]
async fn a_head_without_an_end() {
    let testbed = Testbed::new().await;
    let more = [
        literal("x-a", &"a".repeat(100)),
        literal("x-b", &"b".repeat(100)),
    ]
    .concat();
    let mut bytes = frame(HEADERS, END_STREAM, 1, &get("/a"));
    for _ in 0..20_000 {
        bytes.extend(frame(CONTINUATION, 0, 1, &more));
    }
    let (taken, kinds) = flood(&testbed, bytes).await;
    assert!(
        !taken && kinds.contains(&GOAWAY),
        "taken: {taken}, {kinds:?}"
    );
    is_well(&testbed).await;
}

#[tokio::test]
async fn more_streams_than_agreed() {
    let testbed = Testbed::new().await;
    let mut bytes = Vec::new();
    // Without an end each of them waits for its body.
    for stream in (1..2_000).step_by(2) {
        bytes.extend(frame(HEADERS, END_HEADERS, stream, &get("/a")));
    }
    let (_, kinds) = flood(&testbed, bytes).await;
    let refused = kinds.iter().filter(|kind| **kind == RST_STREAM).count();
    assert!(
        refused > 0 || kinds.contains(&GOAWAY),
        "{} frames",
        kinds.len()
    );
    is_well(&testbed).await;
}
