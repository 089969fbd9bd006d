//! Rules about the kinds of apps/v1, which make pods.

use super::{
    fields::{is_zero, non_negative, number_or_share, share},
    meta, pod,
};
use crate::{object, selectors::LabelSelector, status::Cause};
use serde_json::{Value, json};

/// What only some fields of a stateful set's spec may do.
const FIXED: &str = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";

/// The status of an `apps` kind: counts are not negative, and of a Deployment no larger than the
/// count of all.
pub fn status(kind: &str, value: &Value, causes: &mut Vec<Cause>) {
    let status = value.get("status").and_then(Value::as_object);
    for (key, count) in status.into_iter().flatten() {
        if count.as_i64().is_some_and(|n| n < 0) {
            let why = "must be greater than or equal to 0";
            causes.push(Cause::invalid(format!("status.{key}"), count, why));
        }
    }
    if kind != "Deployment" {
        return;
    }
    let count = |key: &str| {
        let count = value.pointer(&format!("/status/{key}"));
        count.and_then(Value::as_i64).unwrap_or(0)
    };
    let mut at_most = |key: &str, most: &str, name: &str| {
        if count(key) > count(most) {
            let why = format!("cannot be greater than {name}");
            causes.push(Cause::invalid(
                format!("status.{key}"),
                &count(key).into(),
                &why,
            ));
        }
    };
    for key in ["availableReplicas", "readyReplicas", "updatedReplicas"] {
        at_most(key, "replicas", "status.replicas");
    }
    at_most("availableReplicas", "readyReplicas", "readyReplicas");
}

/// A new or changed object of `kind`.
pub fn apps(kind: &str, value: &Value, causes: &mut Vec<Cause>) {
    let spec = value.get("spec").unwrap_or(&Value::Null);
    let numbers = [
        "replicas",
        "minReadySeconds",
        "revisionHistoryLimit",
        "progressDeadlineSeconds",
    ];
    non_negative(spec, &numbers, "spec", causes);
    selector(kind, spec, causes);
    meta::labels(value, "spec.template.metadata.labels", causes);
    match kind {
        "Deployment" => deployment(spec, causes),
        "DaemonSet" => daemon_set(spec, causes),
        "StatefulSet" => return stateful_set(spec, causes),
        _ => {}
    }
    template(kind, spec.pointer("/template/spec"), causes);
}

fn selector(kind: &str, spec: &Value, causes: &mut Vec<Cause>) {
    let Some(found) = spec.get("selector").filter(|found| !found.is_null()) else {
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
        // Replica sets say so too.
        let named = if kind == "ReplicaSet" {
            "deployment"
        } else {
            kind
        };
        let why = format!("empty selector is invalid for {}", named.to_lowercase());
        causes.push(Cause::invalid("spec.selector", found, &why));
        return;
    }
    matches_template(&selector, spec, causes);
}

/// The selector must pick the pods that the template makes.
pub fn matches_template(selector: &LabelSelector, spec: &Value, causes: &mut Vec<Cause>) {
    let template = spec.get("template").unwrap_or(&Value::Null);
    if !selector.matches(template) {
        let labels = template.pointer("/metadata/labels").unwrap_or(&Value::Null);
        let why = "`selector` does not match template `labels`";
        causes.push(Cause::invalid("spec.template.metadata.labels", labels, why));
    }
}

/// The pod template of a kind whose pods never end by themselves.
fn template(kind: &str, template: Option<&Value>, causes: &mut Vec<Cause>) {
    pod::spec(template, "spec.template.spec", causes);
    let template = template.unwrap_or(&Value::Null);
    let found = object::text(template, "/restartPolicy");
    if found != "Always" && !found.is_empty() {
        let field = "spec.template.spec.restartPolicy";
        causes.push(Cause::not_supported(field, &found.into(), &["Always"]));
    }
    let ends = template
        .get("activeDeadlineSeconds")
        .is_some_and(|v| !v.is_null());
    if ends {
        let field = "spec.template.spec.activeDeadlineSeconds";
        let why = format!("activeDeadlineSeconds in {kind} is not Supported");
        causes.push(Cause::forbidden(field, &why));
    }
}

