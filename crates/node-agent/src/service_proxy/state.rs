//! The rules in force, and the transaction that makes them follow a change.
//! The cost of a change is that of the services that changed.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::render::{self, Place};
use super::rules::{Front, Port};
use crate::informer::ObjectKey;
use crate::nft::{self, Family, Objects};

/// The rules of one family.
#[derive(Debug)]
pub struct State {
    family: Family,
    place: Place,
    services: HashMap<ObjectKey, Vec<Port>>,
    /// Services that want a front; the first has it.
    claims: HashMap<Front, BTreeSet<ObjectKey>>,
    rendered: HashMap<ObjectKey, Objects>,
}

impl State {
    /// No services, and the transaction that makes it so, whatever there was.
    pub fn new(family: Family, place: Place) -> (Self, String) {
        let table = render::table(family);
        let skeleton = render::skeleton(family, &place);
        let mut script = nft::reset(table);
        script.push_str(&nft::changes(table, &[], &[&skeleton]));
        let state = Self {
            family,
            place,
            services: HashMap::new(),
            claims: HashMap::new(),
            rendered: HashMap::new(),
        };
        (state, script)
    }

    /// Takes over the ports of services that changed (none: the service is
    /// gone), and returns the transaction.
    pub fn update(&mut self, changed: BTreeMap<ObjectKey, Vec<Port>>) -> String {
        let mut affected: BTreeSet<ObjectKey> = changed.keys().cloned().collect();
        for (key, ports) in changed {
            self.claim(&key, &ports, &mut affected);
            match ports.is_empty() {
                true => self.services.remove(&key),
                false => self.services.insert(key, ports),
            };
        }
        let (mut old, mut new) = (Vec::new(), Vec::new());
        for key in affected {
            let objects = self.render(&key);
            let before = match objects.is_empty() {
                true => self.rendered.remove(&key),
                false => self.rendered.insert(key, objects.clone()),
            };
            old.extend(before);
            new.push(objects);
        }
        let (old, new): (Vec<_>, Vec<_>) = (old.iter().collect(), new.iter().collect());
        nft::changes(render::table(self.family), &old, &new)
    }

    /// The family.
    pub fn family(&self) -> Family {
        self.family
    }

    /// The node.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// The ports of a service, as they were taken over.
    pub fn ports(&self, key: &ObjectKey) -> &[Port] {
        self.services
            .get(key)
            .map(Vec::as_slice)
            .unwrap_or_default()
    }

    /// Notes which fronts a service wants; whoever gets or loses one by it is
    /// affected, too.
    fn claim(&mut self, key: &ObjectKey, ports: &[Port], affected: &mut BTreeSet<ObjectKey>) {
        let before: BTreeSet<Front> = fronts(self.ports(key));
        let after = fronts(ports);
        for front in before.symmetric_difference(&after) {
            let claims = self.claims.entry(*front).or_default();
            affected.extend(claims.first().cloned());
            match after.contains(front) {
                true => claims.insert(key.clone()),
                false => claims.remove(key),
            };
            affected.extend(claims.first().cloned());
            if claims.is_empty() {
                self.claims.remove(front);
            }
        }
    }

    fn render(&self, key: &ObjectKey) -> Objects {
        let mut all = Objects::new();
        for port in self.ports(key) {
            let mut port = port.clone();
            let has = |front: Front| {
                let claims = self.claims.get(&front);
                claims.and_then(BTreeSet::first) == Some(key)
            };
            let (protocol, number) = (port.protocol, port.number);
            let mine = |address: &std::net::IpAddr| has(Front::Address(*address, protocol, number));
            port.cluster = port.cluster.filter(mine);
            port.balancers.retain(mine);
            port.externals.retain(mine);
            port.node_port = port
                .node_port
                .filter(|n| has(Front::NodePort(protocol, *n)));
            all.merge(render::port(self.family, &port, &self.place));
        }
        all
    }
}

fn fronts(ports: &[Port]) -> BTreeSet<Front> {
    ports.iter().flat_map(Port::fronts).collect()
}
