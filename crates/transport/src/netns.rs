//! Network namespaces: how a proxy that lives on the node opens sockets inside a pod.
//!
//! A socket belongs for life to the namespace of the thread that created it. So the thread enters
//! the pod's namespace, creates the socket, and comes back, with no await in between: on an async
//! runtime an await would let other connections run on this thread while it stands in a foreign pod.
//! [`Netns::run`] takes a plain closure, which makes that mistake impossible to write.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fmt, io};

use nix::sched::{CloneFlags, setns};

/// The calling thread's own namespaces. `/proc/self` would name those of the main thread.
const OWN: &str = "/proc/thread-self/ns/net";

/// What makes two handles the same namespace: the inode of its file and the device that it is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NetnsId {
    /// Device of the nsfs mount.
    pub device: u64,
    /// Inode number, as `ls -l /proc/<pid>/ns/net` shows it.
    pub inode: u64,
}

impl fmt::Display for NetnsId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "net:[{}]", self.inode)
    }
}

/// Why a network namespace cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// The path cannot be opened.
    #[error("cannot open the network namespace {path}: {source}")]
    Open {
        /// Which path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is something else.
    #[error("the file descriptor is not a network namespace")]
    NotANetns,
    /// The descriptor cannot be examined.
    #[error("cannot examine the file descriptor of a network namespace: {0}")]
    Examine(#[source] io::Error),
    /// The kernel refused to let this thread in.
    #[error(
        "cannot enter the network namespace {id}: {source}; \
         the process needs CAP_SYS_ADMIN in the namespace's user namespace and in its own"
    )]
    Enter {
        /// Which namespace.
        id: NetnsId,
        /// Why.
        source: io::Error,
    },
}

/// A handle to a network namespace. It keeps the namespace alive; clones are cheap.
#[derive(Clone, Debug)]
pub struct Netns {
    fd: Arc<OwnedFd>,
    id: NetnsId,
}

impl PartialEq for Netns {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for Netns {}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl TryFrom<OwnedFd> for Netns {
    type Error = NetnsError;

    /// Takes a descriptor that came from elsewhere, after checking that it is a network namespace.
    fn try_from(fd: OwnedFd) -> Result<Self, NetnsError> {
        let examine = |e: nix::Error| NetnsError::Examine(e.into());
        let kind = nix::sys::statfs::fstatfs(&fd)
            .map_err(examine)?
            .filesystem_type();
        if kind != nix::sys::statfs::NSFS_MAGIC || !is_net(&fd).map_err(NetnsError::Examine)? {
            return Err(NetnsError::NotANetns);
        }
        let stat = nix::sys::stat::fstat(&fd).map_err(examine)?;
        Ok(Self {
            fd: Arc::new(fd),
            id: NetnsId {
                device: stat.st_dev as u64,
                inode: stat.st_ino as u64,
            },
        })
    }
}

impl Netns {
    /// Opens the namespace that a path stands for, such as `/proc/<pid>/ns/net` or a bind mount.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, NetnsError> {
        let path = path.as_ref();
        let file = File::open(path).map_err(|source| NetnsError::Open {
            path: path.to_owned(),
            source,
        })?;
        Self::try_from(OwnedFd::from(file))
    }

    /// The namespace that the calling thread is in.
    pub fn current() -> Result<Self, NetnsError> {
        Self::open(OWN)
    }

    /// Its identity.
    pub fn id(&self) -> NetnsId {
        self.id
    }

    /// Runs `f` inside the namespace on the calling thread, and comes back before returning.
    ///
    /// `f` should do nothing but create and configure sockets.
    ///
    /// # Aborts
    ///
    /// If the thread cannot return to its own namespace, the process aborts, whether `f` returned
    /// or panicked. A thread left behind would open the sockets of every later pod, and the
    /// process's own ports, inside this pod: traffic of one identity would be handled as another's.
    /// No caller can repair that, and ending the process is the only state that is surely safe.
    pub fn run<T>(&self, f: impl FnOnce() -> T) -> Result<T, NetnsError> {
        let home = Self::current()?;
        if home.id == self.id {
            return Ok(f());
        }
        setns(&*self.fd, CloneFlags::CLONE_NEWNET).map_err(|e| NetnsError::Enter {
            id: self.id,
            source: e.into(),
        })?;
        let _back = Return(home);
        Ok(f())
    }
}

/// Brings the thread back when it goes out of scope, also while unwinding.
struct Return(Netns);

impl Drop for Return {
    fn drop(&mut self) {
        if let Err(e) = setns(&*self.0.fd, CloneFlags::CLONE_NEWNET) {
            tracing::error!(
                "cannot return to the own network namespace {}: {e}; aborting",
                self.0.id
            );
            std::process::abort();
        }
    }
}

fn is_net(fd: &OwnedFd) -> io::Result<bool> {
    use std::os::fd::AsRawFd;
    // SAFETY: NS_GET_NSTYPE takes no argument and only reads from a descriptor that we own.
    let kind = unsafe { libc::ioctl(fd.as_raw_fd(), libc::NS_GET_NSTYPE) };
    match kind {
        libc::CLONE_NEWNET => Ok(true),
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_namespace_has_the_same_identity() {
        let a = Netns::current().unwrap();
        let b = Netns::open("/proc/self/ns/net").unwrap();
        assert_eq!(a.id(), b.id());
        assert_eq!(a, b);
    }

    #[test]
    fn running_in_the_own_namespace_needs_no_privilege() {
        assert_eq!(Netns::current().unwrap().run(|| 7).unwrap(), 7);
    }

    #[test]
    fn other_files_are_refused() {
        let refused = |path| matches!(Netns::open(path), Err(NetnsError::NotANetns));
        assert!(refused("/proc/self/ns/uts"));
        assert!(refused("/proc/self/status"));
        assert!(matches!(
            Netns::open("/no/such/netns"),
            Err(NetnsError::Open { .. })
        ));
    }
}
