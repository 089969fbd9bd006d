//! Rules about jobs and cron jobs.

use super::{fields::non_negative, pod, workload::matches_template};
use crate::{object, selectors::LabelSelector, status::Cause};
use serde_json::Value;

/// Most pods at once of a job whose pods are numbered.
const MOST_INDEXED: i64 = 100_000;

/// A new or changed job.
pub fn job(value: &Value, causes: &mut Vec<Cause>) {
    let spec = value.get("spec").unwrap_or(&Value::Null);
    job_spec(spec, "spec", causes);
    match spec.get("selector").and_then(LabelSelector::from_object) {
        Some(selector) => matches_template(&selector, spec, causes),
        None => causes.push(Cause::required("spec.selector", "")),
    }
}

fn job_spec(spec: &Value, path: &str, causes: &mut Vec<Cause>) {
    let numbers = [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ];
    non_negative(spec, &numbers, path, causes);
    let has = |key: &str| spec.get(key).is_some_and(|value| !value.is_null());
    let mode = object::text(spec, "/completionMode");
    let indexed = mode == "Indexed";
    if !matches!(mode, "" | "Indexed" | "NonIndexed") {
        let allowed = ["NonIndexed", "Indexed"];
        let field = format!("{path}.completionMode");
        causes.push(Cause::not_supported(field, &mode.into(), &allowed));
    }
    if indexed && !has("completions") {
        let why = "when completion mode is Indexed";
        causes.push(Cause::required(format!("{path}.completions"), why));
    }
    let parallelism = spec.get("parallelism").and_then(Value::as_i64);
    if let Some(n) = parallelism.filter(|n| indexed && *n > MOST_INDEXED) {
        let why =
            format!("must be less than or equal to {MOST_INDEXED} when completion mode is Indexed");
        causes.push(Cause::invalid(
            format!("{path}.parallelism"),
            &n.into(),
            &why,
        ));
    }
    if has("maxFailedIndexes") && !has("backoffLimitPerIndex") {
        let why = "when maxFailedIndexes is specified";
        causes.push(Cause::required(format!("{path}.backoffLimitPerIndex"), why));
    }
    for key in ["backoffLimitPerIndex", "maxFailedIndexes", "successPolicy"] {
        if let Some(found) = spec.get(key).filter(|v| !indexed && !v.is_null()) {
            let why = "requires indexed completion mode";
            causes.push(Cause::invalid(format!("{path}.{key}"), found, why));
        }
    }
    replacement_policy(spec, path, causes);
    job_template(spec, path, causes);
}

fn replacement_policy(spec: &Value, path: &str, causes: &mut Vec<Cause>) {
    let policy = object::text(spec, "/podReplacementPolicy");
    let allowed: &[&str] = match spec.get("podFailurePolicy") {
        Some(found) if !found.is_null() => &["Failed"],
        _ => &["Failed", "TerminatingOrFailed"],
    };
    if !policy.is_empty() && !allowed.contains(&policy) {
        let field = format!("{path}.podReplacementPolicy");
        causes.push(Cause::not_supported(field, &policy.into(), allowed));
    }
}

fn job_template(spec: &Value, path: &str, causes: &mut Vec<Cause>) {
    let template = format!("{path}.template.spec");
    pod::spec(spec.pointer("/template/spec"), &template, causes);
    let field = format!("{template}.restartPolicy");
    let forgives = spec.get("podFailurePolicy").is_some_and(|p| !p.is_null());
    match object::text(spec, "/template/spec/restartPolicy") {
        "" | "Always" => {
            let why = "valid values: \"OnFailure\", \"Never\"";
            causes.push(Cause::required(field, why));
        }
        "OnFailure" if forgives => {
            let why = "only \"Never\" is supported when podFailurePolicy is specified";
            causes.push(Cause::invalid(field, &"OnFailure".into(), why));
        }
        "OnFailure" | "Never" => {}
        other => {
            let allowed = ["OnFailure", "Never"];
            causes.push(Cause::not_supported(field, &other.into(), &allowed));
        }
    }
}

