//! The question to the agent: `POST /cmdadd` with the pod, its namespace file and its addresses.

use serde_json::{Value, json};

use super::config::Pod;

/// The body of the question.
pub fn body(pod: &Pod, netns: &str, previous_result: Option<&Value>) -> Value {
    let mut body = json!({
        "Netns": netns,
        "PodName": pod.name,
        "PodNamespace": pod.namespace,
        "IPs": addresses(previous_result),
    });
    if let Some(uid) = &pod.uid {
        body["PodUID"] = json!(uid);
    }
    body
}

/// The addresses that the plugins before gave the pod (`ips` of the result, CNI 0.3.1 and later).
fn addresses(result: Option<&Value>) -> Vec<Value> {
    let Some(ips) = result.and_then(|r| r["ips"].as_array()) else {
        return Vec::new();
    };
    ips.iter()
        .filter_map(|entry| {
            let address = entry["address"].as_str()?;
            let ip = address.split('/').next().unwrap_or(address);
            let mut one = json!({ "Address": { "IP": ip } });
            if let Some(interface) = entry["interface"].as_u64() {
                one["Interface"] = json!(interface);
            }
            if let Some(gateway) = entry["gateway"].as_str() {
                one["Gateway"] = json!(gateway);
            }
            Some(one)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn carries_the_addresses_without_their_prefix_length() {
        let pod = Pod {
            name: "cart".into(),
            namespace: "shop".into(),
            uid: Some("u".into()),
        };
        let result = json!({"ips": [
            {"address": "10.244.1.7/24", "gateway": "10.244.1.1", "interface": 2},
            {"address": "fd00::7/64"}, {"odd": true}
        ]});
        assert_eq!(
            body(&pod, "/var/run/netns/x", Some(&result)),
            json!({
                "Netns": "/var/run/netns/x", "PodName": "cart", "PodNamespace": "shop", "PodUID": "u",
                "IPs": [
                    {"Address": {"IP": "10.244.1.7"}, "Interface": 2, "Gateway": "10.244.1.1"},
                    {"Address": {"IP": "fd00::7"}}
                ]
            })
        );
    }
}
