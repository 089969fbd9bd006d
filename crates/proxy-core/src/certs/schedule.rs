//! What to fetch next: a queue of what is due, by priority, and a list of what will be due, by time.
//! Pure: the caller says what time it is.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use ambit_model::Identity;
use tokio::time::Instant;

use super::Priority;

/// Plans fetches. An identity stands in it at most once.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    /// Most urgent first, in the order of arrival.
    ready: BTreeMap<(Reverse<Priority>, u64), Identity>,
    later: BTreeSet<(Instant, u64, Identity)>,
    places: HashMap<Identity, Place>,
    arrivals: u64,
}

#[derive(Clone, Copy, Debug)]
enum Place {
    Ready(Priority, u64),
    Later(Instant, u64),
}

impl Schedule {
    /// Fetch now. What is planned for later is pulled forward, what is queued may become more
    /// urgent.
    pub(super) fn now(&mut self, identity: &Identity, priority: Priority) {
        if let Some(Place::Ready(have, _)) = self.places.get(identity)
            && *have >= priority
        {
            return;
        }
        self.remove(identity);
        self.arrivals += 1;
        self.ready
            .insert((Reverse(priority), self.arrivals), identity.clone());
        self.places
            .insert(identity.clone(), Place::Ready(priority, self.arrivals));
    }

    /// Fetch at a time, in the background.
    pub(super) fn at(&mut self, identity: &Identity, when: Instant) {
        self.remove(identity);
        self.arrivals += 1;
        self.later.insert((when, self.arrivals, identity.clone()));
        self.places
            .insert(identity.clone(), Place::Later(when, self.arrivals));
    }

    /// Do not fetch.
    pub(super) fn remove(&mut self, identity: &Identity) {
        match self.places.remove(identity) {
            Some(Place::Ready(priority, arrival)) => {
                self.ready.remove(&(Reverse(priority), arrival));
            }
            Some(Place::Later(when, arrival)) => {
                self.later.remove(&(when, arrival, identity.clone()));
            }
            None => {}
        }
    }

    /// Takes the most urgent identity that is due.
    pub(super) fn next(&mut self, now: Instant) -> Option<Identity> {
        while let Some((when, _, _)) = self.later.first()
            && *when <= now
            && let Some((_, _, identity)) = self.later.pop_first()
        {
            self.places.remove(&identity);
            self.now(&identity, Priority::Background);
        }
        let (_, identity) = self.ready.pop_first()?;
        self.places.remove(&identity);
        Some(identity)
    }

    /// When something is due, if nothing is now.
    pub(super) fn wake(&self) -> Option<Instant> {
        self.later.first().map(|(when, _, _)| *when)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn id(name: &str) -> Identity {
        Identity::new("td", "ns", name)
    }

    fn drain(schedule: &mut Schedule, now: Instant) -> Vec<String> {
        let next = || schedule.next(now).map(|id| id.service_account.to_string());
        std::iter::from_fn(next).collect()
    }

    #[test]
    fn the_urgent_come_first_and_each_once() {
        let mut schedule = Schedule::default();
        let now = Instant::now();
        schedule.at(&id("renewal"), now);
        schedule.now(&id("warm1"), Priority::Warmup);
        schedule.now(&id("warm2"), Priority::Warmup);
        schedule.now(&id("warm3"), Priority::Warmup);
        schedule.now(&id("waits"), Priority::RealTime);
        schedule.now(&id("warm3"), Priority::RealTime);
        schedule.now(&id("waits"), Priority::Background);
        schedule.remove(&id("warm2"));
        assert_eq!(
            drain(&mut schedule, now),
            ["waits", "warm3", "warm1", "renewal"]
        );
        assert!(schedule.places.is_empty());
    }

    #[test]
    fn what_is_not_due_waits() {
        let mut schedule = Schedule::default();
        let now = Instant::now();
        let later = now + Duration::from_secs(5);
        schedule.at(&id("a"), later + Duration::from_secs(1));
        schedule.at(&id("b"), later);
        assert_eq!(schedule.wake(), Some(later));
        assert!(drain(&mut schedule, now).is_empty());
        assert_eq!(drain(&mut schedule, later), ["b"]);
        schedule.now(&id("a"), Priority::RealTime);
        assert_eq!(drain(&mut schedule, later), ["a"]);
        assert_eq!(schedule.wake(), None);
    }
}
