//! `install`: renders the charts and brings them into the cluster.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::time::Duration;

use ambit_charts::{ComponentKind, render_mesh};
use ambit_operator::{Event, InstallOptions, install};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use parking_lot::Mutex;

use super::kube_flags::KubeFlags;
use super::manifest::MeshFlags;
use super::output::{DATA, FAILURE, confirm, fail};

/// Arguments of `install`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    mesh: MeshFlags,
    /// Do not ask
    #[arg(short = 'y', long = "skip-confirmation")]
    skip_confirmation: bool,
    /// How long a component may take to become ready
    #[arg(long, default_value = "300s", value_parser = duration)]
    readiness_timeout: Duration,
    /// Let the cluster check everything and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Leave the definitions of the Gateway API to somebody else
    #[arg(long)]
    skip_gateway_api: bool,
    /// Has no effect: install always waits until everything is ready
    #[arg(long, hide = true)]
    verify: bool,
    #[command(flatten)]
    kube: KubeFlags,
}

fn duration(text: &str) -> Result<Duration, String> {
    ambit_runtime::config::parse_duration(text).map_err(|e| e.to_string())
}

/// Runs `install`.
pub async fn run(args: Args) -> anyhow::Result<i32> {
    let options = match args.mesh.options() {
        Ok(options) => options,
        Err(error) => return fail(DATA, error),
    };
    let manifest = match render_mesh(&options) {
        Ok(manifest) => manifest,
        Err(error) => return fail(FAILURE, error),
    };
    for warning in &manifest.warnings {
        println!("❗ {warning}");
    }
    let client = match args.kube.client().await {
        Ok(client) => client,
        Err(error) => return fail(FAILURE, error),
    };
    let version = ambit_runtime::build_info::build_info().version;
    let question = format!(
        "This will install the Ambit {version} profile \"{}\" into the cluster. Proceed?",
        manifest.profile
    );
    if !args.skip_confirmation && !args.dry_run && !confirm(&question) {
        println!("Cancelled.");
        return Ok(FAILURE);
    }
    let display = Display::new();
    let options = InstallOptions {
        readiness_timeout: args.readiness_timeout,
        dry_run: args.dry_run,
        gateway_api: !args.skip_gateway_api,
    };
    if let Err(error) = install(&client, &manifest, &options, &|event| display.show(event)).await {
        display.clear();
        return fail(FAILURE, error);
    }
    display.clear();
    println!("✔ Installation complete");
    if manifest
        .components
        .iter()
        .any(|c| c.kind == ComponentKind::Ztunnel)
    {
        println!(
            "The {} profile has been installed successfully, enjoy Istio without sidecars!",
            manifest.profile
        );
    }
    Ok(0)
}

/// Spinners on a terminal; elsewhere only what has come to an end.
struct Display {
    all: MultiProgress,
    bars: Mutex<HashMap<ComponentKind, ProgressBar>>,
}

impl Display {
    fn new() -> Self {
        let target = match std::io::stdout().is_terminal() {
            true => ProgressDrawTarget::stdout(),
            false => ProgressDrawTarget::hidden(),
        };
        Self {
            all: MultiProgress::with_draw_target(target),
            bars: Mutex::default(),
        }
    }

    fn show(&self, event: Event) {
        match event {
            Event::Processing(kind) => {
                let bar = self.all.add(ProgressBar::new_spinner());
                if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
                    bar.set_style(style);
                }
                bar.enable_steady_tick(Duration::from_millis(120));
                bar.set_message(format!("Processing resources for {}.", noun(kind)));
                self.bars.lock().insert(kind, bar);
            }
            Event::Waiting(kind, objects) => {
                if let Some(bar) = self.bars.lock().get(&kind) {
                    let waiting = objects.join(", ");
                    bar.set_message(format!(
                        "Processing resources for {}. Waiting for {waiting}",
                        noun(kind)
                    ));
                }
            }
            Event::Installed(kind) => self.end(kind, &format!("✔ {}", done(kind))),
            Event::Failed(kind, error) => {
                self.end(
                    kind,
                    &format!("✘ {} encountered an error: {error}", noun(kind)),
                );
            }
            Event::GatewayApi => self.line("✔ Gateway API definitions installed"),
            Event::Pruning => {}
            Event::Pruned(object) => self.line(&format!("- Pruned {object}")),
        }
    }

    fn end(&self, kind: ComponentKind, line: &str) {
        if let Some(bar) = self.bars.lock().remove(&kind) {
            bar.finish_and_clear();
        }
        self.line(line);
    }

    fn line(&self, line: &str) {
        self.all.suspend(|| println!("{line}"));
    }

    fn clear(&self) {
        let _ = self.all.clear();
    }
}

fn noun(kind: ComponentKind) -> &'static str {
    match kind {
        ComponentKind::Base => "Istio core",
        ComponentKind::Pilot => "Istiod",
        ComponentKind::Cni => "CNI",
        ComponentKind::Ztunnel => "Ztunnel",
    }
}

fn done(kind: ComponentKind) -> &'static str {
    match kind {
        ComponentKind::Base => "Istio core installed ⛵️",
        ComponentKind::Pilot => "Istiod installed 🧠",
        ComponentKind::Cni => "CNI installed 🪢",
        ComponentKind::Ztunnel => "Ztunnel installed 🔒",
    }
}
