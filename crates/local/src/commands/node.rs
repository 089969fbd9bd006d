//! `ambit local node`: machines that fail.

use super::living;
use super::output::{Format, show};
use crate::control::ask;
use crate::error::Result;
use crate::faults::{self, Request};

/// What may happen to a node.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Verb {
    /// Switch a node off: all that runs on it ends at once
    #[command(
        after_help = "The Node object stays. It is NotReady after 40 seconds without a sign of life; its pods are
evicted when their tolerations end, after 5 minutes unless they say otherwise.

Examples:
  ambit local node stop worker2                 the node ambit-worker2
  ambit local node stop shop-worker -n shop     in the cluster shop"
    )]
    Stop(Args),
    /// Make a node work again: switch it on, and connect it
    #[command(visible_alias = "join")]
    #[command(
        after_help = "Undoes stop and cut. A node that works already is left alone.

Examples:
  ambit local node start worker2
  ambit local node join worker       after a cut; the same verb"
    )]
    Start(Args),
    /// Take a node's link down: what runs on it goes on, alone
    #[command(
        after_help = "Neither the cluster nor other nodes reach the node, nor does it reach them, until
`ambit local node start NAME` (or `join`).

Examples:
  ambit local node cut worker
  ambit local node join worker"
    )]
    Cut(Args),
}

/// Which node.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The node, with or without the cluster's name
    node: String,
    /// The cluster's name
    #[arg(long, short = 'n', default_value = super::DEFAULT_NAME)]
    name: String,
    /// Print all faults of the cluster as JSON or YAML
    #[arg(long, short = 'o')]
    output: Option<Format>,
}

/// Asks for it.
pub(super) fn run(verb: &Verb) -> Result<()> {
    let (args, request, done): (&Args, fn(String) -> Request, &str) = match verb {
        Verb::Stop(args) => (args, Request::Stop, "stopped"),
        Verb::Start(args) => (args, Request::Start, "started"),
        Verb::Cut(args) => (args, Request::Cut, "cut"),
    };
    let folder = living(&args.name)?;
    let node = faults::node(&folder.cluster()?, &args.node)?;
    let text = format!("node/{node} {done}\n");
    show(args.output, &ask(&folder, &request(node))?, &text)
}
