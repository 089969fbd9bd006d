//! Rules about the documentation: links lead somewhere, and every crate has its place.

use std::fs;
use std::path::Path;

use regex::Regex;

use super::{Violation, files, relative};

pub(super) fn check(root: &Path) -> anyhow::Result<Vec<Violation>> {
    let mut violations = links(root)?;
    let architecture = fs::read_to_string(root.join("ARCHITECTURE.md")).unwrap_or_default();
    let mut crates: Vec<_> = fs::read_dir(root.join("crates"))?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    crates.sort();
    for name in crates
        .iter()
        .filter(|name| !architecture.contains(&format!("`{name}`")))
    {
        let rule = format!("does not mention the crate `{name}`");
        violations.push(Violation::new("ARCHITECTURE.md", rule));
    }
    Ok(violations)
}

fn links(root: &Path) -> anyhow::Result<Vec<Violation>> {
    let link = Regex::new(r"\]\(([^)#]+)(#[^)]*)?\)")?;
    let mut violations = Vec::new();
    for path in files(root, &["md"])? {
        let text = fs::read_to_string(&path)?;
        let folder = path.parent().unwrap_or(root);
        for captured in link.captures_iter(&text) {
            let target = &captured[1];
            if !target.contains("://")
                && !target.starts_with("mailto:")
                && !folder.join(target).exists()
            {
                let rule = format!("the link to {target} leads nowhere");
                violations.push(Violation::new(relative(root, &path), rule));
            }
        }
    }
    Ok(violations)
}
