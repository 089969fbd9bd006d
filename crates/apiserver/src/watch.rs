//! Watches: a cursor into the history of a resource, written as a stream of JSON lines.

use crate::{
    api::Api,
    crd::Life,
    http::{Body, View, streamed},
    list_options::{ListOptions, Version},
    registry::Resource,
    request::Query,
    selectors::{FieldSelector, LabelSelector},
    status::{ApiError, Result},
    store::Change,
    table::Tables,
    views,
};
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::stream;
use serde_json::{Value, json};
use std::{collections::VecDeque, sync::Arc, time::Duration};
use tokio::{sync::watch, time::Instant};

/// How often a quiet watch tells the client how far it is.
const BOOKMARK_EVERY: Duration = Duration::from_secs(50);
/// How long a watch lasts if the client does not say.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30 * 60);
/// Most changes written in one piece.
const BATCH: usize = 256;

/// Which objects a list or watch is about.
#[derive(Debug, Clone)]
pub struct Scope {
    /// The resource.
    pub resource: Arc<Resource>,
    /// One namespace, or all.
    pub namespace: Option<String>,
    /// Label selector.
    pub labels: LabelSelector,
    /// Field selector.
    pub fields: FieldSelector,
}

impl Scope {
    /// Whether the object is meant.
    pub fn contains(&self, value: &Value) -> bool {
        self.in_namespace(value) && self.labels.matches(value) && self.fields.matches(value)
    }

    fn in_namespace(&self, value: &Value) -> bool {
        self.namespace
            .as_deref()
            .is_none_or(|ns| crate::object::namespace(value) == ns)
    }
}

/// Answers a watch request.
pub fn start(api: &Arc<Api>, scope: Scope, view: View, query: &Query) -> Result<Body> {
    let options = ListOptions::parse(query, true)?;
    let timeout = options.timeout.map_or(DEFAULT_TIMEOUT, Duration::from_secs);
    // Subscribe first, so that no change falls between the state and the stream.
    let changed = api.store.subscribe(&scope.resource.storage);
    let mut watcher = Watcher {
        tables: Tables::new(&scope.resource, view, query.get("includeObject")),
        cursor: 0,
        pending: VecDeque::new(),
        ends: Instant::now() + timeout,
        bookmark_at: Instant::now() + BOOKMARK_EVERY,
        bookmarks: options.bookmarks,
        finished: false,
        life: scope.resource.custom().map(|version| version.life.clone()),
        api: api.clone(),
        changed,
        scope,
        view,
    };
    match (options.initial, options.version) {
        (Some(true), _) => watcher.send_state(options.bookmarks),
        (_, Version::AtLeast(version) | Version::Exact(version)) => watcher.cursor = version,
        (Some(false), Version::Any) => watcher.cursor = api.store.revision(),
        (None, Version::Any) => watcher.send_state(false),
    }
    Ok(streamed(stream::unfold(
        watcher,
        |mut watcher| async move { watcher.next().await.map(|piece| (Ok(piece), watcher)) },
    )))
}

struct Watcher {
    api: Arc<Api>,
    scope: Scope,
    view: View,
    tables: Tables,
    /// Everything up to this revision has been written.
    cursor: u64,
    pending: VecDeque<Bytes>,
    changed: watch::Receiver<u64>,
    ends: Instant,
    bookmark_at: Instant,
    bookmarks: bool,
    finished: bool,
    /// The life of a custom resource's definition: the watch ends with it.
    life: Option<Arc<Life>>,
}

/// Waits for the end of a definition's life; for ever where there is none.
async fn ended(life: Option<&Life>) {
    match life {
        Some(life) => life.ended.cancelled().await,
        None => std::future::pending().await,
    }
}

impl Watcher {
    /// Queues the present state as additions, and a bookmark that says so if wanted.
    fn send_state(&mut self, mark: bool) {
        let (revision, objects) = self.api.store.list(
            &self.scope.resource.storage,
            self.scope.namespace.as_deref(),
        );
        let mut piece = BytesMut::new();
        for object in &objects {
            if self.scope.contains(object.value()) {
                self.write(&mut piece, "ADDED", object);
            }
        }
        self.cursor = revision;
        if mark {
            self.write_bookmark(&mut piece, true);
        }
        if !piece.is_empty() {
            self.pending.push_back(piece.freeze());
        }
    }

