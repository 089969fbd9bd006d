//! `waypoint apply`.

use std::time::Duration;

use ambit_kube_api::gateway_api::Gateway;
use ambit_kube_api::labels;
use anyhow::Context;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;

use super::{FIELD_MANAGER, Wanted, gateway, is_programmed, programmed};
use crate::commands::output::{FAILURE, fail};

/// Arguments of `apply`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    wanted: Wanted,
    /// Send the traffic of the namespace's services through it
    #[arg(long)]
    enroll_namespace: bool,
    /// Also if the namespace has another one
    #[arg(long)]
    overwrite: bool,
    /// Wait until it is ready
    #[arg(short, long)]
    wait: bool,
    /// How long
    #[arg(long, default_value = "90s", value_parser = super::duration)]
    waypoint_timeout: Duration,
}

pub async fn run(client: &Client, namespace: &str, name: &str, args: &Args) -> anyhow::Result<i32> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let place = namespaces.get_opt(namespace).await?;
    let place = place.with_context(|| format!("there is no namespace {namespace}"))?;
    if args.enroll_namespace && !may_enroll(&place, name, args.overwrite) {
        return Ok(FAILURE);
    }
    let api: Api<Gateway> = Api::namespaced(client.clone(), namespace);
    let wanted = gateway(name, Some(namespace), &args.wanted);
    let params = PatchParams::apply(FIELD_MANAGER);
    api.patch(name, &params, &Patch::Apply(&wanted)).await?;
    if args.wait {
        if let Err(why) = ready(&api, name, args.waypoint_timeout).await? {
            return fail(
                FAILURE,
                format!(
                    "timed out while waiting for waypoint {namespace}/{name} to become ready: {why}"
                ),
            );
        }
        println!("✅ waypoint {namespace}/{name} is ready!");
    } else {
        println!("✅ waypoint {namespace}/{name} applied");
    }
    if args.enroll_namespace {
        let patch = json!({"metadata": {"labels": {labels::USE_WAYPOINT: name}}});
        let params = PatchParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        namespaces
            .patch(namespace, &params, &Patch::Merge(patch))
            .await?;
        println!(
            "✅ namespace {namespace} labeled with \"{}: {name}\"",
            labels::USE_WAYPOINT
        );
    }
    Ok(0)
}

/// Whether the namespace can be labelled; says why not, and what else is wrong with it.
fn may_enroll(namespace: &Namespace, name: &str, overwrite: bool) -> bool {
    let place = namespace.name_any();
    let label = |key: &str| namespace.labels().get(key).map(String::as_str);
    let other = label(labels::USE_WAYPOINT).filter(|other| *other != name);
    if let Some(other) = other.filter(|_| !overwrite) {
        println!(
            "⚠️ Warning: namespace ({place}) already has an enrolled Waypoint. Consider adding the \
             `--overwrite` flag to your apply command. (it is labeled with \"{}: {other}\")",
            labels::USE_WAYPOINT
        );
        return false;
    }
    if label(labels::DATAPLANE_MODE) != Some(labels::DATAPLANE_MODE_AMBIENT) {
        println!(
            "⚠️ Warning: namespace is not enrolled in ambient. Consider running\t`kubectl label \
             namespace {place} {}={}`",
            labels::DATAPLANE_MODE,
            labels::DATAPLANE_MODE_AMBIENT
        );
    }
    true
}

/// Waits until a waypoint is ready; gives what its status said last if it is not in time.
async fn ready(
    api: &Api<Gateway>,
    name: &str,
    limit: Duration,
) -> anyhow::Result<Result<(), String>> {
    let end = tokio::time::Instant::now() + limit;
    loop {
        let gateway = api.get(name).await?;
        if is_programmed(&gateway) {
            return Ok(Ok(()));
        }
        if tokio::time::Instant::now() >= end {
            let said = programmed(&gateway).and_then(|c| c.message.clone());
            let said = said.unwrap_or_else(|| {
                "its status says nothing; is the control plane running?".to_owned()
            });
            return Ok(Err(said));
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}
