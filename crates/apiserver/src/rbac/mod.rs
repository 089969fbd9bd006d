//! Who may do what: the rules of roles and bindings, evaluated on each request.
//!
//! Three authorizers are asked in turn, and the first that allows ends it: membership of
//! `system:masters`, the node authorizer, RBAC. Nothing is allowed by default.

mod aggregate;
mod bootstrap;
mod escalation;
mod node;
mod system_roles;
mod user_roles;

pub use aggregate::refresh;
pub use bootstrap::bootstrap;
pub use escalation::check as check_escalation;

use crate::{
    api::Api,
    authn::User,
    object,
    request::Target,
    status::{ApiError, Result},
    store::Key,
};
use serde_json::{Value, json};
use std::sync::Arc;

const ROLES: &str = "roles.rbac.authorization.k8s.io";
const CLUSTER_ROLES: &str = "clusterroles.rbac.authorization.k8s.io";
const ROLE_BINDINGS: &str = "rolebindings.rbac.authorization.k8s.io";
const CLUSTER_ROLE_BINDINGS: &str = "clusterrolebindings.rbac.authorization.k8s.io";

/// What was decided, and by what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Whether the request may go on.
    pub allowed: bool,
    /// The rule that allowed it, or "".
    pub reason: String,
}

impl Decision {
    fn allow(reason: impl Into<String>) -> Self {
        Decision {
            allowed: true,
            reason: reason.into(),
        }
    }

    fn deny() -> Self {
        Decision {
            allowed: false,
            reason: String::new(),
        }
    }
}

/// Decides on a request.
pub fn decide(api: &Api, user: &User, target: &Target<'_>) -> Decision {
    if user.is_in("system:masters") {
        return Decision::allow("");
    }
    if let Some(node) = user.node()
        && node::allows(api, node, target)
    {
        return Decision::allow("node authorizer");
    }
    by_rules(api, user, target)
}

/// Decides on a request; a refusal is the error that the client gets.
pub fn authorize_request(api: &Api, user: &User, target: &Target<'_>) -> Result<()> {
    if decide(api, user, target).allowed {
        return Ok(());
    }
    if !target.is_resource {
        return Err(ApiError::forbidden_path(format!(
            "forbidden: User {:?} cannot {} path {:?}",
            user.name, target.verb, target.path
        )));
    }
    let scope = match target.namespace.as_str() {
        "" => "at the cluster scope".to_string(),
        namespace => format!("in the namespace {namespace:?}"),
    };
    let why = format!(
        "User {:?} cannot {} resource {:?} in API group {:?} {scope}",
        user.name,
        target.verb,
        target.resource_path(),
        target.group
    );
    Err(ApiError::forbidden(
        &target.group,
        &target.resource,
        &target.name,
        &why,
    ))
}

fn by_rules(api: &Api, user: &User, target: &Target<'_>) -> Decision {
    let mut found = Decision::deny();
    visit_bindings(
        api,
        user,
        &target.namespace,
        &mut |binding, subject, role| {
            if rules(role).iter().any(|rule| covers(rule, target)) {
                found = Decision::allow(reason(binding, subject));
                return true;
            }
            false
        },
    );
    found
}

fn reason(binding: &Value, subject: &Value) -> String {
    let (name, namespace) = (object::name(binding), object::namespace(binding));
    let (kind, name) = match namespace {
        "" => ("ClusterRoleBinding", name.to_string()),
        namespace => ("RoleBinding", format!("{name}/{namespace}")),
    };
    let role = object::text(binding, "/roleRef/name");
    let role_kind = object::text(binding, "/roleRef/kind");
    let who = object::text(subject, "/name");
    let subject = match object::text(subject, "/kind") {
        "ServiceAccount" => {
            let own = object::text(subject, "/namespace");
            let place = if own.is_empty() { namespace } else { own };
            format!("ServiceAccount {:?}", format!("{who}/{place}"))
        }
        kind => format!("{kind} {who:?}"),
    };
    format!("RBAC: allowed by {kind} {name:?} of {role_kind} {role:?} to {subject}")
}

/// Calls `visit` with each binding of the user, the subject that the user is in it, and the role
/// it names, until it answers true.
fn visit_bindings(
    api: &Api,
    user: &User,
    namespace: &str,
    visit: &mut dyn FnMut(&Value, &Value, &Value) -> bool,
) {
    let mut places = vec![(CLUSTER_ROLE_BINDINGS, None)];
    if !namespace.is_empty() {
        places.push((ROLE_BINDINGS, Some(namespace)));
    }
    for (storage, namespace) in places {
        for binding in api.store.list(storage, namespace).1 {
            let binding = binding.value();
            let namespace = object::namespace(binding);
            let subjects = binding.get("subjects").and_then(Value::as_array);
            let mut subjects = subjects.into_iter().flatten();
            let Some(subject) = subjects.find(|s| is_subject(s, user, namespace)) else {
                continue;
            };
            if let Some(role) = role_by_reference(api, binding)
                && visit(binding, subject, role.value())
            {
                return;
            }
        }
    }
}

