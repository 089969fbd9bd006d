//! One SPDY connection: a task reads frames and hands out streams, another writes.

use std::collections::HashMap;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::frame::{Frame, FrameError};
use super::headers::{self, Decoder, Encoder, HeaderError, Headers};

/// Frames that may wait for the socket, and data frames that may wait for each stream's reader.
const BACKLOG: usize = 32;
/// Most streams open at a time.
const MOST_STREAMS: usize = 1024;
/// Largest data frame sent.
const LARGEST_DATA: usize = 32 * 1024;

/// Why a connection ended early.
#[derive(Debug, thiserror::Error)]
enum SpdyError {
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Header(#[from] HeaderError),
    #[error("too many streams")]
    TooManyStreams,
    #[error("writer is gone")]
    WriterGone,
}

/// A stream that the client opened.
pub(crate) struct Incoming {
    pub headers: Headers,
    /// Ends with the client's last frame, a reset, or the connection.
    pub data: mpsc::Receiver<Bytes>,
    pub writer: StreamWriter,
}

impl Incoming {
    /// A header of the stream.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        headers::get(&self.headers, name)
    }
}

/// The sending half of a stream.
#[derive(Clone)]
pub(crate) struct StreamWriter {
    id: u32,
    frames: mpsc::Sender<Frame>,
}

impl StreamWriter {
    /// Sends data; false when the connection is gone.
    pub(crate) async fn send(&self, mut data: Bytes) -> bool {
        while !data.is_empty() {
            let piece = data.split_to(data.len().min(LARGEST_DATA));
            if self
                .frames
                .send(Frame::Data {
                    id: self.id,
                    fin: false,
                    data: piece,
                })
                .await
                .is_err()
            {
                return false;
            }
        }
        true
    }

    /// Says that no more data will come.
    pub(crate) async fn finish(&self) {
        let _ = self
            .frames
            .send(Frame::Data {
                id: self.id,
                fin: true,
                data: Bytes::new(),
            })
            .await;
    }
}

/// An accepted connection.
pub(crate) struct Connection {
    streams: mpsc::Receiver<Incoming>,
    frames: mpsc::Sender<Frame>,
    reader: JoinHandle<()>,
    writer: JoinHandle<()>,
    /// Cancelled when the client has gone.
    gone: CancellationToken,
}

impl Connection {
    /// Takes over a socket after the upgrade.
    pub(crate) fn accept<S>(socket: S) -> Self
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        let (read, write) = tokio::io::split(socket);
        let (frames, queue) = mpsc::channel(BACKLOG);
        let (opened, streams) = mpsc::channel(BACKLOG);
        let writer = tokio::spawn(write_all(write, queue));
        let replies = frames.clone();
        let gone = CancellationToken::new();
        let guard = gone.clone().drop_guard();
        let reader = tokio::spawn(async move {
            let _guard = guard;
            if let Err(error) = read_all(read, opened, replies).await {
                tracing::debug!("SPDY connection: {error}");
            }
        });
        Self {
            streams,
            frames,
            reader,
            writer,
            gone,
        }
    }

    /// The next stream; `None` when the client is gone.
    pub(crate) async fn next(&mut self) -> Option<Incoming> {
        self.streams.recv().await
    }

    /// Sends what is queued, ends the connection, and gives the client a moment to read it all.
    pub(crate) async fn close(self) {
        let Self {
            streams,
            frames,
            reader,
            writer,
            gone,
        } = self;
        let _ = frames.send(Frame::GoAway { last: 0, status: 0 }).await;
        drop(frames);
        drop(streams);
        let _ = tokio::time::timeout(Duration::from_secs(2), gone.cancelled()).await;
        reader.abort();
        // The reader held the last queue end: now the writer finishes and closes the socket.
        let _ = tokio::time::timeout(Duration::from_secs(2), writer).await;
    }

    /// Waits until the client has gone.
    pub(crate) async fn closed(&self) {
        self.gone.cancelled().await;
    }
}

