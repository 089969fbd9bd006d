//! The socket by which a command asks a running cluster for a fault: one
//! request and one answer per connection, a line of JSON each. It lies in the
//! cluster's folder, which only root can enter.

use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt};
use tokio::net::UnixListener;
use tokio::sync::mpsc;

use crate::error::{LocalError, Result, file};
use crate::faults::{Faults, Request};
use crate::state::Folder;

/// How long an answer may take: a node may have much to end.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a client may take to ask.
const ASKING: Duration = Duration::from_secs(5);
const SOCKET: &str = "control";

/// The faults after a request, or why it was refused.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Answer {
    Done(Faults),
    Refused(String),
}

/// The cluster's end.
pub(crate) struct Control {
    requests: mpsc::Receiver<Asked>,
}

/// A request that waits for its answer.
pub(crate) struct Asked {
    pub(crate) request: Request,
    stream: tokio::net::UnixStream,
}

impl Control {
    /// Listens in the folder, as long as the runtime lives.
    pub(crate) fn open(folder: &Folder) -> Result<Self> {
        let (path, _held) = short(folder)?;
        let listener =
            UnixListener::bind(path).map_err(file("listening on", folder.path().join(SOCKET)))?;
        let (found, requests) = mpsc::channel(1);
        tokio::spawn(listen(listener, found));
        Ok(Self { requests })
    }

    /// The next request. May be given up at any time; none is lost.
    pub(crate) async fn next(&mut self) -> Asked {
        match self.requests.recv().await {
            Some(asked) => asked,
            // Nobody listens any more, so nobody will ask.
            None => std::future::pending().await,
        }
    }
}

/// Hands on requests; what is not one is passed over.
async fn listen(listener: UnixListener, found: mpsc::Sender<Asked>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        match tokio::time::timeout(ASKING, read(stream)).await {
            Ok(Ok(asked)) => {
                if found.send(asked).await.is_err() {
                    return;
                }
            }
            Ok(Err(error)) => tracing::warn!("a request that is none: {error}"),
            Err(_) => tracing::warn!("a client that asked nothing"),
        }
    }
}

async fn read(stream: tokio::net::UnixStream) -> std::io::Result<Asked> {
    let mut stream = tokio::io::BufReader::new(stream);
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    Ok(Asked {
        request: serde_json::from_str(&line)?,
        stream: stream.into_inner(),
    })
}

impl Asked {
    /// Answers. A client that is gone does not matter.
    pub(crate) async fn answer(mut self, outcome: Result<Faults>) {
        let answer = match outcome {
            Ok(faults) => Answer::Done(faults),
            Err(error) => Answer::Refused(error.to_string()),
        };
        if let Ok(mut line) = serde_json::to_vec(&answer) {
            line.push(b'\n');
            let _ = self.stream.write_all(&line).await;
        }
    }
}

/// Asks a cluster and returns its faults afterwards. Blocks.
///
/// # Errors
/// Why the request is refused, or that the cluster does not answer.
pub(crate) fn ask(folder: &Folder, request: &Request) -> Result<Faults> {
    let silent = || {
        let path = folder.path().join(SOCKET);
        file("asking the cluster over", path)
    };
    let (path, _held) = short(folder)?;
    let mut stream = UnixStream::connect(path).map_err(silent())?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(silent())?;
    let mut line = serde_json::to_vec(request).map_err(|error| silent()(error.into()))?;
    line.push(b'\n');
    stream.write_all(&line).map_err(silent())?;
    let mut answer = String::new();
    BufReader::new(stream)
        .read_line(&mut answer)
        .map_err(silent())?;
    match serde_json::from_str(&answer).map_err(|error| silent()(error.into()))? {
        Answer::Done(faults) => Ok(faults),
        Answer::Refused(reason) => Err(LocalError::Refused(reason)),
    }
}

/// A path to the socket that is short, however long the folder's is: socket
/// addresses hold 107 bytes. Good as long as the file is held.
fn short(folder: &Folder) -> Result<(PathBuf, std::fs::File)> {
    let held = std::fs::File::open(folder.path()).map_err(file("opening", folder.path()))?;
    let path = format!("/proc/self/fd/{}/{SOCKET}", held.as_raw_fd());
    Ok((path.into(), held))
}
