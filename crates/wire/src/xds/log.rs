//! What a server publishes: per type, a log in which each resource stands where it changed last.
//!
//! A stream remembers one number per type, its cursor. What it has not sent yet is what stands
//! after the cursor; a change that was overtaken by a later one is not there any more, so a slow
//! client skips it and costs no memory. Removals stay as tombstones until every cursor is past
//! them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ambit_model::Text;
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;
use twox_hash::XxHash64;

use super::message::{encode_resource, with_aliases};

/// Tombstones that are kept without asking whether anybody needs them.
const TOMBSTONES: usize = 256;

/// A resource as it is published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// Its name: the key of the resource on the wire.
    pub name: Text,
    /// Other names that it is found by on demand, such as `network/address`. Clients see them.
    pub aliases: Vec<Text>,
    /// Names that it is delivered along with on demand, such as the service of a workload.
    pub groups: Vec<Text>,
    /// The encoded message.
    pub body: Bytes,
}

/// Changes that are published together. A name should occur once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// New and changed resources.
    pub set: Vec<Resource>,
    /// Names that are gone.
    pub remove: Vec<Text>,
}

/// A type of resources.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TypeOptions {
    /// The type URL.
    pub type_url: &'static str,
    /// Whether resources carry a version (a hash of their body), so that a client that comes back
    /// is not sent what it has.
    pub versioned: bool,
}

/// The logs of all types of a server. Cloning gives another handle.
#[derive(Clone, Debug)]
pub struct Logs {
    by_type: Arc<BTreeMap<&'static str, Arc<ResourceLog>>>,
    /// False until the first complete state is published.
    open: Arc<watch::Sender<bool>>,
    changed: Arc<watch::Sender<u64>>,
}

/// The log of one type.
#[derive(Debug)]
pub struct ResourceLog {
    options: TypeOptions,
    state: RwLock<State>,
    cursors: Mutex<HashMap<u64, u64>>,
    next_reader: AtomicU64,
    changed: Arc<watch::Sender<u64>>,
}

#[derive(Debug, Default)]
struct State {
    /// Number of the last change.
    head: u64,
    slots: HashMap<Text, Slot>,
    /// Name by number of its last change.
    order: BTreeMap<u64, Text>,
    /// Names by alias and group.
    index: HashMap<Text, BTreeSet<Text>>,
    tombstones: usize,
}

#[derive(Debug)]
struct Slot {
    number: u64,
    /// `None` for a tombstone.
    resource: Option<Arc<Encoded>>,
}

/// A resource, encoded.
#[derive(Debug)]
pub(super) struct Encoded {
    resource: Resource,
    version: String,
    wire: Bytes,
}

/// What a stream has to send.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// The cursor after sending it.
    pub head: u64,
    /// Encoded resources.
    pub resources: Vec<Bytes>,
    /// Names that are gone.
    pub removed: Vec<String>,
}

/// What a stream wants of a type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Everything.
    All,
    /// What is found by these names, aliases and groups.
    Keys(BTreeSet<Text>),
}

/// A reader's place in a log. It keeps tombstones alive until it is moved on or dropped.
#[derive(Debug)]
pub(super) struct Cursor {
    log: Arc<ResourceLog>,
    reader: u64,
}

impl Logs {
    /// Empty logs, which are not served before [`open`](Self::open).
    pub fn new(types: &[TypeOptions]) -> Self {
        let changed = Arc::new(watch::Sender::new(0));
        let log = |options: &TypeOptions| {
            let log = ResourceLog {
                options: *options,
                state: RwLock::default(),
                cursors: Mutex::default(),
                next_reader: AtomicU64::new(0),
                changed: changed.clone(),
            };
            (options.type_url, Arc::new(log))
        };
        let by_type = Arc::new(types.iter().map(log).collect());
        Self {
            by_type,
            open: Arc::new(watch::Sender::new(false)),
            changed,
        }
    }

    /// The log of a type.
    pub fn get(&self, type_url: &str) -> Option<&Arc<ResourceLog>> {
        self.by_type.get(type_url)
    }

    /// From now on streams are answered. Before the first complete state is published they must
    /// not be: a client that comes back would be told that everything it knows is gone.
    pub fn open(&self) {
        self.open.send_replace(true);
    }

    /// Waits for [`open`](Self::open).
    pub(super) async fn opened(&self) {
        // The sender lives in `self`, so the channel cannot close while we wait.
        let _ = self.open.subscribe().wait_for(|open| *open).await;
    }

    /// Told after each change of any type.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}

impl ResourceLog {
    /// The type.
    pub fn type_url(&self) -> &'static str {
        self.options.type_url
    }

