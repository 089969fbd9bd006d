//! The versions of a deployment: which replica set is the one of the present
//! template, what its annotations say, and which old ones can be forgotten.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};

use super::plan::{Noted, SetView, Wish};
use crate::controllers::meta;

/// Label that tells the pods of one version from those of the others.
pub(crate) const HASH_LABEL: &str = "pod-template-hash";
/// Annotation: the number of the version.
pub(crate) const REVISION: &str = "deployment.kubernetes.io/revision";
/// Annotation: numbers that the version had before.
const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
/// Annotation: the deployment's `replicas` when the set was scaled last.
pub(crate) const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
/// Annotation: the most pods that the deployment allowed then.
pub(crate) const MAXIMUM: &str = "deployment.kubernetes.io/max-replicas";
/// Old versions that are kept when the deployment does not say how many.
const DEFAULT_HISTORY: i32 = 10;
/// Annotations of a deployment that its sets do not inherit.
const OWN_ANNOTATIONS: [&str; 5] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    REVISION_HISTORY,
    DESIRED,
    MAXIMUM,
];

/// All replica sets of a deployment.
#[derive(Debug, Default)]
pub(crate) struct Versions {
    /// The set of the present template.
    pub(crate) new: Option<Arc<ReplicaSet>>,
    /// All others, oldest first.
    pub(crate) old: Vec<Arc<ReplicaSet>>,
}

impl Versions {
    /// Sorts out `sets` (oldest first) by the deployment's template.
    pub(crate) fn of(spec: &DeploymentSpec, sets: Vec<Arc<ReplicaSet>>) -> Self {
        let template = meta::without_label(&spec.template, HASH_LABEL);
        let is_new = |set: &ReplicaSet| {
            let own = set.spec.as_ref().and_then(|spec| spec.template.as_ref());
            set.metadata.deletion_timestamp.is_none()
                && own.is_some_and(|own| meta::without_label(own, HASH_LABEL) == template)
        };
        let mut old = sets;
        let new = old
            .iter()
            .position(|set| is_new(set))
            .map(|index| old.remove(index));
        Self { new, old }
    }

    /// The present set and all others.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<ReplicaSet>> {
        self.old.iter().chain(&self.new)
    }

    /// The set with this name.
    pub(crate) fn named(&self, name: &str) -> Option<&ReplicaSet> {
        self.all()
            .map(|set| &**set)
            .find(|set| set.metadata.name.as_deref() == Some(name))
    }

    /// The number that the present version must have: the highest of all.
    pub(crate) fn revision(&self) -> i64 {
        let next = 1 + self
            .old
            .iter()
            .map(|set| revision(&set.metadata))
            .max()
            .unwrap_or(0);
        let own = self.new.as_ref().map_or(0, |set| revision(&set.metadata));
        own.max(next)
    }

    /// Empty old versions beyond the limit, oldest first.
    pub(crate) fn forgettable(&self, spec: &DeploymentSpec) -> Vec<&ReplicaSet> {
        let limit = spec.revision_history_limit.unwrap_or(DEFAULT_HISTORY);
        let mut history: Vec<&ReplicaSet> = self
            .old
            .iter()
            .map(|set| &**set)
            .filter(|set| set.metadata.deletion_timestamp.is_none())
            .collect();
        history.sort_by_key(|set| revision(&set.metadata));
        let kept = usize::try_from(limit).unwrap_or(usize::MAX);
        let surplus = history.len().saturating_sub(kept);
        history.truncate(surplus);
        history.retain(|set| {
            let status = set.status.clone().unwrap_or_default();
            wanted_of(set) == 0
                && status.replicas == 0
                && status.observed_generation >= set.metadata.generation
        });
        history
    }
}

/// The number of a version; 0 for an object without one.
pub(crate) fn revision(meta: &ObjectMeta) -> i64 {
    number(meta, REVISION).unwrap_or(0)
}

fn number<N: std::str::FromStr>(meta: &ObjectMeta, key: &str) -> Option<N> {
    meta.annotations.as_ref()?.get(key)?.parse().ok()
}

/// How many pods a set asks for.
pub(crate) fn wanted_of(set: &ReplicaSet) -> i32 {
    set.spec
        .as_ref()
        .and_then(|spec| spec.replicas)
        .unwrap_or(1)
}

/// A set as the plan sees it; `existing` pods of it have not ended.
pub(crate) fn view(set: &ReplicaSet, existing: i32) -> SetView {
    let noted = number(&set.metadata, DESIRED).map(|wanted| Noted {
        wanted,
        most: number(&set.metadata, MAXIMUM).unwrap_or(0),
    });
    SetView {
        name: set.metadata.name.clone().unwrap_or_default(),
        wanted: wanted_of(set),
        existing,
        available: set
            .status
            .as_ref()
            .and_then(|status| status.available_replicas)
            .unwrap_or(0),
        noted,
    }
}

/// The annotations that tell a set how large its deployment is.
pub(crate) fn size_annotations(wish: &Wish) -> BTreeMap<String, String> {
    [
        (DESIRED.to_owned(), wish.wanted.to_string()),
        (MAXIMUM.to_owned(), wish.most().to_string()),
    ]
    .into()
}

