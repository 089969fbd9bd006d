//! Requests that come slowly, or not to their end: they hold one connection for a bounded time, and
//! nothing of them goes on.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use crate::sniff::Protocol;
use crate::testbed::{HEAD_TIMEOUT, Testbed};

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// Sends bytes, then one byte at a time as long as the other end takes them; what it says until it
/// closes.
async fn drip(client: &mut DuplexStream, begin: &str, byte: &[u8]) -> String {
    client.write_all(begin.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let mut buffer = [0; 1024];
    let ended = async {
        loop {
            tokio::select! {
                read = client.read(&mut buffer) => match read {
                    Ok(0) | Err(_) => return,
                    Ok(n) => answer.extend_from_slice(&buffer[..n]),
                },
                () = tokio::time::sleep(HEAD_TIMEOUT / 10) => {
                    // The other end may have closed already.
                    let _ = client.write_all(byte).await;
                }
            }
        }
    };
    let ended = tokio::time::timeout(PATIENCE, ended).await;
    assert!(ended.is_ok(), "the connection is still open");
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn a_head_that_does_not_end_ends_the_connection() {
    let testbed = Testbed::new().await;
    for (begin, byte) in [
        ("", &b""[..]),
        ("G", b""),
        ("GET", b"T"),
        ("GET / HTTP/1.1\r\n", b""),
        ("GET / HTTP/1.1\r\nhost: echo\r\n", b"x"),
        ("GET / HTTP/1.1\r\nhost: echo\r\nx-long: ", b"a"),
        ("GET / HTTP/1.1\r\nhost: echo\r", b""),
        ("\r\n\r\n\r\n", b""),
        (
            "POST / HTTP/1.1\r\nhost: echo\r\ncontent-length: 5\r\n",
            b"",
        ),
    ] {
        let mut client = testbed.connect(Protocol::Http1);
        let answer = drip(&mut client, begin, byte).await;
        let refused = answer.is_empty() || answer.starts_with("HTTP/1.1 4");
        assert!(refused, "{begin:?}: {answer}");
        assert_eq!(testbed.take(), [], "{begin:?}");
    }
}

#[tokio::test]
async fn the_next_head_may_take_no_longer_either() {
    let testbed = Testbed::new().await;
    let mut client = testbed.connect(Protocol::Http1);
    let begin = "GET / HTTP/1.1\r\nhost: echo\r\n\r\nGET / HT";
    let answer = drip(&mut client, begin, b"T").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(testbed.take().len(), 1);
}

/// A body may take its time; a backend that waits for one is not told that it is whole.
#[tokio::test]
async fn a_body_that_breaks_off_is_not_whole_to_the_backend() {
    let testbed = Testbed::new().await;
    for begin in [
        "POST / HTTP/1.1\r\nhost: echo\r\ncontent-length: 5\r\n\r\nabc",
        "POST / HTTP/1.1\r\nhost: echo\r\ntransfer-encoding: chunked\r\n\r\n5\r\nabc",
        "POST / HTTP/1.1\r\nhost: echo\r\ntransfer-encoding: chunked\r\n\r\n5\r\nabcde\r\n",
        "POST / HTTP/1.1\r\nhost: echo\r\ntransfer-encoding: chunked\r\n\r\n5",
    ] {
        let mut client = testbed.connect(Protocol::Http1);
        client.write_all(begin.as_bytes()).await.unwrap();
        tokio::time::sleep(HEAD_TIMEOUT * 2).await;
        client.shutdown().await.unwrap();
        let mut answer = String::new();
        let read = tokio::time::timeout(PATIENCE, client.read_to_string(&mut answer)).await;
        assert!(read.is_ok(), "{begin:?}: the connection is still open");
        assert!(!answer.starts_with("HTTP/1.1 2"), "{begin:?}: {answer}");
        assert_eq!(testbed.take(), [], "{begin:?}");
    }
}

/// Who has nothing to ask for a while keeps the connection: clients do.
#[tokio::test]
async fn a_connection_may_wait_between_requests() {
    let testbed = Testbed::new().await;
    let mut client = testbed.connect(Protocol::Http1);
    let request = b"GET / HTTP/1.1\r\nhost: echo\r\n\r\n";
    for _ in 0..2 {
        client.write_all(request).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"ok") {
            let read = client.read_buf(&mut answer).await.unwrap();
            assert!(read > 0, "the connection was closed");
        }
        tokio::time::sleep(HEAD_TIMEOUT * 3).await;
    }
    assert_eq!(testbed.take().len(), 2);
}
