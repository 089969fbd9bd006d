//! `label` and `annotate`.

use super::{
    args::Metadata,
    client::{Cluster, JSON, Kind, Target, text},
    error,
};
use anyhow::bail;
use serde_json::{Map, Value, json};

/// Which map of `metadata` is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// Labels.
    Labels,
    /// Annotations.
    Annotations,
}

impl Field {
    fn key(self) -> &'static str {
        match self {
            Field::Labels => "labels",
            Field::Annotations => "annotations",
        }
    }

    /// What is printed of a change: removals alone, and anything else.
    fn done(self, removed_only: bool) -> &'static str {
        match (self, removed_only) {
            (Field::Labels, true) => "unlabeled",
            (Field::Labels, false) => "labeled",
            (Field::Annotations, _) => "annotated",
        }
    }

    fn not_done(self) -> &'static str {
        match self {
            Field::Labels => "not labeled",
            Field::Annotations => "not annotated",
        }
    }
}

/// Runs the command.
pub async fn run(cluster: &Cluster, args: Metadata, field: Field) -> anyhow::Result<i32> {
    // Resources come first; the first word that changes something ends them.
    let is_change = |w: &String| w.contains('=') || w.ends_with('-');
    let at = args
        .what
        .iter()
        .skip(1)
        .position(is_change)
        .map_or(args.what.len(), |i| i + 1);
    let (resources, changes) = args.what.split_at(at);
    if changes.is_empty() {
        bail!(
            "error: at least one {} update is required",
            field.key().trim_end_matches('s')
        );
    }
    let changes = parse(changes)?;
    let targets = cluster.targets(resources)?;
    let wants_all = args.all || args.selector.is_some();
    if targets.iter().any(|t| matches!(t, Target::All(_))) && !wants_all {
        bail!("error: resource(s) were provided, but no name was specified");
    }
    let objects = cluster
        .objects(&targets, args.selector.as_deref(), args.all_namespaces)
        .await?;
    if objects.is_empty() {
        eprintln!("No resources found");
    }
    let mut code = 0;
    for (kind, object) in objects {
        if let Err(error) = change(cluster, &kind, &object, &changes, args.overwrite, field).await {
            eprintln!("{}", error::shown(&error));
            code = 1;
        }
    }
    Ok(code)
}

/// `KEY=VALUE` sets, `KEY-` removes.
fn parse(words: &[String]) -> anyhow::Result<Vec<(String, Option<String>)>> {
    words
        .iter()
        .map(
            |word| match (word.split_once('='), word.strip_suffix('-')) {
                (Some((key, value)), _) if !key.is_empty() => {
                    Ok((key.to_string(), Some(value.to_string())))
                }
                (None, Some(key)) if !key.is_empty() => Ok((key.to_string(), None)),
                _ => bail!("error: unknown command {word:?}: write KEY=VALUE or KEY-"),
            },
        )
        .collect()
}

async fn change(
    cluster: &Cluster,
    kind: &Kind,
    object: &Value,
    changes: &[(String, Option<String>)],
    overwrite: bool,
    field: Field,
) -> anyhow::Result<()> {
    let current = object.pointer(&format!("/metadata/{}", field.key()));
    let of = |key: &str| current.and_then(|m| m.get(key)).and_then(Value::as_str);
    let mut patch = Map::new();
    for (key, value) in changes {
        match (value, of(key)) {
            (Some(new), Some(old)) if new != old && !overwrite => {
                bail!("error: '{key}' already has a value ({old}), and --overwrite is false")
            }
            (Some(new), old) if old != Some(new) => {
                patch.insert(key.clone(), new.clone().into());
            }
            (None, Some(_)) => {
                patch.insert(key.clone(), Value::Null);
            }
            (None, None) if field == Field::Labels => println!("label {key:?} not found."),
            _ => {}
        }
    }
    let name = text(object, "/metadata/name");
    if patch.is_empty() {
        let word = if field == Field::Labels {
            field.not_done()
        } else {
            field.done(false)
        };
        println!("{}/{name} {word}", kind.printed());
        return Ok(());
    }
    let removed_only = patch.values().all(Value::is_null);
    let url = kind.url(Some(text(object, "/metadata/namespace")));
    let manager = if field == Field::Labels {
        "kubectl-label"
    } else {
        "kubectl-annotate"
    };
    let body = json!({"metadata": {field.key(): patch}});
    let path = format!("{url}/{name}?fieldManager={manager}");
    cluster
        .send(
            "PATCH",
            &path,
            JSON,
            Some(("application/merge-patch+json", &body)),
        )
        .await?;
    println!("{}/{name} {}", kind.printed(), field.done(removed_only));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_read() {
        let words: Vec<String> = ["a=b", "c-", "d="].map(String::from).to_vec();
        let parsed = parse(&words).unwrap();
        assert_eq!(parsed[0], ("a".into(), Some("b".into())));
        assert_eq!(parsed[1], ("c".into(), None));
        assert_eq!(parsed[2], ("d".into(), Some(String::new())));
        assert!(parse(&["x".to_string()]).is_err());
    }
}
