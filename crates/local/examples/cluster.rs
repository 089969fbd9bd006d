//! The smallest program that can be a local cluster: for this crate's tests,
//! and to see what a program must do to use it.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use ambit_node_agent::cni::ptp;
use ambit_node_agent::kubelet::{INIT_ARGUMENT, container_init_main};
use clap::Parser;

/// How long the tools wait for an answer.
const PATIENCE: Duration = Duration::from_secs(2);

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
    let Some(target) = arguments.first() else {
        return 2;
    };
    match ask(target) {
        Ok(answer) => println!("{}", answer.rsplit("\r\n").next().unwrap_or_default()),
        Err(error) => println!("error: {error}"),
    }
    0
}

fn ask(target: &str) -> std::io::Result<String> {
    let mut failure = std::io::ErrorKind::NotFound.into();
    for address in target.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(mut stream) => {
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
                let mut answer = String::new();
                stream.read_to_string(&mut answer)?;
                return Ok(answer);
            }
            Err(error) => failure = error,
        }
    }
    Err(failure)
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
