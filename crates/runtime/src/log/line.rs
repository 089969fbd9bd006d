//! One line of the access log, put together field by field.
//!
//! The field writers are shared with the `tracing` layer, so that both produce one format.

use std::cell::RefCell;
use std::fmt::{self, Display, Write as _};
use std::io::Write as _;
use std::sync::atomic::Ordering;

use jiff::Timestamp;
use jiff::fmt::temporal::DateTimePrinter;
use tracing::Level;

use super::sink::Sink;
use super::{ACCESS, ACCESS_LEVEL, Format, SINK, level_name, rank};

thread_local! {
    /// Memory of the last line, used again for the next one.
    static SPARE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    /// The second that was printed last, and its text up to the dot.
    static SECOND: RefCell<(i64, String)> = const { RefCell::new((i64::MIN, String::new())) };
}

/// A line of the access log. Fields are written in the order of the calls.
#[derive(Debug)]
pub struct Line {
    writer: Writer,
    sink: Sink,
}

impl Line {
    /// Starts a line, or returns `None` where the access log is off at this level.
    pub fn access(level: Level, message: &str) -> Option<Self> {
        if rank(level.into()) > ACCESS_LEVEL.load(Ordering::Relaxed) {
            return None;
        }
        let (format, sink) = SINK.get()?;
        let mut writer = Writer::start(*format, level, ACCESS, ACCESS);
        writer.message(&message);
        Some(Self {
            writer,
            sink: sink.clone(),
        })
    }

    /// Adds text, quoted.
    pub fn text(&mut self, key: &str, value: &str) -> &mut Self {
        self.writer.text(key, value);
        self
    }

    /// Adds a value that is shown bare, such as an address.
    pub fn display(&mut self, key: &str, value: impl Display) -> &mut Self {
        self.writer.display(key, &value);
        self
    }

    /// Adds a number.
    pub fn number(&mut self, key: &str, value: u64) -> &mut Self {
        self.writer.bare(key, &value);
        self
    }

    /// Hands the line over for writing.
    pub fn finish(self) {
        self.writer.finish(&self.sink);
    }
}

/// Writes a line in either format.
#[derive(Debug)]
pub(super) struct Writer {
    buffer: Vec<u8>,
    format: Format,
    has_fields: bool,
}

impl Writer {
    /// Time, level and scope; `target` is the scope's full name, which JSON shows.
    pub(super) fn start(format: Format, level: Level, scope: &str, target: &str) -> Self {
        let mut buffer = SPARE.with(|spare| std::mem::take(&mut *spare.borrow_mut()));
        buffer.clear();
        let level = level_name(level);
        match format {
            Format::Plain => {
                write_now(&mut buffer);
                let _ = write!(buffer, "\t{level}\t{scope}");
            }
            Format::Json => {
                let _ = write!(buffer, "{{\"level\":\"{level}\",\"time\":\"");
                write_now(&mut buffer);
                buffer.extend_from_slice(b"\",\"scope\":");
                json_text(&mut buffer, target);
            }
        }
        Self {
            buffer,
            format,
            has_fields: false,
        }
    }

    /// Adds the enclosing spans, already formatted; plain format only, before the message.
    pub(super) fn spans(&mut self, spans: &str) {
        self.buffer.extend_from_slice(spans.as_bytes());
    }

    pub(super) fn message(&mut self, message: &dyn Display) {
        match self.format {
            Format::Plain => {
                self.buffer.push(b'\t');
                plain_display(&mut self.buffer, message);
            }
            Format::Json => {
                self.buffer.extend_from_slice(b",\"message\":");
                json_text(&mut self.buffer, &message.to_string());
            }
        }
    }

    pub(super) fn text(&mut self, key: &str, value: &str) {
        self.key(key);
        match self.format {
            Format::Plain => {
                let _ = write!(self.buffer, "{value:?}");
            }
            Format::Json => json_text(&mut self.buffer, value),
        }
    }

    pub(super) fn display(&mut self, key: &str, value: &dyn Display) {
        self.key(key);
        match self.format {
            Format::Plain => plain_display(&mut self.buffer, value),
            Format::Json => json_text(&mut self.buffer, &value.to_string()),
        }
    }

