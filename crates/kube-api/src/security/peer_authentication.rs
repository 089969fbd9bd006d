//! `PeerAuthentication`: whether a workload takes plaintext.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::resource::resource;
use crate::selector::WorkloadSelector;

resource! {
    /// Whether workloads accept traffic without mutual TLS.
    PeerAuthentication { spec: PeerAuthenticationSpec, group: super::GROUP, version: "v1", plural: "peerauthentications" }
}

/// Mutual TLS requirements of workloads.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "!has(self.portLevelMtls) || (has(self.selector) && has(self.selector.matchLabels) && self.selector.matchLabels.size() > 0)",
    "message": "portLevelMtls needs a selector"
}]))]
pub struct PeerAuthenticationSpec {
    /// Pods that it applies to; without it, all pods of the namespace, and in the root namespace
    /// all pods of the mesh.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<WorkloadSelector>,
    /// The requirement.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtls: Option<MutualTls>,
    /// Requirements of single ports of the pods, by port number.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "port_level_schema")]
    pub port_level_mtls: BTreeMap<String, MutualTls>,
}

/// One requirement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct MutualTls {
    /// Whether plaintext is accepted; UNSET inherits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
}

/// Whether plaintext is accepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum Mode {
    /// As the wider level says.
    #[default]
    Unset,
    /// Mutual TLS is not used; a node proxy reads it as PERMISSIVE.
    Disable,
    /// Plaintext and mutual TLS.
    Permissive,
    /// Mutual TLS only.
    Strict,
}

fn port_level_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "object",
        "description": "Requirements of single ports of the pods, by port number.",
        "minProperties": 1,
        "additionalProperties": {
            "type": "object",
            "properties": {
                "mode": {
                    "type": "string",
                    "description": "Whether plaintext is accepted; UNSET inherits.",
                    "enum": ["UNSET", "DISABLE", "PERMISSIVE", "STRICT"]
                }
            }
        },
        "x-kubernetes-validations": [
            {"rule": "self.all(p, int(p) >= 1 && int(p) <= 65535)", "message": "a port is a number from 1 to 65535"}
        ]
    })
}
