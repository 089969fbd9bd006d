//! The CRDs, generated from the types: the charts carry what [`yaml`] gives, and a test fails when
//! the two differ.

mod definition;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;

use crate::security::{
    AuthorizationPolicy, AuthorizationPolicySpec, PeerAuthentication, PeerAuthenticationSpec,
};
use definition::{AGE, Definition};

/// Where the generated files are kept, relative to the top of the source tree.
pub const GENERATED: &str = "charts/base/files/crds";

/// Why CRDs could not be generated: a mistake in the types of this crate.
#[derive(Debug, thiserror::Error)]
pub enum CrdError {
    /// A schema is not one of a CRD.
    #[error("a schema is not one that a CRD can carry: {0}")]
    Schema(#[from] serde_json::Error),
    /// It cannot be written as YAML.
    #[error("the definition of {name} cannot be written as YAML: {message}")]
    Yaml {
        /// Name of the CRD.
        name: String,
        /// What is wrong.
        message: String,
    },
}

const AUTHORIZATION_POLICY: Definition = Definition {
    description: "Access control for workloads in the mesh.",
    short_name: "ap",
    category: "security-istio-io",
    component: "security",
    columns: &[
        (
            "Action",
            "string",
            ".spec.action",
            "What a matching policy does.",
        ),
        AGE,
    ],
    versions: &["v1", "v1beta1"],
};

const PEER_AUTHENTICATION: Definition = Definition {
    description: "Whether workloads accept traffic without mutual TLS.",
    short_name: "pa",
    category: "security-istio-io",
    component: "security",
    columns: &[
        (
            "Mode",
            "string",
            ".spec.mtls.mode",
            "Whether plaintext is accepted.",
        ),
        AGE,
    ],
    versions: &["v1", "v1beta1"],
};

/// All definitions, in the order of their names.
pub fn all() -> Result<Vec<CustomResourceDefinition>, CrdError> {
    Ok(vec![
        AUTHORIZATION_POLICY.build::<AuthorizationPolicy, AuthorizationPolicySpec>()?,
        PEER_AUTHENTICATION.build::<PeerAuthentication, PeerAuthenticationSpec>()?,
    ])
}

/// All definitions as files: name and content.
pub fn yaml() -> Result<Vec<(String, String)>, CrdError> {
    all()?
        .into_iter()
        .map(|crd| {
            let name = crd.metadata.name.clone().unwrap_or_default();
            let text = serde_saphyr::to_string(&crd).map_err(|e| CrdError::Yaml {
                name: name.clone(),
                message: e.to_string(),
            })?;
            Ok((format!("{name}.yaml"), format!("{HEADER}{text}")))
        })
        .collect()
}

const HEADER: &str = "# Generated from the types in crates/kube-api.\n\
                      # `AMBIT_GENERATE=1 cargo test -p ambit-kube-api` writes it again.\n";
