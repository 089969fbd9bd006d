//! Request bodies into JSON values: JSON, YAML and Kubernetes protobuf.
//!
//! JSON is read by an own visitor, because a duplicate key must be noticed: the real API server
//! refuses it under strict field validation and warns about it otherwise.

use crate::{
    protobuf,
    status::{ApiError, Result},
};
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use std::{cell::RefCell, fmt};

/// A body and what was odd about its text.
#[derive(Debug, Default)]
pub struct Decoded {
    /// The content.
    pub value: Value,
    /// Paths of keys that occur twice in one object.
    pub duplicates: Vec<String>,
}

/// Reads the body of a create or update. `kind` is used where protobuf bodies name none.
pub fn object(content_type: &str, bytes: &[u8]) -> Result<Decoded> {
    match content_type {
        "" | "application/json" => json(bytes),
        "application/yaml" | "text/yaml" | "application/apply-patch+yaml" => yaml(bytes),
        "application/vnd.kubernetes.protobuf" => Ok(Decoded {
            value: protobuf::decode(bytes)?,
            duplicates: Vec::new(),
        }),
        other => Err(ApiError::unsupported_media_type(format!(
            "the body of the request was in an unknown format - accepted media types include: application/json, application/yaml, application/vnd.kubernetes.protobuf (got {other:?})"
        ))),
    }
}

/// Reads JSON.
pub fn json(bytes: &[u8]) -> Result<Decoded> {
    let duplicates = RefCell::new(Vec::new());
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let seed = Seed {
        path: Path::Root,
        duplicates: &duplicates,
    };
    let value = seed
        .deserialize(&mut reader)
        .and_then(|value| reader.end().map(|()| value))
        .map_err(|e| {
            ApiError::bad_request(format!(
                "the object provided is unrecognized (must be of type JSON): {e}"
            ))
        })?;
    Ok(Decoded {
        value,
        duplicates: duplicates.into_inner(),
    })
}

/// Reads JSON if it looks like it, else one YAML document.
pub fn yaml(bytes: &[u8]) -> Result<Decoded> {
    if bytes.iter().find(|b| !b.is_ascii_whitespace()) == Some(&b'{') {
        return json(bytes);
    }
    let text = std::str::from_utf8(bytes)
        .map_err(|_| ApiError::bad_request("the body is not UTF-8 text"))?;
    let value = serde_saphyr::from_str(text)
        .map_err(|e| ApiError::bad_request(format!("error converting YAML to JSON: {e}")))?;
    Ok(Decoded {
        value,
        duplicates: Vec::new(),
    })
}

/// Where the visitor stands; rendered only when there is something to report.
#[derive(Clone, Copy)]
enum Path<'a> {
    Root,
    Key(&'a Path<'a>, &'a str),
    Index(&'a Path<'a>, usize),
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Path::Root => Ok(()),
            Path::Key(Path::Root, key) => f.write_str(key),
            Path::Key(parent, key) => write!(f, "{parent}.{key}"),
            Path::Index(parent, i) => write!(f, "{parent}[{i}]"),
        }
    }
}

struct Seed<'a> {
    path: Path<'a>,
    duplicates: &'a RefCell<Vec<String>>,
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_f64<E>(self, v: f64) -> Result<Value, E> {
        Ok(Number::from_f64(v).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_string<E>(self, v: String) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        loop {
            let path = Path::Index(&self.path, list.len());
            match seq.next_element_seed(Seed {
                path,
                duplicates: self.duplicates,
            })? {
                Some(item) => list.push(item),
                None => return Ok(Value::Array(list)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = access.next_key::<String>()? {
            let path = Path::Key(&self.path, &key);
            let value = access.next_value_seed(Seed {
                path,
                duplicates: self.duplicates,
            })?;
            if map.contains_key(&key) {
                self.duplicates.borrow_mut().push(path.to_string());
            }
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duplicate_keys_are_seen() {
        let d = json(br#"{"a":1,"b":[{"c":1,"c":2}],"a":3}"#).unwrap();
        assert_eq!(d.duplicates, ["b[0].c", "a"]);
        assert_eq!(d.value["a"], 3);
        assert_eq!(d.value["b"][0]["c"], 2);
    }

    #[test]
    fn text_that_is_no_json_is_refused() {
        assert!(json(b"{\"a\":").is_err());
        assert!(json(b"{} x").is_err());
        assert!(object("application/cbor", b"").is_err());
        assert_eq!(
            yaml(b"a: [1, x]").unwrap().value,
            serde_json::json!({"a": [1, "x"]})
        );
    }
}
