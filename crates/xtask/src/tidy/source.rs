//! Rules about the text of source files.

use std::fs;
use std::path::Path;

use regex::Regex;

use super::{Violation, files, relative};

/// Longer files rarely hold one idea.
const MAX_LINES: usize = 900;

/// Crates in which `unsafe` and raw system calls may stand, each with its argument beside it.
const RAW: &[&str] = &[
    "transport",
    "wire",
    "cni",
    "node-agent",
    "local",
    "testkit",
    "bench",
];

/// Crates that serve any cluster and any workload.
const KNOW_NO_MESH: &[&str] = &["apiserver", "node-agent"];

/// Roles, which run unchanged wherever they are put.
const KNOW_NO_LOCAL_CLUSTER: &[&str] = &[
    "model",
    "proto",
    "runtime",
    "wire",
    "transport",
    "proxy-core",
    "ztunnel",
    "kube-api",
    "translate",
    "charts",
    "control",
    "cni",
    "cni-plugin",
    "operator",
];

/// A pattern that must not occur in the source of some crates.
struct Ban {
    pattern: Regex,
    crates: fn(&str) -> bool,
    rule: &'static str,
}

fn bans() -> anyhow::Result<Vec<Ban>> {
    let ban = |pattern: &str, crates, rule| -> anyhow::Result<Ban> {
        Ok(Ban {
            pattern: Regex::new(pattern)?,
            crates,
            rule,
        })
    };
    Ok(vec![
        ban(
            r"\bunsafe\s*(\{|fn|impl|extern)",
            |name| !RAW.contains(&name),
            "unsafe stands in transport, wire, cni, node-agent, local, testkit and bench alone",
        )?,
        ban(
            r"\blibc::",
            |name| !RAW.contains(&name),
            "raw system calls stand in transport, wire, cni, node-agent, local, testkit and bench alone",
        )?,
        ban(
            r"(?i)\b(istio|ztunnel|hbone|waypoint)|ambient mesh",
            |name| KNOW_NO_MESH.contains(&name),
            "this crate knows nothing of the mesh",
        )?,
        ban(
            r"(?i)ambit_local|ambit local|local cluster",
            |name| KNOW_NO_LOCAL_CLUSTER.contains(&name),
            "a role does not mention the local cluster",
        )?,
        // Written so that this file does not contain what it looks for.
        ban(
            concat!(
                r"\b(TO",
                "DO|FIX",
                "ME|XX",
                r"X|HA",
                r"CK)\b|\b(to",
                "do|unimple",
                r"mented)!"
            ),
            |_| true,
            "finish it, or write down in the documentation why it stays",
        )?,
        ban(
            concat!(r"#\[igno", "re"),
            |_| true,
            "a test that does not run",
        )?,
    ])
}

pub(super) fn check(root: &Path) -> anyhow::Result<Vec<Violation>> {
    let bans = bans()?;
    let mut violations = Vec::new();
    for path in files(&root.join("crates"), &["rs"])? {
        let place = relative(root, &path);
        let name = place.split('/').nth(1).unwrap_or_default().to_owned();
        let text = fs::read_to_string(&path)?;
        let lines = text.lines().count();
        if lines > MAX_LINES {
            let rule = format!("{lines} lines; more than {MAX_LINES} rarely hold one idea");
            violations.push(Violation::new(place.clone(), rule));
        }
        if !text.starts_with("//!") && !place.contains("tests") {
            violations.push(Violation::new(
                place.clone(),
                "a module says in its first line why it exists",
            ));
        }
        violations.extend(banned(&bans, &name, &place, &text));
    }
    Ok(violations)
}

fn banned(bans: &[Ban], name: &str, place: &str, text: &str) -> Vec<Violation> {
    let mut violations = Vec::new();
    for ban in bans.iter().filter(|ban| (ban.crates)(name)) {
        for (number, line) in text.lines().enumerate() {
            if ban.pattern.is_match(line) {
                violations.push(Violation::new(format!("{place}:{}", number + 1), ban.rule));
            }
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(name: &str, text: &str) -> usize {
        banned(&bans().unwrap(), name, "file.rs", text).len()
    }

    #[test]
    fn unsafe_has_its_places() {
        let code = concat!("let x = unsa", "fe { y };");
        assert_eq!((judge("model", code), judge("transport", code)), (1, 0));
    }

    #[test]
    fn the_api_server_knows_no_mesh_and_roles_know_no_local_cluster() {
        assert_eq!(judge("apiserver", "// the ztunnel pod"), 1);
        assert_eq!(judge("ztunnel", "// the ztunnel pod"), 0);
        assert_eq!(judge("ztunnel", concat!("// on ambit", " local")), 1);
    }

    #[test]
    fn unfinished_places_are_found() {
        assert_eq!(judge("model", concat!("// TO", "DO later")), 1);
        assert_eq!(judge("model", concat!("to", "do!()")), 1);
    }
}
