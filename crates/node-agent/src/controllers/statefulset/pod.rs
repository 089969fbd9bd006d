//! The pods of a stateful set: names, identity, and the claims they use.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, PodTemplateSpec, Volume,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use crate::controllers::meta;
use crate::controllers::pods;
use crate::controllers::revisions::REVISION_LABEL;

/// Label: the pod's own name, so that a service can pick a single pod.
const NAME_LABEL: &str = "statefulset.kubernetes.io/pod-name";
/// Label: the pod's number.
const INDEX_LABEL: &str = "apps.kubernetes.io/pod-index";

/// The number in a pod's name; none if the pod is not called after the set.
pub(crate) fn ordinal(set: &StatefulSet, pod: &Pod) -> Option<i32> {
    let (parent, number) = pod.metadata.name.as_deref()?.rsplit_once('-')?;
    let digits = number.bytes().all(|byte| byte.is_ascii_digit());
    (digits && Some(parent) == set.metadata.name.as_deref())
        .then(|| number.parse().ok())
        .flatten()
}

/// The name of the version that a pod was made of.
pub(crate) fn revision_of(pod: &Pod) -> Option<&str> {
    let labels = pod.metadata.labels.as_ref()?;
    labels.get(REVISION_LABEL).map(String::as_str)
}

/// The pod with a number, of a version's template.
pub(crate) fn new(
    set: &StatefulSet,
    template: &PodTemplateSpec,
    revision: &str,
    number: i32,
) -> Pod {
    let mut pod = pods::from_template(set, template);
    let name = format!(
        "{}-{number}",
        set.metadata.name.as_deref().unwrap_or_default()
    );
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(NAME_LABEL.to_owned(), name.clone());
    labels.insert(INDEX_LABEL.to_owned(), number.to_string());
    labels.insert(REVISION_LABEL.to_owned(), revision.to_owned());
    let claims = claims(set, &name);
    let spec = pod.spec.get_or_insert_default();
    spec.hostname = Some(name.clone());
    spec.subdomain = set.spec.as_ref().and_then(|spec| spec.service_name.clone());
    let volumes = spec.volumes.take().unwrap_or_default();
    let mut own: Vec<Volume> = claims
        .iter()
        .map(|(volume, claim)| volume_of(volume, claim))
        .collect();
    // The set's claims win over volumes of the same name.
    let others = volumes
        .into_iter()
        .filter(|volume| !claims.iter().any(|(name, _)| *name == volume.name));
    own.extend(others);
    spec.volumes = (!own.is_empty()).then_some(own);
    pod.metadata.name = Some(name);
    pod
}

fn volume_of(name: &str, claim: &PersistentVolumeClaim) -> Volume {
    Volume {
        name: name.to_owned(),
        persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
            claim_name: claim.metadata.name.clone().unwrap_or_default(),
            read_only: None,
        }),
        ..Volume::default()
    }
}

/// The claims of the pod with this name: (volume, claim).
pub(crate) fn claims(set: &StatefulSet, pod: &str) -> Vec<(String, PersistentVolumeClaim)> {
    let spec = set.spec.clone().unwrap_or_default();
    let templates = spec.volume_claim_templates.unwrap_or_default();
    let selected = spec.selector.match_labels.unwrap_or_default();
    templates
        .into_iter()
        .map(|mut claim| {
            let volume = claim.metadata.name.take().unwrap_or_default();
            claim.metadata.name = Some(format!("{volume}-{pod}"));
            claim.metadata.namespace = set.metadata.namespace.clone();
            claim
                .metadata
                .labels
                .get_or_insert_default()
                .extend(selected.clone());
            claim.status = None;
            (volume, claim)
        })
        .collect()
}

/// Who owns a pod's claims, so that they go with it: nobody by default; the
/// set, or a pod that is removed by scaling down, if the set says so.
pub(crate) fn claim_owner(set: &StatefulSet, pod: Option<&Pod>) -> Option<OwnerReference> {
    let policy = set
        .spec
        .as_ref()?
        .persistent_volume_claim_retention_policy
        .as_ref()?;
    let deletes = |when: &Option<String>| when.as_deref() == Some("Delete");
    if let Some(condemned) = pod.filter(|_| deletes(&policy.when_scaled)) {
        return Some(OwnerReference {
            controller: None,
            block_owner_deletion: None,
            ..meta::controller_ref(condemned)
        });
    }
    deletes(&policy.when_deleted).then(|| OwnerReference {
        block_owner_deletion: None,
        ..meta::controller_ref(set)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn set() -> StatefulSet {
        serde_json::from_value(json!({
            "metadata": {"name": "my-db", "namespace": "ns", "uid": "u"},
            "spec": {
                "serviceName": "peers",
                "selector": {"matchLabels": {"app": "db"}},
                "template": {"metadata": {"labels": {"app": "db"}}, "spec": {
                    "containers": [{"name": "c"}],
                    "volumes": [{"name": "data", "emptyDir": {}}, {"name": "tmp", "emptyDir": {}}]}},
                "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {}}],
                "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Retain", "whenScaled": "Delete"},
            }
        }))
        .unwrap()
    }

    fn named(name: &str) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": name}})).unwrap()
    }

    #[test]
    fn numbers_are_read_from_names() {
        let of = |name: &str| ordinal(&set(), &named(name));
        assert_eq!(of("my-db-0"), Some(0));
        assert_eq!(of("my-db-12"), Some(12));
        for other in [
            "my-db",
            "my-db-x",
            "my-0",
            "my-db-1-2",
            "my-db--1",
            "my-db-99999999999",
        ] {
            assert_eq!(of(other), None, "{other}");
        }
    }

    #[test]
    fn a_pod_has_a_stable_name_and_its_own_claims() {
        let set = set();
        let template = set.spec.as_ref().unwrap().template.clone();
        let pod = new(&set, &template, "my-db-1a", 3);
        assert_eq!(pod.metadata.name.as_deref(), Some("my-db-3"));
        let labels = pod.metadata.labels.as_ref().unwrap();
        assert_eq!(labels[NAME_LABEL], "my-db-3");
        assert_eq!(labels[INDEX_LABEL], "3");
        assert_eq!(
            (&*labels["app"], revision_of(&pod)),
            ("db", Some("my-db-1a"))
        );
        let spec = pod.spec.unwrap();
        assert_eq!(
            (spec.hostname.as_deref(), spec.subdomain.as_deref()),
            (Some("my-db-3"), Some("peers"))
        );
        let volumes: Vec<_> = spec
            .volumes
            .unwrap()
            .into_iter()
            .map(|v| (v.name, v.persistent_volume_claim.map(|c| c.claim_name)))
            .collect();
        assert_eq!(
            volumes,
            [
                ("data".into(), Some("data-my-db-3".into())),
                ("tmp".into(), None)
            ]
        );
    }

    #[test]
    fn claims_go_as_the_set_says() {
        let set = set();
        assert_eq!(claim_owner(&set, None), None);
        let owner = claim_owner(&set, Some(&named("my-db-3"))).unwrap();
        assert_eq!(
            (owner.kind.as_str(), owner.name.as_str()),
            ("Pod", "my-db-3")
        );
    }
}
