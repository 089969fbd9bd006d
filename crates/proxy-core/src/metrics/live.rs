//! Open connections and the bytes of theirs that no metric has counted yet.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ambit_transport::copy::Counters;
use parking_lot::Mutex;

use super::traffic::Handles;

/// Parts of the table, so that workers rarely meet on a lock.
const SHARDS: usize = 16;

/// An open connection.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) counters: Counters,
    pub(super) handles: Arc<Handles>,
    /// What the metrics know of `counters`. The lock keeps two settlements from counting twice; it
    /// is taken when a page is written and when a connection ends.
    settled: Mutex<(u64, u64)>,
}

/// All open connections.
#[derive(Debug, Default)]
pub(super) struct LiveTable {
    shards: [Mutex<HashMap<u64, Arc<Live>>>; SHARDS],
    next: AtomicU64,
}

impl Live {
    pub(super) fn new(handles: Arc<Handles>) -> Self {
        Self {
            counters: Counters::default(),
            handles,
            settled: Mutex::default(),
        }
    }

    /// Adds what has been moved since the last time. Bytes from the client count as received and
    /// bytes to it as sent, whoever reports.
    pub(super) fn settle(&self) {
        let mut settled = self.settled.lock();
        let (sent, received) = (self.counters.sent(), self.counters.received());
        self.handles
            .received_bytes
            .inc_by(sent.saturating_sub(settled.0));
        self.handles
            .sent_bytes
            .inc_by(received.saturating_sub(settled.1));
        *settled = (sent, received);
    }
}

impl LiveTable {
    pub(super) fn insert(&self, live: Arc<Live>) -> u64 {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.shard(id).lock().insert(id, live);
        id
    }

    pub(super) fn remove(&self, id: u64) {
        self.shard(id).lock().remove(&id);
    }

    pub(super) fn settle_all(&self) {
        for shard in &self.shards {
            // Counting needs no lock on the table, and connections come and go meanwhile.
            let open: Vec<Arc<Live>> = shard.lock().values().cloned().collect();
            open.iter().for_each(|live| live.settle());
        }
    }

    fn shard(&self, id: u64) -> &Mutex<HashMap<u64, Arc<Live>>> {
        &self.shards[id as usize % SHARDS]
    }
}
