//! `BackendTLSPolicy`: TLS to the endpoints of a service.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::reference::ParentReference;
use super::route_status::conditions_schema;
use crate::resource::resource;
use crate::status::Condition;

resource! {
    /// TLS to the endpoints of a service.
    BackendTLSPolicy {
        spec: BackendTlsPolicySpec, status: PolicyStatus, scope: NamespaceResourceScope,
        group: super::GROUP, version: "v1", plural: "backendtlspolicies"
    }
}

/// The services, and what their endpoints must show.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["targetRefs", "validation"]))]
pub struct BackendTlsPolicySpec {
    /// The services.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 16))]
    pub target_refs: Vec<PolicyTarget>,
    /// What their endpoints must show.
    pub validation: BackendTlsValidation,
    /// Options of the implementation.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub options: BTreeMap<String, String>,
}

/// An object of the policy's namespace that a policy is about, or a part of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["group", "kind", "name"]))]
pub struct PolicyTarget {
    /// API group, empty for services.
    #[schemars(length(max = 253))]
    pub group: String,
    /// Kind.
    #[schemars(length(min = 1, max = 63))]
    pub kind: String,
    /// Name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Name of the part; of a service, a port.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub section_name: Option<String>,
}

/// What endpoints must show.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["hostname"]))]
pub struct BackendTlsValidation {
    /// Objects with authorities, in PEM under `ca.crt`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub ca_certificate_refs: Vec<CaReference>,
    /// `System`: the authorities that the system trusts.
    #[serde(
        rename = "wellKnownCACertificates",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(length(min = 1, max = 253))]
    pub well_known_ca_certificates: Option<String>,
    /// The name that is asked for.
    #[schemars(length(min = 1, max = 253))]
    pub hostname: String,
    /// Names of which a certificate must have one; the name that is asked for without.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 5))]
    pub subject_alt_names: Vec<SubjectAltName>,
}

/// An object with authorities.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(extend("required" = ["group", "kind", "name"]))]
pub struct CaReference {
    /// API group, empty for ConfigMaps.
    #[schemars(length(max = 253))]
    pub group: String,
    /// Kind.
    #[schemars(length(min = 1, max = 63))]
    pub kind: String,
    /// Name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// A name in a certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(extend("required" = ["type"]))]
pub struct SubjectAltName {
    /// `Hostname` or `URI`.
    #[serde(rename = "type")]
    #[schemars(extend("enum" = ["Hostname", "URI"]))]
    pub type_: String,
    /// The host name.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub hostname: Option<String>,
    /// The URI.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub uri: Option<String>,
}

/// What became of a policy, for each thing that it has an effect on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(extend("required" = ["ancestors"]))]
pub struct PolicyStatus {
    /// One entry for each thing and controller.
    #[schemars(length(max = 16))]
    pub ancestors: Vec<PolicyAncestorStatus>,
}

/// What a controller says about a policy and one thing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["ancestorRef", "conditions", "controllerName"]))]
pub struct PolicyAncestorStatus {
    /// The thing.
    pub ancestor_ref: ParentReference,
    /// The controller.
    #[schemars(length(min = 1, max = 253))]
    pub controller_name: String,
    /// What it says.
    #[schemars(schema_with = "conditions_schema")]
    pub conditions: Vec<Condition>,
}
