//! Starts processes through the helper and waits for them.
//!
//! The helper ([`super::init`]) makes the process a direct child of the kubelet and reports its id;
//! from then on the kubelet holds a pidfd, so a signal can never reach another process that got the
//! same id later.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::Stdio as ChildStdio;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::UnixStream;
use tokio::sync::{oneshot, watch};

use super::init::INIT_ARGUMENT;
use super::init::spec::InitSpec;

/// A process could not be started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProcessError {
    /// The helper itself did not run.
    #[error("cannot start {program}: {source}; check the kubelet's init program")]
    Helper {
        /// The configured program.
        program: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The helper reported a failed step.
    #[error("{0}")]
    Setup(String),
    /// A system call of the kubelet itself failed.
    #[error("process handling: {0}")]
    System(#[from] io::Error),
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Exit {
    /// Exit status, or 128 + signal as shells and runtimes report it.
    pub code: i32,
    /// The signal that ended it, 0 if none.
    pub signal: i32,
}

/// A child of the kubelet. Clones refer to the same process.
#[derive(Clone)]
pub(crate) struct Process {
    pid: i32,
    pidfd: Arc<OwnedFd>,
    exit: watch::Receiver<Option<Exit>>,
}

impl Process {
    /// Takes charge of a child that the helper announced, and reaps it when it ends.
    fn adopt(pid: i32) -> io::Result<Self> {
        // SAFETY: pidfd_open takes two integers. The child is ours and not yet reaped, so the id
        // still names it.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call above returned this new descriptor to us alone.
        let pidfd = Arc::new(unsafe { OwnedFd::from_raw_fd(fd as i32) });
        let (sender, exit) = watch::channel(None);
        let watched = watch_fd(pidfd.try_clone()?)?;
        tokio::spawn(async move {
            let status = match watched.readable().await {
                Ok(_) => reap(watched.get_ref()),
                Err(_) => Exit {
                    code: 255,
                    signal: 0,
                },
            };
            let _ = sender.send(Some(status));
        });
        Ok(Self { pid, pidfd, exit })
    }

    /// Path of one of the process's namespace files.
    pub(crate) fn namespace(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/ns/{name}", self.pid))
    }

    /// Waits for the end of the process; may be called any number of times.
    pub(crate) async fn wait(&self) -> Exit {
        let mut exit = self.exit.clone();
        match exit.wait_for(Option::is_some).await {
            Ok(status) => status.unwrap_or(Exit {
                code: 255,
                signal: 0,
            }),
            Err(_) => Exit {
                code: 255,
                signal: 0,
            },
        }
    }

    /// The exit status if the process has ended.
    pub(crate) fn exited(&self) -> Option<Exit> {
        *self.exit.borrow()
    }

    /// Sends a signal; an ended process is no error.
    pub(crate) fn signal(&self, signal: i32) {
        // SAFETY: pidfd_send_signal with a null siginfo touches no memory of ours.
        unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.pidfd.as_raw_fd(),
                signal,
                std::ptr::null::<libc::siginfo_t>(),
                0,
            );
        }
    }
}

