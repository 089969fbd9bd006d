//! What a policy is attached to: workloads by label, or objects by reference.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Selects the pods of a namespace by their labels.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct WorkloadSelector {
    /// Labels that a pod must all have. No labels select every pod of the namespace.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "match_labels_schema")]
    pub match_labels: BTreeMap<String, String>,
}

fn match_labels_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "object",
        "description": "Labels that a pod must all have. No labels select every pod of the namespace.",
        "maxProperties": 4096,
        "additionalProperties": {
            "type": "string",
            "maxLength": 63,
            "x-kubernetes-validations": [
                {"rule": "!self.contains('*')", "message": "a label value cannot hold a wildcard"}
            ]
        },
        "x-kubernetes-validations": [
            {"rule": "self.all(k, !k.contains('*'))", "message": "a label key cannot hold a wildcard"},
            {"rule": "self.all(k, k.size() > 0)", "message": "a label key cannot be empty"}
        ]
    })
}

/// Refers to the object that a policy is attached to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolicyTargetReference {
    /// API group of the target; empty or `core` for a Service.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(
        length(max = 253),
        regex(pattern = r"^$|^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$")
    )]
    pub group: String,
    /// Kind of the target: Service, ServiceEntry, Gateway or GatewayClass.
    #[schemars(
        length(min = 1, max = 63),
        regex(pattern = r"^[a-zA-Z]([-a-zA-Z0-9]*[a-zA-Z0-9])?$")
    )]
    pub kind: String,
    /// Name of the target, in the namespace of the policy.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Must be empty: a policy attaches within its own namespace.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(extend("x-kubernetes-validations" = [
        {"rule": "self.size() == 0", "message": "a policy cannot refer to another namespace"}
    ]))]
    pub namespace: String,
}

/// Fields that a newer version of the API may have and this one does not know. They are kept, so
/// that a policy which carries one is closed instead of being read without it.
pub type UnknownFields = BTreeMap<String, Value>;
