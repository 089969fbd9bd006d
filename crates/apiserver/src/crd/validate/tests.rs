use super::*;
use serde_json::json;
use std::sync::Arc;

fn version(schema: &Value) -> CustomVersion {
    CustomVersion {
        schema: Some(Arc::new(Structural::compile(schema))),
        ..CustomVersion::default()
    }
}

fn texts(verdict: Verdict) -> Vec<String> {
    let text = |c: Cause| format!("{}: {}", c.field, c.message);
    verdict.causes.into_iter().map(text).collect()
}

fn causes(schema: Value, value: Value) -> Vec<String> {
    texts(on_create(&version(&schema), &value))
}

fn changed(schema: &Value, old: Value, new: Value) -> Verdict {
    on_update(&version(schema), &new, &old, Part::Object)
}

const BLOCKED: &str = "<nil>: Invalid value: null: some validation rules were not checked because the object was invalid; correct the existing errors to complete validation";

#[test]
fn messages_are_those_of_kubernetes() {
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "required": ["x"], "properties": {
        "x": {"type": "integer", "minimum": 1},
        "m": {"type": "string", "enum": ["B", "A"]},
        "t": {"type": "string", "format": "date-time"},
        "l": {"type": "array", "minItems": 1, "maxItems": 1, "items": {"type": "string", "maxLength": 1}},
        "i": {"x-kubernetes-int-or-string": true},
        "p": {"type": "string", "pattern": "^a+$", "minLength": 1}}}}});
    let spec = |spec: Value| causes(schema.clone(), json!({"spec": spec}));
    assert_eq!(spec(json!({})), ["spec.x: Required value", BLOCKED]);
    assert_eq!(
        spec(json!({"x": "1"})),
        [
            "spec.x: Invalid value: \"string\": spec.x in body must be of type integer: \"string\"",
            BLOCKED
        ]
    );
    assert_eq!(
        spec(json!({"x": 0, "p": "b"})),
        [
            "spec.x: Invalid value: 0: spec.x in body should be greater than or equal to 1",
            "spec.p: Invalid value: \"b\": spec.p in body should match '^a+$'",
        ]
    );
    assert_eq!(
        spec(json!({"x": 1, "m": "C", "t": "now", "l": ["ab", "c"], "i": true})),
        [
            "spec.m: Unsupported value: \"C\": supported values: \"B\", \"A\"",
            "spec.t: Invalid value: \"now\": spec.t in body must be of type date-time: \"now\"",
            "spec.l[0]: Too long: may not be more than 1 byte",
            "spec.l: Too many: 2: must have at most 1 item",
            "spec.i: Invalid value: \"boolean\": spec.i in body must be of type integer,string: \"boolean\"",
            BLOCKED,
        ]
    );
    assert_eq!(
        spec(json!({"x": 1, "l": []})),
        ["spec.l: Invalid value: 0: spec.l in body should have at least 1 items"]
    );
}

#[test]
fn combinations() {
    let schema = json!({"type": "object", "properties": {"s": {"type": "object",
        "properties": {"a": {"type": "string"}, "b": {"type": "string"}, "c": {"type": "integer"}},
        "oneOf": [{"required": ["a"]}, {"required": ["b"]}], "not": {"required": ["c"]}}}});
    let s = |s: Value| causes(schema.clone(), json!({"s": s}));
    assert!(s(json!({"a": "1"})).is_empty());
    assert_eq!(
        s(json!({"a": "1", "b": "2"})),
        [
            "<nil>: Invalid value: \"\": \"s\" must validate one and only one schema (oneOf). Found 2 valid alternatives"
        ]
    );
    assert_eq!(
        s(json!({}))[..2],
        [
            "<nil>: Invalid value: \"\": \"s\" must validate one and only one schema (oneOf). Found none valid",
            "s.a: Required value"
        ]
    );
    assert_eq!(
        s(json!({"a": "", "c": 1})),
        ["<nil>: Invalid value: \"\": \"s\" must not validate the schema (not)"]
    );
}

#[test]
fn rules_say_what_they_are_told_to_say() {
    let schema = json!({"type": "object", "properties": {
        "spec": {"type": "object", "properties": {
            "min": {"type": "integer"}, "max": {"type": "integer", "x-kubernetes-validations": [{"rule": "self < 100"}]},
            "ports": {"type": "object", "additionalProperties": {"type": "string",
                "x-kubernetes-validations": [{"rule": "self != ''", "message": "  give it a name "}]}}},
            "x-kubernetes-validations": [
                {"rule": "self.min <= self.max", "reason": "FieldValueForbidden", "fieldPath": ".min",
                 "messageExpression": "'at most ' + string(self.max)"},
                {"rule": "self.ports.all(k, k != 'x')", "message": "no x"}]}}});
    let spec = |spec: Value| causes(schema.clone(), json!({"spec": spec}));
    assert!(spec(json!({"min": 1, "max": 2, "ports": {}})).is_empty());
    assert_eq!(
        spec(json!({"min": 3, "max": 2, "ports": {"x": ""}})),
        [
            "spec.min: Forbidden: at most 2",
            "spec: Invalid value: no x",
            "spec.ports[x]: Invalid value: \"\": give it a name",
        ]
    );
    assert_eq!(
        spec(json!({"min": 1, "max": 200, "ports": {}})),
        ["spec.max: Invalid value: 200: failed rule: self < 100"]
    );
    assert_eq!(
        spec(json!({"ports": {}})),
        ["spec: Invalid value: \"object\": no such key: min evaluating rule: self.min <= self.max"]
    );
}

