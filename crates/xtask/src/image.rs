//! Container images without Docker and without a registry: an OCI archive of everything the charts
//! and the samples name.
//!
//! What an image is stands in one place, the catalogue of the local cluster
//! (`crates/local/src/catalogue.yaml`): the same entry that says which program of the host a name
//! means there says here which links, environment and user the real image has. Each image is made
//! from nothing: a layer with the one static program, shared by all, and a layer of its own.

mod archive;
mod closure;
mod root;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use ambit_node_agent::catalogue::{Catalogue, Image};
use anyhow::{Context, ensure};

use archive::{Archive, Packed};

/// The mesh's own images, as the charts name them.
const MESH: [&str; 4] = ["pilot", "proxyv2", "ztunnel", "install-cni"];

/// Which images to write, and where.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  cargo xtask image                                   the mesh's images, in target/images/ambit.tar
  cargo xtask image --hub localhost:5000 --tag dev    under other names
  cargo xtask image --samples                         with the images of samples/
  docker load -i target/images/ambit.tar              to Docker (or podman load, ctr images import)")]
pub struct Args {
    /// Registry and folder of the mesh's images
    #[arg(long, default_value = "docker.io/istio")]
    hub: String,
    /// Tag of the mesh's images
    #[arg(long, default_value = env!("CARGO_PKG_VERSION"))]
    tag: String,
    /// Also every image that the manifests in samples/ name
    #[arg(long)]
    samples: bool,
    /// Further names of the catalogue, such as registry.k8s.io/pause:3.10
    #[arg(long = "also", value_name = "IMAGE")]
    also: Vec<String>,
    /// Build profile of the programs
    #[arg(long, default_value = "dist")]
    profile: String,
    /// The archive to write
    #[arg(long, default_value = "target/images/ambit.tar")]
    output: PathBuf,
    /// Write each image's files to a folder below this one instead of an archive
    #[arg(long, value_name = "FOLDER")]
    unpacked: Option<PathBuf>,
}

/// Builds the programs and writes the images.
///
/// # Errors
/// When a program does not build, a name is not in the catalogue, or a file cannot be written.
pub fn run(repository: &Path, args: &Args) -> anyhow::Result<bool> {
    let programs = build(repository, &args.profile)?;
    let document = repository.join("crates/local/src/catalogue.yaml");
    let document = std::fs::read_to_string(&document)
        .with_context(|| format!("cannot read {}", document.display()))?;
    let catalogue = Catalogue::parse(&document, &programs)?;
    let base = root::base(&programs)?;
    if let Some(folder) = &args.unpacked {
        for name in names(repository, args)? {
            let folder = folder.join(short(&name));
            let own = root::own(&name, catalogue.lookup(&name)?)?;
            base.write_below(&folder)?;
            own.write_below(&folder)?;
            println!("{}", folder.display());
        }
        return Ok(true);
    }
    let output = repository.join(&args.output);
    let mut archive = Archive::create(&output)?;
    let base = archive.layer(&base)?;
    for name in names(repository, args)? {
        let image = catalogue.lookup(&name)?;
        let own = archive.layer(&root::own(&name, image)?)?;
        archive.image(&name, &packed(image, [base.clone(), own]))?;
        println!("{name}");
    }
    archive.finish()?;
    println!("written to {}", output.display());
    Ok(true)
}

/// Writes the images of the mesh, under the names of a registry, those of the samples, and some
/// more, built as for tests.
///
/// # Errors
/// As [`run`].
pub fn write_all(
    repository: &Path,
    (hub, tag): (&str, &str),
    also: &[&str],
    output: &Path,
) -> anyhow::Result<()> {
    let args = Args {
        hub: hub.to_owned(),
        tag: tag.to_owned(),
        samples: true,
        also: also.iter().map(ToString::to_string).collect(),
        profile: "dev".to_owned(),
        output: output.to_owned(),
        unpacked: None,
    };
    run(repository, &args).map(drop)
}

fn packed<const N: usize>(image: &Image, layers: [archive::Layer; N]) -> Packed {
    Packed {
        layers: layers.into(),
        entrypoint: image.entrypoint.clone(),
        cmd: image.cmd.clone(),
        env: image.env.iter().map(|(k, v)| format!("{k}={v}")).collect(),
        working_dir: image.working_dir.clone(),
        user: format!("{}:{}", image.uid, image.gid),
    }
}

/// The references to write, in order, each once.
fn names(repository: &Path, args: &Args) -> anyhow::Result<BTreeSet<String>> {
    let mesh = MESH
        .iter()
        .map(|name| format!("{}/{name}:{}", args.hub, args.tag));
    let mut names: BTreeSet<String> = mesh.chain(args.also.iter().cloned()).collect();
    if args.samples {
        named_by(&repository.join("samples"), &mut names)?;
    }
    Ok(names)
}

/// What stands behind `image:` in the manifests below a folder.
fn named_by(folder: &Path, names: &mut BTreeSet<String>) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            named_by(&path, names)?;
        } else if path.extension().is_some_and(|e| e == "yaml") {
            let text = std::fs::read_to_string(&path)?;
            let images = text.lines().filter_map(|line| {
                let line = line.trim_start().trim_start_matches("- ");
                line.strip_prefix("image:")
            });
            names.extend(images.map(|image| image.trim().trim_matches('"').to_owned()));
        }
    }
    Ok(())
}

/// `pilot` of `docker.io/istio/pilot:1`.
fn short(name: &str) -> &str {
    let last = name.rsplit('/').next().unwrap_or(name);
    last.split(':').next().unwrap_or(last)
}

/// Builds the two programs that images are made of, statically linked.
fn build(repository: &Path, profile: &str) -> anyhow::Result<BTreeMap<String, PathBuf>> {
    let mut programs = BTreeMap::new();
    for (package, binary) in [("ambit-cli", "ambit"), ("ambit-cni-plugin", "istio-cni")] {
        let status = Command::new(env!("CARGO"))
            .args([
                "rustc",
                "--profile",
                profile,
                "--package",
                package,
                "--bin",
                binary,
            ])
            .args(["--", "-C", "target-feature=+crt-static"])
            .current_dir(repository)
            .status()
            .context("cannot run cargo")?;
        ensure!(status.success(), "{binary} did not build");
        let folder = if profile == "dev" { "debug" } else { profile };
        programs.insert(
            binary.to_owned(),
            repository.join("target").join(folder).join(binary),
        );
    }
    Ok(programs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_samples_name_images_of_the_catalogue() {
        let repository = crate::repository();
        let document = std::fs::read_to_string(repository.join("crates/local/src/catalogue.yaml"));
        let programs = ["ambit", "istio-cni"].map(|p| (p.to_owned(), PathBuf::from("/p")));
        let catalogue = Catalogue::parse(&document.unwrap(), &programs.into()).unwrap();
        let mut names = BTreeSet::new();
        named_by(&repository.join("samples"), &mut names).unwrap();
        assert!(names.len() > 8, "{names:?}");
        for name in names {
            catalogue.lookup(&name).unwrap();
        }
    }

    #[test]
    fn a_short_name() {
        assert_eq!(short("localhost:5000/a/pilot:1.2"), "pilot");
        assert_eq!(short("pilot"), "pilot");
    }
}
