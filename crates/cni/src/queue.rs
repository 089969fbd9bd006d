//! Work to be done about keys: each key at most once at a time, again when it changed meanwhile,
//! later and later while it fails.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::time::{Duration, Instant};

const FIRST_DELAY: Duration = Duration::from_millis(5);
const LAST_DELAY: Duration = Duration::from_secs(5);

/// Keys with the time from which they may be worked on.
#[derive(Debug)]
pub struct Queue<K> {
    due: HashMap<K, Instant>,
    running: HashSet<K>,
    failures: HashMap<K, u32>,
}

impl<K> Default for Queue<K> {
    fn default() -> Self {
        Self {
            due: HashMap::new(),
            running: HashSet::new(),
            failures: HashMap::new(),
        }
    }
}

impl<K: Clone + Eq + Hash> Queue<K> {
    /// Something about the key changed: work on it as soon as possible.
    pub fn changed(&mut self, key: K, now: Instant) {
        self.due.insert(key, now);
    }

    /// When there is next something to start, if anything is waiting.
    pub fn next(&self) -> Option<Instant> {
        let waiting = self.due.iter().filter(|(k, _)| !self.running.contains(*k));
        waiting.map(|(_, at)| *at).min()
    }

    /// A key whose time has come; it counts as running until [`finished`](Self::finished).
    pub fn start(&mut self, now: Instant) -> Option<K> {
        let ready = |(key, at): &(&K, &Instant)| **at <= now && !self.running.contains(*key);
        let key = self
            .due
            .iter()
            .filter(ready)
            .min_by_key(|(_, at)| **at)?
            .0
            .clone();
        self.due.remove(&key);
        self.running.insert(key.clone());
        Some(key)
    }

    /// The work on a key ended. A failure is tried again after a growing delay.
    pub fn finished(&mut self, key: K, success: bool, now: Instant) {
        self.running.remove(&key);
        if success {
            self.failures.remove(&key);
            return;
        }
        let failures = self.failures.entry(key.clone()).or_default();
        let delay = FIRST_DELAY
            .saturating_mul(1 << (*failures).min(16))
            .min(LAST_DELAY);
        *failures = failures.saturating_add(1);
        self.due.entry(key).or_insert(now + delay);
    }

    /// How often in a row the key failed.
    pub fn failures(&self, key: &K) -> u32 {
        self.failures.get(key).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_runs_once_at_a_time_and_again_when_it_changed() {
        let now = Instant::now();
        let mut queue = Queue::default();
        queue.changed("a", now);
        queue.changed("a", now);
        assert_eq!((queue.start(now), queue.start(now)), (Some("a"), None));
        queue.changed("a", now);
        assert_eq!((queue.start(now), queue.next()), (None, None));
        queue.finished("a", true, now);
        assert_eq!(queue.start(now), Some("a"));
        queue.finished("a", true, now);
        assert_eq!(queue.next(), None);
    }

    #[test]
    fn failures_wait_longer_and_longer_up_to_a_limit() {
        let mut now = Instant::now();
        let mut queue = Queue::default();
        queue.changed("a", now);
        let mut delays = Vec::new();
        for _ in 0..14 {
            let at = queue.next().expect("waiting");
            delays.push(at.duration_since(now).as_millis());
            now = at;
            queue.start(now).expect("due");
            queue.finished("a", false, now);
        }
        assert_eq!(delays[..5], [0, 5, 10, 20, 40]);
        assert_eq!(delays[13], 5000);
        assert_eq!(queue.failures(&"a"), 14);
        queue.changed("a", now);
        assert_eq!(queue.start(now), Some("a"), "a change does not wait");
        queue.finished("a", true, now);
        assert_eq!(queue.failures(&"a"), 0);
    }
}