/// The annotations that the present set should have beside those it has: the
/// deployment's own, and its number, with the numbers it had before.
pub(crate) fn version_annotations(
    deployment: &Deployment,
    set: Option<&ReplicaSet>,
    number: i64,
) -> BTreeMap<String, String> {
    let mut wanted: BTreeMap<String, String> = deployment
        .metadata
        .annotations
        .iter()
        .flatten()
        .filter(|(key, _)| !OWN_ANNOTATIONS.contains(&key.as_str()))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    wanted.insert(REVISION.to_owned(), number.to_string());
    let before = set.map_or(0, |set| revision(&set.metadata));
    if before != 0 && before != number {
        let history = set
            .and_then(|set| set.metadata.annotations.as_ref()?.get(REVISION_HISTORY))
            .map(|history| format!("{history},{before}"));
        let history = history.unwrap_or_else(|| before.to_string());
        wanted.insert(REVISION_HISTORY.to_owned(), history);
    }
    wanted
}

/// A replica set for the deployment's template, of `size` pods; `collisions`
/// of its names were found taken.
pub(crate) fn new_set(
    deployment: &Deployment,
    spec: &DeploymentSpec,
    versions: &Versions,
    size: i32,
    collisions: i32,
) -> ReplicaSet {
    let hash = meta::template_hash(&spec.template, collisions);
    let mut template = spec.template.clone();
    let labels = template.metadata.as_ref().and_then(|m| m.labels.as_ref());
    let labels = meta::with_label(labels, HASH_LABEL, &hash);
    template.metadata.get_or_insert_default().labels = Some(labels.clone());
    let selector = LabelSelector {
        match_expressions: spec.selector.match_expressions.clone(),
        match_labels: Some(meta::with_label(
            spec.selector.match_labels.as_ref(),
            HASH_LABEL,
            &hash,
        )),
    };
    let mut annotations = version_annotations(deployment, None, versions.revision());
    annotations.extend(size_annotations(&Wish::of(deployment)));
    let name = deployment.metadata.name.as_deref().unwrap_or_default();
    ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{name}-{hash}")),
            namespace: deployment.metadata.namespace.clone(),
            labels: Some(labels),
            annotations: Some(annotations),
            owner_references: Some(vec![meta::controller_ref(deployment)]),
            ..ObjectMeta::default()
        },
        spec: Some(ReplicaSetSpec {
            min_ready_seconds: spec.min_ready_seconds,
            replicas: Some(size),
            selector,
            template: Some(template),
        }),
        status: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn deployment(image: &str) -> Deployment {
        let object = json!({
            "metadata": {"name": "web", "namespace": "ns", "uid": "d",
                "annotations": {"kubernetes.io/change-cause": image, REVISION: "9"}},
            "spec": {
                "replicas": 2,
                "revisionHistoryLimit": 1,
                "selector": {"matchLabels": {"app": "web"}},
                "template": {
                    "metadata": {"labels": {"app": "web"}},
                    "spec": {"containers": [{"name": "c", "image": image}]}
                }
            }
        });
        serde_json::from_value(object).unwrap()
    }

    fn set(name: &str, revision: i64, status: Value) -> Arc<ReplicaSet> {
        let object = json!({"metadata": {"name": name, "generation": 1, "annotations":
            {REVISION: revision.to_string()}}, "spec": {"replicas": 0, "selector": {}}, "status": status});
        Arc::new(serde_json::from_value(object).unwrap())
    }

    #[test]
    fn the_set_of_a_template_is_found_again_by_its_content() {
        let first = deployment("one");
        let spec = first.spec.clone().unwrap();
        let set = Arc::new(new_set(&first, &spec, &Versions::default(), 2, 0));
        assert_eq!((wanted_of(&set), revision(&set.metadata)), (2, 1));
        let versions = Versions::of(&spec, vec![set.clone()]);
        assert!(versions.new.is_some() && versions.old.is_empty());

        let second = deployment("two");
        let spec = second.spec.clone().unwrap();
        let versions = Versions::of(&spec, vec![set]);
        assert!(versions.new.is_none() && versions.old.len() == 1);
        let next = new_set(&second, &spec, &versions, 1, 0);
        assert_eq!(revision(&next.metadata), 2);
        let annotations = next.metadata.annotations.as_ref().unwrap();
        assert_eq!(annotations["kubernetes.io/change-cause"], "two");
        assert_eq!((&*annotations[DESIRED], &*annotations[MAXIMUM]), ("2", "3"));
        let selector = next.spec.unwrap().selector.match_labels.unwrap();
        assert!(selector.contains_key(HASH_LABEL) && selector.contains_key("app"));
    }

    #[test]
    fn a_return_to_an_older_template_gets_a_new_number_and_remembers_the_old() {
        let old = set("a", 4, json!({"replicas": 0}));
        let back = set("b", 2, json!({"replicas": 0}));
        let versions = Versions {
            new: Some(back.clone()),
            old: vec![old],
        };
        assert_eq!(versions.revision(), 5);
        let wanted = version_annotations(&deployment("x"), Some(&back), 5);
        assert_eq!((&*wanted[REVISION], &*wanted[REVISION_HISTORY]), ("5", "2"));
        let same = version_annotations(&deployment("x"), Some(&back), 2);
        assert!(!same.contains_key(REVISION_HISTORY));
    }

    #[test]
    fn only_empty_versions_beyond_the_limit_are_forgotten() {
        let done = json!({"replicas": 0, "observedGeneration": 1});
        let versions = Versions {
            new: None,
            old: vec![
                set("c", 3, done.clone()),
                set("a", 1, done),
                set("b", 2, json!({"replicas": 1, "observedGeneration": 1})),
            ],
        };
        let spec = deployment("x").spec.unwrap();
        let names: Vec<_> = versions
            .forgettable(&spec)
            .iter()
            .filter_map(|set| set.metadata.name.clone())
            .collect();
        assert_eq!(names, ["a"]);
    }
}
