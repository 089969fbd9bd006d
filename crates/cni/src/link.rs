//! The real [`ProxyLink`]: the ZDS socket of this node.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ambit_wire::zds::agent::{Agent, ListenError, SendError};
use ambit_wire::zds::{PeerCheck, Pod};
use tokio_util::sync::CancellationToken;

use crate::enroll::{Announcement, LinkError, ProxyLink};
use crate::metrics::Metrics;

/// Only the node proxy's user may connect.
const PROXY_USER: u32 = 0;

/// A handle to the ZDS server.
#[derive(Clone, Debug, Default)]
pub struct Link {
    agent: Agent,
}

/// Why the socket is not there.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Its directory cannot be made.
    #[error(
        "the directory of the ZDS socket {0} cannot be made: {1}; is the directory mounted and writable?"
    )]
    Directory(PathBuf, #[source] io::Error),
    /// It cannot be opened.
    #[error(transparent)]
    Listen(#[from] ListenError),
}

impl Link {
    /// Lets node proxies connect until `stop`. Pods that were retained before are the snapshot.
    ///
    /// # Errors
    /// When the socket cannot be opened.
    pub fn serve(
        &self,
        path: &Path,
        metrics: Metrics,
        stop: CancellationToken,
    ) -> Result<(), ServeError> {
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory)
                .map_err(|e| ServeError::Directory(path.to_owned(), e))?;
        }
        let server = self.agent.listen(path, PeerCheck::uid(PROXY_USER))?;
        let mut connected = self.agent.connected();
        tokio::spawn(async move {
            let count = async {
                loop {
                    let any = *connected.borrow_and_update() > 0;
                    metrics.ztunnel_connected.set(i64::from(any));
                    if connected.changed().await.is_err() {
                        return;
                    }
                }
            };
            tokio::select! {
                () = stop.cancelled() => {}
                () = server => {}
                () = count => {}
            }
        });
        Ok(())
    }
}

fn pod(announcement: &Announcement) -> Pod {
    Pod {
        uid: announcement.uid.clone(),
        name: announcement.key.name.clone(),
        namespace: announcement.key.namespace.clone(),
        service_account: announcement.service_account.clone(),
    }
}

impl ProxyLink for Link {
    async fn announce(&self, announcement: &Announcement, netns: OwnedFd) -> Result<(), LinkError> {
        let added = self.agent.add(pod(announcement), Arc::new(netns)).await;
        added.map_err(|e| LinkError(e.to_string()))
    }

    async fn retain(&self, announcement: &Announcement, netns: Option<OwnedFd>) {
        match netns {
            // No proxy can be connected yet; the pod is noted for the one that comes.
            Some(netns) => drop(self.agent.add(pod(announcement), Arc::new(netns)).await),
            None => self.agent.keep(pod(announcement)),
        }
    }

    async fn withdraw(&self, uid: &str) -> Result<(), LinkError> {
        match self.agent.delete(uid).await {
            Ok(()) | Err(SendError::Lost | SendError::NoProxy) => Ok(()),
            Err(error) => Err(LinkError(error.to_string())),
        }
    }
}
