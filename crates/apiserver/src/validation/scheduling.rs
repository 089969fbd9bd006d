//! Rules about where pods may run: tolerations, affinity, spreading, taints.

use super::{
    fields::{list, one_of, selector},
    meta,
};
use crate::{object, status::Cause};
use serde_json::Value;
use std::collections::HashSet;

const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];

/// Everything about placement in a pod's spec, but its tolerations.
pub fn placement(spec: &Value, path: &str, causes: &mut Vec<Cause>) {
    let affinity = spec.get("affinity").unwrap_or(&Value::Null);
    if let Some(node) = affinity.get("nodeAffinity") {
        node_affinity(node, &format!("{path}.affinity.nodeAffinity"), causes);
    }
    for key in ["podAffinity", "podAntiAffinity"] {
        if let Some(pods) = affinity.get(key) {
            pod_affinity(pods, &format!("{path}.affinity.{key}"), causes);
        }
    }
}

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

fn node_affinity(affinity: &Value, path: &str, causes: &mut Vec<Cause>) {
    if let Some(required) = affinity.get(REQUIRED) {
        let path = format!("{path}.{REQUIRED}.nodeSelectorTerms");
        let terms = list(required, "nodeSelectorTerms");
        if terms.is_empty() {
            let hint = "must have at least one node selector term";
            causes.push(Cause::required(path.clone(), hint));
        }
        for (i, term) in terms.iter().enumerate() {
            node_term(term, &format!("{path}[{i}]"), causes);
        }
    }
    for (i, preferred) in list(affinity, PREFERRED).iter().enumerate() {
        let path = format!("{path}.{PREFERRED}[{i}]");
        weight(preferred, &path, causes);
        let term = preferred.get("preference").unwrap_or(&Value::Null);
        node_term(term, &format!("{path}.preference"), causes);
    }
}

fn weight(preferred: &Value, path: &str, causes: &mut Vec<Cause>) {
    let weight = preferred.get("weight").and_then(Value::as_i64).unwrap_or(0);
    if !(1..=100).contains(&weight) {
        let why = "must be in the range 1-100";
        causes.push(Cause::invalid(
            format!("{path}.weight"),
            &weight.into(),
            why,
        ));
    }
}

