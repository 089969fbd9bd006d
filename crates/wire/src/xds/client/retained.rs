//! What a client holds of a type: the names and versions that it reports when it comes back.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::{Held, Rejected};

#[derive(Debug, Default)]
pub(super) struct Retained {
    versions: HashMap<Arc<str>, String>,
}

impl Retained {
    /// Takes a handled response into account. A rejected resource is not held, whatever was held
    /// under its name before: the server has to send it again.
    pub(super) fn update(&mut self, held: Vec<Held>, removed: &[String], rejected: &[Rejected]) {
        self.versions.extend(held);
        for name in removed {
            self.versions.remove(name.as_str());
        }
        for rejected in rejected {
            self.versions.remove(&rejected.name);
        }
    }

    /// For the first request of a stream.
    pub(super) fn versions(&self) -> BTreeMap<String, String> {
        self.versions
            .iter()
            .map(|(name, version)| (name.to_string(), version.clone()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rejected_and_removed_names_are_not_held() {
        let mut retained = Retained::default();
        let held = |names: &[&str]| {
            names
                .iter()
                .map(|n| (Arc::from(*n), "1".to_owned()))
                .collect()
        };
        retained.update(held(&["a", "b", "c"]), &[], &[]);
        let rejected = Rejected {
            name: "b".into(),
            reason: String::new(),
        };
        retained.update(held(&["b", "d"]), &["a".to_owned()], &[rejected]);
        let names: Vec<String> = retained.versions().into_keys().collect();
        assert_eq!(names, ["c", "d"]);
    }
}
