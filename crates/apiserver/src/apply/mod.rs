//! Server-side apply, and the record of who manages which field.
//!
//! Each manager has an entry per operation, API version and subresource in
//! `metadata.managedFields`. An apply sends what its manager wants, whole: what it stops sending
//! and nobody else manages is removed, and what it would change of others is a conflict, unless
//! it is forced. Every other write takes the fields that it changes.

mod node;
mod set;
mod walk;
mod zero;

use crate::{
    object,
    registry::Resource,
    status::{ApiError, Result},
};
use node::Node;
use serde_json::{Value, json};
use set::Set;

/// One entry of `managedFields`.
#[derive(Debug, Clone, PartialEq)]
struct Entry {
    manager: String,
    operation: String,
    api_version: String,
    subresource: String,
    time: String,
    fields: Set,
}

impl Entry {
    fn parse(value: &Value) -> Entry {
        let text = |key: &str| object::text(value, &format!("/{key}")).to_string();
        Entry {
            manager: text("manager"),
            operation: text("operation"),
            api_version: text("apiVersion"),
            subresource: text("subresource"),
            time: text("time"),
            fields: Set::from_root(value.get("fieldsV1").unwrap_or(&Value::Null)),
        }
    }

    fn to_value(&self) -> Value {
        let mut value = json!({
            "manager": self.manager, "operation": self.operation, "apiVersion": self.api_version,
            "time": self.time, "fieldsType": "FieldsV1", "fieldsV1": self.fields.to_value(),
        });
        if let (false, Some(map)) = (self.subresource.is_empty(), value.as_object_mut()) {
            map.insert("subresource".into(), self.subresource.clone().into());
        }
        value
    }

    fn is(&self, manager: &str, operation: &str, subresource: &str) -> bool {
        self.manager == manager && self.operation == operation && self.subresource == subresource
    }
}

fn entries(value: &Value) -> Vec<Entry> {
    let list = value
        .pointer("/metadata/managedFields")
        .and_then(Value::as_array);
    list.into_iter()
        .flatten()
        .filter(|e| e.get("manager").is_some())
        .map(Entry::parse)
        .collect()
}

fn write(value: &mut Value, mut entries: Vec<Entry>) {
    entries.retain(|e| !e.fields.is_empty());
    let list: Vec<Value> = entries.iter().map(Entry::to_value).collect();
    object::set_metadata(
        value,
        "managedFields",
        (!list.is_empty()).then(|| list.into()),
    );
}

/// Records a write that is no apply: its manager takes what it has changed.
pub fn track(
    resource: &Resource,
    before: Option<&Value>,
    after: &mut Value,
    manager: &str,
    part: &str,
) {
    let mut shape = None;
    let node = Node::root(resource, &mut shape);
    // A client that sends an empty list wants the record to begin anew.
    let reset = after
        .pointer("/metadata/managedFields")
        .and_then(Value::as_array)
        .is_some_and(|list| list.iter().all(|e| e.get("manager").is_none()));
    let mut all = match before {
        Some(before) if !reset => entries(before),
        _ => Vec::new(),
    };
    if before.is_some() && all.is_empty() {
        // Nobody's fields were recorded, and nobody begins in the middle.
        return write(after, all);
    }
    let old = zero::completed(resource, before);
    let mut taken = walk::changes(node, &old, after);
    if part.is_empty() && resource.has_subresource("status") {
        taken.remove(&["f:status"]);
    }
    let removed = match before {
        Some(before) => walk::all_paths(node, before).without(&walk::all_paths(node, after)),
        None => Set::default(),
    };
    let mut own = None;
    for (i, entry) in all.iter_mut().enumerate() {
        entry.fields = entry.fields.without(&removed);
        if entry.is(manager, "Update", part) {
            own = Some(i);
        } else {
            entry.fields = entry.fields.without(&taken);
        }
    }
    if !taken.is_empty() {
        let now = object::now();
        match own {
            Some(i) => {
                all[i].fields.extend(&taken);
                all[i].time = now;
                all[i].api_version = resource.api_version();
            }
            None => all.push(Entry {
                manager: manager.to_string(),
                operation: "Update".into(),
                api_version: resource.api_version(),
                subresource: part.to_string(),
                time: now,
                fields: taken,
            }),
        }
    }
    write(after, all);
}

