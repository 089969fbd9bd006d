//! `ztunnel-config workload`.

use serde_json::Value;

use super::dump::{Dump, addresses, text};
use super::target::PodFilter;
use super::{Source, View, same};
use crate::commands::output::table;

const HEADER: [&str; 6] = [
    "NAMESPACE",
    "POD NAME",
    "ADDRESS",
    "NODE",
    "WAYPOINT",
    "PROTOCOL",
];

/// Arguments of `ztunnel-config workload`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub source: Source,
    /// Only the workload with this address
    #[arg(long)]
    address: Option<String>,
    /// Only workloads of this namespace
    #[arg(long)]
    workload_namespace: Option<String>,
    /// Only workloads of this node
    #[arg(long)]
    workload_node: Option<String>,
}

/// Which workloads are shown.
#[derive(Debug, Default)]
pub struct Filter<'a> {
    pub address: Option<&'a str>,
    pub namespace: Option<&'a str>,
    pub node: Option<&'a str>,
    pub pod: Option<&'a PodFilter>,
}

impl Args {
    pub fn view(&self, dump: &Dump, pod: Option<&PodFilter>) -> View {
        let filter = Filter {
            address: self.address.as_deref(),
            namespace: self.workload_namespace.as_deref(),
            node: self.workload_node.as_deref(),
            pod,
        };
        view(dump, &filter)
    }
}

/// The workloads that pass, sorted by namespace, name and node.
pub fn view(dump: &Dump, filter: &Filter<'_>) -> View {
    let passes = |w: &&Value| {
        filter
            .address
            .is_none_or(|a| addresses(w).any(|own| same(own, a)))
            && filter
                .namespace
                .is_none_or(|n| same(text(w, "namespace"), n))
            && filter.node.is_none_or(|n| same(text(w, "node"), n))
            && filter
                .pod
                .is_none_or(|p| p.matches(text(w, "namespace"), text(w, "name")))
    };
    let mut shown: Vec<&Value> = dump.workloads.iter().filter(passes).collect();
    let key =
        |w: &&Value| [text(w, "namespace"), text(w, "name"), text(w, "node")].map(str::to_owned);
    shown.sort_by_key(key);
    let rows: Vec<Vec<String>> = shown.iter().map(|w| row(dump, w)).collect();
    View {
        objects: shown.into_iter().cloned().collect(),
        table: table(&HEADER, &rows, 1),
    }
}

fn row(dump: &Dump, workload: &Value) -> Vec<String> {
    let ips: Vec<&str> = addresses(workload).collect();
    let address = if ips.is_empty() {
        text(workload, "hostname").to_owned()
    } else {
        ips.join(",")
    };
    vec![
        text(workload, "namespace").to_owned(),
        text(workload, "name").to_owned(),
        address,
        text(workload, "node").to_owned(),
        dump.waypoint(workload),
        text(workload, "protocol").to_owned(),
    ]
}
