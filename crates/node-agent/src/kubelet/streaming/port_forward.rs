//! Port forwarding: bytes between the client's streams and a pod's loopback.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use super::dial;
use super::spdy::connection::{Connection, Incoming};
use super::websocket::{frame, goodbye};

/// Subprotocols of the channel-framed form, best first.
pub(crate) const CHANNEL_PROTOCOLS: [&str; 1] = ["v4.channel.k8s.io"];

const BUFFER: usize = 32 * 1024;

/// Where connections go.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    /// The pod's network namespace; the node's if absent.
    pub netns: Option<PathBuf>,
    /// `namespace/name`, for messages.
    pub pod: String,
}

impl Target {
    async fn dial(&self, port: u16) -> Result<TcpStream, String> {
        dial::loopback(self.netns.as_deref(), port).await.map_err(|error| {
            format!(
                "an error occurred forwarding {port} -> {port}: failed to connect to localhost:{port} inside namespace of pod {}: {error}",
                self.pod
            )
        })
    }
}

/// Serves port-forward streams: each connection is a pair of streams, `error` and `data`, with the
/// same `requestid`.
pub(crate) async fn over_spdy(mut connection: Connection, target: Target) {
    let mut waiting: HashMap<String, Incoming> = HashMap::new();
    while let Some(stream) = connection.next().await {
        let request = stream.header("requestid").unwrap_or_default().to_string();
        match waiting.remove(&request) {
            None => drop(waiting.insert(request, stream)),
            Some(other) => {
                let is_error = stream.header("streamtype") == Some("error");
                let (error, data) = if is_error {
                    (stream, other)
                } else {
                    (other, stream)
                };
                tokio::spawn(forward_stream(error, data, target.clone()));
            }
        }
    }
}

async fn forward_stream(error: Incoming, data: Incoming, target: Target) {
    let port = data
        .header("port")
        .and_then(|port| port.parse().ok())
        .filter(|port| *port > 0);
    let dialed = match port {
        Some(port) => target.dial(port).await,
        None => Err(format!(
            "unable to parse port {:?}",
            data.header("port").unwrap_or_default()
        )),
    };
    match dialed {
        Ok(socket) => copy_stream(data, socket).await,
        Err(message) => {
            error.writer.send(message.into()).await;
            data.writer.finish().await;
        }
    }
    error.writer.finish().await;
}

async fn copy_stream(data: Incoming, socket: TcpStream) {
    let Incoming {
        data: mut input,
        writer,
        ..
    } = data;
    let (mut read, mut write) = socket.into_split();
    let inward = async move {
        while let Some(bytes) = input.recv().await {
            if write.write_all(&bytes).await.is_err() {
                return;
            }
        }
        let _ = write.shutdown().await;
    };
    let outward = async move {
        let mut buffer = vec![0; BUFFER];
        while let Ok(count) = read.read(&mut buffer).await {
            if count == 0 || !writer.send(Bytes::copy_from_slice(&buffer[..count])).await {
                break;
            }
        }
        writer.finish().await;
    };
    tokio::join!(inward, outward);
}

/// Serves the channel-framed form: channels `2i` and `2i+1` are data and error of the i-th port, and
/// each begins with the port number in little-endian order.
pub(crate) async fn over_channels<S>(socket: WebSocketStream<S>, ports: Vec<u16>, target: Target)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sink, mut stream) = socket.split();
    let (sender, mut outgoing) = mpsc::channel::<Message>(16);
    let mut inputs = Vec::new();
    let mut forwards = Vec::new();
    for (index, port) in ports.iter().enumerate() {
        let channel = (index * 2) as u8;
        let (input, receiver) = mpsc::channel(16);
        inputs.push(Some(input));
        forwards.push(tokio::spawn(forward_channel(
            channel,
            *port,
            receiver,
            sender.clone(),
            target.clone(),
        )));
    }
    drop(sender);
    let mut reader = tokio::spawn(async move {
        while let Some(Ok(message)) = stream.next().await {
            match message {
                Message::Binary(data) => dispatch(&mut inputs, data).await,
                Message::Close(_) => return,
                _ => {}
            }
        }
    });
    loop {
        tokio::select! {
            message = outgoing.recv() => match message {
                Some(message) => if sink.send(message).await.is_err() { break },
                None => break,
            },
            _ = &mut reader => break,
        }
    }
    let _ = sink.send(goodbye()).await;
    if !reader.is_finished() {
        let _ = tokio::time::timeout(Duration::from_secs(2), &mut reader).await;
        reader.abort();
    }
    forwards.iter().for_each(|task| task.abort());
}

