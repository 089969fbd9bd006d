//! What the files of config map, secret and downward API volumes contain. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, DownwardAPIVolumeFile, KeyToPath, Pod, Secret};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::atomic::{FileContent, Payload};
use crate::kubelet::fields::{self, PodAddresses};

/// Mode of files whose volume sets none (API field `defaultMode`).
pub(super) const DEFAULT_MODE: u32 = 0o644;

/// Keys and values of a config map, text and binary.
pub(super) fn config_map_data(object: &ConfigMap) -> BTreeMap<String, Vec<u8>> {
    let text = object
        .data
        .iter()
        .flatten()
        .map(|(key, value)| (key.clone(), value.clone().into_bytes()));
    let binary = object
        .binary_data
        .iter()
        .flatten()
        .map(|(key, value)| (key.clone(), value.0.clone()));
    text.chain(binary).collect()
}

/// Keys and values of a secret.
pub(super) fn secret_data(object: &Secret) -> BTreeMap<String, Vec<u8>> {
    object
        .data
        .iter()
        .flatten()
        .map(|(key, value)| (key.clone(), value.0.clone()))
        .collect()
}

/// Selects the files of a volume from an object's keys: all, or the items given.
///
/// # Errors
/// An item names a missing key and the source is not optional.
pub(super) fn select(
    data: &BTreeMap<String, Vec<u8>>,
    items: Option<&[KeyToPath]>,
    mode: u32,
    optional: bool,
) -> Result<Payload, String> {
    let Some(items) = items.filter(|items| !items.is_empty()) else {
        let file = |(key, value): (&String, &Vec<u8>)| {
            (
                key.clone(),
                FileContent {
                    data: value.clone(),
                    mode,
                },
            )
        };
        return Ok(data.iter().map(file).collect());
    };
    let mut payload = Payload::new();
    for item in items {
        match data.get(&item.key) {
            Some(value) => {
                let content = FileContent {
                    data: value.clone(),
                    mode: mode_of(item.mode, mode),
                };
                payload.insert(item.path.clone(), content);
            }
            None if optional => {}
            None => return Err(format!("references non-existent key: {}", item.key)),
        }
    }
    Ok(payload)
}

/// An item's mode, else the volume's.
pub(super) fn mode_of(mode: Option<i32>, default: u32) -> u32 {
    mode.and_then(|mode| u32::try_from(mode).ok())
        .unwrap_or(default)
}

/// Files of a downward API source.
///
/// # Errors
/// An unknown field or resource.
pub(super) fn downward(
    pod: &Pod,
    items: Option<&[DownwardAPIVolumeFile]>,
    mode: u32,
    addresses: &PodAddresses,
    node: &BTreeMap<String, Quantity>,
) -> Result<Payload, String> {
    let mut payload = Payload::new();
    for item in items.unwrap_or_default() {
        let text = match (&item.field_ref, &item.resource_field_ref) {
            (Some(selector), _) => fields::field(pod, selector, addresses)?,
            (None, Some(selector)) => fields::resource(pod, selector, None, node)?,
            (None, None) => {
                return Err(format!(
                    "item {:?} has neither fieldRef nor resourceFieldRef",
                    item.path
                ));
            }
        };
        let content = FileContent {
            data: text.into_bytes(),
            mode: mode_of(item.mode, mode),
        };
        payload.insert(item.path.clone(), content);
    }
    Ok(payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data() -> BTreeMap<String, Vec<u8>> {
        let object: ConfigMap = serde_json::from_value(
            serde_json::json!({"data": {"a": "1"}, "binaryData": {"b": "AP8="}}),
        )
        .unwrap();
        config_map_data(&object)
    }

    #[test]
    fn all_keys_or_items() {
        let all = select(&data(), None, 0o644, false).unwrap();
        assert_eq!(all["b"].data, [0, 255]);
        let items = [KeyToPath {
            key: "a".into(),
            path: "x/y".into(),
            mode: Some(0o600),
        }];
        let some = select(&data(), Some(&items), 0o644, false).unwrap();
        assert_eq!((some.len(), some["x/y"].mode), (1, 0o600));
        let missing = [KeyToPath {
            key: "z".into(),
            path: "z".into(),
            mode: None,
        }];
        assert!(
            select(&data(), Some(&missing), 0o644, false)
                .unwrap_err()
                .contains("z")
        );
        assert!(
            select(&data(), Some(&missing), 0o644, true)
                .unwrap()
                .is_empty()
        );
    }

    #[test]
    fn pod_fields_as_files() {
        let pod: Pod = serde_json::from_value(
            serde_json::json!({"metadata": {"name": "p", "labels": {"a": "b"}}}),
        )
        .unwrap();
        let items: Vec<DownwardAPIVolumeFile> = serde_json::from_value(
            serde_json::json!([{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]),
        )
        .unwrap();
        let files = downward(
            &pod,
            Some(&items),
            0o644,
            &PodAddresses::default(),
            &BTreeMap::new(),
        )
        .unwrap();
        assert_eq!(files["labels"].data, b"a=\"b\"");
        let bad: Vec<DownwardAPIVolumeFile> =
            serde_json::from_value(serde_json::json!([{"path": "x"}])).unwrap();
        assert!(
            downward(
                &pod,
                Some(&bad),
                0o644,
                &PodAddresses::default(),
                &BTreeMap::new()
            )
            .is_err()
        );
    }
}
