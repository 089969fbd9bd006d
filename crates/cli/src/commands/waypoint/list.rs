//! `waypoint list`.

use ambit_kube_api::gateway_api::Gateway;
use ambit_kube_api::labels;
use kube::{Client, ResourceExt};

use super::{programmed, waypoints};
use crate::commands::output::table;

pub async fn run(client: &Client, namespace: Option<&String>) -> anyhow::Result<i32> {
    let (waypoints, gateways) = waypoints(client, namespace.map(String::as_str)).await?;
    if gateways == 0 {
        println!("No waypoints found.");
        return Ok(0);
    }
    print!("{}", shown(&waypoints, namespace.is_none()));
    Ok(0)
}

fn shown(waypoints: &[Gateway], with_namespace: bool) -> String {
    let label = |gateway: &Gateway, key: &str, otherwise: &str| {
        let value = gateway.labels().get(key).map(String::as_str);
        value.unwrap_or(otherwise).to_owned()
    };
    let row = |gateway: &Gateway| {
        let status = programmed(gateway).and_then(|c| c.status.clone());
        let own = [
            gateway.name_any(),
            label(gateway, labels::REVISION, labels::DEFAULT_REVISION),
            label(gateway, labels::WAYPOINT_FOR, "none"),
            status.unwrap_or_else(|| "False".to_owned()),
        ];
        let namespace = with_namespace.then(|| gateway.namespace().unwrap_or_default());
        namespace.into_iter().chain(own).collect()
    };
    let rows: Vec<Vec<String>> = waypoints.iter().map(row).collect();
    let header = [
        "NAMESPACE",
        "NAME",
        "REVISION",
        "TRAFFIC TYPE",
        "PROGRAMMED",
    ];
    table(&header[usize::from(!with_namespace)..], &rows, 5)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn columns() {
        let gateway = json!({
            "metadata": {"name": "waypoint", "namespace": "shop", "labels": {"istio.io/waypoint-for": "service"}},
            "status": {"conditions": [{"type": "Programmed", "status": "True"}]}
        });
        let waypoints = [serde_json::from_value(gateway).unwrap()];
        assert_eq!(
            shown(&waypoints, true),
            "NAMESPACE     NAME         REVISION     TRAFFIC TYPE     PROGRAMMED\n\
             shop          waypoint     default      service          True\n"
        );
        assert!(shown(&waypoints, false).starts_with("NAME         REVISION"));
    }
}
