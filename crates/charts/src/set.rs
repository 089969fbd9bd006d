//! `--set`: paths and typed values in Helm's notation.
//!
//! `a.b=1` sets a number, `a.b=x` a text, `a={x,y}` a list, `a[1].b=true` an element of a list,
//! `a=null` nothing; several assignments are separated by commas, and a backslash takes a special
//! character literally (`nodeSelector.kubernetes\.io/os=linux`).

use serde_json::{Map, Value};

/// The longest list that an index may make.
const MAX_INDEX: usize = 1024;

/// Why an assignment cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("--set {text:?}: {reason}; write path.to.key=value")]
pub struct SetError {
    text: String,
    reason: String,
}

#[derive(Debug, PartialEq, Eq)]
enum Step {
    Key(String),
    Index(usize),
}

/// Applies the assignments in `text` to a tree.
///
/// # Errors
/// When the text is not a list of assignments, or one does not fit the tree.
pub fn apply(tree: &mut Value, text: &str) -> Result<(), SetError> {
    parse(text)
        .and_then(|all| {
            all.into_iter()
                .try_for_each(|(path, value)| assign(tree, &path, value))
        })
        .map_err(|reason| SetError {
            text: text.to_owned(),
            reason,
        })
}

fn assign(tree: &mut Value, path: &[Step], value: Value) -> Result<(), String> {
    let Some((first, rest)) = path.split_first() else {
        *tree = value;
        return Ok(());
    };
    let place = match first {
        Step::Key(key) => {
            if tree.is_null() {
                *tree = Value::Object(Map::new());
            }
            let map = tree
                .as_object_mut()
                .ok_or_else(|| format!("the parent of {key:?} is not a map"))?;
            map.entry(key.clone()).or_insert(Value::Null)
        }
        Step::Index(index) => {
            if tree.is_null() {
                *tree = Value::Array(Vec::new());
            }
            let list = tree
                .as_array_mut()
                .ok_or_else(|| format!("the parent of [{index}] is not a list"))?;
            if list.len() <= *index {
                list.resize(index + 1, Value::Null);
            }
            &mut list[*index]
        }
    };
    assign(place, rest, value)
}

fn parse(text: &str) -> Result<Vec<(Vec<Step>, Value)>, String> {
    let mut reader = Reader { rest: text };
    let mut assignments = Vec::new();
    loop {
        let path = reader.path()?;
        let value = reader.value()?;
        assignments.push((path, value));
        match reader.next() {
            None => return Ok(assignments),
            Some(',') => {}
            Some(other) => return Err(format!("unexpected {other:?}")),
        }
    }
}

struct Reader<'a> {
    rest: &'a str,
}

impl Reader<'_> {
    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.rest = &self.rest[c.len_utf8()..];
        Some(c)
    }

    /// Text up to one of these characters (left in place) or the end.
    fn until(&mut self, stops: &[char]) -> String {
        let mut text = String::new();
        while let Some(c) = self.peek() {
            if stops.contains(&c) {
                break;
            }
            self.next();
            match (c, self.peek()) {
                ('\\', Some(_)) => text.extend(self.next()),
                _ => text.push(c),
            }
        }
        text
    }

    /// A path and its `=`.
    fn path(&mut self) -> Result<Vec<Step>, String> {
        let mut steps = Vec::new();
        loop {
            let key = self.until(&['.', '[', '=', ',']);
            if key.is_empty() {
                return Err("a key is empty".into());
            }
            steps.push(Step::Key(key));
            while self.peek() == Some('[') {
                self.next();
                let index = self.until(&[']']);
                if self.next() != Some(']') {
                    return Err("a [ is not closed".into());
                }
                let index: usize = index
                    .parse()
                    .map_err(|_| format!("[{index}] is not an index"))?;
                if index > MAX_INDEX {
                    return Err(format!("index {index} is larger than {MAX_INDEX}"));
                }
                steps.push(Step::Index(index));
            }
            match self.next() {
                Some('.') => {}
                Some('=') => return Ok(steps),
                Some(other) => return Err(format!("unexpected {other:?} in a path")),
                None => return Err("there is no =".into()),
            }
        }
    }

    fn value(&mut self) -> Result<Value, String> {
        if self.peek() != Some('{') {
            return Ok(typed(self.until(&[','])));
        }
        self.next();
        let mut items = Vec::new();
        if self.peek() == Some('}') {
            self.next();
            return Ok(Value::Array(items));
        }
        loop {
            items.push(typed(self.until(&[',', '}'])));
            match self.next() {
                Some(',') => {}
                Some('}') => return Ok(Value::Array(items)),
                _ => return Err("a { is not closed".into()),
            }
        }
    }
}

/// Helm's types: truth values, null, integers without leading zeros; the rest is text.
fn typed(text: String) -> Value {
    match text.as_str() {
        "true" => return Value::Bool(true),
        "false" => return Value::Bool(false),
        "null" => return Value::Null,
        "0" => return Value::from(0),
        _ => {}
    }
    let digits = text.strip_prefix('-').unwrap_or(&text);
    match text.parse::<i64>() {
        Ok(number) if !digits.starts_with('0') && !text.starts_with('+') => Value::from(number),
        _ => Value::String(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn set(text: &str) -> Value {
        let mut tree = Value::Null;
        apply(&mut tree, text).expect(text);
        tree
    }

    #[test]
    fn paths_and_types() {
        for (text, expected) in [
            ("a=1", json!({"a": 1})),
            ("a=-7", json!({"a": -7})),
            ("a=1.10", json!({"a": "1.10"})),
            ("a=007", json!({"a": "007"})),
            ("a=0", json!({"a": 0})),
            ("a=", json!({"a": ""})),
            (
                "a=true,b=false,c=null",
                json!({"a": true, "b": false, "c": null}),
            ),
            ("a.b.c=x y", json!({"a": {"b": {"c": "x y"}}})),
            ("a={x,1,true}", json!({"a": ["x", 1, true]})),
            ("a={}", json!({"a": []})),
            ("a[1].b=x", json!({"a": [null, {"b": "x"}]})),
            ("a[0][1]=x", json!({"a": [[null, "x"]]})),
            (
                r"a.kubernetes\.io/os=linux",
                json!({"a": {"kubernetes.io/os": "linux"}}),
            ),
            (r"a=x\,y", json!({"a": "x,y"})),
            ("hub=localhost:5000", json!({"hub": "localhost:5000"})),
            ("a=b=c", json!({"a": "b=c"})),
        ] {
            assert_eq!(set(text), expected, "{text}");
        }
    }

    #[test]
    fn later_assignments_win_and_keep_the_rest() {
        let mut tree = json!({"a": {"b": 1, "c": 2}});
        apply(&mut tree, "a.b=3,a.d[0]=4").expect("set");
        assert_eq!(tree, json!({"a": {"b": 3, "c": 2, "d": [4]}}));
    }

    #[test]
    fn mistakes_are_explained() {
        for (text, part) in [
            ("a", "there is no ="),
            ("", "empty"),
            ("=1", "empty"),
            ("a..b=1", "empty"),
            ("a[x]=1", "not an index"),
            ("a[0=1", "not closed"),
            ("a[99999]=1", "larger"),
            ("a={x", "not closed"),
            ("a=1,b", "there is no ="),
        ] {
            let error = apply(&mut Value::Null, text).expect_err(text).to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
        let mut tree = json!({"a": 1});
        assert!(apply(&mut tree, "a.b=1").is_err());
        assert!(apply(&mut tree, "a[0]=1").is_err());
    }
}
