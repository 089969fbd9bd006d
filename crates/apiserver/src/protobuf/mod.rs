//! Kubernetes protobuf bodies into JSON values, by the field table.
//!
//! Clients with generated types (kubectl 1.32 and later among them) send protobuf for built-in
//! kinds and accept JSON answers, so the server decodes and never encodes. Clients write the zero
//! values of plain Go fields: those that Go's JSON leaves out are left out here too.

#[cfg(test)]
mod tests;

use crate::{
    registry::builtin::type_name,
    schema::{Field, Scalar, Shape, Types, builtin_types},
    status::{ApiError, Result},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Map, Value};

pub const MAGIC: &[u8] = b"k8s\0";
/// Deepest nesting, which only the schemas of CRDs come near to.
const MAX_DEPTH: usize = 100;
/// The type of schemas, and its fields that hold a schema or something else.
const SCHEMA: &str = "apiextensions.v1.JSONSchemaProps";

/// One field on the wire.
enum Wire<'a> {
    Varint(u64),
    Fixed64(u64),
    Fixed32(u32),
    Bytes(&'a [u8]),
}

/// Decodes an enveloped body. An envelope without content gives just `kind` and `apiVersion`.
pub fn decode(bytes: &[u8]) -> Result<Value> {
    let body = bytes.strip_prefix(MAGIC).ok_or_else(|| {
        ApiError::bad_request(
            "the body is no Kubernetes protobuf: it does not begin with \"k8s\\0\"",
        )
    })?;
    let (mut api_version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    each(body, &mut |number, wire| {
        match (number, wire) {
            (1, Wire::Bytes(meta)) => each(meta, &mut |number, wire| {
                match (number, wire) {
                    (1, Wire::Bytes(b)) => api_version = text(b)?,
                    (2, Wire::Bytes(b)) => kind = text(b)?,
                    _ => {}
                }
                Ok(())
            })?,
            (2, Wire::Bytes(b)) => raw = b,
            _ => {}
        }
        Ok(())
    })
    .map_err(broken)?;
    let (group, version) = match api_version.split_once('/') {
        Some((group, version)) => (group, version),
        None => ("", api_version.as_str()),
    };
    let types = builtin_types();
    let index = match kind.as_str() {
        "DeleteOptions" => types.index("meta.v1.DeleteOptions"),
        _ => types.index(type_name(group, version, &kind)),
    };
    let Some(index) = index else {
        return Err(ApiError::unsupported_media_type(format!(
            "protobuf bodies of kind {kind:?} in {api_version:?} cannot be read here: send application/json"
        )));
    };
    let mut map = Map::new();
    map.insert("kind".into(), kind.into());
    map.insert("apiVersion".into(), api_version.clone().into());
    message(types, index, raw, &mut map, 0).map_err(broken)?;
    Ok(Value::Object(map))
}

fn broken(why: &'static str) -> ApiError {
    ApiError::bad_request(format!("the protobuf body cannot be read: {why}"))
}

type Read<T> = std::result::Result<T, &'static str>;

/// Calls `found` for each field of a message.
fn each<'a>(mut rest: &'a [u8], found: &mut dyn FnMut(u32, Wire<'a>) -> Read<()>) -> Read<()> {
    while !rest.is_empty() {
        let tag = varint(&mut rest)?;
        let number = u32::try_from(tag >> 3).map_err(|_| "a field number is too large")?;
        let wire = match tag & 7 {
            0 => Wire::Varint(varint(&mut rest)?),
            1 => Wire::Fixed64(u64::from_le_bytes(fixed(&mut rest)?)),
            5 => Wire::Fixed32(u32::from_le_bytes(fixed(&mut rest)?)),
            2 => {
                let length =
                    usize::try_from(varint(&mut rest)?).map_err(|_| "a length is too large")?;
                if length > rest.len() {
                    return Err("a field is longer than the body");
                }
                let (bytes, after) = rest.split_at(length);
                rest = after;
                Wire::Bytes(bytes)
            }
            _ => return Err("unknown wire type"),
        };
        found(number, wire)?;
    }
    Ok(())
}

fn varint(rest: &mut &[u8]) -> Read<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, after) = rest.split_first().ok_or("a number is cut off")?;
        *rest = after;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err("a number is too long")
}

fn fixed<const N: usize>(rest: &mut &[u8]) -> Read<[u8; N]> {
    let (bytes, after) = rest.split_first_chunk::<N>().ok_or("a number is cut off")?;
    *rest = after;
    Ok(*bytes)
}

fn text(bytes: &[u8]) -> Read<String> {
    String::from_utf8(bytes.to_vec()).map_err(|_| "a text is not UTF-8")
}

