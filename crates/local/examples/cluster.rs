//! The smallest program that can be a local cluster: for this crate's tests,
//! and to see what a program must do to use it.

use std::path::Path;
use std::process::ExitCode;

use ambit_node_agent::cni::ptp;
use ambit_node_agent::kubelet::{INIT_ARGUMENT, container_init_main};
use clap::Parser;

/// The command `local` alone.
#[derive(Parser)]
struct Program {
    #[command(flatten)]
    local: ambit_local::Command,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    // Before any thread exists: this may be a process of a cluster.
    match reserved(&arguments) {
        Some(code) => exit(code),
        None => command(),
    }
}

fn reserved(arguments: &[String]) -> Option<i32> {
    let (program, rest) = arguments.split_first()?;
    if Path::new(program)
        .file_name()
        .is_some_and(|name| name == ptp::PLUGIN_NAME)
    {
        return Some(ptp::main());
    }
    let (first, rest) = rest.split_first()?;
    if first == INIT_ARGUMENT {
        return Some(container_init_main(rest));
    }
    ambit_local::reserved(first, rest)
}

fn command() -> ExitCode {
    let program = Program::parse();
    let done = tokio::runtime::Runtime::new()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(ambit_local::run(program.local)));
    match done {
        Ok(code) => exit(code),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn exit(code: i32) -> ExitCode {
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}
