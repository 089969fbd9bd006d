//! The CRDs, generated from the types: the charts carry what [`yaml`] gives, and a test fails when
//! the two differ.

mod definition;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;

use crate::gateway_api::class::{GatewayClassSpec, GatewayClassStatus};
use crate::gateway_api::gateway::GatewayStatus;
use crate::gateway_api::{
    BackendTLSPolicy, BackendTlsPolicySpec, GRPCRoute, Gateway, GatewayClass, GatewaySpec,
    GrpcRouteSpec, HTTPRoute, HttpRouteSpec, PolicyStatus, RouteStatus, TCPRoute, TLSRoute,
    TcpRouteSpec, TlsRouteSpec,
};
use crate::networking::{DestinationRule, DestinationRuleSpec};
use crate::security::{
    AuthorizationPolicy, AuthorizationPolicySpec, PeerAuthentication, PeerAuthenticationSpec,
    RequestAuthentication, RequestAuthenticationSpec,
};
use crate::telemetry::{Telemetry, TelemetrySpec};
use definition::{AGE, Definition, GatewayDefinition};

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
    stored: "v1",
};

const DESTINATION_RULE: Definition = Definition {
    description: "How endpoints of a service are chosen and spared.",
    short_name: "dr",
    category: "networking-istio-io",
    component: "",
    columns: &[
        (
            "Host",
            "string",
            ".spec.host",
            "The service that it is about.",
        ),
        AGE,
    ],
    versions: &["v1", "v1alpha3", "v1beta1"],
    stored: "v1",
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
    stored: "v1",
};

const REQUEST_AUTHENTICATION: Definition = Definition {
    description: "Which tokens of requests are believed.",
    short_name: "ra",
    category: "security-istio-io",
    component: "security",
    columns: &[],
    versions: &["v1", "v1beta1"],
    stored: "v1",
};

const TELEMETRY: Definition = Definition {
    description: "What is told about traffic.",
    short_name: "telemetry",
    category: "telemetry-istio-io",
    component: "telemetry",
    columns: &[AGE],
    versions: &["v1", "v1alpha1"],
    stored: "v1alpha1",
};

/// All definitions, in the order of their names.
pub fn all() -> Result<Vec<CustomResourceDefinition>, CrdError> {
    Ok(vec![
        AUTHORIZATION_POLICY.build::<AuthorizationPolicy, AuthorizationPolicySpec>()?,
        DESTINATION_RULE.build::<DestinationRule, DestinationRuleSpec>()?,
        PEER_AUTHENTICATION.build::<PeerAuthentication, PeerAuthenticationSpec>()?,
        REQUEST_AUTHENTICATION.build::<RequestAuthentication, RequestAuthenticationSpec>()?,
        TELEMETRY.build::<Telemetry, TelemetrySpec>()?,
    ])
}

/// Where the generated files of the Gateway API are kept.
pub const GATEWAY_API: &str = "charts/base/files/gateway-api";

const AGE_COLUMN: (&str, &str, &str) = ("Age", "date", ".metadata.creationTimestamp");

const GATEWAY_CLASS: GatewayDefinition = GatewayDefinition {
    description: "A class of gateways, and the controller that makes them.",
    short_names: &["gc"],
    columns: &[
        ("Controller", "string", ".spec.controllerName"),
        (
            "Accepted",
            "string",
            ".status.conditions[?(@.type==\"Accepted\")].status",
        ),
        AGE_COLUMN,
        ("Description", "string", ".spec.description"),
    ],
    versions: &["v1", "v1beta1"],
    cluster: true,
};

const GATEWAY: GatewayDefinition = GatewayDefinition {
    description: "Where traffic comes in, or where a mesh looks into it.",
    short_names: &["gtw"],
    columns: &[
        ("Class", "string", ".spec.gatewayClassName"),
        ("Address", "string", ".status.addresses[*].value"),
        (
            "Programmed",
            "string",
            ".status.conditions[?(@.type==\"Programmed\")].status",
        ),
        AGE_COLUMN,
    ],
    versions: &["v1", "v1beta1"],
    cluster: false,
};

const HTTP_ROUTE: GatewayDefinition = GatewayDefinition {
    description: "Where HTTP requests go.",
    short_names: &[],
    columns: &[("Hostnames", "string", ".spec.hostnames"), AGE_COLUMN],
    versions: &["v1", "v1beta1"],
    cluster: false,
};

const GRPC_ROUTE: GatewayDefinition = GatewayDefinition {
    description: "Where gRPC calls go.",
    short_names: &[],
    columns: &[("Hostnames", "string", ".spec.hostnames"), AGE_COLUMN],
    versions: &["v1"],
    cluster: false,
};

const TCP_ROUTE: GatewayDefinition = GatewayDefinition {
    description: "Where connections go.",
    short_names: &[],
    columns: &[AGE_COLUMN],
    versions: &["v1"],
    cluster: false,
};

const TLS_ROUTE: GatewayDefinition = GatewayDefinition {
    description: "Where connections of TLS go, by the name that they ask for.",
    ..TCP_ROUTE
};

const BACKEND_TLS_POLICY: GatewayDefinition = GatewayDefinition {
    description: "TLS to the endpoints of a service.",
    short_names: &["btlspolicy"],
    ..TCP_ROUTE
};

/// The definitions of the Gateway API that the mesh reads, for clusters that have none: types and
/// limits of the released ones, without their rules.
pub fn gateway_api() -> Result<Vec<CustomResourceDefinition>, CrdError> {
    Ok(vec![
        BACKEND_TLS_POLICY.build::<BackendTLSPolicy, BackendTlsPolicySpec, PolicyStatus>()?,
        GATEWAY_CLASS.build::<GatewayClass, GatewayClassSpec, GatewayClassStatus>()?,
        GATEWAY.build::<Gateway, GatewaySpec, GatewayStatus>()?,
        GRPC_ROUTE.build::<GRPCRoute, GrpcRouteSpec, RouteStatus>()?,
        HTTP_ROUTE.build::<HTTPRoute, HttpRouteSpec, RouteStatus>()?,
        TCP_ROUTE.build::<TCPRoute, TcpRouteSpec, RouteStatus>()?,
        TLS_ROUTE.build::<TLSRoute, TlsRouteSpec, RouteStatus>()?,
    ])
}

/// Definitions as files: name and content.
pub fn yaml(crds: Vec<CustomResourceDefinition>) -> Result<Vec<(String, String)>, CrdError> {
    crds.into_iter()
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