async fn write_all<S: AsyncWrite>(mut socket: WriteHalf<S>, mut queue: mpsc::Receiver<Frame>) {
    let mut buffer = BytesMut::new();
    while let Some(frame) = queue.recv().await {
        frame.put(&mut buffer);
        while let Ok(more) = queue.try_recv() {
            more.put(&mut buffer);
        }
        if socket.write_all(&buffer).await.is_err() || socket.flush().await.is_err() {
            return;
        }
        buffer.clear();
    }
    let _ = socket.shutdown().await;
}

async fn read_all<S: AsyncRead>(
    mut socket: ReadHalf<S>,
    opened: mpsc::Sender<Incoming>,
    replies: mpsc::Sender<Frame>,
) -> Result<(), SpdyError> {
    let mut state = Streams {
        open: HashMap::new(),
        decoder: Decoder::new(),
        encoder: Encoder::new()?,
        opened,
        replies,
    };
    let mut buffer = BytesMut::with_capacity(16 * 1024);
    loop {
        while let Some(frame) = Frame::take(&mut buffer)? {
            state.handle(frame).await?;
        }
        if socket.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
    }
}

struct Streams {
    open: HashMap<u32, mpsc::Sender<Bytes>>,
    decoder: Decoder,
    encoder: Encoder,
    opened: mpsc::Sender<Incoming>,
    replies: mpsc::Sender<Frame>,
}

impl Streams {
    async fn handle(&mut self, frame: Frame) -> Result<(), SpdyError> {
        match frame {
            Frame::SynStream { id, fin, block } => self.open_stream(id, fin, &block).await?,
            Frame::Data { id, fin, data } => {
                // Data for a stream that is gone on our side is dropped.
                if let Some(sender) = self.open.get(&id).filter(|_| !data.is_empty()) {
                    let _ = sender.send(data).await;
                }
                if fin {
                    self.open.remove(&id);
                }
            }
            Frame::Headers { id, fin, block } => {
                self.decoder.decode(&block)?;
                if fin {
                    self.open.remove(&id);
                }
            }
            Frame::SynReply { block, .. } => drop(self.decoder.decode(&block)?),
            Frame::Reset { id, .. } => drop(self.open.remove(&id)),
            // Odd numbers are the client's own pings; even ones would answer ours.
            Frame::Ping { id } if id % 2 == 1 => {
                self.replies
                    .send(Frame::Ping { id })
                    .await
                    .map_err(|_| SpdyError::WriterGone)?;
            }
            Frame::Ping { .. } | Frame::GoAway { .. } | Frame::Ignored => {}
        }
        Ok(())
    }

    async fn open_stream(&mut self, id: u32, fin: bool, block: &[u8]) -> Result<(), SpdyError> {
        let headers = self.decoder.decode(block)?;
        if self.open.len() >= MOST_STREAMS {
            return Err(SpdyError::TooManyStreams);
        }
        let block = self.encoder.encode(&Headers::new())?.into();
        let reply = Frame::SynReply {
            id,
            fin: false,
            block,
        };
        self.replies
            .send(reply)
            .await
            .map_err(|_| SpdyError::WriterGone)?;
        let (sender, data) = mpsc::channel(BACKLOG);
        if !fin {
            self.open.insert(id, sender);
        }
        let writer = StreamWriter {
            id,
            frames: self.replies.clone(),
        };
        // Nobody waits for streams any more when the session has ended.
        let _ = self
            .opened
            .send(Incoming {
                headers,
                data,
                writer,
            })
            .await;
        Ok(())
    }
}

#[cfg(test)]
pub(in crate::kubelet::streaming) mod tests {
    use super::*;

    /// A client side for tests, from the same parts.
    pub(in crate::kubelet::streaming) struct Client<S> {
        socket: S,
        encoder: Encoder,
        decoder: Decoder,
        buffer: BytesMut,
    }

    impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
        pub(in crate::kubelet::streaming) fn new(socket: S) -> Self {
            Self {
                socket,
                encoder: Encoder::new().unwrap(),
                decoder: Decoder::new(),
                buffer: BytesMut::new(),
            }
        }

