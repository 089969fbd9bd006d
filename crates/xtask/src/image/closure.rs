//! A program of this machine with all that it needs to run elsewhere.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

/// The program found in `PATH` and the shared libraries that the loader maps for it, the loader
/// included.
pub(super) fn of(program: &str) -> anyhow::Result<BTreeSet<PathBuf>> {
    let path = find(program)?;
    let output = Command::new("ldd")
        .arg(&path)
        .output()
        .context("cannot run ldd")?;
    ensure!(
        output.status.success(),
        "ldd cannot read {}",
        path.display()
    );
    let libraries = libraries(&String::from_utf8_lossy(&output.stdout));
    ensure!(
        !libraries.is_empty(),
        "ldd shows no library of {}",
        path.display()
    );
    Ok(libraries.into_iter().chain([path]).collect())
}

fn find(program: &str) -> anyhow::Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
        .with_context(|| format!("{program} is not installed; the node agent's image needs it"))
}

/// The files in ldd's lines: `name => /path (address)`, or `/path (address)` of the loader.
fn libraries(lines: &str) -> BTreeSet<PathBuf> {
    let file = |line: &str| {
        let file = line.split("=>").last()?.split_whitespace().next()?;
        Path::new(file).is_absolute().then(|| PathBuf::from(file))
    };
    lines.lines().filter_map(file).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loader_and_what_it_maps() {
        let lines = "\tlinux-vdso.so.1 (0x00007ffe)\n\
                     \tlibm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x00007f)\n\
                     \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let found: Vec<PathBuf> = libraries(lines).into_iter().collect();
        assert_eq!(
            found,
            [
                "/lib/x86_64-linux-gnu/libm.so.6",
                "/lib64/ld-linux-x86-64.so.2"
            ]
            .map(PathBuf::from)
        );
    }
}
