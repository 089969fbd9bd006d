//! What every watcher of the Kubernetes API in this crate stands on: a cache
//! fed by one watch per kind, and a work queue of keys.
//!
//! Nothing polls. A change of an object calls the cache's handlers, handlers
//! put keys into queues, one worker per queue reads the *current* state and
//! acts. What a worker writes goes into the cache at once
//! ([`Cache::observe`]), so that it never acts on a state older than its own
//! last write.

mod cache;
mod queue;

pub use cache::{Cache, ObjectKey};
pub use queue::Queue;
