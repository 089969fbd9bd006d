//! DNS over UDP and TCP.

use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{Record, RecordType};
use parking_lot::RwLock;
use rand::seq::SliceRandom;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::answer::{Authority, Decision, encode, reply_to};
use super::upstream::Upstream;
use super::zone::Zone;

/// A TCP client that says nothing for so long is let go.
const IDLE: Duration = Duration::from_secs(10);
/// Questions and connections in progress at a time; more have to wait.
const LIMIT: usize = 512;

/// Everything an answer depends on.
#[derive(Debug)]
pub(super) struct Responder {
    pub(super) authority: Authority,
    pub(super) zone: RwLock<Zone>,
    pub(super) upstream: Upstream,
}

impl Responder {
    /// The answer to a packet; none for what is not a DNS message at all.
    async fn respond(&self, packet: &[u8], udp: bool) -> Option<Vec<u8>> {
        let request = match Message::from_vec(packet) {
            Ok(request) => request,
            Err(error) => {
                tracing::debug!("a message that is not DNS: {error}");
                return None;
            }
        };
        let decision = self.authority.decide(&self.zone.read(), &request);
        let response = match decision {
            Decision::Answer(mut response) => {
                mix(&mut response.answers);
                *response
            }
            Decision::Forward if self.upstream.is_empty() => {
                // Nobody else can be asked, so for this cluster the name does
                // not exist; a failure would only make resolvers wait.
                let mut response = reply_to(&request);
                response.metadata.response_code = ResponseCode::NXDomain;
                response
            }
            Decision::Forward => match self.upstream.ask(&request, packet, udp).await {
                Some(answer) => return Some(answer),
                None => {
                    let mut response = reply_to(&request);
                    response.metadata.response_code = ResponseCode::ServFail;
                    response
                }
            },
        };
        match encode(&response, &request, udp) {
            Ok(bytes) => Some(bytes),
            Err(error) => {
                tracing::warn!("an answer could not be encoded: {error}");
                None
            }
        }
    }
}

/// Puts the addresses of an answer in a random order, since most clients take
/// the first.
fn mix(answers: &mut [Record]) {
    let is_alias = |record: &Record| record.record_type() == RecordType::CNAME;
    let aliases = answers.iter().take_while(|record| is_alias(record)).count();
    if let Some(addresses) = answers.get_mut(aliases..) {
        addresses.shuffle(&mut rand::rng());
    }
}

/// Answers datagrams until dropped.
pub(super) async fn serve_udp(responder: Arc<Responder>, socket: Arc<UdpSocket>) {
    let limit = Arc::new(Semaphore::new(LIMIT));
    let mut tasks = JoinSet::new();
    let mut buffer = vec![0; 4096];
    loop {
        while tasks.try_join_next().is_some() {}
        let Ok(permit) = limit.clone().acquire_owned().await else {
            return;
        };
        let (packet, client) = match socket.recv_from(&mut buffer).await {
            Ok((length, client)) => (buffer.get(..length).unwrap_or_default().to_vec(), client),
            // An earlier answer met a closed port; nothing to do with this one.
            Err(_) => continue,
        };
        let (responder, socket) = (responder.clone(), socket.clone());
        tasks.spawn(async move {
            let _permit = permit;
            if let Some(answer) = responder.respond(&packet, true).await
                && let Err(error) = socket.send_to(&answer, client).await
            {
                tracing::debug!("answering {client}: {error}");
            }
        });
    }
}

/// Answers connections until dropped.
pub(super) async fn serve_tcp(responder: Arc<Responder>, listener: TcpListener) {
    let limit = Arc::new(Semaphore::new(LIMIT));
    let mut tasks = JoinSet::new();
    loop {
        while tasks.try_join_next().is_some() {}
        let Ok(permit) = limit.clone().acquire_owned().await else {
            return;
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!("accepting a DNS connection: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let responder = responder.clone();
        tasks.spawn(async move {
            let _permit = permit;
            if let Err(error) = converse(&responder, stream).await {
                tracing::debug!("a DNS connection ended: {error}");
            }
        });
    }
}

async fn converse(responder: &Responder, mut stream: TcpStream) -> std::io::Result<()> {
    loop {
        let Ok(length) = tokio::time::timeout(IDLE, stream.read_u16()).await else {
            return Ok(());
        };
        let mut packet = vec![0; usize::from(length?)];
        tokio::time::timeout(IDLE, stream.read_exact(&mut packet)).await??;
        let Some(answer) = responder.respond(&packet, false).await else {
            return Ok(());
        };
        let length = u16::try_from(answer.len()).map_err(std::io::Error::other)?;
        stream.write_all(&length.to_be_bytes()).await?;
        stream.write_all(&answer).await?;
    }
}
