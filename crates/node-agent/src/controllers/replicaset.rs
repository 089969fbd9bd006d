//! ReplicaSet: as many pods as wished.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::jiff::Timestamp;

use super::claim::{claim, follow_orphans};
use super::error::ControllerError;
use super::meta::{self, Availability};
use super::pods;
use super::world::{World, follow, follow_owners};
use crate::informer::{ObjectKey, Queue};

const COMPONENT: &str = "replicaset-controller";
/// Pods created or deleted in one go; the rest follows in the next round.
const BURST: usize = 100;

/// Subscribes to what matters for replica sets and works on them.
pub(crate) fn start(world: Arc<World>) -> impl Future<Output = ()> + Send {
    let queue = Queue::new();
    follow(&world.replica_sets, &queue);
    follow_owners(&world.pods, "ReplicaSet", &queue);
    follow_orphans(&world.pods, &world.replica_sets, selector, &queue);
    async move {
        super::synced(&world).await;
        queue
            .work(COMPONENT, |key| reconcile(&world, &queue, key))
            .await;
    }
}

fn selector(set: &ReplicaSet) -> Option<&LabelSelector> {
    set.spec.as_ref().map(|spec| &spec.selector)
}

async fn reconcile(
    world: &World,
    queue: &Queue<ObjectKey>,
    key: ObjectKey,
) -> Result<(), ControllerError> {
    let Some(set) = world.replica_sets.get(&key) else {
        return Ok(());
    };
    let Some(spec) = &set.spec else {
        return Ok(());
    };
    let mut pods = claim(world, &*set, &spec.selector, &world.pods).await?;
    let mut failure = None;
    if set.metadata.deletion_timestamp.is_none() {
        failure = scale(world, &set, &pods).await.err();
        pods = claim(world, &*set, &spec.selector, &world.pods).await?;
    }
    let (status, recheck) = status(&set, &pods, failure.as_ref(), Timestamp::now());
    if let Some(delay) = recheck {
        queue.add_after(key.clone(), delay);
    }
    if set.status.as_ref() != Some(&status) {
        let mut updated = (*set).clone();
        updated.status = Some(status);
        world.write_status(&world.replica_sets, &updated).await?;
    }
    failure.map_or(Ok(()), |failure| Err(failure.error))
}

/// A step of scaling that did not work.
struct Failure {
    reason: &'static str,
    error: ControllerError,
}

async fn scale(world: &World, set: &ReplicaSet, pods: &[Arc<Pod>]) -> Result<(), Failure> {
    let active: Vec<Arc<Pod>> = pods
        .iter()
        .filter(|pod| meta::is_active(pod))
        .cloned()
        .collect();
    let wanted = replicas(set);
    if active.len() < wanted {
        let template = set
            .spec
            .as_ref()
            .and_then(|spec| spec.template.clone())
            .unwrap_or_default();
        for _ in 0..(wanted - active.len()).min(BURST) {
            let pod = pods::from_template(set, &template);
            let created = pods::create(world, COMPONENT, set, &pod).await;
            created.map_err(|error| Failure {
                reason: "FailedCreate",
                error,
            })?;
        }
    }
    let crowd = crowd(world, set);
    for pod in surplus(&active, wanted, &crowd).into_iter().take(BURST) {
        let deleted = pods::delete_for(world, COMPONENT, set, pod).await;
        deleted.map_err(|error| Failure {
            reason: "FailedDelete",
            error,
        })?;
    }
    Ok(())
}

/// How many active pods of the same family (all versions of one deployment) each node has.
fn crowd(world: &World, set: &ReplicaSet) -> HashMap<String, usize> {
    let owner = meta::controller_of(&set.metadata).map(|owner| owner.uid.clone());
    let own = set.metadata.uid.clone().unwrap_or_default();
    let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
    let family: Vec<String> = world
        .replica_sets
        .in_namespace(namespace)
        .iter()
        .filter(|other| {
            owner.is_some()
                && meta::controller_of(&other.metadata).map(|o| &o.uid) == owner.as_ref()
        })
        .filter_map(|other| other.metadata.uid.clone())
        .chain([own])
        .collect();
    let mut crowd = HashMap::new();
    for pod in world.pods.in_namespace(namespace) {
        let related = meta::controller_of(&pod.metadata).is_some_and(|o| family.contains(&o.uid));
        if let Some(node) = meta::node_of(&pod).filter(|_| related && meta::is_active(&pod)) {
            *crowd.entry(node.to_owned()).or_default() += 1;
        }
    }
    crowd
}

fn replicas(set: &ReplicaSet) -> usize {
    let wanted = set
        .spec
        .as_ref()
        .and_then(|spec| spec.replicas)
        .unwrap_or(1);
    usize::try_from(wanted).unwrap_or(0)
}

