//! How a rollout proceeds, as pure arithmetic over replica counts.
//!
//! What always holds for a rolling update: never more than `wanted + surge`
//! pods are asked for, and never are so many taken away that fewer than
//! `wanted - unavailable` available ones could be left.

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec};

use super::meta::scaled;

/// What the plan needs to know of a replica set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SetView {
    pub(crate) name: String,
    /// Pods asked for.
    pub(crate) wanted: i32,
    /// Pods that exist.
    pub(crate) existing: i32,
    /// Pods that are available.
    pub(crate) available: i32,
}

/// How pods are replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Strategy {
    /// Old ones go first, all of them.
    Recreate,
    /// Bit by bit, within these bounds (absolute numbers of pods).
    Rolling { surge: i32, unavailable: i32 },
}

/// The number of pods that the deployment asks for.
pub(crate) fn wanted(spec: &DeploymentSpec) -> i32 {
    spec.replicas.unwrap_or(1).max(0)
}

/// The strategy of a deployment with its bounds resolved.
pub(crate) fn strategy(deployment: &Deployment) -> Strategy {
    let Some(spec) = &deployment.spec else {
        return Strategy::Rolling {
            surge: 1,
            unavailable: 0,
        };
    };
    let given = spec.strategy.as_ref();
    if given.and_then(|s| s.type_.as_deref()) == Some("Recreate") {
        return Strategy::Recreate;
    }
    let rolling = given.and_then(|s| s.rolling_update.as_ref());
    let total = wanted(spec);
    let quarter = |up: bool| if up { (total + 3) / 4 } else { total / 4 };
    let surge = scaled(
        rolling.and_then(|r| r.max_surge.as_ref()),
        quarter(true),
        total,
        true,
    );
    let unavailable = scaled(
        rolling.and_then(|r| r.max_unavailable.as_ref()),
        quarter(false),
        total,
        false,
    );
    // Without any room nothing could ever be replaced.
    let unavailable = if surge <= 0 && unavailable <= 0 {
        1
    } else {
        unavailable.min(total)
    };
    Strategy::Rolling {
        surge: surge.max(0),
        unavailable,
    }
}

/// The replica sets whose wish changes in this step, with their new counts.
/// `old` is ordered by age, oldest first.
pub(crate) fn step(
    strategy: Strategy,
    wanted: i32,
    new: &SetView,
    old: &[SetView],
) -> Vec<(String, i32)> {
    match strategy {
        Strategy::Recreate => recreate(wanted, new, old),
        Strategy::Rolling { surge, unavailable } => {
            let mut changes = Vec::new();
            let grown = grow(wanted, surge, new, old);
            if grown != new.wanted {
                changes.push((new.name.clone(), grown));
            }
            changes.extend(shrink(wanted, unavailable, grown, new, old));
            changes
        }
    }
}

fn recreate(wanted: i32, new: &SetView, old: &[SetView]) -> Vec<(String, i32)> {
    let running: Vec<_> = old.iter().filter(|set| set.wanted > 0).collect();
    if !running.is_empty() {
        return running
            .into_iter()
            .map(|set| (set.name.clone(), 0))
            .collect();
    }
    let gone = old.iter().all(|set| set.existing == 0);
    if gone && new.wanted != wanted {
        vec![(new.name.clone(), wanted)]
    } else {
        Vec::new()
    }
}

fn grow(wanted: i32, surge: i32, new: &SetView, old: &[SetView]) -> i32 {
    if new.wanted >= wanted {
        return wanted;
    }
    let total: i32 = new.wanted + old.iter().map(|set| set.wanted).sum::<i32>();
    let room = (wanted + surge - total).max(0);
    new.wanted + room.min(wanted - new.wanted)
}