/// What a job may not change.
pub fn job_update(current: &Value, next: &Value, causes: &mut Vec<Cause>) {
    let of = |value: &Value, key: &str| value.pointer(&format!("/spec/{key}")).cloned();
    let mut fixed = vec![
        "selector",
        "completionMode",
        "podFailurePolicy",
        "backoffLimitPerIndex",
        "managedBy",
        "successPolicy",
    ];
    let indexed = object::text(next, "/spec/completionMode") == "Indexed";
    if !indexed {
        fixed.push("completions");
    } else if of(current, "completions") != of(next, "completions")
        && of(next, "completions") != of(next, "parallelism")
    {
        let shown = of(next, "completions").unwrap_or(Value::Null);
        let why = "can only be modified in tandem with spec.parallelism";
        causes.push(Cause::invalid("spec.completions", &shown, why));
    }
    if template(current, is_loose(current)) != template(next, is_loose(current)) {
        fixed.push("template");
    }
    for key in fixed {
        let (before, after) = (of(current, key), of(next, key));
        if before != after {
            let shown = after.unwrap_or(Value::Null);
            causes.push(Cause::invalid(
                format!("spec.{key}"),
                &shown,
                "field is immutable",
            ));
        }
    }
}

/// A suspended job that has not started yet may still say where its pods go.
fn is_loose(job: &Value) -> bool {
    job.pointer("/spec/suspend") == Some(&Value::Bool(true))
        && job.pointer("/status/startTime").is_none_or(Value::is_null)
}

/// The part of the template that stays.
fn template(job: &Value, loose: bool) -> Value {
    let mut template = job
        .pointer("/spec/template")
        .cloned()
        .unwrap_or(Value::Null);
    if !loose {
        return template;
    }
    for (parent, keys) in [
        ("/metadata", &["labels", "annotations"][..]),
        (
            "/spec",
            &["nodeSelector", "tolerations", "schedulingGates"][..],
        ),
        ("/spec/affinity", &["nodeAffinity"][..]),
    ] {
        if let Some(map) = template.pointer_mut(parent).and_then(Value::as_object_mut) {
            keys.iter().for_each(|key| drop(map.shift_remove(*key)));
        }
    }
    // An affinity in which only that was set is none.
    if let Some(spec) = template.pointer_mut("/spec").and_then(Value::as_object_mut)
        && spec
            .get("affinity")
            .and_then(Value::as_object)
            .is_some_and(serde_json::Map::is_empty)
    {
        spec.shift_remove("affinity");
    }
    template
}

/// A new or changed cron job.
pub fn cron_job(value: &Value, causes: &mut Vec<Cause>) {
    let spec = value.get("spec").unwrap_or(&Value::Null);
    let name = object::name(value);
    if name.len() > 52 {
        let why = "must be no more than 52 characters";
        causes.push(Cause::invalid("metadata.name", &name.into(), why));
    }
    schedule(object::text(spec, "/schedule"), causes);
    let numbers = [
        "startingDeadlineSeconds",
        "successfulJobsHistoryLimit",
        "failedJobsHistoryLimit",
    ];
    non_negative(spec, &numbers, "spec", causes);
    let policy = object::text(spec, "/concurrencyPolicy");
    let allowed = ["Allow", "Forbid", "Replace"];
    if !allowed.contains(&policy) {
        let field = "spec.concurrencyPolicy";
        causes.push(Cause::not_supported(field, &policy.into(), &allowed));
    }
    let job = spec.pointer("/jobTemplate/spec").unwrap_or(&Value::Null);
    job_spec(job, "spec.jobTemplate.spec", causes);
}

