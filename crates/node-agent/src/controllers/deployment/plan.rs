//! How a rollout proceeds, as pure arithmetic over replica counts.
//!
//! What always holds for a rolling update: never more than `wanted + surge`
//! pods are asked for, and never are so many taken away that fewer than
//! `wanted - unavailable` available ones could be left.

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec};

use crate::controllers::meta::scaled;

/// What the plan needs to know of a replica set.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct SetView {
    pub(crate) name: String,
    /// Pods asked for.
    pub(crate) wanted: i32,
    /// Pods that have not ended, those that are terminating included.
    pub(crate) existing: i32,
    /// Pods that are available.
    pub(crate) available: i32,
    /// The deployment's size when this set was scaled last.
    pub(crate) noted: Option<Noted>,
}

/// What a replica set's annotations say about its deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Noted {
    /// The number of pods that the deployment asked for.
    pub(crate) wanted: i32,
    /// The most pods that it allowed.
    pub(crate) most: i32,
}

/// How pods are replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Strategy {
    /// Old ones go first, all of them.
    Recreate,
    /// Bit by bit, within these bounds (absolute numbers of pods).
    Rolling { surge: i32, unavailable: i32 },
}

/// What a deployment asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wish {
    pub(crate) wanted: i32,
    pub(crate) strategy: Strategy,
    pub(crate) paused: bool,
}

impl Wish {
    /// The wish of a deployment, with percentages resolved.
    pub(crate) fn of(deployment: &Deployment) -> Self {
        let spec = deployment.spec.clone().unwrap_or_default();
        Self {
            wanted: spec.replicas.unwrap_or(1).max(0),
            strategy: strategy(&spec),
            paused: spec.paused.unwrap_or(false),
        }
    }

    /// The most pods that may exist during a rollout.
    pub(crate) fn most(&self) -> i32 {
        match self.strategy {
            Strategy::Recreate => self.wanted,
            Strategy::Rolling { surge, .. } => self.wanted + surge,
        }
    }

    /// The fewest pods that must be available.
    pub(crate) fn least(&self) -> i32 {
        match self.strategy {
            Strategy::Recreate => self.wanted,
            Strategy::Rolling { unavailable, .. } => self.wanted - unavailable,
        }
    }
}

fn strategy(spec: &DeploymentSpec) -> Strategy {
    let given = spec.strategy.as_ref();
    if given.and_then(|s| s.type_.as_deref()) == Some("Recreate") {
        return Strategy::Recreate;
    }
    let rolling = given.and_then(|s| s.rolling_update.as_ref());
    let total = spec.replicas.unwrap_or(1).max(0);
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
        unavailable
    };
    Strategy::Rolling {
        surge: surge.max(0),
        unavailable: unavailable.min(total),
    }
}

/// What to do in this step. The next one follows when it has taken effect.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Step {
    /// The replica set of the current template must be made, of this size.
    pub(crate) create: Option<i32>,
    /// Replica sets that get another size.
    pub(crate) scale: Vec<(String, i32)>,
}

/// Decides the next step. `old` is ordered by age, oldest first.
pub(crate) fn step(wish: &Wish, new: Option<&SetView>, old: &[SetView]) -> Step {
    if wish.paused || is_resized(wish, new, old) {
        return Step {
            create: None,
            scale: resize(wish, new, old),
        };
    }
    match wish.strategy {
        Strategy::Recreate => recreate(wish.wanted, new, old),
        Strategy::Rolling { surge, unavailable } => {
            let absent = SetView::default();
            let grown = grow(wish.wanted, surge, new.unwrap_or(&absent), old);
            let Some(new) = new else {
                return Step {
                    create: Some(grown),
                    scale: Vec::new(),
                };
            };
            let mut scale = Vec::new();
            if grown != new.wanted {
                scale.push((new.name.clone(), grown));
            }
            scale.extend(shrink(wish.wanted, unavailable, grown, new, old));
            Step {
                create: None,
                scale,
            }
        }
    }
}

/// Whether somebody changed `replicas` since the sets were scaled last.
fn is_resized(wish: &Wish, new: Option<&SetView>, old: &[SetView]) -> bool {
    old.iter()
        .chain(new)
        .filter(|set| set.wanted > 0)
        .any(|set| set.noted.is_some_and(|noted| noted.wanted != wish.wanted))
}

