//! Sets of field paths, in memory a tree and on the wire `FieldsV1`.
//!
//! A key of the tree is a path element as FieldsV1 writes it: `f:name` for a field,
//! `k:{"name":"x"}` for an item of an associative list, `v:"x"` for a value of a set.

use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// A set of paths below one point.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Set {
    /// Whether the point itself is in the set.
    pub own: bool,
    /// What is below it.
    pub children: BTreeMap<String, Set>,
}

impl Set {
    /// The set of the point alone.
    pub fn leaf() -> Set {
        Set {
            own: true,
            children: BTreeMap::new(),
        }
    }

    /// Whether no path is in the set.
    pub fn is_empty(&self) -> bool {
        !self.own && self.children.is_empty()
    }

    /// Adds what is below a path element, unless that is nothing.
    pub fn insert(&mut self, element: String, below: Set) {
        if below.is_empty() {
            return;
        }
        match self.children.get_mut(&element) {
            Some(existing) => existing.extend(&below),
            None => {
                self.children.insert(element, below);
            }
        }
    }

    /// Adds all paths of another set.
    pub fn extend(&mut self, other: &Set) {
        self.own |= other.own;
        for (element, below) in &other.children {
            self.children
                .entry(element.clone())
                .or_default()
                .extend(below);
        }
    }

    /// The paths that are not in the other set.
    pub fn without(&self, other: &Set) -> Set {
        let mut result = Set {
            own: self.own && !other.own,
            children: BTreeMap::new(),
        };
        for (element, below) in &self.children {
            let left = match other.children.get(element) {
                Some(theirs) => below.without(theirs),
                None => below.clone(),
            };
            if !left.is_empty() {
                result.children.insert(element.clone(), left);
            }
        }
        result
    }

    /// The paths that are in both sets.
    pub fn shared(&self, other: &Set) -> Set {
        let mut result = Set {
            own: self.own && other.own,
            children: BTreeMap::new(),
        };
        for (element, below) in &self.children {
            if let Some(theirs) = other.children.get(element) {
                let both = below.shared(theirs);
                if !both.is_empty() {
                    result.children.insert(element.clone(), both);
                }
            }
        }
        result
    }

    /// Removes a path, and everything below it.
    pub fn remove(&mut self, path: &[&str]) {
        match path {
            [] => {}
            [last] => {
                self.children.remove(*last);
            }
            [first, rest @ ..] => {
                if let Some(below) = self.children.get_mut(*first) {
                    below.remove(rest);
                    if below.is_empty() {
                        self.children.remove(*first);
                    }
                }
            }
        }
    }

    /// All paths as people read them: `.spec.containers[name="a"].image`.
    pub fn paths(&self) -> Vec<String> {
        let mut found = Vec::new();
        self.collect(String::new(), &mut found);
        found
    }

    fn collect(&self, path: String, found: &mut Vec<String>) {
        // The keys of a list item say no more than the fields in it.
        if self.own && (self.children.is_empty() || !path.ends_with(']')) {
            found.push(path.clone());
        }
        for (element, below) in &self.children {
            below.collect(format!("{path}{}", shown(element)), found);
        }
    }

    /// As FieldsV1.
    pub fn to_value(&self) -> Value {
        let mut map = Map::new();
        if self.own && !self.children.is_empty() {
            map.insert(".".into(), Value::Object(Map::new()));
        }
        for (element, below) in &self.children {
            map.insert(element.clone(), below.to_value());
        }
        Value::Object(map)
    }

    /// From FieldsV1.
    pub fn from_value(value: &Value) -> Set {
        let Some(map) = value.as_object() else {
            return Set::default();
        };
        let mut set = Set {
            own: map.is_empty() || map.contains_key("."),
            children: BTreeMap::new(),
        };
        for (element, below) in map.iter().filter(|(k, _)| *k != ".") {
            set.children.insert(element.clone(), Set::from_value(below));
        }
        set
    }

    /// As [`Set::from_value`] for a whole object: an empty map is an empty set there.
    pub fn from_root(value: &Value) -> Set {
        Set {
            own: false,
            ..Set::from_value(value)
        }
    }
}

fn shown(element: &str) -> String {
    match element.split_once(':') {
        Some(("f", name)) => format!(".{name}"),
        Some(("k", keys)) => {
            let keys: Map<String, Value> = serde_json::from_str(keys).unwrap_or_default();
            let keys: Vec<String> = keys.iter().map(|(k, v)| format!("{k}={v}")).collect();
            format!("[{}]", keys.join(","))
        }
        Some((_, value)) => format!("[={value}]"),
        None => format!(".{element}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn set(value: Value) -> Set {
        Set::from_root(&value)
    }

    #[test]
    fn fields_v1_survive() {
        let v = json!({"f:metadata": {"f:labels": {".": {}, "f:a": {}}},
            "f:spec": {"f:containers": {"k:{\"name\":\"x\"}": {".": {}, "f:image": {}}}}});
        assert_eq!(set(v.clone()).to_value(), v);
        assert_eq!(
            set(v).paths(),
            [
                ".metadata.labels",
                ".metadata.labels.a",
                ".spec.containers[name=\"x\"].image"
            ]
        );
    }

    #[test]
    fn algebra() {
        let a = set(json!({"f:x": {"f:1": {}, "f:2": {}}, "f:y": {}}));
        let b = set(json!({"f:x": {"f:2": {}}, "f:z": {}}));
        assert_eq!(a.without(&b), set(json!({"f:x": {"f:1": {}}, "f:y": {}})));
        assert_eq!(a.shared(&b), set(json!({"f:x": {"f:2": {}}})));
        let mut c = a.clone();
        c.extend(&b);
        assert_eq!(c.paths(), [".x.1", ".x.2", ".y", ".z"]);
        c.remove(&["f:x", "f:1"]);
        assert!(a.without(&a).is_empty() && !c.paths().contains(&".x.1".to_string()));
    }
}
