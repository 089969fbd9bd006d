//! Columns of nodes, namespaces and events.

use super::{
    columns::{Column, age, at, name, text},
    text as t,
};
use crate::object;
use serde_json::Value;

/// Columns of nodes.
pub fn nodes() -> Vec<Column> {
    vec![
        name(),
        text("Status", node_status),
        text("Roles", node_roles),
        age(),
        text("Version", |n| {
            object::text(n, "/status/nodeInfo/kubeletVersion").into()
        }),
        text("Internal-IP", |n| node_address(n, "InternalIP")).wide(),
        text("External-IP", |n| node_address(n, "ExternalIP")).wide(),
        text("OS-Image", |n| {
            unknown(object::text(n, "/status/nodeInfo/osImage"))
        })
        .wide(),
        text("Kernel-Version", |n| {
            unknown(object::text(n, "/status/nodeInfo/kernelVersion"))
        })
        .wide(),
        text("Container-Runtime", |n| {
            unknown(object::text(n, "/status/nodeInfo/containerRuntimeVersion"))
        })
        .wide(),
    ]
}

fn unknown(text: &str) -> String {
    if text.is_empty() {
        "<unknown>".into()
    } else {
        text.into()
    }
}

fn node_status(node: &Value) -> String {
    let mut status = match t::condition(node, "Ready") {
        "True" => "Ready",
        "" => "Unknown",
        _ => "NotReady",
    }
    .to_string();
    if node.pointer("/spec/unschedulable") == Some(&Value::Bool(true)) {
        status += ",SchedulingDisabled";
    }
    status
}

fn node_roles(node: &Value) -> String {
    let labels = node.pointer("/metadata/labels").and_then(Value::as_object);
    let mut roles: Vec<&str> = labels
        .into_iter()
        .flatten()
        .filter_map(
            |(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
                Some(role) if !role.is_empty() => Some(role),
                _ if key == "kubernetes.io/role" => value.as_str().filter(|v| !v.is_empty()),
                _ => None,
            },
        )
        .collect();
    roles.sort_unstable();
    roles.dedup();
    t::joined(roles)
}

fn node_address(node: &Value, kind: &str) -> String {
    t::list(node, "/status/addresses")
        .iter()
        .find(|a| object::text(a, "/type") == kind)
        .map_or_else(
            || "<none>".into(),
            |a| object::text(a, "/address").to_string(),
        )
}

/// Columns of namespaces.
pub fn namespaces() -> Vec<Column> {
    vec![
        name(),
        text("Status", |n| object::text(n, "/status/phase").into()),
        age(),
    ]
}

/// Columns of events, in the shape of either group.
pub fn events() -> Vec<Column> {
    vec![
        text("Last Seen", |e| {
            seen(
                e,
                &[
                    "/series/lastObservedTime",
                    "/lastTimestamp",
                    "/deprecatedLastTimestamp",
                    "/eventTime",
                ],
            )
        }),
        at("Type", "/type"),
        at("Reason", "/reason"),
        text("Object", about),
        text("Subobject", |e| {
            first(e, &["/involvedObject/fieldPath", "/regarding/fieldPath"])
        })
        .wide(),
        text("Source", source).wide(),
        text("Message", |e| {
            first(e, &["/message", "/note"]).trim().to_string()
        }),
        text("First Seen", |e| {
            seen(
                e,
                &["/firstTimestamp", "/deprecatedFirstTimestamp", "/eventTime"],
            )
        })
        .wide(),
        Column::new("Count", "string", |e| count(e).into()).wide(),
        name().wide(),
    ]
}

fn first(event: &Value, pointers: &[&str]) -> String {
    let found = pointers
        .iter()
        .map(|p| object::text(event, p))
        .find(|t| !t.is_empty());
    found.unwrap_or_default().to_string()
}

fn seen(event: &Value, pointers: &[&str]) -> String {
    t::age(&first(event, pointers))
}

fn about(event: &Value) -> String {
    let kind = first(event, &["/involvedObject/kind", "/regarding/kind"]).to_lowercase();
    format!(
        "{kind}/{}",
        first(event, &["/involvedObject/name", "/regarding/name"])
    )
}

fn source(event: &Value) -> String {
    let component = first(
        event,
        &[
            "/source/component",
            "/deprecatedSource/component",
            "/reportingComponent",
            "/reportingController",
        ],
    );
    let host = first(
        event,
        &[
            "/source/host",
            "/deprecatedSource/host",
            "/reportingInstance",
        ],
    );
    if host.is_empty() {
        component
    } else {
        format!("{component}, {host}")
    }
}

fn count(event: &Value) -> i64 {
    let pointers = ["/series/count", "/count", "/deprecatedCount"];
    pointers
        .iter()
        .map(|p| t::number(event, p))
        .find(|n| *n > 0)
        .unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn nodes_say_what_kubectl_shows() {
        let node = json!({"metadata": {"name": "n", "labels": {"node-role.kubernetes.io/control-plane": ""}},
            "spec": {"unschedulable": true},
            "status": {"conditions": [{"type": "Ready", "status": "True"}],
                "addresses": [{"type": "InternalIP", "address": "1.2.3.4"}], "nodeInfo": {"kubeletVersion": "v1"}}});
        let cells: Vec<Value> = nodes().iter().map(|c| c.cell(&node)).collect();
        assert_eq!(cells[1], "Ready,SchedulingDisabled");
        assert_eq!(cells[2], "control-plane");
        assert_eq!(cells[5], "1.2.3.4");
        assert_eq!(cells[6], "<none>");
    }
}
