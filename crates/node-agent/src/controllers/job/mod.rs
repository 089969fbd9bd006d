//! Job: pods that run to their end, as often as asked for.
//!
//! Decisions are in `plan`; here they are carried out. A finished job is
//! deleted when its time to live is over.

mod end;
mod failure;
mod indexes;
mod plan;
mod pod;

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use serde_json::json;

use self::plan::Plan;
use super::claim::{claim, follow_orphans};
use super::error::{ControllerError, Doing, is_status};
use super::meta;
use super::pods;
use super::world::{World, follow, follow_owners};
use crate::informer::{ObjectKey, Queue};

pub(crate) use self::plan::finished_at;

const COMPONENT: &str = "job-controller";
/// `spec.managedBy` of jobs that this controller is for.
const MANAGER: &str = "kubernetes.io/job-controller";

/// Subscribes to what matters for jobs and works on them.
pub(crate) fn start(world: Arc<World>) -> impl Future<Output = ()> + Send {
    let queue = Queue::new();
    follow(&world.jobs, &queue);
    follow_owners(&world.pods, "Job", &queue);
    follow_orphans(&world.pods, &world.jobs, selector, &queue);
    async move {
        super::synced(&world).await;
        queue
            .work(COMPONENT, |key| reconcile(&world, &queue, key))
            .await;
    }
}

fn selector(job: &Job) -> Option<&LabelSelector> {
    job.spec.as_ref()?.selector.as_ref()
}

/// Whether another controller was named for the job.
fn is_foreign(job: &Job) -> bool {
    let manager = job
        .spec
        .as_ref()
        .and_then(|spec| spec.managed_by.as_deref());
    manager.is_some_and(|manager| manager != MANAGER)
}

async fn reconcile(
    world: &World,
    queue: &Queue<ObjectKey>,
    key: ObjectKey,
) -> Result<(), ControllerError> {
    let Some(job) = world.jobs.get(&key) else {
        return release_orphans(world, &key, None).await;
    };
    if is_foreign(&job) {
        return Ok(());
    }
    if let Some(end) = finished_at(&job) {
        release_orphans(world, &key, job.metadata.uid.as_deref()).await?;
        return expire(world, queue, &job, end).await;
    }
    let Some(selector) = selector(&job) else {
        return Ok(());
    };
    let pods = claim(world, &*job, selector, &world.pods).await?;
    let plan = plan::plan(&job, &pods, Timestamp::now());
    if let Some(delay) = plan.recheck {
        queue.add_after(key, delay);
    }
    carry_out(world, &job, plan).await
}

/// The status first: what is released, dropped or created after it can be
/// done again, what was not written down could not be counted again.
async fn carry_out(world: &World, job: &Job, plan: Plan<'_>) -> Result<(), ControllerError> {
    if job.status.as_ref() != Some(&plan.status) {
        let mut updated = job.clone();
        updated.status = Some(plan.status);
        world.write_status(&world.jobs, &updated).await?;
    }
    for report in plan.reports {
        let (reason, message) = (&report.reason, report.message);
        let events = &world.events;
        match report.warning {
            true => events.warning(COMPONENT, job, reason, message).await,
            false => events.normal(COMPONENT, job, reason, message).await,
        }
    }
    for pod in plan.release {
        release(world, pod).await?;
    }
    for pod in plan.stop {
        pods::delete_for(world, COMPONENT, job, pod).await?;
    }
    for pod in plan.drop {
        release(world, pod).await?;
        pods::delete_for(world, COMPONENT, job, pod).await?;
    }
    for wanted in plan.create {
        let pod = pod::new(job, wanted);
        pods::create(world, COMPONENT, job, &pod).await?;
    }
    Ok(())
}

/// Takes the finalizer off a pod that needs no counting any more.
async fn release(world: &World, pod: &Pod) -> Result<(), ControllerError> {
    if !pod::is_tracked(pod) {
        return Ok(());
    }
    let key = ObjectKey::of(pod);
    let patch = json!({"metadata": {
        "uid": pod.metadata.uid, "$deleteFromPrimitiveList/finalizers": [pod::TRACKING]}});
    let params = PatchParams::default();
    match world
        .api::<Pod>(&key.namespace)
        .patch(&key.name, &params, &Patch::Strategic(patch))
        .await
    {
        // With its last finalizer a deleted pod may be gone: the watch knows.
        Ok(written) if written.metadata.deletion_timestamp.is_none() => {
            world.pods.observe(written);
        }
        Ok(_) => {}
        Err(error) if is_status(&error, 404) || is_status(&error, 409) => {}
        Err(error) => return Err(error).doing(|| format!("releasing the pod {key}")),
    }
    Ok(())
}

/// Pods of a job that is gone (or of the finished one with `uid`) are counted
/// by nobody.
async fn release_orphans(
    world: &World,
    job: &ObjectKey,
    uid: Option<&str>,
) -> Result<(), ControllerError> {
    for pod in world.pods.in_namespace(&job.namespace) {
        let owner = meta::controller_of(&pod.metadata)
            .filter(|owner| owner.kind == "Job" && owner.name == job.name);
        if owner.is_some_and(|owner| uid.is_none_or(|uid| uid == owner.uid)) {
            release(world, &pod).await?;
        }
    }
    Ok(())
}

/// Deletes a finished job when its time to live is over.
async fn expire(
    world: &World,
    queue: &Queue<ObjectKey>,
    job: &Job,
    end: Timestamp,
) -> Result<(), ControllerError> {
    let spec = job.spec.as_ref();
    let Some(ttl) = spec.and_then(|spec| spec.ttl_seconds_after_finished) else {
        return Ok(());
    };
    let key = ObjectKey::of(job);
    if job.metadata.deletion_timestamp.is_some() {
        return Ok(());
    }
    let now = Timestamp::now().as_millisecond();
    let left = end.as_millisecond() + i64::from(ttl) * 1000 - now;
    if left > 0 {
        queue.add_after(key, Duration::from_millis(left.unsigned_abs()));
        return Ok(());
    }
    let params = DeleteParams {
        preconditions: Some(Preconditions {
            uid: job.metadata.uid.clone(),
            resource_version: None,
        }),
        ..DeleteParams::foreground()
    };
    match world
        .api::<Job>(&key.namespace)
        .delete(&key.name, &params)
        .await
    {
        Ok(_) => Ok(()),
        Err(error) if is_status(&error, 404) || is_status(&error, 409) => Ok(()),
        Err(error) => Err(error).doing(|| format!("deleting the finished job {key}")),
    }
}
