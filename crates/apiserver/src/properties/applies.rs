//! Applies and updates of several managers, one after the other, beside a naive model: for every
//! field its value and who has it.

use super::Choices;
use crate::{
    apply,
    registry::{Registry, Resource},
};
use rand::RngExt;
use serde_json::{Map, Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, LazyLock},
};

const MANAGERS: [&str; 3] = ["a", "b", "c"];
const FIELDS: [(&str, &str); 5] = [
    ("data", "k"),
    ("data", "l"),
    ("data", "m"),
    ("labels", "x"),
    ("labels", "y"),
];

type Field = (&'static str, &'static str);
type Config = BTreeMap<Field, &'static str>;

/// A field's value, and who has it: managers that apply, and those that update.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Owned {
    value: &'static str,
    owners: BTreeSet<(&'static str, &'static str)>,
}

type Model = BTreeMap<Field, Owned>;

/// Sequences that the bytes decide.
pub fn check(bytes: &[u8]) {
    static RESOURCE: LazyLock<Option<Arc<Resource>>> =
        LazyLock::new(|| Registry::default().find("", "v1", "configmaps"));
    let Some(resource) = &*RESOURCE else {
        return;
    };
    let mut choices = Choices::new(bytes);
    let first = config(&mut choices);
    let mut live = object(&first);
    live["metadata"]["managedFields"] =
        apply::first(resource, &object(&first), "a").unwrap_or_default();
    let mut model = Model::new();
    applied(&mut model, "a", &first, true);
    for _ in 0..choices.random_range(1..8) {
        let (manager, config) = (choices.of(&MANAGERS), config(&mut choices));
        if choices.yes(0.3) {
            live = update(resource, &live, manager, &config);
            updated(&mut model, manager, &config);
        } else {
            let force = choices.yes(0.5);
            let result = apply::merge(resource, &live, &object(&config), manager, "", force);
            let taken = applied(&mut model, manager, &config, force);
            assert_eq!(result.is_ok(), taken, "{manager} {config:?} {live}");
            live = result.unwrap_or(live);
        }
        assert_eq!(seen(&live), model, "{live}");
        idempotent(resource, &live, manager);
    }
}

/// An apply of what a manager has already changes nothing.
fn idempotent(resource: &Resource, live: &Value, manager: &'static str) {
    let mine = seen(live).into_iter().filter(|(_, owned)| {
        let apply = (manager, "Apply");
        owned.owners.contains(&apply)
    });
    let mine: Config = mine.map(|(field, owned)| (field, owned.value)).collect();
    if mine.is_empty() {
        return;
    }
    let again = apply::merge(resource, live, &object(&mine), manager, "", false);
    let again = again.unwrap_or_default();
    assert!(apply::same_managers(&again, live), "{again} {live}");
    assert_eq!(again["data"], live["data"]);
}

fn config(choices: &mut Choices<'_>) -> Config {
    let chosen = FIELDS.iter().filter(|_| choices.yes(0.5));
    let chosen: Vec<Field> = chosen.copied().collect();
    let value = |field| (field, choices.of(&["1", "2"]));
    chosen.into_iter().map(value).collect()
}

fn object(config: &Config) -> Value {
    let part = |part: &str| {
        let fields = config.iter().filter(|((of, _), _)| *of == part);
        let fields = fields.map(|((_, key), value)| ((*key).to_owned(), Value::from(*value)));
        fields.collect::<Map<String, Value>>()
    };
    let mut object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "o"}});
    for (name, fields) in [("data", part("data")), ("labels", part("labels"))] {
        match name {
            _ if fields.is_empty() => {}
            "data" => object["data"] = fields.into(),
            _ => object["metadata"]["labels"] = fields.into(),
        }
    }
    object
}

fn update(resource: &Resource, live: &Value, manager: &str, config: &Config) -> Value {
    let mut after = object(config);
    after["metadata"]["managedFields"] = live["metadata"]["managedFields"].clone();
    apply::track(resource, Some(live), &mut after, manager, "");
    after
}

/// What an update makes of the model: what changes is the manager's alone.
fn updated(model: &mut Model, manager: &'static str, config: &Config) {
    // Nobody begins in the middle.
    let anybody = model.values().any(|owned| !owned.owners.is_empty());
    model.retain(|field, _| config.contains_key(field));
    for (field, value) in config {
        let owned = model.entry(*field).or_default();
        if owned.value != *value {
            let owner = anybody.then_some((manager, "Update"));
            *owned = Owned {
                value,
                owners: owner.into_iter().collect(),
            };
        }
    }
}

/// What an apply makes of the model. False for conflicts.
fn applied(model: &mut Model, manager: &'static str, config: &Config, force: bool) -> bool {
    let me = (manager, "Apply");
    let conflict = config.iter().any(|(field, value)| {
        let other = model.get(field).filter(|owned| owned.value != *value);
        other.is_some_and(|owned| owned.owners.iter().any(|owner| *owner != me))
    });
    if conflict && !force {
        return false;
    }
    model.retain(|field, owned| {
        let dropped = !config.contains_key(field) && owned.owners.remove(&me);
        !(dropped && owned.owners.is_empty())
    });
    for (field, value) in config {
        let owned = model.entry(*field).or_default();
        if owned.value != *value {
            owned.owners.clear();
        }
        owned.value = value;
        owned.owners.insert(me);
    }
    true
}

/// The model that an object shows.
fn seen(live: &Value) -> Model {
    let mut model = Model::new();
    for (part, key) in FIELDS {
        let (values, path) = match part {
            "data" => (&live["data"], format!("/f:data/f:{key}")),
            _ => (
                &live["metadata"]["labels"],
                format!("/f:metadata/f:labels/f:{key}"),
            ),
        };
        let Some(value) = ["1", "2"].into_iter().find(|v| values[key] == **v) else {
            continue;
        };
        let entries = live["metadata"]["managedFields"].as_array();
        let has = entries.into_iter().flatten().filter(|entry| {
            let fields = &entry["fieldsV1"];
            fields.pointer(&path).is_some()
        });
        let name = |entry: &Value| {
            let manager = MANAGERS.into_iter().find(|m| entry["manager"] == **m);
            let operation = ["Apply", "Update"].into_iter();
            let operation = operation.into_iter().find(|o| entry["operation"] == **o);
            Some((manager?, operation?))
        };
        let owners = has.filter_map(name).collect();
        model.insert((part, key), Owned { value, owners });
    }
    model
}
