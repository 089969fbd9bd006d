//! Brings an object of a built-in kind into the form that Go's decoder gives it.
//!
//! Unknown fields are dropped and reported, nulls mean "not set", and a value of the wrong JSON
//! type is an error that names the Go type, as users know it from the real API server.

use super::{Scalar, Shape, Types, builtin_types};
use crate::quantity;
use serde_json::Value;

/// What the walk noticed.
#[derive(Debug, Default)]
pub struct Findings {
    /// Paths of fields that the kind does not have.
    pub unknown: Vec<String>,
}

/// Normalizes `value` as an object of the named type. The error is the text after
/// "cannot be handled as a …: ".
pub fn normalize(
    type_name: &str,
    value: &mut Value,
    findings: &mut Findings,
) -> Result<(), String> {
    let types = builtin_types();
    let Some(index) = types.index(type_name) else {
        return Ok(());
    };
    let mut walk = Walk {
        types,
        findings,
        path: Vec::new(),
    };
    walk.message(index, value, true)
}

struct Walk<'a> {
    types: &'static Types,
    findings: &'a mut Findings,
    path: Vec<String>,
}

impl Walk<'_> {
    fn message(&mut self, index: usize, value: &mut Value, root: bool) -> Result<(), String> {
        let type_name = self.types.get(index).name;
        let Value::Object(map) = value else {
            return Err(self.mismatch(value, type_name, &go_type(type_name)));
        };
        let mut drop = Vec::new();
        for (key, item) in map.iter_mut() {
            if root && matches!(key.as_str(), "apiVersion" | "kind") {
                continue;
            }
            let Some(field) = self.types.field(index, key) else {
                self.findings.unknown.push(self.joined(key));
                drop.push(key.clone());
                continue;
            };
            if item.is_null() {
                drop.push(key.clone());
                continue;
            }
            self.path.push(key.clone());
            self.shape(&field.shape, item, type_name)?;
            self.path.pop();
            let empty_collection = match (&field.shape, &*item) {
                (Shape::List(_), Value::Array(list)) => list.is_empty(),
                (Shape::Map(_), Value::Object(map)) => map.is_empty(),
                _ => false,
            };
            if (empty_collection && !field.required) || (field.omit_zero && is_zero(item)) {
                drop.push(key.clone());
            }
        }
        for key in drop {
            map.shift_remove(&key);
        }
        Ok(())
    }

    fn shape(&mut self, shape: &Shape, value: &mut Value, owner: &str) -> Result<(), String> {
        match shape {
            Shape::Message(index) => match value {
                Value::Object(_) => self.message(*index, value, false),
                _ => Err(self.mismatch(value, owner, &go_type(self.types.get(*index).name))),
            },
            Shape::List(inner) => {
                let Value::Array(list) = value else {
                    return Err(self.mismatch(value, owner, &go_shape(self.types, shape)));
                };
                for (i, item) in list.iter_mut().enumerate() {
                    let last = self.path.pop().unwrap_or_default();
                    self.path.push(format!("{last}[{i}]"));
                    self.shape(inner, item, owner)?;
                    self.path.pop();
                    self.path.push(last);
                }
                Ok(())
            }
            Shape::Map(inner) => {
                let Value::Object(map) = value else {
                    return Err(self.mismatch(value, owner, &go_shape(self.types, shape)));
                };
                for (key, item) in map.iter_mut() {
                    self.path.push(key.clone());
                    if item.is_null() && **inner == Shape::Scalar(Scalar::String) {
                        *item = "".into();
                    }
                    self.shape(inner, item, owner)?;
                    self.path.pop();
                }
                Ok(())
            }
            Shape::Scalar(scalar) => self.scalar(*scalar, value, owner),
        }
    }

    fn scalar(&mut self, scalar: Scalar, value: &mut Value, owner: &str) -> Result<(), String> {
        let fits = match scalar {
            Scalar::String
            | Scalar::Bytes
            | Scalar::Time
            | Scalar::MicroTime
            | Scalar::Duration => value.is_string(),
            Scalar::Bool => value.is_boolean(),
            Scalar::Int32 => whole(value).is_some_and(|n| i32::try_from(n).is_ok()),
            Scalar::Int64 => whole(value).is_some(),
            Scalar::Double => value.is_number(),
            Scalar::IntOrString => value.is_string() || value.is_i64(),
            Scalar::Quantity => return self.quantity(value),
            Scalar::Raw | Scalar::FieldsV1 | Scalar::Json | Scalar::Extra => true,
        };
        if !fits {
            return Err(self.mismatch(value, owner, go_scalar(scalar)));
        }
        match scalar {
            Scalar::Int32 | Scalar::Int64 => {
                if let Some(n) = whole(value) {
                    *value = n.into();
                }
                Ok(())
            }
            Scalar::Bytes => self.base64(value),
            Scalar::Time | Scalar::MicroTime => self.time(value),
            _ => Ok(()),
        }
    }

    fn quantity(&self, value: &mut Value) -> Result<(), String> {
        let text = match &*value {
            Value::String(s) => s.clone(),
            Value::Number(n) => n.to_string(),
            _ => return Err(self.mismatch(value, "Quantity", "resource.Quantity")),
        };
        match quantity::canonical(&text) {
            Some(canonical) => {
                *value = canonical.into();
                Ok(())
            }
            None => Err(
                "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
                    .to_string(),
            ),
        }
    }

    fn base64(&self, value: &Value) -> Result<(), String> {
        use base64::Engine;
        let text = value.as_str().unwrap_or_default();
        let clean: String = text.chars().filter(|c| !matches!(c, '\n' | '\r')).collect();
        match base64::engine::general_purpose::STANDARD.decode(clean) {
            Ok(_) => Ok(()),
            Err(_) => {
                let at = text.find(|c: char| !(c.is_ascii_alphanumeric() || "+/=".contains(c)));
                Err(format!(
                    "illegal base64 data at input byte {}",
                    at.unwrap_or(text.len())
                ))
            }
        }
    }

    fn time(&self, value: &Value) -> Result<(), String> {
        let text = value.as_str().unwrap_or_default();
        if text.is_empty() || text.parse::<jiff::Timestamp>().is_ok() {
            return Ok(());
        }
        Err(format!(
            "parsing time {text:?} as \"2006-01-02T15:04:05Z07:00\": cannot parse it"
        ))
    }

    fn joined(&self, key: &str) -> String {
        let mut path = self.path.join(".");
        if !path.is_empty() {
            path.push('.');
        }
        path + key
    }

    fn mismatch(&self, value: &Value, owner: &str, wanted: &str) -> String {
        let found = match value {
            Value::Null => "null",
            Value::Bool(_) => "bool",
            Value::Number(n) => {
                return format!(
                    "json: cannot unmarshal number{} into Go struct field {}.{} of type {wanted}",
                    if wanted.starts_with("int") {
                        format!(" {n}")
                    } else {
                        String::new()
                    },
                    go_type(owner).rsplit('.').next().unwrap_or_default(),
                    self.field_path()
                );
            }
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        };
        let owner = go_type(owner);
        let owner = owner.rsplit('.').next().unwrap_or_default();
        format!(
            "json: cannot unmarshal {found} into Go struct field {owner}.{} of type {wanted}",
            self.field_path()
        )
    }

    /// Go's message has no list positions.
    fn field_path(&self) -> String {
        let parts: Vec<&str> = self
            .path
            .iter()
            .map(|p| p.split('[').next().unwrap_or_default())
            .collect();
        parts.join(".")
    }
}

