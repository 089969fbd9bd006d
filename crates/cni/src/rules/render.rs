//! Plans → the JSON that `nft -j -f -` takes. One batch is one kernel transaction.

use std::borrow::Cow;
use std::net::IpAddr;

use nftables::expr::{
    BinaryOperation, CT, Elem, Expression, Meta, MetaKey, NamedExpression, Payload, PayloadField,
    Prefix, SetItem,
};
use nftables::schema::{
    Chain as NfChain, FlushObject, NfCmd, NfListObject, NfObject, Nftables, Rule as NfRule,
    Set as NfSet, SetType, SetTypeValue, Table as NfTable,
};
use nftables::stmt::{
    Accept, Counter, JumpTarget, Mangle, Match as NfMatch, NAT, NATFamily, Operator, Statement,
};
use nftables::types::{NfChainPolicy, NfChainType, NfFamily, NfHook};

use super::MARK_MASK;
use super::plan::{Action, Batch, Chain, Hook, Match, Op, Rule, Set, Table, family};

type Expr = Expression<'static>;
type Stmt = Statement<'static>;

impl Batch {
    /// The batch as one nftables document.
    pub fn render(&self) -> Nftables<'static> {
        let mut commands = Vec::new();
        match self {
            Batch::Replace(plan) => {
                for table in &plan.tables {
                    // Added first so that deleting cannot fail; deleted so that nothing of an
                    // earlier version stays (a flush would keep chains, hooks and sets).
                    commands.push(NfCmd::Add(table_object(table.name)));
                    commands.push(NfCmd::Delete(table_object(table.name)));
                    render_table(table, &mut commands);
                }
            }
            Batch::Remove(removal) => {
                for name in &removal.tables {
                    commands.push(NfCmd::Add(table_object(name)));
                    commands.push(NfCmd::Flush(FlushObject::Table(nf_table(name))));
                    commands.push(NfCmd::Delete(table_object(name)));
                }
            }
        }
        Nftables {
            objects: commands.into_iter().map(NfObject::CmdObject).collect(),
        }
    }
}

