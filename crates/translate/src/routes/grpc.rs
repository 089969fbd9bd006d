//! Rules of a `GRPCRoute`.

use ambit_kube_api::gateway_api::GrpcRouteSpec;
use ambit_kube_api::gateway_api::grpc_route::{GrpcMatch, GrpcMethodMatch, GrpcRule};
use ambit_model::route::{Action, Forward, Match, PathMatch, Rule};

use super::{Context, Unresolved, backends, filters, matches};

pub(super) fn rules(
    context: &Context<'_>,
    spec: &GrpcRouteSpec,
    unresolved: &mut Vec<Unresolved>,
) -> Vec<Rule> {
    spec.rules
        .iter()
        .map(|rule| one(context, rule, unresolved))
        .collect()
}

fn one(context: &Context<'_>, api: &GrpcRule, unresolved: &mut Vec<Unresolved>) -> Rule {
    let mut rule = Rule {
        name: api.name.as_deref().unwrap_or_default().into(),
        ..Rule::default()
    };
    if let Err(why) = fill(context, api, &mut rule, unresolved) {
        rule.action = Action::Fail(why.message.as_str().into());
        unresolved.insert(0, why);
    }
    rule
}

fn fill(
    context: &Context<'_>,
    api: &GrpcRule,
    rule: &mut Rule,
    unresolved: &mut Vec<Unresolved>,
) -> Result<(), Unresolved> {
    for alternative in &api.matches {
        rule.matches.push(one_match(alternative)?);
    }
    let mut forward = Forward {
        backends: backends::backends(context, &api.backend_refs, unresolved)?,
        ..Forward::default()
    };
    if let Some(persistence) = &api.session_persistence {
        forward.session = Some(filters::session(persistence)?);
    }
    let known = |type_: &str| !matches!(type_, "RequestRedirect" | "URLRewrite" | "CORS");
    if let Some(filter) = api.filters.iter().find(|f| !known(&f.type_)) {
        let message = format!("unsupported filter type {:?} of a GRPCRoute", filter.type_);
        return Err(Unresolved::new("InvalidFilter", message));
    }
    filters::of_rule(context, &api.filters, rule, forward, unresolved)
}

fn one_match(api: &GrpcMatch) -> Result<Match, Unresolved> {
    Ok(Match {
        path: api.method.as_ref().map(path).transpose()?.flatten(),
        headers: matches::fields(&api.headers, true)?,
        ..Match::default()
    })
}

/// A call is a request for `/service/method`.
fn path(api: &GrpcMethodMatch) -> Result<Option<PathMatch>, Unresolved> {
    let set = |part: &Option<String>| part.clone().filter(|text| !text.is_empty());
    let (service, method) = (set(&api.service), set(&api.method));
    let any = || "[^/]+".to_owned();
    match api.type_.as_deref().unwrap_or("Exact") {
        "Exact" => Ok(match (service, method) {
            (Some(service), Some(method)) => {
                Some(PathMatch::Exact(format!("/{service}/{method}").into()))
            }
            (Some(service), None) => Some(PathMatch::Segments(format!("/{service}").into())),
            (None, Some(method)) => {
                let method = escaped(&method);
                Some(PathMatch::Regex(matches::pattern(&format!(
                    "/[^/]+/{method}"
                ))?))
            }
            (None, None) => None,
        }),
        "RegularExpression" => {
            let (service, method) = (service.unwrap_or_else(any), method.unwrap_or_else(any));
            Ok(Some(PathMatch::Regex(matches::pattern(&format!(
                "/(?:{service})/(?:{method})"
            ))?)))
        }
        other => {
            let message = format!("unsupported type {other:?} of a method");
            Err(Unresolved::new("InvalidConfiguration", message))
        }
    }
}

/// A text as an expression that matches it alone.
fn escaped(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.chars()
        .flat_map(|c| {
            let escape = (!plain(c)).then_some('\\');
            escape.into_iter().chain(std::iter::once(c))
        })
        .collect()
}