/// The form of a schedule; what its fields say is up to the controller, which
/// reports it in an event.
fn schedule(text: &str, causes: &mut Vec<Cause>) {
    let invalid = |why: &str| Cause::invalid("spec.schedule", &text.into(), why);
    let count = text.split_whitespace().count();
    if text.is_empty() {
        causes.push(Cause::required("spec.schedule", ""));
    } else if text.contains("TZ") {
        let why = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead";
        causes.push(invalid(why));
    } else if !text.starts_with('@') && count != 5 {
        let fields: Vec<&str> = text.split_whitespace().collect();
        causes.push(invalid(&format!(
            "expected exactly 5 fields, found {count}: [{}]",
            fields.join(" ")
        )));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn spec(more: Value) -> Value {
        let mut spec = json!({"completionMode": "NonIndexed", "selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}},
                "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}});
        for (key, value) in more.as_object().unwrap() {
            spec[key] = value.clone();
        }
        spec
    }

    fn fields(check: impl Fn(&mut Vec<Cause>)) -> Vec<String> {
        let mut causes = Vec::new();
        check(&mut causes);
        causes.into_iter().map(|cause| cause.field).collect()
    }

    #[test]
    fn jobs() {
        let check =
            |more: Value| fields(|causes| job(&json!({"spec": spec(more.clone())}), causes));
        assert_eq!(check(json!({})), [""; 0]);
        assert_eq!(check(json!({"parallelism": -1})), ["spec.parallelism"]);
        assert_eq!(
            check(json!({"completionMode": "Indexed"})),
            ["spec.completions"]
        );
        assert_eq!(
            check(json!({"backoffLimitPerIndex": 1})),
            ["spec.backoffLimitPerIndex"]
        );
        let always = json!({"template": {"metadata": {"labels": {"a": "b"}}, "spec":
            {"restartPolicy": "Always", "containers": [{"name": "c", "image": "i"}]}}});
        assert_eq!(check(always), ["spec.template.spec.restartPolicy"]);
        let policy = json!({"podFailurePolicy": {"rules": []}, "podReplacementPolicy": "TerminatingOrFailed"});
        assert_eq!(check(policy), ["spec.podReplacementPolicy"]);
    }

    #[test]
    fn changes_of_jobs() {
        let change = |before: Value, after: Value| {
            let (before, after) = (json!({"spec": spec(before)}), json!({"spec": spec(after)}));
            fields(|causes| job_update(&before, &after, causes))
        };
        assert_eq!(
            change(json!({"parallelism": 1}), json!({"parallelism": 2})),
            [""; 0]
        );
        assert_eq!(
            change(json!({"completions": 1}), json!({"completions": 2})),
            ["spec.completions"]
        );
        let elastic =
            |n: i64| json!({"completionMode": "Indexed", "completions": n, "parallelism": n});
        assert_eq!(change(elastic(1), elastic(2)), [""; 0]);
        let image = |name: &str, suspend: bool, node: &str| {
            json!({"suspend": suspend, "template": {"spec": {"nodeSelector": {"n": node},
                "containers": [{"name": "c", "image": name}]}}})
        };
        assert_eq!(
            change(image("a", true, "x"), image("b", true, "x")),
            ["spec.template"]
        );
        assert_eq!(
            change(image("a", true, "x"), image("a", false, "y")),
            [""; 0]
        );
        assert_eq!(
            change(image("a", false, "x"), image("a", false, "y")),
            ["spec.template"]
        );
    }

    #[test]
    fn cron_jobs() {
        let check = |schedule: &str| {
            let cron = json!({"metadata": {"name": "c"}, "spec": {"schedule": schedule,
                "concurrencyPolicy": "Allow", "jobTemplate": {"spec": spec(json!({}))}}});
            fields(|causes| cron_job(&cron, causes))
        };
        assert_eq!(check("*/5 * * * *"), [""; 0]);
        assert_eq!(check("@hourly"), [""; 0]);
        for wrong in ["", "* * * *", "TZ=UTC * * * * *"] {
            assert_eq!(check(wrong), ["spec.schedule"], "{wrong}");
        }
    }
}
