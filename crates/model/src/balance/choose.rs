//! One of several endpoints that fit equally well.

use rand::{Rng, RngExt};

/// Weights of endpoints, for draws.
#[derive(Clone, Debug)]
pub struct Weights {
    /// Sums of the weights so far; none where all weigh the same.
    sums: Option<Vec<u64>>,
    count: usize,
    /// How far it is from one turn to the next; it has no divisor in common with the whole.
    step: u64,
}

impl Weights {
    /// Those of endpoints in their order.
    pub fn new(weights: &[u32]) -> Self {
        let same = weights.windows(2).all(|pair| pair[0] == pair[1]);
        let sums = weights.iter().scan(0, |sum, weight| {
            *sum += u64::from(*weight);
            Some(*sum)
        });
        let sums: Option<Vec<u64>> = (!same).then(|| sums.collect());
        let total = sums.as_ref().and_then(|sums| sums.last().copied());
        Self {
            sums,
            count: weights.len(),
            step: step(total.unwrap_or_default()),
        }
    }

    /// Draws one.
    pub fn draw<R: Rng + ?Sized>(&self, rng: &mut R) -> Option<usize> {
        if self.count == 0 {
            return None;
        }
        let Some(sums) = &self.sums else {
            return Some(rng.random_range(0..self.count));
        };
        let total = *sums.last().filter(|total| **total > 0)?;
        Some(at(sums, rng.random_range(0..total)))
    }

    /// The one whose turn it is: within a round each has as many turns as it weighs, spread over all
    /// of it, so that a large weight is no long row.
    pub fn turn(&self, turn: u64) -> Option<usize> {
        let Some(sums) = &self.sums else {
            return usize::try_from(turn.checked_rem(self.count as u64)?).ok();
        };
        let total = *sums.last()?;
        let turn = u128::from(turn.checked_rem(total)?);
        let place = turn * u128::from(self.step) % u128::from(total);
        Some(at(sums, u64::try_from(place).ok()?))
    }

    /// Draws two, which may be the same, and takes the one with less under way for its weight.
    pub fn less_loaded<R: Rng + ?Sized>(
        &self,
        rng: &mut R,
        load: impl Fn(usize) -> u32,
    ) -> Option<usize> {
        let (a, b) = (self.draw(rng)?, self.draw(rng)?);
        Some(if load(b) < load(a) { b } else { a })
    }
}

/// The golden part of a whole, which spreads best, or the next number that divides nothing of it.
fn step(total: u64) -> u64 {
    const GOLDEN: f64 = 0.618_033_988_749_895;
    let golden = (total as f64 * GOLDEN) as u64;
    let mut steps = golden.max(1)..=total;
    steps.find(|step| gcd(*step, total) == 1).unwrap_or(1)
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

fn at(sums: &[u64], value: u64) -> usize {
    sums.partition_point(|sum| *sum <= value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    /// Every endpoint as often as it weighs.
    fn naive(weights: &[u32]) -> Vec<usize> {
        let times = |(number, weight): (usize, &u32)| vec![number; *weight as usize];
        weights.iter().enumerate().flat_map(times).collect()
    }

    proptest! {
        #[test]
        fn a_round_of_turns_is_the_naive_list(weights in prop::collection::vec(0u32..6, 0..8)) {
            let list = naive(&weights);
            let all = Weights::new(&weights);
            let even = weights.windows(2).all(|w| w[0] == w[1]);
            for round in 0..2 {
                let turns = (0..list.len()).map(|turn| (round * list.len() + turn) as u64);
                let mut round: Vec<_> = turns.filter_map(|turn| all.turn(turn)).collect();
                if even {
                    let in_turn = (0..list.len()).map(|turn| turn % weights.len());
                    prop_assert_eq!(&round, &in_turn.collect::<Vec<_>>());
                }
                round.sort_unstable();
                prop_assert_eq!(&round, &list);
            }
        }

        #[test]
        fn turns_are_spread(weights in prop::collection::vec(1u32..100_000, 2..5), from: u32) {
            const TURNS: u64 = 200;
            let all = Weights::new(&weights);
            let mut counts = vec![0u32; weights.len()];
            for turn in 0..TURNS {
                counts[all.turn(u64::from(from) + turn).unwrap()] += 1;
            }
            let total: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
            for (count, weight) in counts.iter().zip(&weights) {
                let wanted = TURNS as f64 * f64::from(*weight) / total;
                let far = TURNS as f64 / 10.0;
                prop_assert!((f64::from(*count) - wanted).abs() < far, "{counts:?} {weights:?}");
            }
        }

        #[test]
        fn draws_are_of_the_naive_list(
            weights in prop::collection::vec(1u32..6, 1..6),
            seed: u64,
        ) {
            let list = naive(&weights);
            let all = Weights::new(&weights);
            let mut rng = StdRng::seed_from_u64(seed);
            let mut counts = vec![0u32; weights.len()];
            for _ in 0..2000 {
                counts[all.draw(&mut rng).unwrap()] += 1;
            }
            for (number, count) in counts.iter().enumerate() {
                let share = list.iter().filter(|n| **n == number).count() as f64;
                let wanted = 2000.0 * share / list.len() as f64;
                prop_assert!((f64::from(*count) - wanted).abs() < 5.0 * wanted.sqrt() + 10.0);
            }
        }

        #[test]
        fn of_two_the_one_with_less_under_way(
            loads in prop::collection::vec(0u32..100, 1..6),
            seed: u64,
        ) {
            let all = Weights::new(&vec![1; loads.len()]);
            let two = {
                let mut rng = StdRng::seed_from_u64(seed);
                [all.draw(&mut rng).unwrap(), all.draw(&mut rng).unwrap()]
            };
            let mut rng = StdRng::seed_from_u64(seed);
            let chosen = all.less_loaded(&mut rng, |n| loads[n]).unwrap();
            prop_assert!(two.contains(&chosen));
            prop_assert_eq!(loads[chosen], two.map(|n| loads[n]).into_iter().min().unwrap());
        }
    }
}