    /// The next piece of the stream; None at its end.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(piece) = self.pending.pop_front() {
                return Some(piece);
            }
            if self.finished {
                return None;
            }
            self.changed.mark_unchanged();
            if let Some(piece) = self.advance() {
                return Some(piece);
            }
            let wake = self.ends.min(self.bookmark_at);
            tokio::select! {
                _ = self.changed.changed() => {}
                () = tokio::time::sleep_until(wake) => {
                    if let Some(piece) = self.on_time() {
                        return Some(piece);
                    }
                }
                () = ended(self.life.as_deref()) => {
                    // What happened until then is still told.
                    while !self.finished && let Some(piece) = self.advance() {
                        self.pending.push_back(piece);
                    }
                    self.finished = true;
                }
                () = self.api.stop.cancelled() => return None,
            }
        }
    }

    /// Writes what has happened since the last time; None if nothing concerns this watch.
    fn advance(&mut self) -> Option<Bytes> {
        loop {
            let batch =
                self.api
                    .store
                    .changes_after(&self.scope.resource.storage, self.cursor, BATCH);
            let changes = match batch {
                Ok(changes) => changes,
                Err(forgotten) => {
                    self.finished = true;
                    return Some(error_event(&ApiError::expired(
                        self.cursor,
                        forgotten.oldest,
                    )));
                }
            };
            let last = changes.last()?.revision;
            let mut piece = BytesMut::new();
            for change in &changes {
                self.write_change(&mut piece, change);
            }
            self.cursor = last;
            if !piece.is_empty() {
                return Some(piece.freeze());
            }
        }
    }

    /// A change is an addition or a removal for a watch whose selector the object begins or
    /// ceases to match.
    fn write_change(&mut self, piece: &mut BytesMut, change: &Change) {
        let before = change
            .before
            .as_ref()
            .is_some_and(|o| self.scope.contains(o.value()));
        let after = !change.deleted && self.scope.contains(change.after.value());
        match (before, after) {
            (false, true) => self.write(piece, "ADDED", &change.after),
            (true, true) => self.write(piece, "MODIFIED", &change.after),
            (true, false) if change.deleted => self.write(piece, "DELETED", &change.after),
            // It is still there: what the watch loses is what it had.
            (true, false) => {
                if let Some(before) = &change.before {
                    let mut last = before.value().clone();
                    let revision = change.revision.to_string();
                    crate::object::set_metadata(
                        &mut last,
                        "resourceVersion",
                        Some(revision.into()),
                    );
                    let last = crate::object::Object::new(last, change.revision);
                    self.write(piece, "DELETED", &Arc::new(last));
                }
            }
            (false, false) => {}
        }
    }

    fn write(&mut self, piece: &mut BytesMut, event: &str, object: &Arc<crate::object::Object>) {
        let body = match self.view {
            View::Table(_) => crate::object::encode(&self.tables.event(object)),
            view => views::object_json(&self.scope.resource, object, view),
        };
        line(piece, event, &body);
    }

    fn write_bookmark(&mut self, piece: &mut BytesMut, end_of_state: bool) {
        let mut metadata =
            json!({"resourceVersion": self.cursor.to_string(), "creationTimestamp": null});
        if end_of_state {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let (kind, version) = views::type_of(&self.scope.resource, self.view);
        let bookmark = match self.view {
            View::Table(_) => self.tables.bookmark(&metadata),
            _ => json!({"kind": kind, "apiVersion": version, "metadata": metadata}),
        };
        line(piece, "BOOKMARK", &crate::object::encode(&bookmark));
    }

    /// The end of the watch, or time for a bookmark.
    fn on_time(&mut self) -> Option<Bytes> {
        let now = Instant::now();
        let ended = now >= self.ends;
        if now >= self.bookmark_at {
            self.bookmark_at = now + BOOKMARK_EVERY;
        }
        // The order matters: what is committed up to this revision, `advance` writes.
        let revision = self.api.store.revision();
        if let Some(piece) = self.advance() {
            return Some(piece);
        }
        self.finished = ended;
        if !self.bookmarks {
            return None;
        }
        self.cursor = self.cursor.max(revision);
        let mut piece = BytesMut::new();
        self.write_bookmark(&mut piece, false);
        Some(piece.freeze())
    }
}

fn line(piece: &mut BytesMut, event: &str, body: &[u8]) {
    piece.put_slice(b"{\"type\":\"");
    piece.put_slice(event.as_bytes());
    piece.put_slice(b"\",\"object\":");
    piece.put_slice(body);
    piece.put_slice(b"}\n");
}

fn error_event(error: &ApiError) -> Bytes {
    let mut piece = BytesMut::new();
    line(
        &mut piece,
        "ERROR",
        &crate::object::encode(&error.to_value()),
    );
    piece.freeze()
}
