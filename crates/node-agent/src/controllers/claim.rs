//! Which objects belong to an owner: those it controls and that match its
//! selector, and orphans that match, which it adopts. What it controls and does
//! not match any more (somebody changed labels) it lets go.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use super::error::{ControllerError, Doing, is_status};
use super::meta;
use super::selector::selects;
use super::world::{Kind, World};
use crate::informer::{Cache, ObjectKey, Queue};

/// What to do about a candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// Ours, and stays so.
    Keep,
    /// An orphan to take.
    Adopt,
    /// Ours, but not matching.
    Release,
    /// None of our business.
    Ignore,
}

fn judge(owner: &ObjectMeta, selector: &LabelSelector, candidate: &ObjectMeta) -> Verdict {
    let matches = selects(selector, candidate.labels.as_ref());
    let owner_leaves = owner.deletion_timestamp.is_some();
    match meta::controller_of(candidate) {
        Some(controller) if Some(&controller.uid) != owner.uid.as_ref() => Verdict::Ignore,
        Some(_) if matches => Verdict::Keep,
        // The garbage collector deals with what a leaving owner has.
        Some(_) if owner_leaves => Verdict::Ignore,
        Some(_) => Verdict::Release,
        None if matches && !owner_leaves && candidate.deletion_timestamp.is_none() => {
            Verdict::Adopt
        }
        None => Verdict::Ignore,
    }
}

/// The objects of `cache` that belong to `owner`, oldest first.
pub(crate) async fn claim<O: Kind, K: Kind>(
    world: &World,
    owner: &O,
    selector: &LabelSelector,
    cache: &Cache<K>,
) -> Result<Vec<Arc<K>>, ControllerError> {
    let mut owner_lives = None;
    let mut claimed = Vec::new();
    let namespace = owner.meta().namespace.as_deref().unwrap_or_default();
    for candidate in cache.in_namespace(namespace) {
        match judge(owner.meta(), selector, candidate.meta()) {
            Verdict::Keep => claimed.push(candidate),
            Verdict::Ignore => {}
            Verdict::Release => release(world, owner, &*candidate, cache).await?,
            Verdict::Adopt => {
                // Adopted by an owner that is gone, the object would be garbage.
                let lives = match owner_lives {
                    Some(lives) => lives,
                    None => *owner_lives.insert(still_there(world, owner).await?),
                };
                if lives && let Some(adopted) = adopt(world, owner, &*candidate, cache).await? {
                    claimed.push(Arc::new(adopted));
                }
            }
        }
    }
    claimed.sort_by_key(|object| {
        let meta = object.meta();
        (
            meta.creation_timestamp.as_ref().map(|time| time.0),
            meta.name.clone(),
        )
    });
    Ok(claimed)
}

/// Puts the owners whose selector picks an orphan of `cache` that came or
/// changed into `queue`: they may want to adopt it.
pub(crate) fn follow_orphans<O: Kind, K: Kind>(
    cache: &Cache<K>,
    owners: &Arc<Cache<O>>,
    selector: fn(&O) -> Option<&LabelSelector>,
    queue: &Arc<Queue<ObjectKey>>,
) {
    let (owners, queue) = (Arc::downgrade(owners), queue.clone());
    cache.on_change(move |_, new| {
        let orphan = new.filter(|new| meta::controller_of(new.meta()).is_none());
        let (Some(orphan), Some(owners)) = (orphan, owners.upgrade()) else {
            return;
        };
        let namespace = orphan.meta().namespace.as_deref().unwrap_or_default();
        for owner in owners.in_namespace(namespace) {
            let labels = orphan.meta().labels.as_ref();
            if selector(&owner).is_some_and(|selector| selects(selector, labels)) {
                queue.add(ObjectKey::of(&*owner));
            }
        }
    });
}

/// Asks the API server itself: our cache may be late.
async fn still_there<O: Kind>(world: &World, owner: &O) -> Result<bool, ControllerError> {
    let key = ObjectKey::of(owner);
    let found = world
        .api::<O>(&key.namespace)
        .get_opt(&key.name)
        .await
        .doing(|| format!("looking for {key}"))?;
    Ok(found.is_some_and(|found| {
        found.meta().uid == owner.meta().uid && found.meta().deletion_timestamp.is_none()
    }))
}

async fn adopt<O: Kind, K: Kind>(
    world: &World,
    owner: &O,
    orphan: &K,
    cache: &Cache<K>,
) -> Result<Option<K>, ControllerError> {
    let references = json!([meta::controller_ref(owner)]);
    patch_owners(world, orphan, references, cache).await
}

async fn release<O: Kind, K: Kind>(
    world: &World,
    owner: &O,
    object: &K,
    cache: &Cache<K>,
) -> Result<(), ControllerError> {
    let references = json!([{"$patch": "delete", "uid": owner.meta().uid}]);
    patch_owners(world, object, references, cache).await?;
    Ok(())
}

/// Changes owner references of one object, if it is still the same.
async fn patch_owners<K: Kind>(
    world: &World,
    object: &K,
    references: Value,
    cache: &Cache<K>,
) -> Result<Option<K>, ControllerError> {
    let key = ObjectKey::of(object);
    let patch = json!({"metadata": {"uid": object.meta().uid, "ownerReferences": references}});
    let params = PatchParams::default();
    match world
        .api::<K>(&key.namespace)
        .patch(&key.name, &params, &Patch::Strategic(patch))
        .await
    {
        Ok(written) => {
            cache.observe(written.clone());
            Ok(Some(written))
        }
        // Gone, another object of that name, or not ours any more.
        Err(error) if [404, 409, 422].iter().any(|code| is_status(&error, *code)) => Ok(None),
        Err(error) => Err(error).doing(|| format!("changing the owner of {key}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(value: Value) -> ObjectMeta {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn objects_are_kept_adopted_released_or_left_alone() {
        let owner = metadata(json!({"name": "o", "uid": "u"}));
        let leaving =
            metadata(json!({"name": "o", "uid": "u", "deletionTimestamp": "2026-01-01T00:00:00Z"}));
        let selector = serde_json::from_value(json!({"matchLabels": {"a": "b"}})).unwrap();
        let owned = |uid: &str| json!([{"apiVersion": "v1", "kind": "X", "name": "o", "uid": uid, "controller": true}]);
        let (fits, not) = (json!({"a": "b"}), json!({"a": "c"}));
        for (candidate, with_owner, with_leaving) in [
            (
                json!({"labels": fits, "ownerReferences": owned("u")}),
                Verdict::Keep,
                Verdict::Keep,
            ),
            (
                json!({"labels": not, "ownerReferences": owned("u")}),
                Verdict::Release,
                Verdict::Ignore,
            ),
            (
                json!({"labels": fits, "ownerReferences": owned("other")}),
                Verdict::Ignore,
                Verdict::Ignore,
            ),
            (json!({"labels": fits}), Verdict::Adopt, Verdict::Ignore),
            (json!({"labels": not}), Verdict::Ignore, Verdict::Ignore),
            (
                json!({"labels": fits, "deletionTimestamp": "2026-01-01T00:00:00Z"}),
                Verdict::Ignore,
                Verdict::Ignore,
            ),
        ] {
            let meta = metadata(candidate.clone());
            assert_eq!(judge(&owner, &selector, &meta), with_owner, "{candidate}");
            assert_eq!(
                judge(&leaving, &selector, &meta),
                with_leaving,
                "{candidate}"
            );
        }
    }
}
