//! Asking other name servers, for names that are not the cluster's.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use hickory_proto::op::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

/// How long one server may take before the next is asked.
const PATIENCE: Duration = Duration::from_secs(2);

/// Servers to ask, in order.
#[derive(Debug, Clone, Default)]
pub struct Upstream {
    servers: Vec<SocketAddr>,
}

impl Upstream {
    /// Asks these servers, in order; none means there is nobody to ask.
    pub fn new(servers: Vec<SocketAddr>) -> Self {
        Self { servers }
    }

    /// Whether there is nobody to ask.
    pub fn is_empty(&self) -> bool {
        self.servers.is_empty()
    }

    /// The first usable answer, in wire format and with the id of `request`.
    /// `packet` is the request as it came.
    pub async fn ask(&self, request: &Message, packet: &[u8], udp: bool) -> Option<Vec<u8>> {
        for server in &self.servers {
            let asked = async {
                if udp {
                    ask_udp(*server, request, packet).await
                } else {
                    ask_tcp(*server, packet).await
                }
            };
            match tokio::time::timeout(PATIENCE, asked).await {
                Ok(Ok(answer)) => return Some(answer),
                Ok(Err(error)) => tracing::debug!("name server {server}: {error}"),
                Err(_) => tracing::debug!("name server {server}: no answer"),
            }
        }
        None
    }
}

async fn ask_udp(server: SocketAddr, request: &Message, packet: &[u8]) -> std::io::Result<Vec<u8>> {
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    // A socket of its own: the kernel picks a port that is hard to guess.
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    let id: u16 = rand::random();
    let mut question = packet.to_vec();
    if let Some(field) = question.get_mut(..2) {
        field.copy_from_slice(&id.to_be_bytes());
    }
    socket.send(&question).await?;
    let mut buffer = vec![0; 4096];
    loop {
        let length = socket.recv(&mut buffer).await?;
        let answer = buffer.get(..length).unwrap_or_default();
        if !is_answer(answer, id, request) {
            continue;
        }
        let mut answer = answer.to_vec();
        if let Some(field) = answer.get_mut(..2) {
            field.copy_from_slice(&request.metadata.id.to_be_bytes());
        }
        return Ok(answer);
    }
}

fn is_answer(packet: &[u8], id: u16, request: &Message) -> bool {
    Message::from_vec(packet)
        .is_ok_and(|answer| answer.metadata.id == id && answer.queries == request.queries)
}

async fn ask_tcp(server: SocketAddr, packet: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(packet.len()).map_err(std::io::Error::other)?;
    stream.write_all(&length.to_be_bytes()).await?;
    stream.write_all(packet).await?;
    let mut answer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}
