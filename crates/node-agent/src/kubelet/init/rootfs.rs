//! The container's view of the file system: an overlay over the node's root, fresh `/proc`, `/sys`
//! and `/dev`, and the pod's volumes.
//!
//! Sources of bind mounts are opened before the root changes and mounted through
//! `/proc/self/fd`, targets are created after it. So an absolute symbolic link on either side
//! means what it means there, and nothing in a volume can redirect a mount out of the container.

use std::fs::{self, File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{
    DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink,
};
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::{chdir, pivot_root};

use super::spec::{MountSpec, RootfsSpec};
use super::{InitError, Step, kernel};

/// Device nodes that every container has: name, major, minor.
const DEVICES: [(&str, u64, u64); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

/// Paths of `/proc` that an unprivileged container may read only.
const READ_ONLY_PROC: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// Name of the directory that holds the node's root while volumes are mounted.
const OLD_ROOT: &str = "/.node";

/// Makes the new root current. The caller has unshared the mount namespace.
pub(super) fn enter(spec: &RootfsSpec) -> Result<(), InitError> {
    kernel::propagate(MsFlags::MS_SLAVE)?;
    mount_overlay(spec)?;
    let sources = open_sources(&spec.mounts)?;
    change_root(&spec.target)?;

    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    make_directory(Path::new("/proc"))?;
    kernel::mount_fs("proc", Path::new("/proc"), "proc", flags, "")?;
    mount_sys(spec.privileged, flags)?;
    make_dev()?;
    if spec.privileged {
        copy_devices(&Path::new(OLD_ROOT).join("dev"), Path::new("/dev"))?;
    }
    for (mount, source) in spec.mounts.iter().zip(&sources) {
        mount_volume(mount, source)?;
    }
    drop(sources);
    umount2(OLD_ROOT, MntFlags::MNT_DETACH).step("leave the node's root")?;
    fs::remove_dir(OLD_ROOT).step("leave the node's root")?;
    if !spec.privileged {
        protect_proc()?;
    }
    if spec.read_only {
        kernel::remount(Path::new("/"), MsFlags::MS_RDONLY)?;
    }
    Ok(())
}

fn mount_overlay(spec: &RootfsSpec) -> Result<(), InitError> {
    let data = format!(
        "lowerdir={},upperdir={},workdir={}",
        spec.lower.display(),
        spec.upper.display(),
        spec.work.display()
    );
    mount(Some("overlay"), &spec.target, Some("overlay"), MsFlags::empty(), Some(data.as_str()))
        .step("mount the root file system; the node's kernel needs overlayfs and the kubelet's state a tmpfs")
}

fn open_sources(mounts: &[MountSpec]) -> Result<Vec<File>, InitError> {
    mounts
        .iter()
        .map(|mount| open_path(&mount.source))
        .collect()
}

fn open_path(path: &Path) -> Result<File, InitError> {
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_CLOEXEC)
        .open(path)
        .step(format!("open {}", path.display()))
}

fn change_root(target: &Path) -> Result<(), InitError> {
    let old = target.join(OLD_ROOT.trim_start_matches('/'));
    fs::create_dir(&old).step("prepare root")?;
    pivot_root(target, &old).step("change root")?;
    chdir("/").step("change directory")
}

fn mount_sys(privileged: bool, flags: MsFlags) -> Result<(), InitError> {
    let sys = Path::new("/sys");
    make_directory(sys)?;
    kernel::mount_fs("sysfs", sys, "sysfs", flags, "")?;
    if !privileged {
        kernel::remount(sys, flags | MsFlags::MS_RDONLY)?;
    }
    Ok(())
}

fn make_dev() -> Result<(), InitError> {
    let dev = Path::new("/dev");
    make_directory(dev)?;
    kernel::mount_fs(
        "tmpfs",
        dev,
        "tmpfs",
        MsFlags::MS_NOSUID | MsFlags::MS_STRICTATIME,
        "mode=755,size=65536k",
    )?;
    for (name, major, minor) in DEVICES {
        let path = dev.join(name);
        mknod(
            &path,
            SFlag::S_IFCHR,
            Mode::from_bits_truncate(0o666),
            makedev(major, minor),
        )
        .step(format!("make device {name}"))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666))
            .step(format!("make device {name}"))?;
    }
    for (name, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
        ("ptmx", "pts/ptmx"),
    ] {
        symlink(target, dev.join(name)).step(format!("make /dev/{name}"))?;
    }
    fs::create_dir(dev.join("pts")).step("make /dev/pts")?;
    fs::create_dir(dev.join("shm")).step("make /dev/shm")?;
    kernel::mount_fs(
        "devpts",
        &dev.join("pts"),
        "devpts",
        MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC,
        "newinstance,ptmxmode=0666,mode=0620,gid=5",
    )
}

