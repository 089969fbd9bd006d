//! The smallest program that can be a local cluster: for this crate's tests,
//! and to see what a program must do to use it.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
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
    if Path::new(program)
        .file_name()
        .is_some_and(|name| name == "curl")
    {
        return Some(get(rest));
    }
    let (first, rest) = rest.split_first()?;
    if first == "sample" {
        return Some(serve());
    }
    if first == INIT_ARGUMENT {
        return Some(container_init_main(rest));
    }
    ambit_local::reserved(first, rest)
}

/// Stands in for the sample images: names its host to whoever connects.
fn serve() -> i32 {
    let Ok(listener) = TcpListener::bind("0.0.0.0:5000") else {
        return 1;
    };
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    for stream in listener.incoming().flatten() {
        let mut stream = stream;
        let _ = stream.read(&mut [0; 512]);
        let _ = write!(stream, "HTTP/1.0 200 OK\r\n\r\n{name}");
    }
    0
}

/// Stands in for the tools image: prints the answer of `host:port`.
fn get(arguments: &[String]) -> i32 {
    let mut answer = String::new();
    let asked = arguments
        .first()
        .map(TcpStream::connect)
        .transpose()
        .and_then(|stream| {
            let mut stream = stream.ok_or(std::io::ErrorKind::InvalidInput)?;
            stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
            stream.read_to_string(&mut answer)
        });
    match asked {
        Ok(_) => println!("{}", answer.rsplit("\r\n").next().unwrap_or_default()),
        Err(error) => println!("error: {error}"),
    }
    0
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
