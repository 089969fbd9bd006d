//! The command `local` and its verbs.

mod down;
mod logs;
mod node;
mod output;
mod pause;
mod progress;
mod status;
mod up;

use std::io::Write;
use std::path::PathBuf;

use crate::error::{LocalError, Result, file};
use crate::state::{Folder, State};

/// The name of a cluster that nobody named.
const DEFAULT_NAME: &str = "ambit";

/// A Kubernetes cluster on this machine, with nothing installed.
#[derive(Debug, clap::Args)]
pub struct Command {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Make a cluster and point kubectl at it
    Up(up::Args),
    /// Remove a cluster and everything in it
    Down(Named),
    /// Show clusters, or the nodes of one
    Status(status::Args),
    /// Print a cluster's kubeconfig
    Kubeconfig(Named),
    /// Print logs of a cluster's own parts
    Logs(logs::Args),
    /// Switch a node off and on, or cut it off
    #[command(subcommand)]
    Node(node::Verb),
    /// Let a part of a cluster stand still, as a process that hangs
    Pause(pause::Args),
    /// Let a paused part go on
    Resume(pause::Args),
}

/// Which cluster.
#[derive(Debug, clap::Args)]
struct Named {
    /// The cluster's name
    #[arg(long, short = 'n', default_value = DEFAULT_NAME)]
    name: String,
}

/// Runs the command and returns the exit code of the process.
///
/// # Errors
/// What went wrong, with the next step.
pub async fn run(command: Command) -> anyhow::Result<i32> {
    // Much of it blocks, and some needs runtimes of its own.
    let done = tokio::task::spawn_blocking(move || match command.verb {
        Verb::Up(args) => up::run(&args),
        Verb::Down(args) => down::run(&args.name),
        Verb::Status(args) => status::run(&args),
        Verb::Kubeconfig(args) => kubeconfig(&args.name),
        Verb::Logs(args) => logs::run(&args),
        Verb::Node(verb) => node::run(&verb),
        Verb::Pause(args) => pause::pause(&args),
        Verb::Resume(args) => pause::resume(&args),
    });
    done.await??;
    Ok(0)
}

/// The folder of a cluster that is alive.
fn living(name: &str) -> Result<Folder> {
    let state = State::from_env();
    state.check_readable()?;
    let folder = state.folder(name);
    if folder.is_alive() {
        return Ok(folder);
    }
    let others = state
        .names()
        .into_iter()
        .filter(|other| state.folder(other).is_alive())
        .collect();
    Err(LocalError::NoCluster {
        name: name.to_owned(),
        others,
    })
}

fn kubeconfig(name: &str) -> Result<()> {
    let path: PathBuf = living(name)?.kubeconfig();
    let text = std::fs::read(&path).map_err(file("reading", path))?;
    print(&text)
}

/// Writes to standard output. A reader that has seen enough is no error.
fn print(bytes: &[u8]) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(file("writing", "standard output")(error))
        }
        _ => Ok(()),
    }
}
