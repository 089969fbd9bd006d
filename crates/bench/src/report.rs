//! The figures: a table for people and JSON for machines.

use std::collections::HashMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::Result;
use serde::Serialize;

/// How far raw TCP may vary between rounds before ratios mean little.
const STEADY: f64 = 0.10;

/// A measured quantity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Metric {
    /// Its name in the report.
    pub name: &'static str,
    /// Its unit.
    pub unit: &'static str,
}

impl Metric {
    pub const fn new(name: &'static str, unit: &'static str) -> Self {
        Self { name, unit }
    }
}

/// Whom a table compares with.
pub struct Peers {
    /// The contender that shows whether the machine was quiet.
    pub steady: Option<&'static str>,
    /// Those whose figures the others are divided by.
    pub ratios: &'static [&'static str],
    /// What the figures mean.
    pub note: &'static str,
}

/// Measured values by metric and contender.
#[derive(Default)]
pub struct Samples {
    values: HashMap<(Metric, &'static str), Vec<f64>>,
    metrics: Vec<Metric>,
    contenders: Vec<&'static str>,
}

impl Samples {
    pub fn add(&mut self, metric: Metric, contender: &'static str, value: f64) {
        if !self.contenders.contains(&contender) {
            self.contenders.push(contender);
        }
        if !self.metrics.contains(&metric) {
            self.metrics.push(metric);
        }
        self.values
            .entry((metric, contender))
            .or_default()
            .push(value);
    }
}

/// Median and spread of one metric for one contender.
#[derive(Clone, Debug, Serialize, PartialEq)]
pub struct Row {
    metric: &'static str,
    contender: &'static str,
    unit: &'static str,
    median: f64,
    min: f64,
    max: f64,
}

/// All rows.
#[derive(Debug, Serialize)]
pub struct Report {
    rows: Vec<Row>,
    machine: Machine,
}

/// What the figures were taken on.
#[derive(Debug, Serialize)]
struct Machine {
    kernel: String,
    processor: String,
    processors: usize,
}

impl Report {
    pub fn new(samples: &Samples) -> Self {
        let mut rows = Vec::new();
        for metric in &samples.metrics {
            for contender in &samples.contenders {
                if let Some(values) = samples.values.get(&(*metric, *contender)) {
                    rows.push(row(*metric, contender, values));
                }
            }
        }
        Self {
            rows,
            machine: Machine::look(),
        }
    }

    fn find(&self, metric: &str, contender: &str) -> Option<&Row> {
        self.rows
            .iter()
            .find(|r| r.metric == metric && r.contender == contender)
    }

    /// The table: for each metric the median with least and most of each contender, and ratios to
    /// the peers.
    pub fn table(&self, peers: &Peers) -> String {
        let mut contenders: Vec<&str> = Vec::new();
        let mut metrics: Vec<(&str, &str)> = Vec::new();
        for row in &self.rows {
            if !contenders.contains(&row.contender) {
                contenders.push(row.contender);
            }
            if !metrics.contains(&(row.metric, row.unit)) {
                metrics.push((row.metric, row.unit));
            }
        }
        let pairs: Vec<(&str, &str)> = contenders
            .iter()
            .copied()
            .filter(|c| !peers.ratios.contains(c))
            .flat_map(|c| peers.ratios.iter().map(move |peer| (c, *peer)))
            .filter(|(_, peer)| contenders.contains(peer))
            .collect();
        let mut head = vec!["metric".to_owned(), "unit".to_owned()];
        head.extend(contenders.iter().map(|c| (*c).to_owned()));
        head.extend(pairs.iter().map(|(a, b)| format!("{a}/{b}")));
        let mut lines = vec![head];
        for (metric, unit) in metrics {
            let mut line = vec![metric.to_owned(), unit.to_owned()];
            line.extend(contenders.iter().map(|c| cell(self.find(metric, c))));
            let both = |(a, b): &(&str, &str)| ratio(self.find(metric, a), self.find(metric, b));
            line.extend(pairs.iter().map(both));
            lines.push(line);
        }
        let Machine {
            kernel,
            processor,
            processors,
        } = &self.machine;
        let mut out = format!(
            "{processors} x {processor}, Linux {kernel}\n\n{}",
            markdown(&lines)
        );
        let note = peers.note;
        let _ = writeln!(out, "\nmedian (least - most) of the rounds; {note}");
        let steady = |r: &&Row| Some(r.contender) == peers.steady;
        for row in self.rows.iter().filter(steady) {
            if row.median > 0.0 && (row.max - row.min) / row.median > STEADY {
                let _ = writeln!(
                    out,
                    "note: {} {} varied by {:.0} %, so the machine was not quiet",
                    row.contender,
                    row.metric,
                    (row.max - row.min) / row.median * 100.0
                );
            }
        }
        out
    }

