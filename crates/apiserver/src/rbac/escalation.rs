//! Nobody grants what they do not have: a role, or a binding to one, gives no more rights than
//! its author has, unless the author may `escalate` or `bind`.

use super::{decide, role_by_reference, rules, visit_bindings};
use crate::{
    api::Api,
    authn::User,
    object,
    registry::Resource,
    request::Target,
    status::{ApiError, Result},
};
use serde_json::{Value, json};

const GROUP: &str = "rbac.authorization.k8s.io";

/// Checks a role or a binding that is created, or that replaces `current`.
pub fn check(
    api: &Api,
    user: &User,
    resource: &Resource,
    current: Option<&Value>,
    next: &Value,
) -> Result<()> {
    if resource.group.as_ref() != GROUP || user.is_in("system:masters") {
        return Ok(());
    }
    if current.is_some_and(|current| same_rights(current, next)) {
        return Ok(());
    }
    match resource.kind.as_ref() {
        "Role" | "ClusterRole" => role(api, user, resource, current, next),
        _ => binding(api, user, resource, next),
    }
}

/// Whether a change leaves alone what is granted and to whom, as that of a garbage collector.
fn same_rights(current: &Value, next: &Value) -> bool {
    let strip = |value: &Value| {
        let mut value = value.clone();
        for key in [
            "ownerReferences",
            "finalizers",
            "managedFields",
            "resourceVersion",
        ] {
            object::set_metadata(&mut value, key, None);
        }
        value
    };
    strip(current) == strip(next)
}

fn may(
    api: &Api,
    user: &User,
    verb: &'static str,
    plural: &str,
    namespace: &str,
    name: &str,
) -> bool {
    let target = Target {
        verb,
        is_resource: true,
        group: GROUP.into(),
        version: "*".into(),
        resource: plural.into(),
        namespace: namespace.into(),
        name: name.into(),
        ..Target::default()
    };
    decide(api, user, &target).allowed
}

fn role(
    api: &Api,
    user: &User,
    resource: &Resource,
    current: Option<&Value>,
    next: &Value,
) -> Result<()> {
    let (namespace, name) = (object::namespace(next), object::name(next));
    if may(api, user, "escalate", &resource.plural, namespace, name) {
        return Ok(());
    }
    let refuse = |why: &str| Err(ApiError::forbidden(GROUP, &resource.plural, name, why));
    if let Some(why) = missing(api, user, namespace, rules(next)) {
        return refuse(&why);
    }
    let aggregates = |role: &Value| {
        let selectors = role.pointer("/aggregationRule/clusterRoleSelectors");
        selectors
            .and_then(Value::as_array)
            .is_some_and(|list| !list.is_empty())
    };
    // What a role gathers is not known beforehand: only who has everything may let it gather.
    if aggregates(next) || current.is_some_and(aggregates) {
        let everything = [
            json!({"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}),
            json!({"nonResourceURLs": ["*"], "verbs": ["*"]}),
        ];
        if missing(api, user, namespace, &everything).is_some() {
            return refuse("must have cluster-admin privileges to use the aggregationRule");
        }
    }
    Ok(())
}

fn binding(api: &Api, user: &User, resource: &Resource, next: &Value) -> Result<()> {
    let (namespace, name) = (object::namespace(next), object::name(next));
    let role = object::text(next, "/roleRef/name");
    let plural = match object::text(next, "/roleRef/kind") {
        "ClusterRole" => "clusterroles",
        _ => "roles",
    };
    if may(api, user, "bind", plural, namespace, role) {
        return Ok(());
    }
    let Some(found) = role_by_reference(api, next) else {
        return Err(ApiError::not_found(GROUP, plural, role));
    };
    match missing(api, user, namespace, rules(found.value())) {
        None => Ok(()),
        Some(why) => Err(ApiError::forbidden(GROUP, &resource.plural, name, &why)),
    }
}

/// One right: a verb on a resource (of a name) in a group, or on a path.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Right<'a> {
    Resource {
        group: &'a str,
        resource: &'a str,
        name: Option<&'a str>,
        verb: &'a str,
    },
    Path {
        path: &'a str,
        verb: &'a str,
    },
}

fn rights<'a>(rule: &'a Value, into: &mut Vec<Right<'a>>) {
    let list = |key| super::list(rule, key).collect::<Vec<_>>();
    let (verbs, names) = (list("verbs"), list("resourceNames"));
    let names: Vec<Option<&str>> = match names.is_empty() {
        true => vec![None],
        false => names.into_iter().map(Some).collect(),
    };
    for group in list("apiGroups") {
        for resource in list("resources") {
            for verb in &verbs {
                into.extend(names.iter().map(|name| Right::Resource {
                    group,
                    resource,
                    name: *name,
                    verb,
                }));
            }
        }
    }
    for path in list("nonResourceURLs") {
        into.extend(verbs.iter().map(|verb| Right::Path { path, verb }));
    }
}

