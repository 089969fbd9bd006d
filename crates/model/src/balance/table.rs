//! Consistent hashing: tables that give the same endpoint for the same hash, and change little when
//! endpoints do. Both place as Envoy does, so that a mixed mesh agrees.

use twox_hash::XxHash64;

/// Places on a ring at most, as in Envoy.
const MOST_PLACES: u64 = 8 * 1024 * 1024;

/// An endpoint as tables see it: what it is called (address and port), and its weight.
#[derive(Clone, Debug)]
pub struct Bucket {
    /// `ip:port`
    pub name: String,
    /// Its share.
    pub weight: u32,
}

/// The hash of a text.
pub fn hash(text: &[u8]) -> u64 {
    XxHash64::oneshot(0, text)
}

/// Endpoints on a ring: a hash goes to the next place.
#[derive(Clone, Debug)]
pub struct Ring {
    /// Hashes in order, with the number of the endpoint.
    places: Vec<(u64, u32)>,
}

impl Ring {
    /// A ring with at least so many places.
    pub fn new(buckets: &[Bucket], minimum: u64) -> Self {
        let sum: f64 = buckets.iter().map(|b| f64::from(b.weight)).sum();
        let least = buckets.iter().map(|b| f64::from(b.weight) / sum);
        let least = least.fold(1.0, f64::min);
        // So many places that the lightest endpoint has whole ones.
        let scale = ((least * minimum as f64).ceil() / least).min(MOST_PLACES as f64);
        let mut places = Vec::new();
        let (mut count, mut target) = (0.0, 0.0);
        for (number, bucket) in (0u32..).zip(buckets) {
            target += scale * f64::from(bucket.weight) / sum;
            let mut copy = 0u64;
            while count < target {
                let name = format!("{}_{copy}", bucket.name);
                places.push((hash(name.as_bytes()), number));
                copy += 1;
                count += 1.0;
            }
        }
        places.sort_unstable_by_key(|(hash, _)| *hash);
        Self { places }
    }

    /// The endpoint of a hash; `None` of a ring without places.
    pub fn find(&self, hash: u64) -> Option<usize> {
        let next = self.places.partition_point(|(place, _)| *place < hash);
        let (_, number) = self.places.get(next).or_else(|| self.places.first())?;
        usize::try_from(*number).ok()
    }
}

/// A table that each endpoint fills in an order of its own (Maglev, Eisenbud et al., 2016).
#[derive(Clone, Debug)]
pub struct Maglev {
    table: Vec<u32>,
}

/// An endpoint while the table is filled.
struct Filling {
    number: u32,
    offset: u64,
    skip: u64,
    next: u64,
    weight: f64,
    target: f64,
}

impl Maglev {
    /// A table of so many places, a prime.
    pub fn new(buckets: &[Bucket], size: u64) -> Self {
        const EMPTY: u32 = u32::MAX;
        let Ok(places) = usize::try_from(size) else {
            return Self { table: Vec::new() };
        };
        if buckets.is_empty() || size < 2 {
            return Self { table: Vec::new() };
        }
        let sum: f64 = buckets.iter().map(|b| f64::from(b.weight)).sum();
        let filling = |(number, bucket): (u32, &Bucket)| Filling {
            number,
            offset: hash(bucket.name.as_bytes()) % size,
            skip: XxHash64::oneshot(1, bucket.name.as_bytes()) % (size - 1) + 1,
            next: 0,
            weight: f64::from(bucket.weight) / sum,
            target: 0.0,
        };
        let mut all: Vec<_> = (0u32..).zip(buckets).map(filling).collect();
        let heaviest = all.iter().map(|one| one.weight).fold(0.0, f64::max);
        let mut table = vec![EMPTY; places];
        let (mut filled, mut round) = (0, 0.0);
        while filled < places {
            round += 1.0;
            for one in &mut all {
                if round * one.weight < one.target {
                    continue;
                }
                one.target += heaviest;
                let place = loop {
                    let at = (one.offset + one.skip.wrapping_mul(one.next)) % size;
                    one.next += 1;
                    match usize::try_from(at).ok().and_then(|at| table.get_mut(at)) {
                        Some(place) if *place == EMPTY => break place,
                        _ => {}
                    }
                };
                *place = one.number;
                filled += 1;
                if filled == places {
                    break;
                }
            }
        }
        Self { table }
    }

