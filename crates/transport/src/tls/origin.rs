//! TLS to a server that is not of the mesh: it shows a certificate for a name that is expected, of an
//! authority that is named (`BackendTLSPolicy`).

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::TlsConnector;

use super::verify::names_of;

/// The authorities of the system, read once.
static SYSTEM: LazyLock<Arc<RootCertStore>> = LazyLock::new(|| {
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(ambit_runtime::roots::system());
    Arc::new(store)
});

/// Whose certificates are believed.
#[derive(Clone, Copy, Debug)]
pub enum OriginRoots<'a> {
    /// Of the authorities that the system trusts.
    System,
    /// Of those in a PEM text.
    Pem(&'a str),
}

/// A name that a certificate must have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OriginName {
    /// A DNS name.
    Dns(String),
    /// A URI.
    Uri(String),
}

/// Why nothing can be connected with.
#[derive(Debug, thiserror::Error)]
pub enum OriginError {
    /// Nothing in the text is a certificate.
    #[error("there is no usable certificate among the authorities")]
    NoAuthority,
    /// It is no name of a server.
    #[error("{0:?} is no name of a server")]
    Name(String),
    /// The TLS library does not take it.
    #[error("{0}")]
    Tls(#[from] Error),
}

/// How connections to a server are secured. Clones share it.
#[derive(Clone)]
pub struct Origin {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Origin").field("name", &self.name).finish()
    }
}

impl Origin {
    /// Asks for `server` (SNI), and believes a certificate of the roots that has one of the names;
    /// without any, that of the server.
    ///
    /// # Errors
    /// One of them cannot be used.
    pub fn new(
        roots: OriginRoots<'_>,
        server: &str,
        names: &[OriginName],
    ) -> Result<Self, OriginError> {
        let store = match roots {
            OriginRoots::System => SYSTEM.clone(),
            OriginRoots::Pem(text) => {
                let mut store = RootCertStore::empty();
                let certificates = CertificateDer::pem_slice_iter(text.as_bytes());
                store.add_parsable_certificates(certificates.filter_map(Result::ok));
                Arc::new(store)
            }
        };
        if store.is_empty() {
            return Err(OriginError::NoAuthority);
        }
        let server_name = |name: &str| {
            ServerName::try_from(name.to_owned()).map_err(|_| OriginError::Name(name.to_owned()))
        };
        let name = server_name(server)?;
        let mut expected = Expected {
            dns: Vec::new(),
            uris: Vec::new(),
        };
        for name in names {
            match name {
                OriginName::Dns(name) => expected.dns.push(server_name(name)?),
                OriginName::Uri(uri) => expected.uris.push(uri.clone()),
            }
        }
        if names.is_empty() {
            expected.dns.push(name.clone());
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = Verifier {
            roots: store,
            expected,
            provider: provider.clone(),
        };
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        Ok(Self {
            config: Arc::new(config),
            name,
        })
    }

    /// Secures a connection on which these protocols may be spoken (ALPN).
    ///
    /// # Errors
    /// The server is not the one that is expected, or the connection broke.
    pub async fn connect<S>(&self, stream: S, protocols: &[&[u8]]) -> io::Result<OriginStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let connector = TlsConnector::from(self.config.clone());
        let protocols: Vec<Vec<u8>> = protocols.iter().map(|p| p.to_vec()).collect();
        let connector = connector.with_alpn(protocols);
        let stream = connector.connect(self.name.clone(), stream).await?;
        Ok(OriginStream(stream))
    }
}

/// A connection that is secured.
#[derive(Debug)]
pub struct OriginStream<S>(tokio_rustls::client::TlsStream<S>);

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for OriginStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for OriginStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// Names of which a certificate must have one.
#[derive(Debug)]
struct Expected {
    dns: Vec<ServerName<'static>>,
    uris: Vec<String>,
}

