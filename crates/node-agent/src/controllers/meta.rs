//! Small facts about objects that several controllers need: owners, names,
//! hashes, and what state a pod is in.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use k8s_openapi::jiff::Timestamp;
use rand::RngExt;
use sha2::{Digest, Sha256};

/// Characters of generated names: no vowels, no look-alikes.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
/// The longest name the API takes before a suffix is added.
const MAX_PREFIX: usize = 57;

/// The owner that controls the object, if there is one.
pub(crate) fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references
        .as_ref()?
        .iter()
        .find(|owner| owner.controller == Some(true))
}

/// Whether the object with `uid` controls this one.
pub(crate) fn is_controlled_by(meta: &ObjectMeta, uid: &str) -> bool {
    controller_of(meta).is_some_and(|owner| owner.uid == uid)
}

/// The owner reference by which `owner` controls what it creates.
pub(crate) fn controller_ref<K: kube::Resource<DynamicType = ()>>(owner: &K) -> OwnerReference {
    OwnerReference {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        name: owner.meta().name.clone().unwrap_or_default(),
        uid: owner.meta().uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// A name that starts with `prefix` and ends in five random characters.
pub(crate) fn generated_name(prefix: &str) -> String {
    let mut rng = rand::rng();
    let mut name: String = prefix.chars().take(MAX_PREFIX).collect();
    for _ in 0..5 {
        name.push(ALPHABET[rng.random_range(0..ALPHABET.len())] as char);
    }
    name
}

/// A short hash of a pod template, stable across processes.
pub(crate) fn template_hash(template: &PodTemplateSpec, collisions: i32) -> String {
    let mut hasher = Sha256::new();
    // Serializing plain data cannot fail; an empty text would only make the
    // hashes of two broken templates equal.
    hasher.update(serde_json::to_vec(template).unwrap_or_default());
    if collisions > 0 {
        hasher.update(collisions.to_be_bytes());
    }
    let digest = hasher.finalize();
    digest
        .iter()
        .take(10)
        .map(|byte| ALPHABET[*byte as usize % ALPHABET.len()] as char)
        .collect()
}

/// `template` without the label `label`, to compare with its origin.
pub(crate) fn without_label(template: &PodTemplateSpec, label: &str) -> PodTemplateSpec {
    let mut template = template.clone();
    if let Some(meta) = &mut template.metadata {
        if let Some(labels) = &mut meta.labels {
            labels.remove(label);
            if labels.is_empty() {
                meta.labels = None;
            }
        }
        meta.creation_timestamp = None;
    }
    template
}

/// `labels` with one more.
pub(crate) fn with_label(
    labels: Option<&BTreeMap<String, String>>,
    key: &str,
    value: &str,
) -> BTreeMap<String, String> {
    let mut labels = labels.cloned().unwrap_or_default();
    labels.insert(key.to_owned(), value.to_owned());
    labels
}

/// An absolute number, or a percentage of `total`, rounded up or down.
pub(crate) fn scaled(value: Option<&IntOrString>, default: i32, total: i32, up: bool) -> i32 {
    match value {
        None => default,
        Some(IntOrString::Int(number)) => *number,
        Some(IntOrString::String(text)) => {
            let Some(percent) = text.strip_suffix('%').and_then(|p| p.parse::<i32>().ok()) else {
                return default;
            };
            let exact = percent.saturating_mul(total);
            if up {
                exact.saturating_add(99) / 100
            } else {
                exact / 100
            }
        }
    }
}

/// Whether the pod has ended for good.
pub(crate) fn is_finished(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// Whether the pod counts as one of its owner's replicas.
pub(crate) fn is_active(pod: &Pod) -> bool {
    !is_finished(pod) && pod.metadata.deletion_timestamp.is_none()
}

/// Whether the pod has been deleted and has not ended yet.
pub(crate) fn is_terminating(pod: &Pod) -> bool {
    !is_finished(pod) && pod.metadata.deletion_timestamp.is_some()
}

/// The pod's phase; "" when it has no status yet.
pub(crate) fn phase(pod: &Pod) -> &str {
    pod.status
        .as_ref()
        .and_then(|status| status.phase.as_deref())
        .unwrap_or("")
}

/// The node that the pod is bound to.
pub(crate) fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec
        .as_ref()?
        .node_name
        .as_deref()
        .filter(|name| !name.is_empty())
}

/// Since when the pod's condition `Ready` is true.
pub(crate) fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let ready = pod
        .status
        .as_ref()?
        .conditions
        .as_ref()?
        .iter()
        .find(|c| c.type_ == "Ready")?;
    let since = ready
        .last_transition_time
        .as_ref()
        .map_or(Timestamp::UNIX_EPOCH, |t| t.0);
    (ready.status == "True").then_some(since)
}

/// Whether a pod is available, and if it only waits for `minReadySeconds`,
/// for how long still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Availability {
    Available,
    In(Duration),
    NotReady,
}

/// Availability of a pod at `now` under `minReadySeconds`.
pub(crate) fn availability(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> Availability {
    let Some(since) = ready_since(pod) else {
        return Availability::NotReady;
    };
    let missing =
        i64::from(min_ready_seconds) * 1000 - (now.as_millisecond() - since.as_millisecond());
    if min_ready_seconds <= 0 || missing <= 0 {
        Availability::Available
    } else {
        Availability::In(Duration::from_millis(missing.unsigned_abs()))
    }
}

/// The current time in the API's form.
pub(crate) fn now() -> Time {
    Time(Timestamp::now())
}

/// "namespace/name" of an object, for messages.
pub(crate) fn display(meta: &ObjectMeta) -> String {
    match (&meta.namespace, &meta.name) {
        (Some(namespace), Some(name)) => format!("{namespace}/{name}"),
        (None, Some(name)) => name.clone(),
        _ => "?".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_round_as_asked() {
        let percent = IntOrString::String("25%".into());
        assert_eq!(scaled(Some(&percent), 9, 3, true), 1);
        assert_eq!(scaled(Some(&percent), 9, 3, false), 0);
        assert_eq!(scaled(Some(&IntOrString::Int(4)), 9, 3, true), 4);
        assert_eq!(scaled(None, 9, 3, true), 9);
        assert_eq!(
            scaled(Some(&IntOrString::String("many".into())), 9, 3, true),
            9
        );
    }

    #[test]
    fn hashes_follow_the_template_and_nothing_else() {
        let mut template = PodTemplateSpec::default();
        let plain = template_hash(&template, 0);
        assert_eq!(plain, template_hash(&template, 0));
        assert_ne!(plain, template_hash(&template, 1));
        template.metadata = Some(ObjectMeta {
            labels: Some([("a".into(), "b".into())].into()),
            ..Default::default()
        });
        assert_ne!(plain, template_hash(&template, 0));
        assert_eq!(plain.len(), 10);
    }

    #[test]
    fn generated_names_fit_the_limit() {
        assert_eq!(generated_name("web-").len(), 9);
        assert_eq!(generated_name(&"x".repeat(80)).len(), 62);
    }
}
