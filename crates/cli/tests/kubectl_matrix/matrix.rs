//! The commands, and the recorded answers to them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

/// A command line.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Command {
    /// The arguments.
    pub run: String,
    /// Standard input.
    #[serde(default)]
    pub input: String,
    /// The first minor version of kubectl that has it.
    #[serde(default)]
    pub since: u32,
    /// Only lines that match are compared.
    pub lines: Option<String>,
    /// It is ended when its output contains this.
    pub until: Option<String>,
    /// Why ours may print something else.
    pub differs: Option<String>,
}

/// How a command ended, and what it printed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Exit code; none where it was ended.
    pub code: Option<i32>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub out: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub err: String,
}

/// All answers to one command.
#[derive(Debug, Serialize, Deserialize)]
struct Recorded {
    run: String,
    answers: Vec<Shared>,
}

/// An answer that some versions share.
#[derive(Debug, Serialize, Deserialize)]
struct Shared {
    clients: BTreeSet<u32>,
    #[serde(flatten)]
    answer: Answer,
}

/// Answers by command and version of kubectl.
#[derive(Debug, Default)]
pub struct Matrix(Vec<Recorded>);

pub fn commands() -> Result<Vec<Command>> {
    let file = folder().join("commands.yaml");
    serde_saphyr::from_str(&std::fs::read_to_string(&file)?)
        .with_context(|| format!("{} is not as it should be", file.display()))
}

impl Matrix {
    pub fn read(commands: &[Command]) -> Result<Self> {
        let recorded: Vec<Recorded> = serde_saphyr::from_str(&std::fs::read_to_string(file())?)?;
        let same = recorded.len() == commands.len()
            && recorded.iter().zip(commands).all(|(r, c)| r.run == c.run);
        ensure!(
            same,
            "other commands than the recorded ones: `RECORD=1 make kube-kubectl` records them"
        );
        Ok(Self(recorded))
    }

    /// Whether this version was among the recorded ones.
    pub fn knows(&self, client: u32) -> bool {
        let mut all = self.0.iter().flat_map(|recorded| &recorded.answers);
        all.any(|shared| shared.clients.contains(&client))
    }

    /// What a version answered to the command with this number; none where it has no such command.
    pub fn answer(&self, client: u32, number: usize) -> Option<&Answer> {
        let all = &self.0.get(number)?.answers;
        let shared = all.iter().find(|shared| shared.clients.contains(&client));
        shared.map(|shared| &shared.answer)
    }

    /// Takes the answers of a version, one per command.
    pub fn add(&mut self, client: u32, commands: &[Command], answers: Vec<Option<Answer>>) {
        self.0
            .extend(commands.iter().skip(self.0.len()).map(|command| Recorded {
                run: command.run.clone(),
                answers: Vec::new(),
            }));
        for (recorded, answer) in self.0.iter_mut().zip(answers) {
            let Some(answer) = answer else { continue };
            match recorded.answers.iter_mut().find(|s| s.answer == answer) {
                Some(shared) => drop(shared.clients.insert(client)),
                None => recorded.answers.push(Shared {
                    clients: BTreeSet::from([client]),
                    answer,
                }),
            }
        }
    }

    pub fn write(&self) -> Result<()> {
        let text = serde_saphyr::to_string(&self.0)?;
        let head =
            "# What kubectl printed on a real Kubernetes, by its minor version: see main.rs.\n";
        Ok(std::fs::write(file(), format!("{head}{text}"))?)
    }
}

fn file() -> PathBuf {
    folder().join("recorded.yaml")
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kubectl_matrix")
}
