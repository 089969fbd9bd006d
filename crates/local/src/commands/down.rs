//! `ambit local down`: the end of a cluster, whatever state it is in.

use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cleanup;
use crate::error::{Doing, LocalError, Result};
use crate::state::{Folder, ProcessId, State};

/// How long everything may take to end.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long the guardian may take to clean up.
const CLEANUP: Duration = Duration::from_secs(8);

/// Removes a cluster.
pub(super) fn run(name: &str) -> Result<()> {
    crate::kind::check_name(name)?;
    let state = State::from_env();
    let folder = state.folder(name);
    if !folder.exists() {
        return Err(LocalError::NoCluster {
            name: name.to_owned(),
            others: state.names(),
        });
    }
    if !nix::unistd::geteuid().is_root() {
        return Err(LocalError::Missing(
            "removing a cluster needs root; run it with sudo".to_owned(),
        ));
    }
    let _lock = state.lock()?;
    eprintln!("Deleting cluster {name:?} ...");
    end(&folder)
}

/// Kills a cluster's init, which takes everything inside with it, waits for
/// the guardian to clean up, and cleans up what a killed guardian left.
pub(super) fn end(folder: &Folder) -> Result<()> {
    if let Ok(processes) = folder.processes() {
        match processes.init {
            Some(init) => signal(init)?,
            // Not started yet: the guardian is the only process.
            None => signal(processes.guardian)?,
        }
        await_end(processes.init, PATIENCE)?;
        // One that is stuck, or stopped, is not waited for for long: what it
        // would have done is done below.
        if await_end(Some(processes.guardian), CLEANUP).is_err() {
            signal(processes.guardian)?;
            await_end(Some(processes.guardian), PATIENCE)?;
        }
    }
    if folder.exists() {
        cleanup::remove(folder, true)
    } else {
        Ok(())
    }
}

fn signal(process: ProcessId) -> Result<()> {
    if !process.is_alive() {
        return Ok(());
    }
    match kill(Pid::from_raw(process.pid), Signal::SIGKILL) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(errno) => Err(errno).doing("ending the cluster"),
    }
}

fn await_end(process: Option<ProcessId>, patience: Duration) -> Result<()> {
    let start = Instant::now();
    while process.is_some_and(ProcessId::is_alive) {
        if start.elapsed() > patience {
            let reason = "a process did not end in time".to_owned();
            return Err(LocalError::Part {
                part: "the cluster".to_owned(),
                reason,
            });
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
