//! Logs in Istio's line format, written without ever making the data path wait.
//!
//! ```text
//! <RFC 3339 with microseconds, UTC>\t<level>\t<scope>[:<span>{k=v}…]\t<message>\t<k=v …>
//! ```
//!
//! or, with `LOG_FORMAT=json`, one object per line. Everything is formatted by the thread that logs
//! and copied into a buffer; one thread writes that buffer out ([`sink`]). A scope is the target of
//! a `tracing` event without the prefix of our crates. The access log does not go through `tracing`:
//! [`Line`] writes the same format for less.

mod directives;
mod layer;
mod line;
mod sink;

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, LazyLock, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tracing::Level;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;

use crate::config::{ConfigError, Env};
use directives::Directives;
use sink::Sink;

pub use directives::ParseDirectivesError;
pub use line::Line;
pub use sink::Capture;

/// Directives in force where `RUST_LOG` is not set.
pub const DEFAULT_DIRECTIVES: &str = "hickory_server::server=off,info";
/// Scope of the access log.
pub const ACCESS: &str = "access";
/// How long the end of the process waits for the last lines to be written.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// How a line is laid out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Tab-separated text.
    #[default]
    Plain,
    /// One JSON object per line.
    Json,
}

/// Where lines go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Output {
    /// Standard output: servers.
    #[default]
    Stdout,
    /// Standard error: commands whose standard output is a result.
    Stderr,
}

/// How to log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Layout.
    pub format: Format,
    /// Directives such as `info,proxy=debug`; empty for [`DEFAULT_DIRECTIVES`].
    pub directives: String,
    /// Destination.
    pub output: Output,
}

/// The log could not be started.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// The directives do not parse.
    #[error("RUST_LOG: {0}")]
    Directives(#[from] ParseDirectivesError),
    /// Somebody else has installed a subscriber.
    #[error("the log was started twice")]
    Twice,
    /// The writing thread could not be started.
    #[error("the thread that writes the log could not be started: {0}")]
    Thread(std::io::Error),
}

/// Writes what is left in the buffer when it is dropped. Keep it in `main`.
#[derive(Debug)]
#[must_use = "dropping the guard ends the log's flush on exit"]
pub struct Guard(());

impl Drop for Guard {
    fn drop(&mut self) {
        flush();
    }
}

impl Options {
    /// Options from `RUST_LOG` and `LOG_FORMAT`.
    pub fn from_env(env: &Env) -> Result<Self, ConfigError> {
        let format = match env.text("LOG_FORMAT").as_deref() {
            Some(text) if text.eq_ignore_ascii_case("json") => Format::Json,
            _ => Format::Plain,
        };
        let check = |text: &str| text.parse::<Directives>().map_err(|e| e.to_string());
        env.parsed_with("RUST_LOG", check)?;
        let directives = env.text_or("RUST_LOG", DEFAULT_DIRECTIVES);
        Ok(Self {
            format,
            directives,
            output: Output::default(),
        })
    }
}

/// What is in force, process-wide.
struct State {
    start: Mutex<Directives>,
    current: ArcSwap<Directives>,
}

static STATE: LazyLock<State> = LazyLock::new(|| {
    let directives = Directives::default();
    State {
        start: Mutex::new(directives.clone()),
        current: ArcSwap::from_pointee(directives),
    }
});
static SINK: OnceLock<(Format, Sink)> = OnceLock::new();
/// Most verbose level of the access scope, 0 for off: one load decides about an access line.
static ACCESS_LEVEL: AtomicU8 = AtomicU8::new(0);

/// Starts the log of the process.
pub fn init(options: &Options) -> Result<Guard, InitError> {
    let text = Some(options.directives.as_str()).filter(|text| !text.is_empty());
    let directives: Directives = text.unwrap_or(DEFAULT_DIRECTIVES).parse()?;
    let sink = Sink::start(options.output).map_err(InitError::Thread)?;
    install(options.format, sink, directives)?;
    Ok(Guard(()))
}

