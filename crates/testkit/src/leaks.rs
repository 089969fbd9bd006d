//! Whether something was left behind: what exists on the host before and after.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use anyhow::{Context, Result};

/// What a test, or a whole cluster, may have left on the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    items: BTreeSet<String>,
}

impl Snapshot {
    /// Looks at network namespaces, links, mounts, cgroups, nftables rules and processes.
    ///
    /// Namespaces are those with a name and those of running processes. Processes and cgroups of
    /// other work on the same host come and go; [`left_since`](Self::left_since) takes a filter.
    pub fn take() -> Result<Self> {
        let mut items = BTreeSet::new();
        let mut add = |kind: &str, what: &str| items.insert(format!("{kind} {what}"));
        for name in names("/run/netns") {
            add("netns", &name);
        }
        for name in names("/sys/class/net") {
            add("link", &name);
        }
        let mounts =
            fs::read_to_string("/proc/self/mountinfo").context("cannot read the mounts")?;
        for line in mounts.lines() {
            add("mount", line.split(' ').nth(4).unwrap_or(line));
        }
        for path in cgroups("/sys/fs/cgroup", 6) {
            add("cgroup", &path);
        }
        for line in rules().lines() {
            add("nft", line.trim());
        }
        for pid in names("/proc")
            .iter()
            .filter(|n| n.bytes().all(|b| b.is_ascii_digit()))
        {
            // A process can end between the listing and the look.
            let Ok(command) = fs::read(format!("/proc/{pid}/cmdline")) else {
                continue;
            };
            let command = String::from_utf8_lossy(&command).replace('\0', " ");
            if !command.is_empty() {
                add("process", &format!("{pid} {}", command.trim()));
            }
        }
        Ok(Self { items })
    }

    /// What is there now and was not there at `before`, one line for each, if `ours` says that it
    /// can be of the test's making.
    pub fn left_since(&self, before: &Self, ours: impl Fn(&str) -> bool) -> Vec<String> {
        self.items
            .difference(&before.items)
            .filter(|item| ours(item))
            .cloned()
            .collect()
    }
}

fn names(directory: &str) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect()
}

fn cgroups(directory: &str, depth: usize) -> Vec<String> {
    let mut found = Vec::new();
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    for entry in entries.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())) {
        let path = entry.path().to_string_lossy().into_owned();
        if depth > 0 {
            found.extend(cgroups(&path, depth - 1));
        }
        found.push(path);
    }
    found
}

/// The host's rules without counters; nothing where there is no nft, which then made none either.
fn rules() -> String {
    let output = Command::new("nft").args(["-s", "list", "ruleset"]).output();
    output
        .map(|o| String::from_utf8_lossy(&o.stdout).into_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_is_left_shows() {
        let before = Snapshot::take().unwrap();
        let marker = format!("1000.{}", std::process::id());
        let ours = |item: &str| item.contains(&marker);
        let process = crate::Process::start(Command::new("sleep").arg(&marker)).unwrap();
        let left = || {
            let now = Snapshot::take().unwrap();
            let left = now.left_since(&before, ours);
            (left.len() == 1 && left[0].contains("sleep")).then_some(())
        };
        crate::wait_for(
            "the process to show",
            std::time::Duration::from_secs(10),
            left,
        )
        .unwrap();
        drop(process);
        assert_eq!(
            Snapshot::take().unwrap().left_since(&before, ours),
            Vec::<String>::new()
        );
    }
}
