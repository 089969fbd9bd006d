//! Stateful sets, jobs, rollouts, budgets and scheduling against an API server in this process; the
//! test plays the kubelet.

use ambit_node_agent::controllers::ControllersConfig;
use ambit_testkit::eventually;
use anyhow::{Context, Result, ensure};
use k8s_openapi::api::apps::v1::{ControllerRevision, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{Event, PersistentVolumeClaim, Pod};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{
    Api, DeleteParams, EvictParams, ListParams, Patch, PatchParams, PropagationPolicy,
};
use serde_json::{Value, json};

use crate::controllers::{deployment, is_rolled_out, template};
use crate::harness::PATIENCE;
use crate::world::World;

async fn world(nodes: &[&str]) -> Result<World> {
    let world = World::new(ControllersConfig::default()).await?;
    for name in nodes {
        world.node(name, json!({})).await?;
    }
    Ok(world)
}

fn api<K>(world: &World) -> Api<K>
where
    K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
{
    Api::default_namespaced(world.client.clone())
}

async fn patch<K>(world: &World, name: &str, patch: Value) -> Result<K>
where
    K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + serde::de::DeserializeOwned
        + std::fmt::Debug,
{
    let params = PatchParams::default();
    Ok(api::<K>(world)
        .patch(name, &params, &Patch::Merge(patch))
        .await?)
}

/// Waits for an event about an object.
async fn event(world: &World, about: &str, reason: &str) -> Result<String> {
    let events: Api<Event> = api(world);
    let what = format!("{reason} of {about}");
    let found = eventually(&what, PATIENCE, async || {
        let all = events.list(&ListParams::default()).await.ok()?.items;
        all.into_iter().find(|event| {
            event.involved_object.name.as_deref() == Some(about)
                && event.reason.as_deref() == Some(reason)
        })
    });
    Ok(found.await?.message.unwrap_or_default())
}

/// Names of the pods and the images they run.
async fn images(world: &World) -> Result<Vec<String>> {
    let pods = world.kubelet().await?;
    let text = |pod: &Pod| {
        let image = pod
            .spec
            .as_ref()
            .and_then(|spec| spec.containers.first()?.image.clone());
        format!(
            "{}={}",
            pod.metadata.name.clone().unwrap_or_default(),
            image.unwrap_or_default()
        )
    };
    Ok(pods.iter().map(text).collect())
}

fn stateful_set(replicas: i32, image: &str, more: Value) -> Value {
    let mut spec = json!({"replicas": replicas, "serviceName": "peers",
        "selector": {"matchLabels": {"app": "db"}}, "template": template("db", image)});
    if let (Some(spec), Some(more)) = (spec.as_object_mut(), more.as_object()) {
        spec.extend(more.clone());
    }
    json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "db"}, "spec": spec})
}

fn is_settled(set: &StatefulSet, replicas: i32, updated: i32) -> bool {
    let status = set.status.clone().unwrap_or_default();
    status.observed_generation == set.metadata.generation
        && (status.replicas, status.ready_replicas) == (replicas, Some(replicas))
        && status.updated_replicas == Some(updated)
}

#[tokio::test]
async fn a_stateful_set_keeps_names_and_order() -> Result<()> {
    let world = world(&["n1"]).await?;
    world
        .create::<StatefulSet>(stateful_set(3, "one", json!({})))
        .await?;
    let set = world.until("db", |set| is_settled(set, 3, 3)).await?;
    ensure!(images(&world).await? == ["db-0=one", "db-1=one", "db-2=one"]);
    let first = world.pods().get("db-0").await?;
    let spec = first.spec.context("a spec")?;
    ensure!((spec.hostname.as_deref(), spec.subdomain.as_deref()) == (Some("db-0"), Some("peers")));
    let labels = first.metadata.labels.context("labels")?;
    ensure!(labels["apps.kubernetes.io/pod-index"] == "0");
    let status = set.status.context("a status")?;
    ensure!(status.current_revision == status.update_revision);

    // A canary: only the last one is replaced.
    let canary = json!({"spec": {"template": template("db", "two"),
        "updateStrategy": {"rollingUpdate": {"partition": 2}}}});
    patch::<StatefulSet>(&world, "db", canary).await?;
    world.until("db", |set| is_settled(set, 3, 1)).await?;
    ensure!(images(&world).await? == ["db-0=one", "db-1=one", "db-2=two"]);
    // What is lost below the partition comes back as it was.
    world
        .pods()
        .delete("db-0", &DeleteParams::default())
        .await?;
    world.until("db", |set| is_settled(set, 3, 1)).await?;
    ensure!(images(&world).await?[0] == "db-0=one");
    let all = json!({"spec": {"updateStrategy": {"rollingUpdate": {"partition": 0}}}});
    patch::<StatefulSet>(&world, "db", all).await?;
    let set = world.until("db", |set| is_settled(set, 3, 3)).await?;
    ensure!(images(&world).await? == ["db-0=two", "db-1=two", "db-2=two"]);
    let status = set.status.context("a status")?;
    ensure!(status.current_revision == status.update_revision);
    let revisions: Api<ControllerRevision> = api(&world);
    ensure!(revisions.list(&ListParams::default()).await?.items.len() == 2);

    patch::<StatefulSet>(&world, "db", json!({"spec": {"replicas": 1}})).await?;
    world.until("db", |set| is_settled(set, 1, 1)).await?;
    ensure!(images(&world).await? == ["db-0=two"]);
    Ok(())
}