fn deployment(spec: &Value, causes: &mut Vec<Cause>) {
    let number = |key: &str| spec.get(key).and_then(Value::as_i64);
    if let (Some(deadline), Some(ready)) =
        (number("progressDeadlineSeconds"), number("minReadySeconds"))
        && deadline <= ready
    {
        let why = "must be greater than minReadySeconds";
        let field = "spec.progressDeadlineSeconds";
        causes.push(Cause::invalid(field, &deadline.into(), why));
    }
    let strategy = spec.get("strategy").unwrap_or(&Value::Null);
    let rolling = strategy.get("rollingUpdate").filter(|r| !r.is_null());
    match object::text(strategy, "/type") {
        "Recreate" if rolling.is_some() => {
            let why = "may not be specified when strategy `type` is 'Recreate'";
            causes.push(Cause::forbidden("spec.strategy.rollingUpdate", why));
        }
        "RollingUpdate" | "Recreate" => {}
        other => {
            let allowed = ["Recreate", "RollingUpdate"];
            let field = "spec.strategy.type";
            causes.push(Cause::not_supported(field, &other.into(), &allowed));
        }
    }
    let Some(rolling) = rolling else { return };
    let path = "spec.strategy.rollingUpdate";
    let (surge, unavailable) = (rolling.get("maxSurge"), rolling.get("maxUnavailable"));
    number_or_share(surge, &format!("{path}.maxSurge"), causes);
    share(unavailable, &format!("{path}.maxUnavailable"), causes);
    if is_zero(surge) && is_zero(unavailable) {
        let shown = unavailable.unwrap_or(&Value::Null);
        let why = "may not be 0 when `maxSurge` is 0";
        causes.push(Cause::invalid(format!("{path}.maxUnavailable"), shown, why));
    }
}

fn daemon_set(spec: &Value, causes: &mut Vec<Cause>) {
    let strategy = spec.get("updateStrategy").unwrap_or(&Value::Null);
    let kind = object::text(strategy, "/type");
    if !matches!(kind, "RollingUpdate" | "OnDelete") {
        let allowed = ["OnDelete", "RollingUpdate"];
        let field = "spec.updateStrategy.type";
        causes.push(Cause::not_supported(field, &kind.into(), &allowed));
    }
    let Some(rolling) = strategy
        .get("rollingUpdate")
        .filter(|_| kind == "RollingUpdate")
    else {
        return;
    };
    let path = "spec.updateStrategy.rollingUpdate";
    let (surge, unavailable) = (rolling.get("maxSurge"), rolling.get("maxUnavailable"));
    share(surge, &format!("{path}.maxSurge"), causes);
    share(unavailable, &format!("{path}.maxUnavailable"), causes);
    if is_zero(surge) && is_zero(unavailable) {
        let field = format!("{path}.maxUnavailable");
        causes.push(Cause::required(field, "cannot be 0 when maxSurge is 0"));
    } else if !is_zero(surge) && !is_zero(unavailable) {
        let shown = surge.unwrap_or(&Value::Null);
        let why = "may not be set when maxUnavailable is non-zero";
        causes.push(Cause::invalid(format!("{path}.maxSurge"), shown, why));
    }
}

fn stateful_set(spec: &Value, causes: &mut Vec<Cause>) {
    let policy = object::text(spec, "/podManagementPolicy");
    if !matches!(policy, "OrderedReady" | "Parallel") {
        let why = "must be 'OrderedReady' or 'Parallel'";
        let field = "spec.podManagementPolicy";
        causes.push(Cause::invalid(field, &policy.into(), why));
    }
    let strategy = spec.get("updateStrategy").unwrap_or(&Value::Null);
    let rolling = strategy.get("rollingUpdate").filter(|r| !r.is_null());
    match (object::text(strategy, "/type"), rolling) {
        ("RollingUpdate", Some(rolling)) => {
            let path = "spec.updateStrategy.rollingUpdate";
            non_negative(rolling, &["partition"], path, causes);
        }
        ("OnDelete", Some(rolling)) => {
            let why = "only allowed for updateStrategy 'RollingUpdate'";
            let field = "spec.updateStrategy.rollingUpdate";
            causes.push(Cause::invalid(field, rolling, why));
        }
        ("RollingUpdate" | "OnDelete", None) => {}
        _ => {
            let why = "must be 'RollingUpdate' or 'OnDelete'";
            causes.push(Cause::invalid("spec.updateStrategy", strategy, why));
        }
    }
    if let Some(ordinals) = spec.get("ordinals") {
        non_negative(ordinals, &["start"], "spec.ordinals", causes);
    }
    let service = object::text(spec, "/serviceName");
    if let Some(why) = meta::dns_label(service, false).filter(|_| !service.is_empty()) {
        causes.push(Cause::invalid("spec.serviceName", &service.into(), why));
    }
    template("StatefulSet", Some(&with_claims(spec)), causes);
}

/// The template's pod spec with the volumes that the claims will be.
fn with_claims(spec: &Value) -> Value {
    let mut pod = spec
        .pointer("/template/spec")
        .cloned()
        .unwrap_or(Value::Null);
    let list = |value: &Value, key: &str| -> Vec<Value> {
        let list = value.get(key).and_then(Value::as_array);
        list.cloned().unwrap_or_default()
    };
    let claims = list(spec, "volumeClaimTemplates");
    let names: Vec<&str> = claims.iter().map(object::name).collect();
    let mut volumes = list(&pod, "volumes");
    volumes.retain(|volume| !names.contains(&object::text(volume, "/name")));
    volumes.extend(
        names
            .iter()
            .map(|name| json!({"name": name, "persistentVolumeClaim": {"claimName": name}})),
    );
    if let Some(pod) = pod.as_object_mut().filter(|_| !volumes.is_empty()) {
        pod.insert("volumes".into(), volumes.into());
    }
    pod
}

