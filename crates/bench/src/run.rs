//! The whole run: contenders up, rounds, report.

use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::Options;
use crate::contender::{Between, Contender, Program};
use crate::metrics::{PEERS, round};
use crate::report::{Report, Samples};

/// Runs the benchmark as the options say.
pub fn run(options: &Options) -> Result<()> {
    ambit_testkit::require_root()?;
    let options = &shortened(options);
    let contenders = contenders(options)?;
    let mut samples = Samples::default();
    let start = Instant::now();
    for number in 0..options.rounds {
        // Each round begins with another contender, so that none always runs first on a cool
        // machine or always last.
        for offset in 0..contenders.len() {
            let contender = &contenders[(number + offset) % contenders.len()];
            eprintln!(
                "[{:4.0} s] round {} of {}: {}",
                start.elapsed().as_secs_f64(),
                number + 1,
                options.rounds,
                contender.name()
            );
            for (metric, value) in round(contender, options)? {
                samples.add(metric, contender.name(), value);
            }
        }
    }
    for contender in contenders {
        contender.finish()?;
    }
    let report = Report::new(&samples);
    print!("{}", report.table(&PEERS));
    report.write(&options.out)?;
    eprintln!("written to {}", options.out.display());
    Ok(())
}

fn shortened(options: &Options) -> Options {
    let mut options = options.clone();
    if options.quick {
        options.rounds = 1;
        options.seconds = options.seconds.min(0.5);
    }
    options
}

fn contenders(options: &Options) -> Result<Vec<Contender>> {
    let chosen = |name: &str| options.only.is_empty() || options.only.iter().any(|n| n == name);
    let mut contenders = Vec::new();
    if chosen("raw") {
        contenders.push(Contender::start("raw", Between::Nothing)?);
    }
    if chosen("ambit") {
        eprintln!("starting ambit");
        let program = match &options.ambit {
            Some(path) => Program::node_proxy(path.clone()),
            None => Program {
                program: std::env::current_exe()?,
                arguments: vec!["ztunnel".into()],
            },
        };
        contenders.push(Contender::start("ambit", Between::Proxies(program)).context("ambit")?);
    }
    if let Some(path) = options.ztunnel.as_ref().filter(|_| chosen("ztunnel")) {
        eprintln!("starting ztunnel");
        let program = Program::node_proxy(path.clone());
        contenders.push(Contender::start("ztunnel", Between::Proxies(program)).context("ztunnel")?);
    }
    if options.only.iter().any(|n| n == "transport") {
        contenders.push(Contender::start("transport", Between::Relays)?);
    }
    ensure!(
        !contenders.is_empty(),
        "no contender is left; there are raw, ambit and ztunnel"
    );
    Ok(contenders)
}
