//! One area: all cases of a file, against the recorded answers.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use futures_util::{StreamExt, stream};
use serde_json::Value;

use crate::{
    case::{Case, folder},
    compare::{Known, differences},
    run,
    target::Target,
    upstream,
};

/// Cases that run at the same time.
const TOGETHER: usize = 8;
/// Differences shown of one answer.
const SHOWN: usize = 12;

/// The answers of each case.
type Answers = BTreeMap<String, Vec<Value>>;
/// Why cases have no answers.
type Failures = Vec<String>;

/// Runs an area and compares, or records.
pub async fn check(area: &str) {
    let cases = Case::load(area);
    let needs_upstream = |case: &Case| case.given.iter().any(|s| s.definitions.is_some());
    if cases.iter().any(needs_upstream) && upstream::folder().is_none() {
        return;
    }
    let target = Target::find().await;
    let (found, failures) = answers(&target, area, &cases).await;
    if std::env::var_os("ORACLE_RECORD").is_some() {
        assert!(
            target.is_real(),
            "only the real server's answers are recorded"
        );
        assert!(failures.is_empty(), "{}", failures.join("\n"));
        return write(&path(area), &found);
    }
    let known = match target.is_real() {
        true => Vec::new(),
        false => Known::load(area),
    };
    let mut complaints = complaints(&recorded(area), &found, &known);
    complaints.extend(failures);
    if complaints.is_empty() {
        return;
    }
    let all = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{area}.json"));
    write(&all, &found);
    panic!(
        "{} answers differ from the recorded ones:\n{}\nAll that came is in {}.",
        complaints.len(),
        complaints.join("\n"),
        all.display()
    );
}

async fn answers(target: &Target, area: &str, cases: &[Case]) -> (Answers, Failures) {
    let one = async |(number, case): (usize, &Case)| {
        let namespace = format!("{}-{number}", area.replace('_', "-"));
        (case.case.clone(), run::case(target, &namespace, case).await)
    };
    let all: Vec<_> = stream::iter(cases.iter().enumerate())
        .map(one)
        .buffer_unordered(TOGETHER)
        .collect()
        .await;
    let (mut answers, mut failures) = (Answers::new(), Failures::new());
    for (case, outcome) in all {
        match outcome {
            Ok(found) => drop(answers.insert(case, found)),
            Err(error) => failures.push(format!("{case}: {error:#}")),
        }
    }
    (answers, failures)
}

fn path(area: &str) -> PathBuf {
    folder().join("recorded").join(format!("{area}.json"))
}

fn write(path: &Path, answers: &Answers) {
    let text = serde_json::to_string_pretty(answers).expect("answers are JSON");
    std::fs::write(path, text + "\n").unwrap_or_else(|e| panic!("{path:?}: {e}"));
}

fn recorded(area: &str) -> Answers {
    let path = path(area);
    let text = std::fs::read_to_string(&path)
        .unwrap_or_else(|e| panic!("{path:?}: {e}; record with RECORD=1 make kube-api"));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{path:?}: {e}"))
}

/// What is not as recorded, and known differences that are none.
fn complaints(recorded: &Answers, found: &Answers, known: &[Known]) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut used = vec![false; known.len()];
    let names: std::collections::BTreeSet<&String> = recorded.keys().chain(found.keys()).collect();
    for case in names {
        let (Some(recorded), Some(found)) = (recorded.get(case), found.get(case)) else {
            complaints.push(format!("{case}: not both recorded and answered"));
            continue;
        };
        if recorded.len() != found.len() {
            complaints.push(format!("{case}: another number of answers"));
            continue;
        }
        for (recorded, found) in recorded.iter().zip(found) {
            let step = recorded["step"].as_str().unwrap_or_default();
            let mut all = differences(recorded, found);
            all.retain(|difference| {
                let at = known.iter().position(|k| k.covers(case, step, difference));
                at.map(|at| used[at] = true).is_none()
            });
            if !all.is_empty() {
                let lines: Vec<String> = all.iter().take(SHOWN).map(ToString::to_string).collect();
                let more = match all.len().saturating_sub(SHOWN) {
                    0 => String::new(),
                    more => format!("\n  and at {more} more places"),
                };
                complaints.push(format!("{case}: {step}\n{}{more}", lines.join("\n")));
            }
        }
    }
    for (known, used) in known.iter().zip(used) {
        if !used {
            complaints.push(format!("no such difference any more: {known:?}"));
        }
    }
    complaints
}
