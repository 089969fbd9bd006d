//! Rules for webhook configurations.

use super::hook::variables;
use crate::{
    cel::{Program, Type},
    object,
    status::Cause,
    validation::{dns_label, dns_subdomain, label_selector},
};
use serde_json::Value;
use url::Url;

/// Most conditions of one webhook.
const MAX_CONDITIONS: usize = 64;

fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    let list = value.pointer(pointer).and_then(Value::as_array);
    list.map(Vec::as_slice).unwrap_or_default()
}

fn texts<'a>(value: &'a Value, pointer: &str) -> Vec<&'a str> {
    list(value, pointer)
        .iter()
        .filter_map(Value::as_str)
        .collect()
}

/// Checks a configuration of either kind.
pub fn check(value: &Value, causes: &mut Vec<Cause>) {
    let mut names = Vec::new();
    for (i, hook) in list(value, "/webhooks").iter().enumerate() {
        let path = format!("webhooks[{i}]");
        let name = object::text(hook, "/name");
        qualified(name, format!("{path}.name"), causes);
        if !name.is_empty() && names.contains(&name) {
            causes.push(Cause::duplicate(format!("{path}.name"), &name.into()));
        }
        names.push(name);
        rules(hook, &path, causes);
        policies(hook, &path, causes);
        selectors(hook, &path, causes);
        client(hook, &path, causes);
        conditions(hook, &path, causes);
        review_versions(hook, &path, causes);
    }
}

fn qualified(name: &str, path: String, causes: &mut Vec<Cause>) {
    if name.is_empty() {
        causes.push(Cause::required(path, ""));
    } else if let Some(why) = dns_subdomain(name) {
        causes.push(Cause::invalid(path, &name.into(), why));
    } else if name.split('.').count() < 3 {
        let why = "should be a domain with at least three segments separated by dots";
        causes.push(Cause::invalid(path, &name.into(), why));
    }
}