/// Starts the log of a test process into memory, once; later calls give the same memory, with the
/// lines of all tests of the process in it.
pub fn capture() -> Capture {
    static CAPTURE: OnceLock<Capture> = OnceLock::new();
    CAPTURE
        .get_or_init(|| {
            let (sink, capture) = Sink::memory();
            // With a log that runs already, the capture stays empty.
            let _ = install(Format::Plain, sink, Directives::default());
            capture
        })
        .clone()
}

fn install(format: Format, sink: Sink, directives: Directives) -> Result<(), InitError> {
    SINK.set((format, sink.clone()))
        .map_err(|_| InitError::Twice)?;
    *STATE.start.lock() = directives.clone();
    let subscriber = tracing_subscriber::registry().with(layer::IstioLayer::new(format, sink));
    tracing::subscriber::set_global_default(subscriber).map_err(|_| InitError::Twice)?;
    apply(directives);
    Ok(())
}

/// Hands over a line in a format of the caller's own, its end included. Without a log it is lost.
pub fn append(line: &str) {
    if let Some((_, sink)) = SINK.get() {
        sink.append(line.as_bytes());
    }
}

/// Waits, for a bounded time, until everything logged so far is written.
pub fn flush() {
    if let Some((_, sink)) = SINK.get() {
        sink.flush(FLUSH_TIMEOUT);
    }
}

/// Adds directives to those in force, or to the ones from the start with `reset`.
pub fn change_level(reset: bool, change: &str) -> Result<(), ParseDirectivesError> {
    let start = STATE.start.lock();
    let base = if reset {
        start.clone()
    } else {
        Directives::clone(&STATE.current.load())
    };
    apply(base.changed_by(change)?);
    Ok(())
}

/// The directives in force.
pub fn current_level() -> String {
    STATE.current.load().to_string()
}

fn apply(directives: Directives) {
    let access = directives.level_of(ACCESS);
    STATE.current.store(Arc::new(directives));
    let open = SINK.get().is_some();
    ACCESS_LEVEL.store(if open { rank(access) } else { 0 }, Ordering::Relaxed);
    tracing::callsite::rebuild_interest_cache();
}

fn rank(level: LevelFilter) -> u8 {
    match level.into_level() {
        None => 0,
        Some(Level::ERROR) => 1,
        Some(Level::WARN) => 2,
        Some(Level::INFO) => 3,
        Some(Level::DEBUG) => 4,
        Some(Level::TRACE) => 5,
    }
}

fn level_name(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // One test, because the log of a process is one.
    #[test]
    fn events_and_lines_share_one_format() {
        let capture = capture();
        let span = tracing::info_span!("inbound", id = "4d2", peer = %"10.0.0.1:5");
        span.in_scope(|| {
            tracing::info!(target: "xds", count = 3, name = "a\"b", "received\n{}", "resources");
        });
        tracing::debug!("not shown");
        tracing::warn!(error = %"broken\tpipe", "no fields but one");
        let mut line = Line::access(Level::INFO, "connection complete").unwrap();
        line.display("src.addr", "10.244.1.7:41234")
            .text("src.workload", "cart")
            .number("bytes_sent", 211);
        line.finish();
        assert!(Line::access(Level::DEBUG, "connection opened").is_none());
        flush();
        let lines = capture.lines();
        let tail = |needle: &str| {
            let line = lines
                .iter()
                .find(|line| line.contains(needle))
                .expect(needle);
            let (time, rest) = line.split_once('\t').unwrap();
            assert_eq!(time.len(), "2026-08-20T09:12:33.120045Z".len(), "{time}");
            assert!(time.ends_with('Z') && time.as_bytes()[19] == b'.', "{time}");
            rest.to_owned()
        };
        assert_eq!(
            tail("resources"),
            "info\txds:inbound{id=\"4d2\" peer=10.0.0.1:5}\treceived\\nresources\tcount=3 name=\"a\\\"b\""
        );
        assert_eq!(
            tail("no fields but"),
            "warn\tlog::tests\tno fields but one\terror=broken\\tpipe"
        );
        assert_eq!(
            tail("connection complete"),
            "info\taccess\tconnection complete\tsrc.addr=10.244.1.7:41234 src.workload=\"cart\" bytes_sent=211"
        );
        assert!(!lines.iter().any(|line| line.contains("not shown")));
    }
}
