//! `hostPath` volumes: paths of the node's own mount namespace, checked by their declared type.

use std::fs::{self, FileType, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt};
use std::path::Path;

/// Checks, and for the `…OrCreate` types creates, the path.
///
/// # Errors
/// The path is not what the type says.
pub(super) fn prepare(path: &Path, kind: &str) -> Result<(), String> {
    let create_error = |error: std::io::Error| format!("cannot create {}: {error}", path.display());
    match kind {
        "DirectoryOrCreate" if !path.exists() => {
            return fs::DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(path)
                .map_err(create_error);
        }
        "FileOrCreate" if !path.exists() => {
            return OpenOptions::new()
                .create(true)
                .append(true)
                .open(path)
                .map(drop)
                .map_err(create_error);
        }
        _ => {}
    }
    let found = fs::metadata(path).map(|meta| meta.file_type());
    let is = |test: fn(&FileType) -> bool| found.as_ref().is_ok_and(test);
    let fits = match kind {
        "" => {
            // A path without type need not exist: it is made as a directory, as a runtime does.
            if found.is_err() {
                return fs::create_dir_all(path).map_err(create_error);
            }
            true
        }
        "Directory" | "DirectoryOrCreate" => is(FileType::is_dir),
        "File" | "FileOrCreate" => is(FileType::is_file),
        "Socket" => is(|t| t.is_socket()),
        "CharDevice" => is(|t| t.is_char_device()),
        "BlockDevice" => is(|t| t.is_block_device()),
        other => return Err(format!("hostPath type {other:?} is not known")),
    };
    if fits {
        Ok(())
    } else {
        Err(format!(
            "hostPath type check failed: {} is not a {kind}",
            path.display()
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::prepare;

    #[test]
    fn types_are_checked() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        assert!(prepare(&path("d/e"), "DirectoryOrCreate").is_ok());
        assert!(prepare(&path("d/e"), "Directory").is_ok());
        assert!(
            prepare(&path("d/e"), "File")
                .unwrap_err()
                .contains("is not a File")
        );
        assert!(prepare(&path("f"), "FileOrCreate").is_ok());
        assert!(prepare(&path("f"), "File").is_ok());
        assert!(prepare(&path("f"), "Socket").is_err());
        assert!(prepare(&path("none"), "Directory").is_err());
        assert!(prepare(&path("new"), "").is_ok() && path("new").is_dir());
        assert!(prepare(&path("f"), "Odd").is_err());
        assert!(prepare("/dev/null".as_ref(), "CharDevice").is_ok());
    }
}
