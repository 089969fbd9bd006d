//! A small kubelet, services, DNS and controllers over the Kubernetes API alone. Knows nothing of the mesh.

pub mod catalogue;
pub mod cni;
pub mod controllers;
pub mod dns;
pub mod informer;
pub mod kubelet;
pub mod network_policy;
pub mod nft;
mod quantity;
pub mod service_proxy;
