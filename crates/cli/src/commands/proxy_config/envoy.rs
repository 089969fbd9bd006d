//! Parts of a dump in the words of Envoy, as istioctl prints them with `-o json`.

use serde_json::{Map, Value, json};

use super::views::Filter;
use crate::commands::ztunnel_config::dump::Dump;

/// The part of the dump with this type, as it is.
fn part<'a>(dump: &'a Dump, kind: &str) -> &'a Value {
    let kind = format!("type.googleapis.com/envoy.admin.v3.{kind}");
    let parts = dump.raw()["configs"].as_array().into_iter().flatten();
    parts
        .into_iter()
        .find(|part| part["@type"] == kind)
        .unwrap_or(&Value::Null)
}

/// Objects of a list of a part, by where they are within its entries and under what name, with the
/// names of their fields as JSON has them.
fn objects(list: &Value, within: &str, name: &str, filter: &Filter) -> Value {
    let list = list.as_array().into_iter().flatten();
    let inner = list.filter_map(|entry| entry.pointer(within));
    let passing = inner.filter(|object| {
        let name = object[name].as_str().unwrap_or_default();
        filter.passes_name(name)
    });
    passing.map(camel).collect()
}

/// Listeners.
pub fn listeners(dump: &Dump) -> Value {
    let list = &part(dump, "ListenersConfigDump")["dynamic_listeners"];
    objects(list, "/active_state/listener", "name", &Filter::default())
}

/// Configurations of routes.
pub fn routes(dump: &Dump, filter: &Filter) -> Value {
    let list = &part(dump, "RoutesConfigDump")["dynamic_route_configs"];
    objects(list, "/route_config", "name", filter)
}

/// Clusters.
pub fn clusters(dump: &Dump, filter: &Filter) -> Value {
    let list = &part(dump, "ClustersConfigDump")["dynamic_active_clusters"];
    objects(list, "/cluster", "name", filter)
}

/// Endpoints by cluster.
pub fn endpoints(dump: &Dump, filter: &Filter) -> Value {
    let list = &part(dump, "EndpointsConfigDump")["dynamic_endpoint_configs"];
    let assignments = objects(list, "/endpoint_config", "cluster_name", filter);
    let assignments = assignments.as_array().cloned().unwrap_or_default();
    let statuses = assignments.into_iter().map(|assignment| {
        let localities = assignment["endpoints"].as_array().cloned();
        let hosts = localities.unwrap_or_default().into_iter();
        let hosts = hosts.flat_map(|group| {
            let endpoints = group["lbEndpoints"].as_array().cloned();
            let locality = group["locality"].clone();
            endpoints.unwrap_or_default().into_iter().map(move |host| {
                json!({
                    "address": host["endpoint"]["address"],
                    "healthStatus": {"edsHealthStatus": host["healthStatus"]},
                    "weight": host["loadBalancingWeight"],
                    "locality": locality,
                })
            })
        });
        json!({
            "name": assignment["clusterName"], "addedViaApi": true,
            "hostStatuses": hosts.collect::<Vec<_>>(),
        })
    });
    statuses.collect()
}

/// Certificates; keys are never among them.
pub fn secrets(dump: &Dump) -> Value {
    camel(part(dump, "SecretsConfigDump"))
}

/// What it was started with.
pub fn bootstrap(dump: &Dump) -> Value {
    camel(part(dump, "BootstrapConfigDump"))
}

/// All parts.
pub fn all(dump: &Dump) -> Value {
    json!({"configs": camel(&dump.raw()["configs"])})
}

/// Names of fields as protobuf's JSON has them. What stands below metadata has names of its own.
fn camel(value: &Value) -> Value {
    match value {
        Value::Array(list) => list.iter().map(camel).collect(),
        Value::Object(fields) => {
            let field = |(key, value): (&String, &Value)| {
                let own = matches!(key.as_str(), "filter_metadata" | "metadata");
                let value = match own && !value["filter_metadata"].is_object() {
                    true => value.clone(),
                    false => camel(value),
                };
                (camel_key(key), value)
            };
            Value::Object(fields.iter().map(field).collect::<Map<_, _>>())
        }
        other => other.clone(),
    }
}

fn camel_key(key: &str) -> String {
    let mut words = key.split('_');
    let mut out = words.next().unwrap_or_default().to_owned();
    for word in words {
        let mut letters = word.chars();
        out.extend(letters.next().map(|c| c.to_ascii_uppercase()));
        out.push_str(letters.as_str());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dump() -> Dump {
        let name = "inbound-vip|80|http|reviews.shop.svc.cluster.local";
        let typed = |kind: &str| format!("type.googleapis.com/envoy.admin.v3.{kind}");
        let dump = json!({"services": [], "configs": [
            {
                "@type": typed("RoutesConfigDump"),
                "dynamic_route_configs": [{"route_config": {
                    "name": name, "virtual_hosts": [{"routes": [{
                        "match": {"path_separated_prefix": "/a"},
                        "metadata": {"filter_metadata": {"istio": {"own_key": "x"}}},
                    }]}],
                }}],
            },
            {
                "@type": typed("EndpointsConfigDump"),
                "dynamic_endpoint_configs": [{"endpoint_config": {
                    "cluster_name": name, "endpoints": [{"locality": {"zone": "a"}, "lb_endpoints": [{
                        "endpoint": {"address": {"socket_address": {"port_value": 80}}},
                        "health_status": "HEALTHY", "load_balancing_weight": 1,
                    }]}],
                }}],
            },
            {
                "@type": typed("BootstrapConfigDump"),
                "bootstrap": {"node": {"user_agent_name": "ambit", "metadata": {"CLUSTER_ID": "k"}}},
            },
        ]});
        Dump::parse(&dump.to_string()).expect("a dump")
    }

    #[test]
    fn fields_have_the_names_of_json() {
        let (dump, any) = (dump(), Filter::default());
        let name = "inbound-vip|80|http|reviews.shop.svc.cluster.local";
        assert_eq!(
            routes(&dump, &any),
            json!([{"name": name, "virtualHosts": [{"routes": [{
                "match": {"pathSeparatedPrefix": "/a"},
                "metadata": {"filterMetadata": {"istio": {"own_key": "x"}}},
            }]}]}])
        );
        assert_eq!(
            endpoints(&dump, &any),
            json!([{"name": name, "addedViaApi": true, "hostStatuses": [{
                "address": {"socketAddress": {"portValue": 80}},
                "healthStatus": {"edsHealthStatus": "HEALTHY"}, "weight": 1,
                "locality": {"zone": "a"},
            }]}])
        );
        let node = &bootstrap(&dump)["bootstrap"]["node"];
        assert_eq!(
            *node,
            json!({"userAgentName": "ambit", "metadata": {"CLUSTER_ID": "k"}})
        );
        assert_eq!(clusters(&dump, &any), json!([]));
    }

    #[test]
    fn filters() {
        let dump = dump();
        let filter = |host: &str, port| Filter {
            host: Some(host.to_owned()),
            port,
        };
        let count = |filter: &Filter| routes(&dump, filter).as_array().map_or(0, Vec::len);
        assert_eq!(count(&filter("reviews", Some(80))), 1);
        assert_eq!(count(&filter("reviews", Some(81))), 0);
        assert_eq!(count(&filter("other", None)), 0);
    }
}