/// Gives a privileged container the node's other devices. They are made anew and not mounted, so
/// that nothing the container does in its `/dev` shows in the node's.
fn copy_devices(from: &Path, to: &Path) -> Result<(), InitError> {
    for entry in fs::read_dir(from)
        .step(format!("read {}", from.display()))?
        .flatten()
    {
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let Ok(meta) = fs::symlink_metadata(&source) else {
            continue;
        };
        if fs::symlink_metadata(&target).is_ok() {
            continue;
        }
        let kind = meta.file_type();
        if kind.is_dir() {
            make_directory(&target)?;
            copy_devices(&source, &target)?;
        } else if kind.is_char_device() || kind.is_block_device() {
            let flag = if kind.is_char_device() {
                SFlag::S_IFCHR
            } else {
                SFlag::S_IFBLK
            };
            let mode = Mode::from_bits_truncate(meta.mode() & 0o777);
            mknod(&target, flag, mode, meta.rdev())
                .step(format!("make device {}", target.display()))?;
        }
    }
    Ok(())
}

fn mount_volume(spec: &MountSpec, source: &File) -> Result<(), InitError> {
    let target = Path::new(&spec.target);
    let is_directory = source
        .metadata()
        .step(format!("inspect {}", spec.source.display()))?
        .is_dir();
    if is_directory {
        make_directory(target)?;
    } else {
        make_file(target)?;
    }
    bind(source, target, is_directory)?;
    let propagation = if spec.follow_host {
        MsFlags::MS_SLAVE
    } else {
        MsFlags::MS_PRIVATE
    };
    mount(
        None::<&str>,
        target,
        None::<&str>,
        propagation | MsFlags::MS_REC,
        None::<&str>,
    )
    .step(format!("set propagation of {}", spec.target))?;
    if spec.read_only {
        kernel::remount(target, MsFlags::MS_RDONLY)?;
    }
    Ok(())
}

fn bind(source: &File, target: &Path, recursive: bool) -> Result<(), InitError> {
    let path = format!("/proc/self/fd/{}", source.as_raw_fd());
    let mut flags = MsFlags::MS_BIND;
    flags.set(MsFlags::MS_REC, recursive);
    mount(
        Some(path.as_str()),
        target,
        None::<&str>,
        flags,
        None::<&str>,
    )
    .step(format!("mount volume on {}", target.display()))
}

fn make_directory(path: &Path) -> Result<(), InitError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(path)
        .step(format!("make {}", path.display()))
}

fn make_file(path: &Path) -> Result<(), InitError> {
    if let Some(parent) = path.parent() {
        make_directory(parent)?;
    }
    if fs::symlink_metadata(path).is_ok() {
        return Ok(());
    }
    File::create(path)
        .map(drop)
        .step(format!("make {}", path.display()))
}

fn protect_proc() -> Result<(), InitError> {
    for path in READ_ONLY_PROC {
        let path = Path::new(path);
        if !path.exists() {
            continue;
        }
        mount(
            Some(path),
            path,
            None::<&str>,
            MsFlags::MS_BIND | MsFlags::MS_REC,
            None::<&str>,
        )
        .step(format!("protect {}", path.display()))?;
        let flags =
            MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        kernel::remount(path, flags)?;
    }
    Ok(())
}
