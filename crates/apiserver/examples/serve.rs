//! An API server alone, to try clients against: writes a kubeconfig and serves until it is
//! interrupted.
//!
//! `cargo run -p ambit-apiserver --example serve -- /tmp/kubeconfig`

use anyhow::Context;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let path = std::env::args().nth(1).context("usage: serve KUBECONFIG")?;
    let started = std::time::Instant::now();
    let server = ambit_apiserver::Server::builder().start().await?;
    let kubeconfig = server.admin_kubeconfig()?;
    ambit_apiserver::kubeconfig::write_private(path.as_ref(), kubeconfig.as_bytes())?;
    println!(
        "{} ready after {:?}; kubeconfig in {path}",
        server.url(),
        started.elapsed()
    );
    tokio::signal::ctrl_c().await?;
    server.stop().await;
    Ok(())
}
