//! Policies on the connections of this node: asked when one comes, and again when they change.

use std::sync::Arc;

use ambit_model::authorize::Rejection;

use crate::connections::Inbound;
use crate::shared::{Shared, Worker};

/// May the connection come in?
pub(crate) fn check(shared: &Shared, inbound: &Inbound) -> Result<(), Rejection> {
    let state = shared.store.load();
    let decision = inbound.decide(&state);
    for key in state.unknown_policies(&inbound.workload) {
        tracing::warn!(
            target: "rbac",
            "policy {key} of workload {} is not known and is not enforced", inbound.workload.uid
        );
    }
    for dry_run in &decision.dry_run {
        tracing::info!(target: "rbac", workload = &*inbound.workload.uid, "{dry_run}");
    }
    let connection = &inbound.connection;
    let (src, dst) = (inbound.source, connection.destination);
    let verdict = match &decision.verdict {
        Ok(()) => "allowed".to_owned(),
        Err(reason) => format!("rejected: {reason}"),
    };
    if shared.config.policy_log {
        tracing::info!(target: "rbac", %src, %dst, "connection {verdict}");
    } else {
        tracing::debug!(target: "rbac", %src, %dst, "connection {verdict}");
    }
    decision.verdict
}

/// Asks again about every open connection after each change of policies, for ever.
pub(crate) async fn watch(shared: Arc<Shared>, workers: Vec<Arc<Worker>>) {
    let mut changes = shared.store.policy_changes();
    while changes.changed().await.is_ok() {
        for worker in &workers {
            worker.connections.check_again(&shared.store);
        }
    }
}
