//! A config dump, read leniently: other node proxies leave out or add fields.

use anyhow::bail;
use serde_json::Value;

/// The parts that are shown.
#[derive(Clone, Debug)]
pub struct Dump {
    raw: Value,
    /// Workloads as they came.
    pub workloads: Vec<Value>,
    /// Services as they came.
    pub services: Vec<Value>,
    /// Policies as they came.
    pub policies: Vec<Value>,
    /// Certificates as they came.
    pub certificates: Vec<Value>,
}

impl Dump {
    /// Reads a dump.
    ///
    /// # Errors
    /// When the text is not JSON, or not a dump.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let raw: Value = serde_json::from_str(text)?;
        if raw.get("workloads").is_none() && raw.get("services").is_none() {
            bail!("it has neither workloads nor services");
        }
        Ok(Self {
            workloads: items(&raw["workloads"]),
            services: items(&raw["services"]),
            policies: items(&raw["policies"]),
            certificates: items(&raw["certificates"]),
            raw,
        })
    }

    /// All of it.
    pub fn raw(&self) -> &Value {
        &self.raw
    }

    /// `workloadState`: pods of the node, by UID.
    pub fn states(&self) -> Vec<&Value> {
        self.raw["workloadState"]
            .as_object()
            .into_iter()
            .flat_map(|map| map.values())
            .collect()
    }

    /// The name of what a waypoint destination (`namespace/hostname` or `network/address`) is.
    pub fn waypoint(&self, object: &Value) -> String {
        let Some(destination) = object["waypoint"]["destination"].as_str() else {
            return "None".to_owned();
        };
        let (scope, target) = destination.split_once('/').unwrap_or(("", destination));
        let found = match target.parse::<std::net::IpAddr>() {
            Ok(_) => self.name_of_address(target),
            Err(_) => self
                .services
                .iter()
                .find(|s| text(s, "namespace") == scope && text(s, "hostname") == target)
                .map(|s| text(s, "name").to_owned()),
        };
        found.unwrap_or_else(|| "NA".to_owned())
    }

    fn name_of_address(&self, address: &str) -> Option<String> {
        let service = self.services.iter().find(|s| vips(s).any(|v| v == address));
        let workload = || {
            self.workloads
                .iter()
                .find(|w| addresses(w).any(|a| a == address))
        };
        service
            .or_else(workload)
            .map(|o| text(o, "name").to_owned())
    }

    /// What an address belongs to: the service's host name, else `pod.namespace`. Only the first
    /// address of an object counts.
    pub fn owner_of(&self, address: &str) -> Option<String> {
        if let Some(s) = self
            .services
            .iter()
            .find(|s| vips(s).next() == Some(address))
        {
            return Some(text(s, "hostname").to_owned());
        }
        let workload = self
            .workloads
            .iter()
            .find(|w| addresses(w).next() == Some(address))?;
        Some(format!(
            "{}.{}",
            text(workload, "name"),
            text(workload, "namespace")
        ))
    }
}

/// A list, or the values of a map.
fn items(value: &Value) -> Vec<Value> {
    match value {
        Value::Array(list) => list.clone(),
        Value::Object(map) => map.values().cloned().collect(),
        _ => Vec::new(),
    }
}

/// A field as text; empty when it is missing.
pub fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object[field].as_str().unwrap_or_default()
}

/// The texts of a list.
pub fn texts<'a>(object: &'a Value, field: &str) -> impl Iterator<Item = &'a str> {
    object[field]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
}

/// Addresses of a workload.
pub fn addresses(workload: &Value) -> impl Iterator<Item = &str> {
    texts(workload, "workloadIps")
}

/// Virtual addresses of a service, without the network.
pub fn vips(service: &Value) -> impl Iterator<Item = &str> {
    texts(service, "vips").map(|vip| vip.split_once('/').map_or(vip, |(_, address)| address))
}
