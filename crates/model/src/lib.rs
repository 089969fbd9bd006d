//! The vocabulary of the mesh and its pure decisions: no async, no protobuf, no Kubernetes, no I/O.
//!
//! Everything that two parts of Ambit must agree about is said here once: what an identity is,
//! what a workload, a service and a policy are, and what follows from them. The functions are
//! pure, so that the proxies, the control plane and the command line give the same answer.

pub mod access;
pub mod authorize;
pub mod balance;
pub mod dns;
pub mod identity;
pub mod inbound;
pub mod intern;
pub mod outbound;
pub mod policy;
pub mod route;
pub mod service;
pub mod state;
pub mod telemetry;
pub mod token;
pub mod traffic;
pub mod waypoint;
pub mod workload;

pub use identity::Identity;
pub use policy::Authorization;
pub use service::Service;
pub use workload::Workload;

/// Shared immutable text. Names repeat thousands of times in a mesh; they are shared, not copied.
pub type Text = std::sync::Arc<str>;
