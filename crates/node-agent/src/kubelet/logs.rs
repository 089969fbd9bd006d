//! Container logs on disk, in the runtime interface's text form:
//! `<RFC 3339 time> <stdout|stderr> <F|P> <text>`, `P` marking a line that goes on.
//!
//! A file is rotated once it passes [`ROTATE_AT`]; one older file is kept. So a container never has
//! more than twice that on disk, and a reader that follows can finish the old file first.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::io::AsyncReadExt;
use tokio::sync::{broadcast, mpsc, watch};

use super::process::Reader;

/// Size at which a log file is rotated.
const ROTATE_AT: u64 = 10 * 1024 * 1024;
/// Longest piece of a line in one entry.
const LONGEST_PIECE: usize = 16 * 1024;

/// Which stream an output came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// Where the log stands, for followers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Position {
    /// Number of rotations so far.
    generation: u64,
    /// Length of the current file.
    length: u64,
    /// No more output will come.
    closed: bool,
}

/// The log of one run of a container.
pub(crate) struct ContainerLog {
    path: PathBuf,
    file: Mutex<File>,
    position: watch::Sender<Position>,
}

impl ContainerLog {
    /// Creates the file, and its directory if need be.
    pub(crate) fn create(path: &Path) -> io::Result<Arc<Self>> {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        let file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .open(path)?;
        let position = watch::Sender::new(Position::default());
        Ok(Arc::new(Self {
            path: path.to_path_buf(),
            file: Mutex::new(file),
            position,
        }))
    }

    /// Removes the files.
    pub(crate) fn remove(&self) {
        let _ = std::fs::remove_file(&self.path);
        let _ = std::fs::remove_file(self.rotated());
    }

    fn rotated(&self) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(".1");
        name.into()
    }

    fn append(&self, stream: Stream, text: &[u8], complete: bool) -> io::Result<()> {
        let now = Timestamp::now();
        let mut entry = Vec::with_capacity(text.len() + 48);
        write!(
            entry,
            "{now:.9} {} {} ",
            stream.name(),
            if complete { 'F' } else { 'P' }
        )?;
        entry.extend_from_slice(text);
        entry.push(b'\n');
        let mut file = self.file.lock();
        file.write_all(&entry)?;
        let mut position = *self.position.borrow();
        position.length += entry.len() as u64;
        if position.length >= ROTATE_AT {
            std::fs::rename(&self.path, self.rotated())?;
            *file = OpenOptions::new()
                .create(true)
                .truncate(true)
                .write(true)
                .open(&self.path)?;
            position.generation += 1;
            position.length = 0;
        }
        drop(file);
        self.position.send_replace(position);
        Ok(())
    }

    /// Says that no more output will come.
    pub(crate) fn close(&self) {
        self.position.send_modify(|position| position.closed = true);
    }

    /// The last bytes of output without prefixes, for a termination message.
    pub(crate) fn tail(&self, lines: usize, limit: usize) -> String {
        let bytes = std::fs::read(&self.path).unwrap_or_default();
        let entries: Vec<&[u8]> = bytes
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .collect();
        let start = entries.len().saturating_sub(lines);
        let mut text = Vec::new();
        for entry in entries[start..]
            .iter()
            .filter_map(|line| Entry::parse(line))
        {
            text.extend_from_slice(entry.text);
            text.push(b'\n');
        }
        let from = text.len().saturating_sub(limit);
        String::from_utf8_lossy(&text[from..]).into_owned()
    }
}

/// Copies a stream into the log and to whoever is attached, until it ends.
pub(crate) async fn capture(
    mut reader: Reader,
    stream: Stream,
    log: Arc<ContainerLog>,
    attached: broadcast::Sender<(Stream, Bytes)>,
) {
    let mut buffer = vec![0; 16 * 1024];
    let mut line = Vec::new();
    loop {
        let count = match reader.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(count) => count,
        };
        let chunk = &buffer[..count];
        // Nobody attached is no error.
        let _ = attached.send((stream, Bytes::copy_from_slice(chunk)));
        if let Err(error) = split_lines(&mut line, chunk, |text, complete| {
            log.append(stream, text, complete)
        }) {
            tracing::warn!(log = %log.path.display(), "log not written: {error}");
        }
    }
    if !line.is_empty() {
        let _ = log.append(stream, &line, false);
    }
}

/// Cuts output into lines; what is left over stays in `line` for the next chunk.
fn split_lines(
    line: &mut Vec<u8>,
    chunk: &[u8],
    mut append: impl FnMut(&[u8], bool) -> io::Result<()>,
) -> io::Result<()> {
    for piece in chunk.split_inclusive(|byte| *byte == b'\n') {
        match piece.strip_suffix(b"\n") {
            Some(text) => {
                line.extend_from_slice(text);
                append(line, true)?;
                line.clear();
            }
            None => line.extend_from_slice(piece),
        }
        while line.len() >= LONGEST_PIECE {
            let rest = line.split_off(LONGEST_PIECE);
            append(line, false)?;
            *line = rest;
        }
    }
    Ok(())
}

