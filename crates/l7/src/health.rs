//! What endpoints of a service's port have under way, and which of them are left out for a while
//! (outlier detection): what outlives a change of the mesh, once for the process.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ambit_model::Text;
use ambit_model::service::NamespacedHostname;
use ambit_model::traffic::{Limits, Outlier, RetryBudget};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::failure::Failure;

/// The longest time that an endpoint is left out, unless the first is longer (Envoy's
/// `max_ejection_time`).
const LONGEST_EJECTION: Duration = Duration::from_secs(300);

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// All services' ports.
#[derive(Default)]
pub(crate) struct Loads(Mutex<HashMap<(NamespacedHostname, u16), Arc<Load>>>);

impl Loads {
    /// That of a service's port.
    pub(crate) fn of(&self, service: &NamespacedHostname, port: u16) -> Arc<Load> {
        let mut loads = self.0.lock();
        loads.entry((service.clone(), port)).or_default().clone()
    }

    /// Forgets those that nobody uses.
    pub(crate) fn sweep(&self) {
        self.0.lock().retain(|_, load| Arc::strong_count(load) > 1);
    }
}

/// What is under way to one port of a service.
pub(crate) struct Load {
    /// Counts changes of who is left out.
    changes: AtomicU64,
    start: Instant,
    requests: AtomicU32,
    retries: AtomicU32,
    /// When the next one comes back, milliseconds since the start; 0 is never.
    next_return: AtomicU64,
    members: Mutex<HashMap<Text, Arc<Health>>>,
    connections: Mutex<Option<(u32, Arc<Semaphore>)>>,
    waiting: AtomicU32,
}

impl Default for Load {
    fn default() -> Self {
        Self {
            changes: AtomicU64::new(0),
            start: Instant::now(),
            requests: AtomicU32::new(0),
            retries: AtomicU32::new(0),
            next_return: AtomicU64::new(0),
            members: Mutex::default(),
            connections: Mutex::default(),
            waiting: AtomicU32::new(0),
        }
    }
}

/// One endpoint.
#[derive(Default)]
pub(crate) struct Health {
    active: AtomicU32,
    failed: AtomicU32,
    gateway_failed: AtomicU32,
    /// How often it was left out; every base time without a failure forgives one.
    ejections: AtomicU32,
    /// When it was seen first, milliseconds since the start of its load; 0 is from the beginning.
    first: u64,
    /// When it came back last, milliseconds since the start of its load.
    back_since: AtomicU64,
    /// Until when it is left out, milliseconds since the start of its load; 0 is not at all.
    until: AtomicU64,
}

impl Health {
    /// One that is seen for the first time.
    fn new(now: u64) -> Self {
        Self {
            first: now,
            ..Self::default()
        }
    }

    /// Requests that are under way.
    pub(crate) fn active(&self) -> u32 {
        self.active.load(Ordering::Relaxed)
    }
}

/// How a request ended, as health sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// With this status.
    Status(u16),
    /// Without an answer.
    Nothing,
}

impl Load {
    fn now(&self) -> u64 {
        // Not 0, which means never.
        milliseconds(self.start.elapsed()).saturating_add(1)
    }

    /// How long an endpoint has been there.
    pub(crate) fn age(&self, health: &Health) -> Duration {
        match health.first {
            0 => Duration::MAX,
            first => Duration::from_millis(self.now().saturating_sub(first)),
        }
    }

    /// Counts changes of who is left out; whose time is over comes back first.
    pub(crate) fn changes(&self) -> u64 {
        let next = self.next_return.load(Ordering::Relaxed);
        if next != 0 && next <= self.now() {
            self.bring_back();
        }
        self.changes.load(Ordering::Acquire)
    }

    fn bring_back(&self) {
        let members = self.members.lock();
        let now = self.now();
        let mut next = 0;
        for health in members.values() {
            let until = health.until.load(Ordering::Relaxed);
            if until != 0 && until <= now {
                health.until.store(0, Ordering::Relaxed);
                health.back_since.store(until, Ordering::Relaxed);
                health.failed.store(0, Ordering::Relaxed);
                health.gateway_failed.store(0, Ordering::Relaxed);
            } else if until != 0 && (next == 0 || until < next) {
                next = until;
            }
        }
        self.next_return.store(next, Ordering::Relaxed);
        self.changes.fetch_add(1, Ordering::Release);
    }

