//! The little of epoll that the load needs, with timeouts in nanoseconds.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

const EVENTS: usize = 64;

/// Watches sockets under the index of their connection.
pub struct Epoll {
    fd: OwnedFd,
    connecting: Vec<bool>,
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

impl Epoll {
    pub fn new() -> io::Result<Self> {
        // SAFETY: a new descriptor that nobody else owns.
        let fd = unsafe { OwnedFd::from_raw_fd(check(libc::epoll_create1(libc::EPOLL_CLOEXEC))?) };
        Ok(Self {
            fd,
            connecting: Vec::new(),
        })
    }

    /// Watches for answers.
    pub fn add(&mut self, fd: RawFd, index: usize) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, index, libc::EPOLLIN)
    }

    /// Watches for the connection to be made.
    pub fn add_connecting(&mut self, fd: RawFd, index: usize) -> io::Result<()> {
        if self.connecting.len() <= index {
            self.connecting.resize(index + 1, false);
        }
        self.connecting[index] = true;
        self.control(libc::EPOLL_CTL_ADD, fd, index, libc::EPOLLOUT)
    }

    pub fn is_connecting(&self, index: usize) -> bool {
        self.connecting.get(index).is_some_and(|c| *c)
    }

    /// From now on, watches for answers.
    pub fn connected(&mut self, fd: RawFd, index: usize) -> io::Result<()> {
        self.connecting[index] = false;
        self.control(libc::EPOLL_CTL_MOD, fd, index, libc::EPOLLIN)
    }

    fn control(&self, operation: i32, fd: RawFd, index: usize, events: i32) -> io::Result<()> {
        let mut event = libc::epoll_event {
            events: events as u32,
            u64: index as u64,
        };
        // SAFETY: both descriptors are open and the event outlives the call.
        check(unsafe { libc::epoll_ctl(self.fd.as_raw_fd(), operation, fd, &raw mut event) })
            .map(drop)
    }

    /// The connections that have something, or none after the time.
    pub fn wait(&self, timeout: Duration) -> io::Result<impl Iterator<Item = usize> + use<>> {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; EVENTS];
        let timeout = libc::timespec {
            tv_sec: timeout.as_secs() as libc::time_t,
            tv_nsec: timeout.subsec_nanos().into(),
        };
        // SAFETY: as many events as are said, a timeout that outlives the call, no signal mask.
        let result = unsafe {
            libc::syscall(
                libc::SYS_epoll_pwait2,
                self.fd.as_raw_fd(),
                events.as_mut_ptr(),
                EVENTS as libc::c_int,
                &raw const timeout,
                std::ptr::null::<libc::sigset_t>(),
                0usize,
            )
        };
        let count = match usize::try_from(result) {
            Ok(count) => count,
            Err(_) => match io::Error::last_os_error() {
                e if e.kind() == io::ErrorKind::Interrupted => 0,
                e => return Err(e),
            },
        };
        Ok(events.into_iter().take(count).map(|e| e.u64 as usize))
    }
}
