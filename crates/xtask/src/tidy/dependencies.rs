//! Who may depend on whom. Roles never import each other: they meet on the wire.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::Context;
use serde_json::Value;

use super::Violation;

/// The crates of ours that a crate may use directly. A crate may also use what those may use.
const MAY_USE: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("proto", &["model"]),
    ("runtime", &["model"]),
    ("wire", &["proto", "runtime"]),
    ("transport", &["model", "runtime"]),
    ("proxy-core", &["wire", "transport"]),
    ("ztunnel", &["proxy-core"]),
    ("l7", &["proxy-core"]),
    ("kube-api", &["model"]),
    ("translate", &["kube-api"]),
    ("charts", &["kube-api"]),
    ("control", &["wire", "translate", "charts"]),
    ("cni", &["wire", "kube-api"]),
    ("cni-plugin", &[]),
    ("operator", &["charts", "runtime"]),
    ("apiserver", &["runtime"]),
    ("node-agent", &["runtime"]),
    ("local", &["apiserver", "node-agent"]),
    ("samples", &[]),
    ("testkit", &[]),
    ("bench", &["testkit", "ztunnel"]),
    ("xtask", &["testkit", "apiserver", "node-agent"]),
];

/// May use everything: it is the sum of the roles.
const SUM: &str = "cli";

/// The data path never waits for, and never links, a Kubernetes client.
const NO_KUBERNETES: &[&str] = &[
    "model",
    "proto",
    "runtime",
    "wire",
    "transport",
    "proxy-core",
    "ztunnel",
    "l7",
];

pub(super) fn check(root: &Path) -> anyhow::Result<Vec<Violation>> {
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--no-deps",
            "--format-version",
            "1",
            "--offline",
        ])
        .current_dir(root)
        .output()
        .context("cannot run cargo metadata")?;
    let metadata: Value =
        serde_json::from_slice(&output.stdout).context("cannot read cargo metadata")?;
    Ok(judge(&graph(&metadata)))
}

/// Crate → its direct dependencies (development ones apart), names without our prefix.
type Graph = BTreeMap<String, Vec<String>>;

fn short(name: &str) -> String {
    name.strip_prefix("ambit-").unwrap_or(name).to_owned()
}

fn graph(metadata: &Value) -> Graph {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    list(&metadata["packages"])
        .iter()
        .map(|package| {
            let dependencies = list(&package["dependencies"])
                .iter()
                .filter(|d| d["kind"] != "dev")
                .map(|d| text(&d["name"]))
                .collect();
            (short(&text(&package["name"])), dependencies)
        })
        .collect()
}

fn judge(graph: &Graph) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (name, dependencies) in graph.iter().filter(|(name, _)| *name != SUM) {
        let place = format!("crates/{name}/Cargo.toml");
        let Some(allowed) = allowed(name) else {
            violations.push(Violation::new(
                place,
                "a crate that the table of tidy does not know",
            ));
            continue;
        };
        for dependency in dependencies {
            let ours = short(dependency);
            if ours != *dependency && !allowed.contains(&ours) {
                let rule = format!(
                    "{name} may not use {ours}; it may use {}",
                    allowed.join(", ")
                );
                violations.push(Violation::new(place.clone(), rule));
            }
            if NO_KUBERNETES.contains(&name.as_str()) && dependency.starts_with("kube") {
                violations.push(Violation::new(
                    place.clone(),
                    format!("{dependency}: nothing on the data path links a Kubernetes client"),
                ));
            }
        }
    }
    violations
}

/// What a crate may use, through others too; `None` for a crate that is not in the table.
fn allowed(name: &str) -> Option<Vec<String>> {
    let (_, direct) = MAY_USE.iter().find(|(n, _)| *n == name)?;
    let mut all: Vec<String> = Vec::new();
    for used in *direct {
        all.push((*used).to_owned());
        all.extend(allowed(used).unwrap_or_default());
    }
    all.sort();
    all.dedup();
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(name: &str, dependency: &str) -> Vec<Violation> {
        judge(&Graph::from([(
            name.to_owned(),
            vec![dependency.to_owned()],
        )]))
    }

    #[test]
    fn roles_do_not_import_each_other() {
        assert_eq!(one("ztunnel", "ambit-control").len(), 1);
        assert_eq!(one("cni", "ambit-ztunnel").len(), 1);
        assert!(
            one("ztunnel", "ambit-model").is_empty(),
            "through proxy-core"
        );
        assert!(one("cli", "ambit-ztunnel").is_empty());
    }

    #[test]
    fn the_data_path_links_no_kubernetes_client() {
        assert_eq!(one("transport", "kube").len(), 1);
        assert!(one("control", "kube").is_empty());
    }

    #[test]
    fn an_unknown_crate_is_reported() {
        assert_eq!(one("new", "serde").len(), 1);
    }
}
