//! Rules in the words of `envoy.config.route.v3`.

use ambit_model::route::{
    Action, Field, Forward, Match, PathMatch, Redirect, Replace, Route, Rules, Target, TextMatch,
};
use ambit_model::service::NamespacedHostname;
use serde_json::{Value, json};

use super::{cluster_name, seconds};

/// Whether a port of a service is none of HTTP.
type IsTcp<'a> = dyn Fn(&NamespacedHostname, u16) -> bool + 'a;

/// What stands for a backend that is not there, as in Istio.
const NOWHERE: &str = "BlackHoleCluster";

/// The routes of a port, in the order in which they count; without rules everything goes on.
pub(super) fn routes(rules: Option<&Rules>, itself: &str, is_tcp: &IsTcp<'_>) -> Vec<Value> {
    let Some(rules) = rules.filter(|rules| !rules.is_empty()) else {
        return vec![json!({
            "name": "default", "match": {"prefix": "/"}, "route": {"cluster": itself},
        })];
    };
    let routes = rules.in_order();
    routes
        .map(|(matched, route, rule)| {
            let mut one = json!({
                "name": match rule.name.is_empty() {
                    true => format!("{}.{}", route.namespace, route.name),
                    false => rule.name.to_string(),
                },
                "match": of_match(matched),
                "metadata": {"filter_metadata": {"istio": {"config": config(route)}}},
            });
            let (key, action) = match &rule.action {
                Action::Forward(forward) => ("route", of_forward(forward, is_tcp)),
                Action::Redirect(redirect) => ("redirect", of_redirect(redirect)),
                Action::Fail(reason) => (
                    "direct_response",
                    json!({"status": 500, "body": {"inline_string": &**reason}}),
                ),
            };
            one[key] = action;
            one
        })
        .collect()
}

/// Where the object of a route is, as Istio writes it.
fn config(route: &Route) -> String {
    format!(
        "/apis/gateway.networking.k8s.io/v1/namespaces/{}/{}/{}",
        route.namespace,
        route.kind.name().to_lowercase(),
        route.name
    )
}

fn of_match(matched: &Match) -> Value {
    let mut out = json!({});
    match &matched.path {
        None => out["prefix"] = "/".into(),
        Some(path) => of_path(&mut out, path),
    }
    let mut headers: Vec<Value> = Vec::new();
    for (name, wanted) in [
        (":method", &matched.method),
        (":authority", &matched.authority),
        (":scheme", &matched.scheme),
    ] {
        headers.extend(wanted.as_ref().map(|wanted| of_text(name, wanted)));
    }
    headers.extend(matched.headers.iter().map(of_field));
    let query: Vec<Value> = matched.query.iter().map(of_field).collect();
    for (key, list) in [("headers", headers), ("query_parameters", query)] {
        if !list.is_empty() {
            out[key] = list.into();
        }
    }
    out
}

fn of_path(out: &mut Value, path: &PathMatch) {
    match path {
        PathMatch::Exact(path) => out["path"] = (&**path).into(),
        PathMatch::Segments(path) if path.is_empty() => out["prefix"] = "/".into(),
        PathMatch::Segments(path) => out["path_separated_prefix"] = (&**path).into(),
        PathMatch::Prefix(prefix) => out["prefix"] = (&**prefix).into(),
        PathMatch::Regex(pattern) => out["safe_regex"] = json!({"regex": pattern.source()}),
        PathMatch::IgnoringCase(inner) => {
            of_path(out, inner);
            out["case_sensitive"] = false.into();
        }
    }
}

fn of_field(field: &Field) -> Value {
    let mut out = of_text(&field.name, &field.value);
    if field.negated {
        out["invert_match"] = true.into();
    }
    out
}

fn of_text(name: &str, wanted: &TextMatch) -> Value {
    let wanted = match wanted {
        TextMatch::Present => return json!({"name": name, "present_match": true}),
        TextMatch::Exact(text) => json!({"exact": &**text}),
        TextMatch::Prefix(text) => json!({"prefix": &**text}),
        TextMatch::Regex(pattern) => json!({"safe_regex": {"regex": pattern.source()}}),
    };
    json!({"name": name, "string_match": wanted})
}

fn of_forward(forward: &Forward, is_tcp: &IsTcp<'_>) -> Value {
    let name = |target: &Target| {
        let tcp = is_tcp(&target.service, target.port);
        cluster_name(&target.service.hostname, target.port, tcp)
    };
    let backend = |target: Option<&Target>| target.map_or_else(|| NOWHERE.to_owned(), name);
    let mut out = json!({});
    match &forward.backends[..] {
        [only] => out["cluster"] = backend(only.target.as_ref()).into(),
        several => {
            let clusters = several
                .iter()
                .map(|one| json!({"name": backend(one.target.as_ref()), "weight": one.weight}));
            out["weighted_clusters"] = json!({"clusters": clusters.collect::<Vec<_>>()});
        }
    }
    out["timeout"] = forward
        .timeout
        .map_or_else(|| "0s".to_owned(), seconds)
        .into();
    if let Some(host) = &forward.rewrite.host {
        out["host_rewrite_literal"] = (&**host).into();
    }
    match &forward.rewrite.path {
        Some(Replace::Prefix(prefix)) => out["prefix_rewrite"] = (&**prefix).into(),
        Some(Replace::Full(path)) => {
            out["regex_rewrite"] = json!({
                "pattern": {"regex": ".*"}, "substitution": &**path,
            });
        }
        None => {}
    }
    if let Some(retry) = &forward.retry {
        out["retry_policy"] = json!({
            "retry_on": "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes",
            "num_retries": retry.attempts,
            "retriable_status_codes": retry.statuses,
        });
        if let Some(time) = forward.try_timeout {
            out["retry_policy"]["per_try_timeout"] = seconds(time).into();
        }
    }
    if !forward.mirrors.is_empty() {
        let mirrors = forward.mirrors.iter().map(|mirror| {
            let share = u64::from(mirror.share) * 1_000_000 / u64::from(mirror.of.max(1));
            json!({
                "cluster": name(&mirror.target),
                "runtime_fraction": {"default_value": {
                    "numerator": share, "denominator": "MILLION",
                }},
            })
        });
        out["request_mirror_policies"] = mirrors.collect();
    }
    out
}

fn of_redirect(redirect: &Redirect) -> Value {
    let mut out = json!({"response_code": match redirect.status {
        301 => "MOVED_PERMANENTLY",
        303 => "SEE_OTHER",
        307 => "TEMPORARY_REDIRECT",
        308 => "PERMANENT_REDIRECT",
        _ => "FOUND",
    }});
    if let Some(scheme) = &redirect.scheme {
        out["scheme_redirect"] = (&**scheme).into();
    }
    if let Some(host) = &redirect.host {
        out["host_redirect"] = (&**host).into();
    }
    if let Some(port) = redirect.port {
        out["port_redirect"] = port.into();
    }
    match &redirect.path {
        Some(Replace::Full(path)) => out["path_redirect"] = (&**path).into(),
        Some(Replace::Prefix(prefix)) => out["prefix_rewrite"] = (&**prefix).into(),
        None => {}
    }
    out
}
