//! A network namespace that lives as long as somebody holds it.

use std::fs::File;
use std::future::Future;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, OnceLock};

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, setns, unshare};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::netlink;

/// A network namespace with its loopback device up.
///
/// It has no name in the file system: the kernel removes it, and all links in it, when the last
/// clone is dropped and the last process and socket in it has ended.
#[derive(Clone)]
pub struct Namespace(Arc<Inner>);

struct Inner {
    label: String,
    fd: OwnedFd,
    runtime: OnceLock<Runtime>,
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.fd.as_fd()
    }
}

impl Namespace {
    /// Makes a namespace; `label` is for messages and thread names only.
    pub fn new(label: impl Into<String>) -> Result<Self> {
        crate::require_root()?;
        let label = label.into();
        // On a thread of its own: `unshare` moves the calling thread, for good.
        let made = std::thread::spawn(|| -> Result<OwnedFd> {
            unshare(CloneFlags::CLONE_NEWNET).context("cannot make a network namespace")?;
            Ok(File::open("/proc/thread-self/ns/net")?.into())
        });
        let fd = made
            .join()
            .map_err(|_| anyhow::anyhow!("the thread panicked"))??;
        let namespace = Self(Arc::new(Inner {
            label,
            fd,
            runtime: OnceLock::new(),
        }));
        netlink::run(&namespace, async |net| net.up("lo").await)?;
        Ok(namespace)
    }

    /// A namespace that somebody else made, for example `/proc/<pid>/ns/net` of a process in it.
    pub fn open(path: impl AsRef<std::path::Path>) -> Result<Self> {
        let path = path.as_ref();
        let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        let label = path.display().to_string();
        Ok(Self(Arc::new(Inner {
            label,
            fd: file.into(),
            runtime: OnceLock::new(),
        })))
    }

    /// What it was called when it was made.
    pub fn label(&self) -> &str {
        &self.0.label
    }

    /// A path that opens the namespace, from this process and its children only while it lives.
    pub fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.fd.as_raw_fd()).into()
    }

    /// A descriptor of its own for the namespace, for example to send to another process.
    pub fn try_clone_fd(&self) -> Result<OwnedFd> {
        Ok(self.0.fd.try_clone()?)
    }

    /// Runs `f` on a thread inside the namespace and waits for it. A panic in `f` goes on here.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> Result<T> {
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| -> Result<T> {
                self.enter()?;
                Ok(f())
            });
            inside
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Runs a task on a runtime inside the namespace: all that it opens is opened there. The task
    /// ends at the latest when the namespace's last clone is dropped.
    pub fn spawn<F>(&self, task: F) -> Result<JoinHandle<F::Output>>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        Ok(self.runtime()?.handle.spawn(task))
    }

    /// Runs a task as [`spawn`](Self::spawn) does and waits for it, blocking the thread.
    pub fn block_on<F>(&self, task: F) -> Result<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let (done, result) = std::sync::mpsc::channel();
        self.spawn(async move {
            let _ = done.send(task.await);
        })?;
        result
            .recv()
            .with_context(|| format!("a task in {} panicked", self.0.label))
    }

    /// A command that will run inside the namespace.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        let namespace = self.clone();
        let enter = move || Ok(setns(&namespace, CloneFlags::CLONE_NEWNET)?);
        // SAFETY: between fork and exec the closure makes one system call on a descriptor that it
        // keeps open; it allocates nothing and takes no lock.
        unsafe { command.pre_exec(enter) };
        command
    }

    /// Moves the calling thread into the namespace, for good.
    pub(crate) fn enter(&self) -> Result<()> {
        setns(self, CloneFlags::CLONE_NEWNET)
            .with_context(|| format!("cannot enter the network namespace {}", self.0.label))
    }

    fn runtime(&self) -> Result<&Runtime> {
        if let Some(runtime) = self.0.runtime.get() {
            return Ok(runtime);
        }
        let started = Runtime::start(&self.0.label, self.0.fd.try_clone()?)?;
        Ok(self.0.runtime.get_or_init(|| started))
    }
}

/// A current-thread runtime on a thread inside a namespace.
struct Runtime {
    handle: tokio::runtime::Handle,
    /// Dropped to stop it.
    _stop: oneshot::Sender<()>,
}

impl Runtime {
    fn start(label: &str, fd: OwnedFd) -> Result<Self> {
        let (stop, stopped) = oneshot::channel::<()>();
        let (ready, is_ready) = std::sync::mpsc::channel();
        std::thread::Builder::new()
            .name(format!("ns {label}"))
            .spawn(move || {
                let runtime = setns(fd, CloneFlags::CLONE_NEWNET)
                    .map_err(anyhow::Error::from)
                    .and_then(|()| {
                        Ok(tokio::runtime::Builder::new_current_thread()
                            .enable_all()
                            .build()?)
                    });
                match runtime {
                    Ok(runtime) => {
                        let _ = ready.send(Ok(runtime.handle().clone()));
                        let _ = runtime.block_on(stopped);
                        runtime.shutdown_background();
                    }
                    Err(e) => drop(ready.send(Err(e))),
                }
            })?;
        let handle = is_ready.recv().context("the namespace's thread ended")??;
        Ok(Self {
            handle,
            _stop: stop,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_has_its_own_links_and_a_loopback_that_works() {
        let namespace = Namespace::new("own links").unwrap();
        let links = namespace
            .run(|| std::fs::read_to_string("/proc/thread-self/net/dev"))
            .unwrap();
        assert_eq!(links.unwrap().lines().skip(2).count(), 1);
        let address = namespace
            .block_on(async {
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
                let address = listener.local_addr().unwrap();
                tokio::net::TcpStream::connect(address).await.unwrap();
                address
            })
            .unwrap();
        assert!(std::net::TcpStream::connect(address).is_err());
    }

    #[test]
    fn commands_run_inside() {
        let namespace = Namespace::new("commands").unwrap();
        let shown = |mut c: Command| {
            let output = c.arg("/proc/self/ns/net").output().unwrap();
            String::from_utf8(output.stdout).unwrap()
        };
        let inside = shown(namespace.command("readlink"));
        assert!(inside.starts_with("net:["), "{inside}");
        assert_ne!(inside, shown(Command::new("readlink")));
        let path = shown({
            let mut c = Command::new("stat");
            c.args(["-L", "-c", "net:[%i]"]).arg(namespace.path());
            c
        });
        assert!(path.starts_with(inside.trim()), "{path} {inside}");
    }
}
