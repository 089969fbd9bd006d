//! OpenAPI, as much as clients need: kubectl asks it which fields exist before it sends anything.
//!
//! PATCH operations say nothing about their body on purpose: kubectl then computes three-way
//! patches from its own types, whose list keys are right, instead of from schemas that would have
//! to carry Kubernetes' patch extensions.

pub mod v2;
pub mod v3;
