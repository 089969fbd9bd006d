//! Who is at the other end of the socket: the kernel says so, not the peer.

use std::fmt;
use std::os::fd::AsFd;
use std::sync::Arc;

use nix::sys::socket::{getsockopt, sockopt};

/// The process that connected, or that listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerCredentials {
    /// Its process id as seen from here; 0 if it is in a namespace that is not visible.
    pub pid: i32,
    /// Its effective user.
    pub uid: u32,
    /// Its effective group.
    pub gid: u32,
}

/// A peer that is not talked to.
#[derive(Debug, thiserror::Error)]
pub enum PeerRefused {
    /// The kernel does not say who it is.
    #[error("the peer's credentials cannot be read: {0}")]
    Unknown(#[from] nix::Error),
    /// It is not one of those that may.
    #[error("the peer (pid {}, uid {}, gid {}) is refused: {reason}", peer.pid, peer.uid, peer.gid)]
    Refused {
        /// Who it is.
        peer: PeerCredentials,
        /// Why that does not do.
        reason: String,
    },
}

type Rule = dyn Fn(PeerCredentials) -> Result<(), String> + Send + Sync;

/// Decides which peers are talked to.
#[derive(Clone)]
pub struct PeerCheck(Arc<Rule>);

impl fmt::Debug for PeerCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PeerCheck")
    }
}

impl PeerCheck {
    /// A check by a rule of its own; the error is the reason for the log.
    pub fn new(
        rule: impl Fn(PeerCredentials) -> Result<(), String> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(rule))
    }

    /// Only processes of this user.
    pub fn uid(uid: u32) -> Self {
        Self::new(move |peer| match peer.uid == uid {
            true => Ok(()),
            false => Err(format!("only uid {uid} may use this socket")),
        })
    }

    /// Checks the peer of a connected socket.
    pub fn check(&self, socket: &impl AsFd) -> Result<PeerCredentials, PeerRefused> {
        let credentials = getsockopt(socket, sockopt::PeerCredentials)?;
        let peer = PeerCredentials {
            pid: credentials.pid(),
            uid: credentials.uid(),
            gid: credentials.gid(),
        };
        (self.0)(peer).map_err(|reason| PeerRefused::Refused { peer, reason })?;
        Ok(peer)
    }
}
