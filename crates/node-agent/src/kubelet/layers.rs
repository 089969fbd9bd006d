//! A container's writable layer: what lies above the node's root before the container starts.
//!
//! The node's own `/tmp`, `/run` and `/var/tmp` are hidden; `/etc` is the node's with the pod's
//! `resolv.conf`, `hosts` and `hostname` in front; the image's applets are links.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::catalogue::{IMAGE_DIR, Image};

/// Directories of the node that a container does not see, with their modes.
const HIDDEN: [(&str, u32); 3] = [("tmp", 0o1777), ("run", 0o755), ("var/tmp", 0o1777)];

/// The name files of a pod, same for all its containers.
#[derive(Debug, Clone, Default)]
pub(crate) struct NameFiles {
    pub resolv_conf: String,
    pub hosts: String,
    pub hostname: String,
}

/// Directories of one container run.
#[derive(Debug, Clone)]
pub(crate) struct Layers {
    root: PathBuf,
}

impl Layers {
    /// Makes the directories and fills the upper layer.
    pub(crate) fn prepare(root: &Path, image: &Image, names: &NameFiles) -> io::Result<Self> {
        let layers = Self {
            root: root.to_path_buf(),
        };
        if root.exists() {
            fs::remove_dir_all(root)?;
        }
        for directory in [layers.upper(), layers.work(), layers.target()] {
            fs::create_dir_all(directory)?;
        }
        fs::set_permissions(layers.upper(), fs::Permissions::from_mode(0o755))?;
        for (name, mode) in HIDDEN {
            let path = layers.upper().join(name);
            fs::create_dir_all(&path)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
            make_opaque(&path)?;
        }
        let etc = layers.upper().join("etc");
        fs::create_dir_all(&etc)?;
        fs::write(etc.join("resolv.conf"), &names.resolv_conf)?;
        fs::write(etc.join("hosts"), &names.hosts)?;
        fs::write(etc.join("hostname"), format!("{}\n", names.hostname))?;
        link_applets(&layers.upper(), image)?;
        fs::write(layers.termination_log(), "")?;
        // The container's user writes it, whoever that is.
        fs::set_permissions(layers.termination_log(), fs::Permissions::from_mode(0o666))?;
        Ok(layers)
    }

    pub(crate) fn upper(&self) -> PathBuf {
        self.root.join("upper")
    }

    pub(crate) fn work(&self) -> PathBuf {
        self.root.join("work")
    }

    pub(crate) fn target(&self) -> PathBuf {
        self.root.join("root")
    }

    pub(crate) fn termination_log(&self) -> PathBuf {
        self.root.join("termination-log")
    }

    /// The first 4 KiB of what the container wrote as its termination message.
    pub(crate) fn termination_message(&self) -> Option<String> {
        let bytes = fs::read(self.termination_log()).ok()?;
        let text = String::from_utf8_lossy(&bytes[..bytes.len().min(4096)]).into_owned();
        (!text.is_empty()).then_some(text)
    }

    /// Removes everything of this run.
    pub(crate) fn remove(&self) {
        if let Err(error) = fs::remove_dir_all(&self.root)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(directory = %self.root.display(), "container directory not removed: {error}");
        }
    }
}

fn link_applets(upper: &Path, image: &Image) -> io::Result<()> {
    let bin = upper.join(IMAGE_DIR.trim_start_matches('/')).join("bin");
    fs::create_dir_all(&bin)?;
    for (name, program) in &image.applets {
        if name.contains('/') {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("applet name {name:?} has a slash"),
            ));
        }
        symlink(Path::new(IMAGE_DIR).join(program), bin.join(name))?;
    }
    Ok(())
}

/// Marks a directory so that overlayfs does not show the lower one through it
/// (Documentation/filesystems/overlayfs, "whiteouts and opaque directories").
fn make_opaque(path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let value = b"y";
    // SAFETY: path and name are NUL-terminated, value and length belong together; all live for
    // the whole call.
    let result = unsafe {
        libc::setxattr(
            path.as_ptr(),
            c"trusted.overlay.opaque".as_ptr(),
            value.as_ptr().cast(),
            value.len(),
            0,
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
