//! The server side: a listener that does the TLS handshake, and a certificate that can be renewed.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::Stream;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use super::provider;

/// Longest time for a handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Finished handshakes that wait to be served.
const BACKLOG: usize = 64;
/// Pause after a failed accept, which is nearly always a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A certificate or key that a server cannot use.
#[derive(Debug, thiserror::Error)]
pub enum ServerTlsError {
    /// The PEM text does not hold what it should.
    #[error("the serving certificate or its key is not usable PEM: {0}")]
    Pem(#[from] rustls_pki_types::pem::Error),
    /// There is no certificate.
    #[error("there is no serving certificate in the PEM text")]
    Empty,
    /// The library refuses it.
    #[error("the serving certificate cannot be used: {0}")]
    Tls(#[from] rustls::Error),
    /// The roots for client certificates do not do.
    #[error("client certificates cannot be checked: {0}")]
    ClientRoots(String),
}

/// The certificate of a server. It can be replaced; handshakes after that use the new one.
#[derive(Debug)]
pub struct ServerCertificate {
    current: ArcSwap<CertifiedKey>,
}

impl ServerCertificate {
    /// A certificate chain (leaf first) and its key, both PEM.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Arc<Self>, ServerTlsError> {
        Ok(Arc::new(Self {
            current: ArcSwap::from_pointee(certified_key(chain, key)?),
        }))
    }

    /// Replaces the certificate.
    pub fn replace(&self, chain: &[u8], key: &[u8]) -> Result<(), ServerTlsError> {
        self.current.store(Arc::new(certified_key(chain, key)?));
        Ok(())
    }
}

impl ResolvesServerCert for ServerCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }
}

fn certified_key(chain: &[u8], key: &[u8]) -> Result<CertifiedKey, ServerTlsError> {
    let chain = CertificateDer::pem_slice_iter(chain).collect::<Result<Vec<_>, _>>()?;
    if chain.is_empty() {
        return Err(ServerTlsError::Empty);
    }
    let key = PrivateKeyDer::from_pem_slice(key)?;
    Ok(CertifiedKey::from_der(chain, key, &provider())?)
}

/// TLS settings of a gRPC server. With `client_roots`, a client may show a certificate, and one that
/// does not check is refused; a client without one is let in and has to show a token.
pub fn server_config(
    certificate: Arc<ServerCertificate>,
    client_roots: Option<RootCertStore>,
) -> Result<Arc<ServerConfig>, ServerTlsError> {
    let builder =
        ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    let builder = match client_roots {
        None => builder.with_no_client_auth(),
        Some(roots) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
                .allow_unauthenticated()
                .build()
                .map_err(|error| ServerTlsError::ClientRoots(error.to_string()))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_cert_resolver(certificate);
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

/// Who is at the other end, available in the extensions of a request.
#[derive(Clone, Debug)]
pub struct PeerInfo {
    /// Its address.
    pub address: SocketAddr,
    /// The chain that it showed and that was checked, leaf first; empty without a certificate.
    pub certificates: Arc<[CertificateDer<'static>]>,
}

/// Connections of a listener after their handshake: the input of
/// [`tonic::transport::Server::serve_with_incoming`]. Dropping it stops accepting.
#[derive(Debug)]
pub struct Incoming {
    connections: mpsc::Receiver<ServerStream>,
}

impl Incoming {
    /// Starts accepting. Handshakes run side by side, so that a slow client delays nobody.
    pub fn new(listener: TcpListener, config: Arc<ServerConfig>) -> Self {
        let (sender, connections) = mpsc::channel(BACKLOG);
        tokio::spawn(accept(listener, TlsAcceptor::from(config), sender));
        Self { connections }
    }
}

impl Stream for Incoming {
    type Item = io::Result<ServerStream>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.connections
            .poll_recv(cx)
            .map(|connection| connection.map(Ok))
    }
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, sender: mpsc::Sender<ServerStream>) {
    loop {
        let accepted = tokio::select! {
            () = sender.closed() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, address)) => {
                tokio::spawn(handshake(stream, address, acceptor.clone(), sender.clone()));
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn handshake(
    stream: TcpStream,
    address: SocketAddr,
    acceptor: TlsAcceptor,
    sender: mpsc::Sender<ServerStream>,
) {
    let _ = stream.set_nodelay(true);
    match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
        Ok(Ok(tls)) => {
            let certificates = tls.get_ref().1.peer_certificates().unwrap_or_default();
            let peer = PeerInfo {
                address,
                certificates: certificates.to_vec().into(),
            };
            // An error means that the server is gone, and the connection with it.
            let _ = sender.send(ServerStream { tls, peer }).await;
        }
        Ok(Err(error)) => tracing::debug!(peer = %address, %error, "TLS handshake failed"),
        Err(_) => tracing::debug!(peer = %address, "TLS handshake timed out"),
    }
}

/// A connection after its handshake.
#[derive(Debug)]
pub struct ServerStream {
    tls: TlsStream<TcpStream>,
    peer: PeerInfo,
}

impl Connected for ServerStream {
    type ConnectInfo = PeerInfo;

    fn connect_info(&self) -> PeerInfo {
        self.peer.clone()
    }
}

impl AsyncRead for ServerStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_read(cx, buf)
    }
}

impl AsyncWrite for ServerStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.tls.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_shutdown(cx)
    }
}
