//! Rules about the kinds that make pods.

use super::{meta, pod};
use crate::{object, selectors::LabelSelector, status::Cause};
use serde_json::Value;

/// Kinds of apps/v1.
pub fn apps(value: &Value, causes: &mut Vec<Cause>) {
    let spec = value.get("spec").unwrap_or(&Value::Null);
    if let Some(n) = spec
        .get("replicas")
        .and_then(Value::as_i64)
        .filter(|n| *n < 0)
    {
        let why = "must be greater than or equal to 0";
        causes.push(Cause::invalid("spec.replicas", &n.into(), why));
    }
    selector(spec, causes);
    meta::labels(value, "spec.template.metadata.labels", causes);
    template(spec, "Always", causes);
}

/// batch/v1 Job.
pub fn job(value: &Value, causes: &mut Vec<Cause>) {
    let spec = value.get("spec").unwrap_or(&Value::Null);
    pod::spec(spec.pointer("/template/spec"), "spec.template.spec", causes);
    let policy = object::text(spec, "/template/spec/restartPolicy");
    if !matches!(policy, "OnFailure" | "Never") {
        let allowed = ["Never", "OnFailure"];
        causes.push(Cause::not_supported(
            "spec.template.spec.restartPolicy",
            &policy.into(),
            &allowed,
        ));
    }
}

fn selector(spec: &Value, causes: &mut Vec<Cause>) {
    let Some(found) = spec.get("selector") else {
        causes.push(Cause::required("spec.selector", ""));
        return;
    };
    let Some(selector) = LabelSelector::from_object(found) else {
        causes.push(Cause::invalid(
            "spec.selector",
            found,
            "invalid label selector",
        ));
        return;
    };
    if selector.is_empty() {
        causes.push(Cause::invalid(
            "spec.selector",
            found,
            "empty selector is invalid for deployment",
        ));
        return;
    }
    let template = spec.get("template").unwrap_or(&Value::Null);
    if !selector.matches(template) {
        let labels = template.pointer("/metadata/labels").unwrap_or(&Value::Null);
        let why = "`selector` does not match template `labels`";
        causes.push(Cause::invalid("spec.template.metadata.labels", labels, why));
    }
}

fn template(spec: &Value, policy: &str, causes: &mut Vec<Cause>) {
    pod::spec(spec.pointer("/template/spec"), "spec.template.spec", causes);
    let found = object::text(spec, "/template/spec/restartPolicy");
    if found != policy && !found.is_empty() {
        let field = "spec.template.spec.restartPolicy";
        causes.push(Cause::not_supported(field, &found.into(), &[policy]));
    }
}
