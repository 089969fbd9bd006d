//! From one set of rules to the next: one nftables transaction that touches
//! only what changed.
//!
//! One table of our own. Two verdict maps (service addresses, node ports) lead
//! to a chain per front, which picks one of the endpoints' chains at random;
//! each of those rewrites the destination. Addresses without endpoints are in
//! a map of their own and refused. Replies find their way back by connection
//! tracking, so sources stay as they are, with two exceptions in
//! `postrouting`: a pod that reaches itself through a service, and traffic to
//! a node port, whose replies would otherwise take another way.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddrV4};

use nftables::expr::{
    CT, CTDir, Expression, Meta, MetaKey, NamedExpression, NgMode, Numgen, Payload, PayloadField,
    SetItem, Verdict,
};
use nftables::schema::{
    Chain, Element, FlushObject, NfCmd, NfListObject, NfObject, Rule, Set, SetType, SetTypeValue,
    Table,
};
use nftables::stmt::{JumpTarget, Match, NAT, Operator, Statement, VerdictMap};
use nftables::types::{NfChainPolicy, NfChainType, NfFamily, NfHook};
use serde_json::{Value, json};

use super::rules::{Front, Protocol, Rules};

/// The table's name.
pub const TABLE: &str = "kube-services";

const SERVICES: &str = "services";
const NODE_PORTS: &str = "node-ports";
const UNSERVED: &str = "unserved";
const HAIRPIN: &str = "hairpin";
const REFUSE: &str = "refuse";

const ADDRESS_KEY: &[SetType] = &[SetType::Ipv4Addr, SetType::InetProto, SetType::InetService];
const PORT_KEY: &[SetType] = &[SetType::InetProto, SetType::InetService];

/// Priorities of the hooks (netfilter's `dstnat`, `filter` and `srcnat`).
const DSTNAT: i32 = -100;
const FILTER: i32 = 0;
const SRCNAT: i32 = 100;

/// One step of a transaction.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// A command of the nftables schema.
    Command(NfObject<'static>),
    /// Adds a map from this key to verdicts, which the schema has no type for.
    VerdictMap(&'static str, &'static [SetType]),
}

type Objects = Vec<Step>;

/// The document for `nft -j -f -`.
///
/// # Errors
/// When a step cannot be written as JSON.
pub fn document(steps: &[Step]) -> Result<String, serde_json::Error> {
    let commands = steps
        .iter()
        .map(|step| match step {
            Step::Command(command) => serde_json::to_value(command),
            Step::VerdictMap(name, key) => Ok(json!({"add": {"map": {
                "family": "ip", "table": TABLE, "name": name, "type": key, "map": "verdict"}}})),
        })
        .collect::<Result<Vec<Value>, _>>()?;
    serde_json::to_string(&json!({"nftables": commands}))
}

/// The transaction from `old` (none: whatever a predecessor left) to `new`;
/// empty when nothing changes. `node` is the node's own address.
pub fn transaction(old: Option<&Rules>, new: &Rules, node: Option<Ipv4Addr>) -> Vec<Step> {
    let mut objects = Objects::new();
    let nothing = Rules::new();
    if old.is_none() {
        objects.extend(skeleton(node));
    }
    let old = old.unwrap_or(&nothing);
    let (before, after) = (endpoints(old), endpoints(new));
    for (protocol, endpoint) in after.difference(&before) {
        objects.extend(add_endpoint(*protocol, *endpoint));
    }
    hairpins(&mut objects, &before, &after);
    let (was, is) = (served(old), served(new));
    for (front, endpoints) in &is {
        match was.get(front) {
            Some(same) if same == endpoints => {}
            Some(_) => {
                objects.push(flush(chain(&front_chain(front))));
                objects.push(balance(front, endpoints));
            }
            None => {
                objects.push(add(NfListObject::Chain(chain(&front_chain(front)))));
                objects.push(balance(front, endpoints));
            }
        }
    }
    // Old elements go first: an address may change from one map to another.
    for front in was.keys().filter(|front| !is.contains_key(front)) {
        objects.push(delete(dispatch(front)));
    }
    for front in refused(old).difference(&refused(new)) {
        objects.push(delete(refusal(front)));
    }
    for front in is.keys().filter(|front| !was.contains_key(front)) {
        objects.push(add(dispatch(front)));
    }
    for front in refused(new).difference(&refused(old)) {
        objects.push(add(refusal(front)));
    }
    for front in was.keys().filter(|front| !is.contains_key(front)) {
        objects.extend(remove_chain(&front_chain(front)));
    }
    for (protocol, endpoint) in before.difference(&after) {
        objects.extend(remove_chain(&endpoint_chain(*protocol, *endpoint)));
    }
    objects
}