#[tokio::test]
async fn claims_of_a_stateful_set_are_made_and_their_fate_is_told() -> Result<()> {
    let world = world(&["n1"]).await?;
    let claims = json!({"volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {
        "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}]});
    world
        .create::<StatefulSet>(stateful_set(1, "one", claims))
        .await?;
    let told = event(&world, "data-db-0", "FailedBinding").await?;
    ensure!(told.contains("provides no persistent storage"), "{told}");
    let told = event(&world, "db-0", "FailedScheduling").await?;
    ensure!(
        told.starts_with(
            "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims."
        ),
        "{told}"
    );
    let claim = api::<PersistentVolumeClaim>(&world)
        .get("data-db-0")
        .await?;
    ensure!(claim.metadata.labels.context("labels")?["app"] == "db");
    Ok(())
}

fn job(name: &str, ends: &str, more: Value) -> Value {
    let mut spec = json!({"template": {"metadata": {"labels": {"ends": ends}},
        "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}});
    if let (Some(spec), Some(more)) = (spec.as_object_mut(), more.as_object()) {
        spec.extend(more.clone());
    }
    json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": spec})
}

fn has(job: &Job, condition: &str) -> bool {
    let conditions = job
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|all| {
        all.iter()
            .any(|c| c.type_ == condition && c.status == "True")
    })
}

#[tokio::test]
async fn jobs_run_to_their_end() -> Result<()> {
    let world = world(&["n1"]).await?;
    let many = json!({"completions": 4, "parallelism": 2, "completionMode": "Indexed"});
    world.create::<Job>(job("good", "Succeeded", many)).await?;
    world
        .create::<Job>(job("bad", "Failed", json!({"backoffLimit": 0})))
        .await?;
    let brief = json!({"ttlSecondsAfterFinished": 1});
    world
        .create::<Job>(job("brief", "Succeeded", brief))
        .await?;

    let good = world.until("good", |job| has(job, "Complete")).await?;
    let status = good.status.context("a status")?;
    ensure!((status.succeeded, status.completed_indexes.as_deref()) == (Some(4), Some("0-3")));
    ensure!(status.completion_time.is_some() && status.active.is_none());
    let bad = world.until("bad", |job| has(job, "Failed")).await?;
    ensure!(bad.status.context("a status")?.failed == Some(1));
    let told = event(&world, "bad", "BackoffLimitExceeded").await?;
    ensure!(told == "Job has reached the specified backoff limit");
    let jobs: Api<Job> = api(&world);
    let expired = eventually("the job that expires", PATIENCE, async || {
        world.kubelet().await.ok()?;
        jobs.get_opt("brief").await.ok()?.is_none().then_some(())
    });
    expired.await?;
    // Pods of a job that is deleted are held by nothing.
    for name in ["good", "bad"] {
        jobs.delete(name, &DeleteParams::background()).await?;
    }
    eventually("pods without a job to go", PATIENCE, async || {
        world.kubelet().await.ok()?.is_empty().then_some(())
    })
    .await
}

#[tokio::test]
async fn a_suspended_job_waits_and_a_cron_job_makes_jobs() -> Result<()> {
    let world = world(&["n1"]).await?;
    world
        .create::<Job>(job("later", "Succeeded", json!({"suspend": true})))
        .await?;
    world.until("later", |job| has(job, "Suspended")).await?;
    ensure!(world.kubelet().await?.is_empty());
    patch::<Job>(&world, "later", json!({"spec": {"suspend": false}})).await?;
    world.until("later", |job| has(job, "Complete")).await?;

    let template = job("x", "Succeeded", json!({}))["spec"].clone();
    let cron = json!({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "often"},
        "spec": {"schedule": "@every 1s", "jobTemplate": {"spec": template}}});
    world.create::<CronJob>(cron).await?;
    world
        .until("often", |cron: &CronJob| {
            let status = cron.status.clone().unwrap_or_default();
            status.last_schedule_time.is_some() && status.last_successful_time.is_some()
        })
        .await?;
    event(&world, "often", "SawCompletedJob").await?;
    Ok(())
}

#[tokio::test]
async fn a_rollout_can_be_paused_undone_and_seen_to_fail() -> Result<()> {
    let world = world(&["n1", "n2"]).await?;
    world.create::<Deployment>(deployment(2, "one")).await?;
    world.until("web", |d| is_rolled_out(d, 2)).await?;

    let change = json!({"spec": {"paused": true, "template": template("web", "two")}});
    patch::<Deployment>(&world, "web", change).await?;
    let reason = |deployment: &Deployment| -> Option<String> {
        let conditions = deployment.status.as_ref()?.conditions.as_ref()?;
        conditions
            .iter()
            .find(|c| c.type_ == "Progressing")?
            .reason
            .clone()
    };
    world
        .until("web", |d| reason(d).as_deref() == Some("DeploymentPaused"))
        .await?;
    // It still follows its size.
    patch::<Deployment>(&world, "web", json!({"spec": {"replicas": 3}})).await?;
    world
        .until("web", |d: &Deployment| {
            d.status.as_ref().and_then(|status| status.ready_replicas) == Some(3)
        })
        .await?;
    ensure!(
        images(&world)
            .await?
            .iter()
            .all(|pod| pod.ends_with("=one"))
    );
    patch::<Deployment>(&world, "web", json!({"spec": {"paused": false}})).await?;
    world
        .until("web", |d| {
            is_rolled_out(d, 3) && reason(d).as_deref() == Some("NewReplicaSetAvailable")
        })
        .await?;
    ensure!(
        images(&world)
            .await?
            .iter()
            .all(|pod| pod.ends_with("=two"))
    );

    // Back to the first template: its set is used again, under a new number.
    let back = json!({"spec": {"template": template("web", "one")}});
    patch::<Deployment>(&world, "web", back).await?;
    world.until("web", |d| is_rolled_out(d, 3)).await?;
    let sets = api::<ReplicaSet>(&world)
        .list(&ListParams::default())
        .await?
        .items;
    let mut numbers: Vec<String> = sets
        .iter()
        .filter_map(|set| set.metadata.annotations.clone())
        .map(|mut all| {
            all.remove("deployment.kubernetes.io/revision")
                .unwrap_or_default()
        })
        .collect();
    numbers.sort();
    ensure!(numbers == ["2", "3"], "{numbers:?}");

    // Pods that no node takes: the rollout is seen to be stuck, the old pods stay.
    let stuck = json!({"spec": {"progressDeadlineSeconds": 1, "template": {"spec": {
        "nodeSelector": {"no": "where"}}}}});
    patch::<Deployment>(&world, "web", stuck).await?;
    let web = world
        .until("web", |d| {
            reason(d).as_deref() == Some("ProgressDeadlineExceeded")
        })
        .await?;
    ensure!(web.status.context("a status")?.available_replicas == Some(3));
    Ok(())
}

#[tokio::test]
async fn recreate_ends_all_pods_before_new_ones_start() -> Result<()> {
    let world = world(&["n1"]).await?;
    let mut web = deployment(2, "one");
    web["spec"]["strategy"] = json!({"type": "Recreate"});
    world.create::<Deployment>(web).await?;
    world.until("web", |d| is_rolled_out(d, 2)).await?;
    patch::<Deployment>(
        &world,
        "web",
        json!({"spec": {"template": template("web", "two")}}),
    )
    .await?;
    let mut mixed = false;
    eventually("the new pods", PATIENCE, async || {
        let all = images(&world).await.ok()?;
        let new = all.iter().filter(|pod| pod.ends_with("=two")).count();
        mixed |= new > 0 && new < all.len();
        (new == 2 && all.len() == 2).then_some(())
    })
    .await?;
    ensure!(!mixed, "pods of both versions were there at once");
    Ok(())
}

#[tokio::test]
async fn orphans_are_adopted_and_relabelled_pods_let_go() -> Result<()> {
    let world = world(&["n1"]).await?;
    world.create::<Deployment>(deployment(2, "one")).await?;
    world.until("web", |d| is_rolled_out(d, 2)).await?;
    let before = images(&world).await?;
    let orphan = DeleteParams {
        propagation_policy: Some(PropagationPolicy::Orphan),
        ..DeleteParams::default()
    };
    let deployments: Api<Deployment> = api(&world);
    deployments.delete("web", &orphan).await?;
    eventually("the deployment to go", PATIENCE, async || {
        deployments
            .get_opt("web")
            .await
            .ok()?
            .is_none()
            .then_some(())
    })
    .await?;
    world.create::<Deployment>(deployment(2, "one")).await?;
    world.until("web", |d| is_rolled_out(d, 2)).await?;
    ensure!(images(&world).await? == before, "the pods were not kept");

    // A pod that is taken out for inspection is replaced, and stays.
    let name = before[0].split('=').next().unwrap_or_default();
    patch::<Pod>(
        &world,
        name,
        json!({"metadata": {"labels": {"app": "looked-at"}}}),
    )
    .await?;
    eventually("a successor", PATIENCE, async || {
        let pods = world.kubelet().await.ok()?;
        let taken = pods
            .iter()
            .find(|pod| pod.metadata.name.as_deref() == Some(name))?;
        (pods.len() == 3 && taken.metadata.owner_references.is_none()).then_some(())
    })
    .await
}

#[tokio::test]
async fn budgets_refuse_evictions_that_go_too_far() -> Result<()> {
    let world = world(&["n1"]).await?;
    world.create::<Deployment>(deployment(2, "one")).await?;
    world.until("web", |d| is_rolled_out(d, 2)).await?;
    let budget = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "web"},
        "spec": {"maxUnavailable": "50%", "selector": {"matchLabels": {"app": "web"}}}});
    world.create::<PodDisruptionBudget>(budget).await?;
    let allows = |count: i32| {
        move |budget: &PodDisruptionBudget| {
            let status = budget.status.clone().unwrap_or_default();
            status.disruptions_allowed == count && status.expected_pods == 2
        }
    };
    world.until("web", allows(1)).await?;
    let names: Vec<String> = images(&world)
        .await?
        .iter()
        .map(|pod| pod.split('=').next().unwrap_or_default().to_owned())
        .collect();
    let evict = EvictParams::default();
    world.pods().evict(&names[0], &evict).await?;
    let refused = world.pods().evict(&names[1], &evict).await;
    let code = match refused {
        Err(kube::Error::Api(status)) => status.code,
        other => anyhow::bail!("not refused: {other:?}"),
    };
    ensure!(code == 429);
    // When the first one's successor is ready, the second may go.
    world.until("web", |d| is_rolled_out(d, 2)).await?;
    world.until("web", allows(1)).await?;
    world.pods().evict(&names[1], &evict).await?;
    Ok(())
}

