//! Columns of the kinds that make or govern pods.

use super::{
    columns::{Column, age, at, name, number, text},
    text as t,
};
use crate::object;
use serde_json::Value;

/// `Containers`, `Images` and `Selector`, shown with `-o wide`.
fn details() -> [Column; 3] {
    let of = |key: &'static str| {
        move |o: &Value| {
            let containers = t::list(o, "/spec/template/spec/containers");
            let texts: Vec<&str> = containers.iter().map(|c| object::text(c, key)).collect();
            texts.join(",")
        }
    };
    [
        text("Containers", of("/name")).wide(),
        text("Images", of("/image")).wide(),
        text("Selector", |o| t::selector(o, "/spec/selector")).wide(),
    ]
}

fn with_details(mut columns: Vec<Column>) -> Vec<Column> {
    columns.extend(details());
    columns
}

/// `ready/wanted`.
fn ready() -> Column {
    text("Ready", |o| {
        format!(
            "{}/{}",
            t::number(o, "/status/readyReplicas"),
            t::number(o, "/spec/replicas")
        )
    })
}

/// Columns of scales.
pub fn scales() -> Vec<Column> {
    vec![
        name(),
        number("Desired", "/spec/replicas"),
        number("Available", "/status/replicas"),
        age(),
    ]
}

/// Columns of deployments.
pub fn deployments() -> Vec<Column> {
    with_details(vec![
        name(),
        ready(),
        number("Up-to-date", "/status/updatedReplicas").said_to_be("string"),
        number("Available", "/status/availableReplicas").said_to_be("string"),
        age(),
    ])
}

/// Columns of replica sets and replication controllers.
pub fn replica_sets() -> Vec<Column> {
    with_details(vec![
        name(),
        number("Desired", "/spec/replicas"),
        number("Current", "/status/replicas"),
        number("Ready", "/status/readyReplicas"),
        age(),
    ])
}

/// Columns of daemon sets.
pub fn daemon_sets() -> Vec<Column> {
    with_details(vec![
        name(),
        number("Desired", "/status/desiredNumberScheduled"),
        number("Current", "/status/currentNumberScheduled"),
        number("Ready", "/status/numberReady"),
        number("Up-to-date", "/status/updatedNumberScheduled"),
        number("Available", "/status/numberAvailable"),
        text("Node Selector", |o| {
            t::labels(o.pointer("/spec/template/spec/nodeSelector"))
        }),
        age(),
    ])
}

/// Columns of stateful sets.
pub fn stateful_sets() -> Vec<Column> {
    let [containers, images, _] = details();
    vec![name(), ready(), age(), containers, images]
}

/// Columns of controller revisions.
pub fn revisions() -> Vec<Column> {
    let controller = |o: &Value| {
        let owners = t::list(o, "/metadata/ownerReferences");
        let owner = owners
            .iter()
            .find(|r| r.get("controller") == Some(&Value::Bool(true)));
        owner.map_or_else(
            || "<none>".into(),
            |r| {
                let group = object::text(r, "/apiVersion")
                    .split_once('/')
                    .map_or("", |(g, _)| g);
                let kind =
                    crate::status::qualified(group, &object::text(r, "/kind").to_lowercase());
                format!("{kind}/{}", object::text(r, "/name"))
            },
        )
    };
    vec![
        name(),
        text("Controller", controller),
        number("Revision", "/revision"),
        age(),
    ]
}

/// Columns of jobs.
pub fn jobs() -> Vec<Column> {
    let status = |j: &Value| {
        match (
            t::condition(j, "Complete"),
            t::condition(j, "Failed"),
            t::condition(j, "Suspended"),
        ) {
            ("True", _, _) => "Complete",
            (_, "True", _) => "Failed",
            (_, _, "True") => "Suspended",
            _ => "Running",
        }
        .to_string()
    };
    let completions = |j: &Value| {
        let wanted = j
            .pointer("/spec/completions")
            .and_then(Value::as_i64)
            .unwrap_or(1);
        format!("{}/{wanted}", t::number(j, "/status/succeeded"))
    };
    let duration = |j: &Value| {
        let time = |p: &str| object::text(j, p).parse::<jiff::Timestamp>().ok();
        time("/status/startTime").map_or_else(String::new, |start| {
            let end = time("/status/completionTime").unwrap_or_else(jiff::Timestamp::now);
            t::duration(end.as_second() - start.as_second())
        })
    };
    with_details(vec![
        name(),
        text("Status", status),
        text("Completions", completions),
        text("Duration", duration),
        age(),
    ])
}

/// Columns of cron jobs.
pub fn cron_jobs() -> Vec<Column> {
    let last = |c: &Value| match object::text(c, "/status/lastScheduleTime") {
        "" => "<none>".to_string(),
        time => t::age(time),
    };
    vec![
        name(),
        at("Schedule", "/spec/schedule"),
        at("Timezone", "/spec/timeZone"),
        text("Suspend", |c| {
            if c.pointer("/spec/suspend") == Some(&Value::Bool(true)) {
                "True"
            } else {
                "False"
            }
            .into()
        }),
        Column::new("Active", "integer", |c| {
            t::list(c, "/status/active").len().into()
        }),
        text("Last Schedule", last),
        age(),
    ]
}

/// Columns of horizontal pod autoscalers.
pub fn autoscalers() -> Vec<Column> {
    let reference = |h: &Value| {
        format!(
            "{}/{}",
            object::text(h, "/spec/scaleTargetRef/kind"),
            object::text(h, "/spec/scaleTargetRef/name")
        )
    };
    vec![
        name(),
        text("Reference", reference),
        text("Targets", targets),
        text("MinPods", |h| {
            let min = h.pointer("/spec/minReplicas").and_then(Value::as_i64);
            min.map_or_else(|| "<unset>".into(), |n| n.to_string())
        }),
        number("MaxPods", "/spec/maxReplicas").said_to_be("string"),
        number("Replicas", "/status/currentReplicas").said_to_be("string"),
        age(),
    ]
}

/// Metrics that an autoscaler aims at; nothing measures them here.
fn targets(autoscaler: &Value) -> String {
    let metrics = t::list(autoscaler, "/spec/metrics");
    if metrics.is_empty() {
        return "<none>".into();
    }
    let texts: Vec<String> = metrics
        .iter()
        .map(|m| match object::text(m, "/type") {
            "Resource" => {
                let name = object::text(m, "/resource/name");
                match m
                    .pointer("/resource/target/averageUtilization")
                    .and_then(Value::as_i64)
                {
                    Some(percent) => format!("{name}: <unknown>/{percent}%"),
                    None => format!(
                        "{name}: <unknown>/{}",
                        object::text(m, "/resource/target/averageValue")
                    ),
                }
            }
            _ => "<unknown>".to_string(),
        })
        .collect();
    texts.join(", ")
}

/// Columns of disruption budgets.
pub fn budgets() -> Vec<Column> {
    let value = |pointer: &'static str| {
        move |b: &Value| match b.pointer(pointer) {
            Some(Value::String(s)) => s.clone(),
            Some(Value::Number(n)) => n.to_string(),
            _ => "N/A".into(),
        }
    };
    vec![
        name(),
        text("Min Available", value("/spec/minAvailable")),
        text("Max Unavailable", value("/spec/maxUnavailable")),
        number("Allowed Disruptions", "/status/disruptionsAllowed"),
        age(),
    ]
}
