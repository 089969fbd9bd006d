//! The invariants of the repository, as code: who may depend on whom, where `unsafe` may stand,
//! what must not be mentioned where. `cargo xtask tidy` prints every violation; a test runs it too.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;

mod dependencies;
mod documents;
mod source;

/// One broken rule: where, and what to do.
#[derive(Debug, PartialEq, Eq)]
pub struct Violation {
    place: String,
    rule: String,
}

impl Violation {
    fn new(place: impl Into<String>, rule: impl Into<String>) -> Self {
        Self {
            place: place.into(),
            rule: rule.into(),
        }
    }
}

/// Checks the repository at `root`, prints what is wrong, and says whether nothing is.
///
/// # Errors
/// When files cannot be read.
pub fn run(root: &Path) -> anyhow::Result<bool> {
    let violations = check(root)?;
    for violation in &violations {
        println!("{}: {}", violation.place, violation.rule);
    }
    match violations.len() {
        0 => println!("tidy: nothing to do"),
        n => println!("tidy: {n} things to mend"),
    }
    Ok(violations.is_empty())
}

fn check(root: &Path) -> anyhow::Result<Vec<Violation>> {
    let mut violations = dependencies::check(root)?;
    violations.extend(source::check(root)?);
    violations.extend(documents::check(root)?);
    Ok(violations)
}

/// Files below `folder` with one of the `extensions`, sorted; build output and vendored trees apart.
fn files(folder: &Path, extensions: &[&str]) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries =
            fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
        for entry in entries {
            let path = entry?.path();
            let name = path
                .file_name()
                .and_then(|n| n.to_str())
                .unwrap_or_default();
            if path.is_dir() {
                if !matches!(name, "target" | ".git" | "node_modules" | "generated") {
                    folders.push(path);
                }
            } else if path
                .extension()
                .is_some_and(|e| extensions.iter().any(|x| e == *x))
            {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

fn relative(root: &Path, path: &Path) -> String {
    path.strip_prefix(root)
        .unwrap_or(path)
        .display()
        .to_string()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_repository_is_tidy() {
        let violations = super::check(&crate::repository()).unwrap();
        assert!(violations.is_empty(), "{violations:#?}");
    }
}
