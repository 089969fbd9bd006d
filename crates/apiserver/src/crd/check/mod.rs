//! Rules for definitions themselves: names, versions, columns, subresources and schemas.
//!
//! The messages and paths are Kubernetes'. There, what all versions have in common is seen as
//! standing at the top (`spec.validation`, `spec.subresources`), and so it is here.

mod compiled;
mod complete;
mod extensions;
mod schema;

#[cfg(any(test, fuzzing))]
pub use schema::check as check_schema;

use super::{rules, schema::Structural, status};
use crate::{
    object,
    status::Cause,
    validation::{dns_label, dns_subdomain},
};
use serde_json::{Value, json};

/// Most fields that lists can select by.
const MAX_SELECTABLE: usize = 8;

/// Checks a definition. `old` is the one that it replaces.
pub fn check(crd: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    let spec = crd.get("spec").unwrap_or(&Value::Null);
    let before = old.and_then(|o| o.get("spec"));
    if before != Some(spec) {
        names(crd, spec, causes);
        versions(spec, before, causes);
        conversion(spec, causes);
        if spec.get("preserveUnknownFields") == Some(&Value::Bool(true)) {
            let why = "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead";
            causes.push(Cause::invalid(
                "spec.preserveUnknownFields",
                &true.into(),
                why,
            ));
        }
    }
    stored_versions(crd, spec, causes);
    approval(crd, old, causes);
    if let Some(old) = old {
        immutable(crd, old, causes);
    }
}

fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    let list = value.pointer(pointer).and_then(Value::as_array);
    list.map(Vec::as_slice).unwrap_or_default()
}

fn dns_1035(text: &str, path: String, causes: &mut Vec<Cause>) {
    if let Some(why) = dns_label(text, true) {
        causes.push(Cause::invalid(path, &text.into(), why));
    }
}

fn names(crd: &Value, spec: &Value, causes: &mut Vec<Cause>) {
    let group = object::text(spec, "/group");
    if group.is_empty() {
        causes.push(Cause::required("spec.group", ""));
    } else if let Some(why) = dns_subdomain(group) {
        causes.push(Cause::invalid("spec.group", &group.into(), why));
    } else if !group.contains('.') {
        let why = "should be a domain with at least one dot";
        causes.push(Cause::invalid("spec.group", &group.into(), why));
    }
    match object::text(spec, "/scope") {
        "" => causes.push(Cause::required("spec.scope", "")),
        "Namespaced" | "Cluster" => {}
        other => {
            let allowed = ["Cluster", "Namespaced"];
            causes.push(Cause::not_supported("spec.scope", &other.into(), &allowed));
        }
    }
    let kind_like = "may have mixed case, but should otherwise match: ";
    for (key, is_kind) in [
        ("plural", false),
        ("singular", false),
        ("kind", true),
        ("listKind", true),
    ] {
        let path = format!("spec.names.{key}");
        let text = object::text(spec, &format!("/names/{key}"));
        let problem = match is_kind {
            true => dns_label(&text.to_lowercase(), true).map(|why| format!("{kind_like}{why}")),
            false => dns_label(text, true).map(str::to_string),
        };
        match problem {
            _ if text.is_empty() => causes.push(Cause::required(path, "")),
            Some(why) => causes.push(Cause::invalid(path, &text.into(), &why)),
            None => {}
        }
    }
    let (kind, list_kind) = (
        object::text(spec, "/names/kind"),
        object::text(spec, "/names/listKind"),
    );
    if !kind.is_empty() && kind == list_kind {
        let why = "kind and listKind may not be the same";
        causes.push(Cause::invalid("spec.names.listKind", &kind.into(), why));
    }
    for key in ["shortNames", "categories"] {
        for (i, name) in list(spec, &format!("/names/{key}")).iter().enumerate() {
            let path = format!("spec.names.{key}[{i}]");
            dns_1035(name.as_str().unwrap_or_default(), path, causes);
        }
    }
    let name = object::name(crd);
    if name != format!("{}.{group}", object::text(spec, "/names/plural")) {
        let why = "must be spec.names.plural+\".\"+spec.group";
        causes.push(Cause::invalid("metadata.name", &name.into(), why));
    }
}

