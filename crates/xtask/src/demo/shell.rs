//! Commands as a user would type them: printed, run, and their output kept for the checks.

use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ambit_testkit::Namespace;
use anyhow::{Context, bail};
use owo_colors::OwoColorize as _;

use crate::kube::RealCluster;

/// Longer lines of a page are cut when they are shown.
const WIDTH: usize = 150;

/// Runs commands in the repository with the demo's own kubeconfig.
pub struct Shell {
    root: PathBuf,
    ambit: PathBuf,
    kubectl: Option<PathBuf>,
    kubeconfig: PathBuf,
    /// Where commands run, if not here.
    place: Option<Namespace>,
}

/// What a command printed, and its exit code.
pub struct Output {
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// Exit code; -1 for a process ended by a signal.
    pub code: i32,
}

fn colours() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

/// A line that begins a step.
pub fn heading(text: &str) -> String {
    if colours() {
        format!("── {text} ──").bold().to_string()
    } else {
        format!("== {text}")
    }
}

/// The mark of a check that holds.
pub fn good() -> String {
    if colours() {
        "✔".green().to_string()
    } else {
        "ok  ".to_owned()
    }
}

/// The mark of a check that does not.
pub fn bad() -> String {
    if colours() {
        "✘".red().to_string()
    } else {
        "FAIL".to_owned()
    }
}

impl Shell {
    /// A shell that finds `ambit` beside this program and keeps its files in `folder`.
    pub fn new(root: &Path, folder: &Path) -> anyhow::Result<Self> {
        let here = std::env::current_exe().context("cannot find this program")?;
        let ambit = here.with_file_name("ambit");
        if !ambit.exists() {
            bail!("{} is not there: run `make build` first", ambit.display());
        }
        let kubectl = std::env::var_os("PATH").and_then(|path| {
            std::env::split_paths(&path)
                .map(|p| p.join("kubectl"))
                .find(|p| p.exists())
        });
        let kubectl = std::env::var_os("KUBECTL").map(PathBuf::from).or(kubectl);
        Ok(Self {
            root: root.to_owned(),
            ambit,
            kubectl,
            kubeconfig: folder.join("kubeconfig"),
            place: None,
        })
    }

    /// From now on commands mean this cluster, and run where it can be reached.
    ///
    /// # Errors
    /// When its kubeconfig cannot be copied.
    pub fn enter(&mut self, cluster: &RealCluster) -> anyhow::Result<()> {
        std::fs::copy(cluster.kubeconfig(), &self.kubeconfig).context("cannot copy kubeconfig")?;
        self.kubectl = Some(cluster.kubectl_path());
        self.place = Some(cluster.place().clone());
        Ok(())
    }

    /// Which kubectl the demo uses.
    pub fn kubectl_name(&self) -> String {
        match &self.kubectl {
            Some(path) => format!("the kubectl at {}", path.display()),
            None => "`ambit kubectl`, because no kubectl is installed".to_owned(),
        }
    }

    /// Prints a command, runs it, prints what it printed, and returns it.
    ///
    /// # Errors
    /// When the exit code is not 0.
    pub fn show(&self, command: &str) -> anyhow::Result<String> {
        println!("$ {}", self.printed(command));
        let output = self.run(command)?;
        print_lines(&output.stdout);
        print_lines(&output.stderr);
        if output.code != 0 {
            bail!(
                "`{command}` ended with exit code {}: {}",
                output.code,
                output.stderr.trim()
            );
        }
        Ok(output.stdout)
    }

    /// Prints a command, runs it, and prints only the lines that `keep` chooses.
    ///
    /// # Errors
    /// When the exit code is not 0.
    pub fn show_lines(
        &self,
        command: &str,
        keep: impl Fn(&str) -> bool,
    ) -> anyhow::Result<Vec<String>> {
        let output = self.quiet(command)?;
        let lines: Vec<String> = output
            .lines()
            .filter(|l| keep(l))
            .map(str::to_owned)
            .collect();
        println!("$ {}", self.printed(command));
        for line in &lines {
            match line.char_indices().nth(WIDTH) {
                Some((end, _)) => println!("  {} …", &line[..end]),
                None => println!("  {line}"),
            }
        }
        Ok(lines)
    }

