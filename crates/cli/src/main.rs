//! The ambit program: every role and every command. It parses, starts the right part, and turns its
//! end into an exit code; no decision is made here.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

mod commands;
mod entries;
mod kubectl;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Exit code for a command that cannot be understood (EX_USAGE of sysexits.h, as istioctl has it).
const USAGE: u8 = 64;

/// An ambient service mesh: Istio's ambient mode, on Kubernetes or on this machine alone.
#[derive(Debug, Parser)]
#[command(name = "ambit", version = ambit_runtime::build_info::build_info().version, propagate_version = true)]
#[command(after_help = "Examples:
  ambit local up                           a cluster on this machine
  ambit install --set profile=ambient -y   the mesh
  kubectl label namespace shop istio.io/dataplane-mode=ambient
  ambit waypoint apply -n shop --enroll-namespace
  ambit ztunnel-config workloads           who is reached how")]
struct Ambit {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
#[expect(clippy::large_enum_variant, reason = "one value, made once")]
enum Command {
    /// Install or change the mesh
    #[command(visible_alias = "apply")]
    Install(commands::install::Args),
    /// Remove the mesh
    Uninstall(commands::uninstall::Args),
    /// Render manifests without installing them
    Manifest(commands::manifest::Args),
    /// Waypoints: apply, generate, list, status, delete
    #[command(visible_alias = "wp")]
    Waypoint(commands::waypoint::Args),
    /// What the node proxies know
    #[command(visible_alias = "zc")]
    ZtunnelConfig(commands::ztunnel_config::Args),
    /// What a waypoint knows and does
    #[command(visible_alias = "pc")]
    ProxyConfig(commands::proxy_config::Args),
    /// Versions of this program and of the mesh
    Version(commands::version::Args),
    /// A cluster on this machine, with nothing installed
    Local(ambit_local::Command),
    /// The verbs of kubectl that the walkthroughs use, where kubectl is not installed
    #[command(disable_help_flag = true)]
    Kubectl {
        /// What follows is kubectl's command line
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Completion for a shell
    Completion {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Run a sample service
    #[command(subcommand)]
    Sample(ambit_samples::Sample),
    /// Run the node proxy
    Ztunnel(entries::Ignored),
    /// Run the control plane
    Istiod(ambit_control::Args),
    /// Run the node agent
    Cni(ambit_cni::agent::Args),
}

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    // Helpers of the local cluster come first: some must run before any thread exists.
    if let Some(code) = entries::reserved(&args) {
        return code;
    }
    match Ambit::try_parse_from(entries::by_name(args)) {
        Ok(ambit) => start(ambit.command),
        Err(error) => {
            let _ = error.print();
            ExitCode::from(if error.use_stderr() { USAGE } else { 0 })
        }
    }
}

fn start(command: Command) -> ExitCode {
    match command {
        // Its own runtimes: the data path is apart from everything else.
        Command::Ztunnel(_) => end(ambit_ztunnel::run().map(|()| 0)),
        Command::Waypoint(args) if args.is_role() => end(ambit_l7::run().map(|()| 0)),
        Command::Completion { shell } => {
            clap_complete::generate(
                shell,
                &mut Ambit::command(),
                "ambit",
                &mut std::io::stdout(),
            );
            ExitCode::SUCCESS
        }
        other => {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .enable_all()
                .build();
            match runtime {
                Ok(runtime) => end(runtime.block_on(run(other))),
                Err(error) => end(Err(error.into())),
            }
        }
    }
}

async fn run(command: Command) -> anyhow::Result<i32> {
    match command {
        Command::Install(args) => commands::install::run(args).await,
        Command::Uninstall(args) => commands::uninstall::run(args).await,
        Command::Manifest(args) => commands::manifest::run(args).await,
        Command::Waypoint(args) => commands::waypoint::run(args).await,
        Command::ZtunnelConfig(args) => commands::ztunnel_config::run(args).await,
        Command::ProxyConfig(args) => commands::proxy_config::run(args).await,
        Command::Version(args) => commands::version::run(args).await,
        Command::Kubectl { args } => kubectl::run(args).await,
        Command::Local(command) => ambit_local::run(command).await,
        Command::Sample(sample) => ambit_samples::run(sample).await,
        Command::Istiod(args) => Ok(ambit_control::run(args).await.map(|()| 0)?),
        Command::Cni(args) => Ok(ambit_cni::agent::run(args).await.map(|()| 0)?),
        Command::Ztunnel(_) | Command::Completion { .. } => Ok(0),
    }
}

/// The one place where an error becomes what a user sees.
fn end(outcome: anyhow::Result<i32>) -> ExitCode {
    match outcome {
        Ok(code) => ExitCode::from(u8::try_from(code).unwrap_or(1)),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
