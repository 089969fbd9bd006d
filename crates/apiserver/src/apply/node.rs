//! One view of both kinds of schema: which parts of a value are owned together.

use crate::{
    crd::{ListKind, Structural},
    registry::{Resource, Schema},
    schema::{Shape, Topology, Types, builtin_types},
};
use serde_json::{Map, Value};

/// A point in a schema.
#[derive(Debug, Clone, Copy)]
pub enum Node<'a> {
    /// A built-in type; the topology is that of the field that leads here.
    Builtin(&'a Types, &'a Shape, Option<&'a Topology>),
    /// A CRD's schema.
    Custom(&'a Structural),
    /// `metadata` of any object.
    Metadata(&'a Types, usize),
    /// Nothing is known: maps are granular, lists atomic.
    Unknown,
}

/// How a value is owned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ownership {
    /// As a whole.
    Whole,
    /// Each key.
    Fields,
    /// Each item, told apart by these keys.
    Items(Vec<String>),
    /// Each value.
    Values,
}

impl<'a> Node<'a> {
    /// The root of a resource's objects. `shape` holds the root's shape for built-in kinds.
    pub fn root(resource: &'a Resource, shape: &'a mut Option<Shape>) -> Node<'a> {
        match &resource.schema {
            Schema::Builtin(name) => {
                *shape = builtin_types().index(name).map(Shape::Message);
                match shape {
                    Some(shape) => Node::Builtin(builtin_types(), shape, None),
                    None => Node::Unknown,
                }
            }
            Schema::Custom(version) => version
                .schema
                .as_deref()
                .map_or(Node::Unknown, Node::Custom),
        }
    }

    /// The schema of a key.
    pub fn field(self, key: &str, root: bool) -> Node<'a> {
        if root && key == "metadata" && !matches!(self, Node::Builtin(..)) {
            let types = builtin_types();
            return types
                .index("meta.v1.ObjectMeta")
                .map_or(Node::Unknown, |i| Node::Metadata(types, i));
        }
        match self {
            Node::Builtin(types, Shape::Message(index), _) => of_field(types, *index, key),
            Node::Metadata(types, index) => of_field(types, index, key),
            Node::Builtin(types, Shape::Map(inner), _) => Node::Builtin(types, inner, None),
            Node::Custom(schema) => schema.child(key).map_or(Node::Unknown, Node::Custom),
            _ => Node::Unknown,
        }
    }

    /// The schema of the items of a list.
    pub fn item(self) -> Node<'a> {
        match self {
            Node::Builtin(types, Shape::List(inner), _) => {
                Node::Builtin(types, inner, atomic(types, inner))
            }
            Node::Custom(schema) => schema.items.as_deref().map_or(Node::Unknown, Node::Custom),
            _ => Node::Unknown,
        }
    }

    /// Whether a key is a field of a known type, and not an entry of a map.
    pub fn has_field(self, key: &str) -> bool {
        match self {
            Node::Builtin(types, Shape::Message(index), _) => types.field(*index, key).is_some(),
            Node::Metadata(types, index) => types.field(index, key).is_some(),
            Node::Custom(schema) => schema.properties.contains_key(key),
            _ => false,
        }
    }

    /// How a value at this point is owned.
    pub fn ownership(self, value: &Value) -> Ownership {
        match value {
            Value::Object(_) => match self {
                Node::Builtin(_, Shape::Message(_) | Shape::Map(_), Some(Topology::Atomic)) => {
                    Ownership::Whole
                }
                Node::Builtin(_, Shape::Scalar(_), _) => Ownership::Whole,
                Node::Custom(schema) if schema.atomic_map => Ownership::Whole,
                _ => Ownership::Fields,
            },
            Value::Array(_) => self.list(),
            _ => Ownership::Whole,
        }
    }

    fn list(self) -> Ownership {
        match self {
            Node::Builtin(_, Shape::List(_), Some(Topology::Set)) => Ownership::Values,
            Node::Builtin(_, Shape::List(_), Some(Topology::Granular(keys)))
                if !keys.is_empty() =>
            {
                Ownership::Items(keys.iter().map(|k| k.to_string()).collect())
            }
            Node::Custom(schema) => match &schema.list_kind {
                Some(ListKind::Set) => Ownership::Values,
                Some(ListKind::Map(keys)) => Ownership::Items(keys.clone()),
                _ => Ownership::Whole,
            },
            _ => Ownership::Whole,
        }
    }

    /// The keys of a list item, defaults included, as a map.
    pub fn keys(self, item: &Value, keys: &[String]) -> Map<String, Value> {
        let mut found = Map::new();
        for key in keys {
            let value = item
                .get(key)
                .filter(|v| !v.is_null())
                .cloned()
                .or_else(|| self.key_default(key));
            if let Some(value) = value {
                found.insert(key.clone(), value);
            }
        }
        found.sort_keys();
        found
    }

    fn key_default(self, key: &str) -> Option<Value> {
        match self {
            // The one key of a built-in list that has a default.
            Node::Builtin(..) => (key == "protocol").then(|| "TCP".into()),
            Node::Custom(schema) => schema.items.as_ref()?.properties.get(key)?.default.clone(),
            _ => None,
        }
    }
}

/// An item that is owned as a whole, though it is a structure: a reference to an owner.
fn atomic(types: &Types, item: &Shape) -> Option<&'static Topology> {
    let owner = types.index("meta.v1.OwnerReference")?;
    matches!(item, Shape::Message(index) if *index == owner).then_some(&Topology::Atomic)
}

fn of_field<'a>(types: &'a Types, index: usize, key: &str) -> Node<'a> {
    match types.field(index, key) {
        Some(field) => Node::Builtin(types, &field.shape, Some(&field.merge)),
        None => Node::Unknown,
    }
}
