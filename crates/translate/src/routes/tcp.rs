//! Rules of a `TCPRoute` or a `TLSRoute`.

use ambit_kube_api::gateway_api::BackendRef;
use ambit_kube_api::gateway_api::filters::FilteredBackendRef;
use ambit_kube_api::gateway_api::tcp_route::TcpRule;
use ambit_model::route::{Action, Forward, Match, Rule, TextMatch};

use super::{Context, Unresolved, backends, matches};

/// All references to services.
pub(super) fn referred(rules: &[TcpRule]) -> Vec<&BackendRef> {
    let backends = rules.iter().flat_map(|rule| &rule.backend_refs);
    backends
        .filter(|backend| backends::is_service(backend))
        .collect()
}

/// The rules; with names, for connections of TLS that ask for one of them.
pub(super) fn rules(
    context: &Context<'_>,
    rules: &[TcpRule],
    hostnames: &[String],
    unresolved: &mut Vec<Unresolved>,
) -> Vec<Rule> {
    rules
        .iter()
        .map(|api| {
            let mut rule = Rule {
                name: api.name.as_deref().unwrap_or_default().into(),
                ..Rule::default()
            };
            if let Err(why) = fill(context, api, hostnames, &mut rule, unresolved) {
                rule.action = Action::Fail(why.message.as_str().into());
                unresolved.insert(0, why);
            }
            rule
        })
        .collect()
}

fn fill(
    context: &Context<'_>,
    api: &TcpRule,
    hostnames: &[String],
    rule: &mut Rule,
    unresolved: &mut Vec<Unresolved>,
) -> Result<(), Unresolved> {
    for hostname in hostnames {
        rule.matches.push(Match {
            authority: Some(name(hostname)?),
            ..Match::default()
        });
    }
    let plain = |backend: &BackendRef| FilteredBackendRef {
        backend: backend.clone(),
        filters: Vec::new(),
    };
    let references: Vec<_> = api.backend_refs.iter().map(plain).collect();
    rule.action = Action::Forward(Forward {
        backends: backends::backends(context, &references, unresolved)?,
        ..Forward::default()
    });
    Ok(())
}

/// A name, or with `*.` all that end so and have something before it.
fn name(hostname: &str) -> Result<TextMatch, Unresolved> {
    let hostname = hostname.to_ascii_lowercase();
    match hostname.strip_prefix("*.") {
        None => Ok(TextMatch::Exact(hostname.into())),
        Some(rest) => {
            let pattern = format!(".+\\.{}", rest.replace('.', "\\."));
            Ok(TextMatch::Regex(matches::pattern(&pattern)?))
        }
    }
}
