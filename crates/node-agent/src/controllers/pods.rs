//! Creating and deleting pods on behalf of an owner.

use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use serde_json::json;

use super::error::{ControllerError, Doing, is_status};
use super::meta;
use super::world::World;
use crate::informer::ObjectKey;

/// A pod of `template` that `owner` controls, not created yet.
pub(crate) fn from_template<K: Resource<DynamicType = ()>>(
    owner: &K,
    template: &PodTemplateSpec,
) -> Pod {
    let given = template.metadata.clone().unwrap_or_default();
    let prefix = format!("{}-", owner.meta().name.as_deref().unwrap_or_default());
    Pod {
        metadata: ObjectMeta {
            name: Some(meta::generated_name(&prefix)),
            generate_name: Some(prefix),
            namespace: owner.meta().namespace.clone(),
            labels: given.labels,
            annotations: given.annotations,
            finalizers: given.finalizers,
            owner_references: Some(vec![meta::controller_ref(owner)]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

/// Creates `pod`, and says so (or why not) in an event about `owner`.
pub(crate) async fn create<K: Resource<DynamicType = ()>>(
    world: &World,
    component: &str,
    owner: &K,
    pod: &Pod,
) -> Result<(), ControllerError> {
    let name = pod.metadata.name.clone().unwrap_or_default();
    match store(world, pod).await {
        Ok(()) => {
            let message = format!("Created pod: {name}");
            world
                .events
                .normal(component, owner, "SuccessfulCreate", message)
                .await;
            Ok(())
        }
        Err(error) => {
            let message = format!("Error creating: {error}");
            world
                .events
                .warning(component, owner, "FailedCreate", message)
                .await;
            Err(error)
        }
    }
}

/// Creates `pod`.
pub(crate) async fn store(world: &World, pod: &Pod) -> Result<(), ControllerError> {
    let key = ObjectKey::of(pod);
    let api = world.api::<Pod>(&key.namespace);
    match api.create(&PostParams::default(), pod).await {
        Ok(created) => {
            world.pods.observe(created);
            Ok(())
        }
        Err(error) => Err(error).doing(|| format!("creating the pod {key}")),
    }
}

/// Deletes `pod` in its own time, and says so (or why not) in an event about `owner`.
pub(crate) async fn delete_for<K: Resource<DynamicType = ()>>(
    world: &World,
    component: &str,
    owner: &K,
    pod: &Pod,
) -> Result<(), ControllerError> {
    let name = pod.metadata.name.as_deref().unwrap_or("?");
    match delete(world, pod, None).await {
        Ok(()) => {
            let message = format!("Deleted pod: {name}");
            world
                .events
                .normal(component, owner, "SuccessfulDelete", message)
                .await;
            Ok(())
        }
        Err(error) => {
            let message = format!("Error deleting: {error}");
            world
                .events
                .warning(component, owner, "FailedDelete", message)
                .await;
            Err(error)
        }
    }
}

/// Deletes `pod` if it is still the same one; gone already is as good.
pub(crate) async fn delete(
    world: &World,
    pod: &Pod,
    grace_period_seconds: Option<u32>,
) -> Result<(), ControllerError> {
    let key = ObjectKey::of(pod);
    let uid = pod.metadata.uid.clone().unwrap_or_default();
    let params = DeleteParams {
        grace_period_seconds,
        preconditions: Some(Preconditions {
            uid: Some(uid.clone()),
            resource_version: None,
        }),
        ..DeleteParams::default()
    };
    match world
        .api::<Pod>(&key.namespace)
        .delete(&key.name, &params)
        .await
    {
        Ok(answer) => {
            match answer.left() {
                Some(terminating) if grace_period_seconds != Some(0) => {
                    world.pods.observe(terminating)
                }
                _ => world.pods.forget(&key, &uid),
            }
            Ok(())
        }
        // 404: gone; 409: another pod has the name now.
        Err(error) if is_status(&error, 404) || is_status(&error, 409) => {
            world.pods.forget(&key, &uid);
            Ok(())
        }
        Err(error) => Err(error).doing(|| format!("deleting the pod {key}")),
    }
}

/// Notes on a pod that it is about to be ended by somebody else's decision.
pub(crate) async fn mark_disrupted(
    world: &World,
    pod: &Pod,
    reason: &str,
    message: &str,
) -> Result<(), ControllerError> {
    let key = ObjectKey::of(pod);
    let condition = json!({"type": "DisruptionTarget", "status": "True", "reason": reason,
        "message": message, "lastTransitionTime": meta::now()});
    let patch =
        json!({"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [condition]}});
    let params = PatchParams::default();
    match world
        .api::<Pod>(&key.namespace)
        .patch_status(&key.name, &params, &Patch::Strategic(patch))
        .await
    {
        Ok(written) => world.pods.observe(written),
        Err(error) if is_status(&error, 404) || is_status(&error, 409) => {}
        Err(error) => return Err(error).doing(|| format!("marking the pod {key}")),
    }
    Ok(())
}
