//! Columns of configuration: maps, secrets, accounts, roles, leases, definitions.

use super::{
    columns::{Column, age, at, count, name, number, text},
    text as t,
};
use crate::object;
use serde_json::Value;

/// Columns of config maps.
pub fn config_maps() -> Vec<Column> {
    vec![
        name(),
        count("Data", &["/data", "/binaryData"]).said_to_be("string"),
        age(),
    ]
}

/// Columns of secrets.
pub fn secrets() -> Vec<Column> {
    vec![
        name(),
        at("Type", "/type"),
        count("Data", &["/data"]).said_to_be("string"),
        age(),
    ]
}

/// Columns of service accounts.
pub fn service_accounts() -> Vec<Column> {
    vec![name(), age()]
}

/// Columns of leases.
pub fn leases() -> Vec<Column> {
    vec![
        name(),
        text("Holder", |l| object::text(l, "/spec/holderIdentity").into()),
        age(),
    ]
}

/// Columns of roles and cluster roles.
pub fn roles() -> Vec<Column> {
    let created = text("Created At", |r| {
        object::text(r, "/metadata/creationTimestamp").into()
    })
    .said_to_be("date");
    vec![name(), created]
}

/// Columns of role bindings and cluster role bindings.
pub fn bindings() -> Vec<Column> {
    let of = |kind: &'static str| {
        move |b: &Value| {
            let subjects = t::list(b, "/subjects")
                .iter()
                .filter(|s| object::text(s, "/kind") == kind);
            let names: Vec<String> = subjects
                .map(|s| match (kind, object::text(s, "/namespace")) {
                    ("ServiceAccount", ns) => format!("{ns}/{}", object::text(s, "/name")),
                    _ => object::text(s, "/name").to_string(),
                })
                .collect();
            names.join(", ")
        }
    };
    let role = |b: &Value| {
        format!(
            "{}/{}",
            object::text(b, "/roleRef/kind"),
            object::text(b, "/roleRef/name")
        )
    };
    vec![
        name(),
        text("Role", role),
        age(),
        text("Users", of("User")).wide(),
        text("Groups", of("Group")).wide(),
        text("ServiceAccounts", of("ServiceAccount")).wide(),
    ]
}

/// Columns of custom resource definitions.
pub fn definitions() -> Vec<Column> {
    vec![
        name(),
        text("Created At", |d| {
            object::text(d, "/metadata/creationTimestamp").into()
        }),
    ]
}

/// Columns of webhook configurations.
pub fn webhooks() -> Vec<Column> {
    vec![name(), count("Webhooks", &["/webhooks"]), age()]
}

/// Columns of priority classes.
pub fn priority_classes() -> Vec<Column> {
    vec![
        name(),
        number("Value", "/value"),
        Column::new("Global-Default", "boolean", |c| {
            (c.get("globalDefault") == Some(&Value::Bool(true))).into()
        }),
        age(),
        at("PreemptionPolicy", "/preemptionPolicy"),
    ]
}
