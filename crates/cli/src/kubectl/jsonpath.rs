//! kubectl's JSONPath templates: text with `{.path}`, `{range …}{end}`, `{"text"}`.

use anyhow::bail;
use serde_json::Value;

#[derive(Debug, Clone, PartialEq)]
enum Node {
    Text(String),
    Path(Vec<Step>),
    Range(Vec<Step>, Vec<Node>),
}

#[derive(Debug, Clone, PartialEq)]
enum Step {
    Key(String),
    Index(i64),
    Slice(Option<i64>, Option<i64>),
    Every,
    Descend(String),
    Where(Vec<Step>, String, Value),
}

/// A parsed template.
#[derive(Debug, Clone, PartialEq)]
pub struct Template(Vec<Node>);

impl Template {
    /// Reads a template.
    pub fn parse(text: &str) -> anyhow::Result<Template> {
        let mut parts = split(text)?.into_iter().peekable();
        let nodes = nodes(&mut parts, false)?;
        Ok(Template(nodes))
    }

    /// Fills it in.
    pub fn render(&self, value: &Value) -> String {
        let mut out = String::new();
        render(&self.0, value, &mut out);
        out
    }
}

/// Text outside braces, and what stands in each pair of braces.
enum Part {
    Text(String),
    Braces(String),
}

fn split(text: &str) -> anyhow::Result<Vec<Part>> {
    let mut parts = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let Some(open) = rest.find('{') else {
            parts.push(Part::Text(rest.to_string()));
            break;
        };
        if open > 0 {
            parts.push(Part::Text(rest[..open].to_string()));
        }
        let inner = &rest[open + 1..];
        let Some(close) = closing(inner) else {
            bail!("error: error parsing jsonpath {text}, unclosed action")
        };
        parts.push(Part::Braces(inner[..close].trim().to_string()));
        rest = &inner[close + 1..];
    }
    Ok(parts)
}

/// Where the brace closes, outside quotes.
fn closing(text: &str) -> Option<usize> {
    let mut quote = None;
    let mut escaped = false;
    for (i, c) in text.char_indices() {
        match (quote, c) {
            _ if escaped => escaped = false,
            (_, '\\') => escaped = true,
            (Some(q), c) if c == q => quote = None,
            (None, '"' | '\'') => quote = Some(c),
            (None, '}') => return Some(i),
            _ => {}
        }
    }
    None
}

fn nodes(
    parts: &mut std::iter::Peekable<std::vec::IntoIter<Part>>,
    inside: bool,
) -> anyhow::Result<Vec<Node>> {
    let mut nodes = Vec::new();
    while let Some(part) = parts.next() {
        match part {
            Part::Text(text) => nodes.push(Node::Text(text)),
            Part::Braces(text) if text == "end" => {
                if !inside {
                    bail!("error: error parsing jsonpath, not in range");
                }
                return Ok(nodes);
            }
            Part::Braces(text) => match text.strip_prefix("range ") {
                Some(path) => {
                    nodes.push(Node::Range(steps(path.trim())?, self::nodes(parts, true)?))
                }
                None => match quoted(&text) {
                    Some(text) => nodes.push(Node::Text(text)),
                    None => nodes.push(Node::Path(steps(&text)?)),
                },
            },
        }
    }
    if inside {
        bail!("error: error parsing jsonpath, unterminated range");
    }
    Ok(nodes)
}

/// A text in quotes, with `\n` and `\t`.
fn quoted(text: &str) -> Option<String> {
    let quote = text.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    let inner = text.strip_prefix(quote)?.strip_suffix(quote)?;
    Some(
        inner
            .replace("\\n", "\n")
            .replace("\\t", "\t")
            .replace("\\\"", "\"")
            .replace("\\\\", "\\"),
    )
}

fn steps(text: &str) -> anyhow::Result<Vec<Step>> {
    let bad = || {
        anyhow::anyhow!("error: error parsing jsonpath {{{text}}}: this form is not supported here")
    };
    let mut steps = Vec::new();
    let mut rest = text
        .strip_prefix('$')
        .or_else(|| text.strip_prefix('@'))
        .unwrap_or(text);
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix("..") {
            let end = key_end(after);
            steps.push(Step::Descend(after[..end].replace('\\', "")));
            rest = &after[end..];
        } else if let Some(after) = rest.strip_prefix('.') {
            let end = key_end(after);
            match &after[..end] {
                "" => {}
                "*" => steps.push(Step::Every),
                key => steps.push(Step::Key(key.replace('\\', ""))),
            }
            rest = &after[end..];
        } else if let Some(after) = rest.strip_prefix('[') {
            let close = bracket_end(after).ok_or_else(bad)?;
            steps.push(bracket(after[..close].trim()).ok_or_else(bad)?);
            rest = &after[close + 1..];
        } else if steps.is_empty() {
            // A path may leave out its first dot.
            let end = key_end(rest);
            steps.push(Step::Key(rest[..end].replace('\\', "")));
            rest = &rest[end..];
        } else {
            return Err(bad());
        }
    }
    Ok(steps)
}

fn key_end(text: &str) -> usize {
    let mut escaped = false;
    for (i, c) in text.char_indices() {
        match c {
            '\\' if !escaped => escaped = true,
            '.' | '[' if !escaped => return i,
            _ => escaped = false,
        }
    }
    text.len()
}

fn bracket_end(text: &str) -> Option<usize> {
    let mut quote = None;
    for (i, c) in text.char_indices() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (None, '"' | '\'') => quote = Some(c),
            (None, ']') => return Some(i),
            _ => {}
        }
    }
    None
}

