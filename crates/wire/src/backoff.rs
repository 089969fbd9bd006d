//! Pauses between attempts: doubling, bounded, optionally spread so that many clients do not come
//! back at the same moment.

use std::time::Duration;

use rand::RngExt;

/// How pauses grow.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Policy {
    /// The first pause.
    pub first: Duration,
    /// The longest pause.
    pub longest: Duration,
    /// Each pause is multiplied by a random factor in `1 - spread ..= 1 + spread`.
    pub spread: f64,
}

/// The pauses of one sequence of attempts.
#[derive(Clone, Debug)]
pub struct Backoff {
    policy: Policy,
    next: Duration,
}

impl Backoff {
    /// A sequence at its start.
    pub fn new(policy: Policy) -> Self {
        Self {
            policy,
            next: policy.first,
        }
    }

    /// The pause before the next attempt; the one after it will be twice as long.
    pub fn next_pause(&mut self) -> Duration {
        let pause = self.next;
        self.next = pause.saturating_mul(2).min(self.policy.longest);
        spread(pause, self.policy.spread)
    }

    /// The attempt succeeded: start again with the first pause.
    pub fn reset(&mut self) {
        self.next = self.policy.first;
    }
}

fn spread(pause: Duration, spread: f64) -> Duration {
    if spread <= 0.0 {
        return pause;
    }
    let factor = 1.0 + rand::rng().random_range(-spread..=spread);
    pause.mul_f64(factor.max(0.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_the_longest_and_starts_again() {
        let mut backoff = Backoff::new(Policy {
            first: Duration::from_millis(20),
            longest: Duration::from_millis(100),
            spread: 0.0,
        });
        let pauses: Vec<u128> = (0..5).map(|_| backoff.next_pause().as_millis()).collect();
        assert_eq!(pauses, [20, 40, 80, 100, 100]);
        backoff.reset();
        assert_eq!(backoff.next_pause().as_millis(), 20);
    }

    #[test]
    fn spreads_around_the_pause() {
        for _ in 0..100 {
            let pause = spread(Duration::from_secs(10), 0.2).as_secs_f64();
            assert!((8.0..=12.0).contains(&pause), "{pause}");
        }
    }
}
