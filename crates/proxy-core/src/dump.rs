//! `/config_dump`: the state as JSON, in the form that Istio's tools read.
//!
//! The proxy adds its own parts (version, configuration, certificates, pods) to what is here; all
//! objects come out with their keys in alphabetical order.

use ambit_model::state::MeshState;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::store::{LocalConfig, shape};

/// `workloads`, `services`, `policies` and `stagedServices` of a state.
pub fn state(state: &MeshState) -> Map<String, Value> {
    let mut workloads: Vec<_> = state.workloads().collect();
    workloads.sort_by(|a, b| a.uid.cmp(&b.uid));
    let mut services: Vec<_> = state.services().collect();
    services
        .sort_by(|(a, _), (b, _)| (&a.hostname, &a.namespace).cmp(&(&b.hostname, &b.namespace)));
    let mut policies: Vec<_> = state.policies().collect();
    policies.sort_by_cached_key(|p| p.key());

    let staged = state.staged().map(|(key, endpoints)| {
        let endpoints = endpoints.values().map(|w| {
            let endpoint = shape::Endpoint {
                workload_uid: w.uid.clone(),
                port: w.services.get(key).cloned().unwrap_or_default(),
                status: w.status.into(),
            };
            (w.uid.to_string(), value(&endpoint))
        });
        (key.to_string(), Value::Object(endpoints.collect()))
    });
    let mut dump = Map::new();
    let list = |items: Vec<Value>| Value::Array(items);
    dump.insert(
        "workloads".into(),
        list(
            workloads
                .iter()
                .map(|w| value(&shape::Workload::from(&***w)))
                .collect(),
        ),
    );
    dump.insert(
        "services".into(),
        list(
            services
                .iter()
                .map(|(s, entry)| value(&shape::Service::with_endpoints(s, entry)))
                .collect(),
        ),
    );
    dump.insert(
        "policies".into(),
        list(
            policies
                .iter()
                .map(|p| value(&shape::Policy::from(&***p)))
                .collect(),
        ),
    );
    dump.insert("stagedServices".into(), Value::Object(staged.collect()));
    dump
}

/// `staticConfig`: what came from the local configuration.
pub fn static_config(local: Option<&LocalConfig>) -> Value {
    value(&local.cloned().unwrap_or_default())
}

/// The whole page: sorted and indented.
pub fn page(dump: Map<String, Value>) -> String {
    let mut dump = Value::Object(dump);
    dump.sort_all_objects();
    // A value that was built as JSON always has a text.
    serde_json::to_string_pretty(&dump).unwrap_or_default()
}

fn value<T: Serialize>(item: &T) -> Value {
    // The forms are plain data with text keys, for which this cannot fail.
    serde_json::to_value(item).unwrap_or(Value::Null)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store;

    #[test]
    fn what_istios_tools_read() {
        let document = r#"
workloads:
- uid: c//Pod/ns/b
  name: b
  namespace: ns
  workloadIps: [10.0.0.2]
  serviceAccount: sa
  protocol: HBONE
  workloadType: pod
  services: {ns/h: {80: 8080}, ns/later: {}}
- uid: c//Pod/ns/a
  name: a
  namespace: ns
services:
- {name: h, namespace: ns, hostname: h, vips: [/10.1.0.1], ports: {80: 8080}}
policies:
- {name: p, namespace: ns, rules: [[[{principals: [{Exact: a}], notPrincipals: [{Presence: []}]}]]]}
"#;
        let (store, mut writer) = store::new(None);
        writer.apply(LocalConfig::parse(document).unwrap().changes().unwrap());
        let text = page(state(&store.load()));
        let dump: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(dump["workloads"][0]["name"], "a");
        let b = serde_json::json!({
            "capacity": 1, "clusterId": "Kubernetes", "name": "b", "namespace": "ns",
            "networkMode": "Standard", "protocol": "HBONE", "serviceAccount": "sa",
            "services": ["ns/h", "ns/later"], "status": "Healthy",
            "trustDomain": "cluster.local", "uid": "c//Pod/ns/b",
            "workloadIps": ["10.0.0.2"], "workloadType": "pod",
        });
        assert_eq!(dump["workloads"][1], b);
        let keys: Vec<_> = dump["workloads"][1].as_object().unwrap().keys().collect();
        assert!(keys.is_sorted(), "{keys:?}");
        let s = serde_json::json!({
            "name": "h", "namespace": "ns", "hostname": "h", "vips": ["/10.1.0.1"],
            "ports": {"80": 8080}, "subjectAltNames": [], "canonical": false,
            "visibility": "Public",
            "endpoints": {"c//Pod/ns/b": {
                "workloadUid": "c//Pod/ns/b", "port": {"80": 8080}, "status": "Healthy",
            }},
        });
        assert_eq!(dump["services"][0], s);
        let rule = serde_json::json!([[[{
            "principals": [{"Exact": "a"}], "notPrincipals": [{"Presence": []}],
        }]]]);
        assert_eq!(dump["policies"][0]["rules"], rule);
        assert_eq!(dump["policies"][0]["scope"], "Namespace");
        assert!(dump["stagedServices"]["ns/later"]["c//Pod/ns/b"].is_object());
    }
}
