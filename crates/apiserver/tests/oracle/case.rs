//! The cases: files of `cases/`, one an area.

use std::{collections::BTreeMap, path::Path};

use serde::Deserialize;
use serde_json::Value;

/// One case: a namespace of its own, and requests in it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// What it shows; its name.
    pub case: String,
    /// Requests that prepare it; they must succeed, and their answers are not recorded.
    #[serde(default)]
    pub given: Vec<Step>,
    /// Requests whose answers are compared.
    pub steps: Vec<Step>,
}

/// A request, or the events of a watch.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// `METHOD path`.
    #[serde(default, rename = "do")]
    pub request: String,
    /// The object to send.
    pub body: Option<Value>,
    /// The bytes to send, for what is no object.
    pub text: Option<String>,
    /// Content type: a short name (`strategic`, `merge`, `json`, `apply`) or a full one.
    #[serde(rename = "type")]
    pub content_type: Option<String>,
    /// More request headers.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// A bearer token in place of the administrator's certificate; empty for nobody's.
    pub token: Option<String>,
    /// Repeats the request, each time with another merge patch applied to the body. Only the code
    /// of a success is recorded, unless `show` says more.
    #[serde(default)]
    pub variants: BTreeMap<String, Value>,
    /// Which parts of a successful answer are compared (JSON pointers); all when left out.
    pub show: Option<Vec<String>>,
    /// Remembers parts of the answer under names that later steps write as `$name`.
    #[serde(default)]
    pub save: BTreeMap<String, String>,
    /// Repeats the request until the answer is as said.
    pub until: Option<Until>,
    /// The request is a watch that goes on under this name.
    pub watch: Option<String>,
    /// Looks at the events of this watch since the last look.
    pub events: Option<String>,
    /// How many events; all until the stream ends when left out.
    pub count: Option<usize>,
    /// Installs the definitions of a folder of released material (`upstream`).
    pub definitions: Option<String>,
}

/// A condition that becomes true in a while.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Until {
    /// The status code.
    pub code: Option<u16>,
    /// Where to look in the answer, a JSON pointer.
    pub at: Option<String>,
    /// What is to be there; null for nothing.
    #[serde(default)]
    pub is: Value,
}

impl Case {
    /// All cases of an area.
    pub fn load(area: &str) -> Vec<Case> {
        let path = folder().join("cases").join(format!("{area}.yaml"));
        let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path:?}: {e}"));
        let cases: Vec<Case> =
            serde_saphyr::from_str(&text).unwrap_or_else(|e| panic!("{path:?}: {e}"));
        let mut names: Vec<&str> = cases.iter().map(|c| c.case.as_str()).collect();
        names.sort_unstable();
        let unique = names.windows(2).all(|pair| pair[0] != pair[1]);
        assert!(unique, "{path:?}: two cases have the same name");
        cases
    }
}

impl Step {
    /// The requests of this step: one, or one a variant, each with its name.
    pub fn expand(&self) -> Vec<(String, Step)> {
        let name = match &self.events {
            Some(watch) => format!("events of {watch}"),
            None => self.request.clone(),
        };
        if self.variants.is_empty() {
            return vec![(name, self.clone())];
        }
        let one = |(title, change): (&String, &Value)| {
            let mut step = self.clone();
            step.variants.clear();
            let mut body = self.body.clone().unwrap_or_default();
            json_patch::merge(&mut body, change);
            step.body = Some(body);
            step.show.get_or_insert_default();
            (format!("{name} # {title}"), step)
        };
        self.variants.iter().map(one).collect()
    }

    /// The full content type.
    pub fn content_type(&self) -> &str {
        match self.content_type.as_deref() {
            None => "application/json",
            Some("strategic") => "application/strategic-merge-patch+json",
            Some("merge") => "application/merge-patch+json",
            Some("json") => "application/json-patch+json",
            Some("apply") => "application/apply-patch+yaml",
            Some(other) => other,
        }
    }
}

/// Where the cases and their answers are.
pub fn folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/oracle"))
}