/// One line of a log file.
struct Entry<'a> {
    time: &'a str,
    complete: bool,
    text: &'a [u8],
}

impl<'a> Entry<'a> {
    fn parse(line: &'a [u8]) -> Option<Self> {
        let mut parts = line.splitn(4, |byte| *byte == b' ');
        let time = std::str::from_utf8(parts.next()?).ok()?;
        let _stream = parts.next()?;
        let complete = parts.next()? == b"F";
        Some(Self {
            time,
            complete,
            text: parts.next()?,
        })
    }
}

/// What a reader asked for (`PodLogOptions`).
#[derive(Debug, Clone, Default)]
pub(crate) struct LogOptions {
    pub follow: bool,
    pub timestamps: bool,
    pub tail_lines: Option<usize>,
    pub limit_bytes: Option<u64>,
    /// Entries before this time are left out.
    pub since: Option<Timestamp>,
}

/// Turns entries into what the reader gets.
struct Renderer {
    options: LogOptions,
    sent: u64,
    /// The previous entry was a piece of a line.
    in_line: bool,
}

impl Renderer {
    /// The bytes for one entry; `None` when the limit is reached.
    fn render(&mut self, line: &[u8]) -> Option<Vec<u8>> {
        let Some(entry) = Entry::parse(line) else {
            return Some(Vec::new());
        };
        if let Some(since) = self.options.since
            && entry
                .time
                .parse::<Timestamp>()
                .is_ok_and(|time| time < since)
        {
            return Some(Vec::new());
        }
        let mut output = Vec::with_capacity(line.len());
        if self.options.timestamps && !self.in_line {
            output.extend_from_slice(entry.time.as_bytes());
            output.push(b' ');
        }
        output.extend_from_slice(entry.text);
        if entry.complete {
            output.push(b'\n');
        }
        self.in_line = !entry.complete;
        if let Some(limit) = self.options.limit_bytes {
            let left = limit.saturating_sub(self.sent);
            if left == 0 {
                return None;
            }
            output.truncate(usize::try_from(left).unwrap_or(usize::MAX));
        }
        self.sent += output.len() as u64;
        Some(output)
    }
}

/// Sends a log, from what is there to its end or, when following, to the end of the container.
/// The receiver's end stops it.
pub(crate) async fn send(
    log: Arc<ContainerLog>,
    options: LogOptions,
    sender: mpsc::Sender<Bytes>,
) -> io::Result<()> {
    let mut positions = log.position.subscribe();
    let mut position = *positions.borrow_and_update();
    let mut renderer = Renderer {
        options: options.clone(),
        sent: 0,
        in_line: false,
    };
    let existing = read_existing(&log, position).await?;
    if !emit(&existing, &mut renderer, &sender).await {
        return Ok(());
    }
    while options.follow && !position.closed {
        tokio::select! {
            changed = positions.changed() => if changed.is_err() { return Ok(()) },
            () = sender.closed() => return Ok(()),
        }
        let now = *positions.borrow_and_update();
        let bytes = read_new(&log, position, now).await?;
        if !emit(&bytes, &mut renderer, &sender).await {
            return Ok(());
        }
        position = now;
    }
    Ok(())
}

/// Renders whole lines and sends them; false when there is nobody to send to or enough was sent.
async fn emit(bytes: &[u8], renderer: &mut Renderer, sender: &mpsc::Sender<Bytes>) -> bool {
    let mut batch = Vec::new();
    let mut go_on = true;
    let entries = bytes
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty());
    let entries: Vec<&[u8]> = entries.collect();
    let skip = match renderer.options.tail_lines.take() {
        Some(tail) => start_of_tail(&entries, tail),
        None => 0,
    };
    for line in &entries[skip..] {
        match renderer.render(line) {
            Some(output) => batch.extend_from_slice(&output),
            None => {
                go_on = false;
                break;
            }
        }
        if batch.len() >= 64 * 1024
            && sender
                .send(std::mem::take(&mut batch).into())
                .await
                .is_err()
        {
            return false;
        }
    }
    if !batch.is_empty() && sender.send(batch.into()).await.is_err() {
        return false;
    }
    go_on
}

/// Index of the first entry of the last `tail` lines; pieces of one line count once.
fn start_of_tail(entries: &[&[u8]], tail: usize) -> usize {
    let mut lines = 0;
    for (index, line) in entries.iter().enumerate().rev() {
        let ends_line =
            Entry::parse(line).is_none_or(|entry| entry.complete) || index + 1 == entries.len();
        if ends_line {
            if lines == tail {
                return index + 1;
            }
            lines += 1;
        }
    }
    0
}

async fn read_existing(log: &Arc<ContainerLog>, position: Position) -> io::Result<Vec<u8>> {
    let log = log.clone();
    blocking(move || {
        let mut bytes = std::fs::read(log.rotated()).unwrap_or_default();
        bytes.extend(read_range(&log.path, 0, position.length)?);
        Ok(bytes)
    })
    .await
}