fn node_term(term: &Value, path: &str, causes: &mut Vec<Cause>) {
    for (i, expression) in list(term, "matchExpressions").iter().enumerate() {
        let path = format!("{path}.matchExpressions[{i}]");
        let values = list(expression, "values");
        let field = format!("{path}.values");
        match object::text(expression, "/operator") {
            "In" | "NotIn" if values.is_empty() => {
                let hint = "must be specified when `operator` is 'In' or 'NotIn'";
                causes.push(Cause::required(field, hint));
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                let why = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                causes.push(Cause::forbidden(field, why));
            }
            "Gt" | "Lt" if values.len() != 1 => {
                let hint = "must be specified single value when `operator` is 'Lt' or 'Gt'";
                causes.push(Cause::required(field, hint));
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
            other => {
                let why = "not a valid selector operator";
                causes.push(Cause::invalid(
                    format!("{path}.operator"),
                    &other.into(),
                    why,
                ));
            }
        }
        meta::label_name(
            object::text(expression, "/key"),
            &format!("{path}.key"),
            causes,
        );
        for (j, value) in values.iter().enumerate() {
            if let Some(why) = meta::label_value(value.as_str().unwrap_or_default()) {
                causes.push(Cause::invalid(format!("{path}.values[{j}]"), value, why));
            }
        }
    }
}

fn pod_affinity(affinity: &Value, path: &str, causes: &mut Vec<Cause>) {
    for (i, term) in list(affinity, REQUIRED).iter().enumerate() {
        pod_term(term, &format!("{path}.{REQUIRED}[{i}]"), causes);
    }
    for (i, preferred) in list(affinity, PREFERRED).iter().enumerate() {
        let path = format!("{path}.{PREFERRED}[{i}]");
        weight(preferred, &path, causes);
        let term = preferred.get("podAffinityTerm").unwrap_or(&Value::Null);
        pod_term(term, &format!("{path}.podAffinityTerm"), causes);
    }
}

fn pod_term(term: &Value, path: &str, causes: &mut Vec<Cause>) {
    for key in ["labelSelector", "namespaceSelector"] {
        selector(term.get(key), &format!("{path}.{key}"), causes);
    }
    let topology = object::text(term, "/topologyKey");
    let field = format!("{path}.topologyKey");
    if topology.is_empty() {
        causes.push(Cause::required(field.clone(), "can not be empty"));
    }
    meta::label_name(topology, &field, causes);
}

/// How pods are spread.
pub fn spread(spec: &Value, path: &str, causes: &mut Vec<Cause>) {
    let constraints = list(spec, "topologySpreadConstraints");
    for (i, constraint) in constraints.iter().enumerate() {
        let path = format!("{path}.topologySpreadConstraints[{i}]");
        let skew = constraint
            .get("maxSkew")
            .and_then(Value::as_i64)
            .unwrap_or(0);
        if skew <= 0 {
            let why = "must be greater than zero";
            causes.push(Cause::invalid(format!("{path}.maxSkew"), &skew.into(), why));
        }
        let topology = object::text(constraint, "/topologyKey");
        if topology.is_empty() {
            causes.push(Cause::required(
                format!("{path}.topologyKey"),
                "can not be empty",
            ));
        }
        let when = ["DoNotSchedule", "ScheduleAnyway"];
        one_of(constraint, "whenUnsatisfiable", &path, &when, causes);
        selector(
            constraint.get("labelSelector"),
            &format!("{path}.labelSelector"),
            causes,
        );
    }
}

/// Which taints a pod tolerates.
pub fn tolerations(spec: &Value, path: &str, causes: &mut Vec<Cause>) {
    for (i, toleration) in list(spec, "tolerations").iter().enumerate() {
        let path = format!("{path}.tolerations[{i}]");
        let text = |key: &str| object::text(toleration, &format!("/{key}"));
        let (key, operator, value) = (text("key"), text("operator"), text("value"));
        if !key.is_empty() {
            meta::label_name(key, &format!("{path}.key"), causes);
        }
        let field = format!("{path}.operator");
        if key.is_empty() && operator != "Exists" {
            let why = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            causes.push(Cause::invalid(field.clone(), &operator.into(), why));
        }
        if toleration.get("tolerationSeconds").is_some() && text("effect") != "NoExecute" {
            let why = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            causes.push(Cause::invalid(
                format!("{path}.effect"),
                &text("effect").into(),
                why,
            ));
        }
        match operator {
            "" | "Equal" => {
                if let Some(why) = meta::label_value(value) {
                    causes.push(Cause::invalid(field, &value.into(), why));
                }
            }
            "Exists" if !value.is_empty() => {
                let why = "value must be empty when `operator` is 'Exists'";
                causes.push(Cause::invalid(field, &value.into(), why));
            }
            "Exists" => {}
            other => causes.push(Cause::not_supported(
                field,
                &other.into(),
                &["Equal", "Exists"],
            )),
        }
        if !text("effect").is_empty() {
            one_of(toleration, "effect", &path, &EFFECTS, causes);
        }
    }
}

/// The taints of a node.
pub fn taints(node: &Value, causes: &mut Vec<Cause>) {
    let mut seen = HashSet::new();
    let spec = node.get("spec").unwrap_or(&Value::Null);
    for (i, taint) in list(spec, "taints").iter().enumerate() {
        // Not below `spec`: that is where Kubernetes says they are.
        let path = format!("metadata.taints[{i}]");
        let (key, effect) = (object::text(taint, "/key"), object::text(taint, "/effect"));
        meta::label_name(key, &format!("{path}.key"), causes);
        let value = object::text(taint, "/value");
        if let Some(why) = meta::label_value(value) {
            causes.push(Cause::invalid(format!("{path}.value"), &value.into(), why));
        }
        if effect.is_empty() {
            causes.push(Cause::required(format!("{path}.effect"), ""));
        } else {
            one_of(taint, "effect", &path, &EFFECTS, causes);
        }
        if !seen.insert((key, effect)) {
            let mut cause = Cause::duplicate(path, taint);
            cause.message += ": taints must be unique by key and effect pair";
            causes.push(cause);
        }
    }
}