    /// Publishes changes; those that change nothing are left out. Returns how many were left.
    pub fn publish(&self, batch: Batch) -> usize {
        let encoded: Vec<_> = batch
            .set
            .into_iter()
            .map(|resource| self.encode(resource))
            .collect();
        let mut state = self.state.write();
        let before = state.head;
        for resource in encoded {
            state.set(resource);
        }
        for name in batch.remove {
            state.remove(&name);
        }
        let changes = state.head - before;
        if state.tombstones > TOMBSTONES {
            let slowest = self.cursors.lock().values().copied().min();
            state.bury(slowest.unwrap_or(u64::MAX));
        }
        drop(state);
        if changes > 0 {
            self.changed
                .send_modify(|count| *count = count.wrapping_add(1));
        }
        usize::try_from(changes).unwrap_or(usize::MAX)
    }

    /// Publishes a complete state: what is published and not in it is removed.
    pub fn replace_all(&self, resources: Vec<Resource>) -> usize {
        let names: BTreeSet<&Text> = resources.iter().map(|resource| &resource.name).collect();
        let remove = {
            let state = self.state.read();
            let live = state
                .slots
                .iter()
                .filter(|(_, slot)| slot.resource.is_some());
            live.map(|(name, _)| name)
                .filter(|name| !names.contains(name))
                .cloned()
                .collect()
        };
        self.publish(Batch {
            set: resources,
            remove,
        })
    }

    /// How many resources there are.
    pub fn len(&self) -> usize {
        let state = self.state.read();
        state.slots.len() - state.tombstones
    }

    /// There are no resources.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All resources with their versions, sorted by name, for debug pages.
    pub fn dump(&self) -> Vec<(Resource, String)> {
        let state = self.state.read();
        let live = state
            .slots
            .values()
            .filter_map(|slot| slot.resource.as_ref());
        let mut all: Vec<_> = live
            .map(|e| (e.resource.clone(), e.version.clone()))
            .collect();
        all.sort_by(|a, b| a.0.name.cmp(&b.0.name));
        all
    }

    fn encode(&self, resource: Resource) -> Encoded {
        let version = if self.options.versioned {
            version_of(&resource.body)
        } else {
            String::new()
        };
        let body = resource.body.clone();
        let wire = encode_resource(&resource.name, &version, self.options.type_url, body);
        Encoded {
            resource,
            version,
            wire,
        }
    }

    /// What a client needs that starts (again) with the given names and versions.
    pub(super) fn initial(&self, known: &BTreeMap<String, String>, wanted: &Wanted) -> Changes {
        let state = self.state.read();
        let mut changes = Changes {
            head: state.head,
            ..Changes::default()
        };
        for encoded in state.wanted(wanted) {
            let has = known.get(&*encoded.resource.name);
            if has.is_none_or(|version| encoded.version.is_empty() || *version != encoded.version) {
                changes.resources.push(encoded.wire_for(wanted));
            }
        }
        let gone =
            |name: &&String| state.live(name).is_none() && !state.index.contains_key(name.as_str());
        changes.removed = known.keys().filter(gone).cloned().collect();
        changes
    }

    /// What changed after a cursor.
    pub(super) fn since(&self, cursor: u64, wanted: &Wanted) -> Changes {
        let state = self.state.read();
        let mut changes = Changes {
            head: state.head,
            ..Changes::default()
        };
        for (_, name) in state.order.range(cursor + 1..) {
            match state
                .slots
                .get(name)
                .and_then(|slot| slot.resource.as_ref())
            {
                Some(encoded) if encoded.matches(wanted) => {
                    changes.resources.push(encoded.wire_for(wanted));
                }
                Some(_) => {}
                // A tombstone has lost its aliases and groups: a client that asked by one of them
                // is told too, and ignores a name that it does not know.
                None => changes.removed.push(name.to_string()),
            }
        }
        changes
    }

    /// Looks names up for a client that asks for them now; names that are not there count as
    /// removed.
    pub(super) fn find(&self, keys: &BTreeSet<Text>) -> Changes {
        let wanted = Wanted::Keys(keys.clone());
        let state = self.state.read();
        let found = state
            .wanted(&wanted)
            .map(|encoded| encoded.wire_for(&wanted))
            .collect();
        let missing = keys
            .iter()
            .filter(|key| state.live(key).is_none() && !state.index.contains_key(*key));
        Changes {
            head: state.head,
            resources: found,
            removed: missing.map(|key| key.to_string()).collect(),
        }
    }

    pub(super) fn head(&self) -> u64 {
        self.state.read().head
    }

