//! The tables of all services, made of all routes.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::order::{Age, precedence};
use super::{Head, Match, Route, RouteKind, Rule, Table, TextMatch};
use crate::Text;
use crate::service::NamespacedHostname;

/// What a rule without alternatives asks for.
static MATCHES_ALL: Match = Match {
    path: None,
    method: None,
    scheme: None,
    authority: None,
    headers: Vec::new(),
    query: Vec::new(),
    port: None,
};

/// The routes by what they are about. A change of one route makes the tables of its parents anew
/// and touches no other.
#[derive(Clone, Debug, Default)]
pub struct Routes {
    routes: BTreeMap<Text, Arc<Route>>,
    by_parent: HashMap<NamespacedHostname, BTreeMap<Text, Arc<Route>>>,
    tables: HashMap<(NamespacedHostname, u16), Arc<Rules>>,
    all_ports: HashMap<NamespacedHostname, Arc<Rules>>,
}

/// The rules for a service and port, in order.
#[derive(Debug, Default)]
pub struct Rules {
    table: Table,
    rules: Vec<(Arc<Route>, usize)>,
    /// For connections of TLS by the name that they ask for: the most exact first.
    names: Vec<(TextMatch, Arc<Route>, usize)>,
    connections: Option<(Arc<Route>, usize)>,
}

/// What becomes of a connection that is not HTTP.
#[derive(Clone, Copy, Debug)]
pub enum Connected<'a> {
    /// There are no routes for connections.
    AsItIs,
    /// This rule is for it.
    Rule(&'a Rule),
    /// There are routes, by names, and it asks for none of them.
    NoRule,
}

/// The rule that a request has met.
#[derive(Clone, Copy, Debug)]
pub struct Met<'a> {
    /// The alternative that holds.
    pub matched: &'a Match,
    /// The rule.
    pub rule: &'a Rule,
    /// The object that it stands in.
    pub route: &'a Arc<Route>,
    /// Its number there.
    pub number: usize,
}

impl Rules {
    /// The rules of these routes for one port: those of the first group, then of the second.
    fn new(groups: [&[&Arc<Route>]; 2]) -> Self {
        let mut rules = Vec::new();
        let mut alternatives: Vec<(usize, &Match, Age, usize)> = Vec::new();
        let routes = || {
            let numbered = groups.into_iter().enumerate();
            numbered.flat_map(|(group, routes)| routes.iter().map(move |route| (group, *route)))
        };
        for (group, route) in routes().filter(|(_, route)| route.kind.is_http()) {
            for (number, rule) in route.rules.iter().enumerate() {
                let all = match &rule.matches[..] {
                    [] => std::slice::from_ref(&MATCHES_ALL),
                    some => some,
                };
                for (alternative, matched) in all.iter().enumerate() {
                    let age = Age {
                        created: route.created,
                        name: (route.namespace.clone(), route.name.clone()),
                        rule: number,
                        alternative,
                    };
                    alternatives.push((group, matched, age, rules.len()));
                }
                rules.push((Arc::clone(route), number));
            }
        }
        alternatives.sort_by(|(a_group, a, a_age, _), (b_group, b, b_age, _)| {
            let groups = a_group.cmp(b_group);
            groups.then_with(|| precedence((a, a_age), (b, b_age)))
        });
        let alternatives = alternatives
            .into_iter()
            .map(|(_, matched, _, rule)| (matched.clone(), rule))
            .collect();
        // One rule counts: the first of the oldest.
        let connections = routes()
            .filter(|(_, route)| route.kind == RouteKind::Tcp && !route.rules.is_empty())
            .min_by_key(|(group, route)| (*group, route.created, &route.namespace, &route.name))
            .map(|(_, route)| (Arc::clone(route), 0));
        Self {
            table: Table::new(alternatives),
            rules,
            names: names(routes().filter(|(_, route)| route.kind == RouteKind::Tls)),
            connections,
        }
    }

    /// There is no rule for requests: they go to the service as they are.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// All alternatives in the order in which they count, each with its route and rule.
    pub fn in_order(&self) -> impl Iterator<Item = (&Match, &Arc<Route>, &Rule)> {
        self.table.alternatives().filter_map(|(matched, number)| {
            let (route, rule) = self.rules.get(number)?;
            Some((matched, route, route.rules.get(*rule)?))
        })
    }

    /// The rule that a request meets.
    pub fn find(&self, head: &Head<'_>) -> Option<Met<'_>> {
        let (matched, number) = self.table.find(head)?;
        let (route, rule) = self.rules.get(number)?;
        Some(Met {
            matched,
            rule: route.rules.get(*rule)?,
            route,
            number: *rule,
        })
    }

    /// Whether the name that a connection asks for decides about it.
    pub fn by_name(&self) -> bool {
        !self.names.is_empty()
    }

    /// What becomes of a connection that is not HTTP; of TLS, with the name that it asks for, in
    /// lower case.
    pub fn connected(&self, name: Option<&str>) -> Connected<'_> {
        let mut named = self.names.iter();
        let named = name.and_then(|name| named.find(|(wanted, ..)| wanted.matches(name)));
        let found = named.map(|(_, route, rule)| (route, *rule));
        let other = self.connections.as_ref();
        let found = found.or(other.map(|(route, rule)| (route, *rule)));
        match found.and_then(|(route, rule)| route.rules.get(rule)) {
            Some(rule) => Connected::Rule(rule),
            None if self.by_name() => Connected::NoRule,
            None => Connected::AsItIs,
        }
    }
}

