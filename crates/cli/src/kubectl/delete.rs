//! `delete`, and waiting until objects are gone.

use super::{
    args::{Delete, duration},
    client::{Cluster, JSON, Kind, Target, text},
    error, manifest,
};
use anyhow::bail;
use futures_util::StreamExt;
use serde_json::{Value, json};
use std::time::Duration;

/// Runs the command.
pub async fn run(cluster: &Cluster, args: Delete) -> anyhow::Result<i32> {
    let mut code = 0;
    let mut deleted = Vec::new();
    for (kind, namespace, name) in objects(cluster, &args, &mut code).await? {
        let path = format!("{}/{name}", kind.url(Some(&namespace)));
        match cluster
            .send("DELETE", &path, JSON, Some((JSON, &options(&args)?)))
            .await
        {
            Ok(answer) => {
                let how = if args.force {
                    "force deleted"
                } else {
                    "deleted"
                };
                println!("{} {name:?} {how}", kind.printed());
                let uid = text(&answer, "/metadata/uid");
                let uid = if uid.is_empty() {
                    text(&answer, "/details/uid")
                } else {
                    uid
                };
                deleted.push((kind, namespace, name, uid.to_string()));
            }
            Err(error) if args.ignore_not_found && error::is_not_found(&error) => {}
            Err(error) => {
                eprintln!("{}", error::shown(&error));
                code = 1;
            }
        }
    }
    if deleted.is_empty() && code == 0 && !args.ignore_not_found {
        println!("No resources found");
    }
    if args.wait && !args.force {
        let limit = duration(&args.timeout)?;
        for (kind, namespace, name, uid) in deleted {
            gone(cluster, &kind, &namespace, &name, &uid, limit).await?;
        }
    }
    Ok(code)
}

/// The objects to delete: kind, namespace, name.
async fn objects(
    cluster: &Cluster,
    args: &Delete,
    code: &mut i32,
) -> anyhow::Result<Vec<(Kind, String, String)>> {
    let place = |kind: &Kind, object: &Value| {
        let namespace = match text(object, "/metadata/namespace") {
            "" => cluster.namespace(),
            own => own,
        };
        (
            kind.clone(),
            namespace.to_string(),
            text(object, "/metadata/name").to_string(),
        )
    };
    let mut objects = Vec::new();
    if !args.files.filename.is_empty() {
        let mut cluster = cluster.again();
        for manifest in manifest::read(&args.files.filename, args.files.recursive)? {
            match cluster.kind_of(&manifest.object).await {
                Ok(kind) => objects.push(place(&kind, &manifest.object)),
                Err(_) if args.ignore_not_found => {}
                Err(error) => {
                    eprintln!("{}", error::shown(&error));
                    *code = 1;
                }
            }
        }
        return Ok(objects);
    }
    let targets = cluster.targets(&args.what)?;
    if targets.is_empty() {
        bail!("error: You must provide one or more resources by argument or filename.");
    }
    for target in targets {
        match target {
            Target::One(kind, name) => objects.push((kind, cluster.namespace().to_string(), name)),
            Target::All(_) if !args.all && args.selector.is_none() => {
                bail!("error: resource(s) were provided, but no name was specified")
            }
            all => {
                let found = cluster
                    .objects(&[all], args.selector.as_deref(), args.all_namespaces)
                    .await?;
                objects.extend(found.iter().map(|(kind, object)| place(kind, object)));
            }
        }
    }
    Ok(objects)
}

fn options(args: &Delete) -> anyhow::Result<Value> {
    let policy = match args.cascade.as_str() {
        "background" | "true" => "Background",
        "foreground" => "Foreground",
        "orphan" | "false" => "Orphan",
        other => bail!(
            "error: invalid cascade value ({other}). Must be \"background\", \"foreground\", or \"orphan\""
        ),
    };
    let mut options =
        json!({"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": policy});
    let grace = match (args.now, args.force, args.grace_period) {
        (true, _, _) => 1,
        (_, true, n) if n < 0 => 0,
        (_, _, n) => n,
    };
    if grace >= 0 {
        options["gracePeriodSeconds"] = grace.into();
    }
    Ok(options)
}

/// Waits until an object, or the one of that uid, is gone. A limit of zero is none.
pub async fn gone(
    cluster: &Cluster,
    kind: &Kind,
    namespace: &str,
    name: &str,
    uid: &str,
    limit: Duration,
) -> anyhow::Result<()> {
    let wait = async {
        let mut states = cluster.follow(kind, namespace, name).await?;
        while let Some(state) = states.next().await {
            let there = state?.filter(|o| uid.is_empty() || text(o, "/metadata/uid") == uid);
            if there.is_none() {
                return Ok(());
            }
        }
        bail!(
            "error: the watch ended before {}/{name} was gone",
            kind.plural
        )
    };
    if limit.is_zero() {
        return wait.await;
    }
    match tokio::time::timeout(limit, wait).await {
        Ok(outcome) => outcome,
        Err(_) => bail!(
            "error: timed out waiting for the condition on {}/{name}",
            kind.plural
        ),
    }
}