fn versions(spec: &Value, before: Option<&Value>, causes: &mut Vec<Cause>) {
    let versions = list(spec, "/versions");
    if versions.is_empty() {
        causes.push(Cause::required(
            "spec.versions",
            "must have at least one version",
        ));
        return;
    }
    let shown = &spec["versions"];
    let mut seen = Vec::new();
    for (i, version) in versions.iter().enumerate() {
        let path = format!("spec.versions[{i}]");
        let name = object::text(version, "/name");
        dns_1035(name, format!("{path}.name"), causes);
        seen.push(name);
        deprecation(version, &path, causes);
    }
    seen.sort_unstable();
    if seen.windows(2).any(|pair| pair[0] == pair[1]) {
        let why = "must contain unique version names";
        causes.push(Cause::invalid("spec.versions", shown, why));
    }
    let storage = versions
        .iter()
        .filter(|v| v.get("storage") == Some(&Value::Bool(true)));
    if storage.count() != 1 {
        let why = "must have exactly one version marked as storage version";
        causes.push(Cause::invalid("spec.versions", shown, why));
    }
    parts(versions, before, causes);
}

/// A place and what stands there, one for all versions where they agree.
fn places<'a>(versions: &'a [Value], key: &str, top: &str) -> Vec<(String, &'a Value, &'a Value)> {
    let first = versions[0].get(key);
    if versions.iter().all(|v| v.get(key) == first) {
        let found = first.map(|part| (format!("spec.{top}"), part, &versions[0]));
        return found.into_iter().collect();
    }
    let each = versions.iter().enumerate();
    each.filter_map(|(i, v)| Some((format!("spec.versions[{i}].{key}"), v.get(key)?, v)))
        .collect()
}

fn parts(versions: &[Value], before: Option<&Value>, causes: &mut Vec<Cause>) {
    for (i, version) in versions.iter().enumerate() {
        if !version
            .pointer("/schema/openAPIV3Schema")
            .is_some_and(Value::is_object)
        {
            let path = format!("spec.versions[{i}].schema.openAPIV3Schema");
            causes.push(Cause::required(path, ""));
        }
    }
    let known: Vec<&Value> = before.map_or(Vec::new(), |b| list(b, "/versions").iter().collect());
    for (path, part, version) in places(versions, "schema", "validation") {
        let Some(source) = part.get("openAPIV3Schema").filter(|s| s.is_object()) else {
            continue;
        };
        // What was checked once is not checked again.
        if known.iter().any(|v| v.get("schema") == Some(part)) {
            continue;
        }
        let path = format!("{path}.openAPIV3Schema");
        let status = version.pointer("/subresources/status").is_some();
        let found = causes.len();
        schema::check(source, &path, status, causes);
        if causes.len() == found {
            compiled::check(&Structural::compile(source), &path, causes);
        }
    }
    for (path, part, _) in places(versions, "subresources", "subresources") {
        if let Some(scale) = part.get("scale") {
            scale_paths(scale, &path, causes);
        }
    }
    for (path, part, _) in places(
        versions,
        "additionalPrinterColumns",
        "additionalPrinterColumns",
    ) {
        for (i, column) in list(part, "").iter().enumerate() {
            self::column(column, &format!("{path}[{i}]"), causes);
        }
    }
    for (path, part, version) in places(versions, "selectableFields", "selectableFields") {
        selectable(list(part, ""), version, &path, causes);
    }
}

