//! Writes the files of a volume so that a reader sees either all old or all new ones.
//!
//! The layout is the kubelet's: the files lie in a directory of their own, `..data` links to it, and
//! each visible name links through `..data`. A change makes a new directory and renames the link.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Component, Path, PathBuf};

/// One file to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FileContent {
    pub data: Vec<u8>,
    pub mode: u32,
}

/// All files of a volume by relative path.
pub(crate) type Payload = BTreeMap<String, FileContent>;

/// Owner of the files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Owner {
    pub uid: Option<u32>,
    pub gid: Option<u32>,
}

/// Whether a path given by a user stays inside its volume.
pub(crate) fn is_inside(path: &str) -> bool {
    !path.is_empty()
        && !path.starts_with("..")
        && Path::new(path)
            .components()
            .all(|component| matches!(component, Component::Normal(_)))
}

/// Makes `directory` hold exactly `payload`. Does nothing if it does already.
///
/// # Errors
/// The file system's answer, or a path that leaves the volume.
pub(crate) fn write(directory: &Path, payload: &Payload, owner: Owner) -> io::Result<()> {
    if let Some(bad) = payload.keys().find(|path| !is_inside(path)) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("path {bad:?} leaves the volume"),
        ));
    }
    fs::create_dir_all(directory)?;
    let link = directory.join("..data");
    let current = fs::read_link(&link).ok();
    if current
        .as_ref()
        .is_some_and(|name| holds(&directory.join(name), payload))
    {
        return Ok(());
    }
    let name = fresh_name(directory);
    let data = directory.join(&name);
    write_files(&data, payload, owner)?;
    let temporary = directory.join("..data_tmp");
    let _ = fs::remove_file(&temporary);
    symlink(&name, &temporary)?;
    fs::rename(&temporary, &link)?;
    update_visible(directory, payload)?;
    if let Some(old) = current {
        let _ = fs::remove_dir_all(directory.join(old));
    }
    Ok(())
}

fn fresh_name(directory: &Path) -> String {
    let stamp = jiff::Timestamp::now().as_nanosecond();
    (0..)
        .map(|n| format!("..{stamp}.{n}"))
        .find(|name| !directory.join(name).exists())
        .unwrap_or_default()
}

fn write_files(data: &Path, payload: &Payload, owner: Owner) -> io::Result<()> {
    fs::create_dir_all(data)?;
    fs::set_permissions(data, fs::Permissions::from_mode(0o755))?;
    for (path, file) in payload {
        let full = data.join(path);
        if let Some(parent) = full.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&full, &file.data)?;
        fs::set_permissions(&full, fs::Permissions::from_mode(file.mode))?;
        if owner != Owner::default() {
            chown(&full, owner.uid, owner.gid)?;
        }
    }
    Ok(())
}

/// Links for the first component of each path; removes those that are gone.
fn update_visible(directory: &Path, payload: &Payload) -> io::Result<()> {
    let wanted: BTreeSet<&str> = payload
        .keys()
        .filter_map(|path| path.split('/').next())
        .collect();
    for name in &wanted {
        let link = directory.join(name);
        if fs::symlink_metadata(&link).is_err() {
            symlink(PathBuf::from("..data").join(name), &link)?;
        }
    }
    for entry in fs::read_dir(directory)?.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with("..") && !wanted.contains(name.as_ref()) {
            let _ = fs::remove_file(entry.path());
        }
    }
    Ok(())
}

fn holds(data: &Path, payload: &Payload) -> bool {
    let same = |(path, file): (&String, &FileContent)| {
        fs::read(data.join(path)).is_ok_and(|data| data == file.data)
    };
    payload.iter().all(same) && count_files(data) == payload.len()
}

fn count_files(directory: &Path) -> usize {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .map(|entry| {
            if entry.path().is_dir() {
                count_files(&entry.path())
            } else {
                1
            }
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(files: &[(&str, &str)]) -> Payload {
        files
            .iter()
            .map(|(path, data)| {
                (
                    path.to_string(),
                    FileContent {
                        data: data.as_bytes().to_vec(),
                        mode: 0o640,
                    },
                )
            })
            .collect()
    }

    #[test]
    fn replaced_as_a_whole() {
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path().join("v");
        write(
            &volume,
            &payload(&[("a", "1"), ("d/b", "2")]),
            Owner::default(),
        )
        .unwrap();
        assert_eq!(fs::read_to_string(volume.join("a")).unwrap(), "1");
        assert_eq!(fs::read_to_string(volume.join("d/b")).unwrap(), "2");
        assert_eq!(
            fs::metadata(volume.join("a")).unwrap().permissions().mode() & 0o777,
            0o640
        );
        let before = fs::read_link(volume.join("..data")).unwrap();
        write(
            &volume,
            &payload(&[("a", "1"), ("d/b", "2")]),
            Owner::default(),
        )
        .unwrap();
        assert_eq!(
            fs::read_link(volume.join("..data")).unwrap(),
            before,
            "unchanged"
        );
        write(
            &volume,
            &payload(&[("a", "3"), ("c", "4")]),
            Owner::default(),
        )
        .unwrap();
        assert_eq!(fs::read_to_string(volume.join("a")).unwrap(), "3");
        assert!(!volume.join("d").exists() && !volume.join(&before).exists());
        assert_eq!(fs::read_dir(&volume).unwrap().count(), 4);
    }

    #[test]
    fn paths_stay_inside() {
        let dir = tempfile::tempdir().unwrap();
        for path in ["../x", "/x", "a/../../x", "..x", "", "./x"] {
            assert!(
                write(dir.path(), &payload(&[(path, "")]), Owner::default()).is_err(),
                "{path:?}"
            );
        }
    }
}