fn served(rules: &Rules) -> BTreeMap<Front, &BTreeSet<SocketAddrV4>> {
    rules
        .iter()
        .filter(|(_, e)| !e.is_empty())
        .map(|(front, e)| (*front, e))
        .collect()
}

/// Addresses to refuse. A node port without endpoints is left alone: the port
/// belongs to the node.
fn refused(rules: &Rules) -> BTreeSet<Front> {
    let empty = rules.iter().filter(|(_, endpoints)| endpoints.is_empty());
    empty
        .map(|(front, _)| *front)
        .filter(|f| matches!(f, Front::Address(..)))
        .collect()
}

fn endpoints(rules: &Rules) -> BTreeSet<(Protocol, SocketAddrV4)> {
    let all = rules
        .iter()
        .flat_map(|(front, all)| all.iter().map(|e| (front.protocol(), *e)));
    all.collect()
}

fn hairpins(
    objects: &mut Objects,
    before: &BTreeSet<(Protocol, SocketAddrV4)>,
    after: &BTreeSet<(Protocol, SocketAddrV4)>,
) {
    let addresses = |all: &BTreeSet<(Protocol, SocketAddrV4)>| -> BTreeSet<Ipv4Addr> {
        all.iter().map(|(_, endpoint)| *endpoint.ip()).collect()
    };
    let (before, after) = (addresses(before), addresses(after));
    let pair = |address: &Ipv4Addr| concat(vec![text(address), text(address)]);
    let gone: Vec<_> = before.difference(&after).map(pair).collect();
    let came: Vec<_> = after.difference(&before).map(pair).collect();
    if !gone.is_empty() {
        objects.push(delete(element(HAIRPIN, gone)));
    }
    if !came.is_empty() {
        objects.push(add(element(HAIRPIN, came)));
    }
}

fn front_chain(front: &Front) -> String {
    format!("front-{front}")
}

fn endpoint_chain(protocol: Protocol, endpoint: SocketAddrV4) -> String {
    format!("endpoint-{}/{protocol}/{}", endpoint.ip(), endpoint.port())
}

/// The table with its maps and hooks, replacing an old one.
fn skeleton(node: Option<Ipv4Addr>) -> Objects {
    let table = || {
        NfListObject::Table(Table {
            family: NfFamily::IP,
            name: TABLE.into(),
            handle: None,
        })
    };
    let mut objects = vec![add(table()), delete(table()), add(table())];
    objects.extend([
        Step::VerdictMap(SERVICES, ADDRESS_KEY),
        Step::VerdictMap(UNSERVED, ADDRESS_KEY),
        Step::VerdictMap(NODE_PORTS, PORT_KEY),
        add(NfListObject::Set(Box::new(Set {
            family: NfFamily::IP,
            table: TABLE.into(),
            name: HAIRPIN.into(),
            set_type: SetTypeValue::Concatenated(vec![SetType::Ipv4Addr, SetType::Ipv4Addr].into()),
            ..Set::default()
        }))),
        add(NfListObject::Chain(chain(REFUSE))),
        rule(REFUSE, vec![Statement::Reject(None)]),
    ]);
    for (name, hook) in [
        ("prerouting", NfHook::Prerouting),
        ("output", NfHook::Output),
    ] {
        objects.push(hooked(name, NfChainType::NAT, hook, DSTNAT));
        objects.push(rule(name, vec![lookup(address_key(), SERVICES)]));
        if let Some(node) = node {
            let to_node = is(payload("ip", "daddr"), text(&node));
            objects.push(rule(name, vec![to_node, lookup(port_key(), NODE_PORTS)]));
        }
    }
    for (name, hook) in [
        ("refuse-forwarded", NfHook::Forward),
        ("refuse-own", NfHook::Output),
    ] {
        objects.push(hooked(name, NfChainType::Filter, hook, FILTER));
        objects.push(rule(name, vec![lookup(address_key(), UNSERVED)]));
    }
    objects.push(hooked(
        "postrouting",
        NfChainType::NAT,
        NfHook::Postrouting,
        SRCNAT,
    ));
    let own_pair = concat(vec![payload("ip", "saddr"), payload("ip", "daddr")]);
    let to_itself = is(own_pair, Expression::String(format!("@{HAIRPIN}").into()));
    objects.push(rule(
        "postrouting",
        vec![to_itself, Statement::Masquerade(None)],
    ));
    if let Some(node) = node {
        let translated = Statement::Match(Match {
            left: ct("status", None),
            right: Expression::String("dnat".into()),
            op: Operator::IN,
        });
        let to_node = is(ct("ip daddr", Some(CTDir::Original)), text(&node));
        objects.push(rule(
            "postrouting",
            vec![to_node, translated, Statement::Masquerade(None)],
        ));
    }
    objects
}

