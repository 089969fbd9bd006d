//! `ambit local logs`: what the cluster's own parts say.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::time::Duration;

use super::{living, print};
use crate::error::{LocalError, Result, file};
use crate::state::Folder;

/// Options of `logs`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The part: apiserver, controllers, init, guardian, or a node; without it, all of them
    part: Option<String>,
    /// The cluster's name
    #[arg(long, short = 'n', default_value = super::DEFAULT_NAME)]
    name: String,
    /// Go on as lines are written
    #[arg(long, short = 'f', requires = "part")]
    follow: bool,
}

/// Prints logs.
pub(super) fn run(args: &Args) -> Result<()> {
    let folder = living(&args.name)?;
    let Some(part) = &args.part else {
        for (part, text) in all(&folder) {
            print(format!("==> {part} <==\n{text}\n").as_bytes())?;
        }
        return Ok(());
    };
    // Also the short name of a node, without the cluster's.
    let full = format!("{}-{part}", args.name);
    let known: Vec<String> = all(&folder).into_iter().map(|(part, _)| part).collect();
    let Some(part) = [part, &full].into_iter().find(|name| known.contains(name)) else {
        let reason = format!(
            "the cluster has no such part; there are: {}",
            known.join(", ")
        );
        return Err(LocalError::Part {
            part: part.clone(),
            reason,
        });
    };
    let path = folder.log(part);
    let mut log = File::open(&path).map_err(file("opening", &path))?;
    let mut position = 0;
    loop {
        let mut text = Vec::new();
        log.seek(SeekFrom::Start(position))
            .map_err(file("reading", &path))?;
        position += log.read_to_end(&mut text).map_err(file("reading", &path))? as u64;
        print(&text)?;
        if !args.follow || !folder.is_alive() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// All parts with their logs, in the order of their names.
pub(super) fn all(folder: &Folder) -> Vec<(String, String)> {
    let Ok(entries) = fs::read_dir(folder.logs()) else {
        return Vec::new();
    };
    let mut logs: Vec<(String, String)> = entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let text = fs::read(entry.path()).ok()?;
            Some((
                name.strip_suffix(".log")?.to_owned(),
                String::from_utf8_lossy(&text).into_owned(),
            ))
        })
        .collect();
    logs.sort();
    logs
}
