//! Results as text, JSON or YAML.

use serde::Serialize;

use super::print;
use crate::error::{LocalError, Result};

/// The form of a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    /// JSON.
    Json,
    /// YAML.
    Yaml,
}

/// Prints `value` in the wanted form, or `text` when none is asked for.
pub(super) fn show<T: Serialize>(format: Option<Format>, value: &T, text: &str) -> Result<()> {
    let failed = |error: &dyn std::fmt::Display| LocalError::Part {
        part: "the result".to_owned(),
        reason: error.to_string(),
    };
    match format {
        None => print(text.as_bytes()),
        Some(Format::Json) => {
            let json = serde_json::to_string_pretty(value).map_err(|error| failed(&error))?;
            print(format!("{json}\n").as_bytes())
        }
        Some(Format::Yaml) => {
            let yaml = serde_saphyr::to_string(value).map_err(|error| failed(&error))?;
            print(yaml.as_bytes())
        }
    }
}

/// Lays out rows in columns, three spaces apart, as kubectl does.
pub(super) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(&format!("{cell:<width$}   "));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// A duration as kubectl shows ages.
pub(super) fn age(seconds: i64) -> String {
    let seconds = seconds.max(0);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..600 => format!("{}m{}s", seconds / 60, seconds % 60),
        600..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let row = |a: &str, b: &str| vec![a.to_owned(), b.to_owned()];
        assert_eq!(
            table(&[row("NAME", "AGE"), row("a-worker", "5s")]),
            "NAME       AGE\na-worker   5s\n"
        );
    }

    #[test]
    fn ages() {
        for (seconds, text) in [
            (5, "5s"),
            (125, "2m5s"),
            (3600, "60m"),
            (7200, "2h"),
            (172_800, "2d"),
        ] {
            assert_eq!(age(seconds), text);
        }
    }
}
