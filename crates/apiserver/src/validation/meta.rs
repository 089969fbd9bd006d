//! Rules about `metadata`: names, labels, annotations, finalizers, owners.

use crate::{
    object,
    registry::{Resource, Schema},
    status::Cause,
};
use serde_json::Value;

/// Largest sum of all annotations, in bytes.
const ANNOTATIONS_LIMIT: usize = 256 * 1024;

/// Checks `metadata` of an object.
pub fn object(resource: &Resource, value: &Value, causes: &mut Vec<Cause>) {
    name(resource, value, causes);
    labels(value, "metadata.labels", causes);
    annotations(value, causes);
    owners(value, causes);
    // Definitions have one without a prefix, which Kubernetes itself gives them.
    let is_strict = matches!(resource.schema, Schema::Builtin(_))
        && resource.group.as_ref() != "apiextensions.k8s.io";
    finalizers(value, is_strict, causes);
}

/// Names of finalizers are qualified; where it is strict, with a prefix, but for those that
/// Kubernetes itself knows.
fn finalizers(value: &Value, is_strict: bool, causes: &mut Vec<Cause>) {
    const FIELD: &str = "metadata.finalizers";
    let all = object::finalizers(value);
    for (i, finalizer) in all.iter().enumerate() {
        let shown = Value::from(*finalizer);
        let prefix = finalizer.split_once('/').map(|(prefix, _)| prefix);
        if let Some(why) = prefix.and_then(dns_subdomain) {
            let why = format!("prefix part {why}");
            causes.push(Cause::invalid(FIELD, &shown, &why));
        } else if !label_key(finalizer) {
            causes.push(Cause::invalid(FIELD, &shown, BAD_KEY));
        } else if is_strict && prefix.is_none() && !OWN_FINALIZERS.contains(finalizer) {
            let why = "name is neither a standard finalizer name nor is it fully qualified";
            causes.push(Cause::invalid(format!("{FIELD}[{i}]"), &shown, why));
        }
    }
    if all.contains(&"orphan") && all.contains(&"foregroundDeletion") {
        let why = "finalizer orphan and foregroundDeletion cannot be both set";
        causes.push(Cause::invalid(FIELD, &all.into(), why));
    }
}

/// Finalizers of Kubernetes itself, which have no prefix.
const OWN_FINALIZERS: [&str; 3] = ["kubernetes", "orphan", "foregroundDeletion"];

fn name(resource: &Resource, value: &Value, causes: &mut Vec<Cause>) {
    let name = object::name(value);
    if name.is_empty() {
        causes.push(Cause::required(
            "metadata.name",
            "name or generateName is required",
        ));
        return;
    }
    let problem = match (
        resource.group.as_ref(),
        resource.kind.as_ref(),
        &resource.schema,
    ) {
        ("rbac.authorization.k8s.io", _, _) => path_segment(name),
        ("", "Namespace", _) => dns_label(name, false),
        ("", "Service", _) => dns_label(name, true),
        (_, _, Schema::Builtin(_) | Schema::Custom(_)) => dns_subdomain(name),
    };
    if let Some(why) = problem {
        causes.push(Cause::invalid("metadata.name", &name.into(), why));
    }
}

fn path_segment(name: &str) -> Option<&'static str> {
    if name == "." || name == ".." {
        return Some("may not be '.' or '..'");
    }
    name.contains(['/', '%'])
        .then_some("may not contain '/' or '%'")
}

/// RFC 1123 label, or RFC 1035 (`letter_first`).
pub fn dns_label(name: &str, letter_first: bool) -> Option<&'static str> {
    if name.len() > 63 {
        return Some("must be no more than 63 characters");
    }
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let first = |c: char| c.is_ascii_lowercase() || (!letter_first && c.is_ascii_digit());
    let ok = name.starts_with(first) && !name.ends_with('-') && name.chars().all(inner);
    if ok {
        return None;
    }
    Some(match letter_first {
        true => {
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')"
        }
        false => {
            "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
        }
    })
}

/// RFC 1123 subdomain.
pub fn dns_subdomain(name: &str) -> Option<&'static str> {
    if name.len() > 253 {
        return Some("must be no more than 253 characters");
    }
    let label = |part: &str| {
        let alnum = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        part.starts_with(alnum)
            && part.ends_with(alnum)
            && part.chars().all(|c| alnum(c) || c == '-')
    };
    (!name.split('.').all(label)).then_some(
        "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
    )
}

/// The name part of a label key, or a label value.
fn label_part(text: &str) -> bool {
    let alnum = |c: char| c.is_ascii_alphanumeric();
    text.len() <= 63
        && text.starts_with(alnum)
        && text.ends_with(alnum)
        && text.chars().all(|c| alnum(c) || "-_.".contains(c))
}

/// `prefix/name` or `name`, as keys of labels and annotations are.
fn label_key(key: &str) -> bool {
    match key.split_once('/') {
        Some((prefix, name)) => dns_subdomain(prefix).is_none() && label_part(name),
        None => label_part(key),
    }
}

