//! Rules in order, found by their path.

use std::collections::HashMap;

use super::{Head, Match, PathMatch};
use crate::Text;

/// Rules in order, each with its alternatives. Finding one costs by the rules that share its path,
/// not by all of them.
#[derive(Debug, Default)]
pub struct Table {
    /// Alternatives in order, with the number of their rule.
    alternatives: Vec<(Match, usize)>,
    /// Alternatives by their exact path, in order.
    exact: HashMap<Text, Vec<usize>>,
    /// Alternatives by the segments that they begin with, in order.
    segments: HashMap<Text, Vec<usize>>,
    /// Those that an index by path does not find.
    others: Vec<usize>,
}

impl Table {
    /// A table of alternatives in their order, each with the number of the rule that it is one of.
    pub fn new(alternatives: Vec<(Match, usize)>) -> Self {
        let mut table = Self::default();
        for (number, (alternative, _)) in alternatives.iter().enumerate() {
            let list = match &alternative.path {
                Some(PathMatch::Exact(path)) => table.exact.entry(path.clone()).or_default(),
                Some(PathMatch::Segments(path)) => table.segments.entry(path.clone()).or_default(),
                _ => &mut table.others,
            };
            list.push(number);
        }
        table.alternatives = alternatives;
        table
    }

    /// Whether there are no rules: such a service is forwarded to as it is.
    pub fn is_empty(&self) -> bool {
        self.alternatives.is_empty()
    }

    /// All alternatives in their order, each with the number of its rule.
    pub fn alternatives(&self) -> impl Iterator<Item = (&Match, usize)> {
        self.alternatives
            .iter()
            .map(|(matched, rule)| (matched, *rule))
    }

    /// The first alternative that a request fulfils, and the number of its rule.
    pub fn find(&self, head: &Head<'_>) -> Option<(&Match, usize)> {
        let mut best = self.alternatives.len();
        self.improve(&mut best, self.exact.get(head.path), head);
        for prefix in prefixes(head.path) {
            self.improve(&mut best, self.segments.get(prefix), head);
        }
        self.improve(&mut best, Some(&self.others), head);
        let (alternative, rule) = self.alternatives.get(best)?;
        Some((alternative, *rule))
    }

    /// Looks for a better one in a list, which is in order.
    fn improve(&self, best: &mut usize, list: Option<&Vec<usize>>, head: &Head<'_>) {
        let better = list.into_iter().flatten().copied();
        let mut better = better.take_while(|number| number < best);
        if let Some(found) = better.find(|number| self.alternatives[*number].0.matches(head)) {
            *best = found;
        }
    }
}

/// Everything that a path begins with, in whole segments: `/a/b`, `/a`, and nothing.
fn prefixes(path: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(path), |path| {
        path.rfind('/').map(|slash| &path[..slash])
    })
}
