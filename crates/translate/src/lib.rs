//! Pure: Kubernetes objects to the model, and the findings about them.
//!
//! It works in two steps. [`facts`] keeps of an object what the mesh needs to know, so that a
//! change of anything else is no change; the other modules derive one kind of output each from
//! facts. The control plane, the webhook and the command line all ask here, so that there is one
//! answer. Nothing here does I/O, and nothing panics on any object.

pub mod authentications;
pub mod backend_tls;
mod durations;
pub mod facts;
pub mod findings;
pub mod gateway_status;
pub mod key;
pub mod labels;
pub mod last_hop;
mod locality;
pub mod mesh;
pub mod mesh_config;
pub mod overlays;
pub mod peer_authentication;
pub mod policies;
pub mod providers;
pub mod route_status;
pub mod routes;
pub mod scope;
pub mod services;
pub mod status;
pub mod telemetry;
pub mod traffic;
pub mod waypoints;
pub mod workloads;

pub use facts::{
    ClassFacts, GatewayFacts, NamespaceFacts, NodeFacts, PodFacts, ServiceFacts, SliceFacts,
};
pub use findings::{Code, Finding, Severity};
pub use key::ObjectKey;
pub use labels::Labels;
pub use mesh::Mesh;
pub use mesh_config::MeshConfig;
