//! YAML in and out, in the form that Kubernetes reads.

use serde_json::Value;

/// The objects of a multi-document text; empty documents are left out.
pub(crate) fn documents(text: &str) -> Result<Vec<Value>, String> {
    let mut objects = Vec::new();
    for part in split(text) {
        let value: Value = serde_saphyr::from_str(&part).map_err(|e| e.to_string())?;
        match value {
            Value::Null => {}
            Value::Object(_) => objects.push(value),
            other => return Err(format!("a document is not an object: {other}")),
        }
    }
    Ok(objects)
}

/// Cuts at lines that are `---`. Text without content is no document.
fn split(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    for line in text.lines() {
        if line.trim_end() == "---" {
            parts.push(String::new());
        } else if let Some(part) = parts.last_mut() {
            part.push_str(line);
            part.push('\n');
        }
    }
    let content = |line: &str| !line.trim().is_empty() && !line.trim_start().starts_with('#');
    parts.retain(|part| part.lines().any(content));
    parts
}

/// A value as block YAML with sorted keys and without a final line break, as Helm's `toYaml`
/// writes it.
pub(crate) fn write(value: &Value) -> String {
    let mut out = String::new();
    node(&mut out, value, 0, Place::Start);
    out.trim_end().to_owned()
}

#[derive(Clone, Copy, PartialEq)]
enum Place {
    /// At the start of the document.
    Start,
    /// After `key:`.
    AfterKey,
    /// After `- `.
    AfterDash,
}

fn node(out: &mut String, value: &Value, indent: usize, place: Place) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            let mut keys: Vec<&String> = map.keys().collect();
            keys.sort();
            if place == Place::AfterKey {
                out.push('\n');
            }
            for (i, key) in keys.into_iter().enumerate() {
                if i > 0 || place != Place::AfterDash {
                    out.push_str(&" ".repeat(indent));
                }
                out.push_str(&scalar_text(key));
                out.push(':');
                node(out, &map[key], indent + 2, Place::AfterKey);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            if place == Place::AfterKey {
                out.push('\n');
            }
            // A list under a key is not indented further, which is how Go's library writes it.
            let indent = if place == Place::AfterKey {
                indent - 2
            } else {
                indent
            };
            for (i, item) in items.iter().enumerate() {
                if i > 0 || place != Place::AfterDash {
                    out.push_str(&" ".repeat(indent));
                }
                out.push_str("- ");
                node(out, item, indent + 2, Place::AfterDash);
            }
        }
        scalar => {
            if place == Place::AfterKey {
                out.push(' ');
            }
            match scalar {
                Value::String(text) if text.contains('\n') => block(out, text, indent),
                Value::String(text) => out.push_str(&scalar_text(text)),
                Value::Object(_) => out.push_str("{}"),
                Value::Array(_) => out.push_str("[]"),
                other => out.push_str(&other.to_string()),
            }
            out.push('\n');
        }
    }
}

/// Text with line breaks: a literal block where that is exact, quoted where not.
fn block(out: &mut String, text: &str, indent: usize) {
    let indent = indent.max(2);
    let exact = !text.starts_with([' ', '\n'])
        && !text.ends_with("\n\n")
        && text.chars().all(|c| c == '\n' || !c.is_control());
    if !exact {
        out.push_str(&Value::from(text).to_string());
        return;
    }
    out.push_str(if text.ends_with('\n') { "|" } else { "|-" });
    let body = text.strip_suffix('\n').unwrap_or(text);
    for line in body.split('\n') {
        out.push('\n');
        if !line.is_empty() {
            out.push_str(&" ".repeat(indent));
            out.push_str(line);
        }
    }
}

/// Text on one line: plain where a YAML 1.1 reader takes it for that text, else quoted.
fn scalar_text(text: &str) -> String {
    if is_plain(text) {
        text.to_owned()
    } else {
        Value::from(text).to_string()
    }
}

fn is_plain(text: &str) -> bool {
    const WORDS: [&str; 14] = [
        "true", "false", "yes", "no", "on", "off", "y", "n", "null", "~", ".nan", ".inf", "-.inf",
        "<<",
    ];
    let first = text.chars().next();
    let starts_well = first.is_some_and(|c| c.is_ascii_alphanumeric() || "/._".contains(c));
    let lower = text.to_ascii_lowercase();
    let number_like = text.parse::<f64>().is_ok()
        || lower.starts_with("0x")
        || lower.starts_with("0o")
        || first.is_some_and(|c| c.is_ascii_digit())
            && text
                .chars()
                .all(|c| c.is_ascii_digit() || "_:.-eE+TtZz ".contains(c));
    starts_well
        && !number_like
        && !WORDS.contains(&lower.as_str())
        && !text.ends_with([' ', ':'])
        && !text.contains(": ")
        && !text.contains(" #")
        && text.chars().all(|c| !c.is_control() && c != '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn written_like_helm_does() {
        let value = json!({
            "b": {"y": 1, "x": [1, "two", {"k": "v", "l": []}], "e": {}},
            "a": "text", "n": null, "t": "true", "num": "1.10", "multi": "one\ntwo\n", "c": "a: b"
        });
        assert_eq!(
            write(&value),
            "a: text\nb:\n  e: {}\n  x:\n  - 1\n  - two\n  - k: v\n    l: []\n  \"y\": 1\nc: \"a: b\"\nmulti: |\n  one\n  two\n\"n\": null\nnum: \"1.10\"\nt: \"true\""
        );
    }

    #[test]
    fn what_is_written_reads_back() {
        let odd = [
            "",
            " ",
            "a ",
            "-",
            "- a",
            "#x",
            "a #b",
            "a:",
            "1",
            "1e3",
            "0x1f",
            "2001-01-01",
            "12:30:45",
            "yes",
            "NULL",
            "~",
            "*a",
            "&a",
            "!a",
            "%a",
            "@a",
            "`a",
            "{a}",
            "[a]",
            "a\tb",
            "ü",
            "'q'",
            "\"q\"",
            "a\n",
            "a\n\n",
            "\na",
            "  a\nb",
            "a\n  b\n",
            "a\nb",
            "key: |\n  x\n",
            "\u{1}",
            "{{ x }}",
            "https://x:1/y?z#f",
            "10.0.0.0/8",
            "a, b",
            "> x",
            "| x",
        ];
        for text in odd {
            for value in [
                json!(text),
                json!({"k": text}),
                json!([text, [text]]),
                json!({"k": [{"z": text, text: 1}]}),
            ] {
                let written = write(&value);
                let read: Value = serde_saphyr::from_str(&written)
                    .unwrap_or_else(|e| panic!("{text:?}: {written}: {e}"));
                assert_eq!(read, value, "{written}");
            }
        }
    }

    #[test]
    fn documents_are_split_at_marks_and_empty_ones_left_out() {
        let text = "---\n# only a comment\n---\nkind: A\n--- \nkind: B\ntext: |\n  ---x\n---\n";
        let all = documents(text).expect("documents");
        assert_eq!(
            all,
            [json!({"kind": "A"}), json!({"kind": "B", "text": "---x\n"})]
        );
        assert!(documents("- a").is_err());
    }
}
