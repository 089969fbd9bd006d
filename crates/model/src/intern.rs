//! Equal texts share one allocation.

use std::collections::HashSet;

use crate::{Service, Text, Workload};

/// A set of texts in use. A mesh has many workloads and few namespaces, nodes and names of
/// services; sharing them is most of what keeps a large state small.
#[derive(Debug, Default)]
pub struct Interner {
    texts: HashSet<Text>,
    /// Number of texts above which unused ones are dropped.
    limit: usize,
}

impl Interner {
    /// The shared copy of `text`.
    pub fn text(&mut self, text: &Text) -> Text {
        if let Some(known) = self.texts.get(text) {
            return known.clone();
        }
        if self.texts.len() >= self.limit.max(1024) {
            self.texts.retain(|t| Text::strong_count(t) > 1);
            self.limit = self.texts.len() * 2;
        }
        self.texts.insert(text.clone());
        text.clone()
    }

    fn share(&mut self, text: &mut Text) {
        *text = self.text(text);
    }

    /// Shares what is common between workloads; not its names and uid, which are its own.
    pub fn workload(&mut self, w: &mut Workload) {
        for text in [
            &mut w.namespace,
            &mut w.hostname,
            &mut w.network,
            &mut w.trust_domain,
            &mut w.service_account,
            &mut w.node,
            &mut w.canonical_name,
            &mut w.canonical_revision,
            &mut w.workload_name,
            &mut w.cluster_id,
            &mut w.locality.region,
            &mut w.locality.zone,
            &mut w.locality.subzone,
        ] {
            self.share(text);
        }
        w.authorization_policies
            .iter_mut()
            .for_each(|key| self.share(key));
        let services = std::mem::take(&mut w.services);
        w.services = services
            .into_iter()
            .map(|(mut key, ports)| {
                self.share(&mut key.namespace);
                self.share(&mut key.hostname);
                (key, ports)
            })
            .collect();
    }

    /// Shares the names of a service with the workloads that serve it.
    pub fn service(&mut self, s: &mut Service) {
        for text in [&mut s.name, &mut s.namespace, &mut s.hostname] {
            self.share(text);
        }
        s.vips
            .iter_mut()
            .for_each(|vip| self.share(&mut vip.network));
        s.cidr_vips
            .iter_mut()
            .for_each(|range| self.share(&mut range.network));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_texts_become_one() {
        let mut interner = Interner::default();
        let (a, b) = (interner.text(&"x".into()), interner.text(&"x".into()));
        assert!(Text::ptr_eq(&a, &b));
    }

    #[test]
    fn unused_texts_are_dropped() {
        let mut interner = Interner::default();
        let kept = interner.text(&"kept".into());
        for n in 0..100_000 {
            interner.text(&n.to_string().into());
        }
        assert!(interner.texts.len() <= 2048, "{}", interner.texts.len());
        assert!(Text::ptr_eq(&kept, &interner.text(&"kept".into())));
    }
}