/// Whether two states of an object have the same managers of the same fields.
pub fn same_managers(a: &Value, b: &Value) -> bool {
    let timeless = |value: &Value| {
        let mut all = entries(value);
        all.iter_mut().for_each(|e| e.time.clear());
        all
    };
    timeless(a) == timeless(b)
}

/// The managers of a new object made by an apply: none if it says nothing.
pub fn first(resource: &Resource, config: &Value, manager: &str) -> Option<Value> {
    let mut shape = None;
    let fields = walk::paths(Node::root(resource, &mut shape), config);
    let entry = Entry {
        manager: manager.to_string(),
        operation: "Apply".into(),
        api_version: resource.api_version(),
        subresource: String::new(),
        time: object::now(),
        fields,
    };
    (!entry.fields.is_empty()).then(|| json!([entry.to_value()]))
}

/// What an apply makes of an object: the new object with its managers, or the conflicts.
pub fn merge(
    resource: &Resource,
    live: &Value,
    config: &Value,
    manager: &str,
    part: &str,
    force: bool,
) -> Result<Value> {
    let mut shape = None;
    let node = Node::root(resource, &mut shape);
    let wanted = walk::paths(node, config);
    let mut all = entries(live);
    let own = all.iter().position(|e| e.is(manager, "Apply", part));
    let mut merged = walk::merge(node, live, config, true);

    // What this manager no longer wants, and nobody else has, goes.
    if let Some(own) = own {
        let mut gone = all[own].fields.without(&wanted);
        for (i, other) in all.iter().enumerate() {
            if i != own {
                gone = gone.without(&other.fields);
            }
        }
        walk::remove(node, &mut merged, &gone, true);
    }

    // What it changes of others is a conflict.
    let changes = walk::changes(node, live, &merged).shared(&wanted);
    let mut conflicts = Vec::new();
    for (i, other) in all.iter_mut().enumerate() {
        if Some(i) == own {
            continue;
        }
        let taken = other.fields.shared(&changes);
        if !taken.is_empty() {
            conflicts.extend(
                taken
                    .paths()
                    .into_iter()
                    .map(|path| (described(other), path)),
            );
            other.fields = other.fields.without(&taken);
        }
    }
    if !conflicts.is_empty() && !force {
        return Err(ApiError::apply_conflict(conflicts));
    }

    let entry = Entry {
        manager: manager.to_string(),
        operation: "Apply".into(),
        api_version: resource.api_version(),
        subresource: part.to_string(),
        time: object::now(),
        fields: wanted,
    };
    match own {
        Some(i) if all[i].fields == entry.fields && live == &merged => {}
        Some(i) => all[i] = entry,
        None => all.push(entry),
    }
    write(&mut merged, all);
    Ok(merged)
}

