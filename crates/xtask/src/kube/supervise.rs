//! Commands that run to their end, in view of the user, and not beyond an interruption.

use std::process::{Child, Command};
use std::time::Duration;

use ambit_testkit::die_with_parent;
use anyhow::Context;

use super::Interrupt;

const PAUSE: Duration = Duration::from_millis(50);

/// Ends the process when the value goes.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a command, its output where ours goes. Returns whether it succeeded.
///
/// # Errors
/// When it cannot be started, or when somebody asked to stop.
pub fn to_end(command: &mut Command, interrupt: &Interrupt) -> anyhow::Result<bool> {
    die_with_parent(command);
    let name = command.get_program().display().to_string();
    let child = command
        .spawn()
        .with_context(|| format!("cannot run {name}"))?;
    let mut running = Running(child);
    loop {
        if let Some(status) = running.0.try_wait()? {
            return Ok(status.success());
        }
        interrupt.check()?;
        std::thread::sleep(PAUSE);
    }
}