#[test]
fn transitions_are_judged_on_updates() {
    let schema = json!({"type": "object", "properties": {
        "spec": {"type": "object", "properties": {
            "fixed": {"type": "string", "x-kubernetes-validations": [{"rule": "self == oldSelf", "message": "fixed"}]},
            "once": {"type": "string", "x-kubernetes-validations": [
                {"rule": "oldSelf.hasValue() || self == 'start'", "optionalOldSelf": true, "message": "starts as start"}]},
            "list": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
                "items": {"type": "object", "properties": {"k": {"type": "string"}, "v": {"type": "integer"}},
                    "x-kubernetes-validations": [{"rule": "self.v >= oldSelf.v", "message": "only up"}]}}}}}});
    let one = |fixed: &str, list: Value| json!({"spec": {"fixed": fixed, "list": list}});
    assert!(causes(schema.clone(), one("a", json!([]))).is_empty());
    let old = one("a", json!([{"k": "x", "v": 2}, {"k": "y", "v": 5}]));
    let found = changed(
        &schema,
        old.clone(),
        one(
            "b",
            json!([{"k": "y", "v": 4}, {"k": "x", "v": 3}, {"k": "z", "v": 0}]),
        ),
    );
    assert_eq!(
        texts(found),
        [
            "spec.fixed: Invalid value: \"b\": fixed",
            "spec.list[0]: Invalid value: only up"
        ]
    );
    let once = |text: &str| json!({"spec": {"once": text}});
    assert_eq!(
        causes(schema.clone(), once("go")),
        ["spec.once: Invalid value: \"go\": starts as start"]
    );
    assert!(texts(changed(&schema, once("start"), once("go"))).is_empty());
}

#[test]
fn what_did_not_change_is_not_judged_again() {
    let schema = json!({"type": "object", "properties": {
        "a": {"type": "string", "maxLength": 1},
        "b": {"type": "string", "x-kubernetes-validations": [{"rule": "self.size() < 2", "message": "short"}]},
        "s": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
        "c": {"type": "integer"}}});
    let old = json!({"a": "long", "b": "long", "s": ["x", "x"], "c": 1});
    let mut new = old.clone();
    new["c"] = json!(2);
    let verdict = changed(&schema, old.clone(), new.clone());
    assert_eq!(verdict.warnings, ["b: Invalid value: \"long\": short"]);
    assert!(verdict.causes.is_empty(), "{:?}", verdict.causes);
    new["a"] = json!("other");
    assert_eq!(
        texts(changed(&schema, old, new))[0],
        "a: Too long: may not be more than 1 byte"
    );
}

#[test]
fn a_status_is_judged_by_itself() {
    let schema = json!({"type": "object", "properties": {
        "spec": {"type": "object", "required": ["x"]},
        "status": {"type": "object", "properties": {"n": {"type": "integer"}},
            "x-kubernetes-validations": [{"rule": "self.n > 0", "message": "above zero"}]}}});
    let old = json!({"spec": {}});
    let update = |status: Value| {
        let new = json!({"spec": {}, "status": status});
        texts(on_update(&version(&schema), &new, &old, Part::Status))
    };
    assert_eq!(
        update(json!({"n": "1"})),
        [
            "status.n: Invalid value: \"string\": n in body must be of type integer: \"string\"",
            BLOCKED
        ]
    );
    assert_eq!(
        update(json!({"n": 0})),
        ["status: Invalid value: above zero"]
    );
    assert!(update(json!({"n": 1})).is_empty());
}

#[test]
fn scales_and_embedded_objects() {
    let version = CustomVersion {
        scale: Some(super::super::ScalePaths {
            spec: ".spec.n".into(),
            status: ".status.n".into(),
            selector: Some(".status.s".into()),
        }),
        ..version(&json!({"type": "object", "properties": {
            "t": {"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true}}}))
    };
    let value = json!({"spec": {"n": -1}, "status": {"s": 1}, "t": {"kind": ""}});
    assert_eq!(
        texts(on_create(&version, &value)),
        [
            ".spec.n: Invalid value: -1: should be a non-negative integer",
            ".status.s: Invalid value: 0: .status.s accessor error: 1 is not of the expected type string",
            "t.apiVersion: Required value",
            "t.kind: Invalid value: \"\": must not be empty",
            BLOCKED,
        ]
    );
}
