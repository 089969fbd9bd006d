//! Which certificates this node needs, and where they come from.

use std::collections::BTreeSet;
use std::sync::Arc;

use ambit_model::Identity;
use ambit_proxy_core::certs::{CaSource, CertificateManager, FakeCa, Source};
use ambit_wire::ca;
use anyhow::Context;
use tokio::sync::watch;

use crate::config::Config;

/// The control plane's authority, or, for tests and benchmarks, the one in a directory.
pub(crate) fn source(config: &Config) -> anyhow::Result<Arc<dyn Source>> {
    let Some(directory) = &config.fake_ca else {
        let client = ca::Client::new(ca::ClientOptions {
            target: config.ca.target.clone(),
            credentials: config.ca.credentials.clone(),
            lifetime: config.secret_ttl,
            impersonate: true,
            cert_signer: None,
        });
        return Ok(Arc::new(CaSource::new(client, config.tls)));
    };
    tracing::warn!(
        "FAKE_CA: this proxy signs its own certificates with {}; nothing it says proves anything",
        directory.display()
    );
    let read = |name: &str| {
        let path = directory.join(name);
        std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    let (certificate, key) = (read("ca-cert.pem")?, read("ca-key.pem")?);
    let authority = ca::Authority::from_pem(&certificate, &key, "", &certificate)?;
    Ok(Arc::new(FakeCa::new(
        Arc::new(authority),
        config.secret_ttl,
        config.tls,
    )))
}

/// Fetches what the workloads of this node will need, before a connection waits for it, and drops
/// the keys of those that are gone; for ever.
pub(crate) async fn follow(
    certificates: CertificateManager,
    mut needed: watch::Receiver<Arc<BTreeSet<Identity>>>,
) {
    let mut served = Arc::new(BTreeSet::new());
    loop {
        let wanted = needed.borrow_and_update().clone();
        for identity in wanted.difference(&served) {
            certificates.prefetch(identity);
        }
        for identity in served.difference(&wanted) {
            certificates.forget(identity);
        }
        served = wanted;
        if needed.changed().await.is_err() {
            return;
        }
    }
}
