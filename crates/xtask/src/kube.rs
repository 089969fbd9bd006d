//! The real Kubernetes, built from `tests/kubernetes`, and what runs on it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

mod build;
mod clients;
mod control_plane;
mod interrupt;
mod machine;
mod node;
mod real;
pub mod supervise;

pub use build::conformance;
use control_plane::{ControlPlane, Extent};
pub use interrupt::Interrupt;
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
    /// Compare what every kubectl printed with what it prints on the real control plane
    Kubectl {
        /// Write the answers anew instead of comparing them
        #[arg(long)]
        record: bool,
    },
    /// Run the program of client-go and controller-runtime against our API server and the real one
    Clients,
}

/// Does it. Returns whether every check held.
///
/// # Errors
/// When it cannot begin: Go is missing, Kubernetes does not build or does not start.
pub fn run(root: &Path, args: &Args) -> anyhow::Result<bool> {
    let programs = build::programs(root)?;
    match args {
        Args::Build => Ok(true),
        Args::Kubectl { record } => {
            let mut matrix = test(root, "kubectl_matrix");
            matrix.env("MATRIX_KUBERNETES", &programs.folder);
            if *record {
                matrix.env("MATRIX_RECORD", "1");
            }
            supervise::to_end(&mut matrix, &Interrupt::watch()?)
        }
        Args::Clients => {
            let interrupt = Interrupt::watch()?;
            let clients = build::clients(root)?;
            println!("Ambit's API server:");
            let ours = clients::against_ours(&clients, &interrupt)?;
            println!("Kubernetes {}:", programs.version);
            let control_plane = ControlPlane::start(&programs, Extent::Api, &interrupt)?;
            let theirs = clients::run(&clients, &control_plane.kubeconfig(), &interrupt)?;
            Ok(ours && theirs)
        }
        Args::Api { record, filter } => {
            let interrupt = Interrupt::watch()?;
            let control_plane = ControlPlane::start(&programs, Extent::Api, &interrupt)?;
            println!(
                "Kubernetes {} serves at {}.",
                programs.version,
                control_plane.url()
            );
            let mut cases = test(root, "oracle");
            cases.args(filter);
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

/// An ordinary test of the workspace, which is named as a whole so that no dependency is compiled
/// again with other features.
fn test(root: &Path, name: &str) -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .args(["test", "--workspace", "--test", name])
        .current_dir(root);
    command
}

/// A command's standard output, without the line's end.
pub fn printed(command: &mut Command) -> anyhow::Result<String> {
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
