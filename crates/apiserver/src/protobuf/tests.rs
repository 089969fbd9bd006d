//! What an encoder writes is what the decoder reads, for every kind.

use super::*;
use crate::registry::{Schema, builtin};
use proptest::prelude::*;
use rand::{Rng, RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use serde_json::json;

/// Deepest objects that are made up.
const DEPTH: usize = 7;

// A naive encoder: the table backwards.

fn varint_to(mut n: u64, out: &mut Vec<u8>) {
    while n >= 128 {
        out.push((n as u8 & 0x7f) | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

fn put(number: u32, wire: u64, out: &mut Vec<u8>) {
    varint_to(u64::from(number) << 3 | wire, out);
}

fn put_int(number: u32, n: i64, out: &mut Vec<u8>) {
    put(number, 0, out);
    varint_to(n as u64, out);
}

fn put_bytes(number: u32, bytes: &[u8], out: &mut Vec<u8>) {
    put(number, 2, out);
    varint_to(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

fn field(number: u32, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put_bytes(number, bytes, &mut out);
    out
}

fn envelope(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let meta = [field(1, api_version.as_bytes()), field(2, kind.as_bytes())].concat();
    [MAGIC.to_vec(), field(1, &meta), field(2, raw)].concat()
}

fn encode(types: &Types, index: usize, object: &Map<String, Value>) -> Vec<u8> {
    let mut out = Vec::new();
    for field in &types.get(index).fields {
        match (&field.shape, field.inline, object.get(field.json)) {
            (Shape::Message(inner), true, _) => {
                put_bytes(field.number, &encode(types, *inner, object), &mut out);
            }
            (_, _, None) => {}
            (Shape::List(inner), _, Some(Value::Array(list))) => {
                for item in list {
                    encode_one(types, index, field, inner, item, &mut out);
                }
            }
            (Shape::Map(inner), _, Some(Value::Object(map))) => {
                for (key, value) in map {
                    let mut entry = self::field(1, key.as_bytes());
                    let of_entry = Field {
                        number: 2,
                        ..plain(field)
                    };
                    encode_one(types, index, &of_entry, inner, value, &mut entry);
                    put_bytes(field.number, &entry, &mut out);
                }
            }
            (shape, _, Some(value)) => encode_one(types, index, field, shape, value, &mut out),
        }
    }
    out
}

/// A field of the same name.
fn plain(field: &Field) -> Field {
    Field {
        number: field.number,
        json: field.json,
        shape: field.shape.clone(),
        required: field.required,
        inline: field.inline,
        merge: field.merge.clone(),
        patch: field.patch,
        retain_keys: field.retain_keys,
        omit_zero: field.omit_zero,
    }
}

fn encode_one(
    types: &Types,
    owner: usize,
    field: &Field,
    shape: &Shape,
    value: &Value,
    out: &mut Vec<u8>,
) {
    let number = field.number;
    let text = || value.as_str().unwrap();
    let mut inner = Vec::new();
    if other_than_schema(types, owner, field).is_some() {
        match value {
            Value::Bool(allows) => put_int(1, i64::from(*allows), &mut inner),
            Value::Array(list) => {
                for item in list {
                    let bytes = match item {
                        Value::String(text) => text.clone().into_bytes(),
                        item => encode(types, owner, item.as_object().unwrap()),
                    };
                    put_bytes(2, &bytes, &mut inner);
                }
            }
            schema => {
                let of_bool = field.json.starts_with("additional");
                let bytes = encode(types, owner, schema.as_object().unwrap());
                put_bytes(if of_bool { 2 } else { 1 }, &bytes, &mut inner);
            }
        }
        return put_bytes(number, &inner, out);
    }
    let scalar = match shape {
        Shape::Scalar(scalar) => *scalar,
        Shape::Message(index) => {
            return put_bytes(
                number,
                &encode(types, *index, value.as_object().unwrap()),
                out,
            );
        }
        _ => unreachable!("no lists of lists"),
    };
    match scalar {
        Scalar::String => return put_bytes(number, text().as_bytes(), out),
        Scalar::Bytes => return put_bytes(number, &STANDARD.decode(text()).unwrap(), out),
        Scalar::Bool => return put_int(number, i64::from(value == &Value::Bool(true)), out),
        Scalar::Int32 | Scalar::Int64 => return put_int(number, value.as_i64().unwrap(), out),
        Scalar::Double => {
            put(number, 1, out);
            return out.extend_from_slice(&value.as_f64().unwrap().to_le_bytes());
        }
        Scalar::Quantity => put_bytes(1, text().as_bytes(), &mut inner),
        Scalar::Time | Scalar::MicroTime => {
            let at: jiff::Timestamp = text().parse().unwrap();
            put_int(1, at.as_second(), &mut inner);
            put_int(2, i64::from(at.subsec_nanosecond()), &mut inner);
        }
        Scalar::Duration => {
            let seconds: i64 = text().trim_end_matches('s').parse().unwrap();
            put_int(1, seconds * 1_000_000_000, &mut inner);
        }
        Scalar::IntOrString => match value.as_i64() {
            Some(n) => put_int(2, n, &mut inner),
            None => {
                put_int(1, 1, &mut inner);
                put_bytes(3, text().as_bytes(), &mut inner);
            }
        },
        Scalar::Raw | Scalar::FieldsV1 | Scalar::Json => {
            put_bytes(1, value.to_string().as_bytes(), &mut inner);
        }
        Scalar::Extra => {
            for item in value.as_array().unwrap() {
                put_bytes(1, item.as_str().unwrap().as_bytes(), &mut inner);
            }
        }
    }
    put_bytes(number, &inner, out);
}

// Objects that are made up: by the table, from a seed.

fn object(types: &Types, index: usize, depth: usize, rng: &mut StdRng) -> Map<String, Value> {
    let mut map = Map::new();
    // Wide objects are rare enough that deep ones exist.
    let fields = types.json_fields(index);
    let share = (4.0 / (fields.len() as f64)).clamp(0.1, 0.8);
    for field in fields {
        let leaf = matches!(field.shape, Shape::Scalar(_));
        if rng.random_bool(share) && (leaf || depth < DEPTH) {
            map.insert(
                field.json.into(),
                value(types, index, field, &field.shape, depth, rng),
            );
        }
    }
    map
}

fn value(
    types: &Types,
    owner: usize,
    field: &Field,
    shape: &Shape,
    depth: usize,
    rng: &mut StdRng,
) -> Value {
    let count = rng.random_range(1..3);
    match shape {
        Shape::List(inner) => (0..count)
            .map(|_| value(types, owner, field, inner, depth, rng))
            .collect(),
        Shape::Map(inner) => {
            let entries = (0..count).map(|i| {
                (
                    format!("k{i}"),
                    value(types, owner, field, inner, depth, rng),
                )
            });
            Value::Object(entries.collect())
        }
        Shape::Message(index) => Value::Object(object(types, *index, depth + 1, rng)),
        Shape::Scalar(scalar) => match other_than_schema(types, owner, field) {
            Some(other) => schema_or_other(types, owner, other, depth, rng),
            None => leaf(*scalar, rng),
        },
    }
}

fn schema_or_other(
    types: &Types,
    owner: usize,
    other: Other,
    depth: usize,
    rng: &mut StdRng,
) -> Value {
    let schema = |rng: &mut StdRng| Value::Object(object(types, owner, depth + 1, rng));
    match (other, rng.random_bool(0.5)) {
        (_, true) => schema(rng),
        (Other::Bool, false) => rng.random_bool(0.5).into(),
        (Other::Schemas, false) => Value::Array(vec![schema(rng), schema(rng)]),
        (Other::Texts, false) => json!(["a", ""]),
    }
}

fn leaf(scalar: Scalar, rng: &mut StdRng) -> Value {
    let texts = ["a", "b-c", "äö", "a b\n", "0"];
    let text = *texts.choose(rng).unwrap();
    let second = jiff::Timestamp::from_second(rng.random_range(1..4_000_000_000)).unwrap();
    match scalar {
        Scalar::String => text.into(),
        Scalar::Bool => true.into(),
        Scalar::Int32 => rng.random_range(1..=i32::MAX).wrapping_neg().into(),
        Scalar::Int64 => (rng.next_u64() as i64 | 1).into(),
        Scalar::Double => (f64::from(rng.random_range(1..1000)) / 8.0).into(),
        Scalar::Bytes => STANDARD.encode(text).into(),
        Scalar::Quantity => "250m".into(),
        Scalar::Time => second.strftime("%Y-%m-%dT%H:%M:%SZ").to_string().into(),
        Scalar::MicroTime => second
            .strftime("%Y-%m-%dT%H:%M:%S.000001Z")
            .to_string()
            .into(),
        Scalar::Duration => format!("{}s", rng.random_range(1..60)).into(),
        Scalar::IntOrString if rng.random_bool(0.5) => rng.random_range(0..100).into(),
        Scalar::IntOrString => text.into(),
        Scalar::Raw | Scalar::FieldsV1 => json!({"f:a": {text: [1, null]}}),
        Scalar::Json => [json!(1), json!(text), json!({"a": []}), json!(false)]
            .choose(rng)
            .unwrap()
            .clone(),
        Scalar::Extra => json!([text, ""]),
    }
}

/// Group version, kind and type of everything that a client may send as a whole.
fn bodies() -> Vec<(String, String, &'static str)> {
    let mut bodies = vec![("v1".into(), "DeleteOptions".into(), "meta.v1.DeleteOptions")];
    for resource in builtin::resources() {
        if let Schema::Builtin(name) = resource.schema {
            bodies.push((resource.api_version(), resource.kind.to_string(), name));
        }
        for part in resource.subresources.iter().filter(|s| !s.kind.is_empty()) {
            let own = (resource.group.as_ref(), resource.version.as_ref());
            let (group, version) = part.group_version.unwrap_or(own);
            let api_version = match group {
                "" => version.to_string(),
                group => format!("{group}/{version}"),
            };
            // The options of streams come as a query.
            if !part.kind.ends_with("Options") {
                let name = type_name(group, version, part.kind);
                bodies.push((api_version, part.kind.to_string(), name));
            }
        }
    }
    bodies
}

#[test]
fn everything_that_clients_send_can_be_read() {
    let bodies = bodies();
    for (api_version, kind, _) in &bodies {
        let value = decode(&envelope(api_version, kind, &[])).unwrap();
        assert_eq!(
            (&value["kind"], &value["apiVersion"]),
            (&json!(kind), &json!(api_version))
        );
    }
    for kind in [
        "Scale",
        "Eviction",
        "Binding",
        "TokenRequest",
        "CustomResourceDefinition",
    ] {
        assert!(bodies.iter().any(|b| b.1 == kind), "{kind}");
    }
}

#[test]
fn unknown_kinds_are_named() {
    let e = decode(&envelope("example.com/v1", "Foo", &[])).unwrap_err();
    assert_eq!(e.code, 415);
    assert!(
        e.message.contains("\"Foo\" in \"example.com/v1\""),
        "{}",
        e.message
    );
}

#[test]
fn zero_values_are_left_out_where_go_leaves_them_out() {
    // ObjectMeta{name: "cm", namespace: "", generation: 0}
    let metadata = [field(1, b"cm"), field(3, b""), vec![56, 0], field(8, &[])].concat();
    let entry = [field(1, b"k"), field(2, b"")].concat();
    let raw = [field(1, &metadata), field(2, &entry)].concat();
    assert_eq!(
        decode(&envelope("v1", "ConfigMap", &raw)).unwrap(),
        json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "cm"}, "data": {"k": ""}})
    );
    // PersistentVolumeClaimSpec{storageClassName: ""}, which is a pointer and means something.
    let raw = field(2, &field(5, b""));
    let claim = decode(&envelope("v1", "PersistentVolumeClaim", &raw)).unwrap();
    assert_eq!(claim["spec"], json!({"storageClassName": ""}));
}

#[test]
fn inline_structs_and_specials() {
    // Volume{name: "v", volumeSource: {emptyDir: {}}}
    let volume = [field(1, b"v"), field(2, &field(2, &[]))].concat();
    let value = decode(&envelope("v1", "Pod", &field(2, &field(1, &volume)))).unwrap();
    assert_eq!(
        value["spec"]["volumes"],
        json!([{"name": "v", "emptyDir": {}}])
    );
    // ServicePort{port: 80, targetPort: IntOrString{type: 1, strVal: "http"}}
    let target = [vec![8, 1, 16, 0], field(3, b"http")].concat();
    let port = [vec![24, 80], field(4, &target)].concat();
    let value = decode(&envelope("v1", "Service", &field(2, &field(1, &port)))).unwrap();
    assert_eq!(
        value["spec"]["ports"],
        json!([{"port": 80, "targetPort": "http"}])
    );
}

#[test]
fn nesting_has_an_end() {
    let mut schema = Vec::new();
    for _ in 0..200 {
        schema = field(28, &schema);
    }
    let version = field(4, &field(1, &schema));
    let raw = field(2, &field(7, &version));
    let error = decode(&envelope(
        "apiextensions.k8s.io/v1",
        "CustomResourceDefinition",
        &raw,
    ));
    assert!(error.unwrap_err().message.contains("nested too deeply"));
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded(seed: u64) {
        let types = builtin_types();
        let mut rng = StdRng::seed_from_u64(seed);
        let (api_version, kind, name) = bodies().choose(&mut rng).unwrap().clone();
        let mut wanted = object(types, types.index(name).unwrap(), 0, &mut rng);
        let raw = encode(types, types.index(name).unwrap(), &wanted);
        let found = decode(&envelope(&api_version, &kind, &raw)).unwrap();
        wanted.insert("kind".into(), kind.into());
        wanted.insert("apiVersion".into(), api_version.into());
        prop_assert_eq!(found, Value::Object(wanted));
    }

    #[test]
    fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode(&bytes);
        for (api_version, kind) in [
            ("v1", "Pod"),
            ("apps/v1", "Deployment"),
            ("apiextensions.k8s.io/v1", "CustomResourceDefinition"),
        ] {
            let _ = decode(&envelope(api_version, kind, &bytes));
        }
    }
}

#[test]
fn a_message_without_fields_is_there() {
    // A version with the status as a part of its own, as Go's clients send it.
    let subresources = field(1, &[]);
    let version = [field(1, b"v1"), field(5, &subresources)].concat();
    let raw = field(2, &field(7, &version));
    let body = envelope("apiextensions.k8s.io/v1", "CustomResourceDefinition", &raw);
    let definition = decode(&body).unwrap();
    let version = &definition["spec"]["versions"][0];
    assert_eq!(version["subresources"], json!({"status": {}}));
}
