//! Which pods of the node have a proxy, as the node agent says.
//!
//! Always true: at most one proxy runs for a pod; a pod that the agent did not name until the end
//! of its snapshot has none; while the agent is away, what runs goes on. A pod whose proxy could
//! not be started stays pending, and is tried again without being asked.

use std::collections::{HashMap, HashSet};
use std::os::fd::OwnedFd;

use ambit_transport::netns::{Netns, NetnsId};
use ambit_wire::zds::Pod;
use ambit_wire::zds::proxy::Request;

/// Starts proxies. A proxy runs until it is dropped.
pub trait Start {
    /// A running proxy.
    type Proxy;

    /// Starts a proxy for the pod in its namespace; the error is told to the agent.
    fn start(&mut self, pod: &Pod, netns: Netns) -> Result<Self::Proxy, String>;
}

struct Running<P> {
    netns: NetnsId,
    proxy: P,
}

/// The pods of this node.
pub struct Pods<S: Start> {
    starter: S,
    running: HashMap<String, Running<S::Proxy>>,
    pending: HashMap<String, (Pod, Netns)>,
    /// Pods that were named since the agent connected.
    named: HashSet<String>,
    snapshot: bool,
}

impl<S: Start> Pods<S> {
    /// No pods.
    pub fn new(starter: S) -> Self {
        Self {
            starter,
            running: HashMap::new(),
            pending: HashMap::new(),
            named: HashSet::new(),
            snapshot: false,
        }
    }

    /// A new connection to the agent: it begins by naming all pods again.
    pub fn connected(&mut self) {
        self.snapshot = false;
        self.pending.clear();
        self.named.clear();
    }

    /// Every pod that the agent has named has its proxy.
    pub fn is_ready(&self) -> bool {
        self.snapshot && self.pending.is_empty()
    }

    /// Pods with a proxy.
    pub fn running(&self) -> impl Iterator<Item = (&str, &S::Proxy)> {
        self.running
            .iter()
            .map(|(uid, running)| (uid.as_str(), &running.proxy))
    }

    /// Pods without their proxy.
    pub fn pending(&self) -> impl Iterator<Item = &Pod> {
        self.pending.values().map(|(pod, _)| pod)
    }

    /// Does what the agent asks for. The error is the answer to it.
    pub fn handle(&mut self, request: Request) -> Result<(), String> {
        match request {
            Request::Add { pod, netns } => self.add(pod, netns),
            Request::Keep { uid } => {
                self.named.insert(uid);
                Ok(())
            }
            Request::Delete { uid } => {
                self.pending.remove(&uid);
                self.named.remove(&uid);
                // Until the snapshot is complete, what is not named goes on; the end of it decides.
                if self.snapshot {
                    self.running.remove(&uid);
                }
                Ok(())
            }
            Request::SnapshotSent => {
                let named = &self.named;
                self.running.retain(|uid, _| named.contains(uid));
                self.snapshot = true;
                Ok(())
            }
        }
    }

    fn add(&mut self, pod: Pod, netns: OwnedFd) -> Result<(), String> {
        let failure = |reason: String| format!("failure to start proxy : {reason}");
        let netns = Netns::try_from(netns).map_err(|e| failure(e.to_string()))?;
        self.named.insert(pod.uid.clone());
        self.start(pod, netns).map_err(failure)
    }

    fn start(&mut self, pod: Pod, netns: Netns) -> Result<(), String> {
        match self.running.get(&pod.uid) {
            Some(running) if running.netns == netns.id() => return Ok(()),
            // The pod has another namespace now; nothing is left in the old one.
            Some(_) => drop(self.running.remove(&pod.uid)),
            None => {}
        }
        match self.starter.start(&pod, netns.clone()) {
            Ok(proxy) => {
                self.pending.remove(&pod.uid);
                let running = Running {
                    netns: netns.id(),
                    proxy,
                };
                self.running.insert(pod.uid, running);
                Ok(())
            }
            Err(reason) => {
                tracing::error!(
                    target: "inpod",
                    uid = pod.uid, name = pod.name, namespace = pod.namespace,
                    "failure to start proxy: {reason}"
                );
                self.pending.insert(pod.uid.clone(), (pod, netns));
                Err(reason)
            }
        }
    }