fn deprecation(version: &Value, path: &str, causes: &mut Vec<Cause>) {
    let Some(text) = version.get("deprecationWarning").and_then(Value::as_str) else {
        return;
    };
    let field = format!("{path}.deprecationWarning");
    let mut refuse = |why: &str| causes.push(Cause::invalid(&field, &text.into(), why));
    if version.get("deprecated") != Some(&Value::Bool(true)) {
        return refuse("can only be set for deprecated versions");
    }
    if text.len() > 256 {
        refuse("must be <= 256 characters long");
    }
    if text.is_empty() {
        refuse("must not be an empty string");
    }
    if let Some((i, _)) = text.char_indices().find(|(_, c)| c.is_control()) {
        refuse(&format!(
            "must only contain printable UTF-8 characters; non-printable character found at index {i}"
        ));
    }
}

fn simple_path(text: &str, path: &str, causes: &mut Vec<Cause>) -> bool {
    if text.starts_with('.') {
        return true;
    }
    let why = "must be a simple json path starting with .";
    causes.push(Cause::invalid(path, &text.into(), why));
    false
}

fn scale_paths(scale: &Value, path: &str, causes: &mut Vec<Cause>) {
    for (key, under) in [
        ("specReplicasPath", ".spec"),
        ("statusReplicasPath", ".status"),
    ] {
        let field = format!("{path}.scale.{key}");
        let text = object::text(scale, &format!("/{key}"));
        if text.is_empty() {
            causes.push(Cause::required(field, ""));
        } else if simple_path(text, &field, causes) && !text.starts_with(&format!("{under}.")) {
            let why = format!("should be a json path under {under}");
            causes.push(Cause::invalid(field, &text.into(), &why));
        }
    }
    let text = object::text(scale, "/labelSelectorPath");
    let field = format!("{path}.scale.labelSelectorPath");
    let inside = text.starts_with(".spec.") || text.starts_with(".status.");
    if !text.is_empty() && simple_path(text, &field, causes) && !inside {
        let why = "should be a json path under either .spec or .status";
        causes.push(Cause::invalid(field, &text.into(), why));
    }
}

fn column(column: &Value, path: &str, causes: &mut Vec<Cause>) {
    const TYPES: [&str; 5] = ["boolean", "date", "integer", "number", "string"];
    const FORMATS: [&str; 8] = [
        "byte",
        "date",
        "date-time",
        "double",
        "float",
        "int32",
        "int64",
        "password",
    ];
    let text = |key: &str| object::text(column, &format!("/{key}"));
    if text("name").is_empty() {
        causes.push(Cause::required(format!("{path}.name"), ""));
    }
    let one_of = format!("must be one of {}", TYPES.join(","));
    match text("type") {
        "" => causes.push(Cause::required(format!("{path}.type"), &one_of)),
        known if TYPES.contains(&known) => {}
        other => {
            causes.push(Cause::invalid(
                format!("{path}.type"),
                &other.into(),
                &one_of,
            ));
        }
    }
    let format = text("format");
    if !format.is_empty() && !FORMATS.contains(&format) {
        let why = format!("must be one of {}", FORMATS.join(","));
        causes.push(Cause::invalid(
            format!("{path}.format"),
            &format.into(),
            &why,
        ));
    }
    let field = format!("{path}.JSONPath");
    match text("jsonPath") {
        "" => causes.push(Cause::required(field, "")),
        other => {
            simple_path(other, &field, causes);
        }
    }
}

