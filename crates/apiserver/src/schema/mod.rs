//! What built-in kinds look like: the field table, parsed once, and the walks over it.

mod normalize;

pub use normalize::{Findings, normalize};

use std::{collections::HashMap, sync::LazyLock};

static TABLE: &str = include_str!("builtin.fields");
static TYPES: LazyLock<Types> = LazyLock::new(|| Types::parse(TABLE));

/// The built-in types.
pub fn builtin_types() -> &'static Types {
    &TYPES
}

/// Types by name.
#[derive(Debug)]
pub struct Types {
    types: Vec<Type>,
    by_name: HashMap<&'static str, usize>,
}

/// One object type.
#[derive(Debug)]
pub struct Type {
    /// `core.v1.Pod`.
    pub name: &'static str,
    /// Fields as protobuf has them; inline ones are messages of their own there.
    pub fields: Vec<Field>,
    /// Fields as JSON has them: position of the field in the type that owns it.
    json: HashMap<&'static str, (usize, usize)>,
}

/// One field of a type.
#[derive(Debug)]
pub struct Field {
    /// Protobuf field number.
    pub number: u32,
    /// JSON name, "-" for inline fields.
    pub json: &'static str,
    /// What it holds.
    pub shape: Shape,
    /// Whether it must be there.
    pub required: bool,
    /// Whether its own fields stand in the parent's JSON.
    pub inline: bool,
    /// How server-side apply sees a list or an object.
    pub merge: Topology,
    /// How strategic merge patch sees a list: by key (`Some(Some)`), as a set (`Some(None)`).
    pub patch: Option<Option<&'static str>>,
    /// Whether `$retainKeys` is meant for it.
    pub retain_keys: bool,
    /// Whether a zero value means "not set".
    pub omit_zero: bool,
}

/// How parts of a value are owned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Topology {
    /// As a whole.
    Atomic,
    /// Each field, or each item of a list of objects with these keys.
    Granular(Vec<&'static str>),
    /// Each value of a list of scalars.
    Set,
}

/// The form of a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shape {
    /// A leaf.
    Scalar(Scalar),
    /// An object with known fields: index of its type.
    Message(usize),
    /// A list.
    List(Box<Shape>),
    /// An object with any keys.
    Map(Box<Shape>),
}

/// A leaf.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scalar {
    /// Text.
    String,
    /// true or false.
    Bool,
    /// Signed, 32 bits.
    Int32,
    /// Signed, 64 bits.
    Int64,
    /// Floating point.
    Double,
    /// Bytes, base64 in JSON.
    Bytes,
    /// `resource.Quantity`.
    Quantity,
    /// `metav1.Time`.
    Time,
    /// `metav1.MicroTime`.
    MicroTime,
    /// `metav1.Duration`.
    Duration,
    /// A number or a text.
    IntOrString,
    /// `runtime.RawExtension`: any object.
    Raw,
    /// `metav1.FieldsV1`.
    FieldsV1,
    /// Any JSON.
    Json,
    /// A list of strings, in protobuf wrapped in a message.
    Extra,
}

impl Types {
    /// A type by index.
    pub fn get(&self, index: usize) -> &Type {
        &self.types[index]
    }

    /// The index of a type.
    pub fn index(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    /// The table's own copy of a type's name.
    pub fn name(&self, name: &str) -> Option<&'static str> {
        self.by_name.get_key_value(name).map(|(k, _)| *k)
    }

    /// The field that a JSON key of a type means.
    pub fn field(&self, index: usize, json: &str) -> Option<&Field> {
        let &(owner, field) = self.types[index].json.get(json)?;
        Some(&self.types[owner].fields[field])
    }

    /// All fields as JSON has them, in the table's order.
    pub fn json_fields(&self, index: usize) -> Vec<&Field> {
        let mut fields = Vec::new();
        for field in &self.types[index].fields {
            match (&field.shape, field.inline) {
                (Shape::Message(inner), true) => fields.extend(self.json_fields(*inner)),
                _ => fields.push(field),
            }
        }
        fields
    }

