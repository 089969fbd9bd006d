//! What the parts of a starting cluster tell the command that waits for it:
//! one JSON object per line, over a pipe.

use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;

use serde::{Deserialize, Serialize};

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Report {
    /// Something is done.
    Done(String),
    /// Everything is started; whether it works shows from outside.
    Started,
    /// It will not work.
    Failed(String),
}

/// Writes a report. A reader that is gone does not matter.
pub(crate) fn send(to: &mut std::fs::File, report: &Report) {
    if let Ok(mut line) = serde_json::to_vec(report) {
        line.push(b'\n');
        let _ = to.write_all(&line);
    }
}

/// The reports of a pipe, until its last writer is gone.
pub(crate) fn receive(from: OwnedFd) -> impl Iterator<Item = Report> {
    BufReader::new(std::fs::File::from(from))
        .lines()
        .map_while(std::result::Result::ok)
        .filter_map(|line| serde_json::from_str(&line).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_arrive_in_order_until_the_writer_ends() {
        let (read, write) = crate::spawn::pipe().expect("a pipe");
        let mut write = std::fs::File::from(write);
        let reports = [
            Report::Done("network".into()),
            Report::Failed("no \"nft\"\n".into()),
        ];
        for report in &reports {
            send(&mut write, report);
        }
        drop(write);
        assert_eq!(receive(read).collect::<Vec<_>>(), reports);
    }
}
