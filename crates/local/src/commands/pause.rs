//! `ambit local pause` and `resume`: processes that hang.

use super::living;
use super::output::{Format, show};
use crate::control::ask;
use crate::error::Result;
use crate::faults::{self, Request};

/// Which part.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A paused part keeps its sockets and its memory and does nothing (SIGSTOP). On a node that
is its agent, the kubelet with the service proxy: pods go on.

Examples:
  ambit local pause apiserver         connections open, nobody answers
  ambit local pause worker            the kubelet of ambit-worker
  ambit local resume apiserver
  ambit local status                  says what is paused"
)]
pub(super) struct Args {
    /// apiserver, controllers, or a node, with or without the cluster's name
    component: String,
    /// The cluster's name
    #[arg(long, short = 'n', default_value = super::DEFAULT_NAME)]
    name: String,
    /// Print all faults of the cluster as JSON or YAML
    #[arg(long, short = 'o')]
    output: Option<Format>,
}

/// Pauses.
pub(super) fn pause(args: &Args) -> Result<()> {
    request(args, Request::Pause, "paused")
}

/// Resumes.
pub(super) fn resume(args: &Args) -> Result<()> {
    request(args, Request::Resume, "resumed")
}

fn request(args: &Args, request: fn(String) -> Request, done: &str) -> Result<()> {
    let folder = living(&args.name)?;
    let component = faults::component(&folder.cluster()?, &args.component)?;
    let text = format!("{component} {done}\n");
    show(args.output, &ask(&folder, &request(component))?, &text)
}
