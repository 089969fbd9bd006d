//! `wait`.

use super::{
    args::{Wait, duration},
    client::{Cluster, Kind, Target, list, text},
    delete, error,
    jsonpath::Template,
};
use anyhow::{Context, bail};
use futures_util::StreamExt;
use serde_json::Value;

/// What is waited for.
#[derive(Debug, Clone, PartialEq)]
enum Condition {
    Deleted,
    Exists,
    /// A condition of the status has this value, compared without case.
    Status(String, String),
    /// A path has this value, or any.
    Path(Template, Option<String>),
}

impl Condition {
    fn parse(text: &str) -> anyhow::Result<Self> {
        match text {
            "delete" => return Ok(Condition::Deleted),
            "create" => return Ok(Condition::Exists),
            _ => {}
        }
        if let Some(rest) = text.strip_prefix("condition=") {
            let (name, value) = rest.split_once('=').unwrap_or((rest, "true"));
            return Ok(Condition::Status(
                name.to_string(),
                value.trim_matches('"').to_string(),
            ));
        }
        if let Some(rest) = text.strip_prefix("jsonpath=") {
            let rest = rest.trim_matches('\'');
            let close = rest.rfind('}').context(
                "error: jsonpath wait format must be --for=jsonpath='{.status.readyReplicas}'=3",
            )?;
            let (template, value) = rest.split_at(close + 1);
            let value = value
                .trim_start_matches('\'')
                .strip_prefix('=')
                .map(|v| v.trim_matches('"').to_string());
            return Ok(Condition::Path(Template::parse(template)?, value));
        }
        bail!("error: unrecognized condition: {text:?}")
    }

    fn holds(&self, object: &Value) -> bool {
        match self {
            Condition::Deleted => false,
            Condition::Exists => true,
            Condition::Status(name, value) => {
                let observed = object
                    .pointer("/status/observedGeneration")
                    .and_then(Value::as_i64);
                let generation = object
                    .pointer("/metadata/generation")
                    .and_then(Value::as_i64);
                // What a controller said about an older state does not count.
                if let (Some(observed), Some(generation)) = (observed, generation)
                    && observed < generation
                {
                    return false;
                }
                list(object, "/status/conditions").iter().any(|c| {
                    text(c, "/type").eq_ignore_ascii_case(name)
                        && text(c, "/status").eq_ignore_ascii_case(value)
                })
            }
            Condition::Path(template, None) => !template.render(object).is_empty(),
            Condition::Path(template, Some(value)) => template.render(object) == *value,
        }
    }
}

/// Runs the command.
pub async fn run(cluster: &Cluster, args: Wait) -> anyhow::Result<i32> {
    let condition = Condition::parse(&args.condition)?;
    let limit = duration(&args.timeout)?;
    let end = tokio::time::Instant::now() + limit;
    let targets = cluster.targets(&args.what)?;
    let mut waiting: Vec<(Kind, String, String)> = Vec::new();
    for target in targets {
        match target {
            Target::One(kind, name) => waiting.push((kind, cluster.namespace().to_string(), name)),
            Target::All(_) if args.selector.is_none() && !args.all => {
                bail!("error: resource(s) were provided, but no name was specified")
            }
            all => {
                let found = cluster
                    .objects(&[all], args.selector.as_deref(), args.all_namespaces)
                    .await?;
                waiting.extend(found.into_iter().map(|(kind, o)| {
                    (
                        kind,
                        text(&o, "/metadata/namespace").to_string(),
                        text(&o, "/metadata/name").to_string(),
                    )
                }));
            }
        }
    }
    if waiting.is_empty() && condition != Condition::Deleted {
        bail!("error: no matching resources found");
    }
    let mut code = 0;
    for (kind, namespace, name) in waiting {
        let outcome =
            tokio::time::timeout_at(end, one(cluster, &condition, &kind, &namespace, &name)).await;
        match outcome {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                eprintln!("{}", error::shown(&error));
                code = 1;
            }
            Err(_) => {
                eprintln!(
                    "error: timed out waiting for the condition on {}/{name}",
                    kind.plural
                );
                code = 1;
            }
        }
    }
    Ok(code)
}

async fn one(
    cluster: &Cluster,
    condition: &Condition,
    kind: &Kind,
    namespace: &str,
    name: &str,
) -> anyhow::Result<()> {
    if *condition == Condition::Deleted {
        let there = cluster.find(kind, namespace, name).await?;
        if let Some(there) = there {
            let uid = text(&there, "/metadata/uid");
            delete::gone(
                cluster,
                kind,
                namespace,
                name,
                uid,
                std::time::Duration::ZERO,
            )
            .await?;
        }
        println!("{}/{name} condition met", kind.printed());
        return Ok(());
    }
    let mut states = cluster.follow(kind, namespace, name).await?;
    let mut first = true;
    while let Some(state) = states.next().await {
        match state? {
            Some(object) if condition.holds(&object) => {
                println!("{}/{name} condition met", kind.printed());
                return Ok(());
            }
            None if first && *condition != Condition::Exists => {
                // The server's own words for what is missing.
                cluster
                    .objects(&[Target::One(kind.clone(), name.to_string())], None, false)
                    .await?;
            }
            _ => {}
        }
        first = false;
    }
    bail!(
        "error: the watch ended before the condition on {}/{name} was met",
        kind.plural
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn conditions() {
        let ready = Condition::parse("condition=Ready").unwrap();
        assert!(
            ready.holds(&json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}}))
        );
        assert!(!ready.holds(
            &json!({"metadata": {"generation": 2}, "status": {"observedGeneration": 1,
            "conditions": [{"type": "Ready", "status": "True"}]}})
        ));
        let no = Condition::parse("condition=ready=False").unwrap();
        assert!(
            no.holds(&json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}}))
        );
        let phase = Condition::parse("jsonpath={.status.phase}=Running").unwrap();
        assert!(phase.holds(&json!({"status": {"phase": "Running"}})));
        let any = Condition::parse("jsonpath='{.status.loadBalancer.ingress}'").unwrap();
        assert!(any.holds(&json!({"status": {"loadBalancer": {"ingress": [{}]}}})));
        assert!(!any.holds(&json!({})));
        assert!(Condition::parse("sometime").is_err());
    }
}
