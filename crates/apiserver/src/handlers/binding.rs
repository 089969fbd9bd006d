//! POST pods/x/binding: a pod is put on a node.

use super::{
    Context,
    subresources::{builtin, done},
};
use crate::{
    http::Body,
    object,
    ops::{self, Part},
    registry::Resource,
    status::{ApiError, Result},
};
use ::http::Response;
use serde_json::{Value, json};
use std::sync::Arc;

/// Serves the request. `asked` is the resource that the request names, pods or bindings.
pub async fn bind(
    context: &Context,
    asked: &Arc<Resource>,
    pod: &str,
    body: Value,
) -> Result<Response<Body>> {
    let pods = builtin(&context.api.registry, "Pod")?;
    let mut writer = context.writer()?;
    let mut body = object::typed(body, "v1", "Binding");
    for (key, value) in [("name", pod), ("namespace", context.namespace())] {
        object::set_metadata(&mut body, key, Some(value.into()));
    }
    let admitted = context.admit("CREATE", asked, body, None, &mut writer);
    let body = admitted.await?;
    let node = object::text(&body, "/target/name").to_string();
    if node.is_empty() {
        return Err(ApiError::odd("target.name: Required value"));
    }
    ops::update_own(
        &context.api,
        &pods,
        context.namespace(),
        pod,
        Part::All,
        &mut writer,
        |current, _| {
            let conflict = |why: &str| ApiError::conflict_because("", "pods/binding", pod, why);
            if object::terminating(current) {
                return Err(conflict(&format!(
                    "pod {pod} is being deleted, cannot be assigned to a host"
                )));
            }
            let there = object::text(current, "/spec/nodeName");
            if !there.is_empty() {
                return Err(conflict(&format!(
                    "pod {pod} is already assigned to node {there:?}"
                )));
            }
            let uid = object::uid(&body);
            if !uid.is_empty() && uid != object::uid(current) {
                return Err(conflict("the pod has another uid than the binding"));
            }
            let mut next = current.clone();
            if let Some(spec) = object::child(&mut next, "spec") {
                spec.insert("nodeName".into(), node.clone().into());
            }
            scheduled(&mut next);
            Ok(next)
        },
    )?;
    Ok(done(&writer))
}

/// The condition `PodScheduled` becomes true.
fn scheduled(pod: &mut Value) {
    let Some(status) = object::child(pod, "status") else {
        return;
    };
    let conditions = status.entry("conditions").or_insert_with(|| json!([]));
    let Some(list) = conditions.as_array_mut() else {
        return;
    };
    list.retain(|c| object::text(c, "/type") != "PodScheduled");
    list.push(
        json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null,
        "lastTransitionTime": object::now()}),
    );
}