    /// The endpoints of these names, and whether each is left out. Others are forgotten.
    pub(crate) fn members(&self, names: &[Text]) -> Vec<(Arc<Health>, bool)> {
        let mut members = self.members.lock();
        let wanted: HashSet<&Text> = names.iter().collect();
        members.retain(|name, _| wanted.contains(name));
        // Those that are there from the beginning are not new to anybody.
        let now = if members.is_empty() {
            None
        } else {
            Some(self.now())
        };
        let of = |name: &Text| {
            let new = || match now {
                None => Arc::default(),
                Some(now) => Arc::new(Health::new(now)),
            };
            let health = members.entry(name.clone()).or_insert_with(new).clone();
            let out = health.until.load(Ordering::Relaxed) != 0;
            (health, out)
        };
        names.iter().map(of).collect()
    }

    /// Leaves an endpoint out, if not too many are. `now` is in milliseconds since the start.
    fn eject(&self, health: &Health, outlier: &Outlier, now: u64) {
        let members = self.members.lock();
        if health.until.load(Ordering::Relaxed) != 0 {
            return;
        }
        let out = |health: &&Arc<Health>| health.until.load(Ordering::Relaxed) != 0;
        let ejected = members.values().filter(out).count() as u64;
        let most = u64::from(outlier.max_ejection_percent) * members.len() as u64 / 100;
        if ejected >= most.max(1) {
            return;
        }
        let base = milliseconds(outlier.base_ejection);
        let well = now.saturating_sub(health.back_since.load(Ordering::Relaxed));
        let forgiven = u32::try_from(well / base.max(1)).unwrap_or(u32::MAX);
        let before = health.ejections.load(Ordering::Relaxed);
        let times = before.saturating_sub(forgiven).saturating_add(1);
        health.ejections.store(times, Ordering::Relaxed);
        let longest = base.max(milliseconds(LONGEST_EJECTION));
        let time = base.saturating_mul(times.into()).min(longest);
        let until = now.saturating_add(time);
        health.until.store(until, Ordering::Relaxed);
        let next = self.next_return.load(Ordering::Relaxed);
        if next == 0 || until < next {
            self.next_return.store(until, Ordering::Relaxed);
        }
        self.changes.fetch_add(1, Ordering::Release);
    }

    /// A request is sent to an endpoint.
    ///
    /// # Errors
    /// More are under way than may be.
    pub(crate) fn begin(
        self: &Arc<Self>,
        health: &Arc<Health>,
        limits: &Limits,
        outlier: Option<Outlier>,
    ) -> Result<UnderWay, Failure> {
        let before = self.requests.fetch_add(1, Ordering::Relaxed);
        health.active.fetch_add(1, Ordering::Relaxed);
        let under_way = UnderWay {
            load: self.clone(),
            health: health.clone(),
            outlier,
            _connection: None,
        };
        match limits.requests.is_some_and(|most| before >= most) {
            true => Err(Failure::Overflow),
            false => Ok(under_way),
        }
    }

    /// Whether one more request may be tried again; it counts until what is returned is dropped.
    pub(crate) fn retry(self: &Arc<Self>, limits: &Limits) -> Option<Retrying> {
        let before = self.retries.fetch_add(1, Ordering::Relaxed);
        let retrying = Retrying(self.clone());
        let requests = self.requests.load(Ordering::Relaxed);
        let budget = limits.retry_budget.map(|budget| {
            let RetryBudget { percent, minimum } = budget;
            minimum.max(requests.saturating_mul(percent) / 100)
        });
        let most = [budget, limits.retries].into_iter().flatten().min();
        most.is_none_or(|most| before < most).then_some(retrying)
    }

