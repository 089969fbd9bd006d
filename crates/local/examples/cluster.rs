//! The smallest program that can be a local cluster: for this crate's tests,
//! and to see what a program must do to use it.

use std::io::{Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs, UdpSocket};
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
    let name = Path::new(program).file_name();
    let called = |link: &str| name.is_some_and(|name| name == link);
    if called(ptp::PLUGIN_NAME) {
        return Some(ptp::main());
    }
    if called("curl") {
        return Some(get(rest));
    }
    if called("sleep") {
        loop {
            std::thread::park();
        }
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

/// Stands in for the sample images: names its host to whoever connects to
/// 5000 or sends a datagram to 5002, and the client's address on 5001.
fn serve() -> i32 {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let (host, named) = (name.clone(), name);
    std::thread::spawn(move || answer(5001, |client| client.ip().to_canonical().to_string()));
    std::thread::spawn(move || {
        let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 5002))?;
        loop {
            let (_, client) = socket.recv_from(&mut [0; 64])?;
            socket.send_to(host.as_bytes(), client)?;
        }
        #[expect(unreachable_code, reason = "names the error type")]
        std::io::Result::Ok(())
    });
    answer(5000, |_| named.clone());
    1
}

fn answer(port: u16, say: impl Fn(SocketAddr) -> String) {
    let Ok(listener) = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)) else {
        return;
    };
    while let Ok((mut stream, client)) = listener.accept() {
        let _ = stream.read(&mut [0; 512]);
        let _ = write!(stream, "HTTP/1.0 200 OK\r\n\r\n{}", say(client));
    }
}

/// Stands in for the tools image: prints the answer of `host:port`, or of
/// `udp:host:port`.
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
    if let Some(target) = target.strip_prefix("udp:") {
        return ask_datagram(target);
    }
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

fn ask_datagram(target: &str) -> std::io::Result<String> {
    let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let target = target.to_socket_addrs()?.next();
    let target = target.ok_or(std::io::ErrorKind::NotFound)?;
    let target: SocketAddr = match target {
        SocketAddr::V4(v4) => (v4.ip().to_ipv6_mapped(), v4.port()).into(),
        SocketAddr::V6(_) => target,
    };
    socket.send_to(b"?", target)?;
    let mut buffer = [0; 512];
    let length = socket.recv(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
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
