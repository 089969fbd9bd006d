//! Protobuf messages of every channel, and the only conversions between them and the model.
//!
//! The messages are generated from `/proto` at build time. What arrives is turned into
//! [`ambit_model`] values here, once; a value that passed is never checked again elsewhere.

#[allow(missing_docs, clippy::all, clippy::pedantic)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/all.rs"));
}

pub mod convert;
mod convert_access;
mod convert_backend_tls;
mod convert_policy;
mod convert_provider;
mod convert_route;
mod convert_telemetry;
mod convert_token;
mod convert_traffic;

/// Workloads and services: package `istio.workload`.
pub mod workload {
    pub use crate::generated::istio::workload::*;
}

/// L4 authorization policies: package `istio.security`.
pub mod security {
    pub use crate::generated::istio::security::*;
}

/// What waypoints and gateways are told: package `ambit.l7.v1`.
pub mod l7 {
    pub use crate::generated::ambit::l7::v1::*;
}

/// The channel between the node agent and the node proxy: package `istio.workload.zds`.
pub mod zds {
    pub use crate::generated::istio::workload::zds::*;
}

/// The certificate authority: package `istio.v1.auth`.
pub mod ca {
    pub use crate::generated::istio::v1::auth::*;
}

/// Delta discovery: package `envoy.service.discovery.v3` and what it is made of.
pub mod discovery {
    pub use crate::generated::envoy::config::core::v3::{Locality, Node};
    pub use crate::generated::envoy::service::discovery::v3::*;
    pub use crate::generated::google::rpc::Status;
}

/// External authorization: package `envoy.service.auth.v3`.
pub mod auth {
    pub use crate::generated::envoy::service::auth::v3::*;
}

/// Spans and logs for collectors: packages `opentelemetry.proto.collector.{trace,logs}.v1`.
pub mod otlp {
    pub use crate::generated::opentelemetry::proto::collector::{logs, trace};
    pub use crate::generated::opentelemetry::proto::common::v1::*;
}

/// Type URLs of the resources on a discovery stream.
pub mod type_url {
    /// A workload or a service ([`crate::workload::Address`]).
    pub const ADDRESS: &str = "type.googleapis.com/istio.workload.Address";
    /// A workload alone ([`crate::workload::Workload`]).
    pub const WORKLOAD: &str = "type.googleapis.com/istio.workload.Workload";
    /// A policy ([`crate::security::Authorization`]).
    pub const AUTHORIZATION: &str = "type.googleapis.com/istio.security.Authorization";
    /// A route ([`crate::l7::Route`]).
    pub const ROUTE: &str = "type.googleapis.com/ambit.l7.v1.Route";
    /// Which tokens are believed ([`crate::l7::Authentication`]).
    pub const AUTHENTICATION: &str = "type.googleapis.com/ambit.l7.v1.Authentication";
    /// How endpoints are chosen and spared ([`crate::l7::TrafficPolicy`]).
    pub const TRAFFIC: &str = "type.googleapis.com/ambit.l7.v1.TrafficPolicy";
    /// What is told about requests ([`crate::l7::Telemetry`]).
    pub const TELEMETRY: &str = "type.googleapis.com/ambit.l7.v1.Telemetry";
    /// TLS to the endpoints of services ([`crate::l7::BackendTls`]).
    pub const BACKEND_TLS: &str = "type.googleapis.com/ambit.l7.v1.BackendTls";
    /// A policy where requests are seen ([`crate::l7::Policy`]).
    pub const POLICY: &str = "type.googleapis.com/ambit.l7.v1.Policy";
}