/// A manager in the words of Kubernetes: `"kubectl-edit" using apps/v1`.
fn described(entry: &Entry) -> String {
    let subresource = match entry.subresource.as_str() {
        "" => String::new(),
        name => format!(" with subresource {name:?}"),
    };
    match entry.operation.as_str() {
        "Apply" => format!("{:?}{subresource}", entry.manager),
        _ => format!(
            "{:?}{subresource} using {}",
            entry.manager, entry.api_version
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Registry;
    use std::sync::Arc;

    fn deployments() -> Arc<Resource> {
        Registry::default()
            .find("apps", "v1", "deployments")
            .unwrap()
    }

    fn config(image: &str, replicas: Option<i64>) -> Value {
        let mut value = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "labels": {"a": "1"}},
            "spec": {"template": {"spec": {"containers": [{"name": "c", "image": image, "ports": [{"containerPort": 80}]}]}}}});
        if let Some(n) = replicas {
            value["spec"]["replicas"] = n.into();
        }
        value
    }

    fn applied(manager: &str, config: &Value) -> Value {
        let mut live = config.clone();
        live["metadata"]["managedFields"] = first(&deployments(), config, manager).unwrap();
        live
    }

    #[test]
    fn what_a_manager_stops_sending_goes() {
        let r = deployments();
        let live = applied("a", &config("1", Some(3)));
        let next = merge(&r, &live, &config("2", None), "a", "", false).unwrap();
        assert!(next["spec"].get("replicas").is_none());
        assert_eq!(
            next["spec"]["template"]["spec"]["containers"][0]["image"],
            "2"
        );
        // Another manager has it too: it stays.
        let both = merge(&r, &live, &json!({"spec": {"replicas": 3}}), "b", "", false).unwrap();
        let next = merge(&r, &both, &config("1", None), "a", "", false).unwrap();
        assert_eq!(next["spec"]["replicas"], 3);
    }

    #[test]
    fn conflicts_name_manager_and_field() {
        let r = deployments();
        let live = applied("a", &config("1", Some(3)));
        let theirs = json!({"spec": {"replicas": 5, "template": {"spec": {"containers": [{"name": "c", "image": "2"}]}}}});
        let error = merge(&r, &live, &theirs, "b", "", false).unwrap_err();
        assert_eq!(error.code, 409);
        assert!(
            error
                .message
                .starts_with("Apply failed with 2 conflicts: conflict with \"a\": .spec.replicas"),
            "{}",
            error.message
        );
        assert!(
            error
                .message
                .contains(".spec.template.spec.containers[name=\"c\"].image")
        );
        let forced = merge(&r, &live, &theirs, "b", "", true).unwrap();
        assert_eq!(forced["spec"]["replicas"], 5);
        // Now the fields are b's: a conflicts in turn.
        assert!(merge(&r, &forced, &config("1", Some(3)), "a", "", false).is_err());
        // The same value is no conflict.
        assert!(
            merge(
                &r,
                &forced,
                &json!({"spec": {"replicas": 5}}),
                "c",
                "",
                false
            )
            .is_ok()
        );
    }

    #[test]
    fn updates_take_what_they_change() {
        let r = deployments();
        let live = applied("a", &config("1", Some(3)));
        let mut after = live.clone();
        after["spec"]["replicas"] = 4.into();
        after["metadata"]["labels"] = json!({"b": "2"});
        track(&r, Some(&live), &mut after, "kubectl-edit", "");
        let all = entries(&after);
        assert_eq!(
            all[1].fields.paths(),
            [".metadata.labels.b", ".spec.replicas"]
        );
        let left = all[0].fields.paths();
        assert!(
            !left
                .iter()
                .any(|p| p == ".spec.replicas" || p == ".metadata.labels.a"),
            "{left:?}"
        );
        let error = merge(&r, &after, &config("1", Some(3)), "a", "", false).unwrap_err();
        assert!(
            error
                .message
                .contains("conflict with \"kubectl-edit\" using apps/v1: .spec.replicas"),
            "{}",
            error.message
        );
    }

    #[test]
    fn applying_twice_changes_nothing() {
        let r = deployments();
        let live = applied("a", &config("1", Some(3)));
        let again = merge(&r, &live, &config("1", Some(3)), "a", "", false).unwrap();
        assert!(same_managers(&live, &again));
        assert_eq!(live["spec"], again["spec"]);
    }

    #[test]
    fn a_defaulted_list_key_is_the_same_item() {
        let r = deployments();
        let mut live = applied("a", &config("1", None));
        live["spec"]["template"]["spec"]["containers"][0]["ports"][0]["protocol"] = "TCP".into();
        let next = merge(&r, &live, &config("1", None), "a", "", false).unwrap();
        assert_eq!(
            next["spec"]["template"]["spec"]["containers"][0]["ports"]
                .as_array()
                .unwrap()
                .len(),
            1
        );
    }
}