    /// A value whose text is the same in both formats: numbers, truth values, ready-made JSON.
    pub(super) fn bare(&mut self, key: &str, value: &dyn Display) {
        self.key(key);
        let _ = write!(self.buffer, "{value}");
    }

    fn key(&mut self, key: &str) {
        match self.format {
            Format::Plain => {
                self.buffer.push(if self.has_fields { b' ' } else { b'\t' });
                let _ = write!(self.buffer, "{key}=");
            }
            Format::Json => {
                self.buffer.push(b',');
                json_text(&mut self.buffer, key);
                self.buffer.push(b':');
            }
        }
        self.has_fields = true;
    }

    pub(super) fn finish(mut self, sink: &Sink) {
        self.buffer.extend_from_slice(match self.format {
            Format::Plain => b"\n",
            Format::Json => b"}\n",
        });
        sink.append(&self.buffer);
        SPARE.with(|spare| *spare.borrow_mut() = self.buffer);
    }
}

/// Writes a value with control characters escaped, so that no value can forge a line.
pub(super) fn plain_display(buffer: &mut Vec<u8>, value: &dyn Display) {
    let start = buffer.len();
    let _ = write!(buffer, "{value}");
    if buffer[start..].iter().any(u8::is_ascii_control) {
        let text = String::from_utf8_lossy(&buffer[start..]).into_owned();
        buffer.truncate(start);
        for c in text.chars() {
            let _ = match c.is_ascii_control() {
                true => write!(buffer, "{}", c.escape_default()),
                false => write!(buffer, "{c}"),
            };
        }
    }
}

/// Writes a JSON string.
pub(super) fn json_text(buffer: &mut Vec<u8>, text: &str) {
    // Writing a string to memory does not fail.
    let _ = serde_json::to_writer(&mut *buffer, text);
}

/// Writes the present time; the part up to the second is kept from line to line.
fn write_now(buffer: &mut Vec<u8>) {
    let now = Timestamp::now();
    let micros = now.subsec_nanosecond().max(0) / 1000;
    SECOND.with(|second| {
        let mut second = second.borrow_mut();
        if second.0 != now.as_second() {
            *second = (now.as_second(), seconds_text(now).unwrap_or_default());
        }
        let _ = write!(buffer, "{}.{micros:06}Z", second.1);
    });
}

fn seconds_text(now: Timestamp) -> Result<String, fmt::Error> {
    let mut text = String::with_capacity(32);
    let printer = DateTimePrinter::new().precision(Some(0));
    printer
        .print_timestamp(&now, &mut text)
        .map_err(|_| fmt::Error)?;
    text.truncate(text.len().saturating_sub(1));
    text.write_str("")?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_lines_are_json() {
        let (sink, capture) = Sink::memory();
        let mut writer = Writer::start(
            Format::Json,
            Level::ERROR,
            "inbound",
            "ambit_ztunnel::inbound",
        );
        writer.message(&"a \"quoted\" message");
        writer.text("src.workload", "cart\n");
        writer.display("src.addr", &"10.0.0.1:5");
        writer.bare("bytes_sent", &12_u64);
        writer.finish(&sink);
        let lines = capture.lines();
        let value: serde_json::Value = serde_json::from_str(&lines[0]).unwrap();
        let keys: Vec<&str> = value
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        assert_eq!(
            keys,
            [
                "level",
                "time",
                "scope",
                "message",
                "src.workload",
                "src.addr",
                "bytes_sent"
            ]
        );
        assert_eq!(value["scope"], "ambit_ztunnel::inbound");
        assert_eq!(value["message"], "a \"quoted\" message");
        assert_eq!(value["src.workload"], "cart\n");
        assert_eq!(value["bytes_sent"], 12);
    }

    #[test]
    fn a_value_cannot_forge_a_line() {
        let mut buffer = Vec::new();
        plain_display(&mut buffer, &"a\nb\u{1b}[0mé");
        assert_eq!(String::from_utf8(buffer).unwrap(), "a\\nb\\u{1b}[0mé");
    }
}
