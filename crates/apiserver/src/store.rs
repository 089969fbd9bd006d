//! The objects, in memory, with their recent history.
//!
//! What always holds:
//! - one resource version for everything, a number that each committed write raises by one;
//! - a stored object is never changed, only replaced;
//! - each resource keeps a ring of its last changes, so that a watch is a cursor into the ring
//!   and costs nothing while nothing happens, and a paged list sees one state of the past;
//! - whoever asks for history that left the ring is told so, never given a gap.

use crate::object::{self, Object};
use parking_lot::RwLock;
use serde_json::Value;
use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
};
use tokio::sync::watch;

/// Changes kept per resource. A watcher that falls further behind lists again.
const RING: usize = 4096;

/// Objects of a resource by namespace ("" for cluster scope) and name.
type Objects = BTreeMap<(Arc<str>, Arc<str>), Arc<Object>>;

/// The stored objects of all resources.
#[derive(Debug, Default)]
pub struct Store {
    inner: RwLock<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    revision: u64,
    collections: HashMap<Arc<str>, Collection>,
}

#[derive(Debug)]
struct Collection {
    objects: Objects,
    ring: VecDeque<Change>,
    /// Changes up to this revision may be missing from the ring.
    forgotten: u64,
    changed: watch::Sender<u64>,
}

impl Collection {
    fn new(revision: u64) -> Self {
        Collection {
            objects: BTreeMap::new(),
            ring: VecDeque::new(),
            forgotten: 0,
            changed: watch::Sender::new(revision),
        }
    }

    fn record(&mut self, change: Change) {
        if self.ring.len() == RING
            && let Some(old) = self.ring.pop_front()
        {
            self.forgotten = old.revision;
        }
        let revision = change.revision;
        self.ring.push_back(change);
        self.changed.send_replace(revision);
    }
}

/// What a write did to one object.
#[derive(Debug, Clone)]
pub struct Change {
    /// The resource version of the write.
    pub revision: u64,
    /// The object before, if there was one.
    pub before: Option<Arc<Object>>,
    /// The object after; for a deletion its last state with the deletion's resource version.
    pub after: Arc<Object>,
    /// Whether the object is gone.
    pub deleted: bool,
}

/// Why a write was not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// There is an object of that name.
    #[error("the object exists")]
    Exists,
    /// There is no object of that name.
    #[error("the object does not exist")]
    Missing,
    /// The object is not in the state that the writer read.
    #[error("the object has changed")]
    Stale,
}

/// The history that was asked for is not kept any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("changes up to revision {oldest} are forgotten")]
pub struct Forgotten {
    /// The first revision from which a watch could start.
    pub oldest: u64,
}

/// Where an object stands: resource (`pods`, `deployments.apps`), namespace and name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// The storage name of the resource.
    pub resource: Arc<str>,
    /// "" for resources of the cluster.
    pub namespace: Arc<str>,
    /// The object's name.
    pub name: Arc<str>,
}

