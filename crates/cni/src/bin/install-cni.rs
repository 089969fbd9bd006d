//! The node agent as a program of its own, for its image.

use std::process::ExitCode;

use clap::Parser;

/// The node agent of the mesh: captures the traffic of enrolled pods.
#[derive(Parser)]
#[command(name = "install-cni", version)]
struct Program {
    #[command(flatten)]
    args: ambit_cni::config::Args,
}

#[tokio::main]
async fn main() -> ExitCode {
    match ambit_cni::agent::run(Program::parse().args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("install-cni: {error}");
            ExitCode::FAILURE
        }
    }
}
