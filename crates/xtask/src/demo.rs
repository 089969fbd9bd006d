//! The walk: one cluster, one mesh, Bookinfo, from plaintext to mutual TLS and back. Every command is
//! printed as a user would type it, with its output, and every step checks what it claims.

use std::path::{Path, PathBuf};
use std::time::Instant;

use ambit_testkit::Snapshot;
use anyhow::{Context, ensure};

mod link;
pub mod shell;
mod steps;
mod waypoint;

use shell::Shell;

use crate::kube::RealCluster;

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
    /// Walk on a real Kubernetes, with kubelet and containerd (needs Go, see docs/testing.md)
    #[arg(long, conflicts_with_all = ["kubernetes", "keep"])]
    real: bool,
    /// Leave out the step that enrolls the namespace: shows that the checks can fail
    #[arg(long)]
    without_enrolment: bool,
}

/// What a step does, in the words of the summary, and how.
type Step = (&'static str, fn(&Walk) -> anyhow::Result<String>);

/// What the steps share.
pub struct Walk {
    shell: Shell,
    cluster: Cluster,
}

/// What the walk goes through.
enum Cluster {
    /// `ambit local`, under this name; with a folder of programs, under a real control plane.
    Local(String, Option<PathBuf>),
    /// A real one.
    Real(Box<RealCluster>),
}

/// Walks. Returns whether every check held.
///
/// # Errors
/// When the demo cannot begin.
pub fn run(root: &Path, args: &Args) -> anyhow::Result<bool> {
    let folder = std::env::temp_dir().join(format!("ambit-demo-{}", std::process::id()));
    std::fs::create_dir_all(&folder).context("cannot make a folder for the demo")?;
    let before = Snapshot::take()?;
    let walk = Walk::begin(root, &folder, args)?;
    println!("This demo uses {}.", walk.shell.kubectl_name());

    let rows = walk.steps(args);
    let passed = rows.iter().all(|row| row.outcome.is_ok());
    if !passed {
        walk.diagnose();
    }
    let down = if args.keep {
        walk.shell.how_to_go_on(&args.name);
        Ok(())
    } else {
        let down = walk.down(&before);
        let _ = std::fs::remove_dir_all(&folder);
        down
    };
    summary(&rows);
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
    fn begin(root: &Path, folder: &Path, args: &Args) -> anyhow::Result<Self> {
        let mut shell = Shell::new(root, folder)?;
        let cluster = if args.real {
            println!("{}", shell::heading("Start a real Kubernetes"));
            let real = RealCluster::start(root, folder)?;
            shell.enter(&real)?;
            Cluster::Real(Box::new(real))
        } else {
            let programs = args.kubernetes.then(|| crate::kube::programs(root));
            Cluster::Local(args.name.clone(), programs.transpose()?)
        };
        Ok(Self { shell, cluster })
    }

    /// All steps, up to the first that fails.
    fn steps(&self, args: &Args) -> Vec<Row> {
        let mut rows = Vec::new();
        let more = match self.cluster {
            Cluster::Local(..) => &[],
            Cluster::Real(_) => steps::REAL,
        };
        for (title, step) in steps::ALL.iter().chain(more) {
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
        if let Cluster::Real(real) = &self.cluster {
            println!("{}", real.tails());
        }
    }

    /// The link between the host and the cluster, which is numbered like its addresses.
    fn host_link(&self, name: &str) -> Option<String> {
        let status = format!("ambit local status --name {name} -o json");
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
    fn down(self, before: &Snapshot) -> anyhow::Result<()> {
        println!("\n{}", shell::heading("Take the cluster down"));
        let (marks, link) = match &self.cluster {
            Cluster::Local(name, _) => {
                let link = self.host_link(name);
                self.shell
                    .show(&format!("ambit local down --name {name}"))?;
                (vec![format!("-{name}")], link)
            }
            Cluster::Real(_) => {
                // Its cgroups, and the folders that its processes were given.
                let own = std::process::id();
                let names = ["ambit-real", "ambit-kube", "ambit-demo"];
                (names.map(|name| format!("{name}-{own}")).to_vec(), None)
            }
        };
        let Self { shell, cluster } = self;
        drop(cluster);
        let ours = |item: &str| {
            marks.iter().any(|mark| item.contains(mark)) || link.as_deref() == Some(item)
        };
        shell.wait(10, || {
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
