//! From changes to the log that discovery streams are served from: every resource is encoded once.

use std::collections::HashMap;

use ambit_model::workload::NetworkMode;
use ambit_model::{Service, Text, Workload};
use ambit_proto::{l7, security, type_url, workload as pb};
use ambit_wire::xds::{Batch, Logs, Resource, TypeOptions};
use bytes::Bytes;
use prost::Message;

use crate::engine::{AddressChange, L7Change, Output, PolicyChange};

/// The types that are served. Policies carry no version: a client that comes back is sent all.
const TYPES: [TypeOptions; 8] = [
    TypeOptions {
        type_url: type_url::ADDRESS,
        versioned: true,
    },
    TypeOptions {
        type_url: type_url::AUTHORIZATION,
        versioned: false,
    },
    TypeOptions {
        type_url: type_url::POLICY,
        versioned: true,
    },
    TypeOptions {
        type_url: type_url::AUTHENTICATION,
        versioned: true,
    },
    TypeOptions {
        type_url: type_url::ROUTE,
        versioned: true,
    },
    TypeOptions {
        type_url: type_url::TRAFFIC,
        versioned: true,
    },
    TypeOptions {
        type_url: type_url::BACKEND_TLS,
        versioned: true,
    },
    TypeOptions {
        type_url: type_url::TELEMETRY,
        versioned: true,
    },
];

/// Empty logs of the types that are served.
pub fn logs() -> Logs {
    Logs::new(&TYPES)
}

/// How many resources changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Published {
    /// Workloads and services.
    pub addresses: usize,
    /// Policies.
    pub policies: usize,
    /// Routes, and policies for waypoints.
    pub l7: usize,
}

/// Publishes what changed. What comes out as it was before is no change.
///
/// Policies are there before a workload names them, and go after no workload does any more: a name
/// without a policy would mean that nothing is asked of the workload's clients.
pub fn publish(logs: &Logs, output: &Output) -> Published {
    let Batch { set, remove } = batch(output.policies.iter().map(policy));
    let addresses = batch(output.addresses.iter().map(address));
    let publish = |url, batch| logs.get(url).map_or(0, |log| log.publish(batch));
    let appeared = publish(
        type_url::AUTHORIZATION,
        Batch {
            set,
            remove: Vec::new(),
        },
    );
    let of_type = |url| {
        let changes = output.l7.iter().filter(|change| type_of(change) == url);
        batch(changes.map(l7_change))
    };
    let l7_types = [
        type_url::AUTHENTICATION,
        type_url::POLICY,
        type_url::ROUTE,
        type_url::TRAFFIC,
        type_url::BACKEND_TLS,
        type_url::TELEMETRY,
    ];
    let l7 = l7_types.map(|url| publish(url, of_type(url))).iter().sum();
    let addresses = publish(type_url::ADDRESS, addresses);
    let gone = publish(
        type_url::AUTHORIZATION,
        Batch {
            set: Vec::new(),
            remove,
        },
    );
    if output.complete {
        logs.open();
    }
    Published {
        addresses,
        policies: appeared + gone,
        l7,
    }
}

/// A resource, or the name of one that is gone.
type Change = (Text, Option<Resource>);

/// Where a name occurs twice, the later change holds.
fn batch(changes: impl Iterator<Item = Change>) -> Batch {
    let mut last: HashMap<Text, Option<Resource>> = HashMap::new();
    let mut order: Vec<Text> = Vec::new();
    for (name, resource) in changes {
        if last.insert(name.clone(), resource).is_none() {
            order.push(name);
        }
    }
    let mut batch = Batch::default();
    for name in order {
        match last.remove(&name) {
            Some(Some(resource)) => batch.set.push(resource),
            Some(None) => batch.remove.push(name),
            None => {}
        }
    }
    batch
}

fn address(change: &AddressChange) -> Change {
    match change {
        AddressChange::Workload(workload) => {
            (workload.uid.clone(), Some(workload_resource(workload)))
        }
        AddressChange::Service(service) => {
            let resource = service_resource(service);
            (resource.name.clone(), Some(resource))
        }
        AddressChange::Gone(name) => (name.clone(), None),
    }
}

fn policy(change: &PolicyChange) -> Change {
    match change {
        PolicyChange::Policy(policy) => {
            let name = policy.key();
            let resource = Resource {
                name: name.clone(),
                aliases: Vec::new(),
                groups: Vec::new(),
                body: encode(&security::Authorization::from(policy)),
            };
            (name, Some(resource))
        }
        PolicyChange::Gone(name) => (name.clone(), None),
    }
}

fn type_of(change: &L7Change) -> &'static str {
    match change {
        L7Change::Route(_) | L7Change::RouteGone(_) => type_url::ROUTE,
        L7Change::Policy(_) | L7Change::PolicyGone(_) => type_url::POLICY,
        L7Change::Authentication(_) | L7Change::AuthenticationGone(_) => type_url::AUTHENTICATION,
        L7Change::Traffic(_) | L7Change::TrafficGone(_) => type_url::TRAFFIC,
        L7Change::BackendTls(_) | L7Change::BackendTlsGone(_) => type_url::BACKEND_TLS,
        L7Change::Telemetry(_) | L7Change::TelemetryGone(_) => type_url::TELEMETRY,
    }
}

