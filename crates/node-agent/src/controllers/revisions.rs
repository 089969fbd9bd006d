//! Versions of a pod template, kept as `ControllerRevision` objects: what
//! `kubectl rollout history` and `undo` read of stateful sets and daemon sets.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use super::claim::claim;
use super::error::{ControllerError, Doing, is_status};
use super::meta;
use super::world::{Kind, World};
use crate::informer::ObjectKey;

/// Label that names the version a pod was made of.
pub(crate) const REVISION_LABEL: &str = "controller-revision-hash";
/// Label of a revision: the hash in its name.
const HASH_LABEL: &str = "controller.kubernetes.io/hash";
/// Old versions that are kept when the owner does not say how many.
pub(crate) const DEFAULT_HISTORY: i32 = 10;
/// Names that are tried for a new revision before giving up for now.
const NAME_ATTEMPTS: i32 = 8;

/// The versions of one owner.
#[derive(Debug, Clone)]
pub(crate) struct History {
    /// The version of the present template.
    pub(crate) update: Arc<ControllerRevision>,
    /// All versions, oldest number first.
    pub(crate) all: Vec<Arc<ControllerRevision>>,
}

impl History {
    /// The version with this name.
    pub(crate) fn named(&self, name: &str) -> Option<&Arc<ControllerRevision>> {
        self.all
            .iter()
            .find(|revision| revision.metadata.name.as_deref() == Some(name))
    }
}

/// The hash part of a revision's name.
pub(crate) fn hash(revision: &ControllerRevision) -> &str {
    let labels = revision.metadata.labels.as_ref();
    labels
        .and_then(|labels| labels.get(HASH_LABEL))
        .map_or("", String::as_str)
}

/// The pod template that a revision keeps.
pub(crate) fn template(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let data = &revision.data.as_ref()?.0;
    serde_json::from_value(data.pointer("/spec/template")?.clone()).ok()
}

/// A revision's data: a strategic merge patch that brings its template back.
fn data(template: &PodTemplateSpec) -> Value {
    // Plain data: cannot fail.
    let mut template = serde_json::to_value(template).unwrap_or_default();
    if let Some(map) = template.as_object_mut() {
        map.insert("$patch".to_owned(), "replace".into());
    }
    json!({"spec": {"template": template}})
}

/// Finds the revision of `template` among those of `owner`, or makes it. A
/// template that was there before gets its old revision back, with a new
/// number. `collisions` counts names that were found taken.
pub(crate) async fn sync<O: Kind>(
    world: &World,
    owner: &O,
    selector: &LabelSelector,
    template: &PodTemplateSpec,
    collisions: &mut Option<i32>,
) -> Result<History, ControllerError> {
    let mut all = claim(world, owner, selector, &world.revisions).await?;
    all.sort_by_key(|revision| revision.revision);
    let wanted = data(template);
    let next = all.last().map_or(0, |last| last.revision) + 1;
    let equal = all
        .iter()
        .rposition(|revision| revision.data.as_ref().map(|data| &data.0) == Some(&wanted));
    let update = match equal {
        Some(index) if index + 1 == all.len() => all[index].clone(),
        Some(index) => {
            let again = renumber(world, &all.remove(index), next).await?;
            all.push(again.clone());
            again
        }
        None => {
            let made = create(world, owner, template, wanted, next, collisions).await?;
            all.push(made.clone());
            made
        }
    };
    Ok(History { update, all })
}

async fn renumber(
    world: &World,
    revision: &ControllerRevision,
    number: i64,
) -> Result<Arc<ControllerRevision>, ControllerError> {
    let key = ObjectKey::of(revision);
    let patch = json!({"revision": number});
    let written = world
        .api::<ControllerRevision>(&key.namespace)
        .patch(&key.name, &PatchParams::default(), &Patch::Merge(patch))
        .await
        .doing(|| format!("renumbering the revision {key}"))?;
    world.revisions.observe(written.clone());
    Ok(Arc::new(written))
}

