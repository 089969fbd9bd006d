//! What a node sees of the file system: the host's, read-only, with private
//! places where a node writes.
//!
//! What always holds: nothing that runs on a node can change a file of the
//! host, and all that it writes is in memory and goes away with the node.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};

use crate::error::{Doing, LocalError, Result, file};

/// Places that start empty on a node, with their modes.
const EMPTY: [(&str, &str); 2] = [("/run", "mode=0755"), ("/tmp", "mode=1777")];
/// Places that start as the host has them, and are written to in memory.
const LAYERED: [&str; 3] = ["/etc", "/opt", "/var"];
/// Where the layers are.
const LAYERS: &str = "/run/node-layers";
/// A real tmpfs, since upper layers of overlays cannot be on an overlay.
const KUBELET: &str = "/var/lib/kubelet";

/// File systems that are the kernel's, not the host's files.
const KERNEL: [&str; 12] = [
    "proc",
    "sysfs",
    "cgroup",
    "cgroup2",
    "devtmpfs",
    "devpts",
    "mqueue",
    "securityfs",
    "debugfs",
    "tracefs",
    "bpf",
    "pstore",
];

/// Makes the calling process's mount namespace that of a node. `keep` are
/// folders that must stay visible even where they lie in a private place.
pub(crate) fn enter(keep: &[PathBuf]) -> Result<()> {
    isolate()?;
    let kept = open_hidden(keep)?;
    freeze()?;
    mount_proc()?;
    mount_sys()?;
    for (path, options) in EMPTY {
        mount_tmpfs(path, options)?;
    }
    for path in LAYERED {
        layer(path)?;
    }
    // Where /var/run is not the usual link, make it one place all the same.
    if !is_link("/var/run") {
        make_folder("/var/run")?;
        bind("/run", "/var/run")?;
    }
    make_folder(KUBELET)?;
    mount_tmpfs(KUBELET, "mode=0755")?;
    for (path, folder) in kept {
        make_folder(&path)?;
        let source = format!("/proc/self/fd/{}", folder.as_raw_fd());
        mount(Some(source.as_str()), &path, NONE, MsFlags::MS_BIND, NONE)
            .doing(format!("keeping {} visible", path.display()))?;
    }
    Ok(())
}

const NONE: Option<&str> = None;

/// Cuts the mount namespace off from the host's: nothing propagates.
pub(crate) fn isolate() -> Result<()> {
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)
        .doing("making mounts private")
}

/// A `/proc` for the PID namespace of the calling process.
pub(crate) fn mount_proc() -> Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), "/proc", Some("proc"), flags, NONE).doing("mounting /proc")
}

/// A `/sys` for the network namespace of the calling process, with the
/// cgroups of the host.
fn mount_sys() -> Result<()> {
    let cgroups = File::open("/sys/fs/cgroup").map_err(file("opening", "/sys/fs/cgroup"))?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("sysfs"), "/sys", Some("sysfs"), flags, NONE).doing("mounting /sys")?;
    let source = format!("/proc/self/fd/{}", cgroups.as_raw_fd());
    let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
    mount(Some(source.as_str()), "/sys/fs/cgroup", NONE, flags, NONE)
        .doing("mounting /sys/fs/cgroup")
}

/// Opens the folders that a private place is about to hide.
fn open_hidden(keep: &[PathBuf]) -> Result<Vec<(PathBuf, File)>> {
    let hidden = keep
        .iter()
        .filter(|path| EMPTY.iter().any(|(place, _)| path.starts_with(place)));
    hidden
        .map(|path| {
            Ok((
                path.clone(),
                File::open(path).map_err(file("opening", path))?,
            ))
        })
        .collect()
}

/// Makes every mount of the host's files read-only.
fn freeze() -> Result<()> {
    let path = "/proc/self/mountinfo";
    let mounts = fs::read_to_string(path).map_err(file("reading", path))?;
    for (point, flags) in host_mounts(&mounts) {
        let flags = flags | MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        let frozen = mount(NONE, &point, NONE, flags, NONE);
        // What lies under another mount cannot be reached, by nobody.
        if let Err(error) = frozen
            && point == Path::new("/")
        {
            return Err(error).doing("making the host's files read-only");
        }
    }
    Ok(())
}

