//! The few raw system calls of the helper, each behind a safe function.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns};

use super::spec::Namespaces;
use super::{InitError, Step};

/// Clones this single-threaded process; the child's parent is our own parent, the kubelet, which
/// can then wait for it. Returns the child's process id, or `None` in the child.
pub(super) fn clone_sibling() -> io::Result<Option<libc::pid_t>> {
    let flags = libc::CLONE_PARENT | libc::SIGCHLD;
    // SAFETY: like fork(2): no new stack, no shared memory. The process has one thread (the
    // multi-call program calls us before it starts any), so the child's copy of locks and
    // allocator state is consistent.
    let result = unsafe {
        libc::syscall(
            libc::SYS_clone,
            flags as libc::c_ulong,
            0usize,
            0usize,
            0usize,
            0usize,
        )
    };
    match result {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(None),
        pid => Ok(Some(pid as libc::pid_t)),
    }
}

/// Kills a process that cannot be handed over.
pub(super) fn kill(pid: libc::pid_t) {
    let _ = nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(pid),
        nix::sys::signal::Signal::SIGKILL,
    );
}

/// Moves this process into the cgroups whose `cgroup.procs` files are given.
pub(super) fn join_cgroups(procs: &[PathBuf]) -> Result<(), InitError> {
    for path in procs {
        std::fs::write(path, std::process::id().to_string())
            .step(format!("join cgroup {}", path.display()))?;
    }
    Ok(())
}

/// Joins the namespaces. All files are opened first, because entering the mount namespace changes
/// what their paths mean.
pub(super) fn join_namespaces(namespaces: &Namespaces) -> Result<(), InitError> {
    let wanted = [
        (&namespaces.ipc, CloneFlags::CLONE_NEWIPC),
        (&namespaces.uts, CloneFlags::CLONE_NEWUTS),
        (&namespaces.net, CloneFlags::CLONE_NEWNET),
        (&namespaces.pid, CloneFlags::CLONE_NEWPID),
        (&namespaces.mnt, CloneFlags::CLONE_NEWNS),
    ];
    let mut opened: Vec<(OwnedFd, CloneFlags, &Path)> = Vec::new();
    for (path, flag) in wanted {
        if let Some(path) = path {
            let file = File::open(path).step(format!("open namespace {}", path.display()))?;
            opened.push((file.into(), flag, path));
        }
    }
    for (fd, flag, path) in opened {
        setns(fd.as_fd(), flag).step(format!("join namespace {}", path.display()))?;
    }
    Ok(())
}

/// mount(2) with readable errors.
pub(super) fn mount_fs(
    source: &str,
    target: &Path,
    kind: &str,
    flags: MsFlags,
    data: &str,
) -> Result<(), InitError> {
    mount(Some(source), target, Some(kind), flags, Some(data))
        .step(format!("mount {kind} on {}", target.display()))
}

/// Changes the propagation of everything below `/`.
pub(super) fn propagate(flags: MsFlags) -> Result<(), InitError> {
    mount(
        None::<&str>,
        "/",
        None::<&str>,
        flags | MsFlags::MS_REC,
        None::<&str>,
    )
    .step("change mount propagation")
}

/// Replaces a mount's flags.
pub(super) fn remount(target: &Path, flags: MsFlags) -> Result<(), InitError> {
    mount(
        None::<&str>,
        target,
        None::<&str>,
        flags | MsFlags::MS_REMOUNT | MsFlags::MS_BIND,
        None::<&str>,
    )
    .step(format!("remount {}", target.display()))
}

/// Brings the loopback interface of the current network namespace up.
pub(super) fn loopback_up() -> io::Result<()> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None)?;
    // SAFETY: an all-zero ifreq is a valid value of this plain C structure.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads an ifreq; `request` lives for the whole call.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Makes standard input the controlling terminal of this new session.
pub(super) fn take_terminal() -> io::Result<()> {
    // SAFETY: TIOCSCTTY takes an integer argument; descriptor 0 is open.
    if unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Closes this process's end of a stream by putting standard input, which is `/dev/null`, in its
/// place. Others that share the open socket keep it.
pub(super) fn replace_by_null(stream: &UnixStream) -> io::Result<()> {
    // SAFETY: both descriptors are open; afterwards the stream's number names another open file,
    // which the stream still owns.
    if unsafe { libc::dup3(0, stream.as_raw_fd(), libc::O_CLOEXEC) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// One prctl(2) with integer arguments.
pub(super) fn prctl(option: libc::c_int, argument: libc::c_ulong) -> io::Result<()> {
    // SAFETY: the options used here (PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, PR_SET_NAME excluded)
    // take plain integers and touch no memory of ours.
    if unsafe { libc::prctl(option, argument, 0, 0, 0) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Undoes what the Rust runtime and our parent did to signals, so that the program starts as from
/// a shell: nothing blocked, SIGPIPE at its default.
pub(super) fn reset_signals() -> Result<(), InitError> {
    use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None).step("reset signal mask")?;
    for signal in 1..=31 {
        if signal != libc::SIGKILL && signal != libc::SIGSTOP {
            // SAFETY: SIG_DFL is always a valid disposition for these signals.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
    }
    Ok(())
}

/// A C string, or an error naming what held the NUL byte.
pub(super) fn c_string(text: &str, what: &str) -> Result<CString, InitError> {
    CString::new(text)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))
        .step(what.to_string())
}