/// What a stateful set may not change.
pub fn stateful_set_update(current: &Value, next: &Value, causes: &mut Vec<Cause>) {
    let fixed = |value: &Value| {
        let mut spec = value.get("spec").cloned().unwrap_or(Value::Null);
        if let Some(map) = spec.as_object_mut() {
            for key in [
                "replicas",
                "ordinals",
                "template",
                "updateStrategy",
                "revisionHistoryLimit",
                "persistentVolumeClaimRetentionPolicy",
                "minReadySeconds",
            ] {
                map.shift_remove(key);
            }
        }
        spec
    };
    if fixed(current) != fixed(next) {
        causes.push(Cause::forbidden("spec", FIXED));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(kind: &str, more: Value) -> Vec<String> {
        let mut spec = json!({
            "selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}},
                "spec": {"restartPolicy": "Always", "containers": [{"name": "c", "image": "i"}]}}});
        for (key, value) in more.as_object().unwrap() {
            spec[key] = value.clone();
        }
        let mut causes = Vec::new();
        apps(kind, &json!({"spec": spec}), &mut causes);
        causes
            .into_iter()
            .map(|c| format!("{}: {}", c.field, c.message))
            .collect()
    }

    #[test]
    fn deployments() {
        let rolling = |surge: Value, unavailable: Value| {
            json!({"strategy": {"type": "RollingUpdate",
                "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}}})
        };
        assert_eq!(
            check("Deployment", rolling(json!("25%"), json!(0))),
            [""; 0]
        );
        assert_eq!(
            check("Deployment", rolling(json!(0), json!("0%"))),
            [
                "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"0%\": may not be 0 when `maxSurge` is 0"
            ]
        );
        assert!(check("Deployment", rolling(json!(1), json!("101%")))[0].contains("100%"));
        assert!(
            check("Deployment", rolling(json!("much"), json!(1)))[0].contains("percent string")
        );
        let late = json!({"strategy": {"type": "Recreate"}, "progressDeadlineSeconds": 5, "minReadySeconds": 5});
        assert!(check("Deployment", late)[0].contains("must be greater than minReadySeconds"));
        let empty = json!({"strategy": {"type": "Recreate"}, "selector": {}});
        assert!(
            check("Deployment", empty)[0].ends_with("empty selector is invalid for deployment")
        );
    }

    #[test]
    fn daemon_sets() {
        let rolling = |surge: i64, unavailable: i64| {
            json!({"updateStrategy": {"type": "RollingUpdate",
                "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}}})
        };
        assert_eq!(check("DaemonSet", rolling(0, 1)), [""; 0]);
        assert!(check("DaemonSet", rolling(0, 0))[0].contains("cannot be 0 when maxSurge is 0"));
        assert!(
            check("DaemonSet", rolling(1, 1))[0].contains("may not be set when maxUnavailable")
        );
    }

    #[test]
    fn stateful_sets() {
        let good = json!({"podManagementPolicy": "Parallel", "updateStrategy": {"type": "OnDelete"},
            "volumeClaimTemplates": [{"metadata": {"name": "data"}}],
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [
                {"name": "c", "image": "i", "volumeMounts": [{"name": "data", "mountPath": "/d"}]}]}}});
        assert_eq!(check("StatefulSet", good), [""; 0]);
        let bad = json!({"podManagementPolicy": "Any", "updateStrategy": {"type": "Slow"}, "serviceName": "A_B"});
        let fields: Vec<String> = check("StatefulSet", bad)
            .iter()
            .map(|text| text.split(':').next().unwrap().to_string())
            .collect();
        assert_eq!(
            fields,
            [
                "spec.podManagementPolicy",
                "spec.updateStrategy",
                "spec.serviceName"
            ]
        );
    }

    #[test]
    fn only_some_fields_of_a_stateful_set_change() {
        let set = |spec: Value| json!({"spec": spec});
        let mut causes = Vec::new();
        let before = set(json!({"replicas": 1, "serviceName": "a"}));
        stateful_set_update(
            &before,
            &set(json!({"replicas": 2, "serviceName": "a"})),
            &mut causes,
        );
        assert!(causes.is_empty());
        stateful_set_update(
            &before,
            &set(json!({"replicas": 1, "serviceName": "b"})),
            &mut causes,
        );
        assert_eq!(causes[0].field, "spec");
    }
}
