//! `ztunnel-config policy`.

use serde_json::Value;

use super::dump::{Dump, text};
use super::{Source, View, same};
use crate::commands::output::table;

const HEADER: [&str; 4] = ["NAMESPACE", "POLICY NAME", "ACTION", "SCOPE"];

/// Arguments of `ztunnel-config policy`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub source: Source,
    /// Only policies of this namespace
    #[arg(long)]
    policy_namespace: Option<String>,
}

impl Args {
    pub fn view(&self, dump: &Dump) -> View {
        view(dump, self.policy_namespace.as_deref())
    }
}

/// The policies of a namespace, or all, sorted by namespace and name.
pub fn view(dump: &Dump, namespace: Option<&str>) -> View {
    let passes = |p: &&Value| namespace.is_none_or(|n| same(text(p, "namespace"), n));
    let mut shown: Vec<&Value> = dump.policies.iter().filter(passes).collect();
    shown.sort_by_key(|p| [text(p, "namespace"), text(p, "name")].map(str::to_owned));
    let row = |p: &&Value| {
        ["namespace", "name", "action", "scope"]
            .map(|f| text(p, f).to_owned())
            .to_vec()
    };
    let rows: Vec<Vec<String>> = shown.iter().map(row).collect();
    View {
        objects: shown.into_iter().cloned().collect(),
        table: table(&HEADER, &rows, 1),
    }
}
