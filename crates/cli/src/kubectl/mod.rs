//! `ambit kubectl`: the verbs of the walkthroughs, for machines without kubectl.
//!
//! The output is kubectl's. The tables come from the server, so most of what is printed is decided
//! there; what is not here says so, and never does something else instead.

mod apply;
mod args;
mod client;
mod debug;
mod delete;
mod error;
mod exec;
mod get;
mod jsonpath;
mod logs;
mod manifest;
mod metadata;
mod output;
mod rollout;
mod three_way;
mod wait;

use args::{Kubectl, Verb};
use clap::Parser;
use client::Cluster;
use std::ffi::OsString;

/// Exit code of a usage error, as kubectl has it.
const USAGE: i32 = 1;

/// Runs a command line without the program's own name. Answers the exit code.
pub async fn run(args: Vec<OsString>) -> anyhow::Result<i32> {
    let line = std::iter::once(OsString::from("kubectl")).chain(args);
    let parsed = match Kubectl::try_parse_from(line) {
        Ok(parsed) => parsed,
        Err(error) => {
            let code = if error.use_stderr() { USAGE } else { 0 };
            error.print()?;
            return Ok(code);
        }
    };
    match dispatch(parsed).await {
        Ok(code) => Ok(code),
        Err(error) => {
            eprintln!("{}", error::shown(&error));
            Ok(1)
        }
    }
}

async fn dispatch(parsed: Kubectl) -> anyhow::Result<i32> {
    let cluster = Cluster::connect(&parsed.flags).await?;
    match parsed.verb {
        Verb::Get(args) => get::run(&cluster, args).await,
        Verb::Apply(args) => apply::apply(&cluster, args).await,
        Verb::Create(args) => apply::create(&cluster, args).await,
        Verb::Label(args) => metadata::run(&cluster, args, metadata::Field::Labels).await,
        Verb::Annotate(args) => metadata::run(&cluster, args, metadata::Field::Annotations).await,
        Verb::Delete(args) => delete::run(&cluster, args).await,
        Verb::Logs(args) => logs::run(&cluster, args).await,
        Verb::Exec(args) => exec::run(&cluster, args).await,
        Verb::Debug(args) => debug::run(&cluster, args).await,
        Verb::Wait(args) => wait::run(&cluster, args).await,
        Verb::Rollout(args) => rollout::run(&cluster, args).await,
    }
}