/// The names of routes: exact ones first, then the longest, then those of the oldest route.
fn names<'a>(
    routes: impl Iterator<Item = (usize, &'a Arc<Route>)>,
) -> Vec<(TextMatch, Arc<Route>, usize)> {
    let of_route = |(group, route): (usize, &'a Arc<Route>)| {
        let rules = route.rules.iter().enumerate();
        let names = rules.flat_map(|(number, rule)| {
            let names = rule.matches.iter().filter_map(|m| m.authority.clone());
            names.map(move |name| (name, number))
        });
        names.map(move |(name, number)| (group, name, Arc::clone(route), number))
    };
    let mut names: Vec<_> = routes.flat_map(of_route).collect();
    names.sort_by_cached_key(|(group, name, route, _)| {
        let (kind, length) = match name {
            TextMatch::Exact(text) => (0, text.len()),
            TextMatch::Prefix(text) => (1, text.len()),
            TextMatch::Regex(pattern) => (2, pattern.source().len()),
            TextMatch::Present => (3, 0),
        };
        let age = (route.created, route.namespace.clone(), route.name.clone());
        (*group, kind, Reverse(length), age)
    });
    let names = names.into_iter();
    names
        .map(|(_, name, route, rule)| (name, route, rule))
        .collect()
}

impl Routes {
    /// Routes are new or different, and those of some keys are gone. The tables of each parent are
    /// made once, however many of its routes have changed.
    pub fn change(&mut self, set: Vec<Arc<Route>>, gone: impl IntoIterator<Item = Text>) {
        let mut touched = BTreeSet::new();
        for key in gone {
            self.take_out(&key, &mut touched);
        }
        for route in set {
            let key = route.key();
            self.take_out(&key, &mut touched);
            for service in parents(&route) {
                let routes = self.by_parent.entry(service.clone()).or_default();
                routes.insert(key.clone(), route.clone());
                touched.insert(service.clone());
            }
            self.routes.insert(key, route);
        }
        touched.iter().for_each(|service| self.compile(service));
    }

    fn take_out(&mut self, key: &Text, touched: &mut BTreeSet<NamespacedHostname>) {
        let Some(route) = self.routes.remove(key) else {
            return;
        };
        for service in parents(&route) {
            if let Some(routes) = self.by_parent.get_mut(service) {
                routes.remove(key);
                if routes.is_empty() {
                    self.by_parent.remove(service);
                }
            }
            touched.insert(service.clone());
        }
    }

    /// The rules for a port of a service; `None` where it has no routes.
    ///
    /// Routes that name the port come before those that name none: they are not merged.
    pub fn rules(&self, service: &NamespacedHostname, port: u16) -> Option<&Arc<Rules>> {
        let of_port = self.tables.get(&(service.clone(), port));
        of_port.or_else(|| self.all_ports.get(service))
    }

    /// All routes, by key.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Route>> {
        self.routes.values()
    }

    fn compile(&mut self, service: &NamespacedHostname) {
        self.tables.retain(|(of, _), _| of != service);
        self.all_ports.remove(service);
        let Some(routes) = self.by_parent.get(service) else {
            return;
        };
        let about = |route: &Arc<Route>, port: Option<u16>| {
            let mut parents = route.parents.iter();
            parents.any(|parent| parent.service == *service && parent.port == port)
        };
        let without: Vec<_> = routes.values().filter(|r| about(r, None)).collect();
        if !without.is_empty() {
            let rules = Rules::new([&[], &without]);
            self.all_ports.insert(service.clone(), Arc::new(rules));
        }
        let parents = routes.values().flat_map(|route| &route.parents);
        let ports = parents.filter(|p| p.service == *service);
        for port in ports.filter_map(|parent| parent.port) {
            let key = (service.clone(), port);
            if self.tables.contains_key(&key) {
                continue;
            }
            let here: Vec<_> = routes.values().filter(|r| about(r, Some(port))).collect();
            let rules = Rules::new([&here, &without]);
            self.tables.insert(key, Arc::new(rules));
        }
    }
}

/// The services of a route, each once.
fn parents(route: &Route) -> impl Iterator<Item = &NamespacedHostname> {
    let services = route.parents.iter().map(|parent| &parent.service);
    let services: BTreeSet<_> = services.collect();
    services.into_iter()
}

#[cfg(test)]
#[path = "services_tests.rs"]
mod tests;