fn message(
    types: &Types,
    index: usize,
    bytes: &[u8],
    into: &mut Map<String, Value>,
    depth: usize,
) -> Read<()> {
    if depth > MAX_DEPTH {
        return Err("the object is nested too deeply");
    }
    each(bytes, &mut |number, wire| {
        // Unknown numbers belong to newer versions of the kind.
        let Some(field) = types.get(index).fields.iter().find(|f| f.number == number) else {
            return Ok(());
        };
        if let (true, Shape::Message(inner), Wire::Bytes(b)) = (field.inline, &field.shape, &wire) {
            return message(types, *inner, b, into, depth + 1);
        }
        if let (Some(other), Wire::Bytes(b)) = (other_than_schema(types, index, field), &wire) {
            return schema_or(types, index, other, b, field, into, depth);
        }
        match &field.shape {
            Shape::List(inner) => list(types, inner, wire, field.json, into, depth),
            Shape::Map(inner) => entry(types, inner, wire, field.json, into, depth),
            shape => {
                if let Some(value) = single(types, shape, wire, depth)?
                    && !(field.omit_zero && is_zero(&value))
                {
                    into.insert(field.json.to_string(), value);
                }
                Ok(())
            }
        }
    })
}

/// What a field of a schema may hold instead of a schema.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Other {
    Bool,
    Schemas,
    Texts,
}

pub fn other_than_schema(types: &Types, index: usize, field: &Field) -> Option<Other> {
    if types.get(index).name != SCHEMA {
        return None;
    }
    match field.json {
        "items" => Some(Other::Schemas),
        "additionalItems" | "additionalProperties" => Some(Other::Bool),
        "dependencies" => Some(Other::Texts),
        _ => None,
    }
}

/// A schema, or something else; in the field `dependencies` a map entry with such a value.
fn schema_or(
    types: &Types,
    index: usize,
    other: Other,
    bytes: &[u8],
    field: &Field,
    into: &mut Map<String, Value>,
    depth: usize,
) -> Read<()> {
    if other != Other::Texts {
        let value = either(types, index, other, bytes, depth)?;
        into.insert(field.json.to_string(), value);
        return Ok(());
    }
    let (mut key, mut value) = (String::new(), Value::Null);
    each(bytes, &mut |number, wire| {
        match (number, wire) {
            (1, Wire::Bytes(b)) => key = text(b)?,
            (2, Wire::Bytes(b)) => value = either(types, index, other, b, depth)?,
            _ => {}
        }
        Ok(())
    })?;
    let slot = into
        .entry(field.json)
        .or_insert_with(|| Value::Object(Map::new()));
    if let Value::Object(map) = slot {
        map.insert(key, value);
    }
    Ok(())
}

fn either(types: &Types, index: usize, other: Other, bytes: &[u8], depth: usize) -> Read<Value> {
    let (mut schema, mut allows, mut list) = (None, false, Vec::new());
    each(bytes, &mut |number, wire| {
        let schema_in = |b: &[u8]| -> Read<Value> {
            let mut map = Map::new();
            message(types, index, b, &mut map, depth + 1)?;
            Ok(Value::Object(map))
        };
        match (number, wire, other) {
            (1, Wire::Varint(n), Other::Bool) => allows = n != 0,
            (1, Wire::Bytes(b), Other::Schemas | Other::Texts) => schema = Some(schema_in(b)?),
            (2, Wire::Bytes(b), Other::Bool) => schema = Some(schema_in(b)?),
            (2, Wire::Bytes(b), Other::Schemas) => list.push(schema_in(b)?),
            (2, Wire::Bytes(b), Other::Texts) => list.push(text(b)?.into()),
            _ => {}
        }
        Ok(())
    })?;
    Ok(match (list.is_empty(), schema, other) {
        (false, _, _) => Value::Array(list),
        (true, Some(schema), _) => schema,
        (true, None, Other::Bool) => allows.into(),
        (true, None, _) => Value::Null,
    })
}

/// Whether a leaf is what Go's JSON leaves out.
fn is_zero(value: &Value) -> bool {
    match value {
        Value::String(text) => text.is_empty(),
        Value::Bool(yes) => !yes,
        Value::Number(n) => n.as_f64() == Some(0.0),
        _ => false,
    }
}

fn list(
    types: &Types,
    inner: &Shape,
    wire: Wire<'_>,
    json: &str,
    into: &mut Map<String, Value>,
    depth: usize,
) -> Read<()> {
    let slot = into
        .entry(json.to_string())
        .or_insert_with(|| Value::Array(Vec::new()));
    let Value::Array(items) = slot else {
        return Err("a list field has another form");
    };
    // Numbers may come packed.
    if let (Shape::Scalar(Scalar::Int32 | Scalar::Int64), Wire::Bytes(packed)) = (inner, &wire) {
        let mut packed = *packed;
        while !packed.is_empty() {
            items.push((varint(&mut packed)? as i64).into());
        }
        return Ok(());
    }
    items.push(single(types, inner, wire, depth)?.unwrap_or_default());
    Ok(())
}

