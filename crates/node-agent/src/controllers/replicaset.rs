//! ReplicaSet: as many pods as wished.

use std::cmp::Reverse;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;

use super::error::{ControllerError, Doing, is_status};
use super::meta::{self, Availability};
use super::pods;
use super::world::World;
use crate::informer::{ObjectKey, Queue};

const COMPONENT: &str = "replicaset-controller";
/// Pods created or deleted in one go; the rest follows in the next round.
const BURST: usize = 100;

/// Subscribes to what matters for replica sets and works on them.
pub(crate) fn start(world: Arc<World>) -> impl Future<Output = ()> + Send {
    let queue = Queue::new();
    let sets = queue.clone();
    world.replica_sets.on_change(move |_, new| {
        if let Some(set) = new {
            sets.add(ObjectKey::of(set));
        }
    });
    let pods = queue.clone();
    world.pods.on_change(move |old, new| {
        for pod in [old, new].into_iter().flatten() {
            if let Some(owner) =
                meta::controller_of(&pod.metadata).filter(|o| o.kind == "ReplicaSet")
            {
                let namespace = pod.metadata.namespace.clone().unwrap_or_default();
                pods.add(ObjectKey::new(namespace, owner.name.clone()));
            }
        }
    });
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
    let Some(set) = world.replica_sets.get(&key) else {
        return Ok(());
    };
    let uid = set.metadata.uid.clone().unwrap_or_default();
    let owned: Vec<Arc<Pod>> = world
        .pods
        .in_namespace(&key.namespace)
        .into_iter()
        .filter(|pod| meta::is_controlled_by(&pod.metadata, &uid) && meta::is_active(pod))
        .collect();
    let mut failure = None;
    if set.metadata.deletion_timestamp.is_none() {
        failure = scale(world, &set, &owned).await.err();
    }
    let owned: Vec<Arc<Pod>> = world
        .pods
        .in_namespace(&key.namespace)
        .into_iter()
        .filter(|pod| meta::is_controlled_by(&pod.metadata, &uid) && meta::is_active(pod))
        .collect();
    let (status, recheck) = status(&set, &owned, failure.as_ref(), Timestamp::now());
    if let Some(delay) = recheck {
        queue.add_after(key.clone(), delay);
    }
    write_status(world, &set, status).await?;
    failure.map_or(Ok(()), Err)
}

async fn scale(world: &World, set: &ReplicaSet, owned: &[Arc<Pod>]) -> Result<(), ControllerError> {
    let wanted = replicas(set);
    if owned.len() < wanted {
        let template = set
            .spec
            .as_ref()
            .and_then(|spec| spec.template.clone())
            .unwrap_or_default();
        for _ in 0..(wanted - owned.len()).min(BURST) {
            let pod = pods::from_template(set, &template);
            pods::create(world, COMPONENT, set, &pod).await?;
        }
    }
    for pod in surplus(owned, wanted).into_iter().take(BURST) {
        pods::delete(world, pod, None).await?;
        let name = pod.metadata.name.clone().unwrap_or_default();
        let message = format!("Deleted pod: {name}");
        world
            .events
            .normal(COMPONENT, set, "SuccessfulDelete", message)
            .await;
    }
    Ok(())
}

fn replicas(set: &ReplicaSet) -> usize {
    let wanted = set
        .spec
        .as_ref()
        .and_then(|spec| spec.replicas)
        .unwrap_or(1);
    usize::try_from(wanted).unwrap_or(0)
}

/// The pods to delete so that `wanted` stay, least useful first: not
/// assigned, not running, not ready, shortest ready, newest.
fn surplus(owned: &[Arc<Pod>], wanted: usize) -> Vec<&Pod> {
    let excess = owned.len().saturating_sub(wanted);
    if excess == 0 {
        return Vec::new();
    }
    let mut ranked: Vec<&Pod> = owned.iter().map(|pod| &**pod).collect();
    ranked.sort_by_key(|pod| {
        let ready = meta::ready_since(pod);
        (
            meta::node_of(pod).is_some(),
            meta::phase(pod) == "Running",
            ready.is_some(),
            Reverse(ready),
            Reverse(pod.metadata.creation_timestamp.as_ref().map(|time| time.0)),
        )
    });
    ranked.truncate(excess);
    ranked
}