        pub(in crate::kubelet::streaming) async fn open(
            &mut self,
            id: u32,
            headers: &[(&str, &str)],
        ) {
            let headers = headers
                .iter()
                .map(|(k, v)| (k.to_string(), v.to_string()))
                .collect();
            let block = self.encoder.encode(&headers).unwrap().into();
            self.send(Frame::SynStream {
                id,
                fin: false,
                block,
            })
            .await;
        }

        pub(in crate::kubelet::streaming) async fn data(&mut self, id: u32, data: &str, fin: bool) {
            self.send(Frame::Data {
                id,
                fin,
                data: data.to_string().into(),
            })
            .await;
        }

        async fn send(&mut self, frame: Frame) {
            let mut bytes = BytesMut::new();
            frame.put(&mut bytes);
            self.socket.write_all(&bytes).await.unwrap();
        }

        async fn next(&mut self) -> Option<Frame> {
            loop {
                if let Some(frame) = Frame::take(&mut self.buffer).unwrap() {
                    if let Frame::SynReply { block, .. } = &frame {
                        self.decoder.decode(block).unwrap();
                    }
                    return Some(frame);
                }
                if self.socket.read_buf(&mut self.buffer).await.unwrap() == 0 {
                    return None;
                }
            }
        }

        /// All data per stream until the given streams have ended.
        pub(in crate::kubelet::streaming) async fn collect_until_finished(
            &mut self,
            ids: &[u32],
        ) -> HashMap<u32, String> {
            let mut all: HashMap<u32, String> = HashMap::new();
            let mut left = ids.to_vec();
            while !left.is_empty() {
                if let Frame::Data { id, data, fin } = self.next().await.unwrap() {
                    all.entry(id)
                        .or_default()
                        .push_str(std::str::from_utf8(&data).unwrap());
                    left.retain(|other| !(fin && *other == id));
                }
            }
            all
        }

        /// All data per stream until the other side ends.
        pub(in crate::kubelet::streaming) async fn collect(&mut self) -> HashMap<u32, String> {
            let mut all: HashMap<u32, String> = HashMap::new();
            while let Some(frame) = self.next().await {
                match frame {
                    Frame::Data { id, data, .. } => {
                        all.entry(id)
                            .or_default()
                            .push_str(std::str::from_utf8(&data).unwrap());
                    }
                    Frame::GoAway { .. } => break,
                    _ => {}
                }
            }
            all
        }
    }

    #[tokio::test]
    async fn streams_data_and_pings() {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let mut connection = Connection::accept(near);
        let mut client = Client::new(far);
        client.open(1, &[("streamtype", "error")]).await;
        client
            .open(3, &[("streamType", "data"), ("port", "80")])
            .await;
        client.data(3, "hello", true).await;
        client.send(Frame::Ping { id: 1 }).await;
        let first = connection.next().await.unwrap();
        let mut second = connection.next().await.unwrap();
        assert_eq!(first.header("streamtype"), Some("error"));
        assert_eq!(second.header("STREAMTYPE"), Some("data"));
        assert_eq!(second.data.recv().await, Some(Bytes::from("hello")));
        assert_eq!(second.data.recv().await, None);
        second.writer.send(Bytes::from(vec![b'x'; 40_000])).await;
        second.writer.finish().await;
        let mut got = Vec::new();
        let mut length = 0;
        loop {
            match client.next().await.unwrap() {
                Frame::SynReply { id, .. } => got.push(format!("reply {id}")),
                Frame::Ping { id } => got.push(format!("ping {id}")),
                Frame::Data { data, fin, .. } => {
                    length += data.len();
                    if fin {
                        break;
                    }
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(got, ["reply 1", "reply 3", "ping 1"]);
        assert_eq!(length, 40_000);
        drop(client);
        connection.closed().await;
    }

    #[tokio::test]
    async fn garbage_ends_the_connection() {
        let (near, mut far) = tokio::io::duplex(1024);
        let mut connection = Connection::accept(near);
        far.write_all(&[0x80, 9, 0, 1, 0, 0, 0, 0]).await.unwrap();
        assert!(connection.next().await.is_none());
    }
}
