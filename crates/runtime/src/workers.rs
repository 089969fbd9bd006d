//! Worker threads of the data path: one single-threaded tokio runtime each.
//!
//! A connection lives and dies on one worker, so its wake-ups never cross threads. What is not data
//! path (xDS, admin, metrics) stays on the runtime that `main` made.

use std::io;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::CancellationToken;

/// The workers of a process. Dropping them stops the threads; tasks still on them are dropped.
#[derive(Debug)]
pub struct Workers {
    handles: Vec<Handle>,
    threads: Vec<JoinHandle<()>>,
    stop: CancellationToken,
    next: AtomicUsize,
}

impl Workers {
    /// Starts `count` threads named `name-0`, `name-1`, …
    pub fn start(name: &str, count: NonZeroUsize) -> io::Result<Self> {
        let stop = CancellationToken::new();
        let mut workers = Self {
            handles: Vec::with_capacity(count.get()),
            threads: Vec::with_capacity(count.get()),
            stop: stop.clone(),
            next: AtomicUsize::new(0),
        };
        for index in 0..count.get() {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            workers.handles.push(runtime.handle().clone());
            let stop = stop.clone();
            let thread = std::thread::Builder::new()
                .name(format!("{name}-{index}"))
                .spawn(move || runtime.block_on(stop.cancelled()))?;
            workers.threads.push(thread);
        }
        Ok(workers)
    }

    /// How many workers there are; at least one.
    pub fn count(&self) -> usize {
        self.handles.len()
    }

    /// Handles of all workers, in a fixed order.
    pub fn handles(&self) -> &[Handle] {
        &self.handles
    }

    /// A worker for the next connection: round robin. Returns its index and its handle.
    pub fn next(&self) -> (usize, &Handle) {
        let index = self.next.fetch_add(1, Ordering::Relaxed) % self.handles.len();
        (index, &self.handles[index])
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.stop.cancel();
        for thread in self.threads.drain(..) {
            // A worker that panicked has printed its message; there is nothing to add on the way out.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn tasks_stay_on_their_named_thread() {
        let workers = Workers::start("data", NonZeroUsize::new(2).unwrap()).unwrap();
        let mut names = Vec::new();
        for _ in 0..4 {
            let (_, handle) = workers.next();
            let name = handle.spawn(async { std::thread::current().name().map(str::to_owned) });
            names.push(name.await.unwrap().unwrap());
        }
        assert_eq!(names, ["data-0", "data-1", "data-0", "data-1"]);
    }
}