async fn create<O: Kind>(
    world: &World,
    owner: &O,
    template: &PodTemplateSpec,
    data: Value,
    number: i64,
    collisions: &mut Option<i32>,
) -> Result<Arc<ControllerRevision>, ControllerError> {
    let key = ObjectKey::of(owner);
    let api = world.api::<ControllerRevision>(&key.namespace);
    for _ in 0..NAME_ATTEMPTS {
        let hash = meta::template_hash(template, collisions.unwrap_or(0));
        let labels = template.metadata.as_ref().and_then(|m| m.labels.as_ref());
        let mut labels = meta::with_label(labels, HASH_LABEL, &hash);
        labels.insert(REVISION_LABEL.to_owned(), hash.clone());
        let name = format!("{}-{hash}", key.name);
        let revision = ControllerRevision {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                namespace: Some(key.namespace.clone()),
                labels: Some(labels),
                annotations: owner.meta().annotations.clone(),
                owner_references: Some(vec![meta::controller_ref(owner)]),
                ..ObjectMeta::default()
            },
            data: Some(RawExtension(data.clone())),
            revision: number,
        };
        match api.create(&PostParams::default(), &revision).await {
            Ok(made) => {
                world.revisions.observe(made.clone());
                return Ok(Arc::new(made));
            }
            Err(error) if is_status(&error, 409) => {
                *collisions = Some(collisions.unwrap_or(0) + 1);
            }
            Err(error) => return Err(error).doing(|| format!("creating the revision {name}")),
        }
    }
    Err(ControllerError::NoFreeName {
        object: format!("the next revision of {key}"),
    })
}

/// Old versions beyond `limit` that nothing uses, oldest first.
fn forgettable(
    all: &[Arc<ControllerRevision>],
    is_live: impl Fn(&ControllerRevision) -> bool,
    limit: Option<i32>,
) -> Vec<&Arc<ControllerRevision>> {
    let limit = usize::try_from(limit.unwrap_or(DEFAULT_HISTORY)).unwrap_or(usize::MAX);
    let mut unused: Vec<_> = all.iter().filter(|revision| !is_live(revision)).collect();
    unused.truncate(unused.len().saturating_sub(limit));
    unused
}

/// Deletes old versions beyond `limit` that nothing uses.
pub(crate) async fn forget(
    world: &World,
    all: &[Arc<ControllerRevision>],
    is_live: impl Fn(&ControllerRevision) -> bool,
    limit: Option<i32>,
) -> Result<(), ControllerError> {
    for revision in forgettable(all, is_live, limit) {
        let key = ObjectKey::of(&**revision);
        match world
            .api::<ControllerRevision>(&key.namespace)
            .delete(&key.name, &DeleteParams::default())
            .await
        {
            Ok(_) => {}
            Err(error) if is_status(&error, 404) => {}
            Err(error) => return Err(error).doing(|| format!("deleting the revision {key}")),
        }
        let uid = revision.metadata.uid.as_deref().unwrap_or_default();
        world.revisions.forget(&key, uid);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revision_gives_its_template_back() {
        let given: PodTemplateSpec = serde_json::from_value(json!({
            "metadata": {"labels": {"a": "b"}},
            "spec": {"containers": [{"name": "c", "image": "i"}]}}))
        .unwrap();
        let revision = ControllerRevision {
            data: Some(RawExtension(data(&given))),
            ..ControllerRevision::default()
        };
        assert_eq!(template(&revision), Some(given));
        let raw = revision.data.unwrap().0;
        assert_eq!(raw["spec"]["template"]["$patch"], "replace");
    }

    #[test]
    fn the_limit_counts_versions_that_nothing_uses() {
        let all: Vec<_> = (1..=5)
            .map(|number| {
                Arc::new(ControllerRevision {
                    revision: number,
                    ..ControllerRevision::default()
                })
            })
            .collect();
        let numbers = |live: &'static [i64], limit| -> Vec<i64> {
            forgettable(&all, |r| live.contains(&r.revision), Some(limit))
                .iter()
                .map(|r| r.revision)
                .collect()
        };
        assert_eq!(numbers(&[5], 2), [1, 2]);
        assert_eq!(numbers(&[5], 10), [0i64; 0]);
        assert_eq!(numbers(&[2, 5], 1), [1, 3]);
    }
}
