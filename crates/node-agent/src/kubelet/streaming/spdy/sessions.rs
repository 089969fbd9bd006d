//! Exec and attach sessions over SPDY: one stream per channel, named by its `streamtype` header.

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::connection::{Connection, Incoming, StreamWriter};
use crate::kubelet::streaming::session::{Output, Remote, Size};

/// How long the client may take to open its streams.
const OPEN_TIMEOUT: Duration = Duration::from_secs(30);

/// The streams that the request announced.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    /// Terminals have a stream for window sizes.
    pub resize: bool,
}

#[derive(Default)]
struct Opened {
    error: Option<Incoming>,
    stdin: Option<Incoming>,
    stdout: Option<Incoming>,
    stderr: Option<Incoming>,
    resize: Option<Incoming>,
}

impl Opened {
    fn place(&mut self, stream: Incoming) {
        let slot = match stream.header("streamtype") {
            Some("error") => &mut self.error,
            Some("stdin") => &mut self.stdin,
            Some("stdout") => &mut self.stdout,
            Some("stderr") => &mut self.stderr,
            Some("resize") => &mut self.resize,
            _ => return,
        };
        *slot = Some(stream);
    }

    fn is_complete(&self, wanted: Wanted) -> bool {
        self.error.is_some()
            && (!wanted.stdin || self.stdin.is_some())
            && (!wanted.stdout || self.stdout.is_some())
            && (!wanted.stderr || self.stderr.is_some())
            && (!wanted.resize || self.resize.is_some())
    }
}

/// Carries a session until its final status has been sent or the client is gone.
pub(crate) async fn carry(mut connection: Connection, wanted: Wanted, remote: Remote) {
    let mut opened = Opened::default();
    let collect = async {
        while !opened.is_complete(wanted) {
            match connection.next().await {
                Some(stream) => opened.place(stream),
                None => return false,
            }
        }
        true
    };
    if !matches!(tokio::time::timeout(OPEN_TIMEOUT, collect).await, Ok(true)) {
        tracing::debug!("SPDY session: the client did not open the streams it announced");
        return;
    }
    let Remote {
        stdin,
        resize,
        output,
    } = remote;
    let input = opened
        .stdin
        .take()
        .zip(stdin)
        .map(|(stream, sender)| tokio::spawn(forward(stream.data, sender)));
    let sizes = opened
        .resize
        .take()
        .map(|stream| tokio::spawn(forward_sizes(stream.data, resize)));
    let send = write_all(&opened, output);
    tokio::select! {
        () = send => {}
        () = connection.closed() => {}
    }
    for task in [input, sizes].into_iter().flatten() {
        task.abort();
    }
    drop(opened);
    connection.close().await;
}

async fn forward(mut data: mpsc::Receiver<Bytes>, sender: mpsc::Sender<Bytes>) {
    while let Some(bytes) = data.recv().await {
        if sender.send(bytes).await.is_err() {
            return;
        }
    }
}

/// Sizes are JSON objects one after the other; a frame holds whole ones.
async fn forward_sizes(mut data: mpsc::Receiver<Bytes>, sender: mpsc::Sender<Size>) {
    while let Some(bytes) = data.recv().await {
        for text in bytes.split_inclusive(|byte| *byte == b'}') {
            if let Some(size) = Size::parse(text)
                && sender.send(size).await.is_err()
            {
                return;
            }
        }
    }
}

async fn write_all(opened: &Opened, mut output: mpsc::Receiver<Output>) {
    let writer = |stream: &Option<Incoming>| stream.as_ref().map(|stream| stream.writer.clone());
    let (error, stdout, stderr) = (
        writer(&opened.error),
        writer(&opened.stdout),
        writer(&opened.stderr),
    );
    while let Some(output) = output.recv().await {
        let (stream, data, is_last) = match output {
            Output::Stdout(data) => (&stdout, data, false),
            Output::Stderr(data) => (&stderr, data, false),
            Output::Status(data) => (&error, data, true),
        };
        if let Some(stream) = stream
            && !stream.send(data).await
        {
            return;
        }
        if is_last {
            break;
        }
    }
    let all: Vec<StreamWriter> = [stdout, stderr, error].into_iter().flatten().collect();
    for stream in all {
        stream.finish().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubelet::streaming::session;
    use crate::kubelet::streaming::spdy::connection::tests::Client;

    #[tokio::test]
    async fn a_session_from_input_to_status() {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let (mut session, remote) = session::pair();
        let wanted = Wanted {
            stdin: true,
            stdout: true,
            stderr: true,
            resize: true,
        };
        let carried = tokio::spawn(carry(Connection::accept(near), wanted, remote));
        let mut client = Client::new(far);
        for (id, kind) in [
            (1, "error"),
            (3, "stdin"),
            (5, "stdout"),
            (7, "stderr"),
            (9, "resize"),
        ] {
            client.open(id, &[("streamtype", kind)]).await;
        }
        client.data(3, "in", true).await;
        client.data(9, "{\"Width\":2,\"Height\":1}\n", false).await;
        assert_eq!(session.stdin.recv().await, Some(Bytes::from("in")));
        assert_eq!(session.stdin.recv().await, None);
        assert_eq!(
            session.resize.recv().await,
            Some(Size {
                columns: 2,
                rows: 1
            })
        );
        session
            .output
            .send(Output::Stdout("out".into()))
            .await
            .unwrap();
        session
            .output
            .send(Output::Stderr("err".into()))
            .await
            .unwrap();
        session
            .output
            .send(Output::Status("{}".into()))
            .await
            .unwrap();
        let all = client.collect().await;
        assert_eq!(
            (all[&5].as_str(), all[&7].as_str(), all[&1].as_str()),
            ("out", "err", "{}")
        );
        drop(client);
        carried.await.unwrap();
    }
}
