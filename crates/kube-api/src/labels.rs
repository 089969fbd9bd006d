//! Label keys, and the values that mean something.

/// On namespaces and pods: `ambient` enrolls, `none` opts a pod out.
pub const DATAPLANE_MODE: &str = "istio.io/dataplane-mode";
/// Value of [`DATAPLANE_MODE`] that enrolls.
pub const DATAPLANE_MODE_AMBIENT: &str = "ambient";
/// Value of [`DATAPLANE_MODE`] that opts out.
pub const DATAPLANE_MODE_NONE: &str = "none";

/// Control plane revision that a configuration object belongs to.
pub const REVISION: &str = "istio.io/rev";
/// The revision that an object without [`REVISION`] belongs to, and that an unnamed control plane is.
pub const DEFAULT_REVISION: &str = "default";

/// On pods: `http` says that the workload speaks HBONE itself.
pub const TUNNEL: &str = "networking.istio.io/tunnel";
/// Value of [`TUNNEL`].
pub const TUNNEL_HTTP: &str = "http";

/// Name of the network: of the cluster when on the system namespace.
pub const NETWORK: &str = "topology.istio.io/network";

/// Canonical service name, for telemetry.
pub const CANONICAL_NAME: &str = "service.istio.io/canonical-name";
/// Canonical revision, for telemetry.
pub const CANONICAL_REVISION: &str = "service.istio.io/canonical-revision";
/// Overrides the workload's name.
pub const WORKLOAD_NAME: &str = "service.istio.io/workload-name";

/// Kubernetes' recommended application name.
pub const APP_NAME: &str = "app.kubernetes.io/name";
/// Kubernetes' recommended application version.
pub const APP_VERSION: &str = "app.kubernetes.io/version";
/// The traditional application name.
pub const APP: &str = "app";
/// The traditional version.
pub const VERSION: &str = "version";

/// Hash of the template in the pods of a Deployment.
pub const POD_TEMPLATE_HASH: &str = "pod-template-hash";
/// Hash of the template in the pods of an Argo Rollout.
pub const ROLLOUTS_TEMPLATE_HASH: &str = "rollouts-pod-template-hash";
/// Name of the OpenShift DeploymentConfig.
pub const DEPLOYMENT_CONFIG: &str = "deploymentconfig";

/// On EndpointSlices: the service that they belong to.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Region of a node.
pub const REGION: &str = "topology.kubernetes.io/region";
/// Zone of a node.
pub const ZONE: &str = "topology.kubernetes.io/zone";
/// Subzone of a node.
pub const SUBZONE: &str = "topology.istio.io/subzone";

/// Marks the ConfigMaps that carry the mesh's root certificate.
pub const CONFIG: &str = "istio.io/config";

/// On namespaces, services and pods: the waypoint that looks into their traffic.
pub const USE_WAYPOINT: &str = "istio.io/use-waypoint";
/// Beside [`USE_WAYPOINT`]: the waypoint's namespace.
pub const USE_WAYPOINT_NAMESPACE: &str = "istio.io/use-waypoint-namespace";
/// Value of [`USE_WAYPOINT`] that asks for none.
pub const USE_WAYPOINT_NONE: &str = "none";
/// On waypoints: the traffic that they are for, `service` (the default), `workload`, `all`, `none`.
pub const WAYPOINT_FOR: &str = "istio.io/waypoint-for";
/// On services: gateways send traffic for them through their waypoint.
pub const INGRESS_USE_WAYPOINT: &str = "istio.io/ingress-use-waypoint";

/// On the objects of a Gateway: its name.
pub const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";
/// On the objects of a Gateway: the controller that manages them.
pub const GATEWAY_MANAGED: &str = "gateway.istio.io/managed";

/// On a ConfigMap of the system namespace: the class of gateways that it changes the objects of.
pub const DEFAULTS_FOR_CLASS: &str = "gateway.istio.io/defaults-for-class";

/// On the objects of a Gateway: its class.
pub const GATEWAY_CLASS_NAME: &str = "gateway.networking.k8s.io/gateway-class-name";

/// On pods: sidecar injection.
pub const SIDECAR_INJECT: &str = "sidecar.istio.io/inject";
