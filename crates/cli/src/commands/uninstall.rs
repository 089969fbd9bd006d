//! `uninstall`: takes the mesh out of the cluster.

use ambit_operator::{Scope, execute_removal, plan_removal};

use super::kube_flags::KubeFlags;
use super::output::{FAILURE, USAGE, confirm, fail};

/// Arguments of `uninstall`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Remove everything of the mesh, for all revisions
    #[arg(long, conflicts_with = "revision")]
    purge: bool,
    /// Remove this control plane revision
    #[arg(short, long)]
    revision: Option<String>,
    /// revision=<name>, as --revision
    #[arg(short, long)]
    set: Vec<String>,
    /// Do not ask
    #[arg(short = 'y', long = "skip-confirmation")]
    skip_confirmation: bool,
    /// Show what would be removed
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    kube: KubeFlags,
}

impl Args {
    fn scope(&self) -> Option<Scope> {
        if self.purge {
            return Some(Scope::Purge);
        }
        let set = self
            .set
            .iter()
            .rev()
            .find_map(|s| s.strip_prefix("revision="));
        let revision = self.revision.as_deref().or(set).filter(|r| !r.is_empty())?;
        Some(Scope::Revision(revision.to_owned()))
    }
}

/// Runs `uninstall`.
pub async fn run(args: Args) -> anyhow::Result<i32> {
    let Some(scope) = args.scope() else {
        return fail(
            USAGE,
            "at least one of the --revision (or --set revision=<revision>) or --purge flags must be set",
        );
    };
    let client = match args.kube.client().await {
        Ok(client) => client,
        Err(error) => return fail(FAILURE, error),
    };
    let removal = match plan_removal(&client, &scope).await {
        Ok(removal) => removal,
        Err(error) => return fail(FAILURE, error),
    };
    if removal.is_empty() {
        println!("Nothing of the mesh is installed here.");
        return Ok(0);
    }
    if !removal.enrolled.is_empty() {
        println!(
            "❗ Still labelled istio.io/dataplane-mode=ambient: {}. Their pods leave the mesh now: \
             their traffic becomes plaintext and no policy applies to it. To keep control of the \
             moment, remove the labels first (kubectl label namespace <name> istio.io/dataplane-mode-).",
            removal.enrolled.join(", ")
        );
    }
    match scope {
        Scope::Purge => println!("All Istio resources will be pruned from the cluster"),
        Scope::Revision(_) => println!(
            "The following resources will be pruned from the cluster: {}",
            removal.objects().join(", ")
        ),
    }
    if args.dry_run {
        for object in removal.objects() {
            println!("Not pruning object {object} because of dry run.");
        }
        return Ok(0);
    }
    if !args.skip_confirmation && !confirm("Proceed?") {
        println!("Cancelled.");
        return Ok(FAILURE);
    }
    let removed = |object: &str| println!("  Removed {object}.");
    if let Err(error) = execute_removal(&client, &removal, &removed).await {
        return fail(FAILURE, error);
    }
    println!("✔ Uninstall complete");
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn something_has_to_be_named() {
        let scope = |flags: &[&str]| {
            let all = ["uninstall"].iter().chain(flags);
            Program::try_parse_from(all).expect("flags").args.scope()
        };
        assert_eq!(scope(&["-y"]), None);
        assert_eq!(scope(&["--purge"]), Some(Scope::Purge));
        assert_eq!(
            scope(&["-r", "canary"]),
            Some(Scope::Revision("canary".into()))
        );
        assert_eq!(
            scope(&["--set", "revision=canary"]),
            Some(Scope::Revision("canary".into()))
        );
        assert!(Program::try_parse_from(["uninstall", "--purge", "-r", "x"]).is_err());
    }
}
