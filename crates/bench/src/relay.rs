//! The least that can stand between the pods and still be a tunnel: `transport` without workloads,
//! policy, logs or metrics. What a node proxy costs beyond it is the proxy's own.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use ambit_model::Identity;
use ambit_testkit::{Process, TestCa, capture_pod};
use ambit_transport::copy::{Counters, bidirectional};
use ambit_transport::hbone::pool::{Pool, PoolSettings};
use ambit_transport::hbone::{Authority, ConnectRequest, Http2Settings, client, server};
use ambit_transport::netns::Netns;
use ambit_transport::socket::{self, ConnectOptions, ListenOptions};
use ambit_transport::tls::{self, TlsOptions, WorkloadCertificate};
use anyhow::{Context, Result};
use clap::Args;
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};

use crate::mesh::Proxy;

/// Where and as whom.
#[derive(Args, Clone, Debug)]
pub struct Place {
    /// The pod's network namespace.
    #[arg(long)]
    pod: PathBuf,
    /// Directory with `<name>.chain`, `<name>.key` and `roots`.
    #[arg(long)]
    files: PathBuf,
    /// Whose certificate.
    #[arg(long)]
    name: String,
}

/// Starts a relay for each pod.
pub fn start(ends: [Proxy<'_>; 2]) -> Result<(Vec<Process>, TempDir)> {
    let (files, ca) = (tempfile::tempdir()?, TestCa::new("relay")?);
    let mut relays = Vec::new();
    for end in ends {
        let issued = ca.issue(&identity(end.name).to_string())?;
        std::fs::write(
            files.path().join(format!("{}.chain", end.name)),
            issued.chain,
        )?;
        std::fs::write(files.path().join(format!("{}.key", end.name)), issued.key)?;
        std::fs::write(files.path().join("roots"), issued.roots)?;
        let mut command = end.node.namespace().command(std::env::current_exe()?);
        command
            .args(["relay", "--name", end.name, "--pod"])
            .arg(end.pod.namespace().path());
        command.arg("--files").arg(files.path());
        let mut relay = Process::start(&mut command)?;
        relay.wait_for_output("relaying", crate::contender::STARTING)?;
        capture_pod(end.pod.namespace())?;
        crate::mesh::forget_closed_connections_soon(end.pod.namespace())?;
        relays.push(relay);
    }
    Ok((relays, files))
}

fn identity(name: &str) -> Identity {
    Identity::new("cluster.local", "bench", name)
}

struct Relay {
    pod: Netns,
    certificate: WorkloadCertificate,
    pool: Pool<IpAddr>,
}

/// Relays until it is killed.
pub fn run(place: &Place) -> Result<()> {
    let read = |name: String| std::fs::read(place.files.join(&name)).context(name);
    let (chain, key) = (
        read(format!("{}.chain", place.name))?,
        read(format!("{}.key", place.name))?,
    );
    let roots = read("roots".to_owned())?;
    let relay = Arc::new(Relay {
        pod: Netns::open(&place.pod)?,
        certificate: WorkloadCertificate::from_pem(&chain, &key, &roots, &TlsOptions::default())?,
        pool: Pool::new(PoolSettings::default()),
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let (outbound, inbound) = (relay.listen(15001)?, relay.listen(15008)?);
        println!("relaying");
        loop {
            let relay = relay.clone();
            tokio::select! {
                accepted = outbound.accept() => {
                    let (stream, peer) = accepted?;
                    tokio::spawn(async move { complain("outbound", relay.outbound(stream, peer).await) });
                }
                accepted = inbound.accept() => {
                    let (stream, peer) = accepted?;
                    tokio::spawn(async move { complain("inbound", relay.inbound(stream, peer).await) });
                }
            }
        }
    })
}

fn complain(what: &str, result: Result<()>) {
    if let Err(e) = result {
        eprintln!("{what}: {e:#}");
    }
}

impl Relay {
    fn listen(&self, port: u16) -> Result<TcpListener> {
        let listening = self
            .pod
            .run(|| socket::listen(&ListenOptions::wildcard(port, true)))??;
        Ok(TcpListener::from_std(listening.listener)?)
    }

    async fn outbound(self: Arc<Self>, stream: TcpStream, peer: SocketAddr) -> Result<()> {
        socket::configure_accepted(&stream, None)?;
        let to = socket::original_destination(&stream)?;
        let dial = || {
            client::dial(client::Dial {
                destination: SocketAddr::new(to.ip(), 15008),
                netns: Some(self.pod.clone()),
                socket: ConnectOptions::default(),
                certificate: self.certificate.clone(),
                expected: Arc::from([identity("server")]),
                http2: Http2Settings::client(),
            })
        };
        let request = ConnectRequest {
            forwarded: Some(ambit_transport::hbone::Forwarded {
                source: socket::canonical(peer),
                host: None,
            }),
            ..ConnectRequest::new(to.to_string())
        };
        let opened = self.pool.open(&to.ip(), dial, &request).await?;
        bidirectional(stream, opened.stream, &Counters::default()).await?;
        Ok(())
    }

    async fn inbound(self: Arc<Self>, stream: TcpStream, peer: SocketAddr) -> Result<()> {
        stream.set_nodelay(true)?;
        let tls = tls::accept(&self.certificate, stream).await?;
        let mut tunnel = server::Connection::handshake(tls, peer, &Http2Settings::server()).await?;
        while let Some(request) = tunnel.accept().await {
            let (request, relay) = (request?, self.clone());
            tokio::spawn(async move { complain("request", relay.serve(request).await) });
        }
        Ok(())
    }

    async fn serve(&self, request: server::Request) -> Result<()> {
        let Ok(Authority::Address(to)) = request.head().authority else {
            request.refuse(http::StatusCode::BAD_REQUEST);
            return Ok(());
        };
        let options = ConnectOptions {
            source: Some(request.peer_address().ip()),
            ..Default::default()
        };
        let application = socket::connect(Some(&self.pod), to, &options).await?;
        let stream = request.accept(None)?;
        bidirectional(stream, application, &Counters::default()).await?;
        Ok(())
    }
}
