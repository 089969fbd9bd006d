//! The objects of one kind as this process knows them.
//!
//! Two sources feed a cache: the watch, and what this process itself wrote
//! (the server's answer to it). Whichever brings an object first wins, an
//! older version never replaces a newer one, and an object that this process
//! has seen deleted does not come back from a watch that lags behind.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use futures_util::StreamExt;
use kube::api::Api;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use parking_lot::{Mutex, RwLock};
use serde::de::DeserializeOwned;
use tokio::sync::watch;

/// Namespace and name; the namespace is empty for cluster-scoped kinds.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    /// The namespace, or "".
    pub namespace: String,
    /// The name.
    pub name: String,
}

impl ObjectKey {
    /// The key of the object `name` in `namespace` ("" when it has none).
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    /// The key of `object`.
    pub fn of<K: kube::Resource>(object: &K) -> Self {
        let meta = object.meta();
        Self::new(
            meta.namespace.clone().unwrap_or_default(),
            meta.name.clone().unwrap_or_default(),
        )
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

impl fmt::Debug for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Called with the object before and after each change; at least one is there.
type Handler<K> = Box<dyn Fn(Option<&K>, Option<&K>) + Send + Sync>;

/// The objects of one kind, newest known versions. See the module's header.
pub struct Cache<K> {
    objects: RwLock<BTreeMap<ObjectKey, Arc<K>>>,
    /// UIDs that this process saw deleted before its watch did.
    buried: Mutex<HashMap<ObjectKey, String>>,
    handlers: RwLock<Vec<Handler<K>>>,
    synced: watch::Sender<bool>,
}

impl<K> Cache<K>
where
    K: kube::Resource<DynamicType = ()>
        + Clone
        + DeserializeOwned
        + fmt::Debug
        + Send
        + Sync
        + 'static,
{
    /// An empty cache; [`Cache::run`] fills it.
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            objects: RwLock::new(BTreeMap::new()),
            buried: Mutex::new(HashMap::new()),
            handlers: RwLock::new(Vec::new()),
            synced: watch::Sender::new(false),
        })
    }

    /// Calls `handler` with (before, after) for each change from now on. It
    /// must be quick: it runs inside the watch.
    pub fn on_change(&self, handler: impl Fn(Option<&K>, Option<&K>) + Send + Sync + 'static) {
        self.handlers.write().push(Box::new(handler));
    }

    /// The object with this key.
    pub fn get(&self, key: &ObjectKey) -> Option<Arc<K>> {
        self.objects.read().get(key).cloned()
    }

    /// All objects, in the order of their keys.
    pub fn list(&self) -> Vec<Arc<K>> {
        self.objects.read().values().cloned().collect()
    }

    /// All objects of one namespace, in the order of their names.
    pub fn in_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        let from = ObjectKey::new(namespace, "");
        self.objects
            .read()
            .range(from..)
            .take_while(|(key, _)| key.namespace == namespace)
            .map(|(_, object)| object.clone())
            .collect()
    }

    /// Waits until the first list is complete.
    pub async fn synced(&self) {
        let mut synced = self.synced.subscribe();
        // The sender lives as long as `self`, so this cannot fail.
        let _ = synced.wait_for(|synced| *synced).await;
    }

    /// Takes over an object that the server returned for a write of our own.
    pub fn observe(&self, object: K) {
        self.apply(object, false);
    }

    /// Takes over what we know will be true of an object although the server
    /// has not returned it; any later version replaces it.
    pub fn assume(&self, object: K) {
        let key = ObjectKey::of(&object);
        let mut objects = self.objects.write();
        let current = objects
            .get(&key)
            .is_some_and(|known| known.meta().resource_version == object.meta().resource_version);
        if current {
            objects.insert(key, Arc::new(object));
        }
    }

    /// Notes that the object `key` with this `uid` is gone, as the server told us.
    pub fn forget(&self, key: &ObjectKey, uid: &str) {
        let removed = {
            let mut objects = self.objects.write();
            let same = objects
                .get(key)
                .is_some_and(|o| o.meta().uid.as_deref() == Some(uid));
            if same { objects.remove(key) } else { None }
        };
        if let Some(object) = removed {
            self.buried.lock().insert(key.clone(), uid.to_owned());
            self.notify(Some(&object), None);
        }
    }

    /// Watches `api` for ever, feeding this cache. Transport failures are
    /// retried with back-off; expired versions lead to a new list.
    pub async fn run(self: Arc<Self>, api: Api<K>, config: watcher::Config) {
        let mut stream = std::pin::pin!(watcher::watcher(api, config).default_backoff());
        let mut listed = Vec::new();
        while let Some(event) = stream.next().await {
            match event {
                Ok(Event::Init) => listed.clear(),
                Ok(Event::InitApply(object)) => listed.push(object),
                Ok(Event::InitDone) => self.replace(std::mem::take(&mut listed)),
                Ok(Event::Apply(object)) => self.apply(object, true),
                Ok(Event::Delete(object)) => self.deleted(&object),
                Err(error) => {
                    let kind = K::kind(&());
                    tracing::debug!("watching {kind}: {error}; will be tried again");
                }
            }
        }
    }

    fn apply(&self, object: K, from_watch: bool) {
        let key = ObjectKey::of(&object);
        if from_watch && self.is_buried(&key, &object) {
            return;
        }
        let new = Arc::new(object);
        let old = {
            let mut objects = self.objects.write();
            if objects
                .get(&key)
                .is_some_and(|old| !is_newer(&*new, &**old))
            {
                return;
            }
            objects.insert(key, new.clone())
        };
        self.notify(old.as_deref(), Some(&new));
    }

    fn is_buried(&self, key: &ObjectKey, object: &K) -> bool {
        self.buried
            .lock()
            .get(key)
            .is_some_and(|uid| object.meta().uid.as_ref() == Some(uid))
    }

    fn deleted(&self, object: &K) {
        let key = ObjectKey::of(object);
        let uid = &object.meta().uid;
        {
            let mut buried = self.buried.lock();
            if buried.get(&key) == uid.as_ref() {
                buried.remove(&key);
            }
        }
        let removed = {
            let mut objects = self.objects.write();
            // A successor of the same name may be here already.
            let same = objects
                .get(&key)
                .is_some_and(|known| known.meta().uid == *uid);
            if same { objects.remove(&key) } else { None }
        };
        if let Some(removed) = removed {
            self.notify(Some(&removed), None);
        }
    }

    fn replace(&self, listed: Vec<K>) {
        self.buried.lock().clear();
        let mut gone = {
            let objects = self.objects.read();
            objects.clone()
        };
        for object in &listed {
            gone.remove(&ObjectKey::of(object));
        }
        for object in gone.values() {
            self.deleted(object);
        }
        for object in listed {
            self.apply(object, true);
        }
        self.synced.send_replace(true);
    }

    fn notify(&self, old: Option<&K>, new: Option<&K>) {
        for handler in self.handlers.read().iter() {
            handler(old, new);
        }
    }
}

