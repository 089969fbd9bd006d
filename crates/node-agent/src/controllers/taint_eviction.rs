//! Pods leave nodes whose taints say `NoExecute`: at once, or when what they
//! tolerate for a time has lasted that long.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod, Taint, Toleration};
use k8s_openapi::jiff::Timestamp;

use super::error::ControllerError;
use super::meta;
use super::placement;
use super::pods;
use super::world::World;
use crate::informer::{ObjectKey, Queue};

const COMPONENT: &str = "taint-eviction-controller";

/// Subscribes to pods and nodes, and evicts.
pub(crate) fn start(world: Arc<World>) -> impl Future<Output = ()> + Send {
    let queue = Queue::new();
    let bound = queue.clone();
    world.pods.on_change(move |_, new| {
        if let Some(pod) = new.filter(|pod| meta::node_of(pod).is_some()) {
            bound.add(ObjectKey::of(pod));
        }
    });
    let (tainted, cache) = (queue.clone(), Arc::downgrade(&world.pods));
    world.nodes.on_change(move |old, new| {
        let (Some(node), Some(pods)) = (new, cache.upgrade()) else {
            return;
        };
        if old.is_some_and(|old| evicting(old) == evicting(node)) {
            return;
        }
        let name = node.metadata.name.as_deref();
        for pod in pods.list().iter().filter(|p| meta::node_of(p) == name) {
            tainted.add(ObjectKey::of(&**pod));
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
    let Some(pod) = world.pods.get(&key).filter(|pod| meta::is_active(pod)) else {
        return Ok(());
    };
    let Some(node) = meta::node_of(&pod).and_then(|n| world.nodes.get(&ObjectKey::new("", n)))
    else {
        return Ok(());
    };
    match verdict(&pod, &node, Timestamp::now()) {
        Verdict::Stay => Ok(()),
        Verdict::In(delay) => {
            queue.add_after(key, delay);
            Ok(())
        }
        Verdict::Leave => evict(world, &pod, &key).await,
    }
}

async fn evict(world: &World, pod: &Pod, key: &ObjectKey) -> Result<(), ControllerError> {
    let message = format!("Marking for deletion Pod {key}");
    world
        .events
        .normal(COMPONENT, pod, "TaintManagerEviction", message)
        .await;
    let about = "Taint manager: deleting due to NoExecute taint";
    pods::mark_disrupted(world, pod, "DeletionByTaintManager", about).await?;
    pods::delete(world, pod, None).await
}

/// What the taints of its node mean for a pod.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Stay,
    /// It has to leave after this time, if nothing changes.
    In(Duration),
    Leave,
}

fn evicting(node: &Node) -> Vec<&Taint> {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
    let all = taints.into_iter().flatten();
    all.filter(|taint| taint.effect == "NoExecute").collect()
}

fn verdict(pod: &Pod, node: &Node, now: Timestamp) -> Verdict {
    let spec = pod.spec.as_ref();
    let tolerations = spec
        .and_then(|spec| spec.tolerations.as_deref())
        .unwrap_or_default();
    let created = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
    let mut first: Option<Timestamp> = None;
    for taint in evicting(node) {
        let Some(seconds) = patience(tolerations, taint) else {
            return Verdict::Leave;
        };
        let Some(seconds) = seconds else { continue };
        // A pod that came later than the taint gets the whole time, too.
        let added = taint.time_added.as_ref().map(|time| time.0);
        let since = added.max(created).unwrap_or(now);
        let end = since
            .checked_add(Duration::from_secs(seconds))
            .unwrap_or(Timestamp::MAX);
        first = Some(first.map_or(end, |first| first.min(end)));
    }
    match first {
        None => Verdict::Stay,
        Some(end) if end <= now => Verdict::Leave,
        Some(end) => Verdict::In(Duration::try_from(end - now).unwrap_or_default()),
    }
}

/// How many seconds a taint is tolerated: the least that a toleration says;
/// for ever if none says; not at all if there is none.
fn patience(tolerations: &[Toleration], taint: &Taint) -> Option<Option<u64>> {
    let mut covering = tolerations
        .iter()
        .filter(|toleration| placement::covers(toleration, taint))
        .peekable();
    covering.peek()?;
    let seconds = covering.filter_map(|toleration| toleration.toleration_seconds);
    Some(seconds.min().map(|s| u64::try_from(s).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const ADDED: &str = "2026-01-01T00:00:00Z";

    fn node() -> Node {
        let node = json!({"metadata": {"name": "n"}, "spec": {"taints": [
            {"key": "soft", "effect": "NoSchedule"},
            {"key": "gone", "effect": "NoExecute", "timeAdded": ADDED}]}});
        serde_json::from_value(node).expect("a node")
    }

    fn after(tolerations: Value, created: &str, seconds: i64) -> Verdict {
        let pod = json!({
            "metadata": {"name": "p", "creationTimestamp": created},
            "spec": {"containers": [], "tolerations": tolerations}});
        let pod = serde_json::from_value(pod).expect("a pod");
        let added: Timestamp = ADDED.parse().expect("a time");
        let now = added
            .checked_add(Duration::from_secs(seconds.unsigned_abs()))
            .expect("a time");
        verdict(&pod, &node(), now)
    }

    #[test]
    fn what_is_not_tolerated_is_left_at_once_and_the_rest_in_time() {
        let early = "2025-01-01T00:00:00Z";
        assert_eq!(after(json!([]), early, 0), Verdict::Leave);
        let always = json!([{"key": "gone", "operator": "Exists"}]);
        assert_eq!(after(always, early, 1_000_000), Verdict::Stay);
        let short = json!([
            {"operator": "Exists", "tolerationSeconds": 300},
            {"key": "gone", "operator": "Exists", "tolerationSeconds": 60}]);
        let left = Verdict::In(Duration::from_secs(50));
        assert_eq!(after(short.clone(), early, 10), left);
        assert_eq!(after(short.clone(), early, 60), Verdict::Leave);
        // A pod that came ten seconds after the taint.
        let late = "2026-01-01T00:00:10Z";
        assert_eq!(after(short, late, 60), Verdict::In(Duration::from_secs(10)));
        let never = json!([{"operator": "Exists", "tolerationSeconds": -5}]);
        assert_eq!(after(never, late, 10), Verdict::Leave);
    }
}
