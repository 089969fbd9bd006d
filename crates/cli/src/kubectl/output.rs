//! What is printed: tables in columns, YAML and JSON with sorted keys.

use super::client::{list, text};
use serde_json::{Map, Value};
use std::io::{self, Write};

/// How objects are to be printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Format {
    /// A table, with all columns if wide.
    Table { wide: bool },
    /// `-o json`.
    Json,
    /// `-o yaml`.
    Yaml,
    /// `-o name`.
    Name,
    /// `-o jsonpath=…`: the template.
    JsonPath(String),
}

impl Format {
    /// Reads the value of `-o`.
    pub fn parse(text: Option<&str>) -> anyhow::Result<Format> {
        let Some(text) = text else {
            return Ok(Format::Table { wide: false });
        };
        if let Some(template) = text.strip_prefix("jsonpath=") {
            return Ok(Format::JsonPath(template.to_string()));
        }
        Ok(match text {
            "wide" => Format::Table { wide: true },
            "json" => Format::Json,
            "yaml" => Format::Yaml,
            "name" => Format::Name,
            other => anyhow::bail!(
                "error: unable to match a printer suitable for the output format {other:?}, allowed formats are: json,jsonpath,name,wide,yaml"
            ),
        })
    }
}

/// Rows of a table whose columns are as wide as their widest cell.
#[derive(Debug, Default)]
pub struct Columns {
    rows: Vec<Vec<String>>,
    widths: Vec<usize>,
}

impl Columns {
    /// Adds a row.
    pub fn push(&mut self, row: Vec<String>) {
        for (i, cell) in row.iter().enumerate() {
            let width = cell.chars().count();
            match self.widths.get_mut(i) {
                Some(w) => *w = (*w).max(width),
                None => self.widths.push(width),
            }
        }
        self.rows.push(row);
    }

    /// Writes the rows, and forgets them but not their widths: a watch goes on below.
    pub fn flush(&mut self, out: &mut impl Write) -> io::Result<()> {
        for row in self.rows.drain(..) {
            let mut line = String::new();
            for (i, cell) in row.iter().enumerate() {
                line.push_str(cell);
                // The last column is not padded, and a cell is three spaces from the next.
                if i + 1 < row.len() {
                    let width = self.widths.get(i).copied().unwrap_or(0);
                    let pad = width.saturating_sub(cell.chars().count()) + 3;
                    line.extend(std::iter::repeat_n(' ', pad));
                }
            }
            writeln!(out, "{line}")?;
        }
        out.flush()
    }
}

/// What of a server's table is shown.
#[derive(Debug, Clone, Default)]
pub struct TableOptions {
    /// Also columns of lower priority.
    pub wide: bool,
    /// With the namespace of each object.
    pub namespaces: bool,
    /// With all labels.
    pub labels: bool,
    /// Labels that are columns.
    pub label_columns: Vec<String>,
    /// Put before each name: `pod`, when several kinds are shown.
    pub prefix: Option<String>,
}

impl TableOptions {
    fn shown(&self, columns: &[Value]) -> Vec<usize> {
        let priority = |c: &Value| c.get("priority").and_then(Value::as_i64).unwrap_or(0);
        let all = columns.iter().enumerate();
        all.filter(|(_, c)| self.wide || priority(c) == 0)
            .map(|(i, _)| i)
            .collect()
    }

    /// The headings for the columns of a table.
    pub fn headings(&self, columns: &[Value]) -> Vec<String> {
        let mut row = Vec::new();
        if self.namespaces {
            row.push("NAMESPACE".to_string());
        }
        row.extend(
            self.shown(columns)
                .into_iter()
                .map(|i| text(&columns[i], "/name").to_uppercase()),
        );
        for label in &self.label_columns {
            row.push(label.rsplit('/').next().unwrap_or_default().to_uppercase());
        }
        if self.labels {
            row.push("LABELS".to_string());
        }
        row
    }