/// The pods to delete so that `wanted` stay, least useful first: not assigned,
/// not running, not ready, cheapest by their own word, on the fullest node,
/// shortest ready, most often restarted, newest.
fn surplus<'a>(
    owned: &'a [Arc<Pod>],
    wanted: usize,
    crowd: &HashMap<String, usize>,
) -> Vec<&'a Pod> {
    let excess = owned.len().saturating_sub(wanted);
    if excess == 0 {
        return Vec::new();
    }
    let mut ranked: Vec<&Pod> = owned.iter().map(|pod| &**pod).collect();
    ranked.sort_by_key(|pod| {
        let ready = meta::ready_since(pod);
        let node = meta::node_of(pod);
        (
            node.is_some(),
            meta::phase(pod) == "Running",
            ready.is_some(),
            deletion_cost(pod),
            Reverse(node.and_then(|node| crowd.get(node)).copied().unwrap_or(0)),
            Reverse(ready),
            Reverse(restarts(pod)),
            Reverse(pod.metadata.creation_timestamp.as_ref().map(|time| time.0)),
        )
    });
    ranked.truncate(excess);
    ranked
}

fn deletion_cost(pod: &Pod) -> i32 {
    let annotations = pod.metadata.annotations.as_ref();
    annotations
        .and_then(|annotations| annotations.get("controller.kubernetes.io/pod-deletion-cost"))
        .and_then(|cost| cost.parse().ok())
        .unwrap_or(0)
}

fn restarts(pod: &Pod) -> i32 {
    let statuses = pod
        .status
        .as_ref()
        .and_then(|status| status.container_statuses.as_ref());
    statuses
        .into_iter()
        .flatten()
        .map(|status| status.restart_count)
        .max()
        .unwrap_or(0)
}

/// The status that the set's pods give, and when time alone will change it.
fn status(
    set: &ReplicaSet,
    pods: &[Arc<Pod>],
    failure: Option<&Failure>,
    now: Timestamp,
) -> (ReplicaSetStatus, Option<std::time::Duration>) {
    let spec = set.spec.clone().unwrap_or_default();
    let labels = spec
        .template
        .and_then(|template| template.metadata)
        .and_then(|meta| meta.labels)
        .unwrap_or_default();
    let (mut ready, mut available, mut labeled, mut recheck) = (0, 0, 0, None);
    let active: Vec<&Arc<Pod>> = pods.iter().filter(|pod| meta::is_active(pod)).collect();
    let terminating = pods.iter().filter(|pod| meta::is_terminating(pod)).count();
    for pod in &active {
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
        replicas: i32::try_from(active.len()).unwrap_or(i32::MAX),
        terminating_replicas: i32::try_from(terminating).ok(),
        fully_labeled_replicas: non_zero(labeled),
        ready_replicas: non_zero(ready),
        available_replicas: non_zero(available),
        observed_generation: set.metadata.generation,
        conditions: conditions(set, failure),
    };
    (status, recheck)
}

fn conditions(set: &ReplicaSet, failure: Option<&Failure>) -> Option<Vec<ReplicaSetCondition>> {
    let mut others: Vec<ReplicaSetCondition> = set
        .status
        .as_ref()
        .and_then(|status| status.conditions.clone())
        .unwrap_or_default();
    let known = others
        .iter()
        .position(|c| c.type_ == "ReplicaFailure")
        .map(|i| others.remove(i));
    if let Some(Failure { reason, error }) = failure {
        others.push(ReplicaSetCondition {
            type_: "ReplicaFailure".to_owned(),
            status: "True".to_owned(),
            reason: Some((*reason).to_owned()),
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
        let none = HashMap::new();
        let names = |chosen: Vec<&Pod>| -> Vec<String> {
            chosen
                .iter()
                .filter_map(|pod| pod.metadata.name.clone())
                .collect()
        };
        let chosen = names(surplus(&pods, 1, &none));
        assert_eq!(chosen, ["pending", "starting", "ready-short"]);
        assert!(surplus(&pods, 4, &none).is_empty());
        // Of two equals, the one on the fuller node; but a pod's own word counts more.
        let since = Some("2026-01-01T00:00:01Z");
        let mut pods = [
            pod("alone", "Running", since, Some("n")),
            pod("crowded", "Running", since, Some("full")),
        ];
        let crowd = [("n".to_owned(), 1), ("full".to_owned(), 2)].into();
        assert_eq!(names(surplus(&pods, 1, &crowd)), ["crowded"]);
        let cost = [(
            "controller.kubernetes.io/pod-deletion-cost".to_owned(),
            "-1".to_owned(),
        )];
        Arc::make_mut(&mut pods[0]).metadata.annotations = Some(cost.into());
        assert_eq!(names(surplus(&pods, 1, &crowd)), ["alone"]);
    }

    #[test]
    fn pods_on_their_way_out_are_counted_apart() {
        let mut leaving = pod("a", "Running", None, Some("n"));
        Arc::make_mut(&mut leaving).metadata.deletion_timestamp = Some(meta::now());
        let pods = [leaving, pod("b", "Failed", None, Some("n"))];
        let (status, _) = status(&ReplicaSet::default(), &pods, None, Timestamp::now());
        assert_eq!((status.replicas, status.terminating_replicas), (0, Some(1)));
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