fn add_endpoint(protocol: Protocol, endpoint: SocketAddrV4) -> [Step; 2] {
    let name = endpoint_chain(protocol, endpoint);
    let target = NAT {
        addr: Some(text(endpoint.ip())),
        family: None,
        port: Some(Expression::Number(endpoint.port().into())),
        flags: None,
    };
    let proto = is(meta(MetaKey::L4proto), text(&protocol));
    [
        add(NfListObject::Chain(chain(&name))),
        rule(&name, vec![proto, Statement::DNAT(Some(target))]),
    ]
}

/// The rule that picks one of the endpoints.
fn balance(front: &Front, endpoints: &BTreeSet<SocketAddrV4>) -> Step {
    let target = |endpoint: &SocketAddrV4| JumpTarget {
        target: endpoint_chain(front.protocol(), *endpoint).into(),
    };
    let statement = match endpoints.first() {
        Some(only) if endpoints.len() == 1 => Statement::Goto(target(only)),
        _ => {
            let count = u32::try_from(endpoints.len()).unwrap_or(u32::MAX);
            let choice = Numgen {
                mode: NgMode::Random,
                ng_mod: count,
                offset: None,
            };
            let verdicts = (0..count)
                .zip(endpoints)
                .map(|(index, endpoint)| {
                    let verdict = Expression::Verdict(Verdict::Goto(target(endpoint)));
                    SetItem::Mapping(Expression::Number(index), verdict)
                })
                .collect();
            Statement::VerdictMap(VerdictMap {
                key: Expression::Named(NamedExpression::Numgen(choice)),
                data: Expression::Named(NamedExpression::Set(verdicts)),
            })
        }
    };
    rule(&front_chain(front), vec![statement])
}

/// The element that leads to the chain of a front.
fn dispatch(front: &Front) -> NfListObject<'static> {
    let map = if matches!(front, Front::Address(..)) {
        SERVICES
    } else {
        NODE_PORTS
    };
    element(
        map,
        vec![Expression::List(vec![
            key_of(front),
            goto(&front_chain(front)),
        ])],
    )
}

fn refusal(front: &Front) -> NfListObject<'static> {
    element(
        UNSERVED,
        vec![Expression::List(vec![key_of(front), goto(REFUSE)])],
    )
}

fn key_of(front: &Front) -> Expression<'static> {
    match front {
        Front::Address(address, protocol, port) => concat(vec![
            text(address),
            text(protocol),
            Expression::Number((*port).into()),
        ]),
        Front::NodePort(protocol, port) => {
            concat(vec![text(protocol), Expression::Number((*port).into())])
        }
    }
}

fn address_key() -> Expression<'static> {
    concat(vec![
        payload("ip", "daddr"),
        meta(MetaKey::L4proto),
        payload("th", "dport"),
    ])
}

fn port_key() -> Expression<'static> {
    concat(vec![meta(MetaKey::L4proto), payload("th", "dport")])
}

// Small words of the nftables schema.

fn add(object: NfListObject<'static>) -> Step {
    Step::Command(NfObject::CmdObject(NfCmd::Add(object)))
}

fn delete(object: NfListObject<'static>) -> Step {
    Step::Command(NfObject::CmdObject(NfCmd::Delete(object)))
}

fn flush(chain: Chain<'static>) -> Step {
    Step::Command(NfObject::CmdObject(NfCmd::Flush(FlushObject::Chain(chain))))
}

fn remove_chain(name: &str) -> [Step; 2] {
    [flush(chain(name)), delete(NfListObject::Chain(chain(name)))]
}

fn chain(name: &str) -> Chain<'static> {
    Chain {
        family: NfFamily::IP,
        table: TABLE.into(),
        name: name.to_owned().into(),
        ..Chain::default()
    }
}

fn hooked(name: &str, kind: NfChainType, hook: NfHook, priority: i32) -> Step {
    add(NfListObject::Chain(Chain {
        _type: Some(kind),
        hook: Some(hook),
        prio: Some(priority),
        policy: Some(NfChainPolicy::Accept),
        ..chain(name)
    }))
}

