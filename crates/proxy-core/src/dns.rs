//! The DNS proxy of one pod: answers the names of the mesh, forwards everything else.
//!
//! A question that is not answered from the mesh leaves byte for byte as it came, to the
//! nameservers of the proxy's own `resolv.conf`, from a socket in the pod's network namespace with
//! the proxy's mark; the answer comes back as it came. So whatever the cluster's DNS can do keeps
//! working.

mod forward;
mod message;
mod metrics;
mod resolv;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ambit_model::Text;
use ambit_transport::netns::Netns;
use ambit_transport::socket::{self, ListenOptions, Transparent};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::store::{LOCAL_WORKLOAD_TIMEOUT, PodName, Store};
use message::{Outcome, Transport};

pub use metrics::DnsMetrics;
pub use resolv::nameservers;

/// Port of the DNS proxy in the pod.
pub const PORT: u16 = 15053;
/// Longest wait for the next request of a TCP connection, and for the answer to it.
const TCP_TIMEOUT: Duration = Duration::from_secs(5);
/// Questions of one pod that may wait for an answer from elsewhere; more are not read.
const IN_FLIGHT: usize = 256;
/// Largest UDP message that can arrive.
const LARGEST: usize = 64 * 1024;

/// What does not change between questions.
#[derive(Clone, Debug)]
pub struct DnsConfig {
    /// Domain of the cluster.
    pub cluster_domain: Text,
    /// The proxy's own network.
    pub network: Text,
    /// Namespace that is preferred among equal owners of a name.
    pub preferred_namespace: Option<Text>,
    /// `AAAA` may be answered.
    pub ipv6: bool,
    /// Where other questions go, in this order.
    pub nameservers: Vec<SocketAddr>,
    /// Mark of the sockets that forward.
    pub mark: Option<u32>,
}

/// Listening sockets in the pod.
#[derive(Debug, Default)]
pub struct Sockets {
    udp: Vec<std::net::UdpSocket>,
    tcp: Vec<std::net::TcpListener>,
}

/// Opens the sockets on the loopback addresses of the namespace that the thread is in. IPv6 is used
/// where its loopback address exists.
pub fn bind(port: u16, ipv6: bool, mark: Option<u32>, reuse_port: bool) -> io::Result<Sockets> {
    let mut sockets = Sockets::default();
    let v4 = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
    let v6 = SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), port);
    for address in [v4].into_iter().chain(ipv6.then_some(v6)) {
        let transparent = Transparent::Never;
        let options = ListenOptions {
            address,
            backlog: 128,
            reuse_port,
            mark,
            transparent,
        };
        let opened = socket::bind_udp(&options)
            .and_then(|udp| Ok((udp, socket::listen(&options)?.listener)));
        match opened {
            Ok((udp, tcp)) => {
                sockets.udp.push(udp);
                sockets.tcp.push(tcp);
            }
            Err(e) if address.is_ipv6() && e.kind() == io::ErrorKind::AddrNotAvailable => {}
            Err(e) => return Err(e),
        }
    }
    Ok(sockets)
}

/// The DNS proxy of one pod.
#[derive(Clone, Debug)]
pub struct Server {
    /// The mesh.
    pub store: Store,
    /// Whose proxy it is.
    pub pod: PodName,
    /// Where questions leave from.
    pub netns: Netns,
    /// Settings.
    pub config: Arc<DnsConfig>,
    /// Counters.
    pub metrics: DnsMetrics,
}

impl Server {
    /// Serves until `stop`. Runs on the runtime that polls it.
    pub async fn run(self, sockets: Sockets, stop: CancellationToken) -> io::Result<()> {
        let server = Arc::new(self);
        let mut tasks = tokio::task::JoinSet::new();
        for udp in sockets.udp {
            let udp = Arc::new(UdpSocket::from_std(udp)?);
            tasks.spawn(server.clone().serve_udp(udp));
        }
        for tcp in sockets.tcp {
            tasks.spawn(server.clone().serve_tcp(TcpListener::from_std(tcp)?));
        }
        // The tasks run for ever; dropping the set ends them.
        stop.cancelled().await;
        Ok(())
    }