    /// The endpoint of a hash; `None` of a table without places.
    pub fn find(&self, hash: u64) -> Option<usize> {
        let size = u64::try_from(self.table.len()).ok().filter(|n| *n > 0)?;
        let number = self.table.get(usize::try_from(hash % size).ok()?)?;
        usize::try_from(*number).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buckets(count: u32, weight: impl Fn(u32) -> u32) -> Vec<Bucket> {
        (1..=count)
            .map(|n| Bucket {
                name: format!("10.0.0.{n}:80"),
                weight: weight(n),
            })
            .collect()
    }

    /// How many of 20,000 keys go to each.
    fn shares(count: u32, find: impl Fn(u64) -> Option<usize>) -> Vec<u32> {
        let mut shares = vec![0; count as usize];
        for key in 0..20_000 {
            shares[find(hash(format!("key {key}").as_bytes())).unwrap()] += 1;
        }
        shares
    }

    #[test]
    fn nothing_has_no_place() {
        assert_eq!(Ring::new(&[], 1024).find(7), None);
        assert_eq!(Maglev::new(&[], 65_537).find(7), None);
        assert_eq!(Maglev::new(&buckets(2, |_| 1), 0).find(7), None);
    }

    #[test]
    fn shares_follow_weights() {
        let all = buckets(3, |n| n);
        let maglev = Maglev::new(&all, 65_537);
        let ring = Ring::new(&all, 8192);
        for shares in [shares(3, |h| maglev.find(h)), shares(3, |h| ring.find(h))] {
            for (share, weight) in shares.iter().zip([1.0, 2.0, 3.0]) {
                let wanted = 20_000.0 * weight / 6.0;
                let off = (f64::from(*share) - wanted).abs() / wanted;
                assert!(off < 0.15, "{shares:?}");
            }
        }
    }

    #[test]
    fn who_goes_takes_few_others_along() {
        let all = buckets(5, |_| 1);
        let stay = |find: &dyn Fn(u64) -> Option<usize>, fewer: &dyn Fn(u64) -> Option<usize>| {
            let keys = (0..10_000u64).map(|key| hash(&key.to_le_bytes()));
            keys.filter(|hash| find(*hash) == fewer(*hash)).count()
        };
        let (ring, fewer) = (Ring::new(&all, 1024), Ring::new(&all[..4], 1024));
        // A fifth has to move.
        let kept = stay(&|h| ring.find(h), &|h| fewer.find(h));
        assert!(kept > 7000, "{kept}");
        let (table, fewer) = (Maglev::new(&all, 65_537), Maglev::new(&all[..4], 65_537));
        let kept = stay(&|h| table.find(h), &|h| fewer.find(h));
        assert!(kept > 7000, "{kept}");
    }

    /// Where Envoy 1.40 sent requests with the header `key 0` to `key 99` among 127.0.1.1:9100 to
    /// 127.0.1.5:9100 (the last digit of the address), by rings of 1024 places and tables of 65537,
    /// with equal weights and with 1 to 5.
    #[test]
    fn placement_is_as_envoys() {
        let buckets = |weights: [u32; 5]| {
            let bucket = |(number, weight): (usize, u32)| Bucket {
                name: format!("127.0.1.{}:9100", number + 1),
                weight,
            };
            let all = weights.into_iter().enumerate().map(bucket);
            all.collect::<Vec<_>>()
        };
        let placed = |find: &dyn Fn(u64) -> Option<usize>| {
            let keys = (0..100).map(|n| hash(format!("key {n}").as_bytes()));
            let digits = keys.map(|key| (find(key).unwrap() + 1).to_string());
            digits.collect::<String>()
        };
        let (even, uneven) = (buckets([1; 5]), buckets([1, 2, 3, 4, 5]));
        let ring = Ring::new(&even, 1024);
        assert_eq!(
            placed(&|h| ring.find(h)),
            "3252542525223154132513554514211523133453412343232452431425124415424454312453153454143\
             455421413434314"
        );
        let ring = Ring::new(&uneven, 1024);
        assert_eq!(
            placed(&|h| ring.find(h)),
            "3254542535223154131543555514215523534453552343145453441555214435424454322453553454543\
             455424453434344"
        );
        let maglev = Maglev::new(&even, 65_537);
        assert_eq!(
            placed(&|h| maglev.find(h)),
            "2113352424353524545143431123552252155115333213134334232431323333145352344225232152445\
             331155555135155"
        );
        let maglev = Maglev::new(&uneven, 65_537);
        assert_eq!(
            placed(&|h| maglev.find(h)),
            "2153355424353524545443454343555252555415534543354334232431323333545352344545245352445\
             335155555455455"
        );
    }
}
