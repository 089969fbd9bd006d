//! CronJob: a job whenever the schedule says so. Decisions are in `plan`.

mod plan;
mod schedule;

use std::sync::Arc;

use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, PostParams};

use super::error::{ControllerError, Doing, is_status};
use super::meta;
use super::world::{World, follow, follow_owners};
use crate::informer::{ObjectKey, Queue};

const COMPONENT: &str = "cronjob-controller";

/// Subscribes to what matters for cron jobs and works on them.
pub(crate) fn start(world: Arc<World>) -> impl Future<Output = ()> + Send {
    let queue = Queue::new();
    follow(&world.cron_jobs, &queue);
    follow_owners(&world.jobs, "CronJob", &queue);
    async move {
        super::synced(&world).await;
        queue
            .work(COMPONENT, |key| reconcile(&world, &queue, key))
            .await;
    }
}

async fn reconcile(
    world: &World,
    queue: &Queue<ObjectKey>,
    key: ObjectKey,
) -> Result<(), ControllerError> {
    let Some(cron) = world.cron_jobs.get(&key) else {
        return Ok(());
    };
    let uid = cron.metadata.uid.as_deref().unwrap_or_default();
    let mut jobs = world.jobs.in_namespace(&key.namespace);
    jobs.retain(|job| meta::is_controlled_by(&job.metadata, uid));
    let plan = plan::plan(&cron, &jobs, Timestamp::now());
    if let Some(delay) = plan.recheck {
        queue.add_after(key, delay);
    }
    for report in plan.reports {
        let events = &world.events;
        match report.warning {
            true => {
                events
                    .warning(COMPONENT, &*cron, report.reason, report.message)
                    .await
            }
            false => {
                events
                    .normal(COMPONENT, &*cron, report.reason, report.message)
                    .await
            }
        }
    }
    for job in plan.delete {
        delete(world, &cron, job).await?;
    }
    if let Some(job) = plan.create {
        create(world, &cron, &job).await?;
    }
    if cron.status.as_ref() != Some(&plan.status) {
        let mut updated = (*cron).clone();
        updated.status = Some(plan.status);
        world.write_status(&world.cron_jobs, &updated).await?;
    }
    Ok(())
}

async fn create(world: &World, cron: &CronJob, job: &Job) -> Result<(), ControllerError> {
    let key = ObjectKey::of(job);
    let api = world.api::<Job>(&key.namespace);
    match api.create(&PostParams::default(), job).await {
        Ok(created) => world.jobs.observe(created),
        // Made for this time already, by an earlier self.
        Err(error) if is_status(&error, 409) => return Ok(()),
        Err(error) => {
            let message = format!("Error creating job: {error}");
            world
                .events
                .warning(COMPONENT, cron, "FailedCreate", message)
                .await;
            return Err(error).doing(|| format!("creating the job {key}"));
        }
    }
    let message = format!("Created job {}", key.name);
    world
        .events
        .normal(COMPONENT, cron, "SuccessfulCreate", message)
        .await;
    Ok(())
}

async fn delete(world: &World, cron: &CronJob, job: &Job) -> Result<(), ControllerError> {
    let key = ObjectKey::of(job);
    match world
        .api::<Job>(&key.namespace)
        .delete(&key.name, &DeleteParams::background())
        .await
    {
        Ok(_) => {}
        Err(error) if is_status(&error, 404) => {}
        Err(error) => return Err(error).doing(|| format!("deleting the job {key}")),
    }
    let uid = job.metadata.uid.as_deref().unwrap_or_default();
    world.jobs.forget(&key, uid);
    let message = format!("Deleted job {}", key.name);
    world
        .events
        .normal(COMPONENT, cron, "SuccessfulDelete", message)
        .await;
    Ok(())
}