impl Key {
    /// A key from its three parts.
    pub fn new(resource: &Arc<str>, namespace: &str, name: &str) -> Self {
        Key {
            resource: resource.clone(),
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    fn inside(&self) -> (Arc<str>, Arc<str>) {
        (self.namespace.clone(), self.name.clone())
    }
}

impl Store {
    /// The resource version of the last write.
    pub fn revision(&self) -> u64 {
        self.inner.read().revision
    }

    /// One object.
    pub fn get(&self, key: &Key) -> Option<Arc<Object>> {
        self.inner
            .read()
            .collections
            .get(&key.resource)?
            .objects
            .get(&key.inside())
            .cloned()
    }

    /// All objects of a resource, of one namespace if given, and the revision they stand at.
    pub fn list(&self, resource: &str, namespace: Option<&str>) -> (u64, Vec<Arc<Object>>) {
        let inner = self.inner.read();
        let objects = match inner.collections.get(resource) {
            None => Vec::new(),
            Some(c) => select(&c.objects, namespace),
        };
        (inner.revision, objects)
    }

    /// As [`Store::list`], but at a revision of the past.
    pub fn list_at(
        &self,
        resource: &str,
        namespace: Option<&str>,
        revision: u64,
    ) -> Result<Vec<Arc<Object>>, Forgotten> {
        let inner = self.inner.read();
        let Some(c) = inner.collections.get(resource) else {
            return Ok(Vec::new());
        };
        if revision < c.forgotten {
            return Err(Forgotten {
                oldest: c.forgotten,
            });
        }
        if c.ring.back().is_none_or(|last| last.revision <= revision) {
            return Ok(select(&c.objects, namespace));
        }
        let mut objects = c.objects.clone();
        for change in c
            .ring
            .iter()
            .rev()
            .take_while(|change| change.revision > revision)
        {
            let value = change.after.value();
            let at = (object::namespace(value).into(), object::name(value).into());
            match &change.before {
                Some(before) => objects.insert(at, before.clone()),
                None => objects.remove(&at),
            };
        }
        Ok(select(&objects, namespace))
    }

    /// How many objects each resource has, for those that have any.
    pub fn counts(&self) -> BTreeMap<Arc<str>, usize> {
        let inner = self.inner.read();
        inner
            .collections
            .iter()
            .filter(|(_, c)| !c.objects.is_empty())
            .map(|(name, c)| (name.clone(), c.objects.len()))
            .collect()
    }

    /// Stores a new object.
    pub fn create(&self, key: &Key, mut value: Value) -> Result<Arc<Object>, WriteError> {
        let mut inner = self.inner.write();
        let revision = inner.revision + 1;
        let collection = collection(&mut inner.collections, &key.resource, revision);
        if collection.objects.contains_key(&key.inside()) {
            return Err(WriteError::Exists);
        }
        set_revision(&mut value, revision);
        let after = Arc::new(Object::new(value, revision));
        collection.objects.insert(key.inside(), after.clone());
        collection.record(Change {
            revision,
            before: None,
            after: after.clone(),
            deleted: false,
        });
        inner.revision = revision;
        Ok(after)
    }

    /// Replaces an object that still is at revision `expected`.
    pub fn update(
        &self,
        key: &Key,
        expected: u64,
        mut value: Value,
    ) -> Result<Arc<Object>, WriteError> {
        let mut inner = self.inner.write();
        let revision = inner.revision + 1;
        let collection = inner
            .collections
            .get_mut(&key.resource)
            .ok_or(WriteError::Missing)?;
        let slot = collection
            .objects
            .get_mut(&key.inside())
            .ok_or(WriteError::Missing)?;
        if slot.revision() != expected {
            return Err(WriteError::Stale);
        }
        set_revision(&mut value, revision);
        let after = Arc::new(Object::new(value, revision));
        let before = std::mem::replace(slot, after.clone());
        collection.record(Change {
            revision,
            before: Some(before),
            after: after.clone(),
            deleted: false,
        });
        inner.revision = revision;
        Ok(after)
    }

    /// Removes an object that still is at revision `expected`. The answer carries the
    /// deletion's resource version.
    pub fn delete(&self, key: &Key, expected: u64) -> Result<Arc<Object>, WriteError> {
        let mut inner = self.inner.write();
        let revision = inner.revision + 1;
        let collection = inner
            .collections
            .get_mut(&key.resource)
            .ok_or(WriteError::Missing)?;
        let current = collection
            .objects
            .get(&key.inside())
            .ok_or(WriteError::Missing)?;
        if current.revision() != expected {
            return Err(WriteError::Stale);
        }
        let before = current.clone();
        collection.objects.remove(&key.inside());
        let mut value = before.value().clone();
        set_revision(&mut value, revision);
        let after = Arc::new(Object::new(value, revision));
        collection.record(Change {
            revision,
            before: Some(before),
            after: after.clone(),
            deleted: true,
        });
        inner.revision = revision;
        Ok(after)
    }

    /// The changes after `revision`, oldest first, at most `limit`.
    pub fn changes_after(
        &self,
        resource: &str,
        revision: u64,
        limit: usize,
    ) -> Result<Vec<Change>, Forgotten> {
        let inner = self.inner.read();
        if revision > inner.revision {
            // A client of an earlier life of this server: its versions mean nothing here.
            return Err(Forgotten {
                oldest: inner.revision,
            });
        }
        let Some(c) = inner.collections.get(resource) else {
            return Ok(Vec::new());
        };
        if revision < c.forgotten {
            return Err(Forgotten {
                oldest: c.forgotten,
            });
        }
        let start = c.ring.partition_point(|change| change.revision <= revision);
        Ok(c.ring.iter().skip(start).take(limit).cloned().collect())
    }

    /// Wakes at each change of a resource.
    pub fn subscribe(&self, resource: &Arc<str>) -> watch::Receiver<u64> {
        let mut inner = self.inner.write();
        let revision = inner.revision;
        collection(&mut inner.collections, resource, revision)
            .changed
            .subscribe()
    }
}

fn collection<'a>(
    all: &'a mut HashMap<Arc<str>, Collection>,
    resource: &Arc<str>,
    revision: u64,
) -> &'a mut Collection {
    all.entry(resource.clone())
        .or_insert_with(|| Collection::new(revision))
}

