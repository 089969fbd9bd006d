//! ZDS: the node agent tells the node proxy which pods are enrolled, and hands over their network
//! namespaces as file descriptors.
//!
//! A SEQPACKET socket keeps message boundaries: one message is one packet of at most 1024 bytes,
//! with exactly one descriptor beside an `add` and none beside anything else. One request is
//! outstanding at a time, and each is answered by exactly one response.

pub mod agent;
mod packet;
mod peer;
pub mod proxy;

pub use packet::{MAX_PACKET, Packet, PacketError, Packets};
pub use peer::{PeerCheck, PeerCredentials, PeerRefused};

/// A pod, as far as this channel is concerned. The proxy finds its workload by namespace, name and
/// service account; the uid is only a handle.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pod {
    /// Kubernetes UID.
    pub uid: String,
    /// Name.
    pub name: String,
    /// Namespace.
    pub namespace: String,
    /// Service account.
    pub service_account: String,
}
