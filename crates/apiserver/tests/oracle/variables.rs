//! Names in the text of cases (`$ns`), and their values.

use std::collections::BTreeMap;

use serde_json::Value;

/// Name → value.
#[derive(Clone, Debug, Default)]
pub struct Variables(BTreeMap<String, String>);

impl Variables {
    /// What every case has: a namespace, a group for its own definitions, and paths.
    pub fn of_case(namespace: &str) -> Self {
        let group = format!("{namespace}.oracle.test");
        let mut it = Self::default();
        for (name, value) in [
            ("ns", namespace.to_owned()),
            ("core", format!("/api/v1/namespaces/{namespace}")),
            ("apps", format!("/apis/apps/v1/namespaces/{namespace}")),
            ("batch", format!("/apis/batch/v1/namespaces/{namespace}")),
            (
                "rbac",
                format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}"),
            ),
            ("custom", format!("/apis/{group}/v1/namespaces/{namespace}")),
            (
                "crds",
                "/apis/apiextensions.k8s.io/v1/customresourcedefinitions".to_owned(),
            ),
            ("group", group),
        ] {
            it.set(name, &value);
        }
        it
    }

    pub fn set(&mut self, name: &str, value: &str) {
        self.0.insert(name.to_owned(), value.to_owned());
    }

    /// Values in place of names. What is no known name stays, as `$patch` does.
    pub fn fill(&self, text: &str) -> String {
        let mut out = String::new();
        let mut rest = text;
        while let Some(at) = rest.find('$') {
            out.push_str(&rest[..at]);
            let word = &rest[at + 1..];
            let end = word
                .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
                .unwrap_or(word.len());
            match self.0.get(&word[..end]) {
                Some(value) => out.push_str(value),
                None => out.push_str(&rest[at..at + 1 + end]),
            }
            rest = &word[end..];
        }
        out + rest
    }

    /// As [`fill`](Self::fill), in every string of a value.
    pub fn fill_value(&self, value: &Value) -> Value {
        match value {
            Value::String(text) => Value::String(self.fill(text)),
            Value::Array(items) => items.iter().map(|v| self.fill_value(v)).collect(),
            Value::Object(map) => map
                .iter()
                .map(|(k, v)| (k.clone(), self.fill_value(v)))
                .collect(),
            other => other.clone(),
        }
    }
}
