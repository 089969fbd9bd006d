//! The functions of Helm and sprig that the charts use, by their Go names.

use std::collections::BTreeMap;
use std::sync::Arc;

use gotmpl::{FuncMap, TemplateError, Value, to_value};
use sha2::{Digest, Sha256};

use super::yaml;

type Args<'a> = &'a [Value];
type Out = gotmpl::Result<Value>;

/// All functions but `include`.
pub(super) fn all() -> FuncMap {
    let mut map = FuncMap::new();
    for (name, function) in TABLE {
        map.insert((*name).to_owned(), Arc::new(*function));
    }
    map
}

type Function = fn(Args) -> Out;

const TABLE: &[(&str, Function)] = &[
    ("toYaml", |a| Ok(text(yaml::write(&to_json(arg(a, 0)?))))),
    ("fromYaml", |a| from_yaml(string(a, 0)?)),
    ("toJson", |a| Ok(text(to_json(arg(a, 0)?).to_string()))),
    ("fail", |a| Err(error(string(a, 0)?))),
    ("required", |a| match arg(a, 1)? {
        Value::Nil => Err(error(string(a, 0)?)),
        Value::String(s) if s.is_empty() => Err(error(string(a, 0)?)),
        present => Ok(present.clone()),
    }),
    ("default", |a| {
        Ok(if arg(a, 1).is_ok_and(Value::is_truthy) {
            arg(a, 1)?
        } else {
            arg(a, 0)?
        }
        .clone())
    }),
    ("coalesce", |a| {
        Ok(a.iter()
            .find(|v| v.is_truthy())
            .cloned()
            .unwrap_or(Value::Nil))
    }),
    ("ternary", |a| {
        Ok(if arg(a, 2)?.is_truthy() {
            arg(a, 0)?
        } else {
            arg(a, 1)?
        }
        .clone())
    }),
    ("empty", |a| Ok(Value::Bool(!arg(a, 0)?.is_truthy()))),
    ("quote", |a| {
        let all = a
            .iter()
            .filter(|v| !matches!(v, Value::Nil))
            .map(|v| json_text(&plain(v)));
        Ok(text(all.collect::<Vec<_>>().join(" ")))
    }),
    ("squote", |a| {
        Ok(text(
            a.iter()
                .map(|v| format!("'{}'", plain(v)))
                .collect::<Vec<_>>()
                .join(" "),
        ))
    }),
    ("toString", |a| Ok(text(plain(arg(a, 0)?)))),
    ("int", |a| int(arg(a, 0)?)),
    ("indent", |a| Ok(text(indent(number(a, 0)?, string(a, 1)?)))),
    ("nindent", |a| {
        Ok(text(format!("\n{}", indent(number(a, 0)?, string(a, 1)?))))
    }),
    ("trim", |a| Ok(text(string(a, 0)?.trim()))),
    ("trimSuffix", |a| {
        Ok(text(
            string(a, 1)?
                .strip_suffix(string(a, 0)?)
                .unwrap_or(string(a, 1)?),
        ))
    }),
    ("trimPrefix", |a| {
        Ok(text(
            string(a, 1)?
                .strip_prefix(string(a, 0)?)
                .unwrap_or(string(a, 1)?),
        ))
    }),
    ("trunc", |a| {
        Ok(text(
            string(a, 1)?
                .chars()
                .take(number(a, 0)?)
                .collect::<String>(),
        ))
    }),
    ("replace", |a| {
        Ok(text(string(a, 2)?.replace(string(a, 0)?, string(a, 1)?)))
    }),
    ("lower", |a| Ok(text(string(a, 0)?.to_lowercase()))),
    ("upper", |a| Ok(text(string(a, 0)?.to_uppercase()))),
    ("contains", |a| {
        Ok(Value::Bool(string(a, 1)?.contains(string(a, 0)?)))
    }),
    ("hasPrefix", |a| {
        Ok(Value::Bool(string(a, 1)?.starts_with(string(a, 0)?)))
    }),
    ("hasSuffix", |a| {
        Ok(Value::Bool(string(a, 1)?.ends_with(string(a, 0)?)))
    }),
    ("list", |a| Ok(Value::List(a.into()))),
    ("has", |a| Ok(Value::Bool(list(a, 1)?.contains(arg(a, 0)?)))),
    ("join", |a| {
        let items: Vec<String> = list(a, 1)?.iter().map(plain).collect();
        Ok(text(items.join(string(a, 0)?)))
    }),
    ("first", |a| {
        Ok(list(a, 0)?.first().cloned().unwrap_or(Value::Nil))
    }),
    ("append", |a| {
        let mut items = list(a, 0)?.to_vec();
        items.push(arg(a, 1)?.clone());
        Ok(Value::List(items.into()))
    }),
    ("dict", dict),
    ("get", |a| {
        Ok(map(a, 0)?
            .get(string(a, 1)?)
            .cloned()
            .unwrap_or_else(|| text("")))
    }),
    ("hasKey", |a| {
        Ok(Value::Bool(map(a, 0)?.contains_key(string(a, 1)?)))
    }),
    ("keys", |a| {
        Ok(Value::List(
            map(a, 0)?
                .keys()
                .map(|k| Value::String(k.clone()))
                .collect(),
        ))
    }),
    ("omit", |a| {
        let mut rest = map(a, 0)?.clone();
        for i in 1..a.len() {
            rest.remove(string(a, i)?);
        }
        Ok(Value::Map(Arc::new(rest)))
    }),
    ("deepCopy", |a| Ok(arg(a, 0)?.clone())),
    ("mergeOverwrite", |a| {
        let mut merged = arg(a, 0)?.clone();
        for over in &a[1..] {
            merged = merge(&merged, over);
        }
        Ok(merged)
    }),
    ("kindIs", |a| {
        Ok(Value::Bool(kind(arg(a, 1)?) == string(a, 0)?))
    }),
    ("sha256sum", |a| {
        let digest = Sha256::digest(string(a, 0)?.as_bytes());
        Ok(text(
            digest
                .iter()
                .map(|b| format!("{b:02x}"))
                .collect::<String>(),
        ))
    }),
];

