//! The status of definitions: accepted names, conditions, versions that objects may be stored in.

use crate::{api::Api, object};
use serde_json::{Map, Value, json};

/// Annotation by which definitions in groups of the Kubernetes community say who approved them.
pub const APPROVED: &str = "api-approved.kubernetes.io";

/// One condition, without its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    kind: &'static str,
    holds: bool,
    /// Machine readable reason.
    pub reason: &'static str,
    /// Text for people.
    pub message: String,
}

/// Whether a condition of a definition is true.
pub fn holds(crd: &Value, kind: &str) -> bool {
    condition(crd, kind).is_some_and(|c| object::text(c, "/status") == "True")
}

fn condition<'a>(crd: &'a Value, kind: &str) -> Option<&'a Value> {
    let list = crd.pointer("/status/conditions").and_then(Value::as_array);
    list.into_iter()
        .flatten()
        .find(|c| object::text(c, "/type") == kind)
}

/// Names that definitions of a group hold.
#[derive(Debug, Default)]
struct Taken {
    resources: Vec<String>,
    kinds: Vec<String>,
}

fn texts(names: &Value, keys: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for key in keys {
        match names.get(*key) {
            Some(Value::String(text)) => found.push(text.clone()),
            Some(Value::Array(list)) => {
                found.extend(list.iter().filter_map(|v| v.as_str().map(str::to_string)));
            }
            _ => {}
        }
    }
    found
}

fn taken(api: &Api, crd: &Value) -> Taken {
    let mut taken = Taken::default();
    let (name, group) = (object::name(crd), object::text(crd, "/spec/group"));
    let storage = "customresourcedefinitions.apiextensions.k8s.io";
    for other in api.store.list(storage, None).1 {
        let other = other.value();
        if object::text(other, "/spec/group") != group || object::name(other) == name {
            continue;
        }
        let names = other
            .pointer("/status/acceptedNames")
            .unwrap_or(&Value::Null);
        taken
            .resources
            .extend(texts(names, &["plural", "singular", "shortNames"]));
        taken.kinds.extend(texts(names, &["kind", "listKind"]));
    }
    taken
}

/// Brings the status of a definition up to date. A definition is served as soon as its names are
/// accepted, which is when this returns.
pub fn settle(api: &Api, crd: &mut Value) {
    let (names, accepted) = accepted_names(crd, &taken(api, crd));
    let established = match holds(crd, "Established") || accepted.holds {
        true => Condition {
            kind: "Established",
            holds: true,
            reason: "InitialNamesAccepted",
            message: "the initial names have been accepted".into(),
        },
        false => Condition {
            kind: "Established",
            holds: false,
            reason: "NotAccepted",
            message: "not all names are accepted".into(),
        },
    };
    let mut conditions: Vec<Value> = Vec::new();
    for wanted in approval(crd)
        .into_iter()
        .chain([accepted, established])
        .chain(terminating(crd))
    {
        conditions.push(timed(crd, &wanted));
    }
    let stored = stored_versions(crd);
    if let Some(map) = crd.as_object_mut() {
        map.insert(
            "status".into(),
            json!({"conditions": conditions, "acceptedNames": names, "storedVersions": stored}),
        );
    }
}

/// A condition as it is stored; its time is that of its last change.
fn timed(crd: &Value, wanted: &Condition) -> Value {
    let status = if wanted.holds { "True" } else { "False" };
    let since = condition(crd, wanted.kind)
        .filter(|old| object::text(old, "/status") == status)
        .and_then(|old| old.get("lastTransitionTime"))
        .cloned();
    json!({"type": wanted.kind, "status": status,
        "lastTransitionTime": since.unwrap_or_else(|| object::now().into()),
        "reason": wanted.reason, "message": wanted.message})
}

fn stored_versions(crd: &Value) -> Vec<Value> {
    let list = |pointer: &str| {
        crd.pointer(pointer)
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default()
    };
    let mut stored = list("/status/storedVersions");
    for version in list("/spec/versions") {
        let name = version.get("name").cloned().unwrap_or(Value::Null);
        if version.get("storage") == Some(&Value::Bool(true)) && !stored.contains(&name) {
            stored.push(name);
        }
    }
    stored
}

