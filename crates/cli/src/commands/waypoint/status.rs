//! `waypoint status`.

use std::time::Duration;

use ambit_kube_api::gateway_api::Gateway;
use kube::{Api, Client, ResourceExt};

use super::{is_programmed, programmed, waypoints};
use crate::commands::output::{FAILURE, fail, table};

/// Arguments of `status`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Of all namespaces
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// Wait until they are ready
    #[arg(
        short, long, default_value_t = true, action = clap::ArgAction::Set,
        num_args = 0..=1, require_equals = true, default_missing_value = "true"
    )]
    wait: bool,
    /// How long
    #[arg(long, default_value = "90s", value_parser = super::duration)]
    waypoint_timeout: Duration,
}

pub async fn run(client: &Client, namespace: &str, args: &Args) -> anyhow::Result<i32> {
    let place = (!args.all_namespaces).then_some(namespace);
    let (waypoints, gateways) = waypoints(client, place).await?;
    if gateways == 0 {
        println!("No waypoints found.");
        return Ok(0);
    }
    let end = tokio::time::Instant::now() + args.waypoint_timeout;
    let mut rows = Vec::new();
    let mut late = None;
    for waypoint in waypoints {
        let api: Api<Gateway> =
            Api::namespaced(client.clone(), &waypoint.namespace().unwrap_or_default());
        let mut waypoint = waypoint;
        while args.wait && !is_programmed(&waypoint) {
            if tokio::time::Instant::now() >= end {
                late = Some(format!(
                    "{}/{}",
                    waypoint.namespace().unwrap_or_default(),
                    waypoint.name_any()
                ));
                break;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
            waypoint = api.get(&waypoint.name_any()).await?;
        }
        rows.push(row(&waypoint, args.all_namespaces));
    }
    let header = ["NAMESPACE", "NAME", "STATUS", "TYPE", "REASON", "MESSAGE"];
    let header = &header[usize::from(!args.all_namespaces)..];
    print!("{}", table(header, &rows, 5));
    match late {
        Some(name) => fail(
            FAILURE,
            format!("timed out while retrieving status for waypoint\t{name}"),
        ),
        None => Ok(0),
    }
}

fn row(waypoint: &Gateway, with_namespace: bool) -> Vec<String> {
    let condition = programmed(waypoint);
    let text = |get: fn(&ambit_kube_api::status::Condition) -> Option<String>| {
        condition.and_then(get).unwrap_or_default()
    };
    let status = match condition {
        Some(condition) => condition.status.clone().unwrap_or_default(),
        None => "False".to_owned(),
    };
    let namespace = with_namespace.then(|| waypoint.namespace().unwrap_or_default());
    let own = [
        waypoint.name_any(),
        status,
        "Programmed".to_owned(),
        text(|c| c.reason.clone()),
        text(|c| c.message.clone()),
    ];
    namespace.into_iter().chain(own).collect()
}
