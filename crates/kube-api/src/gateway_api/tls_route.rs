//! `TLSRoute`: where connections of TLS go, by the name that they ask for.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::reference::ParentReference;
use super::route_status::RouteStatus;
use super::tcp_route::TcpRule;
use crate::resource::resource;

resource! {
    /// Where connections of TLS go, by the name that they ask for.
    TLSRoute {
        spec: TlsRouteSpec, status: RouteStatus, scope: NamespaceResourceScope,
        group: super::GROUP, version: "v1", plural: "tlsroutes"
    }
}

/// What the route is for, the names, and its rule.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["hostnames", "rules"]))]
pub struct TlsRouteSpec {
    /// What it is for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub parent_refs: Vec<ParentReference>,
    /// Names that clients ask for; `*.` at the beginning stands for one label or more.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 1024))]
    pub hostnames: Vec<String>,
    /// The rule: there is one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 1))]
    pub rules: Vec<TcpRule>,
}
