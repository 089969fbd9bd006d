//! Service addresses on a node: what kube-proxy does, for IPv4, with
//! nftables.
//!
//! Services and EndpointSlices become plain [`rules`], the difference to the
//! rules in force becomes one atomic transaction. Connections keep their
//! source address wherever replies come back through this network namespace.

pub mod rules;
pub mod transaction;

use std::net::Ipv4Addr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::Api;
use kube::runtime::watcher;
use kube::{Client, Resource};
use nftables::helper::{self, NftablesError};
use parking_lot::Mutex;
use tokio::task::JoinSet;

use crate::informer::{Cache, Queue};
use rules::Rules;

/// What the proxy needs to know of its node.
#[derive(Debug, Clone, Default)]
pub struct ServiceProxyConfig {
    /// The node's name, for `internalTrafficPolicy: Local`.
    pub node_name: Option<String>,
    /// The node's address: where node ports answer. Without it there are none.
    pub node_address: Option<Ipv4Addr>,
}

/// Why the proxy cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ServiceProxyError {
    /// The rules were refused, or `nft` is not there.
    #[error(
        "service rules were not applied: {0}; is the program `nft` (package nftables) in PATH?"
    )]
    Apply(#[from] NftablesError),
    /// The worker ended, which only a defect can cause.
    #[error("the service proxy ended unexpectedly")]
    Ended,
}

/// Keeps the rules of the calling network namespace true until dropped.
///
/// # Errors
/// When the very first transaction fails: then nothing here can work. Later
/// failures are logged and tried again from scratch.
pub async fn run(client: Client, config: ServiceProxyConfig) -> Result<(), ServiceProxyError> {
    let empty = Rules::new();
    apply(None, &empty, config.node_address).await?;
    let (services, slices) = (Cache::<Service>::new(), Cache::<EndpointSlice>::new());
    let queue = Queue::new();
    wake_on_change(&services, &queue);
    wake_on_change(&slices, &queue);
    let mut watches = JoinSet::new();
    let everything = watcher::Config::default;
    watches.spawn(services.clone().run(Api::all(client.clone()), everything()));
    watches.spawn(slices.clone().run(Api::all(client), everything()));
    services.synced().await;
    slices.synced().await;
    queue.add(());
    let current = Mutex::new(Some(empty));
    queue
        .work("service proxy", |()| async {
            let node = config.node_name.as_deref();
            let wanted = rules::rules(&services.list(), &slices.list(), node);
            // While a transaction runs, and after one failed, what is in force
            // is not known.
            let before = current.lock().take();
            apply(before.as_ref(), &wanted, config.node_address).await?;
            current.lock().replace(wanted);
            Ok::<_, ServiceProxyError>(())
        })
        .await;
    Err(ServiceProxyError::Ended)
}

fn wake_on_change<K>(cache: &Arc<Cache<K>>, queue: &Arc<Queue<()>>)
where
    K: Resource<DynamicType = ()>
        + Clone
        + serde::de::DeserializeOwned
        + std::fmt::Debug
        + Send
        + Sync
        + 'static,
{
    let queue = queue.clone();
    cache.on_change(move |_, _| queue.add(()));
}

async fn apply(
    before: Option<&Rules>,
    wanted: &Rules,
    node: Option<Ipv4Addr>,
) -> Result<(), NftablesError> {
    let steps = transaction::transaction(before, wanted, node);
    if steps.is_empty() {
        return Ok(());
    }
    tracing::debug!("{} changes of service rules", steps.len());
    let document = transaction::document(&steps).map_err(NftablesError::NftInvalidJson)?;
    helper::apply_ruleset_raw_async(&document, helper::DEFAULT_NFT, helper::DEFAULT_ARGS).await?;
    Ok(())
}

#[cfg(test)]
mod tests;
