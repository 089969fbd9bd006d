//! A client joined to the streams of a running container.

use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::sync::broadcast::error::RecvError;

use super::session::{self, Output, Session};
use super::status;
use crate::kubelet::logs::Stream;
use crate::kubelet::pods::{ContainerIo, RunningContainer};

/// A first client that comes so soon was on its way when the container started, as that of
/// `kubectl run -i` or `kubectl debug -i`; a later one sees what is printed from then on.
const EARLY: Duration = Duration::from_secs(60);

/// Copies streams until the container ends or the client leaves. The container goes on either way.
pub(crate) async fn run(container: &RunningContainer, with_stdin: bool, session: Session) {
    let Session {
        stdin,
        resize,
        output,
    } = session;
    let io = container.io.clone();
    let early = io.early.lock().take();
    let early = early.filter(|(start, _)| start.elapsed() < EARLY);
    let mut outputs = early.map_or_else(|| io.output.subscribe(), |(_, early)| early);
    let sizes = io
        .terminal
        .clone()
        .map(|terminal| tokio::spawn(session::pump_sizes(resize, terminal)));
    let input = with_stdin.then(|| tokio::spawn(pump_input(io, stdin)));
    let copy = async {
        loop {
            let (stream, data) = match outputs.recv().await {
                Ok(output) => output,
                // A client that is too slow misses output; it is all in the log.
                Err(RecvError::Lagged(_)) => continue,
                Err(RecvError::Closed) => return,
            };
            let message = match stream {
                Stream::Stdout => Output::Stdout(data),
                Stream::Stderr => Output::Stderr(data),
            };
            if output.send(message).await.is_err() {
                return;
            }
        }
    };
    tokio::pin!(copy);
    tokio::select! {
        () = &mut copy => {}
        exit = container.process.wait() => {
            // The last output may still be on its way.
            let _ = tokio::time::timeout(Duration::from_millis(200), &mut copy).await;
            let _ = output.send(Output::Status(status::exit(exit))).await;
        }
        () = output.closed() => {}
    }
    for task in [input, sizes].into_iter().flatten() {
        task.abort();
    }
}

async fn pump_input(io: ContainerIo, mut input: tokio::sync::mpsc::Receiver<bytes::Bytes>) {
    while let Some(bytes) = input.recv().await {
        let mut writer = io.stdin.lock().await;
        let Some(writer) = writer.as_mut() else {
            return;
        };
        if writer.write_all(&bytes).await.is_err() || writer.flush().await.is_err() {
            return;
        }
    }
    if io.stdin_once {
        // End of input for the container, as `stdinOnce` says.
        io.stdin.lock().await.take();
    }
}
