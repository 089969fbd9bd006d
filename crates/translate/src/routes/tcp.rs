//! Rules of a `TCPRoute`.

use ambit_kube_api::gateway_api::TcpRouteSpec;
use ambit_kube_api::gateway_api::filters::FilteredBackendRef;
use ambit_kube_api::gateway_api::tcp_route::TcpRule;
use ambit_model::route::{Action, Forward, Rule};

use super::{Context, Unresolved, backends};

pub(super) fn rules(
    context: &Context<'_>,
    spec: &TcpRouteSpec,
    unresolved: &mut Vec<Unresolved>,
) -> Vec<Rule> {
    spec.rules
        .iter()
        .map(|rule| one(context, rule, unresolved))
        .collect()
}

fn one(context: &Context<'_>, api: &TcpRule, unresolved: &mut Vec<Unresolved>) -> Rule {
    let plain = |backend: &_| FilteredBackendRef {
        backend: Clone::clone(backend),
        filters: Vec::new(),
    };
    let references: Vec<_> = api.backend_refs.iter().map(plain).collect();
    let action = match backends::backends(context, &references, unresolved) {
        Ok(backends) => Action::Forward(Forward {
            backends,
            ..Forward::default()
        }),
        Err(why) => {
            let action = Action::Fail(why.message.as_str().into());
            unresolved.insert(0, why);
            action
        }
    };
    Rule {
        name: api.name.as_deref().unwrap_or_default().into(),
        action,
        ..Rule::default()
    }
}