fn error(message: impl Into<String>) -> TemplateError {
    TemplateError::Exec(message.into())
}

fn text(value: impl Into<Arc<str>>) -> Value {
    Value::String(value.into())
}

fn arg(args: Args<'_>, index: usize) -> gotmpl::Result<&Value> {
    args.get(index)
        .ok_or_else(|| error(format!("argument {} is missing", index + 1)))
}

fn string(args: Args<'_>, index: usize) -> gotmpl::Result<&str> {
    match arg(args, index)? {
        Value::String(s) => Ok(s),
        Value::Nil => Ok(""),
        other => Err(error(format!(
            "argument {} is not text: {other}",
            index + 1
        ))),
    }
}

fn number(args: Args<'_>, index: usize) -> gotmpl::Result<usize> {
    let value = arg(args, index)?
        .as_int()
        .and_then(|n| usize::try_from(n).ok());
    value.ok_or_else(|| error(format!("argument {} is not a size", index + 1)))
}

fn list(args: Args<'_>, index: usize) -> gotmpl::Result<&[Value]> {
    match arg(args, index)? {
        Value::List(items) => Ok(items),
        Value::Nil => Ok(&[]),
        other => Err(error(format!(
            "argument {} is not a list: {other}",
            index + 1
        ))),
    }
}

fn map(args: Args<'_>, index: usize) -> gotmpl::Result<&BTreeMap<Arc<str>, Value>> {
    static EMPTY: BTreeMap<Arc<str>, Value> = BTreeMap::new();
    match arg(args, index)? {
        Value::Map(map) => Ok(map),
        Value::Nil => Ok(&EMPTY),
        other => Err(error(format!(
            "argument {} is not a map: {other}",
            index + 1
        ))),
    }
}

fn dict(args: Args<'_>) -> Out {
    let mut map = BTreeMap::new();
    for (i, pair) in args.chunks(2).enumerate() {
        map.insert(
            string(args, 2 * i)?.into(),
            pair.get(1).cloned().unwrap_or_else(|| text("")),
        );
    }
    Ok(Value::Map(Arc::new(map)))
}

fn merge(base: &Value, over: &Value) -> Value {
    match (base, over) {
        (Value::Map(base), Value::Map(over)) => {
            let mut merged = (**base).clone();
            for (key, value) in over.iter() {
                let value = match merged.get(key) {
                    Some(below) => merge(below, value),
                    None => value.clone(),
                };
                merged.insert(key.clone(), value);
            }
            Value::Map(Arc::new(merged))
        }
        _ => over.clone(),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Nil => "invalid",
        Value::Bool(_) => "bool",
        Value::Int(_) | Value::Uint(_) => "int",
        Value::Float(_) => "float64",
        Value::String(_) => "string",
        Value::List(_) => "slice",
        Value::Map(_) => "map",
        Value::Function(_) => "func",
    }
}

/// Text without quotes for text, Go's default form for the rest.
fn plain(value: &Value) -> String {
    match value {
        Value::String(s) => s.to_string(),
        Value::Nil => String::new(),
        other => other.to_string(),
    }
}