fn entry(
    types: &Types,
    inner: &Shape,
    wire: Wire<'_>,
    json: &str,
    into: &mut Map<String, Value>,
    depth: usize,
) -> Read<()> {
    let Wire::Bytes(bytes) = wire else {
        return Err("a map entry has the wrong form");
    };
    let (mut key, mut value) = (String::new(), None);
    each(bytes, &mut |number, wire| {
        match (number, wire) {
            (1, Wire::Bytes(b)) => key = text(b)?,
            (2, wire) => value = single(types, inner, wire, depth)?,
            _ => {}
        }
        Ok(())
    })?;
    let slot = into
        .entry(json.to_string())
        .or_insert_with(|| Value::Object(Map::new()));
    if let Value::Object(map) = slot {
        // A text that is not there is an empty one.
        map.insert(key, value.unwrap_or_else(|| "".into()));
    }
    Ok(())
}

/// One value; None for what counts as not set.
fn single(types: &Types, shape: &Shape, wire: Wire<'_>, depth: usize) -> Read<Option<Value>> {
    let scalar = match shape {
        Shape::Scalar(scalar) => *scalar,
        Shape::Message(index) => {
            let Wire::Bytes(bytes) = wire else {
                return Err("an object has the wrong form");
            };
            let mut map = Map::new();
            message(types, *index, bytes, &mut map, depth + 1)?;
            return Ok(Some(Value::Object(map)));
        }
        Shape::List(_) | Shape::Map(_) => return Err("lists of lists do not exist"),
    };
    match (scalar, wire) {
        (Scalar::Bool, Wire::Varint(n)) => Ok(Some((n != 0).into())),
        (Scalar::Int32, Wire::Varint(n)) => Ok(Some((n as i32).into())),
        (Scalar::Int64, Wire::Varint(n)) => Ok(Some((n as i64).into())),
        (Scalar::Double, Wire::Fixed64(n)) => Ok(Some(f64::from_bits(n).into())),
        (Scalar::Double, Wire::Fixed32(n)) => Ok(Some(f64::from(f32::from_bits(n)).into())),
        (Scalar::String, Wire::Bytes(b)) => Ok(Some(text(b)?.into())),
        (Scalar::Bytes, Wire::Bytes(b)) => Ok(Some(STANDARD.encode(b).into())),
        (_, Wire::Bytes(b)) => special(scalar, b),
        _ => Err("a value has the wrong wire type"),
    }
}

/// The types that are messages in protobuf and leaves in JSON.
fn special(scalar: Scalar, bytes: &[u8]) -> Read<Option<Value>> {
    let (mut ints, mut texts) = ([0i64; 4], [None, None, None, None]);
    let mut repeated = Vec::new();
    each(bytes, &mut |number, wire| {
        let slot = (number as usize).min(3);
        match wire {
            Wire::Varint(n) => ints[slot] = n as i64,
            Wire::Bytes(b) => {
                texts[slot] = Some(b);
                repeated.push(b);
            }
            _ => {}
        }
        Ok(())
    })?;
    let first = texts[1].unwrap_or_default();
    Ok(match scalar {
        Scalar::Quantity => Some(text(first)?.into()),
        Scalar::Time | Scalar::MicroTime => time(scalar, ints[1], ints[2]),
        Scalar::Duration => Some(format!("{}s", ints[1] as f64 / 1e9).into()),
        Scalar::IntOrString if ints[1] == 0 => Some(ints[2].into()),
        Scalar::IntOrString => Some(text(texts[3].unwrap_or_default())?.into()),
        Scalar::Raw | Scalar::FieldsV1 | Scalar::Json if first.is_empty() => None,
        Scalar::Raw | Scalar::FieldsV1 | Scalar::Json => {
            Some(serde_json::from_slice(first).map_err(|_| "an embedded object is not JSON")?)
        }
        Scalar::Extra => {
            let list: Read<Vec<Value>> = repeated
                .into_iter()
                .map(|b| text(b).map(Value::from))
                .collect();
            Some(Value::Array(list?))
        }
        _ => return Err("a value has the wrong wire type"),
    })
}

/// Seconds and nanoseconds as text; the zero time means "not set".
fn time(scalar: Scalar, seconds: i64, nanos: i64) -> Option<Value> {
    if seconds == 0 && nanos == 0 {
        return None;
    }
    let at = jiff::Timestamp::new(seconds, i32::try_from(nanos).ok()?).ok()?;
    // Go's zero time is the year 1.
    if seconds < -62_135_596_000 {
        return None;
    }
    let format = match scalar {
        Scalar::MicroTime => "%Y-%m-%dT%H:%M:%S%.6fZ",
        _ => "%Y-%m-%dT%H:%M:%SZ",
    };
    Some(at.strftime(format).to_string().into())
}
