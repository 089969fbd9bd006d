//! Cluster roles that gather the rules of others: `aggregationRule`.

use crate::{
    api::Api,
    authn::User,
    object,
    ops::{self, Part, Writer},
    selectors::LabelSelector,
};
use serde_json::{Value, json};

/// Brings all gathering roles up to date. A role may gather another one that gathers, so that
/// this goes on until nothing changes.
pub fn refresh(api: &Api) {
    let roles = api.store.list(super::CLUSTER_ROLES, None).1;
    // Each round carries rules one step further, and a chain is no longer than there are roles.
    for _ in 0..=roles.len() {
        let mut changed = false;
        for role in &roles {
            let name = object::name(role.value());
            if role
                .value()
                .pointer("/aggregationRule")
                .is_some_and(|a| !a.is_null())
            {
                changed |= gather(api, name);
            }
        }
        if !changed {
            return;
        }
    }
}

/// The rules that a role gathers, each once, by the names of the roles that have them.
fn gathered(api: &Api, role: &Value) -> Vec<Value> {
    let mut rules: Vec<Value> = Vec::new();
    let selectors = role
        .pointer("/aggregationRule/clusterRoleSelectors")
        .and_then(Value::as_array);
    for selector in selectors.into_iter().flatten() {
        let Some(selector) = LabelSelector::from_object(selector) else {
            continue;
        };
        for other in api.store.list(super::CLUSTER_ROLES, None).1 {
            let other = other.value();
            if object::name(other) == object::name(role) || !selector.matches(other) {
                continue;
            }
            for rule in super::rules(other) {
                if !rules.contains(rule) {
                    rules.push(rule.clone());
                }
            }
        }
    }
    rules
}

/// Writes what a role gathers now. Says whether that changed it.
fn gather(api: &Api, name: &str) -> bool {
    let group = "rbac.authorization.k8s.io";
    let Some(resource) = api.registry.find_kind(group, "v1", "ClusterRole") else {
        return false;
    };
    let user = User::system("system:serviceaccount:kube-system:clusterrole-aggregation-controller");
    let mut writer = Writer::internal(&user, "clusterrole-aggregation-controller");
    let mut changed = false;
    let result = ops::update_own(
        api,
        &resource,
        "",
        name,
        Part::All,
        &mut writer,
        |current, _| {
            let rules = json!(gathered(api, current));
            let mut next = current.clone();
            changed = current.get("rules").unwrap_or(&Value::Null) != &rules;
            if changed && let Some(map) = next.as_object_mut() {
                map.insert("rules".into(), rules);
            }
            Ok(next)
        },
    );
    match result {
        Ok(_) => changed,
        Err(error) => {
            if error.code != http::StatusCode::NOT_FOUND {
                tracing::warn!(name, %error, "cannot gather the rules of a cluster role");
            }
            false
        }
    }
}