/// Mount points of the host's files, with the flags that they have.
fn host_mounts(mountinfo: &str) -> Vec<(PathBuf, MsFlags)> {
    let mut mounts = Vec::new();
    for line in mountinfo.lines() {
        let Some((head, tail)) = line.split_once(" - ") else {
            continue;
        };
        let kind = tail.split(' ').next().unwrap_or_default();
        let fields: Vec<&str> = head.split(' ').collect();
        let (Some(point), Some(options)) = (fields.get(4), fields.get(5)) else {
            continue;
        };
        let point = PathBuf::from(unescape(point));
        let kernels = ["/proc", "/sys", "/dev"]
            .iter()
            .any(|place| point.starts_with(place));
        if !KERNEL.contains(&kind) && !kernels {
            mounts.push((point, flags(options)));
        }
    }
    mounts
}

/// Spaces and the like are written in octal in `mountinfo`.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ")
        .replace("\\011", "\t")
        .replace("\\012", "\n")
        .replace("\\134", "\\")
}

fn flags(options: &str) -> MsFlags {
    let known = [
        ("nosuid", MsFlags::MS_NOSUID),
        ("nodev", MsFlags::MS_NODEV),
        ("noexec", MsFlags::MS_NOEXEC),
        ("noatime", MsFlags::MS_NOATIME),
        ("nodiratime", MsFlags::MS_NODIRATIME),
        ("relatime", MsFlags::MS_RELATIME),
    ];
    let has = |name: &str| options.split(',').any(|option| option == name);
    known
        .iter()
        .filter(|(name, _)| has(name))
        .fold(MsFlags::empty(), |all, (_, flag)| all | *flag)
}

fn mount_tmpfs(path: &str, options: &str) -> Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("tmpfs"), path, Some("tmpfs"), flags, Some(options))
        .doing(format!("mounting a tmpfs on {path}"))
}

fn layer(path: &str) -> Result<()> {
    if !Path::new(path).is_dir() {
        return Err(LocalError::Missing(format!(
            "the host has no folder {path}"
        )));
    }
    let base = format!("{LAYERS}{path}");
    let (upper, work) = (format!("{base}/upper"), format!("{base}/work"));
    make_folder(&upper)?;
    make_folder(&work)?;
    let options = format!("lowerdir={path},upperdir={upper},workdir={work}");
    mount(
        Some("overlay"),
        path,
        Some("overlay"),
        MsFlags::empty(),
        Some(options.as_str()),
    )
    .doing(format!("mounting an overlay on {path}"))
}

fn bind(source: &str, target: &str) -> Result<()> {
    let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
    mount(Some(source), target, NONE, flags, NONE).doing(format!("mounting {source} on {target}"))
}

fn make_folder(path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    fs::create_dir_all(path).map_err(file("making", path))
}

fn is_link(path: &str) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_symlink())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_hosts_files_are_frozen_and_flags_are_kept() {
        let text = concat!(
            "1 0 8:1 / / rw,relatime - ext4 /dev/vda rw\n",
            "2 1 0:5 / /proc rw - proc proc rw\n",
            "3 1 0:6 / /dev/shm rw - tmpfs tmpfs rw\n",
            "4 1 8:2 / /home/a\\040b rw,nosuid,nodev - xfs /dev/vdb rw\n",
            "5 1 0:7 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n",
        );
        let mounts = host_mounts(text);
        let points: Vec<_> = mounts
            .iter()
            .map(|(point, _)| point.display().to_string())
            .collect();
        assert_eq!(points, ["/", "/home/a b"]);
        assert_eq!(mounts[1].1, MsFlags::MS_NOSUID | MsFlags::MS_NODEV);
    }
}
