//! The Gateway API's conformance suite (`tests/conformance`) on a local cluster with the mesh.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

use crate::demo::shell::{self, Shell};
use crate::kube::{Interrupt, conformance as build, supervise};

/// The namespaces that the suite's mesh profiles make.
const NAMESPACES: [&str; 2] = [
    "gateway-conformance-mesh",
    "gateway-conformance-mesh-consumer",
];
const CLUSTER: &str = "conformance";

/// Options of the run.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Keep the report in docs/conformance
    #[arg(long)]
    record: bool,
    /// Leave the cluster up at the end
    #[arg(long)]
    keep: bool,
    /// One test of the suite, by its short name
    test: Option<String>,
}

/// Runs the suite. Returns whether it passed.
///
/// # Errors
/// When the suite does not build, or the cluster does not come up.
pub fn run(root: &Path, args: &Args) -> anyhow::Result<bool> {
    let interrupt = Interrupt::watch()?;
    let program = build(root)?;
    let folder = std::env::temp_dir().join(format!("ambit-conformance-{}", std::process::id()));
    std::fs::create_dir_all(&folder).context("cannot make a folder for the run")?;
    let shell = Shell::new(root, &folder)?;
    let passed = prepare(&shell).and_then(|()| {
        println!(
            "{}\nA minute or two; what fails is shown with its log.",
            shell::heading("The suite")
        );
        let report = report(root, args.record)?;
        let mut suite = Command::new(program);
        suite
            .current_dir(root.join("tests/conformance"))
            .env("KUBECONFIG", folder.join("kubeconfig"))
            .arg("-test.timeout=30m")
            .arg("-conformance-options-file=mesh.yaml")
            .arg("-cleanup-base-resources=false");
        match &args.test {
            // A report of one test would say that the rest was left out.
            Some(test) => suite.args(["-test.v", &format!("-run-test={test}")]),
            None => suite.arg(format!("-report-output={}", report.display())),
        };
        supervise::to_end(&mut suite, &interrupt)
    });
    if args.keep {
        shell.how_to_go_on(CLUSTER);
    } else {
        shell.show(&format!("ambit local down --name {CLUSTER}"))?;
        std::fs::remove_dir_all(&folder).context("cannot remove the folder of the run")?;
    }
    passed
}

/// Brings up a cluster with the mesh, and a waypoint in each namespace that the suite will use.
fn prepare(shell: &Shell) -> anyhow::Result<()> {
    println!("{}", shell::heading("A cluster with waypoints"));
    shell.show(&format!("ambit local up --name {CLUSTER}"))?;
    shell.show("ambit install --set profile=ambient -y")?;
    for namespace in NAMESPACES {
        shell.show(&format!("kubectl create namespace {namespace}"))?;
        shell.show(&format!("ambit waypoint apply -n {namespace} --wait"))?;
    }
    Ok(())
}

/// Where the suite writes its report.
fn report(root: &Path, record: bool) -> anyhow::Result<PathBuf> {
    let folder = root.join(if record {
        "docs/conformance"
    } else {
        "target/conformance"
    });
    std::fs::create_dir_all(&folder).context("cannot make the folder of the report")?;
    Ok(folder.join("mesh.yaml"))
}
