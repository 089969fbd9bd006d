//! The status that all of Istio's configuration objects share.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Status of a configuration object.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
pub struct IstioStatus {
    /// What is known about the object, one entry per type.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// Generation that the status as a whole speaks of.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "int_or_string_schema")]
    pub observed_generation: Option<IntOrString>,
    /// Findings of configuration analysis.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "validation_messages_schema")]
    pub validation_messages: Vec<Value>,
}

/// One statement about an object.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Condition {
    /// What it is about, for example `ZtunnelAccepted`.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub type_: Option<String>,
    /// `True`, `False` or `Unknown`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// Reason for machines, one word.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Reason for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Generation of the object that was looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "int_or_string_schema")]
    pub observed_generation: Option<IntOrString>,
    /// When `status` last changed, in RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"))]
    pub last_transition_time: Option<String>,
    /// When the object was last looked at, in RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"))]
    pub last_probe_time: Option<String>,
}

impl From<k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition> for Condition {
    fn from(c: k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition) -> Self {
        Self {
            type_: Some(c.type_),
            status: Some(c.status),
            reason: Some(c.reason),
            message: Some(c.message),
            observed_generation: c
                .observed_generation
                .and_then(|g| i32::try_from(g).ok())
                .map(IntOrString::Int),
            last_transition_time: Some(c.last_transition_time.0.to_string()),
            last_probe_time: None,
        }
    }
}

fn int_or_string_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "description": "Generation of the object that was looked at.",
        "x-kubernetes-int-or-string": true
    })
}

fn validation_messages_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "array",
        "description": "Findings of configuration analysis.",
        "items": {
            "type": "object",
            "properties": {
                "documentationUrl": {"type": "string", "description": "Where the finding is explained."},
                "level": {
                    "type": "string",
                    "description": "How severe it is.",
                    "enum": ["UNKNOWN", "ERROR", "WARNING", "INFO"]
                },
                "type": {
                    "type": "object",
                    "description": "Which finding it is.",
                    "properties": {
                        "code": {"type": "string", "description": "Its code."},
                        "name": {"type": "string", "description": "Its name."}
                    }
                }
            }
        }
    })
}