    /// Tries the pending pods again.
    pub fn retry(&mut self) {
        let pending: Vec<_> = self.pending.values().cloned().collect();
        for (pod, netns) in pending {
            // What fails again is still pending, and was logged.
            let _ = self.start(pod, netns);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::rc::Rc;

    /// Notes what runs; refuses the pods that it is told to.
    #[derive(Clone, Default)]
    struct Fake(Rc<RefCell<State>>);

    #[derive(Default)]
    struct State {
        log: Vec<String>,
        refuse: HashSet<String>,
    }

    struct Proxy(Fake, String);

    impl Drop for Proxy {
        fn drop(&mut self) {
            self.0.0.borrow_mut().log.push(format!("-{}", self.1));
        }
    }

    impl Start for Fake {
        type Proxy = Proxy;

        fn start(&mut self, pod: &Pod, _: Netns) -> Result<Proxy, String> {
            if self.0.borrow().refuse.contains(&pod.uid) {
                return Err("address in use".into());
            }
            self.0.borrow_mut().log.push(format!("+{}", pod.uid));
            Ok(Proxy(self.clone(), pod.uid.clone()))
        }
    }

    impl Fake {
        fn log(&self) -> Vec<String> {
            std::mem::take(&mut self.0.borrow_mut().log)
        }
    }

    fn rig() -> (Fake, Pods<Fake>) {
        let fake = Fake::default();
        (fake.clone(), Pods::new(fake))
    }

    fn add(uid: &str) -> Request {
        let file = std::fs::File::open("/proc/thread-self/ns/net").unwrap();
        Request::Add {
            pod: pod(uid),
            netns: file.into(),
        }
    }

    fn pod(uid: &str) -> Pod {
        Pod {
            uid: uid.into(),
            name: uid.into(),
            namespace: "ns".into(),
            service_account: "default".into(),
        }
    }

    fn keep(uid: &str) -> Request {
        Request::Keep { uid: uid.into() }
    }

    fn delete(uid: &str) -> Request {
        Request::Delete { uid: uid.into() }
    }

    #[test]
    fn the_snapshot_ends_what_it_does_not_name() {
        let (fake, mut pods) = rig();
        for uid in ["a", "b", "c"] {
            pods.handle(add(uid)).unwrap();
        }
        assert!(!pods.is_ready());
        pods.handle(Request::SnapshotSent).unwrap();
        assert!(pods.is_ready());
        assert_eq!(fake.log(), ["+a", "+b", "+c"]);

        pods.connected();
        assert!(!pods.is_ready());
        assert_eq!(
            pods.running().count(),
            3,
            "the agent's absence changes nothing"
        );
        pods.handle(add("a")).unwrap();
        pods.handle(keep("b")).unwrap();
        pods.handle(keep("unknown")).unwrap();
        assert_eq!(
            fake.log(),
            [""; 0],
            "a is the same pod in the same namespace"
        );
        pods.handle(Request::SnapshotSent).unwrap();
        assert_eq!(fake.log(), ["-c"]);
    }

    #[test]
    fn a_delete_counts_at_once_only_after_the_snapshot() {
        let (fake, mut pods) = rig();
        pods.handle(add("a")).unwrap();
        pods.handle(Request::SnapshotSent).unwrap();
        pods.connected();
        pods.handle(keep("a")).unwrap();
        pods.handle(delete("a")).unwrap();
        assert_eq!(fake.log(), ["+a"]);
        pods.handle(Request::SnapshotSent).unwrap();
        assert_eq!(fake.log(), ["-a"]);
        pods.handle(add("b")).unwrap();
        pods.handle(delete("b")).unwrap();
        pods.handle(delete("unknown")).unwrap();
        assert_eq!(fake.log(), ["+b", "-b"]);
    }

    #[test]
    fn what_cannot_start_stays_pending_and_is_tried_again() {
        let (fake, mut pods) = rig();
        fake.0.borrow_mut().refuse.insert("a".into());
        let refused = pods.handle(add("a")).unwrap_err();
        assert_eq!(refused, "failure to start proxy : address in use");
        pods.handle(Request::SnapshotSent).unwrap();
        assert!(!pods.is_ready());
        pods.retry();
        assert!(!pods.is_ready());
        fake.0.borrow_mut().refuse.clear();
        pods.retry();
        assert!(pods.is_ready());
        assert_eq!(fake.log(), ["+a"]);
    }

    #[test]
    fn a_pending_pod_that_is_deleted_is_forgotten() {
        let (fake, mut pods) = rig();
        fake.0.borrow_mut().refuse.insert("a".into());
        pods.handle(Request::SnapshotSent).unwrap();
        pods.handle(add("a")).unwrap_err();
        pods.handle(delete("a")).unwrap();
        assert!(pods.is_ready());
        fake.0.borrow_mut().refuse.clear();
        pods.retry();
        assert_eq!(fake.log(), [""; 0]);
    }

    #[test]
    fn something_else_than_a_namespace_is_refused() {
        let (_, mut pods) = rig();
        let file = std::fs::File::open("/dev/null").unwrap();
        let refused = pods.handle(Request::Add {
            pod: pod("a"),
            netns: file.into(),
        });
        assert!(
            refused
                .unwrap_err()
                .starts_with("failure to start proxy : ")
        );
        assert_eq!(pods.running().count() + pods.pending().count(), 0);
    }
}
