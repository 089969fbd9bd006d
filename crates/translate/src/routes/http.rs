//! Rules of an `HTTPRoute`.

use ambit_kube_api::gateway_api::HttpRouteSpec;
use ambit_kube_api::gateway_api::http_route::{HttpMatch, HttpPathMatch, HttpRetry, HttpRule};
use ambit_model::route::{Action, Forward, Match, PathMatch, Retry, Rule, TextMatch};

use super::{Context, Unresolved, backends, filters, matches};

pub(super) fn rules(
    context: &Context<'_>,
    spec: &HttpRouteSpec,
    unresolved: &mut Vec<Unresolved>,
) -> Vec<Rule> {
    spec.rules
        .iter()
        .map(|rule| one(context, rule, unresolved))
        .collect()
}

fn one(context: &Context<'_>, api: &HttpRule, unresolved: &mut Vec<Unresolved>) -> Rule {
    let mut rule = Rule {
        name: api.name.as_deref().unwrap_or_default().into(),
        ..Rule::default()
    };
    let filled = fill(context, api, &mut rule, unresolved);
    if let Err(why) = filled {
        rule.action = Action::Fail(why.message.as_str().into());
        unresolved.insert(0, why);
    }
    rule
}

fn fill(
    context: &Context<'_>,
    api: &HttpRule,
    rule: &mut Rule,
    unresolved: &mut Vec<Unresolved>,
) -> Result<(), Unresolved> {
    let mut bad = None;
    for alternative in &api.matches {
        match one_match(alternative) {
            Ok(alternative) => rule.matches.push(alternative),
            Err(why) => bad = Some(why),
        }
    }
    if let Some(why) = bad {
        return Err(why);
    }
    let mut forward = Forward {
        backends: backends::backends(context, &api.backend_refs, unresolved)?,
        retry: api.retry.as_ref().map(retry).transpose()?,
        ..Forward::default()
    };
    if let Some(timeouts) = &api.timeouts {
        let time = |text: &Option<String>| {
            let time = text.as_deref().map(filters::time).transpose()?;
            Ok(time.filter(|time| !time.is_zero()))
        };
        forward.timeout = time(&timeouts.request)?;
        forward.try_timeout = time(&timeouts.backend_request)?;
    }
    if let Some(persistence) = &api.session_persistence {
        forward.session = Some(filters::session(persistence)?);
    }
    filters::of_rule(context, &api.filters, rule, forward, unresolved)
}

fn one_match(api: &HttpMatch) -> Result<Match, Unresolved> {
    let path = api.path.as_ref().map(path).transpose()?.flatten();
    Ok(Match {
        path,
        method: api.method.as_deref().map(|m| TextMatch::Exact(m.into())),
        headers: matches::fields(&api.headers, true)?,
        query: matches::fields(&api.query_params, false)?,
        ..Match::default()
    })
}

/// The prefix `/` is every path, and the same as none.
fn path(api: &HttpPathMatch) -> Result<Option<PathMatch>, Unresolved> {
    let value = api.value.as_deref().unwrap_or("/");
    Ok(match api.type_.as_deref().unwrap_or("PathPrefix") {
        "Exact" => Some(PathMatch::Exact(value.into())),
        "PathPrefix" => {
            let prefix = value.trim_end_matches('/');
            (!prefix.is_empty()).then(|| PathMatch::Segments(prefix.into()))
        }
        "RegularExpression" => Some(PathMatch::Regex(matches::pattern(value)?)),
        other => {
            let message = format!("unsupported type {other:?} of a path");
            return Err(Unresolved::new("InvalidConfiguration", message));
        }
    })
}

fn retry(api: &HttpRetry) -> Result<Retry, Unresolved> {
    let default = Retry::mesh_default();
    let statuses = api
        .codes
        .iter()
        .filter_map(|code| u16::try_from(*code).ok());
    Ok(Retry {
        attempts: api
            .attempts
            .map_or(default.attempts, |n| n.try_into().unwrap_or_default()),
        statuses: statuses.collect(),
        backoff: match &api.backoff {
            Some(text) => filters::time(text)?,
            None => default.backoff,
        },
    })
}
