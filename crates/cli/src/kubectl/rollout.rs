//! `rollout status` and `rollout restart`.

use super::{
    args::{Rollout, RolloutAction, duration},
    client::{Cluster, JSON, Kind, Target, list, text},
};
use anyhow::bail;
use futures_util::StreamExt;
use serde_json::{Value, json};

/// Runs the command.
pub async fn run(cluster: &Cluster, args: Rollout) -> anyhow::Result<i32> {
    match args.action {
        RolloutAction::Restart { what } => restart(cluster, &what).await,
        RolloutAction::Status {
            what,
            timeout,
            watch,
        } => {
            let limit = duration(&timeout)?;
            for target in cluster.targets(&what)? {
                let Target::One(kind, name) = target else {
                    bail!("error: name the resource: kubectl rollout status deployment/NAME")
                };
                let wait = status(cluster, &kind, &name, watch);
                if limit.is_zero() {
                    wait.await?;
                } else if let Ok(outcome) = tokio::time::timeout(limit, wait).await {
                    outcome?;
                } else {
                    bail!("error: timed out waiting for the condition");
                }
            }
            Ok(0)
        }
    }
}

/// Where the time of a restart stands, to the second: a change of it makes new pods.
const RESTARTED_AT: &str = "/spec/template/metadata/annotations/kubectl.kubernetes.io~1restartedAt";

async fn restart(cluster: &Cluster, what: &[String]) -> anyhow::Result<i32> {
    let now = jiff::Timestamp::now()
        .strftime("%Y-%m-%dT%H:%M:%SZ")
        .to_string();
    let patch = json!({"spec": {"template": {"metadata": {"annotations": {"kubectl.kubernetes.io/restartedAt": now}}}}});
    for (kind, object) in cluster
        .objects(&cluster.targets(what)?, None, false)
        .await?
    {
        let name = text(&object, "/metadata/name");
        if object.pointer("/spec/template").is_none() {
            bail!("error: {}/{name} restarting is not supported", kind.plural);
        }
        if text(&object, RESTARTED_AT) == now {
            bail!(
                "error: failed to create patch for {name}: if restart has already been triggered \
                 within the past second, please wait before attempting to trigger another"
            );
        }
        let url = kind.url(Some(text(&object, "/metadata/namespace")));
        let path = format!("{url}/{name}?fieldManager=kubectl-rollout");
        cluster
            .send(
                "PATCH",
                &path,
                JSON,
                Some(("application/strategic-merge-patch+json", &patch)),
            )
            .await?;
        println!("{}/{name} restarted", kind.printed());
    }
    Ok(0)
}

async fn status(cluster: &Cluster, kind: &Kind, name: &str, watch: bool) -> anyhow::Result<()> {
    let mut states = cluster.follow(kind, cluster.namespace(), name).await?;
    let (mut first, mut last) = (true, String::new());
    while let Some(state) = states.next().await {
        let Some(object) = state? else {
            if first {
                // The server's own words for what is missing.
                cluster
                    .objects(&[Target::One(kind.clone(), name.to_string())], None, false)
                    .await?;
            }
            bail!("error: object has been deleted");
        };
        first = false;
        let (message, done) = progress(kind, name, &object)?;
        if message != last {
            println!("{message}");
            last = message;
        }
        if done || !watch {
            return Ok(());
        }
    }
    bail!("error: the watch ended before the rollout was done")
}

/// What kubectl says about the state of a rollout, and whether it is done.
fn progress(kind: &Kind, name: &str, object: &Value) -> anyhow::Result<(String, bool)> {
    let number = |pointer: &str| object.pointer(pointer).and_then(Value::as_i64).unwrap_or(0);
    let observed = number("/status/observedGeneration") >= number("/metadata/generation");
    let waiting = |text: String| Ok((text, false));
    match kind.kind.as_str() {
        "Deployment" => {
            if !observed {
                return waiting("Waiting for deployment spec update to be observed...".into());
            }
            let late = list(object, "/status/conditions").iter().any(|c| {
                text(c, "/type") == "Progressing"
                    && text(c, "/reason") == "ProgressDeadlineExceeded"
            });
            if late {
                bail!("error: deployment {name:?} exceeded its progress deadline");
            }
            let wanted = object
                .pointer("/spec/replicas")
                .and_then(Value::as_i64)
                .unwrap_or(1);
            let (updated, all) = (
                number("/status/updatedReplicas"),
                number("/status/replicas"),
            );
            let available = number("/status/availableReplicas");
            let begin = format!("Waiting for deployment {name:?} rollout to finish:");
            if updated < wanted {
                return waiting(format!(
                    "{begin} {updated} out of {wanted} new replicas have been updated..."
                ));
            }
            if all > updated {
                return waiting(format!(
                    "{begin} {} old replicas are pending termination...",
                    all - updated
                ));
            }
            if available < updated {
                return waiting(format!(
                    "{begin} {available} of {updated} updated replicas are available..."
                ));
            }
            Ok((format!("deployment {name:?} successfully rolled out"), true))
        }
        "DaemonSet" => {
            if !observed {
                return waiting("Waiting for daemon set spec update to be observed...".into());
            }
            let wanted = number("/status/desiredNumberScheduled");
            let updated = number("/status/updatedNumberScheduled");
            let available = number("/status/numberAvailable");
            let begin = format!("Waiting for daemon set {name:?} rollout to finish:");
            if updated < wanted {
                return waiting(format!(
                    "{begin} {updated} out of {wanted} new pods have been updated..."
                ));
            }
            if available < wanted {
                return waiting(format!(
                    "{begin} {available} of {wanted} updated pods are available..."
                ));
            }
            Ok((format!("daemon set {name:?} successfully rolled out"), true))
        }
        other => bail!("error: no status viewer has been implemented for {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(name: &str) -> Kind {
        Kind {
            group: "apps".into(),
            version: "v1".into(),
            kind: name.into(),
            plural: format!("{}s", name.to_lowercase()),
            singular: name.to_lowercase(),
            short: Vec::new(),
            categories: Vec::new(),
            namespaced: true,
        }
    }

    #[test]
    fn a_deployment_in_its_stages() {
        let say = |status: Value| {
            let object =
                json!({"metadata": {"generation": 2}, "spec": {"replicas": 2}, "status": status});
            progress(&kind("Deployment"), "d", &object).unwrap()
        };
        assert_eq!(
            say(json!({"observedGeneration": 1})).0,
            "Waiting for deployment spec update to be observed..."
        );
        let (text, done) =
            say(json!({"observedGeneration": 2, "updatedReplicas": 1, "replicas": 2}));
        assert_eq!(
            (text.as_str(), done),
            (
                "Waiting for deployment \"d\" rollout to finish: 1 out of 2 new replicas have been updated...",
                false
            )
        );
        let (text, done) = say(
            json!({"observedGeneration": 2, "updatedReplicas": 2, "replicas": 2, "availableReplicas": 2}),
        );
        assert_eq!(
            (text.as_str(), done),
            ("deployment \"d\" successfully rolled out", true)
        );
        assert!(progress(&kind("Job"), "j", &json!({})).is_err());
    }
}