    /// Writes the rows as JSON.
    pub fn write(&self, path: &Path) -> Result<()> {
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        Ok(fs::write(path, serde_json::to_string_pretty(self)? + "\n")?)
    }
}

impl Machine {
    fn look() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let info = read("/proc/cpuinfo");
        let names = info.lines().filter_map(|l| l.strip_prefix("model name"));
        let mut names = names.map(|l| l.trim_start_matches([' ', '\t', ':']));
        Self {
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            processor: names.next().unwrap_or("unknown processor").to_owned(),
            processors: std::thread::available_parallelism().map_or(1, Into::into),
        }
    }
}

fn row(metric: Metric, contender: &'static str, values: &[f64]) -> Row {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let median = if sorted.len() % 2 == 1 {
        sorted[middle]
    } else {
        (sorted[middle - 1] + sorted[middle]) / 2.0
    };
    Row {
        metric: metric.name,
        contender,
        unit: metric.unit,
        median,
        min: sorted[0],
        max: sorted[sorted.len() - 1],
    }
}

fn markdown(lines: &[Vec<String>]) -> String {
    let columns = lines.first().map_or(0, Vec::len);
    let width = |column: usize| lines.iter().map(|l| l[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = String::new();
    for (number, line) in lines.iter().enumerate() {
        for (text, width) in line.iter().zip(&widths) {
            let _ = write!(out, "| {text:<width$} ");
        }
        out.push_str("|\n");
        if number == 0 {
            for width in &widths {
                let _ = write!(out, "|{}", "-".repeat(width + 2));
            }
            out.push_str("|\n");
        }
    }
    out
}

fn number(value: f64) -> String {
    match value.abs() {
        v if v >= 1000.0 => format!("{value:.0}"),
        v if v >= 100.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn cell(row: Option<&Row>) -> String {
    row.map_or("-".to_owned(), |r| {
        format!(
            "{} ({} - {})",
            number(r.median),
            number(r.min),
            number(r.max)
        )
    })
}

fn ratio(a: Option<&Row>, b: Option<&Row>) -> String {
    match (a, b) {
        (Some(a), Some(b)) if b.median > 0.0 => format!("{:.2}", a.median / b.median),
        _ => "-".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_medians_ratios_and_a_word_about_unrest() {
        let mut samples = Samples::default();
        let stream = Metric::new("stream1_gbps", "Gbit/s");
        for value in [10.0, 20.0, 12.0] {
            samples.add(stream, "raw", value);
            samples.add(stream, "ambit", value / 2.0);
        }
        let report = Report::new(&samples);
        let expected = Row {
            metric: "stream1_gbps",
            contender: "ambit",
            unit: "Gbit/s",
            median: 6.0,
            min: 5.0,
            max: 10.0,
        };
        assert_eq!(report.rows[1], expected);
        let table = report.table(&Peers {
            steady: Some("raw"),
            ratios: &["raw"],
            note: "",
        });
        assert!(table.contains("6.00 (5.00 - 10.00)"), "{table}");
        assert!(table.contains("0.50"), "{table}");
        assert!(table.contains("not quiet"), "{table}");
    }
}
