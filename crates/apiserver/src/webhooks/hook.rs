//! Webhooks as they are configured: read once per state of a configuration.

use crate::{
    api::Api,
    cel::{Program, Type},
    object::{self, Object},
    selectors::LabelSelector,
};
use parking_lot::Mutex;
use serde_json::Value;
use std::{collections::HashMap, sync::Arc, time::Duration};

/// Versions of `AdmissionReview` that are spoken.
const VERSIONS: [&str; 2] = ["v1", "v1beta1"];

/// Whether webhooks may change objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// `MutatingWebhookConfiguration`.
    Mutating,
    /// `ValidatingWebhookConfiguration`.
    Validating,
}

impl Stage {
    fn storage(self) -> &'static str {
        match self {
            Stage::Mutating => "mutatingwebhookconfigurations.admissionregistration.k8s.io",
            Stage::Validating => "validatingwebhookconfigurations.admissionregistration.k8s.io",
        }
    }
}

/// One webhook.
#[derive(Debug)]
pub struct Hook {
    /// Its name, as errors show it.
    pub name: String,
    /// Which requests it wants.
    pub rules: Vec<Rule>,
    /// Whether other versions of a resource count as the resource.
    pub equivalent: bool,
    /// Labels of the namespace.
    pub namespaces: Option<LabelSelector>,
    /// Labels of the object.
    pub objects: Option<LabelSelector>,
    /// Conditions that must hold, by name. The text says why one is none.
    pub conditions: Vec<(String, Result<Program, String>)>,
    /// Whether requests go on when it does not answer.
    pub ignore_failure: bool,
    /// Whether it can be asked about dry runs; None where it does not say.
    pub dry_run: Option<bool>,
    /// How long an answer may take.
    pub timeout: Duration,
    /// Whether it is asked again when a later one has changed the object.
    pub again: bool,
    /// The first version of `AdmissionReview` that it understands and this server speaks.
    pub version: Option<&'static str>,
    /// Where it is.
    pub client: ClientConfig,
}

/// One rule of a webhook.
#[derive(Debug)]
pub struct Rule {
    /// CREATE, UPDATE, DELETE, CONNECT or `*`.
    pub operations: Vec<String>,
    /// API groups or `*`.
    pub groups: Vec<String>,
    /// API versions or `*`.
    pub versions: Vec<String>,
    /// `pods`, `pods/status`, `*/scale`, `*`, `*/*`.
    pub resources: Vec<String>,
    /// Cluster, Namespaced or `*`.
    pub scope: String,
}

/// Where a webhook is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientConfig {
    /// The URL or the service.
    pub target: Target,
    /// The CA of its certificate, PEM.
    pub ca: String,
}

/// The URL or the service of a webhook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// An `https` URL.
    Url(String),
    /// A service of the cluster.
    Service {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// The path of the request, with its slash.
        path: String,
        /// The service's port.
        port: u16,
    },
}

/// The names that conditions of webhooks can use.
pub fn variables() -> [(&'static str, Type); 3] {
    ["object", "oldObject", "request"].map(|name| (name, Type::Dyn))
}

fn texts(value: &Value, pointer: &str) -> Vec<String> {
    let list = value.pointer(pointer).and_then(Value::as_array);
    let texts = list.into_iter().flatten().filter_map(Value::as_str);
    texts.map(str::to_string).collect()
}

fn list<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    value
        .get(key)
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
}

impl Hook {
    fn read(value: &Value) -> Hook {
        let text = |key: &str| object::text(value, &format!("/{key}"));
        let seconds = value.get("timeoutSeconds").and_then(Value::as_u64);
        Hook {
            name: text("name").into(),
            rules: list(value, "rules").map(Rule::read).collect(),
            equivalent: text("matchPolicy") != "Exact",
            namespaces: value
                .get("namespaceSelector")
                .and_then(LabelSelector::from_object),
            objects: value
                .get("objectSelector")
                .and_then(LabelSelector::from_object),
            conditions: list(value, "matchConditions").map(condition).collect(),
            ignore_failure: text("failurePolicy") == "Ignore",
            dry_run: value
                .get("sideEffects")
                .and_then(Value::as_str)
                .map(|effects| matches!(effects, "None" | "NoneOnDryRun")),
            timeout: Duration::from_secs(seconds.unwrap_or(10)),
            again: text("reinvocationPolicy") == "IfNeeded",
            version: texts(value, "/admissionReviewVersions")
                .iter()
                .find_map(|own| VERSIONS.into_iter().find(|spoken| spoken == own)),
            client: ClientConfig::read(value.get("clientConfig").unwrap_or(&Value::Null)),
        }
    }
}

fn condition(value: &Value) -> (String, Result<Program, String>) {
    let name = object::text(value, "/name").to_string();
    (
        name,
        Program::compile(object::text(value, "/expression"), &variables()),
    )
}

impl Rule {
    fn read(value: &Value) -> Rule {
        Rule {
            operations: texts(value, "/operations"),
            groups: texts(value, "/apiGroups"),
            versions: texts(value, "/apiVersions"),
            resources: texts(value, "/resources"),
            scope: object::text(value, "/scope").into(),
        }
    }
}

impl ClientConfig {
    fn read(value: &Value) -> ClientConfig {
        use base64::{Engine, engine::general_purpose::STANDARD};
        let text = |pointer: &str| object::text(value, pointer).to_string();
        let port = value.pointer("/service/port").and_then(Value::as_u64);
        let path = text("/service/path");
        let target = match value.get("service").filter(|s| s.is_object()) {
            None => Target::Url(text("/url")),
            Some(_) => Target::Service {
                namespace: text("/service/namespace"),
                name: text("/service/name"),
                path: if path.is_empty() { "/".into() } else { path },
                port: port.and_then(|p| u16::try_from(p).ok()).unwrap_or(443),
            },
        };
        let ca = STANDARD.decode(text("/caBundle")).unwrap_or_default();
        ClientConfig {
            target,
            ca: String::from_utf8_lossy(&ca).into_owned(),
        }
    }
}

/// The webhooks of all configurations, compiled.
#[derive(Debug, Default)]
pub struct Hooks {
    compiled: Mutex<HashMap<(Stage, String), Compiled>>,
}

#[derive(Debug)]
struct Compiled {
    revision: u64,
    hooks: Vec<Arc<Hook>>,
}

impl Hooks {
    /// The webhooks of a stage, by the names of their configurations and then in their order.
    pub fn of(&self, api: &Api, stage: Stage) -> Vec<Arc<Hook>> {
        let configurations = api.store.list(stage.storage(), None).1;
        let mut compiled = self.compiled.lock();
        if configurations.is_empty() {
            compiled.retain(|(of, _), _| *of != stage);
            return Vec::new();
        }
        let hooks = configurations
            .iter()
            .flat_map(|c| of_one(&mut compiled, stage, c));
        hooks.collect()
    }
}

fn of_one(
    compiled: &mut HashMap<(Stage, String), Compiled>,
    stage: Stage,
    configuration: &Object,
) -> Vec<Arc<Hook>> {
    let value = configuration.value();
    let revision = configuration.revision();
    let key = (stage, object::name(value).to_string());
    if let Some(known) = compiled.get(&key)
        && known.revision == revision
    {
        return known.hooks.clone();
    }
    let hooks: Vec<Arc<Hook>> = list(value, "webhooks")
        .map(|h| Arc::new(Hook::read(h)))
        .collect();
    let state = Compiled {
        revision,
        hooks: hooks.clone(),
    };
    compiled.insert(key, state);
    hooks
}
