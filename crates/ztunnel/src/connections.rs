//! The connections that are open on one worker.
//!
//! Every inbound connection is here before policies are asked about it, so that a policy that
//! changes at that very moment is not missed: either the question sees the new policies, or the
//! change finds the connection here and cuts it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use ambit_model::authorize::{Connection, Decision, authorize};
use ambit_model::state::MeshState;
use ambit_model::{Text, Workload};
use ambit_proxy_core::store::Store;
use parking_lot::Mutex;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

/// What a connection is carried by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) enum Protocol {
    #[serde(rename = "TCP")]
    Tcp,
    #[serde(rename = "HBONE")]
    Hbone,
    #[serde(rename = "DOUBLEHBONE")]
    DoubleHbone,
}

/// A connection as `/config_dump` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Shown {
    pub(crate) src: String,
    pub(crate) original_dst: Option<String>,
    pub(crate) actual_dst: String,
    pub(crate) protocol: Protocol,
}

/// An inbound connection.
#[derive(Debug)]
pub(crate) struct Inbound {
    /// What policies look at.
    pub(crate) connection: Connection,
    /// The workload as it was when the connection came.
    pub(crate) workload: Arc<Workload>,
    /// The client's address and port.
    pub(crate) source: SocketAddr,
    /// The service that the client named.
    pub(crate) service: Option<Text>,
    pub(crate) protocol: Protocol,
    /// A policy that has changed forbids it.
    pub(crate) cut: CancellationToken,
}

/// An outbound connection.
#[derive(Debug)]
pub(crate) struct Outbound {
    pub(crate) source: SocketAddr,
    pub(crate) original: SocketAddr,
    pub(crate) actual: SocketAddr,
    pub(crate) protocol: Protocol,
}

#[derive(Debug)]
enum Entry {
    Inbound(Arc<Inbound>),
    Outbound(Outbound),
}

#[derive(Debug, Default)]
struct Entries {
    next: u64,
    /// By number, with the uid of the pod.
    open: HashMap<u64, (Text, Entry)>,
}

/// The table. Its lock is the worker's own but for the rare reader from elsewhere.
#[derive(Debug, Default)]
pub(crate) struct Connections(Mutex<Entries>);

/// A connection in the table; dropping it takes it out.
#[derive(Debug)]
pub(crate) struct Guard {
    table: Arc<Connections>,
    number: u64,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.table.0.lock().open.remove(&self.number);
    }
}

impl Connections {
    fn insert(self: &Arc<Self>, pod: &Text, entry: Entry) -> Guard {
        let mut entries = self.0.lock();
        let number = entries.next;
        entries.next += 1;
        entries.open.insert(number, (pod.clone(), entry));
        Guard {
            table: self.clone(),
            number,
        }
    }

    /// Enters an inbound connection. Ask for the policies only afterwards.
    pub(crate) fn inbound(self: &Arc<Self>, pod: &Text, inbound: &Arc<Inbound>) -> Guard {
        self.insert(pod, Entry::Inbound(inbound.clone()))
    }

    /// Enters an outbound connection.
    pub(crate) fn outbound(self: &Arc<Self>, pod: &Text, outbound: Outbound) -> Guard {
        self.insert(pod, Entry::Outbound(outbound))
    }

    /// Cuts the inbound connections that the policies of now forbid.
    pub(crate) fn check_again(&self, store: &Store) {
        let open: Vec<Arc<Inbound>> = self
            .0
            .lock()
            .open
            .values()
            .filter_map(|(_, entry)| match entry {
                Entry::Inbound(inbound) => Some(inbound.clone()),
                Entry::Outbound(_) => None,
            })
            .collect();
        // The table is free while policies are evaluated: a worker must not wait for that.
        let state = store.load();
        for inbound in open {
            if inbound.decide(&state).verdict.is_err() {
                inbound.cut.cancel();
            }
        }
    }

    /// Adds the connections of a pod: inbound ones, then outbound ones.
    pub(crate) fn show(&self, pod: &str, shown: &mut (Vec<Shown>, Vec<Shown>)) {
        for (of, entry) in self.0.lock().open.values().filter(|(of, _)| **of == *pod) {
            debug_assert_eq!(**of, *pod);
            match entry {
                Entry::Inbound(c) => shown.0.push(Shown {
                    src: c.source.to_string(),
                    original_dst: c.service.as_ref().map(ToString::to_string),
                    actual_dst: c.connection.destination.to_string(),
                    protocol: c.protocol,
                }),
                Entry::Outbound(c) => shown.1.push(Shown {
                    src: c.source.to_string(),
                    original_dst: Some(c.original.to_string()),
                    actual_dst: c.actual.to_string(),
                    protocol: c.protocol,
                }),
            }
        }
    }
}

impl Inbound {
    /// Asks the policies of `state`.
    pub(crate) fn decide(&self, state: &MeshState) -> Decision {
        authorize(state.policies_of(&self.workload), &self.connection)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ambit_model::Authorization;
    use ambit_model::policy::{Action, PolicyScope};
    use ambit_model::state::Change;
    use ambit_proxy_core::store;

    fn inbound(port: u16) -> Arc<Inbound> {
        Arc::new(Inbound {
            connection: Connection {
                identity: None,
                source: "10.0.0.1".parse().unwrap(),
                destination: SocketAddr::new("10.0.0.2".parse().unwrap(), port),
            },
            workload: Arc::new(Workload {
                namespace: "ns".into(),
                ..Workload::default()
            }),
            source: "10.0.0.1:4000".parse().unwrap(),
            service: None,
            protocol: Protocol::Tcp,
            cut: CancellationToken::new(),
        })
    }

    #[test]
    fn a_changed_policy_cuts_what_it_forbids_and_nothing_else() {
        let (store, mut writer) = store::new(None);
        let table = Arc::new(Connections::default());
        let (kept, cut) = (inbound(80), inbound(81));
        let _guards = (
            table.inbound(&"p".into(), &kept),
            table.inbound(&"p".into(), &cut),
        );
        let m = ambit_model::policy::Match {
            destination_ports: vec![81],
            ..Default::default()
        };
        writer.apply(vec![Change::Policy(Arc::new(Authorization {
            name: "deny".into(),
            namespace: "ns".into(),
            scope: PolicyScope::Namespace,
            action: Action::Deny,
            rules: vec![vec![vec![m]]],
            dry_run: false,
        }))]);
        table.check_again(&store);
        assert!(cut.cut.is_cancelled());
        assert!(!kept.cut.is_cancelled());
    }

    #[test]
    fn the_table_shows_what_is_open() {
        let table = Arc::new(Connections::default());
        let one = table.inbound(&"p".into(), &inbound(80));
        let two = table.outbound(
            &"p".into(),
            Outbound {
                source: "10.0.0.1:4000".parse().unwrap(),
                original: "10.1.0.1:80".parse().unwrap(),
                actual: "10.0.0.2:15008".parse().unwrap(),
                protocol: Protocol::Hbone,
            },
        );
        let shown = |pod: &str| {
            let mut shown = Default::default();
            table.show(pod, &mut shown);
            shown
        };
        assert_eq!(shown("other"), (vec![], vec![]));
        assert_eq!(
            serde_json::to_value(&shown("p").1).unwrap(),
            serde_json::json!([{
                "src": "10.0.0.1:4000", "originalDst": "10.1.0.1:80",
                "actualDst": "10.0.0.2:15008", "protocol": "HBONE",
            }])
        );
        assert_eq!(shown("p").0[0].actual_dst, "10.0.0.2:80");
        drop((one, two));
        assert_eq!(shown("p"), (vec![], vec![]));
    }
}