    /// Prints a command and what it printed, whatever its exit code.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn attempt(&self, command: &str) -> anyhow::Result<Output> {
        println!("$ {}", self.printed(command));
        let output = self.run(command)?;
        print_lines(&output.stdout);
        print_lines(&output.stderr);
        Ok(output)
    }

    /// Runs a command without printing anything.
    ///
    /// # Errors
    /// When the exit code is not 0.
    pub fn quiet(&self, command: &str) -> anyhow::Result<String> {
        let output = self.run(command)?;
        if output.code != 0 {
            bail!(
                "`{command}` ended with exit code {}: {}",
                output.code,
                output.stderr.trim()
            );
        }
        Ok(output.stdout)
    }

    /// Runs a command, printing nothing and judging nothing.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn run(&self, command: &str) -> anyhow::Result<Output> {
        let words = words(command);
        let (program, arguments) = words.split_first().context("an empty command")?;
        let mut process = self.program(program);
        let output = process
            .args(arguments)
            .current_dir(&self.root)
            .env("KUBECONFIG", &self.kubeconfig)
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("cannot run {program}"))?;
        Ok(Output {
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            code: output.status.code().unwrap_or(-1),
        })
    }

    /// Applies a manifest that stands in the program, as `kubectl apply -f -` would read it.
    ///
    /// # Errors
    /// When it is refused.
    pub fn apply(&self, manifest: &str) -> anyhow::Result<()> {
        let file = self.kubeconfig.with_file_name("manifest.yaml");
        std::fs::write(&file, manifest).context("cannot write the manifest")?;
        println!("$ {} apply -f - <<EOF", self.printed("kubectl"));
        print_lines(manifest);
        println!("EOF");
        let output = self.quiet(&format!("kubectl apply -f {}", file.display()))?;
        print_lines(&output);
        Ok(())
    }

    /// Repeats a check until it holds; returns what it found, or its last complaint.
    ///
    /// # Errors
    /// When it does not hold in time.
    pub fn wait<T>(
        &self,
        seconds: u64,
        mut check: impl FnMut() -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let end = Instant::now() + Duration::from_secs(seconds);
        loop {
            match check() {
                Err(_) if Instant::now() < end => {}
                other => return other.with_context(|| format!("waited for {seconds} s")),
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Says how somebody goes on with the cluster that was left up.
    pub fn how_to_go_on(&self, name: &str) {
        println!("\nThe cluster is still up. To go on:");
        println!("  export KUBECONFIG={}", self.kubeconfig.display());
        println!(
            "  export PATH={}:$PATH",
            self.ambit.parent().unwrap_or(&self.root).display()
        );
        println!("  {} get pods -A", self.printed("kubectl"));
        println!("  ambit ztunnel-config workloads");
        println!("To end it:\n  ambit local down --name {name}");
    }

    fn program(&self, name: &str) -> Command {
        let command = |path: &Path| match &self.place {
            None => Command::new(path),
            Some(place) => place.command(path),
        };
        match (name, &self.kubectl) {
            ("kubectl", Some(path)) => command(path),
            ("kubectl", None) => {
                let mut command = command(&self.ambit);
                command.arg("kubectl");
                command
            }
            ("ambit", _) => command(&self.ambit),
            (other, _) => command(Path::new(other)),
        }
    }

    fn printed(&self, command: &str) -> String {
        match &self.kubectl {
            None if command.starts_with("kubectl") => format!("ambit {command}"),
            _ => command.to_owned(),
        }
    }
}

fn print_lines(text: &str) {
    let mut out = String::new();
    for line in text.lines() {
        let _ = writeln!(out, "  {line}");
    }
    print!("{out}");
}

/// Words at spaces; single quotes keep a word together.
fn words(command: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for c in command.chars() {
        match c {
            '\'' => quoted = !quoted,
            ' ' if !quoted => words.push(String::new()),
            c => {
                if let Some(word) = words.last_mut() {
                    word.push(c);
                }
            }
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

#[cfg(test)]
mod tests {
    #[test]
    fn quotes_keep_words_together() {
        let words = super::words("kubectl get pods -o 'jsonpath={.items[0].metadata name}' -A");
        assert_eq!(words.len(), 6);
        assert_eq!(words[4], "jsonpath={.items[0].metadata name}");
    }
}
