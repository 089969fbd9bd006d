//! Starts a container's program in its pod, with its own file system and privileges.

use std::convert::Infallible;
use std::os::unix::net::UnixStream;

use nix::sched::{CloneFlags, unshare};
use nix::unistd::setsid;

use super::spec::{ContainerSpec, ProcessSpec};
use super::{InitError, Step, clone_child, kernel, privileges, rootfs};

/// Joins the pod and clones the container's process.
pub(super) fn start(spec: ContainerSpec, channel: &mut UnixStream) -> Result<(), InitError> {
    kernel::join_cgroups(&spec.cgroup_procs)?;
    kernel::join_namespaces(&spec.namespaces)?;
    clone_child(channel, |_| {
        unshare(CloneFlags::CLONE_NEWNS).step("make mount namespace")?;
        rootfs::enter(&spec.rootfs)?;
        run(&spec.process)
    })
}

/// Session, privileges, working directory, exec. The last steps of containers and exec sessions.
pub(super) fn run(process: &ProcessSpec) -> Result<Infallible, InitError> {
    setsid().step("start session")?;
    if process.tty {
        kernel::take_terminal().step("take terminal")?;
    }
    privileges::apply(process)?;
    // After the user change: a directory that the user may not enter is the user's error.
    nix::unistd::chdir(process.cwd.as_str()).step(format!("chdir to cwd ({:?})", process.cwd))?;
    kernel::reset_signals()?;
    super::exec::replace(process)
}
