//! The program of client-go and controller-runtime in `tests/clients`.

use std::path::Path;
use std::process::Command;

use anyhow::Context;

use super::{Interrupt, supervise};

/// Runs it. Returns whether every check held.
///
/// # Errors
/// When it cannot be run.
pub fn run(program: &Path, kubeconfig: &Path, interrupt: &Interrupt) -> anyhow::Result<bool> {
    let mut command = Command::new(program);
    command.env("KUBECONFIG", kubeconfig);
    supervise::to_end(&mut command, interrupt)
}

/// Runs it against an API server of ours, which ends with it.
///
/// # Errors
/// When the server does not start.
pub fn against_ours(program: &Path, interrupt: &Interrupt) -> anyhow::Result<bool> {
    let runtime = tokio::runtime::Runtime::new().context("cannot start threads")?;
    let server = runtime.block_on(ambit_apiserver::Server::builder().start())?;
    let file = std::env::temp_dir().join(format!("ambit-clients-{}", std::process::id()));
    ambit_apiserver::kubeconfig::write_private(&file, server.admin_kubeconfig()?.as_bytes())?;
    let passed = run(program, &file, interrupt);
    std::fs::remove_file(&file).context("cannot remove the kubeconfig")?;
    passed
}