    /// The cells of a row.
    pub fn cells(&self, columns: &[Value], row: &Value) -> Vec<String> {
        let mut cells = Vec::new();
        if self.namespaces {
            cells.push(text(row, "/object/metadata/namespace").to_string());
        }
        let values = list(row, "/cells");
        for i in self.shown(columns) {
            let cell = values.get(i).map(cell_text).unwrap_or_default();
            let is_name = text(&columns[i], "/format") == "name" && i == 0;
            cells.push(match (&self.prefix, is_name) {
                (Some(prefix), true) => format!("{prefix}/{cell}"),
                _ => cell,
            });
        }
        let labels = row
            .pointer("/object/metadata/labels")
            .and_then(Value::as_object);
        for label in &self.label_columns {
            let value = labels.and_then(|l| l.get(label)).and_then(Value::as_str);
            cells.push(value.unwrap_or_default().to_string());
        }
        if self.labels {
            cells.push(all_labels(labels));
        }
        cells
    }
}

fn all_labels(labels: Option<&Map<String, Value>>) -> String {
    let mut all: Vec<String> = labels
        .into_iter()
        .flatten()
        .map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default()))
        .collect();
    all.sort();
    if all.is_empty() {
        "<none>".into()
    } else {
        all.join(",")
    }
}

fn cell_text(cell: &Value) -> String {
    match cell {
        Value::String(s) => s.lines().next().unwrap_or_default().to_string(),
        Value::Null => "<none>".into(),
        other => other.to_string(),
    }
}

/// A value with the keys of all maps sorted, as Go prints them.
pub fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut keys: Vec<&String> = map.keys().collect();
            keys.sort();
            Value::Object(
                keys.into_iter()
                    .map(|k| (k.clone(), sorted(&map[k])))
                    .collect(),
            )
        }
        Value::Array(list) => Value::Array(list.iter().map(sorted).collect()),
        other => other.clone(),
    }
}

/// An object without the record of field managers, which nobody reads.
pub fn without_managers(mut object: Value) -> Value {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.shift_remove("managedFields");
    }
    object
}

/// JSON as kubectl prints it: four spaces.
pub fn json(value: &Value) -> String {
    use serde::Serialize;
    let mut out = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut out, formatter);
    // A `Value` can always be written.
    let _ = sorted(value).serialize(&mut serializer);
    String::from_utf8(out).unwrap_or_default() + "\n"
}

/// YAML as kubectl prints it.
pub fn yaml(value: &Value) -> String {
    let mut out = String::new();
    block(&sorted(value), 0, &mut out);
    out
}

fn block(value: &Value, indent: usize, out: &mut String) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (key, item) in map {
                pad(indent, out);
                out.push_str(&scalar_text(key, indent));
                out.push(':');
                nested(item, indent, out);
            }
        }
        Value::Array(list) if !list.is_empty() => {
            for item in list {
                pad(indent, out);
                out.push('-');
                match item {
                    Value::Object(map) if !map.is_empty() => {
                        // The first key stands beside the dash.
                        let mut inner = String::new();
                        block(item, indent + 2, &mut inner);
                        out.push(' ');
                        out.push_str(inner.trim_start());
                    }
                    Value::Array(list) if !list.is_empty() => {
                        let mut inner = String::new();
                        block(item, indent + 2, &mut inner);
                        out.push(' ');
                        out.push_str(inner.trim_start());
                    }
                    other => {
                        out.push(' ');
                        out.push_str(&leaf(other, indent));
                        out.push('\n');
                    }
                }
            }
        }
        other => {
            pad(indent, out);
            out.push_str(&leaf(other, indent));
            out.push('\n');
        }
    }
}

fn nested(item: &Value, indent: usize, out: &mut String) {
    match item {
        Value::Object(map) if !map.is_empty() => {
            out.push('\n');
            block(item, indent + 2, out);
        }
        // Lists stand at the level of their key.
        Value::Array(list) if !list.is_empty() => {
            out.push('\n');
            block(item, indent, out);
        }
        other => {
            out.push(' ');
            out.push_str(&leaf(other, indent));
            out.push('\n');
        }
    }
}

fn pad(indent: usize, out: &mut String) {
    out.extend(std::iter::repeat_n(' ', indent));
}

fn leaf(value: &Value, indent: usize) -> String {
    match value {
        Value::String(s) => scalar_text(s, indent),
        Value::Object(_) => "{}".into(),
        Value::Array(_) => "[]".into(),
        Value::Null => "null".into(),
        other => other.to_string(),
    }
}

