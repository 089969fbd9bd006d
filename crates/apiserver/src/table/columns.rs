//! What a column is, and which columns each kind has.

use super::{cluster, config, custom, network, pods, text, workloads};
use crate::{
    object,
    registry::{Resource, Schema},
};
use serde_json::{Value, json};
use std::fmt;

/// Computes a cell.
type Cell = Box<dyn Fn(&Value) -> Value + Send + Sync>;

/// One column of a table.
pub struct Column {
    /// Heading as in the definition; kubectl shows it in capitals.
    pub name: String,
    /// string, integer, number, boolean, date.
    pub kind: String,
    /// `name` for the column of names.
    pub format: String,
    /// For people.
    pub description: String,
    /// 0 is always shown, others with `-o wide`.
    pub priority: i64,
    cell: Cell,
}

impl fmt::Debug for Column {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Column").field("name", &self.name).finish()
    }
}

impl Column {
    /// A column that is always shown.
    pub fn new(
        name: &str,
        kind: &str,
        cell: impl Fn(&Value) -> Value + Send + Sync + 'static,
    ) -> Self {
        Column {
            name: name.into(),
            kind: kind.into(),
            format: String::new(),
            description: String::new(),
            priority: 0,
            cell: Box::new(cell),
        }
    }

    /// Announced as this type, whatever its cells are: Kubernetes calls some counts strings.
    pub fn said_to_be(mut self, kind: &str) -> Self {
        self.kind = kind.into();
        self
    }

    /// Shown only with `-o wide`.
    pub fn wide(mut self) -> Self {
        self.priority = 1;
        self
    }

    /// The column's definition.
    pub fn heading(&self) -> Value {
        json!({"name": self.name, "type": self.kind, "format": self.format,
               "description": self.description, "priority": self.priority})
    }

    /// The cell of an object.
    pub fn cell(&self, value: &Value) -> Value {
        (self.cell)(value)
    }
}

/// A column of text.
pub fn text(name: &str, cell: impl Fn(&Value) -> String + Send + Sync + 'static) -> Column {
    Column::new(name, "string", move |o| cell(o).into())
}

/// A column with the text at a JSON pointer, or `<none>`.
pub fn at(name: &str, pointer: &'static str) -> Column {
    text(name, move |o| text::or_none(object::text(o, pointer)))
}

/// A column with the number at a JSON pointer, or 0.
pub fn number(name: &str, pointer: &'static str) -> Column {
    Column::new(name, "integer", move |o| text::number(o, pointer).into())
}

/// A column with how many entries stand at some JSON pointers.
pub fn count(name: &str, pointers: &'static [&'static str]) -> Column {
    let entries = |v: &Value| match v {
        Value::Array(list) => list.len(),
        Value::Object(map) => map.len(),
        _ => 0,
    };
    Column::new(name, "integer", move |o| {
        pointers
            .iter()
            .filter_map(|p| o.pointer(p))
            .map(entries)
            .sum::<usize>()
            .into()
    })
}

/// `Name`.
pub fn name() -> Column {
    let mut column = Column::new("Name", "string", |o| object::name(o).into());
    column.format = "name".into();
    column
}

/// `Age`.
pub fn age() -> Column {
    text("Age", |o| {
        text::age(object::text(o, "/metadata/creationTimestamp"))
    })
}

/// The columns of a resource. Kinds without columns of their own show name and time, as the real
/// API server does for kinds that it has no printer for.
pub fn columns_of(resource: &Resource) -> Vec<Column> {
    if let Schema::Custom(version) = &resource.schema {
        return custom::columns(version);
    }
    match (resource.group.as_ref(), resource.kind.as_ref()) {
        ("", "Pod") => pods::columns(),
        ("", "Node") => cluster::nodes(),
        ("", "Namespace") => cluster::namespaces(),
        ("", "Event") | ("events.k8s.io", "Event") => cluster::events(),
        ("", "Service") => network::services(),
        ("", "Endpoints") => network::endpoints(),
        ("discovery.k8s.io", "EndpointSlice") => network::endpoint_slices(),
        ("networking.k8s.io", "NetworkPolicy") => network::policies(),
        ("networking.k8s.io", "Ingress") => network::ingresses(),
        ("networking.k8s.io", "IngressClass") => network::ingress_classes(),
        ("", "ConfigMap") => config::config_maps(),
        ("", "Secret") => config::secrets(),
        ("", "ServiceAccount") => config::service_accounts(),
        ("coordination.k8s.io", "Lease") => config::leases(),
        ("rbac.authorization.k8s.io", "Role" | "ClusterRole") => config::roles(),
        ("rbac.authorization.k8s.io", _) => config::bindings(),
        ("apiextensions.k8s.io", _) => config::definitions(),
        ("admissionregistration.k8s.io", kind) if kind.ends_with("WebhookConfiguration") => {
            config::webhooks()
        }
        ("scheduling.k8s.io", _) => config::priority_classes(),
        ("apps", "Deployment") => workloads::deployments(),
        ("apps", "ReplicaSet") => workloads::replica_sets(),
        ("", "ReplicationController") => workloads::replica_sets(),
        ("apps", "DaemonSet") => workloads::daemon_sets(),
        ("apps", "StatefulSet") => workloads::stateful_sets(),
        ("apps", "ControllerRevision") => workloads::revisions(),
        ("batch", "Job") => workloads::jobs(),
        ("batch", "CronJob") => workloads::cron_jobs(),
        ("autoscaling", _) => workloads::autoscalers(),
        ("policy", _) => workloads::budgets(),
        _ => vec![name(), age()],
    }
}