impl<K> fmt::Debug for Cache<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cache({} objects)", self.objects.read().len())
    }
}

/// Whether `new` is a later version than `old`. Versions of one object are
/// comparable as numbers; where they are not, the later arrival wins.
fn is_newer<K: kube::Resource>(new: &K, old: &K) -> bool {
    if new.meta().uid != old.meta().uid {
        return version(new) >= version(old);
    }
    match (version(new), version(old)) {
        (Some(new), Some(old)) => new > old,
        _ => new.meta().resource_version != old.meta().resource_version,
    }
}

fn version<K: kube::Resource>(object: &K) -> Option<u64> {
    object.meta().resource_version.as_ref()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;

    fn object(name: &str, uid: &str, version: u64) -> ConfigMap {
        let mut object = ConfigMap::default();
        object.metadata.namespace = Some("ns".into());
        object.metadata.name = Some(name.into());
        object.metadata.uid = Some(uid.into());
        object.metadata.resource_version = Some(version.to_string());
        object
    }

    fn recorded(cache: &Cache<ConfigMap>) -> Arc<Mutex<Vec<String>>> {
        let log = Arc::new(Mutex::new(Vec::new()));
        let sink = log.clone();
        let version = |o: Option<&ConfigMap>| {
            o.and_then(|o| o.metadata.resource_version.clone())
                .unwrap_or_else(|| "-".into())
        };
        cache.on_change(move |old, new| {
            sink.lock()
                .push(format!("{}>{}", version(old), version(new)))
        });
        log
    }

    #[test]
    fn an_older_version_never_replaces_a_newer_one() {
        let cache = Cache::new();
        let log = recorded(&cache);
        cache.observe(object("a", "u", 10));
        cache.apply(object("a", "u", 8), true);
        cache.apply(object("a", "u", 10), true);
        cache.apply(object("a", "u", 11), true);
        assert_eq!(*log.lock(), ["->10", "10>11"]);
    }

    #[test]
    fn what_we_saw_deleted_does_not_come_back_from_a_slow_watch() {
        let cache = Cache::new();
        let key = ObjectKey::new("ns", "a");
        cache.apply(object("a", "u", 10), true);
        cache.forget(&key, "u");
        cache.apply(object("a", "u", 11), true);
        assert!(cache.get(&key).is_none());
        cache.deleted(&object("a", "u", 12));
        cache.apply(object("a", "u2", 13), true);
        assert!(
            cache.get(&key).is_some(),
            "a successor of the same name is another object"
        );
    }

    #[test]
    fn a_late_deletion_spares_the_successor() {
        let cache = Cache::new();
        cache.observe(object("a", "new", 20));
        cache.deleted(&object("a", "old", 19));
        assert!(cache.get(&ObjectKey::new("ns", "a")).is_some());
    }

    #[test]
    fn a_new_list_removes_what_is_gone_and_tells() {
        let cache = Cache::new();
        cache.replace(vec![object("a", "u", 1), object("b", "v", 2)]);
        let log = recorded(&cache);
        cache.replace(vec![object("b", "v", 2), object("c", "w", 3)]);
        assert_eq!(*log.lock(), ["1>-", "->3"]);
        let names: Vec<_> = cache
            .in_namespace("ns")
            .iter()
            .filter_map(|o| o.metadata.name.clone())
            .collect();
        assert_eq!(names, ["b", "c"]);
        assert!(cache.in_namespace("n").is_empty());
    }
}
