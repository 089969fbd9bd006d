//! The last hop: which pods take connections from their waypoints alone, and the policies that say so.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap, HashSet};

use ambit_model::access::Attachment;
use ambit_model::policy::Authorization;
use ambit_model::service::NamespacedHostname;
use ambit_translate::last_hop::{self, Door, LastHop};
use ambit_translate::waypoints::{self, Refusal};
use ambit_translate::workloads::Serves;
use ambit_translate::{ObjectKey, PodFacts, ServiceFacts};

use super::gateways::Binding;
use super::tables::Tables;
use super::{Engine, PolicyChange};

/// Which pod is guarded by which policy: a policy is published as long as a pod names it.
#[derive(Debug, Default)]
pub(super) struct Guards {
    of_pod: HashMap<ObjectKey, ObjectKey>,
    policies: HashMap<ObjectKey, (Authorization, usize)>,
}

impl Guards {
    /// A pod is guarded by this policy from now on, or by none.
    pub(super) fn set(
        &mut self,
        pod: &ObjectKey,
        guard: Option<Authorization>,
        changes: &mut Vec<PolicyChange>,
    ) {
        let key = guard.as_ref().map(key_of);
        let old = match key.clone() {
            Some(key) => self.of_pod.insert(pod.clone(), key),
            None => self.of_pod.remove(pod),
        };
        let stays = old == key;
        if let (Some(key), Some(guard)) = (key, guard) {
            match self.policies.entry(key) {
                Entry::Vacant(free) => {
                    changes.push(PolicyChange::Policy(guard.clone()));
                    free.insert((guard, 1));
                }
                Entry::Occupied(mut taken) => {
                    let (policy, pods) = taken.get_mut();
                    *pods += usize::from(!stays);
                    if *policy != guard {
                        changes.push(PolicyChange::Policy(guard.clone()));
                        *policy = guard;
                    }
                }
            }
        }
        if let Some(old) = old.filter(|_| !stays)
            && let Entry::Occupied(mut taken) = self.policies.entry(old)
        {
            taken.get_mut().1 -= 1;
            if taken.get().1 == 0 {
                changes.push(PolicyChange::Gone(taken.key().text()));
                taken.remove();
            }
        }
    }
}

fn key_of(policy: &Authorization) -> ObjectKey {
    ObjectKey::new(policy.namespace.clone(), policy.name.clone())
}

impl Engine {
    /// A policy or authentication that may refuse requests came, changed or went: pods behind what
    /// it is attached to may be guarded otherwise now.
    pub(super) fn attached(&mut self, attachments: impl Iterator<Item = Attachment>) {
        self.tables.attached.take();
        let mut pods = Vec::new();
        for attachment in attachments {
            let tables = &self.tables;
            match attachment {
                Attachment::Service(target) => {
                    let of_target = |s: &&ServiceFacts| tables.target(s) == target;
                    let service = tables.services.values().find(of_target);
                    pods.extend(service.into_iter().flat_map(|s| tables.pods_behind(s)));
                }
                Attachment::Gateway(..) | Attachment::Class(_) => {
                    pods.extend(tables.pods.keys().cloned());
                }
            }
        }
        self.dirty.pods.extend(pods);
    }
}

impl Tables {
    /// What requests are asked something at, by an object that counts.
    fn attached(&self) -> &HashSet<Attachment> {
        self.attached.get_or_init(|| {
            let policies = self.policies.values().filter_map(|entry| {
                let policy = entry.access.as_ref()?.policy.as_ref()?;
                let counts = self.is_active(&entry.facts.key, &entry.facts.labels);
                (counts && last_hop::refuses(policy)).then_some(&policy.attachments)
            });
            let mut attached: HashSet<Attachment> = policies.flatten().cloned().collect();
            for entry in self.authentications.values() {
                if self.is_active(&entry.facts.key, &entry.facts.labels) {
                    let translated = self.authentication(&entry.facts);
                    attached.extend(
                        translated
                            .authentication
                            .into_iter()
                            .flat_map(|a| a.attachments),
                    );
                }
            }
            attached
        })
    }

    fn target(&self, service: &ServiceFacts) -> NamespacedHostname {
        let (namespace, name) = (&service.key.namespace, &service.key.name);
        NamespacedHostname {
            namespace: namespace.clone(),
            hostname: self.mesh.hostname(namespace, name),
        }
    }

    /// Pods that a service leads to.
    pub(super) fn pods_behind(&self, service: &ServiceFacts) -> Vec<ObjectKey> {
        if !service.selector.is_empty() {
            let pods = self.pods_selected(&service.key.namespace, &service.selector);
            return pods.map(|pod| pod.key.clone()).collect();
        }
        let slices = self.slices_of(&service.key);
        let endpoints = slices.flat_map(|slice| &slice.endpoints);
        endpoints.filter_map(|e| e.pod.clone()).collect()
    }

    /// The policy that keeps callers from going around a pod's waypoints, if it has to be.
    pub(super) fn guard(&self, pod: &PodFacts, services: &[Serves<'_>]) -> Option<Authorization> {
        if self.mesh.last_hop == LastHop::Istio || self.attached().is_empty() {
            return None;
        }
        let mut guarded = false;
        let mut doors = BTreeSet::new();
        for service in services {
            let facts = match service {
                Serves::Selected(service) | Serves::Listed(service, _) => *service,
            };
            let binding = self.service_binding(facts);
            let asks = self
                .attached()
                .contains(&Attachment::Service(self.target(facts)));
            if asks || self.gateway_asks(binding.as_ref()) {
                guarded = true;
                doors.extend(self.door(binding));
            }
        }
        let own = self.pod_binding(pod);
        if self.gateway_asks(own.as_ref()) {
            guarded = true;
            doors.extend(self.door(own));
        }
        guarded.then(|| last_hop::guard(&self.mesh, &pod.key.namespace, &doors))
    }

    /// The gateway that is asked for has a policy, whether it can be had or not.
    fn gateway_asks(&self, binding: Option<&Binding>) -> bool {
        let gateway = match binding {
            None => return false,
            Some(Ok((key, _))) => key,
            Some(Err(
                Refusal::NotReady(key)
                | Refusal::Denied(key)
                | Refusal::Traffic { gateway: key, .. },
            )) => key,
        };
        let itself = Attachment::Gateway(gateway.namespace.clone(), gateway.name.clone());
        let class = self.gateways.get(gateway).map(|entry| {
            let name = entry.facts.spec.gateway_class_name.as_str();
            Attachment::Class(name.into())
        });
        let attached = self.attached();
        attached.contains(&itself) || class.is_some_and(|class| attached.contains(&class))
    }

    /// The way through a waypoint that can be had.
    fn door(&self, binding: Option<Binding>) -> Option<Door> {
        let (gateway, _) = binding?.ok()?;
        let service_account = waypoints::service_account(&self.gateways.get(&gateway)?.facts);
        Some(Door {
            gateway,
            service_account,
        })
    }
}
