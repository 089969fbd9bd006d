//! The end of a waypoint: nobody is turned away who could not know of it.

use std::time::{Duration, Instant};

use ambit_runtime::signals::Shutdown;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::node;
use crate::sniff::Protocol;
use crate::testbed::Testbed;

/// Streams may come in until the client has heard that there shall be no more.
#[tokio::test]
async fn a_connection_that_comes_late_is_served() {
    let testbed = Testbed::new().await;
    testbed.shared().draining.cancel();
    // Many, since what is wrong may be right by chance.
    for _ in 0..32 {
        let request = b"GET / HTTP/1.1\r\nhost: echo\r\n\r\n";
        let (answer, got) = testbed.exchange(request).await;
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.contains("connection: close"), "{answer}");
        assert_eq!(got.len(), 1);
    }
}

#[tokio::test]
async fn a_connection_that_waits_is_closed() {
    let testbed = Testbed::new().await;
    let mut client = testbed.connect(Protocol::Http1);
    let request = b"GET / HTTP/1.1\r\nhost: echo\r\n\r\n";
    client.write_all(request).await.unwrap();
    let mut begin = [0; 12];
    client.read_exact(&mut begin).await.unwrap();
    assert_eq!(&begin, b"HTTP/1.1 200");
    testbed.shared().draining.cancel();
    client.read_to_end(&mut Vec::new()).await.unwrap();
}

#[tokio::test]
async fn clients_hear_of_the_end_first() {
    let testbed = Testbed::with(&[("CONNECTION_TERMINATION_DEADLINE", "100ms")]).await;
    let shutdown = Shutdown::new();
    let draining = testbed.shared().draining.clone();
    let start = Instant::now();
    let begun = async {
        draining.cancelled().await;
        start.elapsed()
    };
    let (_, begun) = tokio::join!(node::drain(testbed.shared(), &[], &shutdown), begun);
    assert!(begun >= Duration::from_millis(50), "{begun:?}");
}