fn bracket(inner: &str) -> Option<Step> {
    if inner == "*" {
        return Some(Step::Every);
    }
    if let Ok(index) = inner.parse() {
        return Some(Step::Index(index));
    }
    if let Some(key) = quoted(inner) {
        return Some(Step::Key(key));
    }
    if let Some((from, to)) = inner.split_once(':') {
        let part = |t: &str| {
            if t.is_empty() {
                Some(None)
            } else {
                t.parse().ok().map(Some)
            }
        };
        return Some(Step::Slice(part(from)?, part(to)?));
    }
    let filter = inner.strip_prefix("?(")?.strip_suffix(')')?;
    let (path, operator, value) = ["==", "!="].iter().find_map(|op| {
        filter
            .split_once(op)
            .map(|(path, value)| (path, *op, value))
    })?;
    let value = match quoted(value.trim()) {
        Some(text) => Value::String(text),
        None => serde_json::from_str(value.trim()).ok()?,
    };
    Some(Step::Where(
        steps(path.trim()).ok()?,
        operator.to_string(),
        value,
    ))
}

fn find<'a>(steps: &[Step], value: &'a Value) -> Vec<&'a Value> {
    let mut found = vec![value];
    for step in steps {
        found = found.into_iter().flat_map(|v| take(step, v)).collect();
    }
    found
}

fn take<'a>(step: &Step, value: &'a Value) -> Vec<&'a Value> {
    match (step, value) {
        (Step::Key(key), Value::Object(map)) => map.get(key).into_iter().collect(),
        (Step::Index(i), Value::Array(list)) => position(*i, list.len())
            .and_then(|i| list.get(i))
            .into_iter()
            .collect(),
        (Step::Slice(from, to), Value::Array(list)) => {
            let from = from
                .map_or(Some(0), |i| position(i, list.len()))
                .unwrap_or(0);
            let to = to
                .map_or(list.len(), |i| position(i, list.len()).unwrap_or(0))
                .min(list.len());
            list.get(from..to)
                .map(|part| part.iter().collect())
                .unwrap_or_default()
        }
        (Step::Every, Value::Array(list)) => list.iter().collect(),
        (Step::Every, Value::Object(map)) => map.values().collect(),
        (Step::Descend(key), _) => descend(key, value),
        (Step::Where(path, operator, wanted), Value::Array(list)) => list
            .iter()
            .filter(|item| {
                let found = find(path, item);
                let equal = found.first().is_some_and(|v| *v == wanted);
                if operator == "==" {
                    equal
                } else {
                    !found.is_empty() && !equal
                }
            })
            .collect(),
        _ => Vec::new(),
    }
}

fn position(i: i64, length: usize) -> Option<usize> {
    let i = if i < 0 { i + length as i64 } else { i };
    usize::try_from(i).ok()
}

fn descend<'a>(key: &str, value: &'a Value) -> Vec<&'a Value> {
    let mut found = Vec::new();
    if let Value::Object(map) = value {
        found.extend(map.get(key));
    }
    let children: Vec<&Value> = match value {
        Value::Object(map) => map.values().collect(),
        Value::Array(list) => list.iter().collect(),
        _ => Vec::new(),
    };
    found.extend(children.into_iter().flat_map(|child| descend(key, child)));
    found
}

fn render(nodes: &[Node], value: &Value, out: &mut String) {
    for node in nodes {
        match node {
            Node::Text(text) => out.push_str(text),
            Node::Path(steps) => {
                let texts: Vec<String> = find(steps, value).into_iter().map(shown).collect();
                out.push_str(&texts.join(" "));
            }
            Node::Range(steps, inner) => {
                for item in find(steps, value) {
                    render(inner, item, out);
                }
            }
        }
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(s) => s.clone(),
        Value::Null => String::new(),
        other => super::output::sorted(other).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn templates() {
        let value = json!({"items": [
            {"metadata": {"name": "a", "labels": {"x.y/z": "1"}}, "status": {"podIP": "1.1.1.1", "conditions": [{"type": "Ready", "status": "True"}]}},
            {"metadata": {"name": "b"}, "status": {"podIP": "2.2.2.2"}}]});
        for (template, text) in [
            ("{.items[*].metadata.name}", "a b"),
            ("{.items[0].metadata.name}", "a"),
            ("{.items[-1:].metadata.name}", "b"),
            (
                "{range .items[*]}{.metadata.name}{\"\\t\"}{.status.podIP}{\"\\n\"}{end}",
                "a\t1.1.1.1\nb\t2.2.2.2\n",
            ),
            (
                "{.items[?(@.metadata.name==\"b\")].status.podIP}",
                "2.2.2.2",
            ),
            (
                "{.items[0].status.conditions[?(@.type=='Ready')].status}",
                "True",
            ),
            ("{.items[0].metadata.labels.x\\.y/z}", "1"),
            ("{.items[0].metadata.labels['x.y/z']}", "1"),
            ("{..name}", "a b"),
            ("ip={.items[0].status.podIP}", "ip=1.1.1.1"),
            ("{.items[0].metadata.labels}", "{\"x.y/z\":\"1\"}"),
            ("{.none}", ""),
        ] {
            assert_eq!(
                Template::parse(template).unwrap().render(&value),
                text,
                "{template}"
            );
        }
        assert!(Template::parse("{.a").is_err());
        assert!(Template::parse("{end}").is_err());
    }
}
