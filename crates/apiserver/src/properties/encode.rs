//! A naive encoder of protobuf bodies: the field table backwards.

use super::{
    Choices,
    objects::{bodies, object},
};
use crate::{
    protobuf::{MAGIC, decode, other_than_schema},
    schema::{Field, Scalar, Shape, Types, builtin_types},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Map, Value};

/// What is encoded is decoded; what is no encoding is an error.
pub fn check(bytes: &[u8]) {
    let types = builtin_types();
    let mut choices = Choices::new(bytes);
    let (api_version, kind, name) = choices.of(bodies());
    let _ = decode(bytes);
    let _ = decode(&envelope(&api_version, &kind, bytes));
    let index = types.index(name).unwrap_or_default();
    let mut wanted = object(index, &mut choices);
    let raw = message(types, index, &wanted);
    let found = decode(&envelope(&api_version, &kind, &raw)).unwrap_or_default();
    wanted.insert("kind".into(), kind.into());
    wanted.insert("apiVersion".into(), api_version.into());
    assert_eq!(found, Value::Object(wanted));
}

/// A whole body.
pub fn envelope(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let meta = [field(1, api_version.as_bytes()), field(2, kind.as_bytes())].concat();
    [MAGIC.to_vec(), field(1, &meta), field(2, raw)].concat()
}

/// A field that holds bytes.
pub fn field(number: u32, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put_bytes(number, bytes, &mut out);
    out
}

fn varint(mut n: u64, out: &mut Vec<u8>) {
    while n >= 128 {
        out.push((n as u8 & 0x7f) | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

fn put_int(number: u32, n: i64, out: &mut Vec<u8>) {
    varint(u64::from(number) << 3, out);
    varint(n as u64, out);
}

fn put_bytes(number: u32, bytes: &[u8], out: &mut Vec<u8>) {
    varint(u64::from(number) << 3 | 2, out);
    varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

fn message(types: &Types, index: usize, object: &Map<String, Value>) -> Vec<u8> {
    let mut out = Vec::new();
    for field in &types.get(index).fields {
        let at = At {
            types,
            owner: index,
            field,
        };
        match (&field.shape, field.inline, object.get(field.json)) {
            (Shape::Message(inner), true, _) => {
                put_bytes(field.number, &message(types, *inner, object), &mut out);
            }
            (_, _, None) => {}
            (Shape::List(inner), _, Some(Value::Array(list))) => {
                list.iter()
                    .for_each(|item| at.put(field.number, inner, item, &mut out));
            }
            (Shape::Map(inner), _, Some(Value::Object(map))) => {
                for (key, value) in map {
                    let mut entry = self::field(1, key.as_bytes());
                    at.put(2, inner, value, &mut entry);
                    put_bytes(field.number, &entry, &mut out);
                }
            }
            (shape, _, Some(value)) => at.put(field.number, shape, value, &mut out),
        }
    }
    out
}

/// A field of a type.
struct At<'a> {
    types: &'a Types,
    owner: usize,
    field: &'a Field,
}

impl At<'_> {
    /// One value that is no list and no map.
    fn put(&self, number: u32, shape: &Shape, value: &Value, out: &mut Vec<u8>) {
        if other_than_schema(self.types, self.owner, self.field).is_some() {
            return put_bytes(number, &self.schema_or(value), out);
        }
        match shape {
            Shape::Message(index) => put_bytes(number, &self.object(*index, value), out),
            Shape::Scalar(scalar) => put_scalar(number, *scalar, value, out),
            Shape::List(_) | Shape::Map(_) => {}
        }
    }

    fn object(&self, index: usize, value: &Value) -> Vec<u8> {
        value
            .as_object()
            .map(|map| message(self.types, index, map))
            .unwrap_or_default()
    }

    /// A schema, or what may stand in its place.
    fn schema_or(&self, value: &Value) -> Vec<u8> {
        let mut out = Vec::new();
        match value {
            Value::Bool(allows) => put_int(1, i64::from(*allows), &mut out),
            Value::Array(list) => list.iter().for_each(|item| match item.as_str() {
                Some(text) => put_bytes(2, text.as_bytes(), &mut out),
                None => put_bytes(2, &self.object(self.owner, item), &mut out),
            }),
            schema => {
                let or_bool = self.field.json.starts_with("additional");
                let number = if or_bool { 2 } else { 1 };
                put_bytes(number, &self.object(self.owner, schema), &mut out);
            }
        }
        out
    }
}

fn put_scalar(number: u32, scalar: Scalar, value: &Value, out: &mut Vec<u8>) {
    let text = value.as_str().unwrap_or_default();
    let int = value.as_i64().unwrap_or_default();
    let mut inner = Vec::new();
    match scalar {
        Scalar::String => return put_bytes(number, text.as_bytes(), out),
        Scalar::Bytes => {
            return put_bytes(number, &STANDARD.decode(text).unwrap_or_default(), out);
        }
        Scalar::Bool => return put_int(number, i64::from(value == &Value::Bool(true)), out),
        Scalar::Int32 | Scalar::Int64 => return put_int(number, int, out),
        Scalar::Double => {
            varint(u64::from(number) << 3 | 1, out);
            let bits = value.as_f64().unwrap_or_default().to_le_bytes();
            return out.extend_from_slice(&bits);
        }
        Scalar::Quantity => put_bytes(1, text.as_bytes(), &mut inner),
        Scalar::Time | Scalar::MicroTime => {
            let at = text.parse::<jiff::Timestamp>().unwrap_or_default();
            put_int(1, at.as_second(), &mut inner);
            put_int(2, i64::from(at.subsec_nanosecond()), &mut inner);
        }
        Scalar::Duration => {
            let seconds: i64 = text.trim_end_matches('s').parse().unwrap_or_default();
            put_int(1, seconds * 1_000_000_000, &mut inner);
        }
        Scalar::IntOrString if value.is_i64() => put_int(2, int, &mut inner),
        Scalar::IntOrString => {
            put_int(1, 1, &mut inner);
            put_bytes(3, text.as_bytes(), &mut inner);
        }
        Scalar::Raw | Scalar::FieldsV1 | Scalar::Json => {
            put_bytes(1, value.to_string().as_bytes(), &mut inner);
        }
        Scalar::Extra => {
            let list = value.as_array().into_iter().flatten();
            list.for_each(|item| {
                put_bytes(1, item.as_str().unwrap_or_default().as_bytes(), &mut inner);
            });
        }
    }
    put_bytes(number, &inner, out);
}
