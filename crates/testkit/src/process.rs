//! Processes that a test starts and that do not outlive it.

use std::io::Read;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::wait_for;

/// A running process. Dropping it kills it and waits for it.
pub struct Process {
    child: Child,
    output: Arc<Mutex<Vec<u8>>>,
    readers: Vec<JoinHandle<()>>,
}

impl Process {
    /// Starts a command. Its output, both streams, is kept for [`output`](Self::output).
    pub fn start(command: &mut Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", command.get_program().display()))?;
        let output = Arc::new(Mutex::new(Vec::new()));
        let mut readers = Vec::new();
        if let Some(stdout) = child.stdout.take() {
            readers.push(collect(stdout, output.clone()));
        }
        if let Some(stderr) = child.stderr.take() {
            readers.push(collect(stderr, output.clone()));
        }
        Ok(Self {
            child,
            output,
            readers,
        })
    }

    /// Starts a command whose output goes to a file; [`output`](Self::output) stays empty. For
    /// processes that say much while something is measured.
    pub fn start_logged(command: &mut Command, log: &Path) -> Result<Self> {
        let file = std::fs::File::create(log)
            .with_context(|| format!("cannot write {}", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("cannot start {}", command.get_program().display()))?;
        Ok(Self {
            child,
            output: Arc::default(),
            readers: Vec::new(),
        })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has printed so far.
    pub fn output(&self) -> String {
        let output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&output).into_owned()
    }

    /// Waits until it has printed `text`; if it does not, the error shows what it did print.
    pub fn wait_for_output(&mut self, text: &str, within: Duration) -> Result<()> {
        let output = self.output.clone();
        let printed = || {
            let output = output.lock().unwrap_or_else(PoisonError::into_inner);
            output
                .windows(text.len())
                .any(|w| w == text.as_bytes())
                .then_some(())
        };
        wait_for(&format!("the output {text:?}"), within, printed)
            .with_context(|| format!("the process printed:\n{}", self.output()))
    }

    /// Whether it has ended, and how.
    pub fn exited(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Sends a signal.
    pub fn signal(&self, signal: nix::sys::signal::Signal) -> Result<()> {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id())?);
        Ok(nix::sys::signal::kill(pid, signal)?)
    }

    /// Waits for its end.
    pub fn wait(&mut self, within: Duration) -> Result<ExitStatus> {
        let status = wait_for("the process to end", within, || {
            self.child.try_wait().ok().flatten()
        })
        .with_context(|| format!("it printed:\n{}", self.output()))?;
        self.readers.drain(..).for_each(|r| drop(r.join()));
        Ok(status)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Until it has been waited for, its id cannot belong to anybody else.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!(
                "--- output of process {}:\n{}",
                self.child.id(),
                self.output()
            );
        }
    }
}

fn collect(mut from: impl Read + Send + 'static, to: Arc<Mutex<Vec<u8>>>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(n @ 1..) = from.read(&mut buffer) {
            to.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .extend_from_slice(&buffer[..n]);
        }
    })
}

/// Has the kernel kill the process when the thread that starts it ends, however it ends. For
/// processes that must not outlive even a killed parent; start them from its main thread.
pub fn die_with_parent(command: &mut Command) {
    let parent = std::process::id();
    let ask = move || {
        nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
        // The parent may have ended before the request was made.
        if nix::unistd::getppid().as_raw() as u32 != parent {
            return Err(std::io::ErrorKind::NotFound.into());
        }
        Ok(())
    };
    // SAFETY: between fork and exec only `prctl` and `getppid` are called, which are
    // async-signal-safe; nothing allocates.
    unsafe { command.pre_exec(ask) };
}

/// The path of a program of this workspace, built by the same `cargo` run as the running test or
/// benchmark; if it is missing, the error says how to build it.
pub fn program(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let beside = own
        .ancestors()
        .skip(1)
        .take(2)
        .map(|dir| dir.join(name))
        .find(|p| p.is_file());
    beside.with_context(|| {
        format!(
            "the program {name} is not built beside {}; run `cargo build` first",
            own.display()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_kept_and_nothing_outlives_the_value() {
        let mut process =
            Process::start(Command::new("sh").args(["-c", "echo begun; exec sleep 1000"])).unwrap();
        process
            .wait_for_output("begun", Duration::from_secs(10))
            .unwrap();
        assert!(process.exited().unwrap().is_none());
        let id = process.id();
        drop(process);
        assert!(!std::path::Path::new(&format!("/proc/{id}")).exists());
    }

    #[test]
    fn a_process_dies_with_its_parent() {
        let child = std::thread::spawn(|| {
            let mut command = Command::new("sleep");
            command.arg("1000");
            die_with_parent(&mut command);
            command.spawn().unwrap()
        });
        let mut child = child.join().unwrap();
        let status = wait_for("its end", Duration::from_secs(10), || {
            child.try_wait().unwrap()
        });
        use std::os::unix::process::ExitStatusExt as _;
        assert_eq!(status.unwrap().signal(), Some(nix::libc::SIGKILL));
    }
}
