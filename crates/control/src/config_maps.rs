//! ConfigMaps that objects name, such as the parameters of gateways: each is followed by itself, for as
//! long as something names it. Those that nobody names are none of our business.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ambit_translate::ObjectKey;
use futures_util::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::watch_object;
use kube::{Api, Client};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::engine::Change;
use crate::state::State;

/// Follows the ConfigMaps that objects name, and tells the engine.
pub struct ConfigMaps {
    /// To the API server.
    pub client: Client,
    /// Knows which are named.
    pub state: Arc<State>,
    /// Where changes go.
    pub changes: mpsc::Sender<Change>,
    /// Told when others may be named.
    pub wake: Arc<Notify>,
}

impl ConfigMaps {
    /// Runs for ever.
    pub async fn run(self) {
        let mut followed: BTreeMap<ObjectKey, CancellationToken> = BTreeMap::new();
        // Ends what it holds with it.
        let mut tasks = JoinSet::new();
        loop {
            self.wake.notified().await;
            let wanted: BTreeSet<ObjectKey> = self.state.read().config_maps();
            followed.retain(|key, end| {
                let stays = wanted.contains(key);
                if !stays {
                    end.cancel();
                }
                stays
            });
            for key in wanted {
                if followed.contains_key(&key) {
                    continue;
                }
                let end = CancellationToken::new();
                let following = follow(self.client.clone(), key.clone(), self.changes.clone());
                tasks.spawn(end.clone().run_until_cancelled_owned(following));
                followed.insert(key, end);
            }
            while tasks.try_join_next().is_some() {}
        }
    }
}

/// Tells the engine of a ConfigMap, whenever it is another one.
async fn follow(client: Client, key: ObjectKey, changes: mpsc::Sender<Change>) {
    let api: Api<ConfigMap> = Api::namespaced(client, &key.namespace);
    let mut versions = watch_object(api, &key.name).default_backoff().boxed();
    while let Some(version) = versions.next().await {
        let data = match version {
            Ok(map) => map.map(|map| map.data.unwrap_or_default()),
            Err(error) => {
                tracing::warn!("watching ConfigMap {key} failed, it is tried again: {error}");
                continue;
            }
        };
        if changes
            .send(Change::ConfigMap(key.clone(), data))
            .await
            .is_err()
        {
            return;
        }
    }
}