#[tokio::test]
async fn resources_are_counted_and_important_pods_make_room() -> Result<()> {
    let world = world(&["n1"]).await?;
    let pod = |name: &str, cpu: &str, class: Option<&str>| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {
            "priorityClassName": class, "terminationGracePeriodSeconds": 0, "containers": [
                {"name": "c", "image": "i", "resources": {"requests": {"cpu": cpu}}}]}})
    };
    let class = json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass",
        "metadata": {"name": "high"}, "value": 1000});
    let classes: Api<k8s_openapi::api::scheduling::v1::PriorityClass> =
        Api::all(world.client.clone());
    classes
        .create(&Default::default(), &serde_json::from_value(class)?)
        .await?;
    world.create::<Pod>(pod("low", "3", None)).await?;
    world.until("low", crate::harness::is_ready).await?;
    world.create::<Pod>(pod("equal", "2", None)).await?;
    let told = event(&world, "equal", "FailedScheduling").await?;
    ensure!(
        told == "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, \
            preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.",
        "{told}"
    );
    world
        .pods()
        .delete("equal", &DeleteParams::default())
        .await?;
    world.create::<Pod>(pod("high", "2", Some("high"))).await?;
    world.until("high", crate::harness::is_ready).await?;
    let told = event(&world, "low", "Preempted").await?;
    ensure!(
        told.starts_with("Preempted by pod ") && told.ends_with(" on node n1"),
        "{told}"
    );
    Ok(())
}
