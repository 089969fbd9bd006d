//! What a connection speaks, by its first bytes.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

/// How HTTP/2 begins (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// A client that has said nothing for this long waits for the server to speak first.
const SILENCE: Duration = Duration::from_secs(1);
/// Longest method that is known (RFC 9110 and the registry).
const LONGEST_METHOD: usize = 20;

/// What is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// HTTP/1.
    Http1,
    /// HTTP/2.
    Http2,
    /// Something else.
    Other,
}

/// What the bytes so far say; `None` if it takes more.
fn judge(seen: &[u8]) -> Option<Protocol> {
    let common = seen.len().min(PREFACE.len());
    if seen[..common] == PREFACE[..common] {
        return (common == PREFACE.len()).then_some(Protocol::Http2);
    }
    // A method, a space, and a target: a path, a URL, an authority or `*`.
    let method = seen.iter().take_while(|b| b.is_ascii_uppercase()).count();
    match seen.get(method) {
        None if method <= LONGEST_METHOD => None,
        Some(b' ') if method > 0 => Some(match seen.get(method + 1) {
            None => return None,
            Some(b'/' | b'*' | b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'[') => Protocol::Http1,
            Some(_) => Protocol::Other,
        }),
        _ => Some(Protocol::Other),
    }
}

/// A stream whose first bytes have been looked at.
pub(crate) struct Rewound<S> {
    seen: Bytes,
    stream: S,
}

/// Looks at the first bytes. A declared protocol is waited for; where none is declared, silence
/// means that the server speaks first.
pub(crate) async fn sniff<S: AsyncRead + Unpin>(
    mut stream: S,
    is_http: bool,
) -> io::Result<(Protocol, Rewound<S>)> {
    let mut seen = BytesMut::new();
    let protocol = loop {
        if let Some(protocol) = judge(&seen) {
            break protocol;
        }
        let waits = is_http || !seen.is_empty();
        let more = stream.read_buf(&mut seen);
        let count = match waits {
            true => more.await?,
            false => match tokio::time::timeout(SILENCE, more).await {
                Ok(count) => count?,
                Err(_) => break Protocol::Other,
            },
        };
        if count == 0 {
            break Protocol::Other;
        }
    };
    let protocol = match (protocol, is_http) {
        // What claims to be HTTP and is not gets HTTP's answer to that.
        (Protocol::Other, true) => Protocol::Http1,
        (protocol, _) => protocol,
    };
    let seen = seen.freeze();
    Ok((protocol, Rewound { seen, stream }))
}

impl<S> Rewound<S> {
    /// The bytes that were looked at, and the rest.
    pub(crate) fn into_parts(self) -> (Bytes, S) {
        (self.seen, self.stream)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Rewound<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.seen.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let count = self.seen.len().min(buf.remaining());
        buf.put_slice(&self.seen[..count]);
        self.seen.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Rewound<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_bytes() {
        for (seen, expected) in [
            (&b""[..], None),
            (b"PRI * HTTP/2.0\r\n\r\nSM", None),
            (PREFACE, Some(Protocol::Http2)),
            (b"GE", None),
            (b"GET ", None),
            (b"GET /", Some(Protocol::Http1)),
            (b"OPTIONS *", Some(Protocol::Http1)),
            (b"CONNECT h:1", Some(Protocol::Http1)),
            (b"PRI /", Some(Protocol::Http1)),
            (b"\x16\x03\x01", Some(Protocol::Other)),
            (b"hello", Some(Protocol::Other)),
            (b"GET\t/", Some(Protocol::Other)),
            (b"AAAAAAAAAAAAAAAAAAAAAAAA", Some(Protocol::Other)),
            (b" /", Some(Protocol::Other)),
        ] {
            assert_eq!(judge(seen), expected, "{:?}", String::from_utf8_lossy(seen));
        }
    }

    #[tokio::test]
    async fn who_waits_for_the_server_is_not_http() {
        let (client, server) = tokio::io::duplex(64);
        let (protocol, _) = sniff(server, false).await.unwrap();
        assert_eq!(protocol, Protocol::Other);
        drop(client);
    }

    #[tokio::test]
    async fn what_was_looked_at_is_read_again() {
        let (mut client, server) = tokio::io::duplex(64);
        tokio::io::AsyncWriteExt::write_all(&mut client, b"GET / HTTP/1.1\r\n")
            .await
            .unwrap();
        drop(client);
        let (protocol, mut stream) = sniff(server, false).await.unwrap();
        assert_eq!(protocol, Protocol::Http1);
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, b"GET / HTTP/1.1\r\n");
    }
}