fn shrink(
    wanted: i32,
    unavailable: i32,
    grown: i32,
    new: &SetView,
    old: &[SetView],
) -> Vec<(String, i32)> {
    let total = grown + old.iter().map(|set| set.wanted).sum::<i32>();
    let least = wanted - unavailable;
    let mut budget = total - least - (grown - new.available.min(grown)).max(0);
    let mut left: Vec<i32> = old.iter().map(|set| set.wanted).collect();
    // Pods that are not available serve nobody: they go first.
    for (set, left) in old.iter().zip(&mut left) {
        let cut = (set.wanted - set.available).clamp(0, budget.max(0));
        *left -= cut;
        budget -= cut;
    }
    let available = new.available + old.iter().map(|set| set.available).sum::<i32>();
    let mut spare = (available - least).min(budget);
    for left in &mut left {
        let cut = (*left).clamp(0, spare.max(0));
        *left -= cut;
        spare -= cut;
    }
    old.iter()
        .zip(left)
        .filter(|(set, left)| set.wanted != *left)
        .map(|(set, left)| (set.name.clone(), left))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(name: &str, wanted: i32, available: i32) -> SetView {
        SetView {
            name: name.into(),
            wanted,
            existing: wanted,
            available,
        }
    }

    #[test]
    fn one_replica_is_replaced_only_after_its_successor_is_available() {
        let rolling = Strategy::Rolling {
            surge: 1,
            unavailable: 0,
        };
        assert_eq!(
            step(rolling, 1, &set("new", 0, 0), &[set("old", 1, 1)]),
            [("new".into(), 1)]
        );
        assert_eq!(step(rolling, 1, &set("new", 1, 0), &[set("old", 1, 1)]), []);
        assert_eq!(
            step(rolling, 1, &set("new", 1, 1), &[set("old", 1, 1)]),
            [("old".into(), 0)]
        );
    }

    #[test]
    fn unavailable_old_pods_go_first_and_at_once() {
        let rolling = Strategy::Rolling {
            surge: 1,
            unavailable: 0,
        };
        let changes = step(rolling, 2, &set("new", 1, 0), &[set("old", 2, 0)]);
        assert_eq!(changes, []);
        let rolling = Strategy::Rolling {
            surge: 1,
            unavailable: 1,
        };
        let changes = step(rolling, 2, &set("new", 1, 0), &[set("old", 2, 0)]);
        assert_eq!(changes, [("old".into(), 1)]);
    }

    #[test]
    fn recreate_waits_until_the_last_old_pod_is_gone() {
        let (new, old) = (set("new", 0, 0), set("old", 2, 2));
        assert_eq!(
            step(Strategy::Recreate, 2, &new, &[old]),
            [("old".into(), 0)]
        );
        let leaving = SetView {
            existing: 1,
            ..set("old", 0, 0)
        };
        assert_eq!(step(Strategy::Recreate, 2, &new, &[leaving]), []);
        assert_eq!(
            step(Strategy::Recreate, 2, &new, &[set("old", 0, 0)]),
            [("new".into(), 2)]
        );
    }

    #[test]
    fn a_smaller_wish_shrinks_the_newest_set_too() {
        let rolling = Strategy::Rolling {
            surge: 1,
            unavailable: 0,
        };
        assert_eq!(
            step(rolling, 1, &set("new", 3, 3), &[]),
            [("new".into(), 1)]
        );
    }

    /// Whatever becomes available in whatever order, the bounds hold and the
    /// rollout ends.
    #[test]
    fn a_rollout_keeps_its_bounds_and_ends() {
        for wanted in 0..7 {
            for (surge, unavailable) in [(1, 0), (0, 1), (2, 1), (3, 3)] {
                let rolling = Strategy::Rolling { surge, unavailable };
                let mut new = set("new", 0, 0);
                let mut old = vec![set("older", wanted / 2, wanted / 2)];
                old.push(set("old", wanted - wanted / 2, wanted - wanted / 2));
                for round in 0..60 {
                    for (name, count) in step(rolling, wanted, &new, &old) {
                        let target = if name == "new" {
                            &mut new
                        } else {
                            old.iter_mut()
                                .find(|s| s.name == name)
                                .expect("a known set")
                        };
                        target.wanted = count;
                        target.available = target.available.min(count);
                    }
                    let total = new.wanted + old.iter().map(|s| s.wanted).sum::<i32>();
                    let available = new.available + old.iter().map(|s| s.available).sum::<i32>();
                    assert!(total <= wanted + surge, "{total} of {wanted}+{surge}");
                    assert!(
                        available >= wanted - unavailable,
                        "{available} of {wanted}-{unavailable}"
                    );
                    if round % 2 == 1 && new.available < new.wanted {
                        new.available += 1;
                    }
                }
                assert_eq!((new.wanted, new.available), (wanted, wanted));
                assert!(old.iter().all(|s| s.wanted == 0), "{old:?}");
            }
        }
    }
}
