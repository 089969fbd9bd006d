//! Keeps the plugin installed: other software rewrites the node's CNI directory.

use std::time::Duration;

use ambit_runtime::ready::Task;
use notify::{RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::install::{HostFiles, InstallError};
use crate::metrics::Metrics;

/// Changes come in bursts; one look after them is enough.
const SETTLE: Duration = Duration::from_millis(100);
/// A look without a change: for file systems that do not tell, and for a configuration that is
/// still to come.
const INTERVAL: Duration = Duration::from_secs(10);
const INTERVAL_MISSING: Duration = Duration::from_secs(1);

/// Installs the plugin, then again whenever it is missing, until `stop`.
pub async fn keep(files: HostFiles, installed: Task, metrics: Metrics, stop: CancellationToken) {
    let (changed, mut changes) = mpsc::channel(1);
    let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Our own look at the files is an event too, and no reason for another look.
        if !event.is_ok_and(|event| event.kind.is_access()) {
            let _ = changed.try_send(());
        }
    });
    let watcher = watcher.and_then(|mut watcher| {
        for directory in [&files.net_dir, &files.bin_dir] {
            watcher.watch(directory, RecursiveMode::NonRecursive)?;
        }
        Ok(watcher)
    });
    if let Err(error) = &watcher {
        tracing::warn!(
            "cannot watch the CNI directories: {error}; looking every {INTERVAL:?} instead. If the \
             limit was reached, raise fs.inotify.max_user_instances and max_user_watches"
        );
    }
    let mut last_error = String::new();
    loop {
        let result = ensure(&files).await;
        installed.set(result.is_ok());
        metrics.install_ready.set(i64::from(result.is_ok()));
        let interval = match result {
            Ok(written) => {
                if written {
                    metrics.install("SUCCESS");
                    tracing::info!("installed the plugin in {}", files.net_dir.display());
                }
                last_error.clear();
                INTERVAL
            }
            Err(error) => {
                if error.to_string() != last_error {
                    metrics.install(error.result());
                    tracing::warn!("{error}");
                    last_error = error.to_string();
                }
                INTERVAL_MISSING
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            Some(()) = changes.recv() => tokio::time::sleep(SETTLE).await,
            () = tokio::time::sleep(interval) => {}
        }
    }
}

async fn ensure(files: &HostFiles) -> Result<bool, InstallError> {
    let files = files.clone();
    let path = files.net_dir.clone();
    tokio::task::spawn_blocking(move || files.ensure())
        .await
        .unwrap_or_else(|e| {
            Err(InstallError::Configuration {
                path,
                source: std::io::Error::other(e),
            })
        })
}
