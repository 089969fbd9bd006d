//! The channel to the node agent, which says which pods are enrolled.
//!
//! Whatever the agent gets wrong ends the connection and nothing else: what runs goes on, and the
//! next connection begins with a fresh snapshot.

use std::time::Duration;

use ambit_proxy_core::metrics::WorkloadManagerMetrics;
use ambit_runtime::ready::Task;
use ambit_wire::zds::proxy::{Connection, Dialer, ProtocolError};
use serde::Serialize;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::listeners::Starter;
use crate::pods::Pods;

/// Time between attempts to start what could not be started.
const RETRY: Duration = Duration::from_secs(5);

/// Who a pod is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Info {
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) service_account: String,
}

/// A pod as `/config_dump` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PodState {
    pub(crate) uid: String,
    pub(crate) state: &'static str,
    pub(crate) info: Info,
}

/// Follows the agent.
pub(crate) struct Follower {
    pub(crate) dialer: Dialer,
    pub(crate) pods: Pods<Starter>,
    pub(crate) ready: Task,
    pub(crate) metrics: WorkloadManagerMetrics,
    pub(crate) states: watch::Sender<Vec<PodState>>,
}

impl Follower {
    /// Follows the agent until a drain begins. The proxies go on until the pods are dropped.
    pub(crate) async fn run(mut self, draining: &CancellationToken) -> Pods<Starter> {
        draining.run_until_cancelled(self.follow()).await;
        self.pods
    }

    async fn follow(&mut self) {
        loop {
            let mut connection = self.dialer.connect().await;
            self.pods.connected();
            match self.serve(&mut connection).await {
                Ok(()) => tracing::info!(target: "inpod", "the CNI agent closed the connection"),
                Err(e) => tracing::warn!(target: "inpod", "connection to the CNI agent lost: {e}"),
            }
            self.ready.pending();
            self.dialer.lost(connection).await;
        }
    }

    /// One connection to its end.
    async fn serve(&mut self, connection: &mut Connection) -> Result<(), ProtocolError> {
        let mut retry = tokio::time::interval(RETRY);
        loop {
            tokio::select! {
                request = connection.next() => {
                    let Some(request) = request? else { return Ok(()) };
                    let answer = self.pods.handle(request);
                    self.publish();
                    connection.ack(answer).await?;
                }
                _ = retry.tick(), if self.pods.pending().next().is_some() => {
                    self.pods.retry();
                    self.publish();
                }
            }
        }
    }

    fn publish(&mut self) {
        if self.pods.is_ready() {
            self.dialer.succeeded();
        }
        self.ready.set(self.pods.is_ready());
        let running = self.pods.running().map(|(uid, proxy)| PodState {
            uid: uid.to_owned(),
            state: "Up",
            info: Info {
                name: proxy.pod.name.name.to_string(),
                namespace: proxy.pod.name.namespace.to_string(),
                service_account: proxy.pod.name.service_account.to_string(),
            },
        });
        let pending = self.pods.pending().map(|pod| PodState {
            uid: pod.uid.clone(),
            state: "Pending",
            info: Info {
                name: pod.name.clone(),
                namespace: pod.namespace.clone(),
                service_account: pod.service_account.clone(),
            },
        });
        let states: Vec<PodState> = running.chain(pending).collect();
        let pending = self.pods.pending().count();
        self.metrics
            .pending
            .set(i64::try_from(pending).unwrap_or(i64::MAX));
        self.states.send_replace(states);
    }
}