#[derive(Debug)]
struct Verifier {
    roots: Arc<RootCertStore>,
    expected: Expected,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let certificate = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(
            &certificate,
            &self.roots,
            intermediates,
            now,
            self.provider.signature_verification_algorithms.all,
        )?;
        let mut failure = Error::InvalidCertificate(CertificateError::NotValidForName);
        for name in &self.expected.dns {
            match verify_server_name(&certificate, name) {
                Ok(()) => return Ok(ServerCertVerified::assertion()),
                Err(e) => failure = e,
            }
        }
        let uris = names_of(end_entity)?;
        match self.expected.uris.iter().any(|uri| uris.contains(uri)) {
            true => Ok(ServerCertVerified::assertion()),
            false => Err(failure),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ambit_testkit::{Issued, TestCa};
    use rcgen::SanType;
    use rustls::ServerConfig;
    use rustls_pki_types::PrivateKeyDer;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio_rustls::TlsAcceptor;

    use crate::copy::{Counters, bidirectional};

    /// A certificate of a server, with a DNS name and a URI.
    fn issued(ca: &TestCa) -> Issued {
        let name = SanType::DnsName("cart.example.com".try_into().unwrap());
        let with_name = |params: &mut rcgen::CertificateParams| params.subject_alt_names.push(name);
        ca.issue_with(&["spiffe://cluster.local/ns/a/sa/b"], with_name)
            .unwrap()
    }

    fn acceptor(issued: &Issued) -> TlsAcceptor {
        let chain = CertificateDer::pem_slice_iter(issued.chain.as_bytes());
        let chain = chain.collect::<Result<_, _>>().unwrap();
        let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        TlsAcceptor::from(Arc::new(config))
    }

    /// What the server sees, as name and protocol, or why the client does not go on.
    async fn shaken(origin: &Origin, issued: &Issued) -> Result<(String, String), String> {
        let (client, server) = duplex(64 * 1024);
        let server = acceptor(issued).accept(server);
        let (client, server) = tokio::join!(origin.connect(client, &[b"h2"]), server);
        client.map_err(|e| e.to_string())?;
        let (_, session) = server.unwrap().into_inner();
        let text = |text: &[u8]| String::from_utf8_lossy(text).into_owned();
        let name = session.server_name().unwrap_or_default().to_owned();
        Ok((name, text(session.alpn_protocol().unwrap_or_default())))
    }

    #[tokio::test]
    async fn the_server_is_the_one_that_is_expected() {
        let ca = TestCa::new("authority").unwrap();
        let other = TestCa::new("other").unwrap();
        let (root, issued) = (ca.root(), issued(&ca));
        let dns = |name: &str| OriginName::Dns(name.to_owned());
        let uri = |name: &str| OriginName::Uri(name.to_owned());
        let good = "cart.example.com";
        for (roots, server, names, is_good) in [
            (&root, good, vec![], true),
            (&root, "other.example.com", vec![], false),
            // With names of its own, that which is asked for need not be there.
            (
                &root,
                "other.example.com",
                vec![dns("x.example.com"), dns(good)],
                true,
            ),
            (&root, good, vec![dns("x.example.com")], false),
            (
                &root,
                good,
                vec![uri("spiffe://cluster.local/ns/a/sa/b")],
                true,
            ),
            (
                &root,
                good,
                vec![uri("spiffe://cluster.local/ns/a/sa/x")],
                false,
            ),
            (&other.root(), good, vec![], false),
        ] {
            let origin = Origin::new(OriginRoots::Pem(roots), server, &names).unwrap();
            let seen = shaken(&origin, &issued).await;
            assert_eq!(seen.is_ok(), is_good, "{server} {names:?}: {seen:?}");
            if let Ok(seen) = seen {
                assert_eq!(seen, (server.to_owned(), "h2".to_owned()));
            }
        }
        let system = Origin::new(OriginRoots::System, good, &[]).unwrap();
        assert!(shaken(&system, &issued).await.is_err());
    }

    #[test]
    fn what_cannot_be_used() {
        let ca = TestCa::new("authority").unwrap();
        let root = ca.root();
        let new = |roots, server| Origin::new(OriginRoots::Pem(roots), server, &[]);
        assert!(matches!(new("hello", "a"), Err(OriginError::NoAuthority)));
        assert!(matches!(new(&root, "a b"), Err(OriginError::Name(_))));
    }

    /// More than fits into any buffer on the way, in both directions, to the end.
    #[tokio::test]
    async fn bytes_are_copied_to_their_end() {
        const LENGTH: usize = 1 << 20;
        let ca = TestCa::new("authority").unwrap();
        let root = ca.root();
        let origin = Origin::new(OriginRoots::Pem(&root), "cart.example.com", &[]).unwrap();
        let (client, server) = duplex(1024);
        let server = acceptor(&issued(&ca)).accept(server);
        let (upstream, server) = tokio::join!(origin.connect(client, &[]), server);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let dialled = tokio::net::TcpStream::connect(address).await.unwrap();
        let (downstream, _) = listener.accept().await.unwrap();
        let echo = async {
            let (mut reader, mut writer) = tokio::io::split(server.unwrap());
            tokio::io::copy(&mut reader, &mut writer).await.unwrap();
            writer.shutdown().await.unwrap();
        };
        let ask = async {
            let (mut reader, mut writer) = dialled.into_split();
            let write = async {
                writer.write_all(&vec![7; LENGTH]).await.unwrap();
                writer.shutdown().await.unwrap();
            };
            let mut all = Vec::new();
            let (_, read) = tokio::join!(write, reader.read_to_end(&mut all));
            read.unwrap();
            all
        };
        let counters = Counters::default();
        let copied = bidirectional(downstream, upstream.unwrap(), &counters);
        let ((), all, copied) = tokio::join!(echo, ask, copied);
        copied.unwrap();
        assert_eq!(all.len(), LENGTH);
        let moved = (counters.sent(), counters.received());
        assert_eq!(moved, (LENGTH as u64, LENGTH as u64));
    }
}
