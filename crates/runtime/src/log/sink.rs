//! Where finished lines go: appended to a buffer by whoever logs, written out by one thread.
//!
//! Appending takes a lock for the time of a copy and never waits for the output. When the output
//! does not keep up the buffer fills to its limit; further lines are lost, counted, and the count is
//! logged as soon as there is room.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::Output;

/// Most bytes waiting to be written.
const LIMIT: usize = 4 << 20;
/// Pause after a write, so that a busy process writes many lines at a time.
const GATHER: Duration = Duration::from_millis(2);

/// A handle for appending lines.
#[derive(Clone, Debug)]
pub(super) struct Sink {
    shared: Arc<Shared>,
    /// A thread takes the lines; without, they stay.
    written: bool,
}

#[derive(Debug, Default)]
struct Shared {
    buffer: Mutex<Buffer>,
    /// There is something to write.
    filled: Condvar,
    /// Everything is written.
    written: Condvar,
}

#[derive(Debug, Default)]
struct Buffer {
    lines: Vec<u8>,
    lost: u64,
    writing: bool,
}

impl Sink {
    /// A sink with a thread that writes to a standard stream.
    pub(super) fn start(output: Output) -> io::Result<Self> {
        let sink = Self {
            shared: Arc::default(),
            written: true,
        };
        let shared = sink.shared.clone();
        std::thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || match output {
                Output::Stdout => write_out(&shared, io::stdout()),
                Output::Stderr => write_out(&shared, io::stderr()),
            })?;
        Ok(sink)
    }

    /// A sink that keeps everything, for tests.
    pub(super) fn memory() -> (Self, Capture) {
        let sink = Self {
            shared: Arc::default(),
            written: false,
        };
        (sink.clone(), Capture(sink))
    }

    /// Appends a line, its newline included.
    pub(super) fn append(&self, line: &[u8]) {
        let mut buffer = self.shared.buffer.lock();
        if buffer.lines.len() + line.len() > LIMIT {
            buffer.lost += 1;
            return;
        }
        let was_empty = buffer.lines.is_empty();
        buffer.lines.extend_from_slice(line);
        drop(buffer);
        if was_empty {
            self.shared.filled.notify_one();
        }
    }

    /// Waits until everything is written, at most for `timeout`.
    pub(super) fn flush(&self, timeout: Duration) {
        let deadline = Instant::now() + timeout;
        let mut buffer = self.shared.buffer.lock();
        while self.written && (buffer.writing || !buffer.lines.is_empty()) {
            if self
                .shared
                .written
                .wait_until(&mut buffer, deadline)
                .timed_out()
            {
                return;
            }
        }
    }
}

fn write_out(shared: &Shared, mut output: impl Write) {
    let mut batch = Vec::new();
    loop {
        let lost = take_batch(shared, &mut batch);
        // A closed standard stream must not end the process; nobody is left to be told.
        let _ = output.write_all(&batch).and_then(|()| output.flush());
        batch.clear();
        shared.buffer.lock().writing = false;
        if lost > 0 {
            tracing::warn!(target: "log", lost, "log lines were lost because the output is too slow");
        }
        shared.written.notify_all();
        std::thread::sleep(GATHER);
    }
}

/// Waits for lines and swaps them for the empty `batch`; returns how many lines were lost.
fn take_batch(shared: &Shared, batch: &mut Vec<u8>) -> u64 {
    let mut buffer = shared.buffer.lock();
    while buffer.lines.is_empty() {
        shared.filled.wait(&mut buffer);
    }
    std::mem::swap(&mut buffer.lines, batch);
    buffer.writing = true;
    std::mem::take(&mut buffer.lost)
}

/// The memory of a test's log.
#[derive(Clone, Debug)]
pub struct Capture(Sink);

impl Capture {
    /// The lines so far.
    pub fn lines(&self) -> Vec<String> {
        let buffer = self.0.shared.buffer.lock();
        String::from_utf8_lossy(&buffer.lines)
            .lines()
            .map(str::to_owned)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Default)]
    struct Slow {
        written: Arc<Mutex<Vec<u8>>>,
        gate: Arc<Mutex<()>>,
    }

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _open = self.gate.lock();
            self.written.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_stuck_output_loses_lines_and_never_blocks() {
        let sink = Sink {
            shared: Arc::default(),
            written: true,
        };
        let output = Slow::default();
        let closed = output.gate.lock();
        let (shared, writer) = (sink.shared.clone(), output.clone());
        std::thread::spawn(move || write_out(&shared, writer));
        let line = vec![b'x'; 1 << 20];
        for _ in 0..20 {
            sink.append(&line);
        }
        assert!(sink.shared.buffer.lock().lost >= 11);
        sink.flush(Duration::from_millis(10));
        assert!(output.written.lock().is_empty());
        drop(closed);
        sink.flush(Duration::from_secs(20));
        let written = output.written.lock().len() >> 20;
        assert!((4..=9).contains(&written), "{written}");
    }
}
