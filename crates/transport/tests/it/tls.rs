//! Who is let in, and who is not.

use std::io;
use std::sync::Arc;

use ambit_model::Identity;
use ambit_testkit::Issued;
use ambit_transport::tls::{self, AcceptError, TlsOptions, TlsStream, WorkloadCertificate};
use rcgen::ExtendedKeyUsagePurpose;
use rustls::crypto::aws_lc_rs;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{CLIENT, SERVER, ca, certificate, certificate_with, id, soon, tcp_pair};

type Accepted = Result<TlsStream<TcpStream>, AcceptError>;
type Connected = io::Result<TlsStream<TcpStream>>;

/// A handshake, and for the client the first byte from the server: in TLS 1.3 a client learns only
/// then that it was refused.
async fn handshake(
    client: &WorkloadCertificate,
    expected: &[Identity],
    server: &WorkloadCertificate,
) -> (Connected, Accepted) {
    let (from, to) = tcp_pair().await;
    let address = from.peer_addr().unwrap();
    let connect = async {
        let mut stream = tls::connect(client, Arc::from(expected), address, from).await?;
        stream.read_u8().await?;
        Ok(stream)
    };
    let accept = async {
        let mut stream = tls::accept(server, to).await?;
        stream.write_all(b"!").await.unwrap();
        stream.flush().await.unwrap();
        Ok(stream)
    };
    soon(async { tokio::join!(connect, accept) }).await
}

fn shown<T, E: std::fmt::Display>(result: Result<T, E>) -> String {
    result
        .err()
        .expect("this should have been refused")
        .to_string()
}

#[tokio::test]
async fn both_sides_learn_who_the_other_is() {
    let ca = ca();
    let client = certificate(&ca.issue(CLIENT).unwrap());
    let server = certificate(&ca.issue(SERVER).unwrap());
    let expected = [id("spiffe://cluster.local/ns/x/sa/y"), id(SERVER)];
    let (client, server) = handshake(&client, &expected, &server).await;
    let (client, server) = (client.unwrap(), server.unwrap());
    assert_eq!(client.peer_identity(), Some(&id(SERVER)));
    assert_eq!(server.peer_identity(), Some(&id(CLIENT)));
    let negotiated = "Some(TLSv1_3) Some(TLS13_AES_256_GCM_SHA384) Some(X25519MLKEM768)";
    assert_eq!(client.negotiated(), negotiated);
}

#[tokio::test]
async fn a_client_of_a_foreign_trust_domain_is_refused() {
    let ca = ca();
    let client = certificate(&ca.issue("spiffe://elsewhere/ns/shop/sa/client").unwrap());
    let server = certificate(&ca.issue(SERVER).unwrap());
    let (client, server) = handshake(&client, &[id(SERVER)], &server).await;
    let server = shown(server);
    assert!(server.starts_with("tls handshake error: "), "{server}");
    assert!(
        server.contains("not of the trust domain cluster.local"),
        "{server}"
    );
    assert!(shown(client).contains("CertificateUnknown"));
}

#[tokio::test]
async fn a_name_that_is_no_identity_does_not_count() {
    let ca = ca();
    let server = certificate(&ca.issue(SERVER).unwrap());
    let other = ca
        .issue_with(&["https://cluster.local/ns/a/sa/b"], |_| {})
        .unwrap();
    let (_, refused) = handshake(&certificate(&other), &[id(SERVER)], &server).await;
    assert!(shown(refused).contains("trust domain"));
    let second = ca.issue_with(&["urn:other", CLIENT], |_| {}).unwrap();
    let (_, accepted) = handshake(&certificate(&second), &[id(SERVER)], &server).await;
    assert_eq!(accepted.unwrap().peer_identity(), Some(&id(CLIENT)));
}

#[tokio::test]
async fn another_root_is_not_trusted() {
    let (ours, theirs) = (ca(), ca());
    let server = certificate(&ours.issue(SERVER).unwrap());
    let client = certificate(&theirs.issue(CLIENT).unwrap());
    let (client, _) = handshake(&client, &[id(SERVER)], &server).await;
    assert!(shown(client).contains("invalid peer certificate"));
    // The other way round: the client trusts both roots, the server its own only.
    let mut issued = theirs.issue(CLIENT).unwrap();
    issued.roots.push_str(&ours.root());
    let (_, server) = handshake(&certificate(&issued), &[id(SERVER)], &server).await;
    assert!(shown(server).contains("invalid peer certificate"));
}

#[tokio::test]
async fn a_server_with_another_identity_is_refused() {
    let ca = ca();
    let client = certificate(&ca.issue(CLIENT).unwrap());
    let server = certificate(&ca.issue(SERVER).unwrap());
    let others = [
        id("spiffe://cluster.local/ns/shop/sa/other"),
        id("spiffe://cluster.local/ns/other/sa/server"),
        id("spiffe://other/ns/shop/sa/server"),
    ];
    for expected in [&others[..], &[]] {
        let (client, server) = handshake(&client, expected, &server).await;
        let client = shown(client);
        assert!(client.contains("is none of"), "{client}");
        assert!(server.is_err());
    }
}

#[tokio::test]
async fn key_usage_counts_only_if_it_is_there() {
    let ca = ca();
    let server = certificate(&ca.issue(SERVER).unwrap());
    let with = |usages: Vec<ExtendedKeyUsagePurpose>| {
        certificate(
            &ca.issue_with(&[CLIENT], |p| p.extended_key_usages = usages)
                .unwrap(),
        )
    };
    let (_, none) = handshake(&with(vec![]), &[id(SERVER)], &server).await;
    assert!(none.is_ok());
    let wrong = with(vec![ExtendedKeyUsagePurpose::ServerAuth]);
    let (_, wrong) = handshake(&wrong, &[id(SERVER)], &server).await;
    assert!(wrong.is_err());
}

