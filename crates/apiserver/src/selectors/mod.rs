//! Label and field selectors, from their text forms in queries and their object forms in specs.

mod text;

use crate::status::{ApiError, Result};
use serde_json::Value;

/// All requirements must hold. The default selects everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LabelSelector {
    requirements: Vec<LabelRequirement>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct LabelRequirement {
    key: String,
    test: LabelTest,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum LabelTest {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    DoesNotExist,
    GreaterThan(i64),
    LessThan(i64),
}

impl LabelSelector {
    /// Parses `a=b,c!=d,e in (f,g),h notin (i),j,!k,l>1`.
    pub fn parse(text: &str) -> Result<Self> {
        let requirements = text::parse(text)?;
        Ok(LabelSelector { requirements })
    }

    /// From a `metav1.LabelSelector`. A missing selector (null) selects nothing: None.
    pub fn from_object(value: &Value) -> Option<Self> {
        let mut requirements = Vec::new();
        let map = value.as_object()?;
        for (key, v) in map
            .get("matchLabels")
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
        {
            let test = LabelTest::In(vec![v.as_str().unwrap_or_default().to_string()]);
            requirements.push(LabelRequirement {
                key: key.clone(),
                test,
            });
        }
        for e in map
            .get("matchExpressions")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            let key = e.get("key")?.as_str()?.to_string();
            let values = || -> Vec<String> {
                let list = e.get("values").and_then(Value::as_array);
                list.into_iter()
                    .flatten()
                    .filter_map(|v| v.as_str().map(str::to_string))
                    .collect()
            };
            let test = match e.get("operator")?.as_str()? {
                "In" => LabelTest::In(values()),
                "NotIn" => LabelTest::NotIn(values()),
                "Exists" => LabelTest::Exists,
                "DoesNotExist" => LabelTest::DoesNotExist,
                _ => return None,
            };
            requirements.push(LabelRequirement { key, test });
        }
        Some(LabelSelector { requirements })
    }

    /// Whether everything is selected.
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// Whether the labels of the object fulfil all requirements.
    pub fn matches(&self, object: &Value) -> bool {
        if self.is_empty() {
            return true;
        }
        let labels = object.pointer("/metadata/labels");
        self.matches_labels(|key| labels.and_then(|l| l.get(key)).and_then(Value::as_str))
    }

    /// Whether labels, given as a lookup, fulfil all requirements.
    pub fn matches_labels<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.requirements.iter().all(|r| {
            let value = label(&r.key);
            let number = || value.and_then(|v| v.parse::<i64>().ok());
            match &r.test {
                LabelTest::In(list) => value.is_some_and(|v| list.iter().any(|l| l == v)),
                LabelTest::NotIn(list) => value.is_none_or(|v| list.iter().all(|l| l != v)),
                LabelTest::Exists => value.is_some(),
                LabelTest::DoesNotExist => value.is_none(),
                LabelTest::GreaterThan(n) => number().is_some_and(|v| v > *n),
                LabelTest::LessThan(n) => number().is_some_and(|v| v < *n),
            }
        })
    }
}

/// A `metav1.LabelSelector` as text, the way kubectl shows selectors.
pub fn to_text(selector: &Value) -> String {
    let mut parts = Vec::new();
    let labels = selector.get("matchLabels").and_then(Value::as_object);
    for (key, value) in labels.into_iter().flatten() {
        parts.push(format!("{key}={}", value.as_str().unwrap_or_default()));
    }
    parts.sort();
    let expressions = selector.get("matchExpressions").and_then(Value::as_array);
    for e in expressions.into_iter().flatten() {
        let text = |key: &str| e.get(key).and_then(Value::as_str).unwrap_or_default();
        let values = e
            .get("values")
            .and_then(Value::as_array)
            .into_iter()
            .flatten();
        let mut values: Vec<&str> = values.filter_map(Value::as_str).collect();
        values.sort_unstable();
        let values = values.join(",");
        parts.push(match text("operator") {
            "In" => format!("{} in ({values})", text("key")),
            "NotIn" => format!("{} notin ({values})", text("key")),
            "Exists" => text("key").to_string(),
            _ => format!("!{}", text("key")),
        });
    }
    parts.join(",")
}

/// Equality tests on fields.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSelector {
    terms: Vec<(String, String, bool)>,
}

/// Fields that each kind can be selected by, beside `metadata.name` and `metadata.namespace`.
fn selectable(group: &str, kind: &str) -> &'static [&'static str] {
    match (group, kind) {
        ("", "Pod") => &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.nominatedNodeName",
        ],
        ("", "Node") => &["spec.unschedulable"],
        ("", "Namespace") => &["status.phase"],
        ("", "Secret") => &["type"],
        ("", "Service") => &["spec.clusterIP", "spec.type"],
        ("", "Event") | ("events.k8s.io", "Event") => &[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "regarding.kind",
            "regarding.namespace",
            "regarding.name",
            "regarding.uid",
            "reason",
            "reportingComponent",
            "reportingController",
            "source",
            "type",
        ],
        ("apps", "ReplicaSet") | ("", "ReplicationController") => &["status.replicas"],
        ("batch", "Job") => &["status.successful"],
        ("certificates.k8s.io", _) => &["spec.signerName"],
        _ => &[],
    }
}

