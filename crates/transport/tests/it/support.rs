//! Certificates, and tunnels between two workloads.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ambit_model::Identity;
use ambit_testkit::{Issued, TestCa};
use ambit_transport::hbone::{self, Http2Settings, client, server};
use ambit_transport::socket::ConnectOptions;
use ambit_transport::tls::{self, TlsOptions, WorkloadCertificate};
use tokio::net::{TcpListener, TcpStream};

pub const CLIENT: &str = "spiffe://cluster.local/ns/shop/sa/client";
pub const SERVER: &str = "spiffe://cluster.local/ns/shop/sa/server";

/// Everything here is local: what has not happened by then, even on a busy machine, will not happen.
pub const SOON: Duration = Duration::from_secs(60);

pub fn ca() -> TestCa {
    TestCa::new("test root").unwrap()
}

pub fn id(uri: &str) -> Identity {
    uri.parse().unwrap()
}

pub fn certificate(issued: &Issued) -> WorkloadCertificate {
    certificate_with(issued, &TlsOptions::default())
}

pub fn certificate_with(issued: &Issued, options: &TlsOptions) -> WorkloadCertificate {
    let (chain, key, roots) = (&issued.chain, &issued.key, &issued.roots);
    WorkloadCertificate::from_pem(chain.as_bytes(), key.as_bytes(), roots.as_bytes(), options)
        .unwrap()
}

/// Two workloads of one mesh, the server listening.
pub struct Mesh {
    pub client: WorkloadCertificate,
    pub server: WorkloadCertificate,
    pub listener: TcpListener,
}

impl Mesh {
    pub async fn new() -> Self {
        let ca = ca();
        Self {
            client: certificate(&ca.issue(CLIENT).unwrap()),
            server: certificate(&ca.issue(SERVER).unwrap()),
            listener: TcpListener::bind("127.0.0.1:0").await.unwrap(),
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    pub fn dial(&self) -> client::Dial {
        client::Dial {
            destination: self.address(),
            netns: None,
            socket: ConnectOptions::unmarked(),
            certificate: self.client.clone(),
            expected: Arc::from([id(SERVER)]),
            http2: Http2Settings::client(),
        }
    }

    /// Accepts the next tunnel.
    pub async fn accept(&self, settings: &Http2Settings) -> server::Connection<TcpStream> {
        let (tcp, peer) = self.listener.accept().await.unwrap();
        let tls = tls::accept(&self.server, tcp).await.unwrap();
        server::Connection::handshake(tls, peer, settings)
            .await
            .unwrap()
    }

    /// One tunnel, both ends.
    pub async fn tunnel(&self) -> (client::Tunnel, server::Connection<TcpStream>) {
        let settings = Http2Settings::server();
        let (tunnel, connection) = tokio::join!(client::dial(self.dial()), self.accept(&settings));
        (tunnel.unwrap(), connection)
    }
}

/// Serves a tunnel: every request is given to `serve` in a task of its own.
pub fn serve<F>(
    mut connection: server::Connection<TcpStream>,
    serve: impl Fn(server::Request) -> F + Send + 'static,
) -> tokio::task::JoinHandle<Result<(), hbone::TunnelError>>
where
    F: Future<Output = ()> + Send + 'static,
{
    tokio::spawn(async move {
        while let Some(request) = connection.accept().await {
            tokio::spawn(serve(request?));
        }
        Ok(())
    })
}

/// Answers 200 and sends back what comes.
pub async fn echo(request: server::Request) {
    let stream = request.accept(None).unwrap();
    let (mut read, mut write) = tokio::io::split(stream);
    let _ = tokio::io::copy(&mut read, &mut write).await;
    let _ = tokio::io::AsyncWriteExt::shutdown(&mut write).await;
}

pub async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(SOON, future)
        .await
        .expect("this should not take so long")
}

/// A loopback connection, both ends.
pub async fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let connect = TcpStream::connect(listener.local_addr().unwrap());
    let (a, b) = tokio::join!(connect, listener.accept());
    (a.unwrap(), b.unwrap().0)
}
