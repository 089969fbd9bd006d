//! A pod's first process: it holds the namespaces, reaps orphans, and ends the pod when told to.

use std::convert::Infallible;
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, chdir, pivot_root, sethostname, setsid};

use super::spec::SandboxSpec;
use super::{InitError, Step, clone_child, kernel};

/// Makes the namespaces and clones the process that stays in them.
pub(super) fn start(spec: SandboxSpec, channel: &mut UnixStream) -> Result<(), InitError> {
    kernel::join_cgroups(&spec.cgroup_procs)?;
    let mut flags = CloneFlags::CLONE_NEWNS;
    flags.set(CloneFlags::CLONE_NEWNET, spec.new_net);
    flags.set(CloneFlags::CLONE_NEWPID, spec.new_pid);
    flags.set(CloneFlags::CLONE_NEWIPC, spec.new_ipc);
    flags.set(CloneFlags::CLONE_NEWUTS, spec.hostname.is_some());
    unshare(flags).step("make namespaces")?;
    clone_child(channel, |channel| become_init(&spec, channel))
}

fn become_init(spec: &SandboxSpec, channel: &mut UnixStream) -> Result<Infallible, InitError> {
    let signals = block_signals()?;
    setsid().step("start session")?;
    if let Some(hostname) = &spec.hostname {
        sethostname(hostname).step("set host name")?;
    }
    if spec.new_net {
        kernel::loopback_up().step("bring loopback up")?;
        for (name, value) in &spec.sysctls {
            let path = format!("/proc/sys/{}", name.replace('.', "/"));
            std::fs::write(&path, value).step(format!("set sysctl {name}"))?;
        }
    }
    empty_root(&spec.scratch)?;
    // The end of the channel says "ready". Only our end of it: the helper may not have reported our
    // process id yet, so the socket that we share with it must not be shut down.
    kernel::replace_by_null(channel).step("report ready")?;
    supervise(&signals)
}

/// Leaves the node's file system, so that a sandbox never keeps a mount of the node busy.
fn empty_root(scratch: &Path) -> Result<(), InitError> {
    kernel::propagate(MsFlags::MS_PRIVATE)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    kernel::mount_fs("tmpfs", scratch, "tmpfs", flags, "size=64k,mode=755")?;
    let old = scratch.join("old");
    std::fs::create_dir(&old).step("prepare sandbox root")?;
    std::fs::create_dir(scratch.join("proc")).step("prepare sandbox root")?;
    pivot_root(scratch, &old).step("change root")?;
    chdir("/").step("change directory")?;
    kernel::mount_fs("proc", Path::new("/proc"), "proc", flags, "")?;
    umount2("/old", MntFlags::MNT_DETACH).step("leave the node's root")
}

fn block_signals() -> Result<SigSet, InitError> {
    let mut signals = SigSet::empty();
    for signal in [
        Signal::SIGCHLD,
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGQUIT,
        Signal::SIGHUP,
    ] {
        signals.add(signal);
    }
    signals.thread_block().step("block signals")?;
    Ok(signals)
}

/// Reaps until told to end. The exit of a pid 1 makes the kernel kill what is left in the pod.
fn supervise(signals: &SigSet) -> Result<Infallible, InitError> {
    loop {
        match signals.wait().step("wait for signals")? {
            Signal::SIGCHLD => reap(),
            Signal::SIGTERM | Signal::SIGINT | Signal::SIGQUIT => std::process::exit(0),
            _ => {}
        }
    }
}

fn reap() {
    while let Ok(status) = waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)) {
        if status == WaitStatus::StillAlive {
            return;
        }
    }
}
