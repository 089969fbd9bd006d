//! Phase `authorize`: the policies of the service, the gateway and its class.

use ambit_model::access::{self, Decision, Verdict};
use http::request::Parts;

use super::{Exchange, pairs};
use crate::failure::Failure;
use crate::serve::Inbound;

/// Lets a request pass, or refuses it. The caller is who TLS has shown, never what a header says.
pub(crate) fn authorize(
    inbound: &Inbound,
    parts: &Parts,
    exchange: &Exchange,
) -> Result<(), Failure> {
    let state = inbound.worker.shared.l7.load();
    let service = inbound.destination.service().map(|service| service.key());
    let mut policies = state.policies(service.as_ref()).peekable();
    if policies.peek().is_none() {
        return Ok(());
    }
    let headers = pairs(&parts.headers);
    let head = access::Head {
        method: parts.method.as_str(),
        authority: &exchange.authority,
        path: &exchange.path,
        headers: &headers,
        token: exchange.token.as_ref(),
    };
    let client = &inbound.client;
    let request = access::Request {
        identity: client.identity.as_ref(),
        source: client.address.ip(),
        remote: client.address.ip(),
        destination: inbound.asked,
        sni: None,
        http: Some(head),
    };
    verdict(access::decide(policies, &request))
}

/// What a decision comes to.
pub(crate) fn verdict(decision: Decision<'_>) -> Result<(), Failure> {
    for policy in &decision.audit {
        tracing::info!(target: "audit", "policy {} matches a request", policy.key());
    }
    if let Some(verdict) = &decision.dry_run {
        tracing::info!(target: "rbac", "policies on trial would say: {}", name(verdict));
    }
    if let Some(asked) = decision.ask.first() {
        // There is no provider of this name: what cannot be asked does not pass.
        let reason = format!(
            "provider {:?} of {} is not known",
            asked.provider,
            asked.policy.key()
        );
        return Err(Failure::Denied(reason));
    }
    match decision.verdict {
        Verdict::Pass => Ok(()),
        denied => Err(Failure::Denied(name(&denied))),
    }
}

fn name(verdict: &Verdict<'_>) -> String {
    match verdict {
        Verdict::Pass => "it passes".to_owned(),
        Verdict::Denied(policy) => format!("denied by {}", policy.key()),
        Verdict::NotAllowed => "no policy allows it".to_owned(),
    }
}
