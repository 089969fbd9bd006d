//! Selectors: one meaning, in text and as an object, and the meaning is that of its words.

use super::Choices;
use crate::selectors::{FieldSelector, LabelSelector, to_text};
use rand::RngExt;
use serde_json::{Map, Value, json};

const KEYS: [&str; 3] = ["a", "b.c/d", "e_f"];
const VALUES: [&str; 3] = ["", "x", "y-1"];

/// Any text is a selector or an error; a made-up one selects what it says.
pub fn check(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let _ = LabelSelector::parse(&text);
    let _ = FieldSelector::parse(&text, "", "Pod", &[]);

    let mut choices = Choices::new(bytes);
    let selector = made_up(&mut choices);
    let from_object = LabelSelector::from_object(&selector);
    let from_text = LabelSelector::parse(&to_text(&selector)).ok();
    for _ in 0..4 {
        let labels = labels(&mut choices);
        let object = json!({"metadata": {"labels": labels}});
        let wanted = selects(&selector, &labels);
        for read in [&from_object, &from_text] {
            let found = read.as_ref().map(|s| s.matches(&object));
            assert_eq!(found, Some(wanted), "{selector} {labels:?}");
        }
    }
}

fn made_up(choices: &mut Choices<'_>) -> Value {
    let mut labels = Map::new();
    for key in KEYS {
        if choices.yes(0.3) {
            labels.insert(key.into(), choices.of(&VALUES).into());
        }
    }
    let count = choices.random_range(0..3);
    let expression = |choices: &mut Choices<'_>| {
        let operator = choices.of(&["In", "NotIn", "Exists", "DoesNotExist"]);
        let mut expression = json!({"key": choices.of(&KEYS), "operator": operator});
        if operator.ends_with("In") {
            let values: Vec<&str> = (0..2).map(|_| choices.of(&VALUES)).collect();
            expression["values"] = values.into();
        }
        expression
    };
    let expressions: Vec<Value> = (0..count).map(|_| expression(choices)).collect();
    json!({"matchLabels": labels, "matchExpressions": expressions})
}

fn labels(choices: &mut Choices<'_>) -> Map<String, Value> {
    let mut labels = Map::new();
    for key in KEYS {
        if choices.yes(0.5) {
            labels.insert(key.into(), choices.of(&VALUES).into());
        }
    }
    labels
}

/// What a selector says, word by word.
fn selects(selector: &Value, labels: &Map<String, Value>) -> bool {
    let equal = selector["matchLabels"].as_object().into_iter().flatten();
    let fulfils = |e: &Value| {
        let found = labels.get(e["key"].as_str().unwrap_or_default());
        let listed = |v: &Value| e["values"].as_array().is_some_and(|list| list.contains(v));
        match e["operator"].as_str() {
            Some("In") => found.is_some_and(listed),
            Some("NotIn") => !found.is_some_and(listed),
            Some("Exists") => found.is_some(),
            _ => found.is_none(),
        }
    };
    let mut expressions = selector["matchExpressions"]
        .as_array()
        .into_iter()
        .flatten();
    equal
        .into_iter()
        .all(|(key, value)| labels.get(key) == Some(value))
        && expressions.all(fulfils)
}
