//! POST pods/x/eviction: a deletion that disruption budgets may refuse.
//!
//! What a budget allows stands in its status, which a controller keeps. Each
//! eviction takes one from it and leaves its mark, so that two at once cannot
//! both take the last one.

use super::{
    Context,
    subresources::{body, done},
};
use crate::{
    http::Body,
    object,
    ops::{self, DeleteOptions, Part, Writer},
    registry::Resource,
    selectors::LabelSelector,
    status::{ApiError, Result},
};
use ::http::{Request, Response};
use hyper::body::Incoming;
use serde_json::{Value, json};
use std::sync::Arc;

/// Seconds after which a client may ask again about a budget that is being counted.
const RETRY_SECONDS: i64 = 10;
/// More marks than that mean that nobody counts any more.
const MOST_MARKS: usize = 2000;

/// Serves the request.
pub async fn evict(
    context: &Context,
    resource: &Arc<Resource>,
    request: Request<Incoming>,
) -> Result<Response<Body>> {
    let body = body(request).await?;
    let (namespace, name) = (context.namespace(), context.target.name.as_str());
    let pod = ops::get(&context.api, resource, namespace, name)?;
    let named = object::name(&body);
    if !named.is_empty() && named != name {
        let why = "name in URL does not match name in Eviction object";
        return Err(ApiError::bad_request(why));
    }
    let mut writer = context.writer()?;
    let body = match body.is_object() {
        true => body,
        false => json!({"metadata": {"name": name, "namespace": namespace}}),
    };
    let body = object::typed(body, "policy/v1", "Eviction");
    let admitted = context.admit("CREATE", resource, body, None, &mut writer);
    let body = admitted.await?;
    // kube-rs writes the options in snake case.
    let options = body
        .get("deleteOptions")
        .or_else(|| body.get("delete_options"));
    let options = DeleteOptions::parse(options.unwrap_or(&Value::Null))?;
    if !serves_nobody(pod.value()) {
        ask_budget(context, pod.value(), &mut writer)?;
        mark(context, resource, name, &mut writer)?;
    }
    ops::delete_own(
        &context.api,
        resource,
        namespace,
        name,
        &options,
        &mut writer,
    )?;
    Ok(done(&writer))
}

/// A pod that has not started, has ended or is ending is no loss.
fn serves_nobody(pod: &Value) -> bool {
    let phase = object::text(pod, "/status/phase");
    matches!(phase, "Succeeded" | "Failed" | "Pending") || object::terminating(pod)
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod.pointer("/status/conditions").and_then(Value::as_array);
    let is =
        |c: &Value| object::text(c, "/type") == "Ready" && object::text(c, "/status") == "True";
    conditions.into_iter().flatten().any(is)
}

/// Takes one disruption from the pod's budget, if it has one.
fn ask_budget(context: &Context, pod: &Value, writer: &mut Writer<'_>) -> Result<()> {
    let namespace = object::namespace(pod);
    let budgets = context
        .api
        .store
        .list("poddisruptionbudgets.policy", Some(namespace))
        .1;
    let covers = |budget: &Value| {
        let selector = budget.pointer("/spec/selector");
        let selector = selector.and_then(LabelSelector::from_object);
        selector.is_some_and(|selector| selector.matches(pod))
    };
    let mut covering = budgets.iter().filter(|budget| covers(budget.value()));
    let Some(budget) = covering.next() else {
        return Ok(());
    };
    if covering.next().is_some() {
        return Err(ApiError::internal(
            "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
        ));
    }
    if is_free(budget.value(), pod) {
        return Ok(());
    }
    let resource = context
        .api
        .registry
        .find_kind("policy", "v1", "PodDisruptionBudget")
        .ok_or_else(|| ApiError::internal("PodDisruptionBudget is not served"))?;
    let (name, pod_name) = (object::name(budget.value()), object::name(pod));
    ops::update_own(
        &context.api,
        &resource,
        namespace,
        name,
        Part::Status,
        writer,
        |current, _| take(current, pod_name),
    )?;
    Ok(())
}

/// Whether the loss of a pod that is not ready costs the budget nothing.
fn is_free(budget: &Value, pod: &Value) -> bool {
    if is_ready(pod) {
        return false;
    }
    let number = |key: &str| budget.pointer(key).and_then(Value::as_i64).unwrap_or(0);
    let (healthy, desired) = (
        number("/status/currentHealthy"),
        number("/status/desiredHealthy"),
    );
    object::text(budget, "/spec/unhealthyPodEvictionPolicy") == "AlwaysAllow"
        || (desired > 0 && healthy >= desired)
}

