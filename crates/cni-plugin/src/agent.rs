//! The smallest HTTP/1.1 client that can ask the agent one question over a unix socket, with one
//! deadline over everything.

use std::fmt;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

/// Longest answer that is read.
const MAX_ANSWER: usize = 64 * 1024;

/// Why there was no clear answer.
#[derive(Debug)]
pub enum AskError {
    /// Nobody listens.
    Connect(String, io::Error),
    /// The agent did not take the question or answer it in time.
    Io(io::Error),
    /// The agent could not capture the pod.
    Refused(u16, String),
    /// The answer is not one.
    Garbage(&'static str),
}

impl fmt::Display for AskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AskError::Connect(path, e) => write!(
                f,
                "the mesh's node agent is not there ({path}: {e}); see the istio-cni-node pod of this node"
            ),
            AskError::Io(e) => write!(
                f,
                "the mesh's node agent did not answer ({e}); see the log of the istio-cni-node pod of this node"
            ),
            AskError::Refused(status, text) => {
                write!(f, "the mesh's node agent answered {status}: {text}")
            }
            AskError::Garbage(what) => write!(
                f,
                "the mesh's node agent gave an answer that is not understood ({what}); do the agent and this plugin have the same version?"
            ),
        }
    }
}

/// Asks; `Ok` means that the agent said the pod may start (captured, or not of the mesh).
pub fn ask(socket: &Path, body: &Value, timeout: Duration) -> Result<(), AskError> {
    let deadline = Instant::now() + timeout;
    let mut stream = UnixStream::connect(socket)
        .map_err(|e| AskError::Connect(socket.display().to_string(), e))?;
    let body = body.to_string();
    let request = format!(
        "POST /cmdadd HTTP/1.1\r\nHost: unix\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    stream
        .set_write_timeout(Some(remaining(deadline)?))
        .map_err(AskError::Io)?;
    stream.write_all(request.as_bytes()).map_err(AskError::Io)?;
    let answer = read_to_end(&mut stream, deadline)?;
    let (status, text) = parse(&answer)?;
    if status != 200 {
        return Err(AskError::Refused(
            status,
            text.trim().chars().take(2000).collect(),
        ));
    }
    let decision: Value =
        serde_json::from_str(text).map_err(|_| AskError::Garbage("the body is not JSON"))?;
    match decision["ambient"].as_bool() {
        Some(_) => Ok(()),
        None => Err(AskError::Garbage(
            "the body does not say whether the pod is captured",
        )),
    }
}

fn remaining(deadline: Instant) -> Result<Duration, AskError> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(AskError::Io(io::Error::new(
            io::ErrorKind::TimedOut,
            "timed out",
        )));
    }
    Ok(left)
}

fn read_to_end(stream: &mut UnixStream, deadline: Instant) -> Result<Vec<u8>, AskError> {
    let (mut answer, mut chunk) = (Vec::new(), [0; 4096]);
    loop {
        stream
            .set_read_timeout(Some(remaining(deadline)?))
            .map_err(AskError::Io)?;
        match stream.read(&mut chunk) {
            Ok(0) => return Ok(answer),
            Ok(n) => answer.extend_from_slice(&chunk[..n]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                return Err(AskError::Io(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "timed out",
                )));
            }
            Err(e) => return Err(AskError::Io(e)),
        }
        if answer.len() > MAX_ANSWER {
            return Err(AskError::Garbage("it does not end"));
        }
    }
}

/// Status and body of a whole answer.
fn parse(answer: &[u8]) -> Result<(u16, &str), AskError> {
    let text = std::str::from_utf8(answer).map_err(|_| AskError::Garbage("it is not text"))?;
    let (head, body) = text
        .split_once("\r\n\r\n")
        .ok_or(AskError::Garbage("it is not a whole HTTP answer"))?;
    let mut lines = head.split("\r\n");
    let status = lines
        .next()
        .and_then(|line| line.strip_prefix("HTTP/1."))
        .and_then(|rest| rest.split(' ').nth(1))
        .and_then(|code| code.parse::<u16>().ok())
        .ok_or(AskError::Garbage("it has no HTTP status"))?;
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        if name.eq_ignore_ascii_case("transfer-encoding") {
            return Err(AskError::Garbage("it is encoded"));
        }
        if name.eq_ignore_ascii_case("content-length")
            && value.trim().parse::<usize>() != Ok(body.len())
        {
            return Err(AskError::Garbage("it was cut off"));
        }
    }
    Ok((status, body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_answers_are_understood() {
        let good = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
        assert_eq!(parse(good).expect("whole"), (200, "{}"));
        for bad in [
            &b""[..],
            b"\xff\xfe",
            b"hello",
            b"HTTP/1.1 200 OK\r\n",
            b"HTTP/1.1 abc\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n{}",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ] {
            assert!(matches!(parse(bad), Err(AskError::Garbage(_))), "{bad:?}");
        }
    }
}