fn selectable(fields: &[Value], version: &Value, path: &str, causes: &mut Vec<Cause>) {
    let Some(source) = version.pointer("/schema/openAPIV3Schema") else {
        return;
    };
    let schema = Structural::compile(source);
    let mut seen: Vec<String> = Vec::new();
    for (i, entry) in fields.iter().enumerate() {
        let field = format!("{path}[{i}].jsonPath");
        let text = object::text(entry, "/jsonPath");
        let found = match text {
            "" => {
                causes.push(Cause::required(field, ""));
                continue;
            }
            text if text.contains('[') => Err("array notation is not allowed".to_string()),
            text => rules::field_path(&schema, text),
        };
        let mut refuse = |why: &str| causes.push(Cause::invalid(&field, &text.into(), why));
        match found {
            Err(why) => refuse(&format!("is an invalid path: {why}")),
            Ok(found) => {
                if found.split('.').next() == Some("metadata") {
                    refuse("must not point to fields in metadata");
                }
                if !schema.at(&found).is_some_and(Structural::is_plain) {
                    refuse(
                        "must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed.",
                    );
                }
                if seen.contains(&found) {
                    causes.push(Cause::duplicate(&field, &text.into()));
                } else {
                    seen.push(found);
                }
            }
        }
    }
    if seen.len() > MAX_SELECTABLE {
        let message = format!(
            "Too many: {}: must have at most {MAX_SELECTABLE} items",
            seen.len()
        );
        causes.push(Cause {
            reason: "FieldValueTooMany",
            field: path.into(),
            message,
        });
    }
}

/// Versions differ in their names alone: nothing here calls a webhook to convert objects.
fn conversion(spec: &Value, causes: &mut Vec<Cause>) {
    let field = "spec.conversion.strategy";
    match object::text(spec, "/conversion/strategy") {
        "None" => {}
        "" => causes.push(Cause::required(field, "")),
        "Webhook" => {
            let why = "conversion webhooks are not supported by this API server: objects are converted by changing apiVersion alone (strategy None)";
            let mut cause = Cause::invalid(field, &"Webhook".into(), why);
            cause.reason = "FieldValueNotSupported";
            causes.push(cause);
        }
        other => {
            let allowed = ["None", "Webhook"];
            causes.push(Cause::not_supported(field, &other.into(), &allowed));
        }
    }
    if object::text(spec, "/conversion/strategy") == "None"
        && spec.pointer("/conversion/webhook").is_some()
    {
        let why = "should not be set when strategy is not set to Webhook";
        causes.push(Cause::forbidden("spec.conversion.webhook", why));
    }
}

/// A version that objects may be stored in stays until the status says otherwise.
fn stored_versions(crd: &Value, spec: &Value, causes: &mut Vec<Cause>) {
    let stored = list(crd, "/status/storedVersions");
    for (i, version) in stored.iter().enumerate() {
        let name = version.as_str().unwrap_or_default();
        if !list(spec, "/versions")
            .iter()
            .any(|v| object::text(v, "/name") == name)
        {
            let why = format!(
                "missing from spec.versions; {name} was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in {name} and removes {name} from status.storedVersions"
            );
            let field = format!("status.storedVersions[{i}]");
            causes.push(Cause::invalid(field, version, &why));
        }
    }
}

/// Groups of the Kubernetes community need a word from it, or a reason why not.
fn approval(crd: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    let Some(state) = status::approval(crd) else {
        return;
    };
    if old
        .and_then(status::approval)
        .is_some_and(|before| before.reason == state.reason)
    {
        return;
    }
    let field = format!("metadata.annotations[{}]", status::APPROVED);
    match state.reason {
        "MissingAnnotation" => causes.push(Cause::required(field, &state.message)),
        "InvalidAnnotation" => {
            let found = crd
                .pointer("/metadata/annotations")
                .map(|a| &a[status::APPROVED]);
            causes.push(Cause::invalid(
                field,
                found.unwrap_or(&Value::Null),
                &state.message,
            ));
        }
        _ => {}
    }
}

fn immutable(crd: &Value, old: &Value, causes: &mut Vec<Cause>) {
    let established = status::holds(old, "Established");
    for (field, always) in [
        ("spec.scope", false),
        ("spec.names.kind", false),
        ("spec.group", true),
        ("spec.names.plural", true),
    ] {
        let pointer = format!("/{}", field.replace('.', "/"));
        let (before, after) = (old.pointer(&pointer), crd.pointer(&pointer));
        if (always || established) && before != after {
            let shown = after.cloned().unwrap_or_else(|| json!(""));
            causes.push(Cause::invalid(field, &shown, "field is immutable"));
        }
    }
}
