//! A queue of keys to look at again: each key at most once, some later.

use std::collections::{HashMap, HashSet, VecDeque};
use std::future::Future;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

/// First wait after a failed attempt; doubles with each further one.
const FIRST_RETRY: Duration = Duration::from_millis(10);
/// Longest wait between two attempts.
const LAST_RETRY: Duration = Duration::from_secs(15);

/// A de-duplicating work queue with one worker.
///
/// A key that is added while its worker runs is handed out again afterwards,
/// so no change is lost; a key added many times before that is handed out once.
#[derive(Debug)]
pub struct Queue<K> {
    inner: Mutex<Inner<K>>,
    wake: Notify,
}

#[derive(Debug)]
struct Inner<K> {
    ready: VecDeque<K>,
    queued: HashSet<K>,
    /// When to hand out a key although nothing changed; the earliest wins.
    later: HashMap<K, Instant>,
    failures: HashMap<K, u32>,
}

impl<K: Hash + Eq + Clone> Queue<K> {
    /// An empty queue.
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            inner: Mutex::new(Inner::default()),
            wake: Notify::new(),
        })
    }

    /// Hands `key` to the worker as soon as it is free.
    pub fn add(&self, key: K) {
        let mut inner = self.inner.lock();
        if inner.queued.insert(key.clone()) {
            inner.ready.push_back(key);
            self.wake.notify_one();
        }
    }

    /// Hands `key` to the worker after `delay`, unless it is due earlier.
    pub fn add_after(&self, key: K, delay: Duration) {
        let due = Instant::now() + delay;
        let mut inner = self.inner.lock();
        let entry = inner.later.entry(key).or_insert(due);
        *entry = due.min(*entry);
        self.wake.notify_one();
    }

    /// The next key; waits for one.
    pub async fn next(&self) -> K {
        loop {
            let due = {
                let mut inner = self.inner.lock();
                inner.promote(Instant::now());
                if let Some(key) = inner.ready.pop_front() {
                    inner.queued.remove(&key);
                    return key;
                }
                inner.later.values().min().copied()
            };
            match due {
                Some(due) => {
                    tokio::select! {
                        () = tokio::time::sleep_until(due) => {}
                        () = self.wake.notified() => {}
                    }
                }
                None => self.wake.notified().await,
            }
        }
    }

    /// Notes that `key` failed once more, and puts it back with back-off.
    fn retry(&self, key: K) {
        let delay = self.inner.lock().failed(&key);
        self.add_after(key, delay);
    }

    fn succeeded(&self, key: &K) {
        self.inner.lock().failures.remove(key);
    }

    /// Runs `reconcile` for each key, one at a time, for ever. A failure is
    /// logged under `name` and tried again with back-off.
    pub async fn work<F, Fut, E>(&self, name: &str, mut reconcile: F)
    where
        F: FnMut(K) -> Fut,
        Fut: Future<Output = Result<(), E>>,
        E: std::fmt::Display,
        K: std::fmt::Debug,
    {
        loop {
            let key = self.next().await;
            match reconcile(key.clone()).await {
                Ok(()) => self.succeeded(&key),
                Err(error) => {
                    tracing::info!("{name}: {key:?}: {error}; will be tried again");
                    self.retry(key);
                }
            }
        }
    }
}

impl<K> Default for Inner<K> {
    fn default() -> Self {
        Self {
            ready: VecDeque::new(),
            queued: HashSet::new(),
            later: HashMap::new(),
            failures: HashMap::new(),
        }
    }
}

impl<K: Hash + Eq + Clone> Inner<K> {
    /// How long to wait after one more failure of `key`.
    fn failed(&mut self, key: &K) -> Duration {
        let failures = self.failures.entry(key.clone()).or_insert(0);
        let delay = FIRST_RETRY
            .saturating_mul(1 << (*failures).min(12))
            .min(LAST_RETRY);
        *failures += 1;
        delay
    }

    /// Moves what is due at `now` to the ready ones.
    fn promote(&mut self, now: Instant) {
        let due: Vec<K> = self
            .later
            .iter()
            .filter(|(_, at)| **at <= now)
            .map(|(key, _)| key.clone())
            .collect();
        for key in due {
            self.later.remove(&key);
            if self.queued.insert(key.clone()) {
                self.ready.push_back(key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_key_waits_once_however_often_it_is_added() {
        let queue = Queue::new();
        queue.add("a");
        queue.add("a");
        queue.add("b");
        assert_eq!(queue.next().await, "a");
        queue.add("a");
        assert_eq!(queue.next().await, "b");
        assert_eq!(queue.next().await, "a");
        assert!(queue.inner.lock().ready.is_empty());
    }

    #[test]
    fn the_earliest_of_two_delays_wins() {
        let queue = Queue::new();
        queue.add_after("a", Duration::from_secs(90));
        queue.add_after("a", Duration::from_secs(20));
        queue.add_after("a", Duration::from_secs(50));
        let mut inner = queue.inner.lock();
        inner.promote(Instant::now() + Duration::from_secs(19));
        assert!(inner.ready.is_empty());
        inner.promote(Instant::now() + Duration::from_secs(21));
        assert_eq!(inner.ready, ["a"]);
        assert!(inner.later.is_empty());
    }

    #[test]
    fn failures_back_off_and_success_forgets_them() {
        let mut inner = Inner::default();
        let mut failed = || inner.failed(&"a").as_millis();
        assert_eq!([failed(), failed(), failed()], [10, 20, 40]);
        for _ in 0..40 {
            assert!(inner.failed(&"a") <= LAST_RETRY);
        }
        inner.failures.remove("a");
        assert_eq!(inner.failed(&"a"), FIRST_RETRY);
    }

    #[tokio::test]
    async fn a_worker_tries_again_until_it_succeeds() {
        let queue = Queue::new();
        queue.add("a");
        let (done, finished) = tokio::sync::oneshot::channel();
        let mut done = Some(done);
        let mut tries = 0;
        let worker = queue.work("test", |_| {
            tries += 1;
            if tries == 3 {
                let _ = done.take().map(|done| done.send(tries));
            }
            let failed = tries < 3;
            async move { if failed { Err("not yet") } else { Ok(()) } }
        });
        tokio::select! {
            () = worker => unreachable!("a worker never ends"),
            tries = finished => assert_eq!(tries, Ok(3)),
        }
    }
}
