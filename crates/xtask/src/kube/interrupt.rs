//! Ctrl-C and termination: remembered instead of fatal, so that everything is torn down.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, bail};
use tokio::signal::unix::{SignalKind, signal};

/// Whether somebody asked this process to end.
#[derive(Clone, Debug)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// From now on SIGINT and SIGTERM do not end the process.
    ///
    /// # Errors
    /// When the handlers cannot be installed.
    pub fn watch() -> anyhow::Result<Self> {
        let asked = Interrupt(Arc::default());
        let flag = asked.clone();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .context("cannot watch for signals")?;
        let guard = runtime.enter();
        let mut interrupted = signal(SignalKind::interrupt())?;
        let mut terminated = signal(SignalKind::terminate())?;
        drop(guard);
        std::thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = interrupted.recv() => {}
                    _ = terminated.recv() => {}
                }
                flag.0.store(true, Ordering::Relaxed);
            });
        });
        Ok(asked)
    }

    /// # Errors
    /// When somebody asked this process to end.
    pub fn check(&self) -> anyhow::Result<()> {
        if self.0.load(Ordering::Relaxed) {
            bail!("interrupted");
        }
        Ok(())
    }
}
