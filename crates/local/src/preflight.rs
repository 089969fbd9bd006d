//! Whether a local cluster can run here at all, asked before anything is
//! made. All that is missing is told at once.

use std::path::Path;

use crate::error::{LocalError, Result};

/// Capabilities by bit, as in `capabilities(7)`.
const CAPABILITIES: [(u8, &str); 5] = [
    (12, "CAP_NET_ADMIN"),
    (18, "CAP_SYS_CHROOT"),
    (21, "CAP_SYS_ADMIN"),
    (5, "CAP_KILL"),
    (0, "CAP_CHOWN"),
];

/// Checks rights, kernel features and programs.
pub(crate) fn check() -> Result<()> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mut missing = rights(nix::unistd::geteuid().is_root(), &status);
    for kind in ["net", "pid", "mnt", "uts", "ipc"] {
        if !Path::new("/proc/self/ns").join(kind).exists() {
            missing.push(format!("the kernel has no {kind} namespaces"));
        }
    }
    let filesystems = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    missing.extend(kernel(&filesystems));
    if !is_in_path("nft") {
        missing.push("the program nft is not in PATH; install the package nftables".to_owned());
    }
    if missing.is_empty() {
        Ok(())
    } else {
        Err(LocalError::Missing(missing.join("; ")))
    }
}

fn rights(root: bool, status: &str) -> Vec<String> {
    if !root {
        let reason = "it needs root, to make namespaces, mounts and links; run it with sudo";
        return vec![reason.to_owned()];
    }
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|text| u64::from_str_radix(text.trim(), 16).ok())
        .unwrap_or(0);
    let lacking: Vec<&str> = CAPABILITIES
        .iter()
        .filter(|(bit, _)| effective & (1 << bit) == 0)
        .map(|(_, name)| *name)
        .collect();
    if lacking.is_empty() {
        return Vec::new();
    }
    vec![format!(
        "root lacks {} here; in a container, run it privileged",
        lacking.join(", ")
    )]
}

fn kernel(filesystems: &str) -> Vec<String> {
    let has = |name: &str| {
        filesystems
            .lines()
            .any(|line| line.split_whitespace().last() == Some(name))
    };
    let needed = [("overlay", "modprobe overlay"), ("tmpfs", "CONFIG_TMPFS")];
    needed
        .iter()
        .filter(|(name, _)| !has(name))
        .map(|(name, remedy)| format!("the kernel has no {name} file system ({remedy})"))
        .collect()
}

fn is_in_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        assert!(rights(false, "")[0].contains("sudo"));
        assert!(rights(true, "CapEff:\t000001ffffffffff\n").is_empty());
        let lacking = rights(true, "CapEff:\t00000000a80425fb\n");
        assert!(
            lacking[0].contains("CAP_NET_ADMIN, CAP_SYS_ADMIN"),
            "{lacking:?}"
        );
        assert!(kernel("nodev\ttmpfs\n\text4\n")[0].contains("modprobe overlay"));
        assert!(kernel("nodev\ttmpfs\nnodev\toverlay\n").is_empty());
    }
}