/// Why a text cannot be a key of a config map or secret.
pub fn config_key(key: &str) -> Option<&'static str> {
    let inner = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if key.len() > 253 {
        return Some("must be no more than 253 characters");
    }
    if key.is_empty() || !key.chars().all(inner) {
        return Some(
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')",
        );
    }
    match key {
        "." => Some("must not be '.'"),
        ".." => Some("must not be '..'"),
        _ if key.starts_with("..") => Some("must not start with '..'"),
        _ => None,
    }
}

const BAD_KEY: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const BAD_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";

/// The key of a label, alone at a path.
pub fn label_name(key: &str, field: &str, causes: &mut Vec<Cause>) {
    if !label_key(key) {
        causes.push(Cause::invalid(field, &key.into(), BAD_KEY));
    }
}

/// Why a text cannot be the value of a label.
pub fn label_value(text: &str) -> Option<&'static str> {
    if text.len() > 63 {
        return Some("must be no more than 63 bytes");
    }
    (!text.is_empty() && !label_part(text)).then_some(BAD_VALUE)
}

/// Checks a map of labels of an object; `field` is its path.
pub fn labels(value: &Value, field: &str, causes: &mut Vec<Cause>) {
    labels_of(
        value.pointer(&format!("/{}", field.replace('.', "/"))),
        field,
        causes,
    );
}

/// Checks a map of labels at a path.
pub fn labels_of(labels: Option<&Value>, field: &str, causes: &mut Vec<Cause>) {
    let labels = labels.and_then(Value::as_object);
    for (key, value) in labels.into_iter().flatten() {
        label_name(key, field, causes);
        if let Some(why) = label_value(value.as_str().unwrap_or_default()) {
            causes.push(Cause::invalid(field, value, why));
        }
    }
}

fn annotations(value: &Value, causes: &mut Vec<Cause>) {
    let mut size = 0;
    let all = value
        .pointer("/metadata/annotations")
        .and_then(Value::as_object);
    for (key, value) in all.into_iter().flatten() {
        if !label_key(&key.to_ascii_lowercase()) {
            causes.push(Cause::invalid(
                "metadata.annotations",
                &key.as_str().into(),
                BAD_KEY,
            ));
        }
        size += key.len() + value.as_str().unwrap_or_default().len();
    }
    if size > ANNOTATIONS_LIMIT {
        let message = format!("Too long: may not be more than {ANNOTATIONS_LIMIT} bytes");
        causes.push(Cause {
            reason: "FieldValueTooLong",
            field: "metadata.annotations".into(),
            message,
        });
    }
}

fn owners(value: &Value, causes: &mut Vec<Cause>) {
    let owners = value
        .pointer("/metadata/ownerReferences")
        .and_then(Value::as_array);
    let mut controllers = 0;
    for owner in owners.into_iter().flatten() {
        let of = (
            object::text(owner, "/apiVersion"),
            object::text(owner, "/kind"),
        );
        if of == ("v1", "Event") {
            let why = "/v1, Kind=Event is disallowed from being an owner";
            causes.push(Cause::invalid("metadata.ownerReferences", owner, why));
        }
    }
    for (i, owner) in owners.into_iter().flatten().enumerate() {
        for key in ["apiVersion", "kind", "name", "uid"] {
            if object::text(owner, &format!("/{key}")).is_empty() {
                let field = format!("metadata.ownerReferences[{i}].{key}");
                causes.push(Cause::invalid(field, &"".into(), "must not be empty"));
            }
        }
        controllers += usize::from(owner.get("controller") == Some(&Value::Bool(true)));
    }
    if controllers > 1 {
        let shown = value
            .pointer("/metadata/ownerReferences")
            .unwrap_or(&Value::Null);
        let why = "Only one reference can have Controller set to true";
        causes.push(Cause::invalid("metadata.ownerReferences", shown, why));
    }
}

/// A terminating object cannot get new reasons to stay.
pub fn no_new_finalizers(current: &Value, next: &Value, causes: &mut Vec<Cause>) {
    let before = object::finalizers(current);
    let new: Vec<&str> = object::finalizers(next)
        .into_iter()
        .filter(|f| !before.contains(f))
        .collect();
    if !new.is_empty() {
        let why = format!(
            "no new finalizers can be added if the object is being deleted, found new finalizers {new:?}"
        );
        causes.push(Cause::forbidden("metadata.finalizers", &why));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert!(dns_subdomain("a.b-c.d1").is_none());
        for bad in ["", "A", "a..b", "-a", "a-", "a_b", "a/b"] {
            assert!(dns_subdomain(bad).is_some(), "{bad}");
        }
        assert!(dns_label("1a", false).is_none());
        assert!(dns_label("1a", true).is_some());
        assert!(dns_label("a.b", false).is_some());
    }

    #[test]
    fn label_keys() {
        assert!(label_key("example.com/mode") && label_key("app"));
        assert!(!label_key("a/b/c") && !label_key("/a") && !label_key("a/") && !label_key("ä"));
    }
}
