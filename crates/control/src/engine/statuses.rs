//! Which statuses are to be written, and what they say.

use std::collections::BTreeSet;

use ambit_kube_api::status::Condition;
use ambit_model::Text;
use ambit_translate::peer_authentication::{self as peers, Level, PeerFacts};
use ambit_translate::policies::PolicyFacts;
use ambit_translate::status::{Reach, peer_condition, policy_condition, unreadable_condition};
use ambit_translate::{ObjectKey, PodFacts};

use super::query::is_covered;
use super::tables::{Tables, in_namespace};
use super::{Engine, Kind};

/// Statuses that may have changed.
#[derive(Debug, Default)]
pub(super) struct Stale {
    everything: bool,
    namespaces: BTreeSet<Text>,
    objects: BTreeSet<(Kind, ObjectKey)>,
}

/// A status that has to be written.
#[derive(Clone, Debug, PartialEq)]
pub struct DesiredStatus {
    /// Kind of the object.
    pub kind: Kind,
    /// The object.
    pub key: ObjectKey,
    /// Our condition.
    pub condition: Condition,
    /// The conditions that the object has now.
    pub existing: Vec<Condition>,
}

impl Stale {
    pub(super) fn everything(&mut self) {
        self.everything = true;
    }

    pub(super) fn namespace(&mut self, name: &Text) {
        self.namespaces.insert(name.clone());
    }

    pub(super) fn object(&mut self, kind: Kind, key: &ObjectKey) {
        self.objects.insert((kind, key.clone()));
    }

    pub(super) fn is_empty(&self) -> bool {
        !self.everything && self.namespaces.is_empty() && self.objects.is_empty()
    }
}

impl Engine {
    /// All statuses have to be looked at: the one who writes them has changed.
    pub fn mark_statuses(&mut self) {
        self.stale_statuses.everything();
    }

    /// Statuses that differ from what the objects say now. They count as written after that.
    pub fn take_statuses(&mut self) -> Vec<DesiredStatus> {
        if !self.waiting_for.is_empty() {
            return Vec::new();
        }
        let stale = std::mem::take(&mut self.stale_statuses);
        let objects = self.tables.stale_objects(&stale);
        objects
            .into_iter()
            .filter_map(|(kind, key)| self.tables.desired(kind, &key))
            .collect()
    }
}

impl Tables {
    /// Objects whose status may have changed. What happens in a namespace concerns its own objects
    /// and those of the root namespace.
    fn stale_objects(&self, stale: &Stale) -> BTreeSet<(Kind, ObjectKey)> {
        let policy = |key: &ObjectKey| (Kind::AuthorizationPolicy, key.clone());
        let peer = |key: &ObjectKey| (Kind::PeerAuthentication, key.clone());
        if stale.everything {
            return self
                .policies
                .keys()
                .map(policy)
                .chain(self.peers.keys().map(peer))
                .collect();
        }
        let mut objects = stale.objects.clone();
        let root = (!stale.namespaces.is_empty()).then_some(&self.mesh.root_namespace);
        for namespace in stale.namespaces.iter().chain(root) {
            objects.extend(in_namespace(&self.policies, namespace).map(|(key, _)| policy(key)));
            objects.extend(in_namespace(&self.peers, namespace).map(|(key, _)| peer(key)));
        }
        objects
    }

    fn desired(&self, kind: Kind, key: &ObjectKey) -> Option<DesiredStatus> {
        let (mut condition, existing, generation) = match kind {
            Kind::AuthorizationPolicy => {
                let entry = self.policies.get(key)?;
                self.is_active(key, &entry.facts.labels).then_some(())?;
                let reach = self.policy_reach(&entry.facts);
                let generation = entry.facts.generation;
                let condition = policy_condition(&entry.translation, reach, generation);
                (condition, &entry.conditions, generation)
            }
            Kind::PeerAuthentication => {
                let entry = self.peers.get(key)?;
                self.is_active(key, &entry.facts.labels).then_some(())?;
                (
                    self.peer_status(&entry.facts),
                    &entry.conditions,
                    entry.facts.generation,
                )
            }
            _ => return None,
        };
        if let Some(error) = self.unreadable.get(&(kind, key.clone())) {
            condition = unreadable_condition(error, generation);
        }
        let same = |c: &Condition| {
            (
                &c.type_,
                &c.status,
                &c.reason,
                &c.message,
                &c.observed_generation,
            ) == (
                &condition.type_,
                &condition.status,
                &condition.reason,
                &condition.message,
                &condition.observed_generation,
            )
        };
        if existing.iter().any(same) {
            return None;
        }
        Some(DesiredStatus {
            kind,
            key: key.clone(),
            condition,
            existing: existing.clone(),
        })
    }

    fn policy_reach(&self, facts: &PolicyFacts) -> Reach {
        let everywhere = facts.key.namespace == self.mesh.root_namespace;
        let none = ambit_translate::Labels::new();
        let selector = facts.selector.as_ref().unwrap_or(&none);
        if everywhere {
            let selected =
                |pod: &&PodFacts| ambit_translate::labels::selects(selector, &pod.labels);
            reach(
                self.pods
                    .values()
                    .filter(selected)
                    .filter(|p| self.in_scope(&p.key.namespace)),
            )
        } else {
            reach(self.pods_selected(&facts.key.namespace, selector))
        }
    }

    fn peer_status(&self, facts: &PeerFacts) -> Condition {
        let namespace = &facts.key.namespace;
        let own = self.peer_candidates(namespace);
        let findings = peers::findings(&self.mesh, facts, own.winner(&self.mesh, facts));
        let reach = match facts.level(&self.mesh) {
            // The mesh's object holds wherever nothing narrower does.
            Level::Mesh => reach(self.pods.values().filter(|pod| {
                self.in_scope(&pod.key.namespace)
                    && self.decides(&self.peer_candidates(&pod.key.namespace), facts, pod)
            })),
            Level::Namespace | Level::Workload => reach(
                in_namespace(&self.pods, namespace)
                    .map(|(_, pod)| pod)
                    .filter(|pod| self.decides(&own, facts, pod)),
            ),
            Level::Nothing => Reach::default(),
        };
        peer_condition(&findings, reach, facts.generation)
    }

    fn decides(
        &self,
        candidates: &peers::Candidates<'_>,
        facts: &PeerFacts,
        pod: &PodFacts,
    ) -> bool {
        candidates
            .deciding(&pod.labels)
            .is_some_and(|deciding| deciding.key == facts.key)
    }
}

fn reach<'a>(pods: impl Iterator<Item = &'a PodFacts>) -> Reach {
    let mut reach = Reach::default();
    for pod in pods.filter(|pod| is_covered(pod)) {
        reach.covered += 1;
        reach.enforced += usize::from(pod.in_mesh());
    }
    reach
}
