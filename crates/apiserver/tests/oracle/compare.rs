//! Recorded answers against those that came, and the differences that are known.

use serde::Deserialize;
use serde_json::Value;

use crate::case::folder;

/// Where two answers differ.
#[derive(Debug)]
pub struct Difference {
    /// A JSON pointer into the recorded answer.
    pub at: String,
    recorded: Value,
    found: Value,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let side = |value: &Value| match value {
            Value::Null => "nothing".to_owned(),
            other => other.to_string(),
        };
        write!(
            f,
            "  at {}\n    recorded: {}\n    found:    {}",
            self.at,
            side(&self.recorded),
            side(&self.found)
        )
    }
}

/// All differences, deepest first place by place.
pub fn differences(recorded: &Value, found: &Value) -> Vec<Difference> {
    let mut all = Vec::new();
    walk(String::new(), recorded, found, &mut all);
    all
}

fn walk(at: String, recorded: &Value, found: &Value, all: &mut Vec<Difference>) {
    match (recorded, found) {
        (Value::Object(a), Value::Object(b)) => {
            let more = b.keys().filter(|key| !a.contains_key(*key));
            for key in a.keys().chain(more) {
                let place = format!("{at}/{}", key.replace('~', "~0").replace('/', "~1"));
                let side = |map: &serde_json::Map<String, Value>| {
                    map.get(key).cloned().unwrap_or_default()
                };
                walk(place, &side(a), &side(b), all);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (index, (a, b)) in a.iter().zip(b).enumerate() {
                walk(format!("{at}/{index}"), a, b, all);
            }
        }
        (a, b) if a == b => {}
        (a, b) => all.push(Difference {
            at,
            recorded: a.clone(),
            found: b.clone(),
        }),
    }
}

/// A difference between our server and the real one that is meant, or not mended yet.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Known {
    area: String,
    case: String,
    /// The step's name; all steps when left out.
    step: Option<String>,
    /// A JSON pointer into the recorded answer, empty for all of it; `*` stands for any one
    /// segment. What is below it may differ, too.
    at: String,
    because: String,
}

impl Known {
    /// The known differences of an area.
    pub fn load(area: &str) -> Vec<Known> {
        let path = folder().join("differences.yaml");
        let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path:?}: {e}"));
        let all: Vec<Known> =
            serde_saphyr::from_str(&text).unwrap_or_else(|e| panic!("{path:?}: {e}"));
        for known in &all {
            assert!(known.because.len() > 15, "{known:?} needs a reason");
        }
        all.into_iter().filter(|k| k.area == area).collect()
    }

    /// Whether this is it.
    pub fn covers(&self, case: &str, step: &str, difference: &Difference) -> bool {
        let mut place = difference.at.split('/');
        self.case == case
            && self.step.as_deref().is_none_or(|own| own == step)
            && self
                .at
                .split('/')
                .all(|want| place.next().is_some_and(|is| want == "*" || want == is))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn places_are_pointers_and_known_ones_cover_what_is_below() {
        let found = differences(
            &json!({"a": {"b": [1, 2]}, "c": 1}),
            &json!({"a": {"b": [1, 3]}, "d/e": 1}),
        );
        let places: Vec<&str> = found.iter().map(|d| d.at.as_str()).collect();
        assert_eq!(places, ["/a/b/1", "/c", "/d~1e"]);
        let known = |at: &str| Known {
            area: "x".into(),
            case: "one".into(),
            step: Some("GET /x".into()),
            at: at.into(),
            because: String::new(),
        };
        assert!(known("/a/*").covers("one", "GET /x", &found[0]));
        assert!(!known("/a/c").covers("one", "GET /x", &found[0]));
        assert!(!known("/a").covers("two", "GET /x", &found[0]));
        assert!(!known("/a").covers("one", "PUT /x", &found[0]));
    }
}
