//! Starting processes of the cluster: in new namespaces, with exactly the
//! open files that they are meant to have.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sched::{CloneFlags, unshare};

use crate::error::{Doing, LocalError, Result, file};

/// The namespaces that the first process of a cluster, and of a node, gets
/// beside a PID namespace.
const NAMESPACES: CloneFlags = CloneFlags::CLONE_NEWNS
    .union(CloneFlags::CLONE_NEWNET)
    .union(CloneFlags::CLONE_NEWUTS)
    .union(CloneFlags::CLONE_NEWIPC);

/// Lets the child inherit these descriptors, under the same numbers. They
/// must stay open until it is started.
pub(crate) fn inherit(command: &mut Command, descriptors: Vec<RawFd>) {
    let keep = move || {
        for descriptor in &descriptors {
            // SAFETY: the caller keeps the descriptors open until after the
            // start, so the number names an open file in the child, too.
            let descriptor = unsafe { BorrowedFd::borrow_raw(*descriptor) };
            fcntl(descriptor, FcntlArg::F_SETFD(FdFlag::empty()))?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec only `fcntl` is called, which is
    // async-signal-safe; nothing allocates.
    unsafe { command.pre_exec(keep) };
}

/// Makes the child the leader of a session of its own, so that it outlives
/// the terminal.
pub(crate) fn detach(command: &mut Command) {
    let leave = || {
        nix::unistd::setsid()?;
        Ok(())
    };
    // SAFETY: `setsid` is async-signal-safe; nothing allocates.
    unsafe { command.pre_exec(leave) };
}

/// Starts `command` as the first process of a new PID namespace, in new
/// mount, network, UTS and IPC namespaces.
pub(crate) fn in_namespaces(mut command: Command) -> Result<Child> {
    let enter = || {
        unshare(NAMESPACES)?;
        Ok(())
    };
    // SAFETY: `unshare` is a single system call; nothing allocates.
    unsafe { command.pre_exec(enter) };
    // `CLONE_NEWPID` takes effect for the children of the calling thread, for
    // good: so the thread is one that ends here.
    let started = std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWPID)?;
            command.spawn()
        });
        thread
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the starting thread panicked")))
    });
    started.doing("starting a process in new namespaces")
}

/// Standard input from nowhere, both outputs to the end of a log file.
pub(crate) fn log_to(command: &mut Command, path: &Path) -> Result<()> {
    let log = open_log(path)?;
    let errors = log.try_clone().map_err(file("opening", path))?;
    command.stdin(Stdio::null()).stdout(log).stderr(errors);
    Ok(())
}

fn open_log(path: &Path) -> Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .open(path)
        .map_err(file("opening", path))
}

/// Takes over a descriptor that this process was started with, given as a
/// number in its arguments.
pub(crate) fn inherited(argument: Option<&String>, what: &str) -> Result<OwnedFd> {
    let missing = || LocalError::Part {
        part: what.to_owned(),
        reason: "was not handed over; this command is started by `ambit local up` only".to_owned(),
    };
    let number: RawFd = argument
        .and_then(|text| text.parse().ok())
        .ok_or_else(missing)?;
    if number <= 2 {
        return Err(missing());
    }
    // SAFETY: only borrowed for the one call, which checks that it is open.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    fcntl(borrowed, FcntlArg::F_GETFD).map_err(|_| missing())?;
    // Not for this process's own children.
    fcntl(borrowed, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).doing(format!("taking over {what}"))?;
    // SAFETY: the number comes from the parent, which opened it for this
    // process alone, and each is taken over once, at start.
    Ok(unsafe { std::os::fd::FromRawFd::from_raw_fd(number) })
}

/// A pipe, both ends closed on exec.
pub(crate) fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).doing("making a pipe")
}

/// The number of a descriptor as an argument.
pub(crate) fn number(descriptor: &impl AsRawFd) -> String {
    descriptor.as_raw_fd().to_string()
}
