//! Brings plans into a network namespace, and takes them out again.
//!
//! What always holds: routing is ready before traffic is captured, the rules are one transaction,
//! and whatever fails leaves either no capture or full capture, never a part of it. Connections that
//! were open before the first capture are cut: they would otherwise go on in plaintext.

mod conntrack;
mod nft;
mod routes;

use std::io;

use crate::netns::Netns;
use crate::rules::{Batch, NAT_TABLE, Plan, TableRemoval, pod_removal};

/// What can go wrong when rules are applied or removed.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The namespace is gone or the privilege is missing.
    #[error("cannot enter the network namespace: {0}; the agent needs CAP_SYS_ADMIN")]
    Enter(#[source] io::Error),
    /// `nft` is not installed or cannot be started.
    #[error("cannot run nft: {0}; the agent's image needs nftables 1.0.1 or newer")]
    NftMissing(#[source] io::Error),
    /// The kernel or `nft` did not take the rules.
    #[error(
        "nft refused the rules: {0}; the kernel needs nf_tables with nat, and the agent CAP_NET_ADMIN"
    )]
    NftRefused(String),
    /// The rules could not be written down.
    #[error("cannot encode the rules: {0}")]
    Encode(#[source] serde_json::Error),
    /// The policy route or rule could not be changed.
    #[error("cannot change the policy route of the pod: {0}; is its loopback interface up?")]
    Route(#[source] rtnetlink::Error),
    /// The netlink connection could not be made.
    #[error("cannot talk to the kernel over netlink: {0}")]
    Netlink(#[source] io::Error),
    /// Connections from before the capture could not be cut.
    #[error(
        "cannot flush the connection tracking of the pod: {0}; the kernel needs nf_conntrack_netlink"
    )]
    Conntrack(#[source] io::Error),
}

/// Applies the rules of a pod. Applying the same plan again changes nothing for live connections.
/// Blocks for some milliseconds.
///
/// # Errors
/// See [`ApplyError`]. After an error the pod may be captured or not; the caller tries again or
/// removes.
pub fn apply_pod(netns: &Netns, plan: &Plan, ipv6: bool) -> Result<(), ApplyError> {
    let first = !nft::table_exists(netns, NAT_TABLE)?;
    let tracked = if first {
        conntrack::count(netns)
    } else {
        Some(0)
    };
    routes::add(netns, ipv6)?;
    nft::run(netns, &Batch::Replace(plan.clone()))?;
    if first && tracked != Some(0) {
        conntrack::flush(netns)?;
    }
    Ok(())
}

/// Removes the rules of a pod. Removing twice is not an error. Blocks for some milliseconds.
///
/// # Errors
/// See [`ApplyError`].
pub fn remove_pod(netns: &Netns) -> Result<(), ApplyError> {
    nft::run(netns, &Batch::Remove(pod_removal()))?;
    routes::remove(netns)
}

/// Whether the namespace has the pod rules (of this or an earlier version).
///
/// # Errors
/// When the namespace cannot be entered or `nft` cannot run.
pub fn is_applied(netns: &Netns) -> Result<bool, ApplyError> {
    nft::table_exists(netns, NAT_TABLE)
}

/// Applies the node's plan. Blocks for some milliseconds.
///
/// # Errors
/// See [`ApplyError`].
pub fn apply_host(netns: &Netns, plan: &Plan) -> Result<(), ApplyError> {
    nft::run(netns, &Batch::Replace(plan.clone()))
}

/// Removes tables of the node.
///
/// # Errors
/// See [`ApplyError`].
pub fn remove_host(netns: &Netns, removal: &TableRemoval) -> Result<(), ApplyError> {
    nft::run(netns, &Batch::Remove(removal.clone()))
}
