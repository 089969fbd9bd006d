//! Tunnels that are shared, each by the streams of one key.
//!
//! The key says which streams may share: the proxy puts in all that a receiver may conclude from a
//! tunnel (source pod, source identity, expected identities, destination, workload). The pool never
//! looks inside it.
//!
//! - Per key, one dial runs at a time; whoever comes meanwhile waits for it and shares the result, a
//!   failure too. A dial that nobody waits for any more is dropped.
//! - A tunnel carries at most `max_streams` streams, and no more than its peer allows. With all
//!   tunnels of a key full, another one is dialled.
//! - A tunnel that no stream has used for `release_after` is let go. One that got GOAWAY, broke or
//!   failed a ping is skipped from then on.
//! - A request is tried on another tunnel only when it has surely not been sent.

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared, WeakShared};
use parking_lot::Mutex;

use super::client::{InUse, OpenError, Opened, Tunnel};
use super::{ConnectError, ConnectRequest};

/// Limits of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolSettings {
    /// Streams on one tunnel (`POOL_MAX_STREAMS_PER_CONNECTION`).
    pub max_streams: usize,
    /// Idle time after which a tunnel is let go (`POOL_UNUSED_RELEASE_TIMEOUT`).
    pub release_after: Duration,
}

impl Default for PoolSettings {
    fn default() -> Self {
        Self {
            max_streams: 100,
            release_after: Duration::from_secs(5 * 60),
        }
    }
}

/// The tunnels of one worker. Clones share one pool.
///
/// A tunnel's work is done on the runtime that dialled it, so a pool belongs to one worker too.
pub struct Pool<K>(Arc<Inner<K>>);

impl<K> Clone for Pool<K> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

type DialResult = Result<Tunnel, ConnectError>;
type Dialing = Shared<BoxFuture<'static, DialResult>>;

struct Inner<K> {
    settings: PoolSettings,
    state: Mutex<State<K>>,
}

struct State<K> {
    entries: HashMap<K, Entry>,
    /// Tells dials apart, so that one that outlives its entry does not land in the next.
    next_dial: u64,
    sweeping: bool,
}

#[derive(Default)]
struct Entry {
    tunnels: Vec<Tunnel>,
    dialing: Option<(u64, WeakShared<BoxFuture<'static, DialResult>>)>,
}

/// What a request finds in the pool.
enum Found {
    Room(Tunnel, Arc<InUse>),
    Dialing(Dialing),
}

impl<K: Eq + Hash + Clone + Send + 'static> Pool<K> {
    /// An empty pool.
    pub fn new(settings: PoolSettings) -> Self {
        let state = State {
            entries: HashMap::new(),
            next_dial: 0,
            sweeping: false,
        };
        Self(Arc::new(Inner {
            settings,
            state: Mutex::new(state),
        }))
    }

    /// Opens a stream on a tunnel of `key`, dialling one if none has room, and waits for the peer's
    /// answer. `dial` is not called otherwise.
    pub async fn open<D, F>(
        &self,
        key: &K,
        dial: D,
        request: &ConnectRequest,
    ) -> Result<Opened, ConnectError>
    where
        D: Fn() -> F,
        F: Future<Output = DialResult> + Send + 'static,
    {
        let request = request.to_http()?;
        let mut dialled = false;
        loop {
            match self.find(key, &dial) {
                Found::Dialing(dialing) => {
                    dialing.await?;
                    dialled = true;
                }
                Found::Room(tunnel, lease) => match tunnel.send(request.clone(), lease).await {
                    Ok(opened) => return Ok(opened),
                    Err(OpenError::NotSent(e)) => {
                        tunnel.retire();
                        // A stale tunnel is worth another look; one that fails when it is new will
                        // fail again, and dialling in a loop helps nobody.
                        if dialled {
                            return Err(e);
                        }
                    }
                    Err(OpenError::Failed(e)) => return Err(e),
                },
            }
        }
    }

