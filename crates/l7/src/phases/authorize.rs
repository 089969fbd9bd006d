//! Phase `authorize`: the policies of the service, the gateway and its class.

use ambit_model::access::{self, Decision, Verdict};
use http::request::Parts;

use super::{Exchange, pairs};
use crate::failure::Failure;
use crate::serve::Inbound;

/// Lets a request pass, or refuses it.
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
    with_request(inbound, Some((parts, exchange)), |request| {
        verdict(access::decide(policies, request))
    })
}

/// Hands what policies ask about to `decide`: a request, or, without one, a connection. The caller is
/// who TLS has shown, never what a header says.
pub(crate) fn with_request<T>(
    inbound: &Inbound,
    request: Option<(&Parts, &Exchange)>,
    decide: impl FnOnce(&access::Request<'_>) -> T,
) -> T {
    let headers = request.map(|(parts, _)| pairs(&parts.headers));
    let headers = headers.unwrap_or_default();
    let head = request.map(|(parts, exchange)| access::Head {
        method: parts.method.as_str(),
        authority: &exchange.authority,
        path: &exchange.path,
        headers: &headers,
        token: exchange.token.as_deref(),
    });
    let client = &inbound.client;
    decide(&access::Request {
        identity: client.identity.as_ref(),
        source: client.address.ip(),
        remote: client.address.ip(),
        destination: inbound.asked,
        sni: inbound.server_name.as_deref(),
        http: head,
    })
}

/// What a decision comes to.
pub(crate) fn verdict(decision: Decision<'_>) -> Result<(), Failure> {
    for policy in &decision.audit {
        tracing::info!(target: "audit", "policy {} matches a request", policy.key());
    }
    if let Some(verdict) = &decision.dry_run {
        tracing::info!(target: "rbac", "policies on trial would say: {}", name(verdict));
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