fn l7_change(change: &L7Change) -> Change {
    let resource = |name: Text, body| {
        let resource = Resource {
            name: name.clone(),
            aliases: Vec::new(),
            groups: Vec::new(),
            body,
        };
        (name, Some(resource))
    };
    match change {
        L7Change::Route(route) => resource(route.key(), encode(&l7::Route::from(&**route))),
        L7Change::Policy(policy) => resource(policy.key(), encode(&l7::Policy::from(&**policy))),
        L7Change::Authentication(authentication) => {
            let message = l7::Authentication::from(&**authentication);
            resource(authentication.key(), encode(&message))
        }
        L7Change::Traffic(policy) => {
            let message = l7::TrafficPolicy::from(&**policy);
            resource(policy.key(), encode(&message))
        }
        L7Change::BackendTls(policy) => {
            let message = l7::BackendTls::from(&**policy);
            resource(policy.key(), encode(&message))
        }
        L7Change::Telemetry(telemetry) => {
            let message = l7::Telemetry::from(&**telemetry);
            resource(telemetry.key(), encode(&message))
        }
        L7Change::RouteGone(name)
        | L7Change::PolicyGone(name)
        | L7Change::AuthenticationGone(name)
        | L7Change::TrafficGone(name)
        | L7Change::BackendTlsGone(name)
        | L7Change::TelemetryGone(name) => (name.clone(), None),
    }
}

/// A workload is found by its addresses, unless it shares them with its node; and it comes along
/// with the services that it serves.
fn workload_resource(workload: &Workload) -> Resource {
    let own_addresses = workload.network_mode == NetworkMode::Standard;
    let addresses = workload.addresses.iter().filter(|_| own_addresses);
    Resource {
        name: workload.uid.clone(),
        aliases: addresses
            .map(|ip| format!("{}/{ip}", workload.network).into())
            .collect(),
        groups: workload
            .services
            .keys()
            .map(|key| key.to_string().into())
            .collect(),
        body: encode(&pb::Address::from(workload)),
    }
}

fn service_resource(service: &Service) -> Resource {
    let vips = service
        .vips
        .iter()
        .map(|vip| format!("{}/{}", vip.network, vip.address).into());
    let ranges = service
        .cidr_vips
        .iter()
        .map(|range| format!("{}/{}", range.network, range.cidr).into());
    Resource {
        name: service.key().to_string().into(),
        aliases: vips.chain(ranges).collect(),
        groups: Vec::new(),
        body: encode(&pb::Address::from(service)),
    }
}

fn encode(message: &impl Message) -> Bytes {
    Bytes::from(message.encode_to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ambit_model::service::NamespacedHostname;

    fn workload(name: &str) -> AddressChange {
        AddressChange::Workload(Box::new(Workload {
            uid: format!("Kubernetes//Pod/shop/{name}").into(),
            name: name.into(),
            addresses: vec!["10.0.0.1".parse().unwrap()],
            services: [(NamespacedHostname::new("shop", "s"), Default::default())].into(),
            ..Workload::default()
        }))
    }

    fn output(addresses: Vec<AddressChange>) -> Output {
        Output {
            addresses,
            ..Output::default()
        }
    }

    #[test]
    fn the_same_again_is_no_change() {
        let logs = logs();
        let first = publish(&logs, &output(vec![workload("a"), workload("b")]));
        assert_eq!(first.addresses, 2);
        let again = publish(&logs, &output(vec![workload("a"), workload("b")]));
        assert_eq!(again, Published::default());
        let gone = AddressChange::Gone("Kubernetes//Pod/shop/a".into());
        assert_eq!(publish(&logs, &output(vec![gone])).addresses, 1);
    }

    #[test]
    fn the_later_change_of_a_name_holds() {
        let logs = logs();
        let gone = AddressChange::Gone("Kubernetes//Pod/shop/a".into());
        publish(&logs, &output(vec![gone, workload("a")]));
        assert_eq!(logs.get(type_url::ADDRESS).unwrap().len(), 1);
    }

    #[test]
    fn names_aliases_and_groups() {
        let AddressChange::Workload(mut workload) = workload("a") else {
            unreachable!()
        };
        let resource = workload_resource(&workload);
        assert_eq!(resource.aliases, ["/10.0.0.1".into()]);
        assert_eq!(resource.groups, ["shop/s".into()]);
        workload.network_mode = NetworkMode::HostNetwork;
        assert!(workload_resource(&workload).aliases.is_empty());
    }

    #[test]
    fn versions_are_the_hash_of_the_message() {
        let logs = logs();
        publish(&logs, &output(vec![workload("a")]));
        let (resource, version) = logs.get(type_url::ADDRESS).unwrap().dump().remove(0);
        let hash = twox_hash::XxHash64::oneshot(0, &resource.body);
        assert_eq!(version, format!("{hash:x}"));
    }
}