/// The names that a definition gets: those it asks for, unless somebody has them.
fn accepted_names(crd: &Value, taken: &Taken) -> (Value, Condition) {
    let empty = Map::new();
    let map = |pointer: &str| {
        crd.pointer(pointer)
            .and_then(Value::as_object)
            .unwrap_or(&empty)
    };
    let (wanted, held) = (map("/spec/names"), map("/status/acceptedNames"));
    let mut names = held.clone();
    let mut conflict: Option<(&'static str, String)> = None;
    for (key, pool, reason) in [
        ("plural", &taken.resources, "PluralConflict"),
        ("singular", &taken.resources, "SingularConflict"),
        ("shortNames", &taken.resources, "ShortNamesConflict"),
        ("kind", &taken.kinds, "KindConflict"),
        ("listKind", &taken.kinds, "ListKindConflict"),
    ] {
        let own = texts(&Value::Object(held.clone()), &[key]);
        let asked = texts(&Value::Object(wanted.clone()), &[key]);
        let used = asked
            .iter()
            .filter(|n| !own.contains(n) && pool.contains(n));
        let used: Vec<String> = used.map(|n| format!("{n:?} is already in use")).collect();
        match (used.as_slice(), wanted.get(key)) {
            ([], Some(value)) => {
                names.insert(key.into(), value.clone());
            }
            ([], None) => {
                names.shift_remove(key);
            }
            ([one], _) => conflict = Some((reason, one.clone())),
            (many, _) => conflict = Some((reason, format!("[{}]", many.join(", ")))),
        }
    }
    match wanted.get("categories") {
        Some(value) => names.insert("categories".into(), value.clone()),
        None => names.shift_remove("categories"),
    };
    // Kubernetes shows the two even where they are not accepted.
    for key in ["plural", "kind"] {
        names.entry(key).or_insert_with(|| "".into());
    }
    let (reason, message) = match conflict {
        None => ("NoConflicts", "no conflicts found".to_string()),
        Some((reason, message)) => (reason, message),
    };
    let condition = Condition {
        kind: "NamesAccepted",
        holds: reason == "NoConflicts",
        reason,
        message,
    };
    (Value::Object(names), condition)
}

fn terminating(crd: &Value) -> Option<Condition> {
    object::terminating(crd).then(|| Condition {
        kind: "Terminating",
        holds: true,
        reason: "InstanceDeletionInProgress",
        message: "CustomResource deletion is in progress".into(),
    })
}

/// Whether a definition in a group of the Kubernetes community may be there; None for others.
pub fn approval(crd: &Value) -> Option<Condition> {
    let group = object::text(crd, "/spec/group");
    let domains = ["k8s.io", "kubernetes.io"];
    let of = |domain: &&str| group == *domain || group.ends_with(&format!(".{domain}"));
    if !domains.iter().any(of) {
        return None;
    }
    let annotations = crd.pointer("/metadata/annotations");
    let text = annotations
        .and_then(|a| a.get(APPROVED))
        .and_then(Value::as_str);
    let text = text.unwrap_or_default();
    let see = "see https://github.com/kubernetes/enhancements/pull/1111";
    let (reason, message) = match text {
        "" => (
            "MissingAnnotation",
            format!("protected groups must have approval annotation {APPROVED:?}, {see}"),
        ),
        text if text.starts_with("unapproved") => {
            ("UnapprovedAnnotation", format!("not approved: {text:?}"))
        }
        text if url::Url::parse(text).is_ok_and(|u| u.has_host()) => {
            ("ApprovedAnnotation", format!("approved in {text}"))
        }
        _ => (
            "InvalidAnnotation",
            format!(
                "protected groups must have approval annotation {APPROVED:?} with either a URL or a reason starting with \"unapproved\", {see}"
            ),
        ),
    };
    Some(Condition {
        kind: "KubernetesAPIApprovalPolicyConformant",
        holds: reason == "ApprovedAnnotation",
        reason,
        message,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(names: Value) -> Value {
        json!({"metadata": {"name": "foos.example.com"}, "spec": {"group": "example.com", "names": names}})
    }

    #[test]
    fn names_in_use_are_not_accepted() {
        let crd = definition(
            json!({"plural": "foos", "kind": "Foo", "shortNames": ["f", "g"], "categories": ["all"]}),
        );
        let (names, condition) = accepted_names(&crd, &Taken::default());
        assert_eq!(names, crd["spec"]["names"]);
        assert!(condition.holds);
        let taken = Taken {
            resources: vec!["f".into()],
            kinds: vec!["Foo".into()],
        };
        let (names, condition) = accepted_names(&crd, &taken);
        assert_eq!(
            names,
            json!({"plural": "foos", "categories": ["all"], "kind": ""})
        );
        assert_eq!((condition.holds, condition.reason), (false, "KindConflict"));
        assert_eq!(condition.message, "\"Foo\" is already in use");
        // What a definition has, it keeps.
        let mut held = crd.clone();
        held["status"]["acceptedNames"] = crd["spec"]["names"].clone();
        assert!(accepted_names(&held, &taken).1.holds);
    }

    #[test]
    fn groups_of_the_community_need_approval() {
        let mut crd = definition(json!({}));
        assert_eq!(approval(&crd), None);
        crd["spec"]["group"] = "gateway.networking.k8s.io".into();
        assert_eq!(approval(&crd).unwrap().reason, "MissingAnnotation");
        for (text, reason) in [
            ("https://github.com/x", "ApprovedAnnotation"),
            ("unapproved, an experiment", "UnapprovedAnnotation"),
            ("yes", "InvalidAnnotation"),
        ] {
            crd["metadata"]["annotations"][APPROVED] = text.into();
            assert_eq!(approval(&crd).unwrap().reason, reason);
        }
        crd["spec"]["group"] = "gateway.networking.x-k8s.io".into();
        assert_eq!(approval(&crd), None);
    }
}
