//! What people type, with every kubectl at hand: `commands.yaml`, in order.
//!
//! `recorded.yaml` has what each version printed on a real Kubernetes control plane with our nodes,
//! without what differs from run to run (`normalize`). An ordinary run types the same on our cluster
//! and compares. `make kube-kubectl` compares with the real control plane (`MATRIX_KUBERNETES` names
//! its programs), so that the recorded answers stay true; with `RECORD=1` it writes them anew.

#[path = "../common/mod.rs"]
mod common;
mod matrix;
mod normalize;
mod walk;

use std::path::PathBuf;

use ambit_testkit::{Kubectl, kubectls};
use anyhow::{Result, ensure};
use common::Cluster;
use matrix::{Answer, Command, Matrix};

#[test]
fn every_client_prints_what_it_prints_on_a_real_cluster() -> Result<()> {
    let clients = kubectls();
    if clients.is_empty() {
        println!("no kubectl is installed: `kubectl.rs` covers our own");
        return Ok(());
    }
    let real = std::env::var_os("MATRIX_KUBERNETES").map(PathBuf::from);
    let cluster = match &real {
        Some(programs) => Cluster::up_on("matrix", programs)?,
        None => Cluster::up("matrix")?,
    };
    let commands = matrix::commands()?;
    if std::env::var_os("MATRIX_RECORD").is_some() {
        ensure!(
            real.is_some(),
            "answers are recorded from a real Kubernetes"
        );
        let mut matrix = Matrix::default();
        for client in &clients {
            let answers = walk::all(&cluster, client, &commands)?;
            matrix.add(client.minor, &commands, answers);
        }
        return matrix.write();
    }
    let matrix = Matrix::read(&commands)?;
    let mut wrong = 0;
    for client in &clients {
        if !matrix.knows(client.minor) {
            println!("kubectl {client} has never been recorded: left out");
            continue;
        }
        let answers = walk::all(&cluster, client, &commands)?;
        for (number, (command, answer)) in commands.iter().zip(&answers).enumerate() {
            let expected = matrix.answer(client.minor, number);
            wrong += usize::from(!same(client, command, expected, answer, real.is_some()));
        }
    }
    ensure!(wrong == 0, "{wrong} answers differ: see above");
    Ok(())
}

/// Compares, and prints what differs.
fn same(
    client: &Kubectl,
    command: &Command,
    expected: Option<&Answer>,
    answer: &Option<Answer>,
    real: bool,
) -> bool {
    let same = match (expected, answer) {
        (Some(expected), Some(answer)) if command.differs.is_some() && !real => {
            expected.code == answer.code
        }
        (expected, answer) => expected == answer.as_ref(),
    };
    if !same {
        println!("kubectl {client}: {}", command.run);
        println!("--- expected\n{}", text(expected));
        println!("--- got\n{}", text(answer.as_ref()));
    }
    same
}

fn text(answer: Option<&Answer>) -> String {
    answer.map_or_else(
        || "not run\n".to_owned(),
        |a| format!("{:?}\n{}{}", a.code, a.out, a.err),
    )
}
