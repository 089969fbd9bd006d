//! One of several endpoints that fit equally well.

use rand::{Rng, RngExt};

/// Weights of endpoints, for draws.
#[derive(Clone, Debug)]
pub struct Weights {
    /// Sums of the weights so far; none where all weigh the same.
    sums: Option<Vec<u64>>,
    count: usize,
}

impl Weights {
    /// Those of endpoints in their order.
    pub fn new(weights: &[u32]) -> Self {
        let same = weights.windows(2).all(|pair| pair[0] == pair[1]);
        let sums = weights.iter().scan(0, |sum, weight| {
            *sum += u64::from(*weight);
            Some(*sum)
        });
        Self {
            sums: (!same).then(|| sums.collect()),
            count: weights.len(),
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

    /// The one whose turn it is: within a round each has as many turns as it weighs.
    pub fn turn(&self, turn: u64) -> Option<usize> {
        let Some(sums) = &self.sums else {
            return usize::try_from(turn.checked_rem(self.count as u64)?).ok();
        };
        let total = *sums.last()?;
        Some(at(sums, turn.checked_rem(total)?))
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
            for turn in 0..list.len() * 2 {
                let wanted = match even {
                    true => turn % weights.len(),
                    false => list[turn % list.len()],
                };
                prop_assert_eq!(all.turn(turn as u64), Some(wanted));
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
