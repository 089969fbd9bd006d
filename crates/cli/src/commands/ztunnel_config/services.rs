//! `ztunnel-config service`.

use serde_json::Value;

use super::dump::{Dump, text, vips};
use super::{Source, View, same};
use crate::commands::output::table;

const HEADER: [&str; 5] = [
    "NAMESPACE",
    "SERVICE NAME",
    "SERVICE VIP",
    "WAYPOINT",
    "ENDPOINTS",
];

/// Arguments of `ztunnel-config service`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub source: Source,
    /// Only services of this namespace
    #[arg(long)]
    service_namespace: Option<String>,
}

impl Args {
    pub fn view(&self, dump: &Dump) -> View {
        view(dump, self.service_namespace.as_deref())
    }
}

/// The services of a namespace, or all, sorted by namespace, name and host name.
pub fn view(dump: &Dump, namespace: Option<&str>) -> View {
    let passes = |s: &&Value| namespace.is_none_or(|n| same(text(s, "namespace"), n));
    let mut shown: Vec<&Value> = dump.services.iter().filter(passes).collect();
    let key = |s: &&Value| {
        [text(s, "namespace"), text(s, "name"), text(s, "hostname")].map(str::to_owned)
    };
    shown.sort_by_key(key);
    let rows: Vec<Vec<String>> = shown.iter().map(|s| row(dump, s)).collect();
    View {
        objects: shown.into_iter().cloned().collect(),
        table: table(&HEADER, &rows, 1),
    }
}

fn row(dump: &Dump, service: &Value) -> Vec<String> {
    vec![
        text(service, "namespace").to_owned(),
        text(service, "name").to_owned(),
        vips(service).collect::<Vec<_>>().join(","),
        dump.waypoint(service),
        endpoints(dump, service),
    ]
}

/// `healthy/all`; healthy is what the endpoint's workload says.
fn endpoints(dump: &Dump, service: &Value) -> String {
    let Some(endpoints) = service["endpoints"].as_object() else {
        return "0/0".to_owned();
    };
    let healthy = |(key, endpoint): &(&String, &Value)| {
        let uid = endpoint["workloadUid"].as_str().unwrap_or(key);
        let workload = dump.workloads.iter().find(|w| text(w, "uid") == uid);
        workload.is_some_and(|w| text(w, "status") == "Healthy")
    };
    format!(
        "{}/{}",
        endpoints.iter().filter(healthy).count(),
        endpoints.len()
    )
}