#[tokio::test]
async fn an_expired_certificate_is_refused() {
    let ca = ca();
    let server = certificate(&ca.issue(SERVER).unwrap());
    let expired = ca.issue_with(&[CLIENT], |p| {
        p.not_before -= time::Duration::days(2);
        p.not_after -= time::Duration::days(1);
    });
    let expired = certificate(&expired.unwrap());
    assert!(!expired.is_valid_at(std::time::SystemTime::now()));
    let (_, server) = handshake(&expired, &[id(SERVER)], &server).await;
    assert!(shown(server).contains("xpired"));
}

// === foreign clients ===

/// A client of the TLS library, set up by hand.
fn foreign(
    issued: &Issued,
    with_certificate: bool,
    version: &'static rustls::SupportedProtocolVersion,
) -> rustls::ClientConfig {
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(issued.roots.as_bytes()).unwrap())
        .unwrap();
    let config =
        rustls::ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[version])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyServer));
    if !with_certificate {
        return config.with_no_client_auth();
    }
    let chain = CertificateDer::pem_slice_iter(issued.chain.as_bytes());
    let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).unwrap();
    config
        .with_client_auth_cert(chain.map(Result::unwrap).collect(), key)
        .unwrap()
}

async fn accept_from(client: rustls::ClientConfig, server: &WorkloadCertificate) -> Accepted {
    let (from, to) = tcp_pair().await;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(client));
    let name = ServerName::try_from("any.example").unwrap();
    let (_, accepted) =
        soon(async { tokio::join!(connector.connect(name, from), tls::accept(server, to)) }).await;
    accepted
}

#[tokio::test]
async fn a_client_without_a_certificate_is_refused() {
    let ca = ca();
    let issued = ca.issue(SERVER).unwrap();
    let client = foreign(&issued, false, &rustls::version::TLS13);
    let error = shown(accept_from(client, &certificate(&issued)).await);
    assert!(error.contains("peer sent no certificates"), "{error}");
}

#[tokio::test]
async fn tls_1_2_needs_to_be_allowed() {
    let ca = ca();
    let issued = ca.issue(SERVER).unwrap();
    let client = || foreign(&ca.issue(CLIENT).unwrap(), true, &rustls::version::TLS12);
    let error = shown(accept_from(client(), &certificate(&issued)).await);
    assert!(error.contains("peer is incompatible"), "{error}");
    let allowed = certificate_with(
        &issued,
        &TlsOptions {
            tls12: true,
            ..Default::default()
        },
    );
    let accepted = accept_from(client(), &allowed).await.unwrap();
    assert!(
        accepted.negotiated().contains("TLSv1_2"),
        "{}",
        accepted.negotiated()
    );
}

#[tokio::test]
async fn post_quantum_only_refuses_a_classical_client() {
    let ca = ca();
    let issued = ca.issue(SERVER).unwrap();
    let options = TlsOptions {
        post_quantum_only: true,
        ..Default::default()
    };
    let server = certificate_with(&issued, &options);
    let mut client = foreign(&ca.issue(CLIENT).unwrap(), true, &rustls::version::TLS13);
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups = vec![aws_lc_rs::kx_group::X25519];
    client = {
        let chain = client.client_auth_cert_resolver.clone();
        let mut c = rustls::ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyServer))
            .with_no_client_auth();
        c.client_auth_cert_resolver = chain;
        c
    };
    assert!(accept_from(client, &server).await.is_err());
}

#[tokio::test]
async fn the_hello_names_no_server_and_offers_h2_only() {
    let ca = ca();
    let client = certificate(&ca.issue(CLIENT).unwrap());
    let (from, mut to) = tcp_pair().await;
    let address = from.peer_addr().unwrap();
    let connecting = tokio::spawn(async move {
        let _ = tls::connect(&client, Arc::from([id(SERVER)]), address, from).await;
    });
    let mut acceptor = rustls::server::Acceptor::default();
    let accepted = loop {
        let mut buffer = [0; 4096];
        let n = soon(to.read(&mut buffer)).await.unwrap();
        acceptor.read_tls(&mut &buffer[..n]).unwrap();
        if let Some(accepted) = acceptor.accept().unwrap_or_else(|_| panic!("no hello")) {
            break accepted;
        }
    };
    let hello = accepted.client_hello();
    assert_eq!(hello.server_name(), None);
    assert_eq!(hello.alpn().unwrap().collect::<Vec<_>>(), [b"h2"]);
    connecting.abort();
}

/// Trusts every server; what is tested is the server's own judgement.
#[derive(Debug)]
struct AnyServer;

impl rustls::client::danger::ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: rustls_pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        aws_lc_rs::default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

#[test]
fn broken_certificates_are_named() {
    let ca = ca();
    let good = ca.issue(CLIENT).unwrap();
    let build = |chain: &str, key: &str, roots: &str| {
        let (chain, key, roots) = (chain.as_bytes(), key.as_bytes(), roots.as_bytes());
        shown(WorkloadCertificate::from_pem(
            chain,
            key,
            roots,
            &TlsOptions::default(),
        ))
    };
    assert!(build("", &good.key, &good.roots).contains("chain is empty"));
    assert!(build(&good.chain, "nonsense", &good.roots).contains("private key"));
    assert!(build(&good.chain, &good.key, "").contains("no trusted root"));
    let other = ca.issue(CLIENT).unwrap();
    assert!(build(&good.chain, &other.key, &good.roots).contains("cannot be used"));
    let certificate = certificate(&good);
    assert!(!format!("{certificate:?}").contains("PRIVATE"));
    assert_eq!(certificate.identity(), Some(&id(CLIENT)));
}