impl FieldSelector {
    /// Parses `a=b,c!=d`; refuses fields that the kind cannot be selected by.
    pub fn parse(text: &str, group: &str, kind: &str, extra: &[String]) -> Result<Self> {
        let mut terms = Vec::new();
        for part in text.split(',').filter(|p| !p.is_empty()) {
            let (field, value, equal) = if let Some((f, v)) = part.split_once("!=") {
                (f, v, false)
            } else if let Some((f, v)) = part.split_once("==").or_else(|| part.split_once('=')) {
                (f, v, true)
            } else {
                return Err(ApiError::bad_request(format!(
                    "invalid selector: '{text}'; can't understand '{part}'"
                )));
            };
            let known = matches!(field, "metadata.name" | "metadata.namespace")
                || selectable(group, kind).contains(&field)
                || extra.iter().any(|e| e == field);
            if !known {
                return Err(ApiError::bad_request(unknown(group, kind, field)));
            }
            terms.push((field.to_string(), value.to_string(), equal));
        }
        Ok(FieldSelector { terms })
    }

    /// Whether everything is selected.
    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }

    /// Whether the object has the values.
    pub fn matches(&self, object: &Value) -> bool {
        self.terms
            .iter()
            .all(|(field, value, equal)| (field_text(object, field) == *value) == *equal)
    }
}

/// Kinds with fields of their own word it in another way than the rest.
fn unknown(group: &str, kind: &str, field: &str) -> String {
    let custom = group.contains('.') && !group.ends_with(".k8s.io");
    match custom || !selectable(group, kind).is_empty() {
        true => format!("field label not supported: {field}"),
        false => format!(
            "{field:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
        ),
    }
}

/// A field of an object as text; missing fields are "" (as zero values are in Go), and the
/// fields of both shapes of events are looked up under both names.
fn field_text(object: &Value, field: &str) -> String {
    let other = match field.split_once('.') {
        Some(("regarding", rest)) => format!("involvedObject.{rest}"),
        Some(("involvedObject", rest)) => format!("regarding.{rest}"),
        None if field == "reportingController" => "reportingComponent".into(),
        None if field == "source" => "source.component".into(),
        _ => String::new(),
    };
    let lookup = |path: &str| object.pointer(&format!("/{}", path.replace('.', "/")));
    match lookup(field)
        .filter(|v| !v.is_object())
        .or_else(|| lookup(&other))
    {
        Some(Value::String(s)) => s.clone(),
        Some(Value::Null) => String::new(),
        None if matches!(field, "spec.unschedulable" | "spec.hostNetwork") => "false".into(),
        None if field == "status.replicas" => "0".into(),
        None => String::new(),
        Some(other) => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn matches(selector: &str, labels: Value) -> bool {
        LabelSelector::parse(selector)
            .unwrap()
            .matches(&json!({"metadata": {"labels": labels}}))
    }

    #[test]
    fn set_based_selectors() {
        assert!(matches("a=1,b in (x, y),!c", json!({"a": "1", "b": "y"})));
        assert!(!matches(
            "a=1,b in (x, y),!c",
            json!({"a": "1", "b": "y", "c": ""})
        ));
        assert!(matches("a!=1", json!({})));
        assert!(matches("a notin (1,2)", json!({"a": "3"})));
        assert!(matches("a", json!({"a": ""})));
        assert!(matches("example.com/n>3", json!({"example.com/n": "4"})));
        assert!(matches("", Value::Null));
        assert!(matches("a==1", json!({"a": "1"})));
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in ["a b", "in (x)", "a in x", "(x)", "a>b", "!", "=x"] {
            assert!(LabelSelector::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn object_form() {
        let s = LabelSelector::from_object(&json!({
            "matchLabels": {"app": "x"},
            "matchExpressions": [{"key": "v", "operator": "NotIn", "values": ["1"]}]
        }))
        .unwrap();
        assert!(s.matches(&json!({"metadata": {"labels": {"app": "x", "v": "2"}}})));
        assert!(!s.matches(&json!({"metadata": {"labels": {"app": "x", "v": "1"}}})));
        assert!(LabelSelector::from_object(&Value::Null).is_none());
    }

    #[test]
    fn fields() {
        let pod = json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n"}});
        let s = |t: &str| FieldSelector::parse(t, "", "Pod", &[]);
        assert!(s("spec.nodeName=n,metadata.name!=q").unwrap().matches(&pod));
        assert!(s("status.podIP=").unwrap().matches(&pod));
        assert!(s("spec.containers=x").is_err());
        let event = json!({"regarding": {"name": "p"}});
        let s = FieldSelector::parse("involvedObject.name=p", "", "Event", &[]).unwrap();
        assert!(s.matches(&event));
    }
}
