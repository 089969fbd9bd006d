//! Who calls: tokens of pods, reviewed by the API server.

mod caller;
mod node;
mod token;
mod xds;

pub use caller::{Caller, CallerPod};
pub use token::Reviewer;
pub use xds::XdsAuthenticator;
