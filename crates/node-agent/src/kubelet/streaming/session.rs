//! An exec or attach session without its transport.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

use crate::kubelet::process::{Reader, Terminal, Writer};

/// Messages that may wait in each direction.
pub(crate) const BACKLOG: usize = 16;

/// What goes to the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Output {
    Stdout(Bytes),
    Stderr(Bytes),
    /// A `Status` object as JSON; the last message.
    Status(Bytes),
}

/// The size of the client's window, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size {
    pub columns: u16,
    pub rows: u16,
}

impl Size {
    /// Reads `{"Width":80,"Height":24}`.
    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        let value: serde_json::Value = serde_json::from_slice(text).ok()?;
        let number = |key: &str| {
            value
                .get(key)?
                .as_u64()
                .and_then(|number| u16::try_from(number).ok())
        };
        Some(Self {
            columns: number("Width")?,
            rows: number("Height")?,
        })
    }
}

/// The kubelet's side of a session.
pub(crate) struct Session {
    /// Closed at the client's end of input.
    pub stdin: mpsc::Receiver<Bytes>,
    pub resize: mpsc::Receiver<Size>,
    /// Closed when the client is gone.
    pub output: mpsc::Sender<Output>,
}

/// The transport's side of a session.
pub(crate) struct Remote {
    pub stdin: Option<mpsc::Sender<Bytes>>,
    pub resize: mpsc::Sender<Size>,
    pub output: mpsc::Receiver<Output>,
}

/// Both sides.
pub(crate) fn pair() -> (Session, Remote) {
    let (stdin_sender, stdin) = mpsc::channel(BACKLOG);
    let (resize_sender, resize) = mpsc::channel(BACKLOG);
    let (output_sender, output) = mpsc::channel(BACKLOG);
    (
        Session {
            stdin,
            resize,
            output: output_sender,
        },
        Remote {
            stdin: Some(stdin_sender),
            resize: resize_sender,
            output,
        },
    )
}

/// Copies the client's input until its end. Returns the writer, so that the caller decides whether
/// the end of input closes it.
pub(crate) async fn pump_input(mut input: mpsc::Receiver<Bytes>, mut writer: Writer) -> Writer {
    while let Some(bytes) = input.recv().await {
        if writer.write_all(&bytes).await.is_err() || writer.flush().await.is_err() {
            break;
        }
    }
    writer
}

/// Applies window sizes.
pub(crate) async fn pump_sizes(mut sizes: mpsc::Receiver<Size>, terminal: Terminal) {
    while let Some(size) = sizes.recv().await {
        terminal.resize(size.columns, size.rows);
    }
}

/// Tells whether output still moves, so that a session can end although a background process keeps
/// the pipe open, but never while the client is merely slow.
#[derive(Clone, Default)]
pub(crate) struct Progress {
    chunks: Arc<AtomicU64>,
    sending: Arc<AtomicUsize>,
}

impl Progress {
    /// Waits for the copies to end, or for a second in which nothing moved.
    pub(crate) async fn settle(&self, copies: impl Future<Output = ()>) {
        tokio::pin!(copies);
        let mut before = self.chunks.load(Ordering::Relaxed);
        while tokio::time::timeout(Duration::from_secs(1), &mut copies)
            .await
            .is_err()
        {
            let now = self.chunks.load(Ordering::Relaxed);
            if now == before && self.sending.load(Ordering::Relaxed) == 0 {
                return;
            }
            before = now;
        }
    }
}

/// Copies one output stream to the client until either ends.
pub(crate) async fn pump_output(
    reader: Option<Reader>,
    wrap: fn(Bytes) -> Output,
    output: mpsc::Sender<Output>,
    progress: Progress,
) {
    let Some(mut reader) = reader else { return };
    let mut buffer = vec![0; 32 * 1024];
    loop {
        let count = match reader.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(count) => count,
        };
        progress.sending.fetch_add(1, Ordering::Relaxed);
        let sent = output
            .send(wrap(Bytes::copy_from_slice(&buffer[..count])))
            .await;
        progress.sending.fetch_sub(1, Ordering::Relaxed);
        progress.chunks.fetch_add(1, Ordering::Relaxed);
        if sent.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Size;

    #[test]
    fn sizes() {
        assert_eq!(
            Size::parse(br#"{"Width":80,"Height":24}"#),
            Some(Size {
                columns: 80,
                rows: 24
            })
        );
        assert_eq!(Size::parse(br#"{"Width":99999,"Height":24}"#), None);
        assert_eq!(Size::parse(b"x"), None);
    }
}