async fn dispatch(inputs: &mut [Option<mpsc::Sender<Bytes>>], mut data: Bytes) {
    if data.len() < 2 {
        return;
    }
    let channel = data.split_to(1)[0];
    let Some(input) = inputs
        .get_mut(usize::from(channel / 2))
        .filter(|_| channel.is_multiple_of(2))
    else {
        return;
    };
    if let Some(sender) = input
        && sender.send(data).await.is_err()
    {
        *input = None;
    }
}

async fn forward_channel(
    channel: u8,
    port: u16,
    mut input: mpsc::Receiver<Bytes>,
    output: mpsc::Sender<Message>,
    target: Target,
) {
    for number in [channel, channel + 1] {
        if output
            .send(frame(number, &port.to_le_bytes()))
            .await
            .is_err()
        {
            return;
        }
    }
    let socket = match target.dial(port).await {
        Ok(socket) => socket,
        Err(message) => return drop(output.send(frame(channel + 1, message.as_bytes())).await),
    };
    let (mut read, mut write) = socket.into_split();
    let inward = tokio::spawn(async move {
        while let Some(bytes) = input.recv().await {
            if write.write_all(&bytes).await.is_err() {
                return;
            }
        }
    });
    let mut buffer = vec![0; BUFFER];
    while let Ok(count) = read.read(&mut buffer).await {
        if count == 0 || output.send(frame(channel, &buffer[..count])).await.is_err() {
            break;
        }
    }
    inward.abort();
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;
    use tokio_tungstenite::tungstenite::protocol::Role;

    use super::*;
    use crate::kubelet::streaming::spdy::connection::tests::Client;

    async fn echo_upper() -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut buffer = [0; 64];
                    let count = socket.read(&mut buffer).await.unwrap();
                    let text = String::from_utf8_lossy(&buffer[..count]).to_uppercase();
                    socket.write_all(text.as_bytes()).await.unwrap();
                });
            }
        });
        port
    }

    fn target() -> Target {
        Target {
            netns: None,
            pod: "ns/p".into(),
        }
    }

    #[tokio::test]
    async fn spdy_pairs_and_refused_ports() {
        let port = echo_upper().await.to_string();
        let (near, far) = tokio::io::duplex(64 * 1024);
        tokio::spawn(over_spdy(Connection::accept(near), target()));
        let mut client = Client::new(far);
        client
            .open(
                1,
                &[("streamtype", "error"), ("port", &port), ("requestid", "0")],
            )
            .await;
        client
            .open(
                3,
                &[("streamtype", "data"), ("port", &port), ("requestid", "0")],
            )
            .await;
        client.data(3, "hello", true).await;
        assert_eq!(client.collect_until_finished(&[1, 3]).await[&3], "HELLO");
        client
            .open(
                5,
                &[("streamtype", "data"), ("port", "1"), ("requestid", "1")],
            )
            .await;
        client
            .open(
                7,
                &[("streamtype", "error"), ("port", "1"), ("requestid", "1")],
            )
            .await;
        assert!(
            client.collect_until_finished(&[5, 7]).await[&7]
                .contains("failed to connect to localhost:1")
        );
    }

    #[tokio::test]
    async fn channel_framed() {
        let port = echo_upper().await;
        let (near, far) = tokio::io::duplex(64 * 1024);
        let server = WebSocketStream::from_raw_socket(near, Role::Server, None).await;
        let mut client = WebSocketStream::from_raw_socket(far, Role::Client, None).await;
        tokio::spawn(over_channels(server, vec![port, 1], target()));
        client.send(frame(0, b"abc")).await.unwrap();
        let mut seen: HashMap<u8, Vec<u8>> = HashMap::new();
        while let Some(Ok(message)) = client.next().await {
            if message.is_close() {
                break;
            }
            let data = message.into_data();
            seen.entry(data[0])
                .or_default()
                .extend_from_slice(&data[1..]);
        }
        let le = port.to_le_bytes().to_vec();
        assert_eq!(seen[&0], [le.clone(), b"ABC".to_vec()].concat());
        assert_eq!(seen[&1], le);
        assert_eq!(seen[&2], [1, 0]);
        assert!(String::from_utf8_lossy(&seen[&3]).contains("localhost:1"));
    }
}
