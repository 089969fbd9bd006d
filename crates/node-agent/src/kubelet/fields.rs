//! The downward API: fields and resources of a pod as text. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ObjectFieldSelector, Pod, ResourceFieldSelector};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::quantity;

/// What the node adds to a pod's own fields.
#[derive(Debug, Clone, Default)]
pub(crate) struct PodAddresses {
    /// The pod's addresses, first one primary.
    pub pod: Vec<String>,
    /// The node's addresses, first one primary.
    pub host: Vec<String>,
}

/// A field of a pod (`fieldRef`).
///
/// # Errors
/// The path is not one that the downward API offers.
pub(crate) fn field(
    pod: &Pod,
    selector: &ObjectFieldSelector,
    addresses: &PodAddresses,
) -> Result<String, String> {
    let meta = &pod.metadata;
    let spec = pod.spec.as_ref();
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    if let Some((map, key)) = subscript(&selector.field_path) {
        let values = match map {
            "metadata.labels" => meta.labels.as_ref(),
            "metadata.annotations" => meta.annotations.as_ref(),
            _ => {
                return Err(format!(
                    "field path {:?} takes no subscript",
                    selector.field_path
                ));
            }
        };
        return Ok(values
            .and_then(|values| values.get(key))
            .cloned()
            .unwrap_or_default());
    }
    Ok(match selector.field_path.as_str() {
        "metadata.name" => text(&meta.name),
        "metadata.namespace" => text(&meta.namespace),
        "metadata.uid" => text(&meta.uid),
        "metadata.labels" => format_map(meta.labels.as_ref()),
        "metadata.annotations" => format_map(meta.annotations.as_ref()),
        "spec.nodeName" => spec.map(|spec| text(&spec.node_name)).unwrap_or_default(),
        "spec.serviceAccountName" => spec
            .map(|spec| text(&spec.service_account_name))
            .unwrap_or_default(),
        "status.hostIP" => addresses.host.first().cloned().unwrap_or_default(),
        "status.hostIPs" => addresses.host.join(","),
        "status.podIP" => addresses.pod.first().cloned().unwrap_or_default(),
        "status.podIPs" => addresses.pod.join(","),
        other => return Err(format!("unsupported fieldPath: {other}")),
    })
}

/// `metadata.labels['key']` as map and key.
fn subscript(path: &str) -> Option<(&str, &str)> {
    let (map, rest) = path.split_once("['")?;
    Some((map, rest.strip_suffix("']")?))
}

/// One `key="value"` line per entry, values escaped, in key order.
fn format_map(map: Option<&BTreeMap<String, String>>) -> String {
    let lines: Vec<String> = map
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={value:?}"))
        .collect();
    lines.join("\n")
}

/// A resource of a container (`resourceFieldRef`). `own` is the container that a selector without
/// a name means; `node` is what an unlimited container gets.
///
/// # Errors
/// Unknown container or resource.
pub(crate) fn resource(
    pod: &Pod,
    selector: &ResourceFieldSelector,
    own: Option<&str>,
    node: &BTreeMap<String, Quantity>,
) -> Result<String, String> {
    let name = selector
        .container_name
        .as_deref()
        .filter(|name| !name.is_empty())
        .or(own);
    let name = name.ok_or("resourceFieldRef without containerName")?;
    let spec = pod.spec.as_ref().ok_or("pod has no spec")?;
    let container = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten())
        .find(|container| container.name == name)
        .ok_or_else(|| format!("container {name:?} not found"))?;
    let (list, key) = selector
        .resource
        .split_once('.')
        .filter(|(list, _)| matches!(*list, "limits" | "requests"))
        .ok_or_else(|| format!("unsupported resource {:?}", selector.resource))?;
    let resources = container.resources.as_ref();
    let limit = resources
        .and_then(|r| r.limits.as_ref())
        .and_then(|map| map.get(key));
    let zero = Quantity("0".to_string());
    let quantity = match list {
        "limits" => limit.or_else(|| node.get(key)).unwrap_or(&zero),
        _ => resources
            .and_then(|r| r.requests.as_ref())
            .and_then(|map| map.get(key))
            .unwrap_or(&zero),
    };
    quantity::in_units(quantity, selector.divisor.as_ref())
        .map(|value| value.to_string())
        .ok_or_else(|| {
            format!(
                "quantity {:?} or divisor of {:?} is not a number",
                quantity.0, selector.resource
            )
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> Pod {
        serde_json::from_value(serde_json::json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u",
                "labels": {"a": "1", "b.io/c": "x\"y"}, "annotations": {"k": "v"}},
            "spec": {"nodeName": "w", "serviceAccountName": "sa", "containers": [
                {"name": "c", "resources": {"limits": {"memory": "1Gi"}, "requests": {"cpu": "200m"}}}]}
        }))
        .unwrap()
    }

    fn get(path: &str) -> Result<String, String> {
        let addresses = PodAddresses {
            pod: vec!["10.0.0.2".into()],
            host: vec!["172.30.0.1".into(), "fd00::1".into()],
        };
        field(
            &pod(),
            &ObjectFieldSelector {
                api_version: None,
                field_path: path.into(),
            },
            &addresses,
        )
    }

    #[test]
    fn fields() {
        assert_eq!(get("metadata.name").unwrap(), "p");
        assert_eq!(get("metadata.labels['b.io/c']").unwrap(), "x\"y");
        assert_eq!(get("metadata.labels['none']").unwrap(), "");
        assert_eq!(
            get("metadata.labels").unwrap(),
            "a=\"1\"\nb.io/c=\"x\\\"y\""
        );
        assert_eq!(get("spec.serviceAccountName").unwrap(), "sa");
        assert_eq!(get("status.podIP").unwrap(), "10.0.0.2");
        assert_eq!(get("status.hostIP").unwrap(), "172.30.0.1");
        assert_eq!(get("status.hostIPs").unwrap(), "172.30.0.1,fd00::1");
        assert!(get("spec.containers").is_err());
        assert!(get("metadata.name['x']").is_err());
    }

    #[test]
    fn resources() {
        let node = [("cpu".to_string(), Quantity("2".into()))].into();
        let get = |resource_name: &str, divisor: Option<&str>| {
            let selector = ResourceFieldSelector {
                container_name: None,
                divisor: divisor.map(|d| Quantity(d.into())),
                resource: resource_name.into(),
            };
            resource(&pod(), &selector, Some("c"), &node)
        };
        assert_eq!(get("limits.memory", Some("1Mi")).unwrap(), "1024");
        assert_eq!(get("limits.cpu", None).unwrap(), "2");
        assert_eq!(get("requests.cpu", Some("1m")).unwrap(), "200");
        assert_eq!(get("requests.memory", None).unwrap(), "0");
        assert!(get("cpu", None).is_err());
    }
}
