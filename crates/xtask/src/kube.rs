//! The real Kubernetes, built from `tests/kubernetes`, and what runs on it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

mod build;
mod control_plane;
mod interrupt;
mod machine;
mod node;
mod real;
mod supervise;

use control_plane::{ControlPlane, Extent};
use interrupt::Interrupt;
pub use real::{IMAGES, RealCluster};

/// What to do with the real Kubernetes.
#[derive(Debug, clap::Subcommand)]
pub enum Args {
    /// Build etcd and the programs of Kubernetes into target/kubernetes
    Build,
    /// Compare the recorded answers of the API cases with those of the real API server
    Api {
        /// Write the answers anew instead of comparing them
        #[arg(long)]
        record: bool,
        /// Only the areas whose name contains this
        filter: Option<String>,
    },
}

/// Does it. Returns whether every check held.
///
/// # Errors
/// When it cannot begin: Go is missing, Kubernetes does not build or does not start.
pub fn run(root: &Path, args: &Args) -> anyhow::Result<bool> {
    let programs = build::programs(root)?;
    match args {
        Args::Build => Ok(true),
        Args::Api { record, filter } => {
            let interrupt = Interrupt::watch()?;
            let control_plane = ControlPlane::start(&programs, Extent::Api, &interrupt)?;
            println!(
                "Kubernetes {} serves at {}.",
                programs.version,
                control_plane.url()
            );
            let mut cases = cases(root, filter.as_deref());
            cases.env("ORACLE_KUBECONFIG", control_plane.kubeconfig());
            if *record {
                cases.env("ORACLE_RECORD", "1");
            }
            let passed = supervise::to_end(&mut cases, &interrupt)?;
            if !passed {
                control_plane.diagnose();
            }
            Ok(passed)
        }
    }
}

/// The folder with the programs of the real Kubernetes, built if need be.
///
/// # Errors
/// When Go is missing or Kubernetes does not build.
pub fn programs(root: &Path) -> anyhow::Result<PathBuf> {
    Ok(build::programs(root)?.folder)
}

/// The cases are an ordinary test of the API server's crate. The whole workspace is named so that
/// no dependency is compiled again with other features.
fn cases(root: &Path, filter: Option<&str>) -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .args(["test", "--workspace", "--test", "oracle"])
        .args(filter)
        .current_dir(root);
    command
}

/// A command's standard output, without the line's end.
fn printed(command: &mut Command) -> anyhow::Result<String> {
    let name = command.get_program().display().to_string();
    let output = command
        .output()
        .with_context(|| format!("cannot run {name}"))?;
    anyhow::ensure!(
        output.status.success(),
        "{name} failed: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