fn nf_table(name: &'static str) -> NfTable<'static> {
    NfTable {
        family: NfFamily::INet,
        name: name.into(),
        handle: None,
    }
}

fn table_object(name: &'static str) -> NfListObject<'static> {
    NfListObject::Table(nf_table(name))
}

fn render_table(table: &Table, commands: &mut Vec<NfCmd<'static>>) {
    commands.push(NfCmd::Add(table_object(table.name)));
    for set in &table.sets {
        commands.push(NfCmd::Add(NfListObject::Set(Box::new(render_set(
            table.name, set,
        )))));
    }
    for chain in &table.chains {
        commands.push(NfCmd::Add(NfListObject::Chain(render_chain(
            table.name, chain,
        ))));
    }
    for chain in &table.chains {
        for rule in &chain.rules {
            commands.push(NfCmd::Add(NfListObject::Rule(NfRule {
                family: NfFamily::INet,
                table: table.name.into(),
                chain: chain.name.into(),
                expr: Cow::Owned(render_rule(rule)),
                ..Default::default()
            })));
        }
    }
}

fn render_set(table: &'static str, set: &Set) -> NfSet<'static> {
    let address_type = if set.ipv6 {
        SetType::Ipv6Addr
    } else {
        SetType::Ipv4Addr
    };
    let elements: Vec<Expr> = set
        .elements
        .iter()
        .map(|e| {
            let pair = NamedExpression::Concat(vec![
                text(e.address.to_string()),
                Expression::Number(e.port.into()),
            ]);
            Expression::Named(NamedExpression::Elem(Elem {
                val: Box::new(Expression::Named(pair)),
                comment: Some(e.comment.clone().into()),
                ..Default::default()
            }))
        })
        .collect();
    NfSet {
        family: NfFamily::INet,
        table: table.into(),
        name: set.name.into(),
        set_type: SetTypeValue::Concatenated(Cow::Owned(vec![address_type, SetType::InetService])),
        elem: (!elements.is_empty()).then_some(Cow::Owned(elements)),
        ..Default::default()
    }
}

fn render_chain(table: &'static str, chain: &Chain) -> NfChain<'static> {
    let base = chain.hook.map(|hook| match hook {
        Hook::NatPrerouting => (NfChainType::NAT, NfHook::Prerouting, -100),
        Hook::NatOutput => (NfChainType::NAT, NfHook::Output, -100),
        Hook::NatPostrouting => (NfChainType::NAT, NfHook::Postrouting, 100),
        Hook::ManglePrerouting => (NfChainType::Filter, NfHook::Prerouting, -150),
        Hook::MangleOutput => (NfChainType::Route, NfHook::Output, -150),
        Hook::RawPrerouting => (NfChainType::Filter, NfHook::Prerouting, -300),
        Hook::RawOutput => (NfChainType::Filter, NfHook::Output, -300),
    });
    NfChain {
        family: NfFamily::INet,
        table: table.into(),
        name: chain.name.into(),
        _type: base.map(|b| b.0),
        hook: base.map(|b| b.1),
        prio: base.map(|b| b.2),
        policy: base.map(|_| NfChainPolicy::Accept),
        ..Default::default()
    }
}

fn render_rule(rule: &Rule) -> Vec<Stmt> {
    let mut statements: Vec<Stmt> = rule.matches.iter().map(render_match).collect();
    if !matches!(rule.action, Action::Jump(_)) {
        statements.push(Statement::Counter(Counter::Anonymous(None)));
    }
    statements.push(render_action(&rule.action));
    statements
}

fn render_match(m: &Match) -> Stmt {
    match m {
        Match::L4(p) => compare(meta(MetaKey::L4proto), Op::Is, text(p.keyword())),
        Match::Source(op, a) => compare(address_field(*a, "saddr"), *op, host(*a)),
        Match::Destination(op, a) => compare(address_field(*a, "daddr"), *op, host(*a)),
        Match::SourcePort(p, port) => compare(
            field(p.keyword(), "sport"),
            Op::Is,
            Expression::Number((*port).into()),
        ),
        Match::DestinationPort(p, op, port) => compare(
            field(p.keyword(), "dport"),
            *op,
            Expression::Number((*port).into()),
        ),
        Match::DestinationPorts(p, ports) => {
            let items = ports
                .iter()
                .map(|port| SetItem::Element(Expression::Number((*port).into())))
                .collect();
            let set = Expression::Named(NamedExpression::Set(items));
            compare(field(p.keyword(), "dport"), Op::Is, set)
        }
        Match::DestinationInSet { set, ipv6 } => {
            let pair =
                NamedExpression::Concat(vec![field(family(*ipv6), "daddr"), field("tcp", "dport")]);
            compare(Expression::Named(pair), Op::Is, text(format!("@{set}")))
        }
        Match::InputInterface(op, name) => compare(meta(MetaKey::Iifname), *op, text(name.clone())),
        Match::OutputInterface(op, name) => {
            compare(meta(MetaKey::Oifname), *op, text(name.clone()))
        }
        Match::Mark(op, v) => compare(
            and(meta(MetaKey::Mark), MARK_MASK),
            *op,
            Expression::Number(*v),
        ),
        Match::ConnectionMark(op, v) => {
            compare(and(ct("mark"), MARK_MASK), *op, Expression::Number(*v))
        }
        Match::SocketUser(uid) => compare(meta(MetaKey::Skuid), Op::Is, Expression::Number(*uid)),
    }
}

fn render_action(action: &Action) -> Stmt {
    match action {
        Action::Accept => Statement::Accept(Some(Accept {})),
        Action::Jump(chain) => Statement::Jump(JumpTarget {
            target: (*chain).into(),
        }),
        Action::Redirect(port) => Statement::Redirect(Some(NAT {
            addr: None,
            family: None,
            port: Some(Expression::Number((*port).into())),
            flags: None,
        })),
        Action::Snat(address) => Statement::SNAT(Some(NAT {
            addr: Some(text(address.to_string())),
            family: Some(if address.is_ipv6() {
                NATFamily::IP6
            } else {
                NATFamily::IP
            }),
            port: None,
            flags: None,
        })),
        Action::SetConnectionMark(v) => {
            let others = and(ct("mark"), !MARK_MASK);
            let value = BinaryOperation::OR(vec![others, Expression::Number(*v)]);
            mangle(ct("mark"), Expression::BinaryOperation(Box::new(value)))
        }
        Action::RestoreMark => mangle(meta(MetaKey::Mark), ct("mark")),
        Action::SetZone(zone) => mangle(ct("zone"), Expression::Number((*zone).into())),
    }
}

fn compare(left: Expr, op: Op, right: Expr) -> Stmt {
    let op = match op {
        Op::Is => Operator::EQ,
        Op::IsNot => Operator::NEQ,
    };
    Statement::Match(NfMatch { left, right, op })
}

fn mangle(key: Expr, value: Expr) -> Stmt {
    Statement::Mangle(Mangle { key, value })
}

fn and(left: Expr, mask: u32) -> Expr {
    Expression::BinaryOperation(Box::new(BinaryOperation::AND(
        left,
        Expression::Number(mask),
    )))
}

fn text(value: impl Into<Cow<'static, str>>) -> Expr {
    Expression::String(value.into())
}

fn meta(key: MetaKey) -> Expr {
    Expression::Named(NamedExpression::Meta(Meta { key }))
}

fn ct(key: &'static str) -> Expr {
    Expression::Named(NamedExpression::CT(CT {
        key: key.into(),
        family: None,
        dir: None,
    }))
}

fn field(protocol: &'static str, name: &'static str) -> Expr {
    let field = PayloadField {
        protocol: protocol.into(),
        field: name.into(),
    };
    Expression::Named(NamedExpression::Payload(Payload::PayloadField(field)))
}

fn address_field(address: IpAddr, name: &'static str) -> Expr {
    field(family(address.is_ipv6()), name)
}

fn host(address: IpAddr) -> Expr {
    let len = if address.is_ipv6() { 128 } else { 32 };
    let prefix = Prefix {
        addr: Box::new(text(address.to_string())),
        len,
    };
    Expression::Named(NamedExpression::Prefix(prefix))
}