/// A text as YAML: plain if it cannot be taken for anything else, a block if it has lines, else in
/// quotes.
fn scalar_text(text: &str, indent: usize) -> String {
    let printable = text
        .chars()
        .all(|c| c == '\n' || c == '\t' || !c.is_control());
    if text.contains('\n')
        && printable
        && !text.starts_with([' ', '\n'])
        && !text.lines().any(|l| l.ends_with(' '))
    {
        let keep = match (text.ends_with("\n\n"), text.ends_with('\n')) {
            (true, _) => "|+",
            (_, true) => "|",
            _ => "|-",
        };
        let mut out = String::from(keep);
        let body = text.strip_suffix('\n').unwrap_or(text);
        for line in body.split('\n') {
            out.push('\n');
            if !line.is_empty() {
                out.extend(std::iter::repeat_n(' ', indent + 2));
                out.push_str(line);
            }
        }
        return out;
    }
    if is_plain(text) {
        return text.to_string();
    }
    if printable
        && !text.contains('\n')
        && !text.contains('\t')
        && !ambiguous(text)
        && !text.is_empty()
    {
        return format!("'{}'", text.replace('\'', "''"));
    }
    Value::from(text).to_string()
}

/// Texts that YAML would read as something else than text.
fn ambiguous(text: &str) -> bool {
    const WORDS: [&str; 16] = [
        "true", "false", "yes", "no", "on", "off", "null", "y", "n", "~", ".nan", ".inf", "-.inf",
        "+.inf", "<<", "=",
    ];
    WORDS.contains(&text.to_ascii_lowercase().as_str())
        || text.parse::<f64>().is_ok()
        || text.starts_with("0x")
        || text.starts_with("0o")
        || text.replace('_', "").parse::<f64>().is_ok()
        || text.parse::<jiff::Timestamp>().is_ok()
        || text.parse::<jiff::civil::Date>().is_ok()
        || (text.contains(':') && text.chars().all(|c| c.is_ascii_digit() || c == ':'))
}

fn is_plain(text: &str) -> bool {
    let first = text.chars().next();
    let starts_badly = first.is_none_or(|c| "-?:,[]{}#&*!|>'\"%@` ".contains(c));
    let dash = text.starts_with('-')
        && text.len() > 1
        && !text.starts_with("- ")
        && !text.starts_with("---");
    let colon = text.contains(": ") || text.ends_with(':') || text.contains(" #");
    (!starts_badly || dash)
        && !colon
        && !text.ends_with(' ')
        && !text.chars().any(char::is_control)
        && !ambiguous(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn columns_are_three_spaces_apart() {
        let mut columns = Columns::default();
        columns.push(vec!["NAME".into(), "AGE".into()]);
        columns.push(vec!["a-long-name".into(), "1s".into()]);
        let mut out = Vec::new();
        columns.flush(&mut out).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "NAME          AGE\na-long-name   1s\n"
        );
    }

    #[test]
    fn yaml_is_that_of_kubectl() {
        let value = json!({"kind": "X", "a": {"list": [{"b": 1, "a": "true"}, {"c": []}], "empty": {}},
            "text": "one\ntwo\n", "star": "*", "port": "80", "time": "2026-01-01T00:00:00Z", "flags": ["--x=y", "a: b"]});
        let expected = "a:\n  empty: {}\n  list:\n  - a: \"true\"\n    b: 1\n  - c: []\nflags:\n- --x=y\n- 'a: b'\nkind: X\nport: \"80\"\nstar: '*'\ntext: |\n  one\n  two\ntime: \"2026-01-01T00:00:00Z\"\n";
        assert_eq!(yaml(&value), expected);
        let back: Value = serde_saphyr::from_str(expected).unwrap();
        assert_eq!(back, value);
    }

    #[test]
    fn json_is_that_of_kubectl() {
        assert_eq!(
            json(&json!({"b": [1], "a": {}})),
            "{\n    \"a\": {},\n    \"b\": [\n        1\n    ]\n}\n"
        );
    }
}
