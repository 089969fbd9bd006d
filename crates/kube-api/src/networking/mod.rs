//! `networking.istio.io`: how traffic to services is treated.

pub mod destination_rule;

pub use destination_rule::{DestinationRule, DestinationRuleSpec};

/// The API group.
pub const GROUP: &str = "networking.istio.io";