/// The budget with one disruption less, and a mark for the pod.
fn take(budget: &Value, pod: &str) -> Result<Value> {
    let name = object::name(budget);
    let number = |key: &str| budget.pointer(key).and_then(Value::as_i64).unwrap_or(0);
    if number("/status/observedGeneration") < number("/metadata/generation") {
        let why = format!("The disruption budget {name} is still being processed by the server.");
        let mut refusal = refusal(why);
        refusal.details["retryAfterSeconds"] = RETRY_SECONDS.into();
        return Err(refusal);
    }
    let marks = budget
        .pointer("/status/disruptedPods")
        .and_then(Value::as_object);
    if marks.is_some_and(|marks| marks.len() > MOST_MARKS) {
        let why = "DisruptedPods map too big - too many evictions not confirmed by PDB controller";
        return Err(ApiError::forbidden(
            "policy",
            "poddisruptionbudgets",
            name,
            why,
        ));
    }
    let allowed = number("/status/disruptionsAllowed");
    if allowed <= 0 {
        return Err(refusal(format!(
            "The disruption budget {name} needs {} healthy pods and has {} currently",
            number("/status/desiredHealthy"),
            number("/status/currentHealthy")
        )));
    }
    let mut next = budget.clone();
    if let Some(status) = object::child(&mut next, "status") {
        status.insert("disruptionsAllowed".into(), (allowed - 1).into());
        let marks = status.entry("disruptedPods").or_insert_with(|| json!({}));
        if let Some(marks) = marks.as_object_mut() {
            marks.insert(pod.to_string(), object::now().into());
        }
    }
    Ok(next)
}

fn refusal(why: String) -> ApiError {
    let mut error = ApiError::too_many_requests(
        "Cannot evict pod as it would violate the pod's disruption budget.",
    );
    error.details = json!({"causes": [{"reason": "DisruptionBudget", "message": why}]});
    error
}

/// Notes on the pod why it goes.
fn mark(context: &Context, resource: &Resource, name: &str, writer: &mut Writer<'_>) -> Result<()> {
    let condition = json!({"type": "DisruptionTarget", "status": "True",
        "reason": "EvictionByEvictionAPI", "message": "Eviction API: evicting",
        "lastProbeTime": null, "lastTransitionTime": object::now()});
    ops::update_own(
        &context.api,
        resource,
        context.namespace(),
        name,
        Part::Status,
        writer,
        |current, _| {
            let mut next = current.clone();
            if let Some(status) = object::child(&mut next, "status") {
                let list = status.entry("conditions").or_insert_with(|| json!([]));
                if let Some(list) = list.as_array_mut() {
                    list.retain(|c| object::text(c, "/type") != "DisruptionTarget");
                    list.push(condition.clone());
                }
            }
            Ok(next)
        },
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::http::StatusCode;

    fn budget(status: Value) -> Value {
        json!({"metadata": {"name": "b", "generation": 2}, "spec": {}, "status": status})
    }

    #[test]
    fn a_disruption_is_taken_once() {
        let full = budget(json!({"observedGeneration": 2, "disruptionsAllowed": 1}));
        let after = take(&full, "p").unwrap();
        assert_eq!(after["status"]["disruptionsAllowed"], 0);
        assert!(after["status"]["disruptedPods"]["p"].is_string());
        let error = take(&after, "q").unwrap_err();
        assert_eq!(error.code, StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(error.details["causes"][0]["reason"], "DisruptionBudget");
        let late = budget(json!({"observedGeneration": 1, "disruptionsAllowed": 1}));
        let error = take(&late, "p").unwrap_err();
        assert_eq!(error.details["retryAfterSeconds"], 10);
    }

    #[test]
    fn pods_that_are_not_ready_are_free_if_the_budget_is_met_or_says_so() {
        let unready = json!({"status": {"phase": "Running"}});
        let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        let met = budget(json!({"currentHealthy": 2, "desiredHealthy": 2}));
        let short = budget(json!({"currentHealthy": 1, "desiredHealthy": 2}));
        assert!(is_free(&met, &unready) && !is_free(&short, &unready) && !is_free(&met, &ready));
        let mut always = short;
        always["spec"]["unhealthyPodEvictionPolicy"] = "AlwaysAllow".into();
        assert!(is_free(&always, &unready) && !is_free(&always, &ready));
    }
}
