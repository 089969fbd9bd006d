//! Output that commands share: exit codes, tables, JSON and YAML, questions.

use std::io::{BufRead, IsTerminal, Write};

use serde_json::Value;

/// Exit code of a failure that has no better one.
pub const FAILURE: i32 = 1;
/// Exit code for arguments that do not go together (`EX_USAGE`).
pub const USAGE: i32 = 64;
/// Exit code for a file that cannot be understood (`EX_DATAERR`).
pub const DATA: i32 = 65;

/// Ends a command with a message on standard error.
pub fn fail(code: i32, message: impl std::fmt::Display) -> anyhow::Result<i32> {
    eprintln!("Error: {message}");
    Ok(code)
}

/// Formats of a result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// A table
    #[default]
    Short,
    /// JSON
    Json,
    /// YAML
    Yaml,
}

/// JSON, indented by four spaces as istioctl does.
pub fn json(value: &Value) -> String {
    let mut out = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut out, formatter);
    // A JSON value always has a text.
    let _ = serde::Serialize::serialize(value, &mut serializer);
    let mut text = String::from_utf8(out).unwrap_or_default();
    text.push('\n');
    text
}

/// YAML with sorted keys.
pub fn yaml(value: &Value) -> String {
    ambit_charts::mesh::to_yaml(value)
}

/// Rows aligned in columns, each as wide as its longest cell and `padding` spaces; the last column
/// is not padded.
pub fn table(header: &[&str], rows: &[Vec<String>], padding: usize) -> String {
    let width = |column: usize| {
        let cells = rows
            .iter()
            .filter_map(|row| row.get(column))
            .map(|c| c.chars().count());
        cells
            .chain([header[column].len()])
            .max()
            .unwrap_or_default()
            + padding
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let mut text = String::new();
    let header = header.iter().map(|h| (*h).to_owned()).collect::<Vec<_>>();
    for row in std::iter::once(&header).chain(rows) {
        for (i, cell) in row.iter().enumerate() {
            text.push_str(cell);
            if i + 1 < row.len() {
                text.push_str(&" ".repeat(widths[i] - cell.chars().count()));
            }
        }
        text.push('\n');
    }
    text
}

/// Asks a yes-or-no question; anything but yes is no.
pub fn confirm(question: &str) -> bool {
    print!("{question} (y/N) ");
    let _ = std::io::stdout().flush();
    let mut answer = String::new();
    let _ = std::io::stdin().lock().read_line(&mut answer);
    if !std::io::stdin().is_terminal() {
        println!();
    }
    matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn columns_are_aligned_and_the_last_is_not_padded() {
        let rows = vec![
            vec!["a".into(), "bbb".into(), "c".into()],
            vec!["aaaa".into(), "b".into(), "".into()],
        ];
        assert_eq!(
            table(&["X", "YY", "Z"], &rows, 1),
            "X    YY  Z\na    bbb c\naaaa b   \n"
        );
    }

    #[test]
    fn json_is_indented_by_four() {
        assert_eq!(
            json(&json!({"a": [1]})),
            "{\n    \"a\": [\n        1\n    ]\n}\n"
        );
    }
}