/// Registers an owned descriptor with the runtime.
fn watch_fd(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` names the same open file for as long as it lives, and the `AsyncFd` owns
    // it until it is deregistered.
    unsafe { AsyncFd::register(fd) }.map_err(io::Error::from)
}

fn reap(pidfd: &OwnedFd) -> Exit {
    match waitid(Id::PIDFd(pidfd.as_fd()), WaitPidFlag::WEXITED) {
        Ok(WaitStatus::Exited(_, code)) => Exit { code, signal: 0 },
        Ok(WaitStatus::Signaled(_, signal, _)) => Exit {
            code: 128 + signal as i32,
            signal: signal as i32,
        },
        other => {
            tracing::error!("a process ended, but not as expected: {other:?}");
            Exit {
                code: 255,
                signal: 0,
            }
        }
    }
}

/// What a new process gets as standard streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stdio {
    /// `/dev/null` three times.
    Null,
    /// Pipes for output, and for input if asked for.
    Pipes {
        /// Whether standard input is a pipe instead of `/dev/null`.
        stdin: bool,
    },
    /// One terminal for all three.
    Terminal,
}

/// The reading end of a stream.
pub(crate) type Reader = Box<dyn AsyncRead + Send + Unpin>;
/// The writing end of a stream.
pub(crate) type Writer = Box<dyn AsyncWrite + Send + Unpin>;

/// A started process with the kubelet's ends of its streams.
pub(crate) struct Started {
    pub process: Process,
    pub stdin: Option<Writer>,
    pub stdout: Option<Reader>,
    pub stderr: Option<Reader>,
    pub terminal: Option<Terminal>,
}

/// Starts what the specification says. Returns when the final program runs.
///
/// A caller may give up at any time: the start goes on by itself, and what comes of it is killed.
/// A child that nobody knows of would never be reaped, and its pod could not end: the first process
/// of a PID namespace waits for all others.
///
/// # Errors
/// [`ProcessError::Setup`] carries the step that failed inside the helper.
pub(crate) async fn start(
    program: &Path,
    spec: &InitSpec,
    stdio: Stdio,
) -> Result<Started, ProcessError> {
    let text = serde_json::to_vec(spec).map_err(io::Error::from)?;
    let program = program.to_path_buf();
    let (result, wanted) = oneshot::channel();
    tokio::spawn(async move {
        let launched = launch(&program, &text, stdio).await;
        if let Err(Ok(unwanted)) = result.send(launched) {
            unwanted.process.signal(libc::SIGKILL);
        }
    });
    let ended = |_| Err(ProcessError::Setup("the kubelet is ending".to_owned()));
    wanted.await.unwrap_or_else(ended)
}

async fn launch(program: &Path, spec: &[u8], stdio: Stdio) -> Result<Started, ProcessError> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    let mut channel = UnixStream::from_std(ours)?;
    let mut command = tokio::process::Command::new(program);
    command
        .arg(INIT_ARGUMENT)
        .arg(theirs.as_raw_fd().to_string());
    let terminal = attach_streams(&mut command, stdio)?;
    let inherited = theirs.as_raw_fd();
    // SAFETY: between fork and exec the closure makes one fcntl call, which is async-signal-safe,
    // on a descriptor that `theirs` keeps open until after the spawn.
    unsafe {
        command.pre_exec(move || match libc::fcntl(inherited, libc::F_SETFD, 0) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        });
    }
    let mut helper = command.spawn().map_err(|source| ProcessError::Helper {
        program: program.to_path_buf(),
        source,
    })?;
    drop(command);
    drop(theirs);
    let streams = (
        helper.stdin.take(),
        helper.stdout.take(),
        helper.stderr.take(),
    );
    let report = converse(&mut channel, spec).await;
    let status = helper.wait().await?;
    let process = interpret(&report?, status.code())?;
    let (stdin, stdout, stderr) = match &terminal {
        Some(terminal) => (Some(terminal.writer()?), Some(terminal.reader()?), None),
        None => (
            streams.0.map(|stream| Box::new(stream) as Writer),
            streams.1.map(|stream| Box::new(stream) as Reader),
            streams.2.map(|stream| Box::new(stream) as Reader),
        ),
    };
    Ok(Started {
        process,
        stdin,
        stdout,
        stderr,
        terminal,
    })
}

/// Sends the specification and reads the report until the final program has been started.
async fn converse(channel: &mut UnixStream, spec: &[u8]) -> Result<String, ProcessError> {
    // A helper that died early shows in its report, not in a broken pipe here.
    let _ = channel.write_all(spec).await;
    let _ = channel.shutdown().await;
    let mut report = String::new();
    channel.read_to_string(&mut report).await?;
    Ok(report)
}

fn interpret(report: &str, status: Option<i32>) -> Result<Process, ProcessError> {
    let mut process = None;
    let mut failure = None;
    for line in report.lines() {
        if let Some(pid) = line.strip_prefix("pid ").and_then(|text| text.parse().ok()) {
            // Adopting also reaps the process of a failed start.
            process = Some(Process::adopt(pid)?);
        } else if let Some(text) = line.strip_prefix("error ") {
            failure = Some(text.to_string());
        }
    }
    match (failure, process) {
        (Some(text), _) => Err(ProcessError::Setup(text)),
        (None, Some(process)) => Ok(process),
        (None, None) => Err(ProcessError::Setup(format!(
            "the init helper ended with status {status:?} and no report; does the program dispatch {INIT_ARGUMENT}?"
        ))),
    }
}

fn attach_streams(
    command: &mut tokio::process::Command,
    stdio: Stdio,
) -> io::Result<Option<Terminal>> {
    match stdio {
        Stdio::Null => {
            command
                .stdin(ChildStdio::null())
                .stdout(ChildStdio::null())
                .stderr(ChildStdio::null());
            Ok(None)
        }
        Stdio::Pipes { stdin } => {
            command.stdin(if stdin {
                ChildStdio::piped()
            } else {
                ChildStdio::null()
            });
            command
                .stdout(ChildStdio::piped())
                .stderr(ChildStdio::piped());
            Ok(None)
        }
        Stdio::Terminal => {
            let pty = nix::pty::openpty(None, None)?;
            nix::fcntl::fcntl(
                &pty.master,
                nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC),
            )?;
            command.stdin(ChildStdio::from(pty.slave.try_clone()?));
            command.stdout(ChildStdio::from(pty.slave.try_clone()?));
            command.stderr(ChildStdio::from(pty.slave));
            Terminal::new(pty.master).map(Some)
        }
    }
}

/// The kubelet's side of a pseudo-terminal.
#[derive(Clone)]
pub(crate) struct Terminal {
    master: Arc<OwnedFd>,
}

impl Terminal {
    fn new(master: OwnedFd) -> io::Result<Self> {
        let flags = nix::fcntl::OFlag::O_NONBLOCK | nix::fcntl::OFlag::O_RDWR;
        nix::fcntl::fcntl(&master, nix::fcntl::FcntlArg::F_SETFL(flags))?;
        Ok(Self {
            master: Arc::new(master),
        })
    }

    fn reader(&self) -> io::Result<Reader> {
        Ok(Box::new(TerminalStream(watch_fd(
            self.master.try_clone()?,
        )?)))
    }

    fn writer(&self) -> io::Result<Writer> {
        Ok(Box::new(TerminalStream(watch_fd(
            self.master.try_clone()?,
        )?)))
    }

    /// Sets the window size, in characters.
    pub(crate) fn resize(&self, columns: u16, rows: u16) {
        let size = libc::winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        // SAFETY: TIOCSWINSZ reads a winsize, which lives for the whole call.
        unsafe { libc::ioctl(self.master.as_raw_fd(), libc::TIOCSWINSZ, &size) };
    }
}

struct TerminalStream(AsyncFd<OwnedFd>);

impl AsyncRead for TerminalStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.0.poll_read_ready(cx))?;
            let unfilled = buffer.initialize_unfilled();
            match guard.try_io(|fd| Ok(nix::unistd::read(fd.get_ref(), unfilled)?)) {
                Ok(Ok(count)) => {
                    buffer.advance(count);
                    return Poll::Ready(Ok(()));
                }
                // A terminal whose last process is gone answers EIO: end of file.
                Ok(Err(error)) if error.raw_os_error() == Some(libc::EIO) => {
                    return Poll::Ready(Ok(()));
                }
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_would_block) => {}
            }
        }
    }
}

impl AsyncWrite for TerminalStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.0.poll_write_ready(cx))?;
            match guard.try_io(|fd| Ok(nix::unistd::write(fd.get_ref(), data)?)) {
                Ok(result) => return Poll::Ready(result),
                Err(_would_block) => {}
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
