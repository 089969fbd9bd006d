//! What differs from run to run, replaced by words.

use std::path::Path;

use anyhow::Result;
use regex::Regex;

use crate::matrix::{Answer, Command};

/// Patterns and what stands in their place, in this order.
const PATTERNS: &[(&str, &str)] = &[
    (r"\d{4}-\d\d-\d\dT[\d:.]+Z", "TIME"),
    (r"\w{3}, \d\d \w{3} \d{4} [\d:]+ [+-]\d{4}", "TIME"),
    (r"eyJ[\w.-]+", "TOKEN"),
    (r"(process://|X509SHA256=)[0-9a-f]+", "${1}ID"),
    (r"pod-template-hash=\w+", "pod-template-hash=HASH"),
    // Old clients colour what they print, whoever reads it.
    (r"\x1b\[[0-9;]*m", ""),
    (r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "UID"),
    (r"\d+\.\d+\.\d+\.\d+(:\d+)?", "ADDRESS"),
    (r"\[::1\]:\d+", "ADDRESS"),
    (r"127.0.0.1:\d+", "ADDRESS"),
    (r#"resourceVersion"?: "\d+""#, "resourceVersion: VERSION"),
    // In a JSON text within a JSON text.
    (r#"(resourceVersion\\":\\")\d+"#, "${1}VERSION"),
    (r":3\d{4}/", ":NODEPORT/"),
    // Of templates and of pods: letters and digits that make no words.
    (r"-[bcdfghjklmnpqrstvwxz2456789]{8,10}\b", "-HASH"),
    (r"-[bcdfghjklmnpqrstvwxz2456789]{5}\b", "-ID"),
    (r"\b\d+(d|h|m|ms|s)(\d+[hms])?\b", "AGE"),
    (r"<invalid>", "AGE"),
];

pub struct Normalizer {
    patterns: Vec<(Regex, &'static str)>,
    columns: Regex,
    log: Regex,
}

impl Normalizer {
    pub fn new(namespace: &str, cluster: &str, folder: &Path) -> Result<Self> {
        let own = [
            (regex::escape(&folder.display().to_string()), "FOLDER"),
            (format!("{cluster}-(worker2?|control-plane)"), "NODE"),
            (format!(r"\b{namespace}"), "NAMESPACE"),
        ];
        let common = PATTERNS.iter().map(|(p, word)| ((*p).to_owned(), *word));
        let patterns = own.into_iter().chain(common);
        Ok(Self {
            patterns: patterns
                .map(|(pattern, word)| Ok((Regex::new(&pattern)?, word)))
                .collect::<Result<_>>()?,
            columns: Regex::new(r"(\S)(\s{2,}|\t)")?,
            log: Regex::new(r"^[EWI]\d{4} |^WARNING: version difference")?,
        })
    }

    pub fn answer(&self, answer: Answer, command: &Command) -> Result<Answer> {
        let only = command.lines.as_deref().map(Regex::new).transpose()?;
        Ok(Answer {
            code: answer.code,
            out: self.text(&answer.out, only.as_ref()),
            err: self.text(&answer.err, only.as_ref()),
        })
    }

    /// The lines that count. Columns are as wide as their longest value, so widths say nothing.
    fn text(&self, text: &str, only: Option<&Regex>) -> String {
        let mut lines = String::new();
        for line in text.lines() {
            if self.log.is_match(line) || only.is_some_and(|only| !only.is_match(line)) {
                continue;
            }
            let mut line = line.to_owned();
            for (pattern, word) in &self.patterns {
                line = pattern.replace_all(&line, *word).into_owned();
            }
            let line = self.columns.replace_all(&line, "$1  ");
            lines.push_str(line.trim_end());
            lines.push('\n');
        }
        lines
    }
}
