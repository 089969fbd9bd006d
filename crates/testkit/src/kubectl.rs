//! The stock kubectl programs of this machine.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A kubectl, never one that picks another version by itself.
#[derive(Debug, Clone)]
pub struct Kubectl {
    /// The program.
    pub path: PathBuf,
    /// Its minor version: 33 for 1.33.
    pub minor: u32,
}

impl std::fmt::Display for Kubectl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "1.{}", self.minor)
    }
}

/// Every kubectl that can be found, the oldest first: `kubectl.1.27` and the like beside the one in
/// the search path, which then is only a dispatcher; that one itself where there are none; and the
/// one that `make kube-api` builds. With `AMBIT_KUBECTL=ends`, only the oldest and the newest.
pub fn kubectls() -> Vec<Kubectl> {
    let mut found = installed();
    let built = target().join("kubernetes/kubectl");
    if let Some(new) = asked(built)
        && found.iter().all(|old| old.minor != new.minor)
    {
        found.push(new);
    }
    found.sort_by_key(|kubectl| kubectl.minor);
    let only_ends = std::env::var_os("AMBIT_KUBECTL").is_some_and(|which| which == "ends");
    if only_ends && found.len() > 2 {
        found.drain(1..found.len() - 1);
    }
    found
}

fn installed() -> Vec<Kubectl> {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let first = std::env::split_paths(&paths)
        .map(|folder| folder.join("kubectl"))
        .find(|path| path.is_file());
    let Some(first) = first.and_then(|path| path.canonicalize().ok()) else {
        return Vec::new();
    };
    let beside = first.parent().and_then(|folder| folder.read_dir().ok());
    let versioned: Vec<Kubectl> = beside
        .into_iter()
        .flatten()
        .filter_map(|entry| named(&entry.ok()?.path()))
        .collect();
    if versioned.is_empty() {
        return asked(first).into_iter().collect();
    }
    versioned
}

/// `kubectl.1.27`.
fn named(path: &Path) -> Option<Kubectl> {
    let minor = path.file_name()?.to_str()?.strip_prefix("kubectl.1.")?;
    Some(Kubectl {
        path: path.to_owned(),
        minor: minor.parse().ok()?,
    })
}

/// A program that says itself which version it is.
fn asked(path: PathBuf) -> Option<Kubectl> {
    let mut command = Command::new(&path);
    command.args(["version", "--client", "--output=yaml"]);
    let output = command.output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let minor = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("minor: "))?;
    let digits: String = minor.chars().filter(char::is_ascii_digit).collect();
    Some(Kubectl {
        path,
        minor: digits.parse().ok()?,
    })
}

/// The build folder.
fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target"),
        PathBuf::from,
    )
}

/// The words of a command line: split at spaces outside single quotes.
pub fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted) = (Vec::new(), String::new(), false);
    for c in line.chars() {
        match c {
            '\'' => quoted = !quoted,
            ' ' if !quoted => words.push(std::mem::take(&mut word)),
            c => word.push(c),
        }
    }
    words.push(word);
    words
}