fn select(objects: &Objects, namespace: Option<&str>) -> Vec<Arc<Object>> {
    match namespace {
        None => objects.values().cloned().collect(),
        Some(ns) => {
            let from: (Arc<str>, Arc<str>) = (ns.into(), "".into());
            objects
                .range(from..)
                .take_while(|((n, _), _)| n.as_ref() == ns)
                .map(|(_, o)| o.clone())
                .collect()
        }
    }
}

fn set_revision(value: &mut Value, revision: u64) {
    object::set_metadata(value, "resourceVersion", Some(revision.to_string().into()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn key(ns: &str, name: &str) -> Key {
        Key::new(&"things".into(), ns, name)
    }

    fn thing(ns: &str, name: &str, n: u64) -> Value {
        json!({"metadata": {"namespace": ns, "name": name}, "n": n})
    }

    #[test]
    fn one_revision_counts_all_writes() {
        let store = Store::default();
        let a = store.create(&key("x", "a"), thing("x", "a", 1)).unwrap();
        assert_eq!(a.value()["metadata"]["resourceVersion"], "1");
        assert_eq!(
            store
                .create(&key("x", "a"), thing("x", "a", 1))
                .unwrap_err(),
            WriteError::Exists
        );
        let b = store.update(&key("x", "a"), 1, thing("x", "a", 2)).unwrap();
        assert_eq!(b.revision(), 2);
        assert_eq!(
            store
                .update(&key("x", "a"), 1, thing("x", "a", 3))
                .unwrap_err(),
            WriteError::Stale
        );
        let gone = store.delete(&key("x", "a"), 2).unwrap();
        assert_eq!(gone.value()["metadata"]["resourceVersion"], "3");
        assert_eq!(
            store.delete(&key("x", "a"), 3).unwrap_err(),
            WriteError::Missing
        );
    }

    #[test]
    fn namespaces_do_not_leak() {
        let store = Store::default();
        for (ns, name) in [("a", "1"), ("ab", "1"), ("b", "1"), ("b", "2")] {
            store.create(&key(ns, name), thing(ns, name, 0)).unwrap();
        }
        assert_eq!(store.list("things", Some("a")).1.len(), 1);
        assert_eq!(store.list("things", Some("b")).1.len(), 2);
        assert_eq!(store.list("things", None).1.len(), 4);
        assert_eq!(store.list("others", None).0, 4);
        assert!(store.list("others", None).1.is_empty());
    }

    #[test]
    fn the_past_can_be_listed() {
        let store = Store::default();
        store.create(&key("x", "a"), thing("x", "a", 1)).unwrap();
        store.create(&key("x", "b"), thing("x", "b", 1)).unwrap();
        store.update(&key("x", "a"), 1, thing("x", "a", 2)).unwrap();
        store.delete(&key("x", "b"), 2).unwrap();
        let past = store.list_at("things", None, 2).unwrap();
        let ns: Vec<&Value> = past.iter().map(|o| &o.value()["n"]).collect();
        assert_eq!(ns, [&json!(1), &json!(1)]);
        assert_eq!(store.list_at("things", None, 4).unwrap().len(), 1);
    }

    #[test]
    fn forgotten_history_is_told() {
        let store = Store::default();
        store.create(&key("x", "a"), thing("x", "a", 0)).unwrap();
        for n in 1..=RING as u64 + 10 {
            store.update(&key("x", "a"), n, thing("x", "a", n)).unwrap();
        }
        assert!(store.changes_after("things", 1, 10).is_err());
        let last = store.revision();
        assert_eq!(
            store.changes_after("things", last - 3, 10).unwrap().len(),
            3
        );
        assert_eq!(store.changes_after("things", last - 3, 2).unwrap().len(), 2);
        assert!(store.changes_after("things", last + 1, 10).is_err());
        assert!(store.list_at("things", None, 3).is_err());
    }

    #[test]
    fn subscribers_wake() {
        let store = Store::default();
        let mut changed = store.subscribe(&"things".into());
        changed.mark_unchanged();
        store.create(&key("x", "a"), thing("x", "a", 0)).unwrap();
        assert!(changed.has_changed().unwrap());
    }
}