/// What Go leaves out of its JSON where the field says so.
fn is_zero(value: &Value) -> bool {
    match value {
        Value::String(s) => s.is_empty(),
        Value::Bool(b) => !b,
        Value::Number(n) => n.as_f64() == Some(0.0),
        _ => false,
    }
}

/// A whole number, also when it was written as 1.0.
fn whole(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| {
        value
            .as_f64()
            .filter(|f| f.fract() == 0.0 && f.abs() < 9e15)
            .map(|f| f as i64)
    })
}

/// `core.v1.PodSpec` as Go writes it: `v1.PodSpec`.
fn go_type(name: &str) -> String {
    match name.split_once('.') {
        Some((_, rest)) => rest.to_string(),
        None => name.to_string(),
    }
}

fn go_shape(types: &Types, shape: &Shape) -> String {
    match shape {
        Shape::Scalar(s) => go_scalar(*s).to_string(),
        Shape::Message(index) => go_type(types.get(*index).name),
        Shape::List(inner) => format!("[]{}", go_shape(types, inner)),
        Shape::Map(inner) => format!("map[string]{}", go_shape(types, inner)),
    }
}

fn go_scalar(scalar: Scalar) -> &'static str {
    match scalar {
        Scalar::String => "string",
        Scalar::Bool => "bool",
        Scalar::Int32 => "int32",
        Scalar::Int64 => "int64",
        Scalar::Double => "float64",
        Scalar::Bytes => "[]uint8",
        Scalar::Quantity => "resource.Quantity",
        Scalar::Time => "v1.Time",
        Scalar::MicroTime => "v1.MicroTime",
        Scalar::Duration => "v1.Duration",
        Scalar::IntOrString => "intstr.IntOrString",
        Scalar::Raw => "runtime.RawExtension",
        Scalar::FieldsV1 => "v1.FieldsV1",
        Scalar::Json => "v1.JSON",
        Scalar::Extra => "v1.ExtraValue",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn unknown_fields_are_dropped_and_reported_with_their_path() {
        let mut pod = json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "p", "nmae": 1},
            "spec": {"containers": [{"name": "c", "imagee": "x"}], "nodeName": null}});
        let mut findings = Findings::default();
        normalize("core.v1.Pod", &mut pod, &mut findings).unwrap();
        assert_eq!(
            findings.unknown,
            ["metadata.nmae", "spec.containers[0].imagee"]
        );
        assert_eq!(pod["spec"], json!({"containers": [{"name": "c"}]}));
    }

    #[test]
    fn wrong_types_name_the_go_type() {
        let mut d = json!({"spec": {"replicas": "three"}});
        let e = normalize("apps.v1.Deployment", &mut d, &mut Findings::default()).unwrap_err();
        assert_eq!(
            e,
            "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32"
        );
        let mut d = json!({"spec": {"template": {"spec": {"containers": {}}}}});
        let e = normalize("apps.v1.Deployment", &mut d, &mut Findings::default()).unwrap_err();
        assert!(
            e.ends_with("PodSpec.spec.template.spec.containers of type []v1.Container"),
            "{e}"
        );
    }

    #[test]
    fn quantities_and_secrets() {
        let mut pod = json!({"spec": {"containers": [{"resources": {"limits": {"cpu": 0.5, "memory": "1024Mi"}}}]}});
        normalize("core.v1.Pod", &mut pod, &mut Findings::default()).unwrap();
        assert_eq!(
            pod["spec"]["containers"][0]["resources"]["limits"],
            json!({"cpu": "500m", "memory": "1Gi"})
        );
        let mut secret = json!({"data": {"a": "not base64!"}});
        assert!(normalize("core.v1.Secret", &mut secret, &mut Findings::default()).is_err());
    }
}