fn rule(chain: &str, statements: Vec<Statement<'static>>) -> Step {
    add(NfListObject::Rule(Rule {
        family: NfFamily::IP,
        table: TABLE.into(),
        chain: chain.to_owned().into(),
        expr: statements.into(),
        ..Rule::default()
    }))
}

fn element(name: &'static str, elements: Vec<Expression<'static>>) -> NfListObject<'static> {
    NfListObject::Element(Element {
        family: NfFamily::IP,
        table: TABLE.into(),
        name: name.into(),
        elem: elements.into(),
    })
}

fn lookup(key: Expression<'static>, map: &str) -> Statement<'static> {
    Statement::VerdictMap(VerdictMap {
        key,
        data: Expression::String(format!("@{map}").into()),
    })
}

fn goto(chain: &str) -> Expression<'static> {
    Expression::Verdict(Verdict::Goto(JumpTarget {
        target: chain.to_owned().into(),
    }))
}

fn is(left: Expression<'static>, right: Expression<'static>) -> Statement<'static> {
    Statement::Match(Match {
        left,
        right,
        op: Operator::EQ,
    })
}

fn concat(parts: Vec<Expression<'static>>) -> Expression<'static> {
    Expression::Named(NamedExpression::Concat(parts))
}

fn text(value: &impl ToString) -> Expression<'static> {
    Expression::String(value.to_string().into())
}

fn meta(key: MetaKey) -> Expression<'static> {
    Expression::Named(NamedExpression::Meta(Meta { key }))
}

fn ct(key: &'static str, dir: Option<CTDir>) -> Expression<'static> {
    Expression::Named(NamedExpression::CT(CT {
        key: key.into(),
        family: None,
        dir,
    }))
}

fn payload(protocol: &'static str, field: &'static str) -> Expression<'static> {
    Expression::Named(NamedExpression::Payload(Payload::PayloadField(
        PayloadField {
            protocol: protocol.into(),
            field: field.into(),
        },
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(all: &[(Front, &[&str])]) -> Rules {
        all.iter()
            .map(|(front, endpoints)| {
                (
                    *front,
                    endpoints
                        .iter()
                        .map(|e| e.parse().expect("an endpoint"))
                        .collect(),
                )
            })
            .collect()
    }

    fn front(last: u8) -> Front {
        Front::Address(Ipv4Addr::new(10, 96, 0, last), Protocol::Tcp, 80)
    }

    /// Command and name of each object of a transaction.
    fn summary(transaction: &[Step]) -> Vec<String> {
        let text = document(transaction).expect("a document");
        let value: Value = serde_json::from_str(&text).expect("JSON");
        let mut lines = Vec::new();
        for command in value["nftables"].as_array().expect("a list") {
            for (verb, object) in command.as_object().expect("a command") {
                for (kind, body) in object.as_object().expect("an object") {
                    let name = body["name"]
                        .as_str()
                        .or(body["chain"].as_str())
                        .unwrap_or("");
                    lines.push(format!("{verb} {kind} {name}"));
                }
            }
        }
        lines
    }

    #[test]
    fn nothing_changed_is_an_empty_transaction() {
        let rules = rules(&[(front(1), &["10.0.0.1:80"]), (front(2), &[])]);
        assert!(transaction(Some(&rules), &rules, None).is_empty());
    }

    #[test]
    fn one_more_endpoint_touches_one_service() {
        let old = rules(&[(front(1), &["10.0.0.1:80"]), (front(2), &["10.0.0.9:80"])]);
        let new = rules(&[
            (front(1), &["10.0.0.1:80", "10.0.0.2:80"]),
            (front(2), &["10.0.0.9:80"]),
        ]);
        assert_eq!(
            summary(&transaction(Some(&old), &new, None)),
            [
                "add chain endpoint-10.0.0.2/tcp/80",
                "add rule endpoint-10.0.0.2/tcp/80",
                "add element hairpin",
                "flush chain front-10.96.0.1/tcp/80",
                "add rule front-10.96.0.1/tcp/80",
            ]
        );
    }

    #[test]
    fn the_last_endpoint_gone_turns_to_refusal() {
        let old = rules(&[(front(1), &["10.0.0.1:80"])]);
        let new = rules(&[(front(1), &[])]);
        assert_eq!(
            summary(&transaction(Some(&old), &new, None)),
            [
                "delete element hairpin",
                "delete element services",
                "add element unserved",
                "flush chain front-10.96.0.1/tcp/80",
                "delete chain front-10.96.0.1/tcp/80",
                "flush chain endpoint-10.0.0.1/tcp/80",
                "delete chain endpoint-10.0.0.1/tcp/80",
            ]
        );
    }
}