fn json_text(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn int(value: &Value) -> Out {
    let number = match value {
        Value::Int(n) => Some(*n),
        Value::Uint(n) => i64::try_from(*n).ok(),
        Value::Float(f) => Some(*f as i64),
        Value::String(s) => s.parse().ok(),
        Value::Bool(b) => Some(i64::from(*b)),
        _ => None,
    };
    Ok(Value::Int(number.unwrap_or_default()))
}

fn indent(width: usize, text: &str) -> String {
    let pad = " ".repeat(width);
    text.split('\n')
        .map(|line| format!("{pad}{line}"))
        .collect::<Vec<_>>()
        .join("\n")
}

fn from_yaml(text: &str) -> Out {
    if text.trim().is_empty() {
        return Ok(Value::Map(Arc::default()));
    }
    let value: serde_json::Value =
        serde_saphyr::from_str(text).map_err(|e| error(format!("fromYaml: {e}")))?;
    to_value(&value)
}

fn to_json(value: &Value) -> serde_json::Value {
    match value {
        Value::Nil | Value::Function(_) => serde_json::Value::Null,
        Value::Bool(b) => (*b).into(),
        Value::Int(n) => (*n).into(),
        Value::Uint(n) => (*n).into(),
        Value::Float(f) => (*f).into(),
        Value::String(s) => s.as_ref().into(),
        Value::List(items) => items.iter().map(to_json).collect(),
        Value::Map(map) => {
            let entries = map.iter().map(|(k, v)| (k.to_string(), to_json(v)));
            serde_json::Value::Object(entries.collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gotmpl::Template;
    use serde_json::json;

    fn run(template: &str) -> Result<String, String> {
        let data = to_value(&json!({
            "m": {"a": 1, "b": {"c": true}}, "l": ["x", "y"], "s": "text", "empty": "", "n": 7,
        }));
        Template::new("t")
            .funcs(all())
            .parse(template)
            .and_then(|t| t.execute_to_string(&data.expect("data")))
            .map_err(|e| e.to_string())
    }

    #[test]
    fn each_function_as_in_helm() {
        for (template, expected) in [
            ("{{ .m | toYaml }}", "a: 1\nb:\n  c: true"),
            ("{{ (fromYaml \"a: {b: 1}\").a.b }}", "1"),
            ("{{ .m | toJson }}", "{\"a\":1,\"b\":{\"c\":true}}"),
            (
                "{{ .empty | default \"d\" }}{{ .s | default \"d\" }}{{ .nosuch | default 3 }}",
                "dtext3",
            ),
            ("{{ coalesce .nosuch .empty .s }}", "text"),
            ("{{ ternary 1 2 true }}{{ ternary 1 2 false }}", "12"),
            (
                "{{ .s | quote }} {{ .n | quote }} {{ \"a\\\"b\" | quote }}",
                "\"text\" \"7\" \"a\\\"b\"",
            ),
            ("{{ .s | squote }}", "'text'"),
            (
                "{{ \"a\\nb\" | indent 2 }}|{{ \"a\" | nindent 1 }}",
                "  a\n  b|\n a",
            ),
            (
                "{{ \" x \" | trim }}{{ \"a-\" | trimSuffix \"-\" }}{{ \"v1\" | trimPrefix \"v\" }}",
                "xa1",
            ),
            (
                "{{ trunc 2 \"abc\" }}{{ replace \".\" \"-\" \"a.b\" }}",
                "aba-b",
            ),
            (
                "{{ contains \"ex\" .s }}{{ hasPrefix \"te\" .s }}{{ hasSuffix \"x\" .s }}",
                "truetruefalse",
            ),
            (
                "{{ has \"x\" .l }}{{ has \"z\" .l }}{{ join \"-\" .l }}{{ first .l }}",
                "truefalsex-yx",
            ),
            ("{{ join \",\" (append .l \"z\") }}", "x,y,z"),
            (
                "{{ get (dict \"k\" 5) \"k\" }}{{ hasKey .m \"a\" }}{{ hasKey .m \"z\" }}",
                "5truefalse",
            ),
            (
                "{{ keys .m }}{{ omit .m \"b\" | toJson }}",
                "[a b]{\"a\":1}",
            ),
            (
                "{{ mergeOverwrite (deepCopy .m) (dict \"b\" (dict \"c\" false \"d\" 1)) | toJson }}",
                "{\"a\":1,\"b\":{\"c\":false,\"d\":1}}",
            ),
            (
                "{{ kindIs \"map\" .m }}{{ kindIs \"string\" .m }}",
                "truefalse",
            ),
            (
                "{{ empty .empty }}{{ int \"12\" }}{{ upper .s }}{{ lower \"A\" }}{{ toString .n }}",
                "true12TEXTa7",
            ),
            ("{{ sha256sum \"\" | trunc 8 }}", "e3b0c442"),
        ] {
            assert_eq!(run(template).as_deref(), Ok(expected), "{template}");
        }
    }

    #[test]
    fn a_chart_can_refuse() {
        assert!(run("{{ fail \"no\" }}").expect_err("fail").contains("no"));
        assert!(
            run("{{ required \"need x\" .nosuch }}")
                .expect_err("required")
                .contains("need x")
        );
        assert_eq!(run("{{ required \"need s\" .s }}").as_deref(), Ok("text"));
        assert!(
            run("{{ indent 2 }}")
                .expect_err("argument")
                .contains("missing")
        );
    }
}
