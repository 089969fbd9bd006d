//! A small server for the pods of the tests: it answers `GET` with a page, anything else in upper case.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::ExitCode;

/// Name of the applet.
pub const NAME: &str = "test-server";

/// Listens on the address given as first argument.
pub fn main(args: &[String]) -> ExitCode {
    let Some(address) = args.first() else {
        return ExitCode::FAILURE;
    };
    let listener = match TcpListener::bind(address) {
        Ok(listener) => listener,
        Err(error) => {
            eprintln!("{address}: {error}");
            return ExitCode::FAILURE;
        }
    };
    println!("listening");
    for stream in listener.incoming().flatten() {
        std::thread::spawn(move || answer(stream));
    }
    ExitCode::SUCCESS
}

fn answer(mut stream: impl Read + Write) {
    let mut buffer = [0; 1024];
    let Ok(count) = stream.read(&mut buffer) else {
        return;
    };
    let text = String::from_utf8_lossy(&buffer[..count]).into_owned();
    let answer = if text.starts_with("GET ") {
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\npage\n".to_string()
    } else {
        text.to_uppercase()
    };
    let _ = stream.write_all(answer.as_bytes());
}