/// The role that a binding names.
fn role_by_reference(api: &Api, binding: &Value) -> Option<Arc<object::Object>> {
    let name = object::text(binding, "/roleRef/name");
    let key = match object::text(binding, "/roleRef/kind") {
        "ClusterRole" => Key::new(&CLUSTER_ROLES.into(), "", name),
        "Role" => Key::new(&ROLES.into(), object::namespace(binding), name),
        _ => return None,
    };
    api.store.get(&key)
}

fn is_subject(subject: &Value, user: &User, namespace: &str) -> bool {
    let name = object::text(subject, "/name");
    match object::text(subject, "/kind") {
        "User" => user.name == name,
        "Group" => user.is_in(name),
        "ServiceAccount" => {
            let own = object::text(subject, "/namespace");
            let namespace = if own.is_empty() { namespace } else { own };
            user.name
                .strip_prefix("system:serviceaccount:")
                .and_then(|rest| rest.split_once(':'))
                .is_some_and(|(n, account)| n == namespace && account == name)
        }
        _ => false,
    }
}

fn rules(role: &Value) -> &[Value] {
    role.get("rules")
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default()
}

fn list<'a>(rule: &'a Value, key: &str) -> impl Iterator<Item = &'a str> {
    rule.get(key)
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
}

/// Whether a rule covers a request.
fn covers(rule: &Value, target: &Target<'_>) -> bool {
    let verb = list(rule, "verbs").any(|v| v == "*" || v == target.verb);
    if !verb {
        return false;
    }
    if !target.is_resource {
        return list(rule, "nonResourceURLs").any(|url| match url.strip_suffix('*') {
            Some(prefix) => target.path.starts_with(prefix),
            None => url == target.path,
        });
    }
    let group = list(rule, "apiGroups").any(|g| g == "*" || g == target.group);
    let path = target.resource_path();
    let resource = list(rule, "resources").any(|r| {
        r == "*"
            || r == path
            || (!target.subresource.is_empty()
                && r.strip_prefix("*/")
                    .is_some_and(|sub| sub == target.subresource))
    });
    let mut names = list(rule, "resourceNames").peekable();
    let name = names.peek().is_none() || names.any(|n| n == target.name);
    group && resource && name
}

/// `SelfSubjectRulesReview` status: everything that the user may do in a namespace.
pub fn rules_of(api: &Api, user: &User, namespace: &str) -> Value {
    let (mut resource, mut plain) = (Vec::new(), Vec::new());
    let mut add = |rule: &Value| {
        let part = |key: &str| rule.get(key).cloned().unwrap_or_else(|| json!([]));
        if rule.get("nonResourceURLs").is_some() {
            plain.push(json!({"verbs": part("verbs"), "nonResourceURLs": part("nonResourceURLs")}));
        } else {
            let mut entry = json!({"verbs": part("verbs"), "apiGroups": part("apiGroups"), "resources": part("resources")});
            if let (Some(names), Some(map)) = (rule.get("resourceNames"), entry.as_object_mut()) {
                map.insert("resourceNames".into(), names.clone());
            }
            resource.push(entry);
        }
    };
    visit_bindings(api, user, namespace, &mut |_, _, role| {
        rules(role).iter().for_each(&mut add);
        false
    });
    let mut status =
        json!({"resourceRules": resource, "nonResourceRules": plain, "incomplete": false});
    if user.node().is_some() {
        status["incomplete"] = true.into();
        let why = "node authorizer does not support user rule resolution";
        status["evaluationError"] = why.into();
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(
        verb: &'static str,
        group: &str,
        resource: &str,
        subresource: &str,
        name: &str,
    ) -> Target<'static> {
        Target {
            verb,
            is_resource: true,
            group: group.into(),
            resource: resource.into(),
            subresource: subresource.into(),
            name: name.into(),
            ..Target::default()
        }
    }

    #[test]
    fn rules_cover_what_they_say_and_no_more() {
        let rule = json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods", "*/status"], "resourceNames": ["a"]});
        assert!(covers(&rule, &target("get", "", "pods", "", "a")));
        assert!(!covers(&rule, &target("get", "", "pods", "", "b")));
        assert!(!covers(&rule, &target("get", "", "pods", "", "")));
        assert!(!covers(&rule, &target("get", "", "pods", "log", "a")));
        assert!(covers(&rule, &target("get", "", "nodes", "status", "a")));
        assert!(!covers(&rule, &target("list", "", "pods", "", "a")));
        assert!(!covers(&rule, &target("get", "apps", "pods", "", "a")));
        let all = json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]});
        assert!(covers(&all, &target("delete", "x", "y", "z", "")));
    }

    #[test]
    fn paths() {
        let rule = json!({"verbs": ["get"], "nonResourceURLs": ["/version", "/apis/*"]});
        let path = |path: &str| Target {
            verb: "get",
            path: path.into(),
            ..Target::default()
        };
        assert!(covers(&rule, &path("/version")) && covers(&rule, &path("/apis/x")));
        assert!(!covers(&rule, &path("/versions")) && !covers(&rule, &path("/metrics")));
    }

    #[test]
    fn service_accounts_are_told_apart_by_namespace() {
        let user = User {
            name: "system:serviceaccount:a:b".into(),
            ..User::default()
        };
        let subject = |ns: &str| json!({"kind": "ServiceAccount", "name": "b", "namespace": ns});
        assert!(is_subject(&subject("a"), &user, "x"));
        assert!(!is_subject(&subject("x"), &user, "x"));
    }
}
