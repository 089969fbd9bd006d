//! Which certificates this node needs.

use std::collections::BTreeSet;
use std::sync::Arc;

use ambit_model::Identity;
use ambit_proxy_core::certs::CertificateManager;
use tokio::sync::watch;

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
