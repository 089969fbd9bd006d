//! The certificate authority: where its key is kept, who may have which certificate, and how its
//! root reaches the pods.

mod distribution;
mod impersonation;
mod keeper;
mod material;
mod service;

pub use distribution::Distribution;
pub use keeper::{CaError, Keeper};
pub use service::{CertificateService, Lifetimes};

use std::sync::Arc;

use ambit_wire::ca::Authority;
use tokio::sync::watch;

/// The authority in force.
pub type CurrentAuthority = watch::Receiver<Arc<Authority>>;
