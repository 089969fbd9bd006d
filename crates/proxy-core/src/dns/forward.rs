//! A question on its way to a nameserver and back, byte for byte.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use ambit_transport::netns::Netns;
use ambit_transport::socket::{self, ConnectOptions, ListenOptions, Transparent};
use tokio::net::UdpSocket;

use super::message::Transport;
use super::{DnsConfig, LARGEST, read_framed, write_framed};

/// Time that one nameserver has; the client gives up soon after.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Asks the nameservers one after the other; the error is that of the last one.
pub(super) async fn forward(
    question: &[u8],
    transport: Transport,
    netns: &Netns,
    config: &DnsConfig,
) -> io::Result<Vec<u8>> {
    let mut last = io::Error::other("no nameserver in resolv.conf");
    for server in &config.nameservers {
        let asking = async {
            match transport {
                Transport::Udp => ask_udp(question, *server, netns, config.mark).await,
                Transport::Tcp => ask_tcp(question, *server, netns, config.mark).await,
            }
        };
        match tokio::time::timeout(TIMEOUT, asking).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(e)) => last = io::Error::new(e.kind(), format!("{server}: {e}")),
            Err(_) => {
                last = io::Error::new(io::ErrorKind::TimedOut, format!("{server}: no answer"))
            }
        }
    }
    Err(last)
}

/// A socket of its own for each question: its random port is what an off-path forger would have to
/// guess beside the id.
async fn ask_udp(
    question: &[u8],
    server: SocketAddr,
    netns: &Netns,
    mark: Option<u32>,
) -> io::Result<Vec<u8>> {
    let any = if server.is_ipv4() {
        "0.0.0.0:0"
    } else {
        "[::]:0"
    };
    let address = any.parse().map_err(io::Error::other)?;
    let transparent = Transparent::Never;
    let options = ListenOptions {
        address,
        backlog: 0,
        reuse_port: false,
        mark,
        transparent,
    };
    let udp = netns
        .run(|| socket::bind_udp(&options))
        .map_err(io::Error::other)??;
    let udp = UdpSocket::from_std(udp)?;
    udp.connect(server).await?;
    udp.send(question).await?;
    let mut buffer = vec![0; LARGEST];
    loop {
        let length = udp.recv(&mut buffer).await?;
        // Anything with another id answers no question of ours.
        if length >= 2 && buffer[..2] == question[..2] {
            buffer.truncate(length);
            return Ok(buffer);
        }
    }
}

async fn ask_tcp(
    question: &[u8],
    server: SocketAddr,
    netns: &Netns,
    mark: Option<u32>,
) -> io::Result<Vec<u8>> {
    let options = ConnectOptions {
        mark,
        keepalive: None,
        source: None,
        timeout: TIMEOUT,
    };
    let mut stream = socket::connect(Some(netns), server, &options)
        .await
        .map_err(io::Error::other)?;
    write_framed(&mut stream, question).await?;
    let answer = read_framed(&mut stream).await?;
    answer.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}
