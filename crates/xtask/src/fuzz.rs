//! Fuzzing with libFuzzer, with nothing but cargo: the instruments are flags of the compiler.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail, ensure};

/// Counters at every edge, and comparisons reported, as `cargo fuzz` sets them.
const INSTRUMENTS: &str = "--cfg fuzzing -Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares \
    -Ccodegen-units=1 -Cdebug-assertions -Coverflow-checks";

/// Which targets, and how long.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only these targets; the files of fuzz/targets have their names
    targets: Vec<String>,
    /// Seconds for each target
    #[arg(long, default_value_t = 60)]
    seconds: u32,
}

/// Fuzzes. What was found stays in target/fuzz: inputs that reach new code in `corpus`, inputs that
/// fail in `failures`.
///
/// # Errors
/// When the targets do not build, or one of the names is none of theirs.
pub fn run(root: &Path, args: &Args) -> anyhow::Result<bool> {
    let all = targets(root)?;
    for name in &args.targets {
        ensure!(
            all.contains(name),
            "there is no target {name}: {}",
            all.join(", ")
        );
    }
    let chosen = all
        .iter()
        .filter(|name| args.targets.is_empty() || args.targets.contains(name));
    let folder = root.join("target/fuzz");
    let host = build(root, &folder)?;
    let mut passed = true;
    for name in chosen {
        println!("== {name}, {} s", args.seconds);
        let (corpus, failures) = (folder.join("corpus").join(name), folder.join("failures"));
        fs::create_dir_all(&corpus).and_then(|()| fs::create_dir_all(&failures))?;
        let status = Command::new(folder.join(&host).join("release").join(name))
            .arg(format!("-max_total_time={}", args.seconds))
            .arg(format!("-artifact_prefix={}/{name}-", failures.display()))
            .args([
                "-max_len=4096",
                "-timeout=10",
                "-print_final_stats=1",
                "-verbosity=0",
            ])
            .arg(&corpus)
            .arg(root.join("fuzz/corpus").join(name))
            .status()
            .with_context(|| format!("cannot run the target {name}"))?;
        passed &= status.success();
    }
    Ok(passed)
}

fn targets(root: &Path) -> anyhow::Result<Vec<String>> {
    let folder = root.join("fuzz/targets");
    let entries = fs::read_dir(&folder).context("cannot read fuzz/targets")?;
    let mut names: Vec<String> = entries
        .flatten()
        .filter_map(|entry| Some(entry.path().file_stem()?.to_str()?.to_owned()))
        .collect();
    names.sort();
    Ok(names)
}

/// Builds all targets. Returns the name of this machine's kind: with it named, build scripts and
/// macros are compiled without instruments.
fn build(root: &Path, folder: &Path) -> anyhow::Result<String> {
    let rustc = super::kube::printed(Command::new("rustc").arg("-vV"))?;
    let host = rustc.lines().find_map(|line| line.strip_prefix("host: "));
    let host = host.context("rustc does not say which machine this is")?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["build", "--release", "--target", host, "--manifest-path"])
        .arg(root.join("fuzz/Cargo.toml"))
        .arg("--target-dir")
        .arg(folder)
        .env("RUSTFLAGS", INSTRUMENTS)
        .status()
        .context("cannot run cargo")?;
    if !status.success() {
        bail!("the fuzz targets do not build: see above");
    }
    Ok(host.to_owned())
}
