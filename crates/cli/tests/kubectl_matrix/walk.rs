//! All commands with one kubectl.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use ambit_testkit::{Kubectl, words};
use anyhow::{Context, Result, bail};

use crate::common::Cluster;
use crate::matrix::{Answer, Command};
use crate::normalize::Normalizer;

/// No command takes longer.
const LIMIT: Duration = Duration::from_secs(120);

/// Runs them in order. None where the version has no such command.
pub fn all(
    cluster: &Cluster,
    client: &Kubectl,
    commands: &[Command],
) -> Result<Vec<Option<Answer>>> {
    println!("walking with kubectl {client}");
    let folder = tempfile::tempdir()?;
    std::fs::write(folder.path().join("sent"), "some text\n")?;
    std::fs::copy(cluster.kubeconfig(), folder.path().join("kubeconfig"))?;
    let walk = Walk {
        client,
        folder: folder.path(),
        namespace: format!("kc{}", client.minor),
        node: format!("{}-worker", cluster.name),
    };
    let normalizer = Normalizer::new(&walk.namespace, &cluster.name, folder.path())?;
    let mut answers = Vec::new();
    for command in commands {
        let applies = client.minor >= command.since;
        let answer = applies.then(|| walk.run(command)).transpose()?;
        let answer = answer.map(|answer| normalizer.answer(answer, command));
        answers.push(answer.transpose()?);
    }
    Ok(answers)
}

struct Walk<'a> {
    client: &'a Kubectl,
    folder: &'a Path,
    namespace: String,
    node: String,
}

impl Walk<'_> {
    fn filled_in(&self, text: &str) -> String {
        text.replace("NAMESPACE", &self.namespace)
            .replace("FOLDER", &self.folder.display().to_string())
            .replace("NODE", &self.node)
    }

    fn run(&self, command: &Command) -> Result<Answer> {
        let mut child = std::process::Command::new(&self.client.path)
            .args(["-n", &self.namespace])
            .args(words(&command.run).iter().map(|word| self.filled_in(word)))
            .env("HOME", self.folder)
            .env("KUBECONFIG", self.folder.join("kubeconfig"))
            .env("KUBE_EDITOR", "sed -i s/replaced/edited/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run {}", self.client.path.display()))?;
        let mut input = child.stdin.take().context("its input")?;
        input.write_all(self.filled_in(&command.input).as_bytes())?;
        drop(input);
        let output = read(child.stdout.take().context("its output")?);
        let errors = read(child.stderr.take().context("its errors")?);
        let (out, code) = self.to_the_end(&mut child, command, &output)?;
        let err = errors.iter().collect();
        Ok(Answer { code, out, err })
    }

    /// Waits for the command's end, or for what ends it.
    fn to_the_end(
        &self,
        child: &mut Child,
        command: &Command,
        output: &Receiver<String>,
    ) -> Result<(String, Option<i32>)> {
        let (mut out, end) = (String::new(), Instant::now() + LIMIT);
        loop {
            match output.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(more) => out.push_str(&more),
                Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => {
                    return Ok((out, child.wait()?.code()));
                }
                Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {
                    child.kill()?;
                    child.wait()?;
                    bail!(
                        "kubectl {} {}: not done in time: {out}",
                        self.client,
                        command.run
                    );
                }
            }
            let until = command.until.as_deref();
            if let Some((before, text)) =
                until.and_then(|text| Some((out.split_once(text)?.0, text)))
            {
                child.kill()?;
                child.wait()?;
                return Ok((format!("{before}{text}"), None));
            }
        }
    }
}

/// What comes, as it comes.
fn read(mut from: impl Read + Send + 'static) -> Receiver<String> {
    let (send, receive) = channel();
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
            if send.send(text).is_err() {
                return;
            }
        }
    });
    receive
}
