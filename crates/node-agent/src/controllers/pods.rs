//! Creating and deleting pods on behalf of an owner.

use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use kube::api::{DeleteParams, PostParams, Preconditions};

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
    let namespace = owner.meta().namespace.clone().unwrap_or_default();
    let name = pod.metadata.name.clone().unwrap_or_default();
    match world
        .api::<Pod>(&namespace)
        .create(&PostParams::default(), pod)
        .await
    {
        Ok(created) => {
            world.pods.observe(created);
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
            Err(error).doing(|| format!("creating the pod {namespace}/{name}"))
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
