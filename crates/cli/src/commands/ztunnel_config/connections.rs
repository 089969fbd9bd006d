//! `ztunnel-config connections`.

use serde_json::Value;

use super::dump::{Dump, text};
use super::target::PodFilter;
use super::{Source, View};
use crate::commands::output::table;

const HEADER: [&str; 6] = [
    "WORKLOAD",
    "DIRECTION",
    "LOCAL",
    "REMOTE",
    "REMOTE TARGET",
    "PROTOCOL",
];

/// Arguments of `ztunnel-config connections`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub source: Source,
    /// inbound or outbound; both otherwise
    #[arg(long, default_value = "")]
    direction: String,
    /// Addresses instead of names
    #[arg(long)]
    raw: bool,
    /// Only pods of this namespace
    #[arg(long)]
    workload_namespace: Option<String>,
}

/// Which connections are shown, and how.
#[derive(Debug, Default)]
pub struct Filter<'a> {
    pub direction: &'a str,
    pub raw: bool,
    pub namespace: Option<&'a str>,
    pub pod: Option<&'a PodFilter>,
}

impl Args {
    pub fn view(&self, dump: &Dump, pod: Option<&PodFilter>) -> View {
        let filter = Filter {
            direction: &self.direction,
            raw: self.raw,
            namespace: self.workload_namespace.as_deref(),
            pod,
        };
        view(dump, &filter)
    }
}

/// The connections of the pods that pass, sorted by namespace and name.
pub fn view(dump: &Dump, filter: &Filter<'_>) -> View {
    let info = |state: &Value| {
        let field = |name: &str| text(&state["info"], name).to_owned();
        (field("namespace"), field("name"))
    };
    let passes = |state: &&Value| {
        let (namespace, name) = info(state);
        filter.namespace.is_none_or(|n| namespace == n)
            && filter.pod.is_none_or(|p| p.matches(&namespace, &name))
    };
    let mut shown: Vec<&Value> = dump.states().into_iter().filter(passes).collect();
    shown.sort_by_key(|s| info(s));
    let mut rows = Vec::new();
    for state in &shown {
        let (namespace, name) = info(state);
        let workload = format!("{name}.{namespace}");
        if filter.direction != "outbound" {
            rows.extend(connections(state, "inbound").map(|c| inbound(dump, filter, &workload, c)));
        }
        if filter.direction != "inbound" {
            rows.extend(
                connections(state, "outbound").map(|c| outbound(dump, filter, &workload, c)),
            );
        }
    }
    View {
        objects: shown.into_iter().cloned().collect(),
        table: table(&HEADER, &rows, 1),
    }
}

fn connections<'a>(state: &'a Value, direction: &str) -> impl Iterator<Item = &'a Value> {
    state["connections"][direction]
        .as_array()
        .into_iter()
        .flatten()
}

fn inbound(dump: &Dump, filter: &Filter<'_>, workload: &str, connection: &Value) -> Vec<String> {
    vec![
        workload.to_owned(),
        "Inbound".to_owned(),
        named(dump, filter, text(connection, "actualDst")),
        named(dump, filter, text(connection, "src")),
        text(connection, "originalDst").to_owned(),
        text(connection, "protocol").to_owned(),
    ]
}

fn outbound(dump: &Dump, filter: &Filter<'_>, workload: &str, connection: &Value) -> Vec<String> {
    vec![
        workload.to_owned(),
        "Outbound".to_owned(),
        named(dump, filter, text(connection, "src")),
        named(dump, filter, text(connection, "actualDst")),
        named(dump, filter, text(connection, "originalDst")),
        text(connection, "protocol").to_owned(),
    ]
}

/// `address:port` with the address as a name, where it has one.
fn named(dump: &Dump, filter: &Filter<'_>, address: &str) -> String {
    if filter.raw {
        return address.to_owned();
    }
    let Ok(socket) = address.parse::<std::net::SocketAddr>() else {
        return address.to_owned();
    };
    match dump.owner_of(&socket.ip().to_string()) {
        Some(owner) => format!("{owner}:{}", socket.port()),
        None => address.to_owned(),
    }
}
