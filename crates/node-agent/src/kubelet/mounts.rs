//! Which bind mounts a container gets. Decided here, carried out by the helper.

use std::io;
use std::path::{Component, Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, Pod, VolumeMount};

use super::env::Environment;
use super::expand::expand;
use super::init::spec::MountSpec;
use super::volumes::Volumes;
use crate::catalogue::{IMAGE_DIR, Image};

/// Where a container's own message goes unless it names another file (API default).
const TERMINATION_LOG: &str = "/dev/termination-log";

/// Files and directories that every container of a pod gets.
pub(crate) struct PodMounts<'a> {
    /// The pod's shared memory directory.
    pub shm: &'a Path,
    /// The file for this run's termination message.
    pub termination_log: &'a Path,
}

/// The mounts of a container, parents before children.
///
/// # Errors
/// A message for `CreateContainerConfigError`.
pub(crate) fn plan(
    pod: &Pod,
    container: &Container,
    image: &Image,
    env: &Environment,
    volumes: &Volumes,
    common: &PodMounts<'_>,
) -> Result<Vec<MountSpec>, String> {
    let mut mounts = vec![
        plain(common.shm, "/dev/shm", false),
        plain(
            common.termination_log,
            container
                .termination_message_path
                .as_deref()
                .unwrap_or(TERMINATION_LOG),
            false,
        ),
    ];
    for (name, path) in &image.programs {
        mounts.push(plain(path, &format!("{IMAGE_DIR}/{name}"), true));
    }
    for (target, path) in &image.files {
        mounts.push(plain(path, target, true));
    }
    for mount in container.volume_mounts.iter().flatten() {
        mounts.push(volume_mount(pod, mount, env, volumes)?);
    }
    // Stable, so that of two mounts on one path the pod's own comes last and is seen.
    mounts.sort_by(|a, b| Path::new(&a.target).cmp(Path::new(&b.target)));
    Ok(mounts)
}

fn plain(source: &Path, target: &str, read_only: bool) -> MountSpec {
    MountSpec {
        source: source.to_path_buf(),
        target: target.to_string(),
        read_only,
        follow_host: false,
    }
}

fn volume_mount(
    pod: &Pod,
    mount: &VolumeMount,
    env: &Environment,
    volumes: &Volumes,
) -> Result<MountSpec, String> {
    let volume = pod
        .spec
        .iter()
        .flat_map(|spec| spec.volumes.iter().flatten())
        .find(|volume| volume.name == mount.name)
        .ok_or_else(|| {
            format!(
                "volume {:?} of mount {:?} does not exist",
                mount.name, mount.mount_path
            )
        })?;
    let follow_host = match mount.mount_propagation.as_deref() {
        None | Some("" | "None") => false,
        Some("HostToContainer") => true,
        Some(other) => {
            return Err(format!(
                "mountPropagation {other} of {:?} is not supported on this node",
                mount.mount_path
            ));
        }
    };
    let sub_path = match (&mount.sub_path, &mount.sub_path_expr) {
        (Some(path), _) if !path.is_empty() => path.clone(),
        (_, Some(text)) if !text.is_empty() => expand(text, |name| env.get(name)),
        _ => String::new(),
    };
    let root = volumes.path(volume);
    let source = if sub_path.is_empty() {
        root
    } else {
        resolve_sub_path(&root, &sub_path).map_err(|error| {
            format!(
                "failed to prepare subPath {sub_path:?} of volume {:?}: {error}",
                mount.name
            )
        })?
    };
    let target = if mount.mount_path.starts_with('/') {
        mount.mount_path.clone()
    } else {
        format!("/{}", mount.mount_path)
    };
    Ok(MountSpec {
        source,
        target,
        read_only: mount.read_only == Some(true),
        follow_host,
    })
}

/// A path below a volume, created as a directory if missing. Must not lead out of the volume, by its
/// text or through links.
fn resolve_sub_path(root: &Path, sub_path: &str) -> io::Result<PathBuf> {
    let outside = || {
        io::Error::new(
            io::ErrorKind::PermissionDenied,
            "the path leaves the volume",
        )
    };
    if !Path::new(sub_path)
        .components()
        .all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
    {
        return Err(outside());
    }
    let root = root.canonicalize()?;
    let full = root.join(sub_path);
    // Where a prefix is a link, creation could happen outside: check the existing part first.
    let existing = full.ancestors().find(|path| path.exists()).unwrap_or(&root);
    if !existing.canonicalize()?.starts_with(&root) {
        return Err(outside());
    }
    if !full.exists() {
        std::fs::create_dir_all(&full)?;
    }
    let resolved = full.canonicalize()?;
    if resolved.starts_with(&root) {
        Ok(resolved)
    } else {
        Err(outside())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sub_paths_stay_in_the_volume() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("v");
        std::fs::create_dir_all(root.join("a")).unwrap();
        std::os::unix::fs::symlink("/etc", root.join("out")).unwrap();
        std::os::unix::fs::symlink("a", root.join("in")).unwrap();
        assert_eq!(
            resolve_sub_path(&root, "a/b").unwrap(),
            root.canonicalize().unwrap().join("a/b")
        );
        assert_eq!(
            resolve_sub_path(&root, "in").unwrap(),
            root.canonicalize().unwrap().join("a")
        );
        for bad in ["../x", "/etc", "out", "out/new", "a/../../x"] {
            assert!(resolve_sub_path(&root, bad).is_err(), "{bad}");
        }
    }
}
