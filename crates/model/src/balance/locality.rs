//! Endpoints by where they are (`localityLbSetting` of `DestinationRule`, and of the mesh): nearer ones
//! first, or shares of traffic by place.

use crate::workload::Locality;
use crate::{Text, Workload};

/// What place means for a choice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalityRule {
    /// How places are used.
    pub kind: LocalityKind,
    /// The mesh says so for all services: what a service says of itself goes before it.
    pub of_mesh: bool,
}

/// How places are used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LocalityKind {
    /// The nearest that are there; of other regions these before the rest, by the own one.
    Failover(Vec<(Text, Text)>),
    /// Those that share most of these with the client, from the first on.
    Priority(Vec<Scope>),
    /// Shares of traffic, by the place that it comes from.
    Distribute(Vec<Share>),
}

/// What an endpoint may share with its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// `topology.istio.io/network`.
    Network,
    /// `topology.kubernetes.io/region`.
    Region,
    /// `topology.kubernetes.io/zone`.
    Zone,
    /// `topology.istio.io/subzone`.
    Subzone,
}

/// Shares of traffic that comes from a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// Where it comes from.
    pub from: Place,
    /// Where it goes, and how much.
    pub to: Vec<(Place, u32)>,
}

/// A place, as far as it is named: `region/zone/subzone`, `*` or nothing for any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    region: Text,
    zone: Text,
    subzone: Text,
}

impl Place {
    /// Reads a place.
    pub fn parse(text: &str) -> Self {
        let mut parts = text.split('/').map(|part| match part {
            "*" => Text::from(""),
            named => named.into(),
        });
        let mut next = || parts.next().unwrap_or_else(|| "".into());
        Self {
            region: next(),
            zone: next(),
            subzone: next(),
        }
    }

    /// Whether a workload is there.
    pub fn has(&self, locality: &Locality) -> bool {
        let fits = |wanted: &Text, found: &Text| wanted.is_empty() || wanted == found;
        fits(&self.region, &locality.region)
            && fits(&self.zone, &locality.zone)
            && fits(&self.subzone, &locality.subzone)
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let part = |text: &Text| {
            if text.is_empty() {
                "*".to_owned()
            } else {
                text.to_string()
            }
        };
        let parts = [&self.region, &self.zone, &self.subzone].map(part);
        f.write_str(&parts.join("/"))
    }
}

impl LocalityKind {
    /// How near an endpoint is to its client; more is nearer.
    pub fn rank(&self, client: &Workload, endpoint: &Workload) -> usize {
        let (own, other) = (&client.locality, &endpoint.locality);
        match self {
            Self::Distribute(_) => 0,
            Self::Priority(scopes) => scopes
                .iter()
                .take_while(|scope| match scope {
                    Scope::Network => client.network == endpoint.network,
                    Scope::Region => own.region == other.region,
                    Scope::Zone => own.zone == other.zone,
                    Scope::Subzone => own.subzone == other.subzone,
                })
                .count(),
            Self::Failover(regions) => {
                if own.region == other.region {
                    let zone = own.zone == other.zone;
                    let subzone = zone && own.subzone == other.subzone;
                    return 2 + usize::from(zone) + usize::from(subzone);
                }
                let next = regions.iter().find(|(from, _)| *from == own.region);
                usize::from(next.is_some_and(|(_, to)| *to == other.region))
            }
        }
    }

    /// Weights of endpoints, so that each place gets its share; `None` where nothing is said about
    /// traffic from here.
    pub fn weights(&self, client: &Workload, endpoints: &[(&Workload, u32)]) -> Option<Vec<u32>> {
        /// So that shares of a hundred can be divided among endpoints.
        const SCALE: u64 = 10_000;
        let Self::Distribute(shares) = self else {
            return None;
        };
        let share = shares.iter().find(|s| s.from.has(&client.locality))?;
        let place = |workload: &Workload| {
            let mut places = share.to.iter();
            places.position(|(place, _)| place.has(&workload.locality))
        };
        let mut sums = vec![0u64; share.to.len()];
        for (workload, weight) in endpoints {
            if let Some(place) = place(workload) {
                sums[place] += u64::from(*weight);
            }
        }
        let weight = |(workload, weight): &(&Workload, u32)| {
            let place = place(workload)?;
            let share = u64::from(share.to[place].1) * SCALE * u64::from(*weight);
            u32::try_from(share.checked_div(sums[place])?).ok()
        };
        Some(endpoints.iter().map(|e| weight(e).unwrap_or(0)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(place: &str) -> Workload {
        let mut parts = place.split('/').map(Text::from);
        let mut next = || parts.next().unwrap_or_else(|| "".into());
        Workload {
            locality: Locality {
                region: next(),
                zone: next(),
                subzone: next(),
            },
            ..Workload::default()
        }
    }

    #[test]
    fn nearer_ones_first() {
        let regions = vec![("eu".into(), "us".into())];
        let failover = LocalityKind::Failover(regions);
        let client = at("eu/a/1");
        let ranks = ["eu/a/1", "eu/a/2", "eu/b/1", "us/a/1", "asia/a/1"];
        let ranks = ranks.map(|place| failover.rank(&client, &at(place)));
        assert_eq!(ranks, [4, 3, 2, 1, 0]);
        assert_eq!(failover.rank(&at("asia/a/1"), &at("us/a/1")), 0);
        let zones = LocalityKind::Priority(vec![Scope::Region, Scope::Zone]);
        let ranks = ["eu/a/9", "eu/b/1", "us/a/1"].map(|place| zones.rank(&client, &at(place)));
        assert_eq!(ranks, [2, 1, 0]);
    }

    #[test]
    fn shares_by_place() {
        let distribute = LocalityKind::Distribute(vec![Share {
            from: Place::parse("eu/a/*"),
            to: vec![(Place::parse("eu/a/*"), 80), (Place::parse("eu/b"), 20)],
        }]);
        let (a, b, c) = (at("eu/a/1"), at("eu/b/1"), at("us/a/1"));
        let endpoints = [(&a, 1), (&a, 3), (&b, 1), (&c, 1)];
        let weights = distribute.weights(&at("eu/a/2"), &endpoints).unwrap();
        assert_eq!(weights, [200_000, 600_000, 200_000, 0]);
        assert_eq!(distribute.weights(&at("eu/b/2"), &endpoints), None);
        assert_eq!(Place::parse("eu/*").to_string(), "eu/*/*");
    }
}
