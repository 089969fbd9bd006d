//! PodDisruptionBudget: how many pods of a set may be lost on purpose right
//! now. The API server asks its status before it evicts a pod.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::{
    PodDisruptionBudget, PodDisruptionBudgetSpec, PodDisruptionBudgetStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use k8s_openapi::jiff::Timestamp;

use super::error::ControllerError;
use super::meta::{self, scaled};
use super::selector::selects;
use super::world::{World, follow};
use crate::informer::{ObjectKey, Queue};

const COMPONENT: &str = "disruption-controller";
/// An evicted pod that is not gone after so long will not go: it counts again.
const EVICTION_TIMEOUT: Duration = Duration::from_secs(120);

/// Subscribes to what matters for budgets and keeps their status true.
pub(crate) fn start(world: Arc<World>) -> impl Future<Output = ()> + Send {
    let queue = Queue::new();
    follow(&world.budgets, &queue);
    let (by_pod, budgets) = (queue.clone(), Arc::downgrade(&world.budgets));
    world.pods.on_change(move |old, new| {
        let Some(budgets) = budgets.upgrade() else {
            return;
        };
        for pod in [old, new].into_iter().flatten() {
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            for budget in budgets.in_namespace(namespace) {
                if covers(&budget, pod) {
                    by_pod.add(ObjectKey::of(&*budget));
                }
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

fn covers(budget: &PodDisruptionBudget, pod: &Pod) -> bool {
    let spec = budget.spec.as_ref();
    let selector = spec.and_then(|spec| spec.selector.as_ref());
    selector.is_some_and(|selector| selects(selector, pod.metadata.labels.as_ref()))
}

async fn reconcile(
    world: &World,
    queue: &Queue<ObjectKey>,
    key: ObjectKey,
) -> Result<(), ControllerError> {
    let Some(budget) = world.budgets.get(&key) else {
        return Ok(());
    };
    let mut pods = world.pods.in_namespace(&key.namespace);
    pods.retain(|pod| covers(&budget, pod));
    let scale = match needs_scale(budget.spec.as_ref()) {
        true => scale(world, &pods),
        false => Ok(i32::try_from(pods.len()).unwrap_or(i32::MAX)),
    };
    let (status, recheck) = status(&budget, &pods, scale, Timestamp::now());
    if let Some(delay) = recheck {
        queue.add_after(key, delay);
    }
    if budget.status.as_ref() == Some(&status) {
        return Ok(());
    }
    let mut updated = (*budget).clone();
    updated.status = Some(status);
    world.write_status(&world.budgets, &updated).await
}

/// Whether the budget is a share of what the pods' owners ask for.
fn needs_scale(spec: Option<&PodDisruptionBudgetSpec>) -> bool {
    let is_share = |value: &Option<IntOrString>| matches!(value, Some(IntOrString::String(_)));
    spec.is_some_and(|spec| spec.max_unavailable.is_some() || is_share(&spec.min_available))
}

/// How many pods the owners of these pods ask for together.
fn scale(world: &World, pods: &[Arc<Pod>]) -> Result<i32, String> {
    let mut owners = BTreeMap::new();
    for pod in pods {
        let Some(owner) = meta::controller_of(&pod.metadata) else {
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            return Err(format!("found no controller ref for pod {name:?}"));
        };
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let key = ObjectKey::new(namespace, &*owner.name);
        let replicas = match owner.kind.as_str() {
            "ReplicaSet" => replica_set_scale(world, &key),
            "StatefulSet" => {
                let set = world.stateful_sets.get(&key);
                set.and_then(|set| set.spec.as_ref()?.replicas)
                    .map(|count| (owner.uid.clone(), count))
            }
            kind => return Err(format!("{kind} does not implement the scale subresource")),
        };
        // An owner that is gone asks for nothing.
        owners.extend(replicas);
    }
    Ok(owners.values().sum())
}

/// What a replica set asks for, or the deployment behind it.
fn replica_set_scale(world: &World, key: &ObjectKey) -> Option<(String, i32)> {
    let set = world.replica_sets.get(key)?;
    let deployment = meta::controller_of(&set.metadata)
        .filter(|owner| owner.kind == "Deployment")
        .and_then(|owner| {
            let key = ObjectKey::new(&*key.namespace, &*owner.name);
            Some((
                owner.uid.clone(),
                world.deployments.get(&key)?.spec.as_ref()?.replicas?,
            ))
        });
    let own = set.spec.as_ref()?.replicas;
    deployment.or_else(|| Some((set.metadata.uid.clone()?, own?)))
}

/// The status that the covered pods give, and when time alone changes it.
/// `expected` pods are asked for, if that is known.
fn status(
    budget: &PodDisruptionBudget,
    pods: &[Arc<Pod>],
    expected: Result<i32, String>,
    now: Timestamp,
) -> (PodDisruptionBudgetStatus, Option<Duration>) {
    let before = budget.status.clone().unwrap_or_default();
    let (evicted, recheck) = still_going(&before, pods, now);
    let failure = expected.as_ref().err().cloned();
    let expected = expected.unwrap_or(before.expected_pods);
    let desired = desired(budget.spec.as_ref(), expected);
    let healthy = pods.iter().filter(|pod| {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        meta::is_active(pod) && meta::ready_since(pod).is_some() && !evicted.contains_key(name)
    });
    let healthy = i32::try_from(healthy.count()).unwrap_or(i32::MAX);
    let allowed = match (&failure, expected) {
        (Some(_), _) | (_, ..=0) => 0,
        _ => (healthy - desired).max(0),
    };
    let status = PodDisruptionBudgetStatus {
        current_healthy: healthy,
        desired_healthy: desired,
        expected_pods: expected,
        disruptions_allowed: allowed,
        disrupted_pods: (!evicted.is_empty()).then_some(evicted),
        observed_generation: budget.metadata.generation,
        conditions: Some(vec![condition(budget, &before, allowed, failure, now)]),
    };
    (status, recheck)
}

/// Evicted pods that are still there, and when they begin to count again.
fn still_going(
    before: &PodDisruptionBudgetStatus,
    pods: &[Arc<Pod>],
    now: Timestamp,
) -> (BTreeMap<String, Time>, Option<Duration>) {
    let mut evicted = before.disrupted_pods.clone().unwrap_or_default();
    let mut recheck: Option<Duration> = None;
    evicted.retain(|name, since| {
        let waits = pods.iter().any(|pod| {
            pod.metadata.name.as_ref() == Some(name) && pod.metadata.deletion_timestamp.is_none()
        });
        let passed = now.as_millisecond() - since.0.as_millisecond();
        let passed = Duration::from_millis(u64::try_from(passed).unwrap_or(0));
        let left = EVICTION_TIMEOUT.saturating_sub(passed);
        if waits && !left.is_zero() {
            recheck = Some(recheck.map_or(left, |other| other.min(left)));
        }
        waits && !left.is_zero()
    });
    (evicted, recheck)
}

fn desired(spec: Option<&PodDisruptionBudgetSpec>, expected: i32) -> i32 {
    let Some(spec) = spec else { return 0 };
    if let Some(most) = &spec.max_unavailable {
        return (expected - scaled(Some(most), 0, expected, true)).max(0);
    }
    // Without any number: one pod, as for `minAvailable: 1`.
    scaled(spec.min_available.as_ref(), 1, expected, true)
}

fn condition(
    budget: &PodDisruptionBudget,
    before: &PodDisruptionBudgetStatus,
    allowed: i32,
    failure: Option<String>,
    now: Timestamp,
) -> Condition {
    let (status, reason, message) = match (failure, allowed) {
        (Some(why), _) => ("False", "SyncFailed", why),
        (None, 0) => ("False", "InsufficientPods", String::new()),
        (None, _) => ("True", "SufficientPods", String::new()),
    };
    let conditions = before.conditions.as_deref().unwrap_or_default();
    let same = conditions
        .iter()
        .find(|c| c.type_ == "DisruptionAllowed" && c.status == status);
    Condition {
        type_: "DisruptionAllowed".to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message,
        last_transition_time: same.map_or(Time(now), |c| c.last_transition_time.clone()),
        observed_generation: budget.metadata.generation,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn budget(spec: Value, status: Value) -> PodDisruptionBudget {
        let object =
            json!({"metadata": {"name": "b", "generation": 3}, "spec": spec, "status": status});
        serde_json::from_value(object).unwrap()
    }

    fn pods(ready: usize, others: usize) -> Vec<Arc<Pod>> {
        (0..ready + others)
            .map(|index| {
                let status = if index < ready { "True" } else { "False" };
                let pod = json!({"metadata": {"name": format!("p{index}")}, "status": {"phase": "Running",
                    "conditions": [{"type": "Ready", "status": status}]}});
                Arc::new(serde_json::from_value(pod).unwrap())
            })
            .collect()
    }

    const NOTHING: Value = Value::Null;

    #[test]
    fn budgets_round_in_favour_of_the_pods() {
        // spec, expected, ready → desired, allowed
        for (spec, expected, ready, desired, allowed) in [
            (json!({"minAvailable": 2}), 3, 3, 2, 1),
            (json!({"minAvailable": 2}), 3, 2, 2, 0),
            (json!({"minAvailable": "50%"}), 3, 3, 2, 1),
            (json!({"maxUnavailable": 1}), 3, 3, 2, 1),
            (json!({"maxUnavailable": "30%"}), 5, 5, 3, 2),
            (json!({"maxUnavailable": "0%"}), 5, 5, 5, 0),
            (json!({"maxUnavailable": 9}), 3, 3, 0, 3),
            (json!({"minAvailable": 1}), 0, 0, 1, 0),
        ] {
            let budget = budget(
                spec.clone(),
                json!({"currentHealthy": 0, "desiredHealthy": 0,
                "disruptionsAllowed": 0, "expectedPods": 0}),
            );
            let (status, _) = status(&budget, &pods(ready, 0), Ok(expected), Timestamp::now());
            assert_eq!(
                (status.desired_healthy, status.disruptions_allowed),
                (desired, allowed),
                "{spec}"
            );
            assert_eq!(status.observed_generation, Some(3));
        }
    }

    #[test]
    fn an_evicted_pod_does_not_count_until_it_is_forgotten() {
        let before = json!({"currentHealthy": 3, "desiredHealthy": 2, "disruptionsAllowed": 0,
            "expectedPods": 3, "disruptedPods": {"p0": "2026-01-01T00:00:00Z", "gone": "2026-01-01T00:00:00Z"}});
        let budget = budget(json!({"minAvailable": 2}), before);
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let (status_now, recheck) = status(&budget, &pods(3, 0), Ok(3), at("2026-01-01T00:00:30Z"));
        assert_eq!(
            (status_now.current_healthy, status_now.disruptions_allowed),
            (2, 0)
        );
        assert_eq!(status_now.disrupted_pods.unwrap().len(), 1);
        assert_eq!(recheck, Some(Duration::from_secs(90)));
        let (later, _) = status(&budget, &pods(3, 0), Ok(3), at("2026-01-01T00:02:01Z"));
        assert_eq!((later.disrupted_pods, later.disruptions_allowed), (None, 1));
    }

    #[test]
    fn what_cannot_be_computed_allows_nothing() {
        let budget = budget(json!({"maxUnavailable": 1}), NOTHING);
        let (status, _) = status(
            &budget,
            &pods(2, 0),
            Err("no controller".into()),
            Timestamp::now(),
        );
        assert_eq!(status.disruptions_allowed, 0);
        let condition = &status.conditions.unwrap()[0];
        assert_eq!(
            (condition.reason.as_str(), condition.message.as_str()),
            ("SyncFailed", "no controller")
        );
    }
}
