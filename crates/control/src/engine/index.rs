//! Objects by one label pair, within a namespace.

use std::collections::{BTreeSet, HashMap};

use ambit_model::Text;
use ambit_translate::{Labels, ObjectKey};

/// A label pair in a namespace.
type Pair = (Text, Text, Text);

/// An index from label pairs to the names of the objects that have, or select by, them.
#[derive(Debug, Default)]
pub(super) struct PairIndex {
    names: HashMap<Pair, BTreeSet<Text>>,
}

impl PairIndex {
    /// Adds an object under each of the pairs.
    pub(super) fn insert<'a>(
        &mut self,
        object: &ObjectKey,
        pairs: impl IntoIterator<Item = (&'a Text, &'a Text)>,
    ) {
        for (key, value) in pairs {
            let pair = (object.namespace.clone(), key.clone(), value.clone());
            self.names
                .entry(pair)
                .or_default()
                .insert(object.name.clone());
        }
    }

    /// Removes an object from each of the pairs.
    pub(super) fn remove<'a>(
        &mut self,
        object: &ObjectKey,
        pairs: impl IntoIterator<Item = (&'a Text, &'a Text)>,
    ) {
        for (key, value) in pairs {
            let pair = (object.namespace.clone(), key.clone(), value.clone());
            if let Some(names) = self.names.get_mut(&pair) {
                names.remove(&object.name);
                if names.is_empty() {
                    self.names.remove(&pair);
                }
            }
        }
    }

    /// Names under one of the label pairs.
    pub(super) fn any<'a>(
        &'a self,
        namespace: &'a Text,
        labels: &'a Labels,
    ) -> impl Iterator<Item = &'a Text> {
        labels
            .iter()
            .filter_map(|(k, v)| self.get(namespace, k, v))
            .flatten()
    }

    /// Names under the rarest of the pairs of a selector: all objects that it selects are among
    /// them. `None` for a selector without pairs, which selects everything.
    pub(super) fn candidates(&self, namespace: &Text, selector: &Labels) -> Option<Vec<&Text>> {
        selector
            .iter()
            .map(|(k, v)| self.get(namespace, k, v))
            .min_by_key(|names| names.map_or(0, BTreeSet::len))
            .map(|names| names.into_iter().flatten().collect())
    }

    fn get(&self, namespace: &Text, key: &Text, value: &Text) -> Option<&BTreeSet<Text>> {
        self.names
            .get(&(namespace.clone(), key.clone(), value.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs
            .iter()
            .map(|(k, v)| ((*k).into(), (*v).into()))
            .collect()
    }

    #[test]
    fn finds_by_the_rarest_pair() {
        let mut index = PairIndex::default();
        let (a, b) = (ObjectKey::new("n", "a"), ObjectKey::new("n", "b"));
        let (la, lb) = (
            labels(&[("app", "x"), ("v", "1")]),
            labels(&[("app", "x"), ("v", "2")]),
        );
        index.insert(&a, &la);
        index.insert(&b, &lb);
        let names = |selector: &[(&str, &str)]| {
            let selector = labels(selector);
            let found = index.candidates(&"n".into(), &selector);
            found.map(|names| names.iter().map(|n| n.to_string()).collect::<Vec<_>>())
        };
        assert_eq!(
            names(&[("app", "x")]),
            Some(vec!["a".to_owned(), "b".to_owned()])
        );
        assert_eq!(
            names(&[("app", "x"), ("v", "2")]),
            Some(vec!["b".to_owned()])
        );
        assert_eq!(names(&[("app", "y")]), Some(vec![]));
        assert_eq!(names(&[]), None);
        index.remove(&a, &la);
        index.remove(&b, &lb);
        assert!(index.names.is_empty());
    }
}
