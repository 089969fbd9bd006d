//! Network namespaces: open one, recognise it again, run something inside it.
//!
//! Entering a namespace changes the calling thread, so work is done on a thread made for it that
//! ends afterwards: no other task ever finds itself in the wrong namespace.

use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sched::{CloneFlags, setns};

/// What tells two network namespaces apart: device and inode of their file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NetnsId {
    device: u64,
    inode: u64,
}

/// An open network namespace. It lives at least as long as this value.
#[derive(Debug)]
pub struct Netns {
    file: File,
    id: NetnsId,
}

impl Netns {
    /// Opens the namespace behind `path`, such as `/proc/<pid>/ns/net` or a bind mount of one.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        let file = File::open(path)?;
        let meta = file.metadata()?;
        Ok(Self {
            id: NetnsId {
                device: meta.dev(),
                inode: meta.ino(),
            },
            file,
        })
    }

    /// The namespace of the calling thread.
    ///
    /// # Errors
    /// When `/proc` is not mounted.
    pub fn current() -> io::Result<Self> {
        Self::open("/proc/thread-self/ns/net")
    }

    /// The identity of the namespace.
    pub fn id(&self) -> NetnsId {
        self.id
    }

    /// A second descriptor, to be sent to another process.
    ///
    /// # Errors
    /// When the process has no free descriptor.
    pub fn duplicate(&self) -> io::Result<OwnedFd> {
        self.file.try_clone().map(OwnedFd::from)
    }

    /// Runs `work` on a new thread inside the namespace and waits for it.
    ///
    /// # Errors
    /// When the namespace cannot be entered (needs `CAP_SYS_ADMIN`) or `work` panics.
    pub fn run<T, F>(&self, work: F) -> io::Result<T>
    where
        F: FnOnce() -> T + Send,
        T: Send,
    {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| -> io::Result<T> {
                setns(&self.file, CloneFlags::CLONE_NEWNET)?;
                Ok(work())
            });
            match thread.join() {
                Ok(result) => result,
                Err(_) => Err(io::Error::other("the work inside the namespace panicked")),
            }
        })
    }

    /// The addresses of the namespace's interfaces, loopback included.
    ///
    /// # Errors
    /// When the namespace cannot be entered or asked.
    pub fn addresses(&self) -> io::Result<Vec<IpAddr>> {
        self.run(|| -> io::Result<Vec<IpAddr>> {
            let all = nix::ifaddrs::getifaddrs()?;
            Ok(all
                .filter_map(|interface| interface.address.and_then(ip_of))
                .collect())
        })?
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn ip_of(address: nix::sys::socket::SockaddrStorage) -> Option<IpAddr> {
    if let Some(v4) = address.as_sockaddr_in() {
        return Some(IpAddr::V4(v4.ip()));
    }
    address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip()))
}
