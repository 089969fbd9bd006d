//! TLS to the endpoints of services: `BackendTLSPolicy`.

use std::collections::{BTreeMap, BTreeSet};

use ambit_kube_api::gateway_api::PolicyStatus;
use ambit_model::Text;
use ambit_translate::backend_tls::{self, BackendTlsFacts, BackendTlsTranslation, Others};
use ambit_translate::{ObjectKey, ServiceFacts};

use super::tables::{BackendTlsEntry, Tables, in_namespace};
use super::{Engine, Kind, L7Change, Observed};

impl Engine {
    pub(super) fn backend_tls(
        &mut self,
        key: ObjectKey,
        observed: Option<Observed<BackendTlsFacts, PolicyStatus>>,
    ) {
        self.stale_statuses.object(Kind::BackendTlsPolicy, &key);
        let new = observed.map(|Observed { facts, status }| BackendTlsEntry { facts, status });
        let facts = new.as_ref().map(|entry| entry.facts.clone());
        let old = match new {
            Some(new) => self.tables.backend_tls.insert(key.clone(), new),
            None => self.tables.backend_tls.remove(&key),
        };
        if old.map(|entry| entry.facts) == facts {
            return;
        }
        self.config_maps_differ();
        self.dirty.backend_tls.insert(key.clone());
        // Another one may have been the older one, or is now.
        self.backend_tls_of(&key.namespace);
    }

    /// Those of a namespace may come to something else.
    pub(super) fn backend_tls_of(&mut self, namespace: &Text) {
        let keys = in_namespace(&self.tables.backend_tls, namespace).map(|(key, _)| key.clone());
        for key in keys.collect::<Vec<_>>() {
            self.stale_statuses.object(Kind::BackendTlsPolicy, &key);
            self.dirty.backend_tls.insert(key);
        }
    }
}

impl Tables {
    /// ConfigMaps with authorities.
    pub(super) fn authority_maps(&self) -> BTreeSet<ObjectKey> {
        let policies = self.backend_tls.values();
        policies
            .filter_map(|entry| entry.facts.config_map())
            .collect()
    }

    pub(super) fn translated_tls(&self, facts: &BackendTlsFacts) -> BackendTlsTranslation {
        let others = Around {
            tables: self,
            facts,
        };
        backend_tls::translate(&self.mesh, facts, &others)
    }

    pub(super) fn derive_backend_tls(&self, key: &ObjectKey) -> L7Change {
        let entry = self
            .backend_tls
            .get(key)
            .filter(|entry| self.is_active(key, &entry.facts.labels));
        match entry.and_then(|entry| self.translated_tls(&entry.facts).policy) {
            Some(policy) => L7Change::BackendTls(Box::new(policy)),
            None => L7Change::BackendTlsGone(key.text()),
        }
    }
}

/// What stands around an object.
struct Around<'a> {
    tables: &'a Tables,
    facts: &'a BackendTlsFacts,
}

impl Others for Around<'_> {
    fn service(&self, key: &ObjectKey) -> Option<&ServiceFacts> {
        self.tables.services.get(key)
    }

    fn config_map(&self, key: &ObjectKey) -> Option<Option<&BTreeMap<String, String>>> {
        self.tables.config_maps.get(key).map(Option::as_ref)
    }

    fn is_taken(&self, service: &ObjectKey, section: Option<&str>) -> bool {
        let age = |facts: &BackendTlsFacts| (facts.created, facts.key.name.clone());
        let ours = age(self.facts);
        let others = in_namespace(&self.tables.backend_tls, &self.facts.key.namespace);
        let older = others.filter(|(key, entry)| {
            self.tables.is_active(key, &entry.facts.labels) && age(&entry.facts) < ours
        });
        older
            .flat_map(|(_, entry)| entry.facts.services())
            .any(|(other, part)| other == *service && part == section)
    }
}