/// The status that `owned` gives, and when time alone will change it.
fn status(
    set: &ReplicaSet,
    owned: &[Arc<Pod>],
    failure: Option<&ControllerError>,
    now: Timestamp,
) -> (ReplicaSetStatus, Option<std::time::Duration>) {
    let spec = set.spec.clone().unwrap_or_default();
    let labels = spec
        .template
        .and_then(|template| template.metadata)
        .and_then(|meta| meta.labels)
        .unwrap_or_default();
    let (mut ready, mut available, mut labeled, mut recheck) = (0, 0, 0, None);
    for pod in owned {
        let own = pod.metadata.labels.as_ref();
        if labels
            .iter()
            .all(|(k, v)| own.and_then(|own| own.get(k)) == Some(v))
        {
            labeled += 1;
        }
        match meta::availability(pod, spec.min_ready_seconds.unwrap_or(0), now) {
            Availability::Available => {
                ready += 1;
                available += 1;
            }
            Availability::In(delay) => {
                ready += 1;
                recheck =
                    Some(recheck.map_or(delay, |other: std::time::Duration| other.min(delay)));
            }
            Availability::NotReady => {}
        }
    }
    let status = ReplicaSetStatus {
        replicas: i32::try_from(owned.len()).unwrap_or(i32::MAX),
        fully_labeled_replicas: non_zero(labeled),
        ready_replicas: non_zero(ready),
        available_replicas: non_zero(available),
        observed_generation: set.metadata.generation,
        conditions: conditions(set, failure),
        ..ReplicaSetStatus::default()
    };
    (status, recheck)
}

fn conditions(
    set: &ReplicaSet,
    failure: Option<&ControllerError>,
) -> Option<Vec<ReplicaSetCondition>> {
    let mut others: Vec<ReplicaSetCondition> = set
        .status
        .as_ref()
        .and_then(|status| status.conditions.clone())
        .unwrap_or_default();
    let known = others
        .iter()
        .position(|c| c.type_ == "ReplicaFailure")
        .map(|i| others.remove(i));
    if let Some(error) = failure {
        others.push(ReplicaSetCondition {
            type_: "ReplicaFailure".to_owned(),
            status: "True".to_owned(),
            reason: Some("FailedCreate".to_owned()),
            message: Some(error.to_string()),
            last_transition_time: known
                .and_then(|known| known.last_transition_time)
                .or_else(|| Some(meta::now())),
        });
    }
    (!others.is_empty()).then_some(others)
}

/// Counters that are zero are left out, as Kubernetes does.
pub(crate) fn non_zero(count: i32) -> Option<i32> {
    (count != 0).then_some(count)
}

async fn write_status(
    world: &World,
    set: &ReplicaSet,
    status: ReplicaSetStatus,
) -> Result<(), ControllerError> {
    if set.status.as_ref() == Some(&status) {
        return Ok(());
    }
    let key = ObjectKey::of(set);
    let mut updated = set.clone();
    updated.status = Some(status);
    let api = world.api::<ReplicaSet>(&key.namespace);
    match api
        .replace_status(&key.name, &PostParams::default(), &updated)
        .await
    {
        Ok(written) => world.replica_sets.observe(written),
        Err(error) if is_status(&error, 404) => {}
        Err(error) => return Err(error).doing(|| format!("writing the status of {key}")),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::apps::v1::ReplicaSetSpec;
    use serde_json::json;

    fn pod(name: &str, phase: &str, ready: Option<&str>, node: Option<&str>) -> Arc<Pod> {
        let conditions: Vec<_> = ready
            .map(|at| json!({"type": "Ready", "status": "True", "lastTransitionTime": at}))
            .into_iter()
            .collect();
        let pod = serde_json::from_value(json!({
            "metadata": {"name": name, "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"containers": [], "nodeName": node},
            "status": {"phase": phase, "conditions": conditions},
        }));
        Arc::new(pod.expect("a pod"))
    }

    #[test]
    fn the_least_useful_pods_go_first() {
        let pods = [
            pod(
                "ready-long",
                "Running",
                Some("2026-01-01T00:00:01Z"),
                Some("n"),
            ),
            pod(
                "ready-short",
                "Running",
                Some("2026-01-01T00:00:09Z"),
                Some("n"),
            ),
            pod("starting", "Running", None, Some("n")),
            pod("pending", "Pending", None, None),
        ];
        let names: Vec<_> = surplus(&pods, 1)
            .iter()
            .filter_map(|pod| pod.metadata.name.clone())
            .collect();
        assert_eq!(names, ["pending", "starting", "ready-short"]);
        assert!(surplus(&pods, 4).is_empty());
    }

    #[test]
    fn a_ready_pod_becomes_available_after_min_ready_seconds() {
        let set = ReplicaSet {
            spec: Some(ReplicaSetSpec {
                min_ready_seconds: Some(10),
                ..Default::default()
            }),
            ..Default::default()
        };
        let pods = [pod("a", "Running", Some("2026-01-01T00:00:00Z"), Some("n"))];
        let at = |text: &str| text.parse::<Timestamp>().expect("a time");
        let (early, recheck) = status(&set, &pods, None, at("2026-01-01T00:00:04Z"));
        assert_eq!(
            (early.ready_replicas, early.available_replicas),
            (Some(1), None)
        );
        assert_eq!(recheck.map(|d| d.as_secs()), Some(6));
        let (late, recheck) = status(&set, &pods, None, at("2026-01-01T00:00:10Z"));
        assert_eq!((late.available_replicas, recheck), (Some(1), None));
    }
}
