//! Annotation keys, and the values that mean something.

/// Written on pods by the node agent: the state of the redirection to the node proxy.
pub const REDIRECTION: &str = "ambient.istio.io/redirection";
/// Value of [`REDIRECTION`]: the pod's traffic is captured.
pub const REDIRECTION_ENABLED: &str = "enabled";
/// Value of [`REDIRECTION`]: capture is not complete yet.
pub const REDIRECTION_PENDING: &str = "pending";

/// On pods: inbound traffic is not captured.
pub const BYPASS_INBOUND_CAPTURE: &str = "ambient.istio.io/bypass-inbound-capture";
/// On pods: overrides whether DNS is captured.
pub const DNS_CAPTURE: &str = "ambient.istio.io/dns-capture";
/// On pods: interfaces whose inbound traffic is treated as outbound.
pub const REROUTE_VIRTUAL_INTERFACES: &str = "istio.io/reroute-virtual-interfaces";

/// On services and namespaces: which endpoints are preferred.
pub const TRAFFIC_DISTRIBUTION: &str = "networking.istio.io/traffic-distribution";

/// On policies: evaluated and logged, not enforced.
pub const DRY_RUN: &str = "istio.io/dry-run";

/// On gateways: name of the objects that are made for them.
pub const NAME_OVERRIDE: &str = "gateway.istio.io/name-override";
/// On gateways: service account of their pods.
pub const GATEWAY_SERVICE_ACCOUNT: &str = "gateway.istio.io/service-account";

/// On waypoints and their class: applications are told who the caller is if this is `true`.
pub const SHOW_CALLER: &str = "ambient.istio.io/xfcc-include-client-identity";

/// On gateways of the first release: service account of the workloads that they are for.
pub const LEGACY_SERVICE_ACCOUNT: &str = "istio.io/service-account";

/// On pods: written by the sidecar injector; such a pod is never captured.
pub const SIDECAR_STATUS: &str = "sidecar.istio.io/status";

/// On CRDs: an uninstall leaves them.
pub const HELM_RESOURCE_POLICY: &str = "helm.sh/resource-policy";

/// On a policy of the Gateway API: it has no effect if this is `true`.
pub const IGNORE_POLICY: &str = "istio.io/ignore-policy-attachment";