/// Follows `replicas` without rolling. In the middle of a rollout all sets
/// grow or shrink in proportion, so that the risk stays spread.
fn resize(wish: &Wish, new: Option<&SetView>, old: &[SetView]) -> Vec<(String, i32)> {
    let active: Vec<&SetView> = old.iter().chain(new).filter(|set| set.wanted > 0).collect();
    let only = match active.as_slice() {
        [] => new.or(old.last()),
        [one] => Some(*one),
        _ => None,
    };
    if let Some(set) = only {
        let change = (set.wanted != wish.wanted).then(|| (set.name.clone(), wish.wanted));
        return change.into_iter().collect();
    }
    if new.is_some_and(|new| is_saturated(wish.wanted, new)) {
        return old
            .iter()
            .filter(|set| set.wanted > 0)
            .map(|set| (set.name.clone(), 0))
            .collect();
    }
    match wish.strategy {
        Strategy::Recreate => Vec::new(),
        Strategy::Rolling { .. } => in_proportion(wish, active),
    }
}

fn is_saturated(wanted: i32, new: &SetView) -> bool {
    new.wanted == wanted
        && new.available == wanted
        && new.noted.is_some_and(|noted| noted.wanted == wanted)
}

/// New sizes of the active sets (oldest first), whose sum becomes the most that is allowed.
fn in_proportion(wish: &Wish, mut active: Vec<&SetView>) -> Vec<(String, i32)> {
    let allowed = if wish.wanted > 0 { wish.most() } else { 0 };
    let total: i32 = active.iter().map(|set| set.wanted).sum();
    let missing = allowed - total;
    // The largest first; of equals the newer when growing, the older when shrinking.
    if missing > 0 {
        active.reverse();
    }
    active.sort_by_key(|set| std::cmp::Reverse(set.wanted));
    let mut done = 0;
    let mut sizes: Vec<i32> = Vec::new();
    for set in &active {
        let share = share(wish, set);
        let rest = missing - done;
        let change = if missing > 0 {
            share.min(rest).max(0)
        } else {
            share.max(rest).min(0)
        };
        done += change;
        sizes.push(set.wanted + change);
    }
    if let Some(first) = sizes.first_mut() {
        *first = (*first + missing - done).max(0);
    }
    active
        .iter()
        .zip(sizes)
        .filter(|(set, size)| set.wanted != *size)
        .map(|(set, size)| (set.name.clone(), size))
        .collect()
}

/// How much a set would change if it kept its part of the whole.
fn share(wish: &Wish, set: &SetView) -> i32 {
    if wish.wanted == 0 {
        return -set.wanted;
    }
    let before = set.noted.map_or(0, |noted| noted.most).max(1);
    let size = f64::from(set.wanted) * f64::from(wish.most()) / f64::from(before);
    // Replica counts are small numbers: the conversion cannot overflow.
    size.round() as i32 - set.wanted
}

