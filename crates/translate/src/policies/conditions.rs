//! The keys of `when`.

use ambit_kube_api::security::authorization_policy::Condition;

use super::entry::{Entry, Lists};

/// Reads one condition into an entry.
pub(super) fn read(entry: &mut Entry<'_>, condition: &Condition) {
    let lists = Lists {
        any: &condition.values,
        none: &condition.not_values,
    };
    match condition.key.as_str() {
        "source.ip" => entry.source_ips("values", lists),
        "source.namespace" => entry.namespaces("values", lists),
        "source.principal" => entry.principals("values", lists),
        "source.serviceAccount" => entry.service_accounts("values", lists),
        "source.trustDomain" => entry.trust_domains("values", lists),
        "destination.ip" => entry.destination_ips("values", lists),
        "destination.port" => entry.destination_ports("values", lists),
        key if is_http(key) => {
            entry.http(key, &condition.values);
            entry.http(key, &condition.not_values);
        }
        key => entry.unknown(key),
    }
    for field in condition.unknown.keys() {
        entry.unknown(field);
    }
}

/// Keys that Istio knows and only an L7 proxy can evaluate.
fn is_http(key: &str) -> bool {
    matches!(
        key,
        "remote.ip"
            | "connection.sni"
            | "request.auth.principal"
            | "request.auth.audiences"
            | "request.auth.presenter"
    ) || [
        "request.headers[",
        "request.auth.claims[",
        "experimental.envoy.filters.",
    ]
    .iter()
    .any(|prefix| key.starts_with(prefix))
}
