//! Names of objects, and numbers of ports, that several roles have to agree about.

/// Namespace of the control plane unless said otherwise.
pub const SYSTEM_NAMESPACE: &str = "istio-system";
/// Name of a cluster that was not given one.
pub const DEFAULT_CLUSTER_ID: &str = "Kubernetes";
/// DNS suffix of a cluster that was not given one.
pub const DEFAULT_CLUSTER_DOMAIN: &str = "cluster.local";

/// ConfigMap with the mesh configuration, `istio` or `istio-<revision>`.
pub const MESH_CONFIG_MAP: &str = "istio";
/// Key of the mesh configuration in [`MESH_CONFIG_MAP`].
pub const MESH_CONFIG_KEY: &str = "mesh";

/// ConfigMap in every namespace with the root certificate.
pub const ROOT_CERT_CONFIG_MAP: &str = "istio-ca-root-cert";
/// Key of the root certificate in [`ROOT_CERT_CONFIG_MAP`].
pub const ROOT_CERT_KEY: &str = "root-cert.pem";

/// Secret with a certificate authority that the user brings.
pub const PLUGGED_CA_SECRET: &str = "cacerts";
/// Secret in which a self-signed certificate authority is kept.
pub const SELF_SIGNED_CA_SECRET: &str = "istio-ca-secret";
/// Type of [`SELF_SIGNED_CA_SECRET`].
pub const CA_SECRET_TYPE: &str = "istio.io/ca-root";
/// Key of the signing certificate in a CA secret.
pub const CA_CERT_KEY: &str = "ca-cert.pem";
/// Key of the signing key in a CA secret.
pub const CA_PRIVATE_KEY_KEY: &str = "ca-key.pem";
/// Key of the intermediate certificates in a CA secret.
pub const CERT_CHAIN_KEY: &str = "cert-chain.pem";

/// Audience of the tokens that are shown to the control plane.
pub const TOKEN_AUDIENCE: &str = "istio-ca";
/// Service account of the node proxy.
pub const ZTUNNEL_SERVICE_ACCOUNT: &str = "ztunnel";

/// Name of the control plane's service and deployment.
pub const CONTROL_PLANE: &str = "istiod";
/// Lease of the control plane replica that writes statuses and root certificates.
pub const LEADER_LEASE: &str = "istio-leader";
/// Field manager of the status of policies that node proxies enforce.
pub const ZTUNNEL_POLICY_MANAGER: &str = "istio-ambient-ztunnel-policy";
/// Field manager of the status of policies that waypoints enforce.
pub const WAYPOINT_POLICY_MANAGER: &str = "istio-ambient-waypoint-policy";
/// Field manager of the status of services.
pub const SERVICE_MANAGER: &str = "istio-ambient-service";

/// Node proxy: outbound capture.
pub const PORT_OUTBOUND: u16 = 15001;
/// Node proxy: inbound plaintext capture.
pub const PORT_INBOUND_PLAINTEXT: u16 = 15006;
/// HBONE.
pub const PORT_HBONE: u16 = 15008;
/// Node proxy: DNS.
pub const PORT_DNS: u16 = 15053;
/// Control plane: xDS without TLS.
pub const PORT_XDS_PLAINTEXT: u16 = 15010;
/// Control plane: xDS and CA over TLS.
pub const PORT_XDS: u16 = 15012;
/// Control plane: metrics and version.
pub const PORT_MONITORING: u16 = 15014;
/// Control plane: webhooks.
pub const PORT_WEBHOOKS: u16 = 15017;
/// Control plane: readiness and debug.
pub const PORT_DEBUG: u16 = 8080;