fn rules(hook: &Value, path: &str, causes: &mut Vec<Cause>) {
    for (i, rule) in list(hook, "/rules").iter().enumerate() {
        let at = |key: &str| format!("{path}.rules[{i}].{key}");
        for (key, what) in [
            ("operations", "operations"),
            ("apiGroups", "API groups"),
            ("apiVersions", "API versions"),
        ] {
            let found = texts(rule, &format!("/{key}"));
            if found.is_empty() {
                causes.push(Cause::required(at(key), ""));
            } else if found.len() > 1 && found.contains(&"*") {
                let why = format!("if '*' is present, must not specify other {what}");
                causes.push(Cause::invalid(at(key), &rule[key], &why));
            }
        }
        const OPERATIONS: [&str; 5] = ["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
        for (j, operation) in texts(rule, "/operations").into_iter().enumerate() {
            if !OPERATIONS.contains(&operation) {
                let field = format!("{}[{j}]", at("operations"));
                causes.push(Cause::not_supported(field, &operation.into(), &OPERATIONS));
            }
        }
        resources(rule, &at("resources"), causes);
        const SCOPES: [&str; 3] = ["*", "Cluster", "Namespaced"];
        let scope = object::text(rule, "/scope");
        if !SCOPES.contains(&scope) {
            causes.push(Cause::not_supported(at("scope"), &scope.into(), &SCOPES));
        }
    }
}

fn resources(rule: &Value, path: &str, causes: &mut Vec<Cause>) {
    let found = texts(rule, "/resources");
    if found.is_empty() {
        causes.push(Cause::required(path, ""));
    }
    for (i, resource) in found.iter().enumerate() {
        if resource.is_empty() {
            causes.push(Cause::required(format!("{path}[{i}]"), ""));
        }
    }
    if found.len() > 1 && found.contains(&"*/*") {
        let why = "if '*/*' is present, must not specify other resources";
        causes.push(Cause::invalid(path, &rule["resources"], why));
    }
    let plain = found.iter().any(|r| *r != "*" && !r.contains('/'));
    if found.contains(&"*") && plain {
        let why = "if '*' is present, must not specify other resources without subresources";
        causes.push(Cause::invalid(path, &rule["resources"], why));
    }
}

fn policies(hook: &Value, path: &str, causes: &mut Vec<Cause>) {
    for (key, allowed) in [
        ("failurePolicy", &["Fail", "Ignore"]),
        ("matchPolicy", &["Equivalent", "Exact"]),
        ("reinvocationPolicy", &["IfNeeded", "Never"]),
        ("sideEffects", &["None", "NoneOnDryRun"]),
    ] {
        let field = format!("{path}.{key}");
        match hook.get(key).and_then(Value::as_str) {
            None if key == "sideEffects" => {
                causes.push(Cause::required(
                    field,
                    "must specify one of None, NoneOnDryRun",
                ));
            }
            Some(found) if !allowed.contains(&found) => {
                causes.push(Cause::not_supported(field, &found.into(), allowed));
            }
            _ => {}
        }
    }
    if let Some(seconds) = hook.get("timeoutSeconds")
        && !seconds.as_i64().is_some_and(|s| (1..=30).contains(&s))
    {
        let why = "the timeout value must be between 1 and 30 seconds";
        causes.push(Cause::invalid(
            format!("{path}.timeoutSeconds"),
            seconds,
            why,
        ));
    }
}

fn selectors(hook: &Value, path: &str, causes: &mut Vec<Cause>) {
    for key in ["namespaceSelector", "objectSelector"] {
        label_selector(hook.get(key), &format!("{path}.{key}"), causes);
    }
}

fn client(hook: &Value, path: &str, causes: &mut Vec<Cause>) {
    let path = format!("{path}.clientConfig");
    let config = hook.get("clientConfig").unwrap_or(&Value::Null);
    match (
        config.get("url").and_then(Value::as_str),
        config.get("service"),
    ) {
        (Some(url), None) => self::url(url, &format!("{path}.url"), causes),
        (None, Some(service)) => self::service(service, &format!("{path}.service"), causes),
        _ => causes.push(Cause::required(
            path,
            "exactly one of url or service is required",
        )),
    }
}

fn url(text: &str, path: &str, causes: &mut Vec<Cause>) {
    const FORM: &str = "; desired format: https://host[/path]";
    let url = match Url::parse(text) {
        Ok(url) => url,
        Err(e) => {
            let hint = format!("url must be a valid URL: {e}{FORM}");
            return causes.push(Cause::required(path, &hint));
        }
    };
    let mut refuse = |value: &str, why: &str| causes.push(Cause::invalid(path, &value.into(), why));
    if url.scheme() != "https" {
        refuse(
            url.scheme(),
            &format!("'https' is the only allowed URL scheme{FORM}"),
        );
    }
    if !url.username().is_empty() {
        refuse(
            url.username(),
            "user information is not permitted in the URL",
        );
    }
    if let Some(fragment) = url.fragment() {
        refuse(fragment, "fragments are not permitted in the URL");
    }
    if let Some(query) = url.query() {
        refuse(query, "query parameters are not permitted in the URL");
    }
}

fn service(service: &Value, path: &str, causes: &mut Vec<Cause>) {
    for key in ["name", "namespace"] {
        if object::text(service, &format!("/{key}")).is_empty() {
            causes.push(Cause::required(format!("{path}.{key}"), ""));
        }
    }
    if let Some(port) = service.get("port")
        && !port.as_i64().is_some_and(|p| (1..=65535).contains(&p))
    {
        let why = "port is not valid: must be between 1 and 65535, inclusive";
        causes.push(Cause::invalid(format!("{path}.port"), port, why));
    }
    let text = object::text(service, "/path");
    let field = format!("{path}.path");
    let Some(rest) = text.strip_prefix('/') else {
        if !text.is_empty() {
            causes.push(Cause::invalid(field, &text.into(), "must start with a '/'"));
        }
        return;
    };
    if rest.is_empty() {
        return;
    }
    for (i, step) in rest
        .strip_suffix('/')
        .unwrap_or(rest)
        .split('/')
        .enumerate()
    {
        let why = match step {
            "" => Some("may not be empty"),
            step => dns_subdomain(step),
        };
        if let Some(why) = why {
            let sep = if step.is_empty() { " " } else { ": " };
            let why = format!("segment[{i}]{sep}{why}");
            causes.push(Cause::invalid(&field, &text.into(), &why));
        }
    }
}

fn conditions(hook: &Value, path: &str, causes: &mut Vec<Cause>) {
    let found = list(hook, "/matchConditions");
    if found.len() > MAX_CONDITIONS {
        causes.push(Cause {
            reason: "FieldValueTooMany",
            field: format!("{path}.matchConditions"),
            message: format!(
                "Too many: {}: must have at most {MAX_CONDITIONS} items",
                found.len()
            ),
        });
    }
    let mut names = Vec::new();
    for (i, condition) in found.iter().enumerate() {
        let at = |key: &str| format!("{path}.matchConditions[{i}].{key}");
        let name = object::text(condition, "/name");
        if name.is_empty() {
            causes.push(Cause::required(at("name"), ""));
        } else if names.contains(&name) {
            causes.push(Cause::duplicate(at("name"), &name.into()));
        }
        names.push(name);
        let text = object::text(condition, "/expression").trim();
        if text.is_empty() {
            causes.push(Cause::required(at("expression"), ""));
            continue;
        }
        let why = match Program::compile(text, &variables()) {
            Err(why) => format!("compilation failed: {why}"),
            Ok(program) if !program.result().fits(&Type::Bool) => {
                format!("must evaluate to bool but got {}", program.result())
            }
            Ok(_) => continue,
        };
        causes.push(Cause::invalid(at("expression"), &text.into(), &why));
    }
}

fn review_versions(hook: &Value, path: &str, causes: &mut Vec<Cause>) {
    let field = format!("{path}.admissionReviewVersions");
    let found = texts(hook, "/admissionReviewVersions");
    if found.is_empty() {
        return causes.push(Cause::required(field, "must specify one of v1, v1beta1"));
    }
    for (i, version) in found.iter().enumerate() {
        let at = format!("{field}[{i}]");
        if found[..i].contains(version) {
            causes.push(Cause::invalid(at, &(*version).into(), "duplicate version"));
        } else if let Some(why) = dns_label(version, true) {
            causes.push(Cause::invalid(at, &(*version).into(), why));
        }
    }
    if !found.iter().any(|v| matches!(*v, "v1" | "v1beta1")) {
        let why = "must include at least one of v1, v1beta1";
        causes.push(Cause::invalid(field, &hook["admissionReviewVersions"], why));
    }
}
