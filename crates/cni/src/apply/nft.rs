//! Runs `nft` inside a network namespace: one process, one document, one transaction.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Output, Stdio};

use super::ApplyError;
use crate::netns::Netns;
use crate::rules::Batch;

/// Commits a batch.
pub(super) fn run(netns: &Netns, batch: &Batch) -> Result<(), ApplyError> {
    let document = serde_json::to_vec(&batch.render()).map_err(ApplyError::Encode)?;
    let output = nft(netns, ["-j", "-f", "-"], &document)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said
        .lines()
        .next()
        .unwrap_or("no message")
        .trim()
        .to_owned();
    Err(ApplyError::NftRefused(said))
}

/// Whether a table of family `inet` exists.
pub(super) fn table_exists(netns: &Netns, name: &str) -> Result<bool, ApplyError> {
    let output = nft(netns, ["list", "tables", "inet"], &[])?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(ApplyError::NftRefused(said));
    }
    let wanted = format!("table inet {name}");
    Ok(String::from_utf8_lossy(&output.stdout)
        .lines()
        .any(|line| line.trim() == wanted))
}

fn nft<const N: usize>(
    netns: &Netns,
    args: [&'static str; N],
    input: &[u8],
) -> Result<Output, ApplyError> {
    let mut command = Command::new(OsStr::new("nft"));
    command
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let fd = netns.as_fd().as_raw_fd();
    // SAFETY: the closure runs in the child between fork and exec and makes one system call, which
    // is async-signal-safe and touches no memory. `fd` is open: `netns` outlives this call, and the
    // child has a copy of the parent's descriptors.
    unsafe {
        command.pre_exec(move || {
            if libc::setns(fd, libc::CLONE_NEWNET) == 0 {
                return Ok(());
            }
            Err(io::Error::last_os_error())
        });
    }
    let mut child = command.spawn().map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => ApplyError::NftMissing(e),
        _ => ApplyError::Enter(e),
    })?;
    if let Some(mut stdin) = child.stdin.take() {
        match stdin.write_all(input) {
            // nft that ends without reading says why on stderr.
            Err(e) if e.kind() != io::ErrorKind::BrokenPipe => {
                return Err(ApplyError::NftMissing(e));
            }
            _ => {}
        }
    }
    child.wait_with_output().map_err(ApplyError::NftMissing)
}