    async fn serve_udp(self: Arc<Self>, udp: Arc<UdpSocket>) {
        let slots = Arc::new(Semaphore::new(IN_FLIGHT));
        let mut tasks = tokio::task::JoinSet::new();
        let mut buffer = vec![0; LARGEST];
        loop {
            while tasks.try_join_next().is_some() {}
            let (length, client) = match udp.recv_from(&mut buffer).await {
                Ok(received) => received,
                Err(e) => {
                    // Usually an ICMP error about an earlier answer.
                    tracing::debug!(target: "dns", "receive: {e}");
                    continue;
                }
            };
            let Ok(slot) = slots.clone().acquire_owned().await else {
                return;
            };
            let question = buffer[..length].to_vec();
            let (server, udp) = (self.clone(), udp.clone());
            tasks.spawn(async move {
                if let Some(answer) = server.answer(&question, Transport::Udp).await
                    && let Err(e) = udp.send_to(&answer, client).await
                {
                    tracing::debug!(target: "dns", "answer to {client}: {e}");
                }
                drop(slot);
            });
        }
    }

    async fn serve_tcp(self: Arc<Self>, listener: TcpListener) {
        let slots = Arc::new(Semaphore::new(IN_FLIGHT));
        let mut tasks = tokio::task::JoinSet::new();
        loop {
            while tasks.try_join_next().is_some() {}
            let Ok(slot) = slots.clone().acquire_owned().await else {
                return;
            };
            match listener.accept().await {
                Ok((stream, client)) => {
                    let server = self.clone();
                    tasks.spawn(async move {
                        if let Err(e) = server.serve_connection(stream).await {
                            tracing::debug!(target: "dns", "connection of {client}: {e}");
                        }
                        drop(slot);
                    });
                }
                Err(e) => {
                    tracing::warn!(target: "dns", "accept: {e}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    /// Requests and answers, each behind its length (RFC 1035, 4.2.2), until the client ends.
    async fn serve_connection(&self, mut stream: TcpStream) -> io::Result<()> {
        let timed_out = |_| io::Error::from(io::ErrorKind::TimedOut);
        loop {
            let read = tokio::time::timeout(TCP_TIMEOUT, read_framed(&mut stream));
            let Some(question) = read.await.map_err(timed_out)?? else {
                return Ok(());
            };
            let Some(answer) = self.answer(&question, Transport::Tcp).await else {
                return Ok(());
            };
            write_framed(&mut stream, &answer).await?;
        }
    }

    /// The answer to a message, if it deserves one.
    async fn answer(&self, bytes: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let question = match message::read(bytes) {
            Ok(question) => question,
            Err(answer) => return answer,
        };
        let client = self
            .store
            .wait_for_local_workload(&self.pod, LOCAL_WORKLOAD_TIMEOUT)
            .await;
        let Ok(client) = client else {
            tracing::debug!(target: "dns", "client of {} is not known", self.pod.name);
            return question.server_failure();
        };
        let labels = self.metrics.request(&question, transport, &client);
        let outcome = question.resolve(&self.store.load(), &client, &self.config, transport);
        let (result, answer) = match outcome {
            Outcome::Answer { bytes, result } => (result.to_owned(), Some(bytes)),
            Outcome::Forward => {
                let (netns, config) = (&self.netns, &self.config);
                let forwarding = forward::forward(bytes, transport, netns, config);
                match self.metrics.upstream(&labels, forwarding).await {
                    Ok(answer) => ("forwarded".to_owned(), Some(answer)),
                    Err(e) => (
                        format!("forwarding failed ({e})"),
                        question.server_failure(),
                    ),
                }
            }
        };
        let (workload, namespace) = (&*client.name, &*client.namespace);
        let (query, domain) = (question.kind(), question.name());
        tracing::debug!(
            target: "dns",
            { src.workload = workload, src.namespace = namespace, %query, %domain, result },
            "query complete"
        );
        answer
    }
}

/// One message behind its length; `None` at the end of the stream.
async fn read_framed(stream: &mut TcpStream) -> io::Result<Option<Vec<u8>>> {
    let length = match stream.read_u16().await {
        Ok(length) => length,
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(e) => return Err(e),
    };
    let mut message = vec![0; usize::from(length)];
    stream.read_exact(&mut message).await?;
    Ok(Some(message))
}

async fn write_framed(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(|_| io::ErrorKind::InvalidData)?;
    let mut framed = Vec::with_capacity(message.len() + 2);
    framed.extend(length.to_be_bytes());
    framed.extend(message);
    stream.write_all(&framed).await
}

#[cfg(test)]
mod tests;