fn recreate(wanted: i32, new: Option<&SetView>, old: &[SetView]) -> Step {
    let running: Vec<_> = old.iter().filter(|set| set.wanted > 0).collect();
    if !running.is_empty() {
        return Step {
            create: None,
            scale: running.iter().map(|set| (set.name.clone(), 0)).collect(),
        };
    }
    if old.iter().any(|set| set.existing > 0) {
        return Step::default();
    }
    match new {
        None => Step {
            create: Some(wanted),
            scale: Vec::new(),
        },
        Some(new) => Step {
            create: None,
            scale: (new.wanted != wanted)
                .then(|| (new.name.clone(), wanted))
                .into_iter()
                .collect(),
        },
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
    use serde_json::json;

    fn set(name: &str, wanted: i32, available: i32) -> SetView {
        SetView {
            name: name.into(),
            wanted,
            existing: wanted,
            available,
            noted: None,
        }
    }

    fn noted(mut set: SetView, wanted: i32, most: i32) -> SetView {
        set.noted = Some(Noted { wanted, most });
        set
    }

    fn rolling(wanted: i32, surge: i32, unavailable: i32) -> Wish {
        Wish {
            wanted,
            strategy: Strategy::Rolling { surge, unavailable },
            paused: false,
        }
    }

    fn scale(wish: &Wish, new: &SetView, old: &[SetView]) -> Vec<(String, i32)> {
        let step = step(wish, Some(new), old);
        assert_eq!(step.create, None);
        step.scale
    }

    #[test]
    fn percentages_round_in_favour_of_availability() {
        let of = |replicas: i32, surge: &str, unavailable: &str| {
            let deployment = json!({"spec": {"replicas": replicas, "selector": {}, "template": {},
                "strategy": {"rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}}}});
            let wish = Wish::of(&serde_json::from_value(deployment).unwrap());
            (wish.most(), wish.least())
        };
        assert_eq!(of(10, "25%", "25%"), (13, 8));
        assert_eq!(of(1, "25%", "25%"), (2, 1));
        assert_eq!(of(3, "0%", "0%"), (3, 2));
        assert_eq!(of(3, "0%", "10%"), (3, 2));
        assert_eq!(of(0, "25%", "25%"), (0, 0));
        assert_eq!(of(2, "100%", "100%"), (4, 0));
    }

    #[test]
    fn one_replica_is_replaced_only_after_its_successor_is_available() {
        let wish = rolling(1, 1, 0);
        assert_eq!(step(&wish, None, &[set("old", 1, 1)]).create, Some(1));
        assert_eq!(scale(&wish, &set("new", 1, 0), &[set("old", 1, 1)]), []);
        assert_eq!(
            scale(&wish, &set("new", 1, 1), &[set("old", 1, 1)]),
            [("old".into(), 0)]
        );
    }

    #[test]
    fn unavailable_old_pods_go_first_and_at_once() {
        let changes = scale(&rolling(2, 1, 0), &set("new", 1, 0), &[set("old", 2, 0)]);
        assert_eq!(changes, []);
        let changes = scale(&rolling(2, 1, 1), &set("new", 1, 0), &[set("old", 2, 0)]);
        assert_eq!(changes, [("old".into(), 1)]);
    }

    #[test]
    fn recreate_waits_until_the_last_old_pod_is_gone() {
        let wish = Wish {
            wanted: 2,
            strategy: Strategy::Recreate,
            paused: false,
        };
        let stop = step(&wish, None, &[set("old", 2, 2)]);
        assert_eq!((stop.create, stop.scale), (None, vec![("old".into(), 0)]));
        let leaving = SetView {
            existing: 1,
            ..set("old", 0, 0)
        };
        assert_eq!(step(&wish, None, &[leaving]), Step::default());
        assert_eq!(step(&wish, None, &[set("old", 0, 0)]).create, Some(2));
        // Back to an older template: its set grows again.
        assert_eq!(
            scale(&wish, &set("new", 0, 0), &[set("old", 0, 0)]),
            [("new".into(), 2)]
        );
    }

    #[test]
    fn a_smaller_wish_shrinks_the_newest_set_too() {
        assert_eq!(
            scale(&rolling(1, 1, 0), &set("new", 3, 3), &[]),
            [("new".into(), 1)]
        );
    }

    #[test]
    fn a_resize_in_the_middle_of_a_rollout_is_spread() {
        // 10 replicas with 3 surge were 8 old and 5 new ones; now 15 are wished.
        let old = noted(set("old", 8, 8), 10, 13);
        let new = noted(set("new", 5, 0), 10, 13);
        let changes = scale(&rolling(15, 3, 2), &new, std::slice::from_ref(&old));
        assert_eq!(changes, [("old".into(), 11), ("new".into(), 7)]);
        let changes = scale(&rolling(5, 1, 1), &new, std::slice::from_ref(&old));
        assert_eq!(changes, [("old".into(), 4), ("new".into(), 2)]);
        let changes = scale(&rolling(0, 0, 1), &new, &[old]);
        assert_eq!(changes, [("old".into(), 0), ("new".into(), 0)]);
    }

    #[test]
    fn a_paused_deployment_follows_its_size_and_does_not_roll() {
        let mut wish = rolling(4, 1, 0);
        wish.paused = true;
        let old = noted(set("old", 2, 2), 2, 3);
        assert_eq!(
            step(&wish, None, std::slice::from_ref(&old)).scale,
            [("old".into(), 4)]
        );
        let same = Wish { wanted: 2, ..wish };
        assert_eq!(step(&same, None, &[old]), Step::default());
    }

    #[test]
    fn a_saturated_new_set_ends_the_old_ones_at_once() {
        let mut wish = rolling(2, 1, 0);
        wish.paused = true;
        let new = noted(set("new", 2, 2), 2, 3);
        assert_eq!(scale(&wish, &new, &[set("old", 1, 1)]), [("old".into(), 0)]);
    }

    /// Whatever becomes available in whatever order, the bounds hold and the
    /// rollout ends.
    #[test]
    fn a_rollout_keeps_its_bounds_and_ends() {
        for wanted in 0..7 {
            for (surge, unavailable) in [(1, 0), (0, 1), (2, 1), (3, 3)] {
                let wish = rolling(wanted, surge, unavailable);
                let mut new = set("new", 0, 0);
                let mut old = vec![set("older", wanted / 2, wanted / 2)];
                old.push(set("old", wanted - wanted / 2, wanted - wanted / 2));
                for round in 0..60 {
                    for (name, count) in scale(&wish, &new, &old) {
                        let target = if name == "new" {
                            &mut new
                        } else {
                            old.iter_mut().find(|s| s.name == name).unwrap()
                        };
                        target.wanted = count;
                        target.available = target.available.min(count);
                    }
                    let total = new.wanted + old.iter().map(|s| s.wanted).sum::<i32>();
                    let available = new.available + old.iter().map(|s| s.available).sum::<i32>();
                    assert!(total <= wish.most(), "{total} of {wish:?}");
                    assert!(available >= wish.least(), "{available} of {wish:?}");
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
