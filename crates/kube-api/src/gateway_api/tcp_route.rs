//! `TCPRoute`: where connections go.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::reference::{BackendRef, ParentReference};
use super::route_status::RouteStatus;
use crate::resource::resource;

resource! {
    /// Where connections go.
    TCPRoute {
        spec: TcpRouteSpec, status: RouteStatus, scope: NamespaceResourceScope,
        group: super::GROUP, version: "v1", plural: "tcproutes"
    }
}

/// What the route is for, and its rule.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["rules"]))]
pub struct TcpRouteSpec {
    /// What it is for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub parent_refs: Vec<ParentReference>,
    /// The rule: there is one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 1))]
    pub rules: Vec<TcpRule>,
}

/// Where connections go.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["backendRefs"]))]
pub struct TcpRule {
    /// Name.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub name: Option<String>,
    /// The backends, by weight.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 16))]
    pub backend_refs: Vec<BackendRef>,
}
