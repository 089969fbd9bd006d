//! `logs`.

use super::{
    args::{Logs, duration},
    client::{Cluster, Kind, Target, escape, list, text},
    error,
};
use anyhow::{Context, bail};
use futures_util::{StreamExt, stream};
use serde_json::Value;
use std::io::Write;

/// Runs the command.
pub async fn run(cluster: &Cluster, args: Logs) -> anyhow::Result<i32> {
    let pods = pods(cluster, &args).await?;
    if pods.is_empty() {
        eprintln!("No resources found in {} namespace.", cluster.namespace());
        return Ok(0);
    }
    let mut sources = Vec::new();
    for pod in &pods {
        for container in containers(pod, &args)? {
            sources.push((pod.clone(), container));
        }
    }
    if args.follow && sources.len() > 1 {
        return follow_all(cluster, &args, sources).await;
    }
    let mut code = 0;
    for (pod, container) in sources {
        if let Err(error) = print(cluster, &args, &pod, &container).await {
            eprintln!("{}", error::shown(&error));
            code = 1;
        }
    }
    Ok(code)
}

async fn pods(cluster: &Cluster, args: &Logs) -> anyhow::Result<Vec<Value>> {
    let kind = cluster.kind("pods")?;
    if let Some(selector) = &args.selector {
        let found = cluster
            .objects(&[Target::All(kind)], Some(selector), false)
            .await?;
        return Ok(found.into_iter().map(|(_, pod)| pod).collect());
    }
    let word = args.what.first().context("error: expected 'logs [-f] [-p] (POD | TYPE/NAME) [-c CONTAINER]'.\nPOD or TYPE/NAME is a required argument for the logs command")?;
    Ok(vec![pod_of(cluster, &kind, word).await?])
}

/// The pod that a word means: itself, or the first one of what it names.
pub async fn pod_of(cluster: &Cluster, pods: &Kind, word: &str) -> anyhow::Result<Value> {
    let (kind, name) = match word.split_once('/') {
        Some((kind, name)) => (cluster.kind(kind)?, name),
        None => (pods.clone(), word),
    };
    let target = Target::One(kind.clone(), name.to_string());
    let found = cluster.objects(&[target], None, false).await?;
    let object = found
        .into_iter()
        .next()
        .map(|(_, o)| o)
        .unwrap_or(Value::Null);
    if kind.kind == "Pod" {
        return Ok(object);
    }
    let labels = object
        .pointer("/spec/selector/matchLabels")
        .or_else(|| object.pointer("/spec/selector"));
    let selector: Vec<String> = labels
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .filter_map(|(k, v)| v.as_str().map(|v| format!("{k}={v}")))
        .collect();
    if selector.is_empty() {
        bail!("error: cannot get the logs from {word}: it selects no pods");
    }
    let all = Target::All(pods.clone());
    let mut found = cluster
        .objects(&[all], Some(&selector.join(",")), false)
        .await?;
    // The one that has been ready longest says most.
    found.sort_by_key(|(_, pod)| {
        (
            text(pod, "/status/phase") != "Running",
            text(pod, "/metadata/creationTimestamp").to_string(),
        )
    });
    if found.len() > 1 {
        eprintln!(
            "Found {} pods, using pod/{}",
            found.len(),
            text(&found[0].1, "/metadata/name")
        );
    }
    found
        .into_iter()
        .next()
        .map(|(_, pod)| pod)
        .with_context(|| format!("error: timed out waiting for pods of {word}: there are none"))
}

/// The containers of a pod that are meant.
fn containers(pod: &Value, args: &Logs) -> anyhow::Result<Vec<String>> {
    if args.all_containers {
        let keys = ["/spec/initContainers", "/spec/containers"];
        let all = keys.iter().flat_map(|k| list(pod, k));
        return Ok(all.map(|c| text(c, "/name").to_string()).collect());
    }
    let named = args.container.clone().or_else(|| args.what.get(1).cloned());
    Ok(vec![container(pod, named)])
}

/// The container of a pod: the named, the annotated or the first one.
pub fn container(pod: &Value, named: Option<String>) -> String {
    let annotations = pod.pointer("/metadata/annotations");
    let annotated = annotations
        .and_then(|a| a.get("kubectl.kubernetes.io/default-container"))
        .and_then(Value::as_str);
    let all: Vec<&str> = list(pod, "/spec/containers")
        .iter()
        .map(|c| text(c, "/name"))
        .collect();
    let first = all.first().copied().unwrap_or_default();
    if let Some(name) = named {
        return name;
    }
    let chosen = annotated.unwrap_or(first);
    if all.len() > 1 && annotated.is_none() {
        eprintln!("Defaulted container {chosen:?} out of: {}", all.join(", "));
    }
    chosen.to_string()
}

fn path(cluster: &Cluster, args: &Logs, pod: &Value, container: &str) -> anyhow::Result<String> {
    let namespace = match text(pod, "/metadata/namespace") {
        "" => cluster.namespace(),
        own => own,
    };
    let name = text(pod, "/metadata/name");
    let mut path = format!(
        "/api/v1/namespaces/{namespace}/pods/{name}/log?container={}",
        escape(container)
    );
    for (flag, key) in [
        (args.follow, "follow"),
        (args.previous, "previous"),
        (args.timestamps, "timestamps"),
    ] {
        if flag {
            path.push_str(&format!("&{key}=true"));
        }
    }
    // With a selector kubectl shows ten lines of each, unless told otherwise.
    let tail = args
        .tail
        .unwrap_or(if args.selector.is_some() { 10 } else { -1 });
    if tail >= 0 {
        path.push_str(&format!("&tailLines={tail}"));
    }
    if let Some(since) = &args.since {
        path.push_str(&format!("&sinceSeconds={}", duration(since)?.as_secs()));
    }
    Ok(path)
}

fn prefix(args: &Logs, pod: &Value, container: &str) -> String {
    match args.prefix {
        true => format!("[pod/{}/{container}] ", text(pod, "/metadata/name")),
        false => String::new(),
    }
}

async fn print(cluster: &Cluster, args: &Logs, pod: &Value, container: &str) -> anyhow::Result<()> {
    let mut lines = cluster
        .lines(&path(cluster, args, pod, container)?, "*/*")
        .await?;
    let prefix = prefix(args, pod, container);
    loop {
        tokio::select! {
            line = lines.next() => match line {
                Some(line) => write_line(&prefix, &line?)?,
                None => return Ok(()),
            },
            _ = tokio::signal::ctrl_c() => return Ok(()),
        }
    }
}

fn write_line(prefix: &str, line: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{prefix}{line}")?;
    out.flush()
}

async fn follow_all(
    cluster: &Cluster,
    args: &Logs,
    sources: Vec<(Value, String)>,
) -> anyhow::Result<i32> {
    let mut streams = stream::SelectAll::new();
    for (pod, container) in sources {
        let prefix = prefix(args, &pod, &container);
        let lines = cluster
            .lines(&path(cluster, args, &pod, &container)?, "*/*")
            .await?;
        streams.push(lines.map(move |line| line.map(|line| (prefix.clone(), line))));
    }
    loop {
        tokio::select! {
            line = streams.next() => match line {
                Some(line) => {
                    let (prefix, line) = line?;
                    write_line(&prefix, &line)?;
                }
                None => return Ok(0),
            },
            _ = tokio::signal::ctrl_c() => return Ok(130),
        }
    }
}
