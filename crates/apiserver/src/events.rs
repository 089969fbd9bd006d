//! Events have two API groups and one store: core/v1 is what is stored, events.k8s.io/v1 is a
//! view of it.

use crate::{object, registry::Resource};
use serde_json::{Map, Value};
use std::borrow::Cow;

/// events.k8s.io name, core name.
const NAMES: [(&str, &str); 5] = [
    ("regarding", "involvedObject"),
    ("note", "message"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
];
const MORE_NAMES: [(&str, &str); 2] = [
    ("deprecatedCount", "count"),
    ("reportingController", "reportingComponent"),
];

/// An event as its group shows it.
pub fn present<'a>(resource: &Resource, value: &'a Value) -> Cow<'a, Value> {
    if resource.group.is_empty() {
        return Cow::Borrowed(value);
    }
    let mut event = renamed(value, &resource.api_version(), |name| {
        NAMES
            .iter()
            .chain(&MORE_NAMES)
            .find(|(_, core)| *core == name)
            .map(|(new, _)| *new)
    });
    // Empty, the older group shows them and this one does not.
    if let Some(map) = event.as_object_mut() {
        for key in ["reportingController", "reportingInstance"] {
            if map.get(key).is_some_and(|text| text == "") {
                map.shift_remove(key);
            }
        }
    }
    Cow::Owned(event)
}

/// An event as it is stored.
pub fn stored(resource: &Resource, value: Value) -> Value {
    if resource.storage.as_ref() != "events" || resource.group.is_empty() {
        return value;
    }
    renamed(&value, "v1", |name| {
        NAMES
            .iter()
            .chain(&MORE_NAMES)
            .find(|(new, _)| *new == name)
            .map(|(_, core)| *core)
    })
}

fn renamed(value: &Value, version: &str, name: impl Fn(&str) -> Option<&'static str>) -> Value {
    let Some(map) = value.as_object() else {
        return value.clone();
    };
    let map: Map<String, Value> = map
        .iter()
        .map(|(k, v)| (name(k).unwrap_or(k).to_string(), v.clone()))
        .collect();
    object::typed(Value::Object(map), version, "Event")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Registry;
    use serde_json::json;

    #[test]
    fn both_shapes_tell_the_same() {
        let registry = Registry::default();
        let new = registry.find("events.k8s.io", "v1", "events").unwrap();
        let core = registry.find("", "v1", "events").unwrap();
        let event = json!({"kind": "Event", "apiVersion": "events.k8s.io/v1", "metadata": {"name": "e"},
            "regarding": {"name": "p"}, "note": "hello", "reportingController": "c"});
        let kept = stored(&new, event.clone());
        assert_eq!(kept["involvedObject"]["name"], "p");
        assert_eq!(kept["message"], "hello");
        assert_eq!(present(&new, &kept).into_owned(), event);
        assert_eq!(present(&core, &kept)["reportingComponent"], "c");
    }
}
