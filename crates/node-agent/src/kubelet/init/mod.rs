//! The helper program that becomes a pod's pid 1, a container, or an exec session.
//!
//! The kubelet is multi-threaded, so it never forks without exec. It starts its own program again
//! with [`INIT_ARGUMENT`] as first argument; that process is single-threaded, reads one [`InitSpec`]
//! from a socket, joins or makes the namespaces, clones the final process **as a child of the
//! kubelet** (`CLONE_PARENT`) and exits. The final process goes on as pid 1 of the pod, or execs.
//!
//! What always holds: nothing of the container runs before every mount, limit of privilege and
//! user change has succeeded; any failure is written to the socket as one line and ends the
//! process; the socket closes on exec, so the kubelet sees end of file exactly when the program
//! runs.

mod container;
mod exec;
mod kernel;
mod privileges;
mod rootfs;
mod sandbox;
pub(crate) mod spec;

use std::io::{Read, Write};
use std::os::fd::{FromRawFd, RawFd};
use std::os::unix::net::UnixStream;

use spec::InitSpec;

/// First argument that makes the multi-call program call [`container_init_main`].
pub const INIT_ARGUMENT: &str = "node-container-init";

/// Exit status of a helper that could not do its work.
const FAILURE: i32 = 125;

/// A failed step: which one, and the system's answer.
#[derive(Debug, thiserror::Error)]
#[error("{step}: {source}")]
pub(crate) struct InitError {
    step: String,
    source: std::io::Error,
}

/// Adds the step's name to a system error.
pub(crate) trait Step<T> {
    fn step(self, name: impl Into<String>) -> Result<T, InitError>;
}

impl<T> Step<T> for Result<T, std::io::Error> {
    fn step(self, name: impl Into<String>) -> Result<T, InitError> {
        self.map_err(|source| InitError {
            step: name.into(),
            source,
        })
    }
}

impl<T> Step<T> for Result<T, nix::Error> {
    fn step(self, name: impl Into<String>) -> Result<T, InitError> {
        self.map_err(|errno| InitError {
            step: name.into(),
            source: errno.into(),
        })
    }
}

/// Entry point of the helper; `args` are the arguments after [`INIT_ARGUMENT`]: the number of the
/// socket inherited from the kubelet. Must be called before the process starts any thread. Returns
/// the exit status of the helper; the container itself never returns from here.
pub fn container_init_main(args: &[String]) -> i32 {
    let Some(fd) = args
        .first()
        .and_then(|text| text.parse::<RawFd>().ok())
        .filter(|fd| *fd > 2)
    else {
        eprintln!(
            "{INIT_ARGUMENT} is started by the kubelet only: it expects the number of an inherited socket"
        );
        return FAILURE;
    };
    // SAFETY: F_SETFD on a descriptor number only changes its close-on-exec flag; an invalid
    // number is reported as an error.
    if unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        eprintln!("{INIT_ARGUMENT}: descriptor {fd} is not open");
        return FAILURE;
    }
    // SAFETY: the kubelet passed this descriptor for our use only, and nothing else in this
    // process holds it (checked open just above).
    let mut channel = unsafe { UnixStream::from_raw_fd(fd) };
    match read_spec(&mut channel).and_then(|spec| dispatch(spec, &mut channel)) {
        Ok(()) => 0,
        Err(error) => {
            report(&mut channel, &error);
            FAILURE
        }
    }
}

fn read_spec(channel: &mut UnixStream) -> Result<InitSpec, InitError> {
    let mut text = Vec::new();
    channel.read_to_end(&mut text).step("read specification")?;
    serde_json::from_slice(&text)
        .map_err(std::io::Error::from)
        .step("decode specification")
}

fn dispatch(spec: InitSpec, channel: &mut UnixStream) -> Result<(), InitError> {
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    match spec {
        InitSpec::Sandbox(spec) => sandbox::start(spec, channel),
        InitSpec::Container(spec) => container::start(*spec, channel),
        InitSpec::Exec(spec) => exec::start(*spec, channel),
    }
}

/// Writes a failure for the kubelet. The line form keeps the protocol readable in a trace.
fn report(channel: &mut UnixStream, error: &InitError) {
    let text = error.to_string().replace('\n', " ");
    let _ = write_line(channel, &format!("error {text}"));
}

/// Writes a line at once: helper and child share the channel, and a line of the one within a line of
/// the other would be lost, and with a lost id a process that nobody reaps.
fn write_line(channel: &mut impl Write, line: &str) -> std::io::Result<()> {
    channel.write_all(format!("{line}\n").as_bytes())
}

/// Tells the kubelet the process id (in the kubelet's PID namespace) of the final process.
fn announce(channel: &mut UnixStream, pid: libc::pid_t) -> Result<(), InitError> {
    write_line(channel, &format!("pid {pid}")).step("report process id")
}

/// Runs `body` in a new child of the kubelet and reports the child's process id. In the child this
/// does not return: it reports a failure and exits.
fn clone_child(
    channel: &mut UnixStream,
    body: impl FnOnce(&mut UnixStream) -> Result<std::convert::Infallible, InitError>,
) -> Result<(), InitError> {
    match kernel::clone_sibling().step("clone")? {
        // Nobody would know of a process that was not announced.
        Some(pid) => announce(channel, pid).inspect_err(|_| kernel::kill(pid)),
        None => {
            let Err(error) = body(channel);
            report(channel, &error);
            std::process::exit(FAILURE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keeps what each call writes.
    struct Calls(Vec<Vec<u8>>);

    impl Write for Calls {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.push(bytes.to_vec());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_is_one_write() {
        let mut calls = Calls(Vec::new());
        write_line(&mut calls, "error a b c").unwrap();
        assert_eq!(calls.0, [b"error a b c\n".to_vec()]);
    }
}
