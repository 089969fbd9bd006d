//! Handshakes, and the encrypted stream that comes out of one.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use ambit_model::Identity;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::WorkloadCertificate;
use super::coalesce::Coalesce;
use super::read_ahead::ReadAhead;
use super::verify::identity_of;

/// Ciphertext that may wait for the socket. One full burst of records: more would only leave the
/// cache before the kernel takes it.
const WRITE_BUFFER: usize = 256 * 1024;

/// An inbound handshake failed.
#[derive(Debug, thiserror::Error)]
#[error("tls handshake error: {0}")]
pub struct AcceptError(#[source] pub io::Error);

/// A mutually authenticated connection. What is written goes out when it is flushed, or when it
/// fills a record.
pub struct TlsStream<IO> {
    inner: Coalesce<tokio_rustls::TlsStream<ReadAhead<IO>>>,
    peer: Option<Identity>,
}

/// Accepts a connection as the holder of `certificate`. The client has then proven a certificate of
/// the mesh and of the same trust domain.
///
/// There is no timeout here; a caller that wants one drops the future.
pub async fn accept<IO>(
    certificate: &WorkloadCertificate,
    io: IO,
) -> Result<TlsStream<IO>, AcceptError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let acceptor = TlsAcceptor::from(certificate.server_config());
    let accepted = acceptor.accept(ReadAhead::new(io)).await;
    let stream = accepted.map_err(|e| AcceptError(readable(e)))?;
    Ok(TlsStream::new(stream.into()))
}

/// Connects as the holder of `certificate` to a server that must have one of the `expected`
/// identities. `address` is where `io` leads to; it is not sent.
pub async fn connect<IO>(
    certificate: &WorkloadCertificate,
    expected: Arc<[Identity]>,
    address: SocketAddr,
    io: IO,
) -> io::Result<TlsStream<IO>>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let connector = TlsConnector::from(certificate.client_config(expected));
    let name = ServerName::IpAddress(address.ip().into());
    let stream = connector
        .connect(name, ReadAhead::new(io))
        .await
        .map_err(readable)?;
    Ok(TlsStream::new(stream.into()))
}

/// Our own reasons to refuse a certificate in words; the TLS library would show them as a data
/// structure.
fn readable(e: io::Error) -> io::Error {
    use rustls::{CertificateError, Error};
    let refused = e.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    match refused {
        Some(Error::InvalidCertificate(CertificateError::Other(why))) => {
            io::Error::new(e.kind(), format!("invalid peer certificate: {}", why.0))
        }
        _ => e,
    }
}

impl<IO> TlsStream<IO> {
    fn new(mut inner: tokio_rustls::TlsStream<ReadAhead<IO>>) -> Self {
        match &mut inner {
            tokio_rustls::TlsStream::Client(s) => {
                s.get_mut().1.set_buffer_limit(Some(WRITE_BUFFER))
            }
            tokio_rustls::TlsStream::Server(s) => {
                s.get_mut().1.set_buffer_limit(Some(WRITE_BUFFER))
            }
        }
        let session = inner.get_ref().1;
        let peer = session
            .peer_certificates()
            .and_then(|c| c.first())
            .and_then(identity_of);
        Self {
            inner: Coalesce::new(inner),
            peer,
        }
    }

    /// The peer's proven identity; none if its certificate names none.
    pub fn peer_identity(&self) -> Option<&Identity> {
        self.peer.as_ref()
    }

    /// The transport below.
    pub fn get_ref(&self) -> &IO {
        self.inner.get_ref().get_ref().0.get_ref()
    }

    /// What was negotiated, for diagnostics: version, cipher suite and key exchange group.
    pub fn negotiated(&self) -> String {
        let session = self.inner.get_ref().get_ref().1;
        let suite = session.negotiated_cipher_suite().map(|s| s.suite());
        let group = session.negotiated_key_exchange_group().map(|g| g.name());
        format!("{:?} {:?} {:?}", session.protocol_version(), suite, group)
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncRead for TlsStream<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for TlsStream<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
