//! The walk: one cluster, one mesh, Bookinfo, from plaintext to mutual TLS and back. Every command is
//! printed as a user would type it, with its output, and every step checks what it claims.

use std::path::{Path, PathBuf};
use std::time::Instant;

use ambit_testkit::Snapshot;
use anyhow::{Context, ensure};

mod link;
mod shell;
mod steps;

use shell::Shell;

/// Options of the demo.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Leave the cluster up at the end
    #[arg(long)]
    keep: bool,
    /// Name of the cluster
    #[arg(long, default_value = "demo")]
    name: String,
    /// Put a real Kubernetes control plane in the place of ours (needs Go, see docs/testing.md)
    #[arg(long)]
    kubernetes: bool,
    /// Leave out the step that enrolls the namespace: shows that the checks can fail
    #[arg(long)]
    without_enrolment: bool,
}

/// What a step does, in the words of the summary, and how.
type Step = (&'static str, fn(&Walk) -> anyhow::Result<String>);

/// What the steps share.
pub struct Walk {
    shell: Shell,
    name: String,
    /// The folder with the programs of a real control plane.
    kubernetes: Option<PathBuf>,
}

/// Walks. Returns whether every check held.
///
/// # Errors
/// When the demo cannot begin.
pub fn run(root: &Path, args: &Args) -> anyhow::Result<bool> {
    let folder = std::env::temp_dir().join(format!("ambit-demo-{}", std::process::id()));
    std::fs::create_dir_all(&folder).context("cannot make a folder for the demo")?;
    let kubernetes = match args.kubernetes {
        true => Some(crate::kube::programs(root)?),
        false => None,
    };
    let walk = Walk {
        shell: Shell::new(root, &folder)?,
        name: args.name.clone(),
        kubernetes,
    };
    println!("This demo uses {}.", walk.shell.kubectl_name());
    let before = Snapshot::take()?;

    let rows = walk.steps(args);
    let passed = rows.iter().all(|row| row.outcome.is_ok());
    if !passed {
        walk.diagnose();
    }
    let down = if args.keep {
        Ok(())
    } else {
        walk.down(&before)
    };
    if !args.keep {
        let _ = std::fs::remove_dir_all(&folder);
    }
    summary(&rows);
    if args.keep {
        walk.shell.how_to_go_on(&args.name);
    }
    if let Err(error) = &down {
        println!("The cluster could not be taken down: {error:#}");
    }
    Ok(passed && down.is_ok())
}

/// One line of the summary.
struct Row {
    title: &'static str,
    outcome: anyhow::Result<String>,
    seconds: f64,
}

impl Walk {
    /// All steps, up to the first that fails.
    fn steps(&self, args: &Args) -> Vec<Row> {
        let mut rows = Vec::new();
        for (title, step) in steps::ALL {
            if args.without_enrolment && *title == steps::ENROLMENT {
                continue;
            }
            println!("\n{}", shell::heading(title));
            let began = Instant::now();
            let outcome = step(self);
            match &outcome {
                Ok(found) => println!("{} {found}", shell::good()),
                Err(error) => println!("{} {error:#}", shell::bad()),
            }
            let failed = outcome.is_err();
            rows.push(Row {
                title,
                outcome,
                seconds: began.elapsed().as_secs_f64(),
            });
            if failed {
                break;
            }
        }
        rows
    }

    /// Prints what somebody would look at first.
    fn diagnose(&self) {
        println!("\n{}", shell::heading("What the cluster looks like"));
        for command in [
            "kubectl get pods -A -o wide",
            "kubectl get events -A",
            "kubectl logs -n istio-system -l app=istiod --tail=30",
            "kubectl logs -n istio-system -l k8s-app=istio-cni-node --tail=30",
            "kubectl logs -n istio-system -l app=ztunnel --tail=30",
        ] {
            let _ = self.shell.show(command);
        }
    }

    /// The link between the host and the cluster, which is numbered like its addresses.
    fn host_link(&self) -> Option<String> {
        let status = format!("ambit local status --name {} -o json", self.name);
        let status: serde_json::Value =
            serde_json::from_str(&self.shell.quiet(&status).ok()?).ok()?;
        let number = status["loadBalancers"]
            .as_str()?
            .split('.')
            .nth(2)?
            .to_owned();
        Some(format!("link ambit{number}"))
    }

    /// Takes the cluster down and looks whether anything of it is left on this machine.
    fn down(&self, before: &Snapshot) -> anyhow::Result<()> {
        let link = self.host_link();
        println!("\n{}", shell::heading("Take the cluster down"));
        self.shell
            .show(&format!("ambit local down --name {}", self.name))?;
        let cluster = format!("-{}", self.name);
        let ours = |item: &str| item.contains(&cluster) || link.as_deref() == Some(item);
        self.shell.wait(10, || {
            let left = Snapshot::take()?.left_since(before, ours);
            ensure!(left.is_empty(), "left behind: {}", left.join(", "));
            Ok(())
        })?;
        println!("{} nothing is left behind", shell::good());
        Ok(())
    }
}

fn summary(rows: &[Row]) {
    println!("\n{}", shell::heading("Summary"));
    for row in rows {
        let (mark, text) = match &row.outcome {
            Ok(found) => (shell::good(), found.clone()),
            Err(error) => (shell::bad(), format!("{error:#}")),
        };
        let text = text.lines().next().unwrap_or_default().to_owned();
        println!("{mark} {:<56} {:>5.1} s  {text}", row.title, row.seconds);
    }
    match rows.iter().find(|row| row.outcome.is_err()) {
        None => println!("\nAll {} steps passed.", rows.len()),
        Some(row) => println!("\nThe step \"{}\" failed.", row.title),
    }
}