/// Whether a rule gives a right.
fn gives(rule: &Value, right: &Right<'_>) -> bool {
    let has = |key: &str, wanted: &str| super::list(rule, key).any(|x| x == "*" || x == wanted);
    match *right {
        Right::Resource {
            group,
            resource,
            name,
            verb,
        } => {
            let part = resource.split_once('/').map(|(_, sub)| format!("*/{sub}"));
            let covered = has("resources", resource)
                || part.is_some_and(|any| super::list(rule, "resources").any(|r| r == any));
            let mut names = super::list(rule, "resourceNames").peekable();
            let of_name = names.peek().is_none() || names.any(|n| Some(n) == name);
            has("verbs", verb) && has("apiGroups", group) && covered && of_name
        }
        Right::Path { path, verb } => {
            let covers = |own: &str| {
                own == path
                    || own
                        .strip_suffix('*')
                        .is_some_and(|start| path.starts_with(start))
            };
            has("verbs", verb) && super::list(rule, "nonResourceURLs").any(covers)
        }
    }
}

/// What a user lacks of the rights that rules give; None if they have them all.
fn missing(api: &Api, user: &User, namespace: &str, granted: &[Value]) -> Option<String> {
    let mut wanted = Vec::new();
    granted.iter().for_each(|rule| rights(rule, &mut wanted));
    visit_bindings(api, user, namespace, &mut |_, _, role| {
        let own = rules(role);
        wanted.retain(|right| !own.iter().any(|rule| gives(rule, right)));
        wanted.is_empty()
    });
    if wanted.is_empty() {
        return None;
    }
    let quoted = |list: &[String]| {
        let list: Vec<String> = list.iter().map(|x| format!("{x:?}")).collect();
        format!("[{}]", list.join(" "))
    };
    Some(format!(
        "user {:?} (groups={}) is attempting to grant RBAC permissions not currently held:\n{}",
        user.name,
        quoted(&user.groups),
        describe(&wanted).join("\n")
    ))
}

/// Rights as people read them: verbs on the same thing together.
fn describe(rights: &[Right<'_>]) -> Vec<String> {
    let mut lines: Vec<(String, Vec<&str>)> = Vec::new();
    for right in rights {
        let (what, verb) = match right {
            Right::Resource {
                group,
                resource,
                name: None,
                verb,
            } => (
                format!("APIGroups:[{group:?}], Resources:[{resource:?}]"),
                verb,
            ),
            Right::Resource {
                group,
                resource,
                name: Some(name),
                verb,
            } => (
                format!(
                    "APIGroups:[{group:?}], Resources:[{resource:?}], ResourceNames:[{name:?}]"
                ),
                verb,
            ),
            Right::Path { path, verb } => (format!("NonResourceURLs:[{path:?}]"), verb),
        };
        match lines.iter_mut().find(|(known, _)| *known == what) {
            Some((_, verbs)) if !what.starts_with("NonResource") => verbs.push(verb),
            _ => lines.push((what, vec![verb])),
        }
    }
    let line = |(what, verbs): (String, Vec<&str>)| {
        let verbs: Vec<String> = verbs.iter().map(|v| format!("{v:?}")).collect();
        format!("{{{what}, Verbs:[{}]}}", verbs.join(" "))
    };
    let mut lines: Vec<String> = lines.into_iter().map(line).collect();
    lines.sort();
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rules_give_rights() {
        let rule =
            json!({"apiGroups": [""], "resources": ["pods", "*/scale"], "verbs": ["get", "list"]});
        let right = |resource, name, verb| Right::Resource {
            group: "",
            resource,
            name,
            verb,
        };
        assert!(gives(&rule, &right("pods", None, "get")));
        assert!(gives(&rule, &right("pods", Some("a"), "get")));
        assert!(gives(&rule, &right("pods/scale", None, "list")));
        assert!(!gives(&rule, &right("pods/log", None, "get")));
        assert!(!gives(&rule, &right("pods", None, "watch")));
        let named = json!({"apiGroups": [""], "resources": ["pods"], "verbs": ["*"], "resourceNames": ["a"]});
        assert!(gives(&named, &right("pods", Some("a"), "delete")));
        assert!(!gives(&named, &right("pods", None, "delete")));
        let path = |path| Right::Path { path, verb: "get" };
        let paths = json!({"nonResourceURLs": ["/apis/*"], "verbs": ["get"]});
        assert!(gives(&paths, &path("/apis/x")) && gives(&paths, &path("/apis/*")));
        assert!(!gives(&paths, &path("/api")));
    }

    #[test]
    fn missing_rights_are_listed_together() {
        let rule = json!({"apiGroups": ["", "apps"], "resources": ["x"], "verbs": ["get", "list"]});
        let mut wanted = Vec::new();
        rights(&rule, &mut wanted);
        assert_eq!(
            describe(&wanted),
            [
                r#"{APIGroups:[""], Resources:["x"], Verbs:["get" "list"]}"#,
                r#"{APIGroups:["apps"], Resources:["x"], Verbs:["get" "list"]}"#
            ]
        );
    }

    proptest! {
        /// A rule gives each right that it is made of.
        #[test]
        fn a_rule_covers_itself(
            groups in prop::collection::vec("[a-c*]", 1..3),
            resources in prop::collection::vec("[a-c](/[a-c])?|\\*", 1..3),
            verbs in prop::collection::vec("[a-c*]", 1..3),
            names in prop::collection::vec("[a-c]", 0..3),
        ) {
            let rule = json!({"apiGroups": groups, "resources": resources, "verbs": verbs, "resourceNames": names});
            let mut wanted = Vec::new();
            rights(&rule, &mut wanted);
            for right in wanted {
                prop_assert!(gives(&rule, &right), "{right:?}");
            }
        }
    }
}
