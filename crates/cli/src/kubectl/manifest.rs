//! Manifests: YAML or JSON, several documents in a file, files in folders, lists of objects.

use anyhow::Context;
use serde_json::Value;
use std::{
    io::Read,
    path::{Path, PathBuf},
};

/// One object, and the file that it came from.
#[derive(Debug, Clone, PartialEq)]
pub struct Manifest {
    /// The name of the file, or STDIN.
    pub source: String,
    /// The object.
    pub object: Value,
}

/// Reads all objects of files and folders.
pub fn read(files: &[PathBuf], recursive: bool) -> anyhow::Result<Vec<Manifest>> {
    let mut manifests = Vec::new();
    for file in files {
        if file.as_os_str() == "-" {
            let mut text = String::new();
            std::io::stdin()
                .read_to_string(&mut text)
                .context("error: cannot read stdin")?;
            manifests.extend(parse(&text, "STDIN")?);
            continue;
        }
        for file in expand(file, recursive)? {
            let source = file.display().to_string();
            let text = std::fs::read_to_string(&file)
                .map_err(|e| anyhow::anyhow!("error: the path {source:?} cannot be read: {e}"))?;
            manifests.extend(parse(&text, &source)?);
        }
    }
    if manifests.is_empty() {
        anyhow::bail!("error: no objects passed to apply");
    }
    Ok(manifests)
}

/// The files that a path means.
fn expand(path: &Path, recursive: bool) -> anyhow::Result<Vec<PathBuf>> {
    let shown = path.display();
    if shown.to_string().starts_with("http://") || shown.to_string().starts_with("https://") {
        anyhow::bail!("error: {shown} is a URL: download it first, and name the file");
    }
    if !path.exists() {
        anyhow::bail!("error: the path {:?} does not exist", shown.to_string());
    }
    if path.is_file() || !path.is_dir() {
        return Ok(vec![path.to_path_buf()]);
    }
    let mut entries: Vec<PathBuf> = std::fs::read_dir(path)?
        .filter_map(|entry| entry.ok().map(|e| e.path()))
        .collect();
    entries.sort();
    let mut files = Vec::new();
    for entry in entries {
        if entry.is_dir() && recursive {
            files.extend(expand(&entry, true)?);
        }
        let known = entry
            .extension()
            .is_some_and(|e| e == "yaml" || e == "yml" || e == "json");
        if entry.is_file() && known {
            files.push(entry);
        }
    }
    if files.is_empty() {
        anyhow::bail!(
            "error: error reading [{shown}]: recognized file extensions are [.json .yaml .yml]"
        );
    }
    Ok(files)
}

/// The objects of a text.
pub fn parse(text: &str, source: &str) -> anyhow::Result<Vec<Manifest>> {
    let bad = |why: String| anyhow::anyhow!("error: error parsing {source}: {why}");
    let values: Vec<Value> = if text.trim_start().starts_with('{') {
        let stream = serde_json::Deserializer::from_str(text).into_iter::<Value>();
        stream
            .collect::<Result<_, _>>()
            .map_err(|e| bad(e.to_string()))?
    } else {
        serde_saphyr::from_multiple(text)
            .map_err(|e| bad(format!("error converting YAML to JSON: {e}")))?
    };
    let mut manifests = Vec::new();
    for value in values {
        flatten(value, source, &mut manifests)?;
    }
    Ok(manifests)
}

fn flatten(value: Value, source: &str, into: &mut Vec<Manifest>) -> anyhow::Result<()> {
    if value.is_null() {
        return Ok(());
    }
    let kind = super::client::text(&value, "/kind");
    if kind.is_empty() {
        anyhow::bail!("error: error validating {source:?}: error validating data: kind not set");
    }
    if kind.ends_with("List") && value.get("items").is_some_and(Value::is_array) {
        for item in super::client::list(&value, "/items") {
            flatten(item.clone(), source, into)?;
        }
        return Ok(());
    }
    if super::client::text(&value, "/apiVersion").is_empty() {
        anyhow::bail!(
            "error: error validating {source:?}: error validating data: apiVersion not set"
        );
    }
    into.push(Manifest {
        source: source.to_string(),
        object: value,
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_lists_and_mistakes() {
        let text = "apiVersion: v1\nkind: A\n---\n---\napiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: B}\n- {apiVersion: v1, kind: C}\n";
        let kinds: Vec<String> = parse(text, "x")
            .unwrap()
            .iter()
            .map(|m| m.object["kind"].as_str().unwrap().to_string())
            .collect();
        assert_eq!(kinds, ["A", "B", "C"]);
        assert_eq!(
            parse("{\"apiVersion\":\"v1\",\"kind\":\"A\"}", "x")
                .unwrap()
                .len(),
            1
        );
        assert!(
            parse("a: b", "x")
                .unwrap_err()
                .to_string()
                .contains("kind not set")
        );
        assert!(
            parse("kind: A", "x")
                .unwrap_err()
                .to_string()
                .contains("apiVersion not set")
        );
        assert!(parse("a: [", "x").is_err());
    }
}
