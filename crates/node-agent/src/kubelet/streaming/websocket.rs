//! Channel-framed WebSocket sessions: `v5.channel.k8s.io` and `v4.channel.k8s.io`.
//!
//! Each binary message begins with a channel number: 0 standard input, 1 output, 2 error output, 3
//! the final status, 4 window sizes. In v5 the client closes a channel with `0xFF n`.

use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

use super::session::{Output, Remote, Size};

/// Subprotocols for exec and attach, best first.
pub(crate) const SESSION_PROTOCOLS: [&str; 2] = ["v5.channel.k8s.io", "v4.channel.k8s.io"];

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const STATUS: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

/// A message from the client.
#[derive(Debug, PartialEq, Eq)]
enum Input {
    Stdin(Bytes),
    CloseStdin,
    Resize(Size),
    Ignored,
}

impl Input {
    fn parse(mut message: Bytes) -> Self {
        if message.is_empty() {
            return Self::Ignored;
        }
        let channel = message.split_to(1)[0];
        match channel {
            STDIN if message.is_empty() => Self::Ignored,
            STDIN => Self::Stdin(message),
            RESIZE => Size::parse(&message).map_or(Self::Ignored, Self::Resize),
            CLOSE if message.first() == Some(&STDIN) => Self::CloseStdin,
            _ => Self::Ignored,
        }
    }
}

/// A message with its channel number in front.
pub(crate) fn frame(channel: u8, data: &[u8]) -> Message {
    let mut bytes = Vec::with_capacity(data.len() + 1);
    bytes.push(channel);
    bytes.extend_from_slice(data);
    Message::binary(bytes)
}

/// The end of a session. Clients take a close frame without a code for a broken connection.
pub(crate) fn goodbye() -> Message {
    Message::Close(Some(CloseFrame {
        code: CloseCode::Normal,
        reason: Utf8Bytes::default(),
    }))
}

/// Carries a session until the final status has been sent or the client is gone.
pub(crate) async fn carry<S>(socket: WebSocketStream<S>, remote: Remote)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sink, stream) = socket.split();
    let Remote {
        stdin,
        resize,
        output,
    } = remote;
    let mut input = tokio::spawn(read_all(stream, stdin, resize));
    let output = write_all(sink, output);
    tokio::pin!(output);
    tokio::select! {
        () = &mut output => {
            // Let the client answer the close frame, so that nothing sent is lost with a reset.
            let _ = tokio::time::timeout(Duration::from_secs(2), &mut input).await;
            input.abort();
        }
        _ = &mut input => {}
    }
}

async fn read_all<S>(
    mut stream: SplitStream<WebSocketStream<S>>,
    mut stdin: Option<tokio::sync::mpsc::Sender<Bytes>>,
    resize: tokio::sync::mpsc::Sender<Size>,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(Ok(message)) = stream.next().await {
        let data = match message {
            Message::Binary(data) => data,
            Message::Text(text) => Bytes::from(text.as_bytes().to_vec()),
            Message::Close(_) => return,
            _ => continue,
        };
        match Input::parse(data) {
            Input::Stdin(data) => {
                // Input that nobody reads (no stdin asked for, process gone) is dropped.
                if let Some(sender) = &stdin
                    && sender.send(data).await.is_err()
                {
                    stdin = None;
                }
            }
            Input::CloseStdin => stdin = None,
            Input::Resize(size) => drop(resize.send(size).await),
            Input::Ignored => {}
        }
    }
}

async fn write_all<S>(
    mut sink: SplitSink<WebSocketStream<S>, Message>,
    mut output: tokio::sync::mpsc::Receiver<Output>,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(output) = output.recv().await {
        let (channel, data) = match &output {
            Output::Stdout(data) => (STDOUT, data),
            Output::Stderr(data) => (STDERR, data),
            Output::Status(data) => (STATUS, data),
        };
        if sink.send(frame(channel, data)).await.is_err() {
            return;
        }
        if channel == STATUS {
            break;
        }
    }
    let _ = sink.send(goodbye()).await;
}

#[cfg(test)]
mod tests {
    use tokio_tungstenite::tungstenite::protocol::Role;

    use super::*;
    use crate::kubelet::streaming::session;

    #[test]
    fn channels() {
        let parse = |bytes: &'static [u8]| Input::parse(Bytes::from_static(bytes));
        assert_eq!(parse(b"\x00hi"), Input::Stdin("hi".into()));
        assert_eq!(parse(b"\xff\x00"), Input::CloseStdin);
        assert_eq!(
            parse(b"\x04{\"Width\":1,\"Height\":2}"),
            Input::Resize(Size {
                columns: 1,
                rows: 2
            })
        );
        for ignored in [
            &b""[..],
            b"\x00",
            b"\x04x",
            b"\xff",
            b"\xff\x01",
            b"\x09x",
            b"\x01x",
        ] {
            assert_eq!(parse(ignored), Input::Ignored, "{ignored:?}");
        }
    }

    #[tokio::test]
    async fn a_session_from_input_to_status() {
        let (near, far) = tokio::io::duplex(1024);
        let server = WebSocketStream::from_raw_socket(near, Role::Server, None).await;
        let mut client = WebSocketStream::from_raw_socket(far, Role::Client, None).await;
        let (mut session, remote) = session::pair();
        let carried = tokio::spawn(carry(server, remote));
        client.send(frame(0, b"in")).await.unwrap();
        client.send(frame(255, &[0])).await.unwrap();
        assert_eq!(session.stdin.recv().await, Some(Bytes::from("in")));
        assert_eq!(session.stdin.recv().await, None);
        session
            .output
            .send(Output::Stdout("out".into()))
            .await
            .unwrap();
        session
            .output
            .send(Output::Stderr("err".into()))
            .await
            .unwrap();
        session
            .output
            .send(Output::Status("{}".into()))
            .await
            .unwrap();
        for expected in [&b"\x01out"[..], b"\x02err", b"\x03{}"] {
            assert_eq!(client.next().await.unwrap().unwrap().into_data(), expected);
        }
        assert!(client.next().await.unwrap().unwrap().is_close());
        drop(client);
        carried.await.unwrap();
    }
}