    /// Forgets the tunnels whose key does not pass, for example those of a pod that is gone.
    /// Streams that are open on them go on until they end.
    pub fn retain(&self, mut keep: impl FnMut(&K) -> bool) {
        self.0.state.lock().entries.retain(|key, _| keep(key));
    }

    /// Tunnels that the pool holds.
    pub fn tunnels(&self) -> usize {
        self.0
            .state
            .lock()
            .entries
            .values()
            .map(|e| e.tunnels.len())
            .sum()
    }

    fn find<D, F>(&self, key: &K, dial: &D) -> Found
    where
        D: Fn() -> F,
        F: Future<Output = DialResult> + Send + 'static,
    {
        let mut state = self.0.state.lock();
        let State {
            entries, next_dial, ..
        } = &mut *state;
        let entry = entries.entry(key.clone()).or_default();
        entry.tunnels.retain(|t| !t.is_closed());
        let limit = self.0.settings.max_streams;
        // The oldest first: the younger ones run empty and can be let go.
        if let Some(found) = entry
            .tunnels
            .iter()
            .find_map(|t| Some(Found::Room(t.clone(), t.try_lease(limit)?)))
        {
            return found;
        }
        if let Some(dialing) = entry.dialing.as_ref().and_then(|(_, weak)| weak.upgrade()) {
            return Found::Dialing(dialing);
        }
        *next_dial += 1;
        let dialing = Inner::dial(Arc::downgrade(&self.0), key.clone(), *next_dial, dial())
            .boxed()
            .shared();
        entry.dialing = dialing.downgrade().map(|weak| (*next_dial, weak));
        Found::Dialing(dialing)
    }
}

impl<K: Eq + Hash + Clone + Send + 'static> Inner<K> {
    /// Dials, and puts the tunnel where it was wanted, if it is still wanted there.
    async fn dial(
        pool: Weak<Self>,
        key: K,
        id: u64,
        dial: impl Future<Output = DialResult>,
    ) -> DialResult {
        let result = dial.await;
        if let Some(pool) = pool.upgrade() {
            pool.settle(&key, id, result.as_ref().ok());
        }
        result
    }

    fn settle(self: &Arc<Self>, key: &K, id: u64, tunnel: Option<&Tunnel>) {
        let mut state = self.state.lock();
        let Some(entry) = state.entries.get_mut(key) else {
            return;
        };
        if entry
            .dialing
            .as_ref()
            .is_none_or(|(current, _)| *current != id)
        {
            return;
        }
        entry.dialing = None;
        match tunnel {
            Some(tunnel) => entry.tunnels.push(tunnel.clone()),
            None if entry.tunnels.is_empty() => drop(state.entries.remove(key)),
            None => {}
        }
        if !state.sweeping && !state.entries.is_empty() {
            state.sweeping = true;
            tokio::spawn(sweep(Arc::downgrade(self), self.settings.release_after));
        }
    }

    /// Lets idle and dead tunnels go; false when nothing is left to watch.
    fn sweep(&self) -> bool {
        let mut state = self.state.lock();
        let release_after = self.settings.release_after;
        let idle = |t: &Tunnel| t.idle_for().is_some_and(|idle| idle >= release_after);
        state.entries.retain(|_, entry| {
            entry.tunnels.retain(|t| !t.is_closed() && !idle(t));
            let dialing = entry
                .dialing
                .as_ref()
                .is_some_and(|(_, weak)| weak.upgrade().is_some());
            dialing || !entry.tunnels.is_empty()
        });
        state.sweeping = !state.entries.is_empty();
        state.sweeping
    }
}

async fn sweep<K: Eq + Hash + Clone + Send + 'static>(
    pool: Weak<Inner<K>>,
    release_after: Duration,
) {
    let period = (release_after / 4).clamp(Duration::from_millis(10), Duration::from_secs(60));
    loop {
        tokio::time::sleep(period).await;
        match pool.upgrade() {
            Some(pool) if pool.sweep() => {}
            _ => return,
        }
    }
}
