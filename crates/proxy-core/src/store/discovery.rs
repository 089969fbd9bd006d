//! Resources of the control plane on their way into the state.

use std::sync::Arc;

use ambit_model::state::Change;
use ambit_proto::convert::Address;
use ambit_proto::{security, workload};
use ambit_wire::xds::{Handler, Received, Rejected};
use parking_lot::Mutex;

use super::Writer;

/// Takes workloads and services.
#[derive(Clone, Debug)]
pub struct Addresses(Arc<Mutex<Writer>>);

/// Takes policies.
#[derive(Clone, Debug)]
pub struct Policies(Arc<Mutex<Writer>>);

/// The handlers of both types; they share the writer.
pub fn handlers(writer: Writer) -> (Addresses, Policies) {
    let writer = Arc::new(Mutex::new(writer));
    (Addresses(writer.clone()), Policies(writer))
}

/// Converts one response; each resource that cannot be converted is left out and told.
fn take<T>(
    writer: &Mutex<Writer>,
    resources: Vec<Received<T>>,
    removed: Vec<String>,
    convert: impl Fn(T) -> Result<Change, String>,
    remove: impl Fn(String) -> Change,
) -> Vec<Rejected> {
    let mut rejected = Vec::new();
    let mut changes = Vec::with_capacity(resources.len() + removed.len());
    for resource in resources {
        match convert(resource.message) {
            Ok(change) => changes.push(change),
            Err(reason) => rejected.push(Rejected {
                name: resource.name,
                reason,
            }),
        }
    }
    changes.extend(removed.into_iter().map(remove));
    writer.lock().apply(changes);
    rejected
}

impl Handler<workload::Address> for Addresses {
    fn handle(
        &self,
        resources: Vec<Received<workload::Address>>,
        removed: Vec<String>,
    ) -> Vec<Rejected> {
        let convert = |message: workload::Address| match Address::try_from(message) {
            Ok(Address::Workload(w)) => Ok(Change::Workload(Arc::new(*w))),
            Ok(Address::Service(s)) => Ok(Change::Service(Arc::new(*s))),
            Err(e) => Err(e.to_string()),
        };
        take(&self.0, resources, removed, convert, |name| {
            Change::RemoveAddress(name.into())
        })
    }
}

impl Handler<security::Authorization> for Policies {
    fn handle(
        &self,
        resources: Vec<Received<security::Authorization>>,
        removed: Vec<String>,
    ) -> Vec<Rejected> {
        let convert = |message: security::Authorization| match message.try_into() {
            Ok(policy) => Ok(Change::Policy(Arc::new(policy))),
            Err(e) => Err(e.to_string()),
        };
        take(&self.0, resources, removed, convert, |key| {
            Change::RemovePolicy(key.into())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ambit_model::policy::PolicyScope;

    fn received<T>(name: &str, message: T) -> Received<T> {
        Received {
            name: name.into(),
            aliases: Vec::new(),
            message,
        }
    }

    fn workload(name: &str, tunnel_protocol: i32) -> Received<workload::Address> {
        let w = workload::Workload {
            uid: name.into(),
            tunnel_protocol,
            ..Default::default()
        };
        received(
            name,
            workload::Address {
                r#type: Some(workload::address::Type::Workload(w)),
            },
        )
    }

    #[test]
    fn one_bad_resource_does_not_hold_up_the_others() {
        let (store, writer) = super::super::new(None);
        let (addresses, _) = handlers(writer);
        let rejected = addresses.handle(vec![workload("a", 9), workload("b", 1)], vec![]);
        assert_eq!(rejected.len(), 1);
        assert_eq!(&*rejected[0].name, "a");
        assert_eq!(
            rejected[0].reason,
            "tunnel_protocol has the unsupported value 9"
        );
        assert!(store.load().workload("b").is_some());
        assert!(
            addresses
                .handle(vec![], vec!["b".into(), "nothing".into()])
                .is_empty()
        );
        assert!(store.load().workload("b").is_none());
    }

    #[test]
    fn policies_come_and_go() {
        let (store, writer) = super::super::new(None);
        let (_, policies) = handlers(writer);
        let policy = |scope| security::Authorization {
            name: "p".into(),
            namespace: "ns".into(),
            scope,
            ..Default::default()
        };
        let rejected = policies.handle(
            vec![received("ns/p", policy(0)), received("ns/q", policy(9))],
            vec![],
        );
        assert_eq!(rejected[0].reason, "scope has the unsupported value 9");
        let scopes: Vec<_> = store.load().policies().map(|p| p.scope).collect();
        assert_eq!(scopes, [PolicyScope::Global]);
        policies.handle(vec![], vec!["ns/p".into()]);
        assert_eq!(store.load().policies().count(), 0);
    }
}
