//! The control plane as a program of its own.

use std::process::ExitCode;

use ambit_control::{Args, run};
use clap::Parser;

#[tokio::main]
async fn main() -> ExitCode {
    match run(Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("istiod: {error}");
            ExitCode::FAILURE
        }
    }
}
