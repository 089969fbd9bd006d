//! Pod networking by the Container Network Interface (CNI specification 0.3.1 to 1.1).
//!
//! [`chain`] is the runtime's side: it runs the plugins of the node's configuration directory in
//! order, re-reading the directory for each pod, because another component may have inserted its
//! plugin since. [`ptp`] is this crate's own primary plugin, with [`ipam`] for its addresses.

pub mod chain;
pub mod config;
pub mod ipam;
pub mod ptp;
mod ptp_links;