async fn read_new(log: &Arc<ContainerLog>, from: Position, to: Position) -> io::Result<Vec<u8>> {
    let log = log.clone();
    blocking(move || {
        if from.generation == to.generation {
            return read_range(&log.path, from.length, to.length);
        }
        // What was rotated away more than once is gone.
        let start = if to.generation == from.generation + 1 {
            from.length
        } else {
            0
        };
        let mut bytes = read_range(&log.rotated(), start, u64::MAX)?;
        bytes.extend(read_range(&log.path, 0, to.length)?);
        Ok(bytes)
    })
    .await
}

fn read_range(path: &Path, from: u64, to: u64) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    let end = to.min(file.metadata()?.len());
    let mut bytes = vec![0; usize::try_from(end.saturating_sub(from)).unwrap_or(0)];
    file.read_exact_at(&mut bytes, from)?;
    Ok(bytes)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log() -> (tempfile::TempDir, Arc<ContainerLog>) {
        let dir = tempfile::tempdir().unwrap();
        let log = ContainerLog::create(&dir.path().join("a/0.log")).unwrap();
        (dir, log)
    }

    async fn text(log: &Arc<ContainerLog>, options: LogOptions) -> String {
        let (sender, mut receiver) = mpsc::channel(8);
        tokio::spawn(send(log.clone(), options, sender));
        let mut all = Vec::new();
        while let Some(bytes) = receiver.recv().await {
            all.extend_from_slice(&bytes);
        }
        String::from_utf8(all).unwrap()
    }

    #[tokio::test]
    async fn options() {
        let (_dir, log) = log();
        for n in 0..5 {
            log.append(Stream::Stdout, format!("line {n}").as_bytes(), true)
                .unwrap();
        }
        assert_eq!(
            text(
                &log,
                LogOptions {
                    tail_lines: Some(2),
                    ..Default::default()
                }
            )
            .await,
            "line 3\nline 4\n"
        );
        assert_eq!(
            text(
                &log,
                LogOptions {
                    tail_lines: Some(0),
                    ..Default::default()
                }
            )
            .await,
            ""
        );
        assert_eq!(
            text(
                &log,
                LogOptions {
                    limit_bytes: Some(9),
                    ..Default::default()
                }
            )
            .await,
            "line 0\nli"
        );
        let stamped = text(
            &log,
            LogOptions {
                timestamps: true,
                tail_lines: Some(1),
                ..Default::default()
            },
        )
        .await;
        let (time, rest) = stamped.split_once(' ').unwrap();
        assert!(
            time.parse::<Timestamp>().is_ok() && rest == "line 4\n",
            "{stamped}"
        );
        let later = Timestamp::now() + jiff::SignedDuration::from_secs(5);
        assert_eq!(
            text(
                &log,
                LogOptions {
                    since: Some(later),
                    ..Default::default()
                }
            )
            .await,
            ""
        );
        assert_eq!(log.tail(2, 100), "line 3\nline 4\n");
    }

    #[tokio::test]
    async fn following_sees_everything_once_across_a_rotation() {
        let (_dir, log) = log();
        log.append(Stream::Stdout, b"first", true).unwrap();
        let (sender, mut receiver) = mpsc::channel(8);
        let reader = tokio::spawn(send(
            log.clone(),
            LogOptions {
                follow: true,
                ..Default::default()
            },
            sender,
        ));
        let mut lines = 0;
        let mut feed = 0;
        let long = vec![b'x'; 100_000];
        while feed < 150 {
            log.append(Stream::Stderr, &long, true).unwrap();
            feed += 1;
            // Let the reader keep up, as a real one does between bursts.
            while let Ok(Some(bytes)) =
                tokio::time::timeout(std::time::Duration::from_millis(5), receiver.recv()).await
            {
                lines += bytes.iter().filter(|byte| **byte == b'\n').count();
                if lines > feed {
                    break;
                }
            }
        }
        log.close();
        while let Some(bytes) = receiver.recv().await {
            lines += bytes.iter().filter(|byte| **byte == b'\n').count();
        }
        assert_eq!(lines, 151);
        reader.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn long_and_unfinished_lines_come_out_whole() {
        let (_dir, log) = log();
        let long = "y".repeat(40_000);
        let input = format!("{long}\nend");
        let (attached, mut watcher) = broadcast::channel(64);
        capture(
            Box::new(io::Cursor::new(input.clone().into_bytes())),
            Stream::Stdout,
            log.clone(),
            attached,
        )
        .await;
        assert_eq!(text(&log, LogOptions::default()).await, input);
        assert_eq!(
            text(
                &log,
                LogOptions {
                    tail_lines: Some(1),
                    ..Default::default()
                }
            )
            .await,
            "end"
        );
        assert!(watcher.recv().await.is_ok());
    }
}