    fn parse(text: &'static str) -> Types {
        let lines = || {
            text.lines()
                .filter(|l| !l.starts_with('#') && !l.is_empty())
        };
        let mut by_name = HashMap::new();
        for line in lines().filter(|l| !l.starts_with(' ')) {
            let index = by_name.len();
            by_name.insert(line, index);
        }
        let mut types: Vec<Type> = Vec::with_capacity(by_name.len());
        for line in lines() {
            if let Some(field) = line.strip_prefix(' ') {
                if let Some(last) = types.last_mut() {
                    last.fields.extend(parse_field(field, &by_name));
                }
            } else {
                types.push(Type {
                    name: line,
                    fields: Vec::new(),
                    json: HashMap::new(),
                });
            }
        }
        let mut all = Types { types, by_name };
        for index in 0..all.types.len() {
            let mut json = HashMap::new();
            all.collect_json(index, &mut json);
            all.types[index].json = json;
        }
        all
    }

    fn collect_json(&self, index: usize, into: &mut HashMap<&'static str, (usize, usize)>) {
        for (i, field) in self.types[index].fields.iter().enumerate() {
            match (&field.shape, field.inline) {
                (Shape::Message(inner), true) => self.collect_json(*inner, into),
                _ => {
                    into.insert(field.json, (index, i));
                }
            }
        }
    }
}

fn parse_field(line: &'static str, by_name: &HashMap<&'static str, usize>) -> Option<Field> {
    let mut words = line.split(' ');
    let number = words.next()?.parse().ok()?;
    let json = words.next()?;
    let shape = parse_shape(words.next()?, by_name)?;
    let is_list = matches!(shape, Shape::List(_));
    let mut field = Field {
        number,
        json,
        merge: if is_list {
            Topology::Atomic
        } else {
            Topology::Granular(Vec::new())
        },
        shape,
        required: false,
        inline: false,
        patch: None,
        retain_keys: false,
        omit_zero: false,
    };
    for flag in words {
        match flag.split_once('=') {
            Some(("map", keys)) => field.merge = Topology::Granular(keys.split(',').collect()),
            Some(("merge", key)) => field.patch = Some(Some(key)),
            None if flag == "!" => field.required = true,
            None if flag == "inline" => field.inline = true,
            None if flag == "set" => field.merge = Topology::Set,
            None if flag == "atomic" => field.merge = Topology::Atomic,
            None if flag == "merge" => field.patch = Some(None),
            None if flag == "retain" => field.retain_keys = true,
            None if flag == "z" => field.omit_zero = true,
            _ => {}
        }
    }
    Some(field)
}

fn parse_shape(text: &str, by_name: &HashMap<&'static str, usize>) -> Option<Shape> {
    if let Some(inner) = text.strip_prefix('[') {
        return Some(Shape::List(Box::new(parse_shape(
            inner.strip_suffix(']')?,
            by_name,
        )?)));
    }
    if let Some(inner) = text.strip_prefix('{') {
        return Some(Shape::Map(Box::new(parse_shape(
            inner.strip_suffix('}')?,
            by_name,
        )?)));
    }
    let scalar = match text {
        "s" => Scalar::String,
        "b" => Scalar::Bool,
        "i" => Scalar::Int32,
        "l" => Scalar::Int64,
        "d" => Scalar::Double,
        "bytes" => Scalar::Bytes,
        "quantity" => Scalar::Quantity,
        "time" => Scalar::Time,
        "microtime" => Scalar::MicroTime,
        "duration" => Scalar::Duration,
        "intorstring" => Scalar::IntOrString,
        "raw" => Scalar::Raw,
        "fieldsv1" => Scalar::FieldsV1,
        "json" => Scalar::Json,
        "extra" => Scalar::Extra,
        name => return by_name.get(name).map(|i| Shape::Message(*i)),
    };
    Some(Shape::Scalar(scalar))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_the_table_is_understood() {
        let lines = TABLE.lines().filter(|l| l.starts_with(' ')).count();
        let fields: usize = TYPES.types.iter().map(|t| t.fields.len()).sum();
        assert_eq!(fields, lines);
    }

    #[test]
    fn inline_fields_are_found_in_the_parent() {
        let probe = TYPES.index("core.v1.Probe").unwrap();
        let field = TYPES.field(probe, "httpGet").unwrap();
        assert!(matches!(field.shape, Shape::Message(_)));
        let ports = TYPES
            .field(TYPES.index("core.v1.Container").unwrap(), "ports")
            .unwrap();
        assert_eq!(
            ports.merge,
            Topology::Granular(vec!["containerPort", "protocol"])
        );
        assert_eq!(ports.patch, Some(Some("containerPort")));
    }
}
