//! `gateway.networking.k8s.io`: gateways, and routes to what is behind them.

pub mod backend_tls_policy;
pub mod class;
pub mod filters;
pub mod gateway;
pub mod grpc_route;
pub mod http_route;
pub mod reference;
pub mod route_status;
pub mod tcp_route;
pub mod tls_route;

pub use backend_tls_policy::{BackendTLSPolicy, BackendTlsPolicySpec, PolicyStatus};
pub use class::GatewayClass;
pub use gateway::{Gateway, GatewaySpec};
pub use grpc_route::{GRPCRoute, GrpcRouteSpec};
pub use http_route::{HTTPRoute, HttpRouteSpec};
pub use reference::{BackendRef, ParentReference};
pub use route_status::RouteStatus;
pub use tcp_route::{TCPRoute, TcpRouteSpec};
pub use tls_route::{TLSRoute, TlsRouteSpec};

/// API group of these kinds.
pub const GROUP: &str = "gateway.networking.k8s.io";
/// Class of waypoints.
pub const WAYPOINT_CLASS: &str = "istio-waypoint";
/// Class of waypoints in the first release of ambient mode.
pub const LEGACY_WAYPOINT_CLASS: &str = "istio-mesh";
/// Controller of [`WAYPOINT_CLASS`].
pub const MESH_CONTROLLER: &str = "istio.io/mesh-controller";
/// Controller of gateways, which also writes the statuses of all routes.
pub const GATEWAY_CONTROLLER: &str = "istio.io/gateway-controller";
