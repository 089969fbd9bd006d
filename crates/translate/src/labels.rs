//! Labels, and selectors over them.

use std::collections::BTreeMap;

use ambit_model::Text;

/// Labels of an object, or the pairs that a selector asks for.
pub type Labels = BTreeMap<Text, Text>;

/// Labels as the API gives them.
pub fn labels_from(labels: Option<&BTreeMap<String, String>>) -> Labels {
    labels
        .into_iter()
        .flatten()
        .map(|(k, v)| (Text::from(k.as_str()), Text::from(v.as_str())))
        .collect()
}

/// Whether every pair of the selector is among the labels. A selector without pairs selects all.
pub fn selects(selector: &Labels, labels: &Labels) -> bool {
    selector.iter().all(|(k, v)| labels.get(k) == Some(v))
}

/// Value of the first of `keys` that is set and not empty.
pub fn first<'a>(labels: &'a Labels, keys: &[&str]) -> Option<&'a Text> {
    keys.iter()
        .find_map(|k| labels.get(*k).filter(|v| !v.is_empty()))
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
    fn all_pairs_must_be_there() {
        let pod = labels(&[("app", "cart"), ("version", "v1")]);
        assert!(selects(&labels(&[]), &pod));
        assert!(selects(&labels(&[("app", "cart")]), &pod));
        assert!(!selects(&labels(&[("app", "cart"), ("tier", "x")]), &pod));
        assert!(!selects(&labels(&[("app", "other")]), &pod));
    }
}