    /// Waits for the right to one more connection, where there is a limit.
    ///
    /// # Errors
    /// Too many wait already.
    pub(crate) async fn connection(
        &self,
        limits: &Limits,
    ) -> Result<Option<OwnedSemaphorePermit>, Failure> {
        let Some(most) = limits.connections else {
            return Ok(None);
        };
        let free = self.connections_of(most);
        if let Ok(permit) = free.clone().try_acquire_owned() {
            return Ok(Some(permit));
        }
        let _waiting = Waiting::new(&self.waiting, limits.pending)?;
        let permit = free.acquire_owned().await;
        permit.map(Some).map_err(|_| Failure::Overflow)
    }

    fn connections_of(&self, most: u32) -> Arc<Semaphore> {
        let mut connections = self.connections.lock();
        match &*connections {
            Some((of, free)) if *of == most => free.clone(),
            // Those that are open count for the limit that they were opened under.
            _ => {
                let free = Arc::new(Semaphore::new(most as usize));
                *connections = Some((most, free.clone()));
                free
            }
        }
    }
}

/// One of those that wait.
struct Waiting<'a>(&'a AtomicU32);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicU32, most: Option<u32>) -> Result<Self, Failure> {
        let before = count.fetch_add(1, Ordering::Relaxed);
        let waiting = Self(count);
        match most.is_some_and(|most| before >= most) {
            true => Err(Failure::Overflow),
            false => Ok(waiting),
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A request that is tried again.
pub(crate) struct Retrying(Arc<Load>);

impl Drop for Retrying {
    fn drop(&mut self) {
        self.0.retries.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A request to an endpoint, until it is dropped.
pub(crate) struct UnderWay {
    load: Arc<Load>,
    health: Arc<Health>,
    outlier: Option<Outlier>,
    _connection: Option<OwnedSemaphorePermit>,
}

impl UnderWay {
    /// It keeps the right to its connection.
    pub(crate) fn hold(&mut self, connection: Option<OwnedSemaphorePermit>) {
        self._connection = connection;
    }

    /// What was seen of it.
    pub(crate) fn seen(&self, seen: Seen) {
        let Some(outlier) = &self.outlier else { return };
        let (failed, gateway) = match seen {
            Seen::Status(status) => (status >= 500, (502..=504).contains(&status)),
            Seen::Nothing => (true, true),
        };
        let over = |failed: bool, count: &AtomicU32, most: u32| match failed {
            true => count.fetch_add(1, Ordering::Relaxed) + 1 >= most && most != 0,
            false => {
                count.store(0, Ordering::Relaxed);
                false
            }
        };
        let health = &self.health;
        let by_5xx = over(failed, &health.failed, outlier.consecutive_5xx);
        let by_gateway = over(gateway, &health.gateway_failed, outlier.consecutive_gateway);
        if by_5xx || by_gateway {
            self.load.eject(health, outlier, self.load.now());
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.load.requests.fetch_sub(1, Ordering::Relaxed);
        self.health.active.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How long an idle connection waits where nobody says.
pub(crate) const IDLE_TIME: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    fn outlier(max_ejection_percent: u32) -> Outlier {
        Outlier {
            consecutive_5xx: 3,
            consecutive_gateway: 2,
            base_ejection: Duration::from_secs(3600),
            max_ejection_percent,
            min_health_percent: 0,
        }
    }

    fn out(load: &Load, names: &[Text]) -> Vec<bool> {
        load.members(names)
            .into_iter()
            .map(|(_, out)| out)
            .collect()
    }

    #[test]
    fn who_fails_in_a_row_is_left_out() {
        let load = Arc::new(Load::default());
        let names: [Text; 3] = ["a".into(), "b".into(), "c".into()];
        let members = load.members(&names);
        let see = |member: usize, seen: &[Seen]| {
            let limits = Limits::default();
            for seen in seen {
                let under_way = load.begin(&members[member].0, &limits, Some(outlier(50)));
                under_way.ok().unwrap().seen(*seen);
            }
        };
        let failed = Seen::Status(500);
        see(0, &[failed, failed, Seen::Status(200), failed, failed]);
        assert_eq!(out(&load, &names), [false; 3]);
        see(0, &[failed]);
        assert_eq!(out(&load, &names), [true, false, false]);
        // Half of three is one: no other is left out.
        see(1, &[Seen::Nothing, Seen::Nothing]);
        assert_eq!(out(&load, &names), [true, false, false]);
        assert_eq!(load.changes(), 1);
        // What is not there any more makes room.
        let names = [names[1].clone(), names[2].clone()];
        assert_eq!(out(&load, &names), [false, false]);
        see(1, &[Seen::Status(503), Seen::Status(502)]);
        assert_eq!(out(&load, &names), [true, false]);
    }

    #[test]
    fn whose_time_is_over_comes_back() {
        let load = Arc::new(Load::default());
        let names: [Text; 1] = ["a".into()];
        let (health, _) = load.members(&names).remove(0);
        let short = Outlier {
            base_ejection: Duration::ZERO,
            ..outlier(0)
        };
        load.eject(&health, &short, load.now());
        assert_eq!(out(&load, &names), [true], "one may always be");
        while load.changes() < 2 {
            std::thread::yield_now();
        }
        assert_eq!(out(&load, &names), [false]);
    }

    #[test]
    fn the_time_grows_with_failures_and_shrinks_without() {
        let load = Arc::new(Load::default());
        let (health, _) = load.members(&["a".into()]).remove(0);
        // For how many base times, after it was well for some time.
        let ejected_for = |base: u64, well: u64| {
            let now = 10_000_000;
            health.until.store(0, Ordering::Relaxed);
            health.back_since.store(now - well, Ordering::Relaxed);
            let policy = Outlier {
                base_ejection: Duration::from_millis(base),
                ..outlier(100)
            };
            load.eject(&health, &policy, now);
            (health.until.load(Ordering::Relaxed) - now) / base
        };
        let base = 60_000;
        assert_eq!(ejected_for(base, 0), 1);
        assert_eq!(ejected_for(base, 0), 2);
        assert_eq!(ejected_for(base, 0), 3);
        assert_eq!(ejected_for(base, 2 * base), 2, "two are forgiven");
        for _ in 0..20 {
            ejected_for(base, 0);
        }
        assert_eq!(ejected_for(base, 0), 5, "five minutes at most");
    }

    #[tokio::test]
    async fn limits() {
        let load = Arc::new(Load::default());
        let (health, _) = load.members(&["a".into()]).remove(0);
        let limits = Limits {
            requests: Some(1),
            connections: Some(1),
            pending: Some(1),
            retries: Some(1),
            ..Limits::default()
        };
        let first = load.begin(&health, &limits, None).ok().unwrap();
        assert!(load.begin(&health, &limits, None).is_err());
        assert_eq!(health.active(), 1);
        drop(first);
        assert_eq!(health.active(), 0);
        let retrying = load.retry(&limits).unwrap();
        assert!(load.retry(&limits).is_none());
        drop(retrying);
        assert!(load.retry(&limits).is_some());

        let connection = load.connection(&limits).await.unwrap();
        let waits = {
            let load = load.clone();
            tokio::spawn(async move { load.connection(&limits).await.is_ok() })
        };
        tokio::task::yield_now().await;
        assert!(load.connection(&limits).await.is_err(), "one waits already");
        drop(connection);
        assert!(waits.await.unwrap());
    }

    #[test]
    fn a_budget_follows_the_requests() {
        let load = Arc::new(Load::default());
        let (health, _) = load.members(&["a".into()]).remove(0);
        let limits = Limits {
            retry_budget: Some(RetryBudget {
                percent: 20,
                minimum: 1,
            }),
            ..Limits::default()
        };
        let allowed = || {
            let retrying: Vec<_> = std::iter::from_fn(|| load.retry(&limits)).collect();
            retrying.len()
        };
        assert_eq!(allowed(), 1);
        let begin = |_| load.begin(&health, &limits, None).ok().unwrap();
        let _requests: Vec<_> = (0..20).map(begin).collect();
        assert_eq!(allowed(), 4);
    }
}
