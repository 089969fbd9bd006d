//! What the mesh needs to know about the objects of Kubernetes, and nothing else: two versions of
//! an object with equal facts are the same to the mesh.

mod gateway;
mod namespace;
mod node;
mod owner;
mod pod;
mod service;
mod slice;

pub use gateway::{ClassFacts, GatewayFacts};
pub use namespace::NamespaceFacts;
pub use node::NodeFacts;
pub use pod::PodFacts;
pub use service::{Distribution, ServiceFacts, ServicePort, TargetPort};
pub use slice::{Endpoint, SliceFacts};
