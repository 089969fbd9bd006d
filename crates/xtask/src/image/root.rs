//! The files of an image.

use std::collections::BTreeMap;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use ambit_node_agent::catalogue::Image;
use anyhow::Context;

use super::closure;

/// The program's place in every image.
const PROGRAM: &str = "usr/local/bin/ambit";
/// Where links to it are, which is in the default `PATH`.
const LINKS: &str = "usr/local/bin";

/// What is at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// A folder with these permissions.
    Folder(u32),
    /// A program of this machine.
    Program(PathBuf),
    /// A text.
    Text(&'static str),
    /// A symbolic link.
    Link(String),
}

/// Files by their path without the leading slash. Folders above them need no entry.
#[derive(Debug, Default)]
pub(super) struct Root(pub(super) BTreeMap<PathBuf, Entry>);

impl Root {
    fn add(&mut self, path: impl Into<PathBuf>, entry: Entry) {
        self.0.insert(path.into(), entry);
    }

    /// Writes the files below a folder, for builders that take a folder.
    pub(super) fn write_below(&self, folder: &Path) -> anyhow::Result<()> {
        for (path, entry) in &self.0 {
            let path = folder.join(path);
            write(&path, entry).with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
    }
}

fn write(path: &Path, entry: &Entry) -> std::io::Result<()> {
    if let Some(above) = path.parent() {
        std::fs::create_dir_all(above)?;
    }
    match entry {
        Entry::Folder(mode) => {
            std::fs::create_dir_all(path)?;
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(*mode))
        }
        Entry::Program(from) => std::fs::copy(from, path).map(drop),
        Entry::Text(text) => std::fs::write(path, text),
        Entry::Link(target) => match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => symlink(target, path),
        },
    }
}

/// What all images share: the program, and the little that it expects of a system.
pub(super) fn base(programs: &BTreeMap<String, PathBuf>) -> anyhow::Result<Root> {
    let ambit = programs
        .get("ambit")
        .context("the program ambit was not built")?;
    let mut root = Root::default();
    root.add("tmp", Entry::Folder(0o1777));
    root.add(
        "etc/passwd",
        Entry::Text("root:x:0:0:root:/:/sbin/nologin\n"),
    );
    root.add("etc/group", Entry::Text("root:x:0:\n"));
    root.add(PROGRAM, Entry::Program(ambit.clone()));
    // Manifests name tools by their usual place, such as /bin/sleep.
    root.add("bin", Entry::Link(LINKS.to_owned()));
    Ok(root)
}

/// What an image adds: links for its entry point and tools, its files, and for the node agent the
/// program that carries its rules to the kernel.
pub(super) fn own(name: &str, image: &Image) -> anyhow::Result<Root> {
    let mut root = Root::default();
    for applet in image.applets.keys().filter(|applet| *applet != "ambit") {
        let link = Path::new(LINKS).join(applet);
        root.add(link, Entry::Link(format!("/{PROGRAM}")));
    }
    for (path, program) in &image.files {
        root.add(
            path.trim_start_matches('/'),
            Entry::Program(program.clone()),
        );
    }
    if super::short(name) == "install-cni" {
        for file in closure::of("nft")? {
            root.add(
                file.strip_prefix("/").unwrap_or(&file),
                Entry::Program(file.clone()),
            );
        }
    }
    Ok(root)
}
