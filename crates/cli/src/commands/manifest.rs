//! `manifest generate`: what install would apply, as YAML.

use std::path::PathBuf;

use ambit_charts::mesh::{apply_order, to_yaml};
use ambit_charts::{MeshOptions, Source, render_mesh};
use anyhow::Context;
use serde_json::Value;

use super::output::{DATA, FAILURE, fail};

/// Arguments of `manifest`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Print the objects that install would apply
    Generate(Generate),
}

#[derive(Debug, clap::Args)]
struct Generate {
    #[command(flatten)]
    mesh: MeshFlags,
    /// Write to this file instead of standard output
    #[arg(short, long)]
    output: Option<PathBuf>,
}

/// Flags that describe a mesh, shared with install.
#[derive(Clone, Debug, clap::Args)]
pub struct MeshFlags {
    /// IstioOperator file; repeat to put one on another, - for standard input
    #[arg(short = 'f', long = "filename")]
    files: Vec<PathBuf>,
    /// Set a value, for example profile=ambient or values.cni.ambient.dnsCapture=false
    #[arg(short, long)]
    set: Vec<String>,
    /// Go on although something in the description has no effect
    #[arg(long)]
    pub force: bool,
    /// Directory with the charts, instead of those of this program
    #[arg(short = 'd', long, visible_alias = "charts")]
    manifests: Option<PathBuf>,
    /// Control plane revision
    #[arg(short, long)]
    revision: Option<String>,
}

/// Why the description cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{0:#}")]
pub struct BadFile(anyhow::Error);

impl MeshFlags {
    /// What the charts crate renders.
    ///
    /// # Errors
    /// When a file cannot be read or is no YAML.
    pub fn options(&self) -> Result<MeshOptions, BadFile> {
        let mut files = Vec::new();
        for path in &self.files {
            let text = read(path).map_err(BadFile)?;
            let document: Value = serde_saphyr::from_str(&text)
                .map_err(|e| BadFile(anyhow::anyhow!("{}: {e}", path.display())))?;
            files.push(document);
        }
        // A release's folder holds charts/ beside profiles/; either level is accepted.
        let source = match &self.manifests {
            None => Source::Embedded,
            Some(folder) if folder.join("charts").is_dir() => {
                Source::Directory(folder.join("charts"))
            }
            Some(folder) => Source::Directory(folder.clone()),
        };
        Ok(MeshOptions {
            source,
            files,
            set: self.set.clone(),
            revision: self.revision.clone(),
            force: self.force,
        })
    }
}

fn read(path: &PathBuf) -> anyhow::Result<String> {
    if path.as_os_str() == "-" {
        return std::io::read_to_string(std::io::stdin()).context("standard input");
    }
    std::fs::read_to_string(path).with_context(|| path.display().to_string())
}

/// Runs `manifest`.
pub async fn run(args: Args) -> anyhow::Result<i32> {
    let Command::Generate(generate) = args.command;
    let options = match generate.mesh.options() {
        Ok(options) => options,
        Err(error) => return fail(DATA, error),
    };
    let manifest = match render_mesh(&options) {
        Ok(manifest) => manifest,
        Err(error) => return fail(FAILURE, error),
    };
    for warning in &manifest.warnings {
        eprintln!("❗ {warning}");
    }
    let mut objects: Vec<Value> = manifest
        .components
        .into_iter()
        .flat_map(|c| c.objects)
        .collect();
    objects.sort_by_key(apply_order);
    let text: String = objects
        .iter()
        .map(|o| format!("{}---\n", to_yaml(o)))
        .collect();
    match generate.output {
        Some(path) => {
            std::fs::write(&path, text).with_context(|| path.display().to_string())?;
        }
        None => print!("{text}"),
    }
    Ok(0)
}
