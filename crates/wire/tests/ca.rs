//! Certificates from end to end: our client and our service over TLS.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use ambit_model::Identity;
use ambit_wire::ca::{CertificateError, Client, ClientOptions, FetchError};
use common::*;
use rustls::pki_types::UnixTime;
use rustls::server::WebPkiClientVerifier;
use tempfile::NamedTempFile;

fn client(server: &ControlPlane, roots: &NamedTempFile, token: &str, impersonate: bool) -> Client {
    Client::new(ClientOptions {
        target: target(server.address, roots.path()),
        credentials: credentials(token),
        lifetime: DAY,
        impersonate,
        cert_signer: None,
    })
}

fn cart() -> Identity {
    Identity::new("cluster.local", "shop", "cart")
}

fn roots_file(authority: &ambit_wire::ca::Authority) -> NamedTempFile {
    let roots = NamedTempFile::new().unwrap();
    std::fs::write(&roots, authority.root_pem()).unwrap();
    roots
}

#[tokio::test]
async fn a_certificate_is_issued_for_the_identity_and_a_new_key() {
    let authority = new_authority();
    let roots = roots_file(&authority);
    let server = ControlPlane::start(0, &authority, logs()).await;
    let client = client(&server, &roots, "good:istio-system", true);
    let identity = cart();
    let (first, second) = tokio::join!(client.fetch(&identity), client.fetch(&identity));
    let (first, second) = (first.unwrap(), second.unwrap());
    assert_eq!(first.identity, cart());
    assert_ne!(first.key, second.key, "every request has a key of its own");
    // What was issued is good for a client of a mutual TLS connection.
    let mut store = rustls::RootCertStore::empty();
    store.add(first.roots[0].clone()).unwrap();
    let verifier =
        WebPkiClientVerifier::builder_with_provider(store.into(), ambit_wire::tls::provider());
    let verifier = verifier.build().unwrap();
    verifier
        .verify_client_cert(&first.chain[0], &first.chain[1..], UnixTime::now())
        .unwrap();
}

#[tokio::test]
async fn without_impersonation_the_authority_decides() {
    let authority = new_authority();
    let roots = roots_file(&authority);
    let server = ControlPlane::start(0, &authority, logs()).await;
    let issued = client(&server, &roots, "good:own", false)
        .fetch(&cart())
        .await
        .unwrap();
    assert_eq!(issued.identity, Identity::new("td", "own", "own"));
}

#[tokio::test]
async fn refusals_and_wrong_answers_are_told_apart() {
    let authority = new_authority();
    let roots = roots_file(&authority);
    let server = ControlPlane::start(0, &authority, logs()).await;
    let refused = client(&server, &roots, "bad", true)
        .fetch(&cart())
        .await
        .unwrap_err();
    assert!(matches!(&refused, FetchError::Refused(_)), "{refused:?}");
    assert!(
        refused.to_string().contains("request authenticate failure"),
        "{refused}"
    );
    let wrong = Identity::new("cluster.local", "shop", "wrong");
    let wrong = client(&server, &roots, "good:x", true)
        .fetch(&wrong)
        .await
        .unwrap_err();
    assert!(
        matches!(
            &wrong,
            FetchError::Answer(CertificateError::WrongIdentity { .. })
        ),
        "{wrong:?}"
    );
}

#[tokio::test]
async fn new_roots_make_a_new_connection() {
    let old = new_authority();
    let roots = roots_file(&old);
    let server = ControlPlane::start(0, &old, logs()).await;
    let client = client(&server, &roots, "good:x", true);
    client.fetch(&cart()).await.unwrap();
    let port = server.address.port();
    server.kill();
    let new = new_authority();
    let _server = ControlPlane::start(port, &new, logs()).await;
    let error = client.fetch(&cart()).await.unwrap_err().to_string();
    assert!(
        error.contains("certificate"),
        "the new server is not trusted yet: {error}"
    );
    std::fs::write(&roots, new.root_pem()).unwrap();
    let issued = client.fetch(&cart()).await.unwrap();
    assert_eq!(issued.identity, cart());
    std::fs::remove_file(&roots).unwrap();
    client.fetch(&cart()).await.unwrap();
}
