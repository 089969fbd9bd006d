use super::*;
use serde_json::json;
use std::{collections::BTreeMap, sync::Arc};

fn object(fields: &[(&str, Type)]) -> Type {
    let fields = fields.iter().map(|(k, v)| (k.to_string(), v.clone()));
    Type::Object(Arc::new(fields.collect::<BTreeMap<_, _>>()))
}

fn spec() -> Type {
    object(&[
        ("name", Type::String),
        ("size", Type::Int),
        ("ratio", Type::Double),
        ("port", Type::Dyn),
        ("labels", Type::map(Type::String)),
        ("items", Type::list(object(&[("key", Type::String)]))),
        ("__namespace__", Type::String),
        ("since", Type::Timestamp),
    ])
}

fn value() -> serde_json::Value {
    json!({"name": "a", "size": 3, "ratio": 1, "port": 80, "labels": {"x-y": "1"}, "namespace": "n",
        "items": [{"key": "k"}, {"key": "l"}], "since": "2024-01-02T03:04:05Z", "hidden": 1})
}

fn run(text: &str) -> Result<Value, String> {
    let variables = [("self", spec()), ("oldSelf", Type::optional(spec()))];
    let program = Program::compile(text, &variables)?;
    let own = from_json(&spec(), &value());
    let old = optional(None);
    program.evaluate(&[("self", &own), ("oldSelf", &old)])
}

#[test]
fn expressions_of_all_kinds() {
    for text in [
        "self.size == 3 && self.name == 'a'",
        "self.ratio == 1.0",
        "self.labels['x-y'] == '1' && 'x-y' in self.labels",
        "self.items.all(i, self.items.exists_one(j, i.key == j.key))",
        "self.items.map(i, i.key) == ['k', 'l']",
        "self.items.filter(i, i.key == 'k').size() == 1",
        "self.__namespace__ == 'n'",
        "has(self.name) && !has(self.labels.z)",
        "oldSelf.hasValue() ? oldSelf.value().size == 3 : self.size > 0",
        "self.?name.orValue('') == 'a'",
        "self.labels[?'z'].orValue('none') == 'none'",
        "self.?labels.z.orValue('none') == 'none'",
        "self.since < timestamp('2025-01-01T00:00:00Z')",
        "duration('90s') < duration('2m')",
        "self.name.matches('^[a-z]$') && url('https://x/y').getScheme() == 'https'",
        "isIP('10.0.0.1') && quantity('1Gi').isGreaterThan(quantity('1Mi'))",
        "self.port == 80 || self.port == 'http'",
        "(self.size > 5 || self.labels.missing == '') || true",
    ] {
        assert_eq!(run(text), Ok(Value::Bool(true)), "{text}");
    }
    assert_eq!(
        run("'size ' + string(self.size)"),
        Ok(Value::String(Arc::new("size 3".into())))
    );
}

#[test]
fn what_does_not_compile_is_refused_with_a_reason() {
    for (text, why) in [
        ("self.sise > 1", "undefined field 'sise'"),
        ("self.hidden == 1", "undefined field 'hidden'"),
        ("other.size > 1", "undeclared reference to 'other'"),
        (
            "self.size == 'x'",
            "no matching overload for '_==_' applied to '(int, string)'",
        ),
        ("self.size && true", "no matching overload for '_&&_'"),
        (
            "self.size.startsWith('x')",
            "no matching overload for 'startsWith'",
        ),
        (
            "self.name.all(c, c == 'a')",
            "cannot be range of a comprehension",
        ),
        (
            "self.items.sortBy(i, i.key) == []",
            "undeclared reference to",
        ),
        (
            "cel.bind(x, 1, x == 1)",
            "undeclared reference to 'cel.bind'",
        ),
        (
            "self.items.all(i, v, v.key != '')",
            "undeclared reference to",
        ),
        ("Foo{a: 1} == Foo{a: 1}", "undeclared reference to 'Foo'"),
        ("self.name.size", "does not support field selection"),
        ("self.size >", "Syntax error"),
        ("self.labels.x.y", "does not support field selection"),
    ] {
        let error = run(text).unwrap_err();
        assert!(error.contains(why), "{text}: {error}");
    }
}

#[test]
fn evaluation_ends_in_words() {
    assert_eq!(run("self.labels.z == ''"), Err("no such key: z".into()));
    assert_eq!(
        run("self.items[7].key == ''"),
        Err("index out of bounds: 7".into())
    );
    assert_eq!(
        run("size(self.labels.z) > 0 || string(self.labels.y) == ''"),
        Err("no such key: y".into())
    );
    assert_eq!(
        run("1 / (self.size - 3) == 0"),
        Err("division by zero".into())
    );
    // The crate's function looks at an argument that is not there.
    assert!(run("quantity('1').add() == quantity('1')").is_err());
}

#[test]
fn names_are_escaped_as_in_kubernetes() {
    for (name, escaped) in [
        ("plain_name", "plain_name"),
        ("a__b", "a__underscores__b"),
        ("x-y.z/w", "x__dash__y__dot__z__slash__w"),
        ("namespace", "__namespace__"),
    ] {
        assert_eq!(escape(name).as_deref(), Some(escaped));
    }
    assert_eq!(escape("$ref"), None);
    assert_eq!(escape("1st"), None);
}