    /// A cursor at the head. It has to exist before [`initial`](Self::initial) is called, so that
    /// no tombstone between the two is lost.
    pub(super) fn cursor(self: &Arc<Self>) -> Cursor {
        let reader = self.next_reader.fetch_add(1, Ordering::Relaxed);
        // Not while the cursors are locked: `publish` locks them after the state.
        let head = self.head();
        self.cursors.lock().insert(reader, head);
        Cursor {
            log: self.clone(),
            reader,
        }
    }
}

impl Cursor {
    pub(super) fn log(&self) -> &ResourceLog {
        &self.log
    }

    pub(super) fn position(&self) -> u64 {
        self.log
            .cursors
            .lock()
            .get(&self.reader)
            .copied()
            .unwrap_or_default()
    }

    pub(super) fn move_to(&self, position: u64) {
        self.log.cursors.lock().insert(self.reader, position);
    }
}

impl Drop for Cursor {
    fn drop(&mut self) {
        self.log.cursors.lock().remove(&self.reader);
    }
}

impl Encoded {
    fn keys(&self) -> impl Iterator<Item = &Text> {
        self.resource.aliases.iter().chain(&self.resource.groups)
    }

    fn matches(&self, wanted: &Wanted) -> bool {
        match wanted {
            Wanted::All => true,
            Wanted::Keys(keys) => {
                keys.contains(&self.resource.name) || self.keys().any(|key| keys.contains(key))
            }
        }
    }

    /// The shared bytes; with aliases for a client that asks on demand and has to match its key.
    fn wire_for(&self, wanted: &Wanted) -> Bytes {
        match wanted {
            Wanted::All => self.wire.clone(),
            Wanted::Keys(_) => with_aliases(
                &self.wire,
                self.resource.aliases.iter().map(|alias| &**alias),
            ),
        }
    }
}

impl State {
    fn live(&self, name: &str) -> Option<&Arc<Encoded>> {
        self.slots.get(name)?.resource.as_ref()
    }

    fn set(&mut self, encoded: Encoded) {
        if self
            .live(&encoded.resource.name)
            .is_some_and(|have| have.resource == encoded.resource)
        {
            return;
        }
        self.unindex(&encoded.resource.name.clone());
        for key in encoded.keys() {
            self.index
                .entry(key.clone())
                .or_default()
                .insert(encoded.resource.name.clone());
        }
        let name = encoded.resource.name.clone();
        self.put(name, Some(Arc::new(encoded)));
    }

    fn remove(&mut self, name: &Text) {
        if self.live(name).is_none() {
            return;
        }
        self.unindex(name);
        self.put(name.clone(), None);
    }

    /// Moves a name to the end of the log.
    fn put(&mut self, name: Text, resource: Option<Arc<Encoded>>) {
        self.head += 1;
        self.tombstones += usize::from(resource.is_none());
        let slot = Slot {
            number: self.head,
            resource,
        };
        if let Some(old) = self.slots.insert(name.clone(), slot) {
            self.order.remove(&old.number);
            self.tombstones -= usize::from(old.resource.is_none());
        }
        self.order.insert(self.head, name);
    }

    fn unindex(&mut self, name: &Text) {
        let Some(old) = self.live(name).cloned() else {
            return;
        };
        for key in old.keys() {
            if let Some(names) = self.index.get_mut(key) {
                names.remove(name);
                if names.is_empty() {
                    self.index.remove(key);
                }
            }
        }
    }

    /// Drops the tombstones up to a number.
    fn bury(&mut self, up_to: u64) {
        let dead: Vec<(u64, Text)> = self
            .order
            .range(..=up_to)
            .filter(|(_, name)| self.live(name).is_none())
            .map(|(number, name)| (*number, name.clone()))
            .collect();
        for (number, name) in dead {
            self.order.remove(&number);
            self.slots.remove(&name);
            self.tombstones -= 1;
        }
    }

    fn wanted<'a>(&'a self, wanted: &Wanted) -> Box<dyn Iterator<Item = &'a Arc<Encoded>> + 'a> {
        match wanted {
            // In the order of their last change, so that a response is the same for all clients.
            Wanted::All => Box::new(self.order.values().filter_map(|name| self.live(name))),
            Wanted::Keys(keys) => {
                let mut names = BTreeSet::new();
                for key in keys {
                    names.extend(self.slots.get_key_value(key).map(|(name, _)| name));
                    names.extend(self.index.get(key).into_iter().flatten());
                }
                Box::new(names.into_iter().filter_map(|name| self.live(name)))
            }
        }
    }
}

/// The version of a body: its hash.
fn version_of(body: &[u8]) -> String {
    let mut hasher = XxHash64::with_seed(0);
    hasher.write(body);
    format!("{:x}", hasher.finish())
}

#[cfg(test)]
#[path = "log_tests.rs"]
mod tests;
