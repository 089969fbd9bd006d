//! Walks over objects along their schema: which paths they have, how they merge, where they differ.

use super::{
    node::{Node, Ownership},
    set::Set,
};
use serde_json::{Map, Value};

/// Fields that nobody manages: identity, and what only the server writes.
const UNMANAGED: [&[&str]; 10] = [
    &["f:apiVersion"],
    &["f:kind"],
    &["f:metadata", "f:name"],
    &["f:metadata", "f:namespace"],
    &["f:metadata", "f:creationTimestamp"],
    &["f:metadata", "f:selfLink"],
    &["f:metadata", "f:uid"],
    &["f:metadata", "f:generation"],
    &["f:metadata", "f:managedFields"],
    &["f:metadata", "f:resourceVersion"],
];

/// The path element of an item of a list.
fn element(node: Node<'_>, ownership: &Ownership, item: &Value) -> String {
    match ownership {
        Ownership::Items(keys) => format!("k:{}", Value::Object(node.keys(item, keys))),
        _ => format!("v:{item}"),
    }
}

/// The paths that a whole object has, as those of an apply: values, and items of lists.
pub fn paths(node: Node<'_>, value: &Value) -> Set {
    let mut set = below(node, value, Of::Apply, true);
    strip(&mut set);
    set
}

/// The paths that a whole object has, with the maps and lists that hold others.
pub fn all_paths(node: Node<'_>, value: &Value) -> Set {
    let mut set = below(node, value, Of::Update, true);
    strip(&mut set);
    set
}

/// Whose paths: an apply owns what it says, another write also the maps and lists that it makes.
#[derive(Clone, Copy, PartialEq)]
enum Of {
    Apply,
    Update,
}

/// Takes out what nobody manages.
fn strip(set: &mut Set) {
    for path in UNMANAGED {
        set.remove(path);
    }
}

fn below(node: Node<'_>, value: &Value, of: Of, root: bool) -> Set {
    let ownership = node.ownership(value);
    let mut set = Set {
        own: of == Of::Update && !root,
        ..Set::default()
    };
    match (&ownership, value) {
        (Ownership::Fields, Value::Object(map)) => {
            for (key, item) in map {
                let mut inner = below(node.field(key, root), item, of, false);
                let empty = item.is_null() || item.as_object().is_some_and(Map::is_empty);
                inner.own |= empty || !(root || node.has_field(key));
                set.insert(format!("f:{key}"), inner);
            }
        }
        (Ownership::Items(_) | Ownership::Values, Value::Array(list)) => {
            for item in list {
                let mut inner = match ownership {
                    Ownership::Values => Set::leaf(),
                    _ => below(node.item(), item, of, false),
                };
                inner.own = true;
                set.insert(element(node, &ownership, item), inner);
            }
        }
        _ => set.own = true,
    }
    set
}

/// The paths whose values are new or other than before.
pub fn changes(node: Node<'_>, before: &Value, after: &Value) -> Set {
    let mut set = changed(node, Some(before), after, true);
    strip(&mut set);
    set
}

fn changed(node: Node<'_>, before: Option<&Value>, after: &Value, root: bool) -> Set {
    let Some(before) = before.filter(|b| !b.is_null()) else {
        return below(node, after, Of::Update, root);
    };
    if before == after {
        return Set::default();
    }
    let ownership = node.ownership(after);
    let mut set = Set::default();
    match (&ownership, before, after) {
        (Ownership::Fields, Value::Object(old), Value::Object(new)) => {
            for (key, item) in new {
                let mut inner = changed(node.field(key, root), old.get(key), item, false);
                inner.own |= !(old.contains_key(key) || root || node.has_field(key));
                set.insert(format!("f:{key}"), inner);
            }
        }
        (Ownership::Items(_) | Ownership::Values, Value::Array(old), Value::Array(new)) => {
            for item in new {
                let element = element(node, &ownership, item);
                let was = old
                    .iter()
                    .find(|o| self::element(node, &ownership, o) == element);
                let mut inner = match ownership {
                    Ownership::Values => Set::default(),
                    _ => changed(node.item(), was, item, false),
                };
                inner.own |= was.is_none();
                set.insert(element, inner);
            }
        }
        _ => set.own = true,
    }
    set
}

/// What `config` makes of `live`: its values win, what it does not mention stays.
pub fn merge(node: Node<'_>, live: &Value, config: &Value, root: bool) -> Value {
    let ownership = node.ownership(config);
    match (&ownership, live, config) {
        (Ownership::Fields, Value::Object(old), Value::Object(new)) => {
            let mut result = old.clone();
            for (key, item) in new {
                let merged = match old.get(key) {
                    Some(was) => merge(node.field(key, root), was, item, false),
                    None => item.clone(),
                };
                result.insert(key.clone(), merged);
            }
            Value::Object(result)
        }
        (Ownership::Items(_) | Ownership::Values, Value::Array(old), Value::Array(new)) => {
            let mut result = old.clone();
            for item in new {
                let element = element(node, &ownership, item);
                let at = result
                    .iter()
                    .position(|o| self::element(node, &ownership, o) == element);
                match at {
                    Some(at) => result[at] = merge(node.item(), &result[at], item, false),
                    None => result.push(item.clone()),
                }
            }
            Value::Array(result)
        }
        _ => config.clone(),
    }
}

/// Removes the paths of a set from an object.
pub fn remove(node: Node<'_>, value: &mut Value, set: &Set, root: bool) {
    let ownership = node.ownership(value);
    match value {
        Value::Object(map) if ownership == Ownership::Fields => {
            let mut gone = Vec::new();
            for (key, item) in map.iter_mut() {
                let Some(inner) = set.children.get(&format!("f:{key}")) else {
                    continue;
                };
                if inner.children.is_empty() {
                    gone.push(key.clone());
                    continue;
                }
                remove(node.field(key, root), item, inner, false);
                // A map or list that held nothing else goes with its content.
                let empty = match item {
                    Value::Object(map) => map.is_empty(),
                    Value::Array(list) => list.is_empty(),
                    _ => false,
                };
                if empty {
                    gone.push(key.clone());
                }
            }
            for key in gone {
                map.shift_remove(&key);
            }
        }
        Value::Array(list) => {
            list.retain_mut(|item| {
                let Some(inner) = set.children.get(&element(node, &ownership, item)) else {
                    return true;
                };
                if inner.own {
                    return false;
                }
                remove(node.item(), item, inner, false);
                true
            });
        }
        _ => {}
    }
}
