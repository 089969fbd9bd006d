//! Automation: `tidy`, `demo`, `fuzz` and `image` need only cargo, `kube` and `conformance` need Go.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;

mod conformance;
mod demo;
mod fuzz;
mod image;
mod kube;
mod tidy;

/// Automation of the Ambit repository.
#[derive(Debug, Parser)]
enum Command {
    /// Check the invariants that hold the repository together
    Tidy,
    /// Walk through the mesh on a local cluster, checking every step
    Demo(demo::Args),
    /// Run the Gateway API's conformance suite on a local cluster (needs Go, see docs/testing.md)
    Conformance(conformance::Args),
    /// Feed parsers and patches with any bytes
    Fuzz(fuzz::Args),
    /// Write container images of the mesh, without Docker and without a registry
    Image(image::Args),
    /// Build the real Kubernetes and run cases on it
    #[command(subcommand)]
    Kube(kube::Args),
}

fn main() -> ExitCode {
    let result = match Command::parse() {
        Command::Tidy => tidy::run(&repository()),
        Command::Demo(args) => demo::run(&repository(), &args),
        Command::Conformance(args) => conformance::run(&repository(), &args),
        Command::Fuzz(args) => fuzz::run(&repository(), &args),
        Command::Image(args) => image::run(&repository(), &args),
        Command::Kube(args) => kube::run(&repository(), &args),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The root of the repository: two folders above this crate.
fn repository() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_owned()
}
