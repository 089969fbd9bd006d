//! The kubelet against the real API server of this project, in namespaces of its own.
//!
//! The program is its own helper: it dispatches the container init helper and the network plugin as
//! the multi-call program does, and starts itself again as first process of new PID, mount, network
//! and UTS namespaces, where the node lives. So a run leaves nothing behind, whatever happens, and
//! several can run at once. Needs root.

#![expect(
    clippy::unwrap_used,
    reason = "these are tests, without the harness's attribute"
)]

mod cluster;
mod kubectl;
mod lives;
mod scenarios;
mod server;
mod streams;
mod workloads;

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use ambit_node_agent::{cni, kubelet};

/// Argument of the run inside the namespaces.
const INSIDE: &str = "inside-the-node";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    let name = args[0].rsplit('/').next().unwrap_or_default();
    if name == cni::ptp::PLUGIN_NAME {
        return ExitCode::from(cni::ptp::main() as u8);
    }
    if name == server::NAME {
        return server::main(&args[1..]);
    }
    match args.get(1).map(String::as_str) {
        Some(kubelet::INIT_ARGUMENT) => {
            std::process::exit(kubelet::container_init_main(&args[2..]));
        }
        Some(INSIDE) => cluster::run_inside(args.get(2).map(String::as_str), scenarios::run),
        Some("--list") => ExitCode::SUCCESS,
        filter => enter(filter.filter(|text| !text.starts_with('-'))),
    }
}

/// Starts this program again inside new namespaces and waits for it.
fn enter(filter: Option<&str>) -> ExitCode {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("the node tests need root: they make namespaces, mounts and cgroups");
        return ExitCode::FAILURE;
    }
    let flags = libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::CLONE_NEWNET | libc::CLONE_NEWUTS;
    let mut command = Command::new("/proc/self/exe");
    command.arg(INSIDE).args(filter);
    // The new PID namespace holds children of the caller of unshare, so the caller must be the
    // process that starts the node: this one. It has one thread.
    // SAFETY: unshare takes an integer and touches no memory.
    if unsafe { libc::unshare(flags) } < 0 {
        eprintln!(
            "cannot make namespaces: {}",
            std::io::Error::last_os_error()
        );
        return ExitCode::FAILURE;
    }
    command.process_group(0);
    match command.status() {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        Ok(status) => {
            eprintln!("node tests failed: {status}");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("cannot start the node: {error}");
            ExitCode::FAILURE
        }
    }
}
