//! `GatewayClass`: who makes gateways of a class.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::resource::resource;
use crate::status::Condition;

resource! {
    /// A class of gateways, and the controller that makes them.
    GatewayClass {
        spec: GatewayClassSpec, status: GatewayClassStatus, scope: ClusterResourceScope,
        group: super::GROUP, version: "v1", plural: "gatewayclasses"
    }
}

/// The controller of a class.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["controllerName"]))]
pub struct GatewayClassSpec {
    /// Domain-prefixed name of the controller. It never changes.
    #[schemars(length(min = 1, max = 253), extend("x-kubernetes-validations" = [
        {"rule": "self == oldSelf", "message": "Value is immutable"}
    ]))]
    pub controller_name: String,
    /// For people.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub description: Option<String>,
    /// Parameters of the controller.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parameters_ref: Option<ParametersReference>,
}

/// An object with parameters of a controller.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["group", "kind", "name"]))]
pub struct ParametersReference {
    /// API group.
    #[schemars(length(max = 253))]
    pub group: String,
    /// Kind.
    #[schemars(length(min = 1, max = 63))]
    pub kind: String,
    /// Name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Namespace, where the object that refers has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub namespace: Option<String>,
}

/// What became of a class.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct GatewayClassStatus {
    /// What is known about it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "super::route_status::conditions_schema")]
    pub conditions: Vec<Condition>,
    /// Features of the Gateway API that the controller has.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub supported_features: Vec<SupportedFeature>,
}

/// A feature.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("required" = ["name"]))]
pub struct SupportedFeature {
    /// Its name.
    #[serde(default)]
    pub name: String,
}

impl GatewayClass {
    /// A class of this name for this controller.
    pub fn new(name: &str, controller: &str, description: &str) -> Self {
        Self {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                ..ObjectMeta::default()
            },
            spec: GatewayClassSpec {
                controller_name: controller.to_owned(),
                description: Some(description.to_owned()),
                parameters_ref: None,
            },
            status: None,
        }
    }
}
