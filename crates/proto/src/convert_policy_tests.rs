//! Policies over the wire, and what unreadable parts of them become.

use super::*;
use bytes::Bytes;
use proptest::prelude::*;
use prost::Message;

fn policy(action: pb::Action, m: pb::Match) -> pb::Authorization {
    pb::Authorization {
        name: "p".into(),
        namespace: "n".into(),
        action: action.into(),
        rules: vec![pb::Rule {
            clauses: vec![pb::Clause { matches: vec![m] }],
        }],
        ..Default::default()
    }
}

fn read(action: pb::Action, m: pb::Match) -> Match {
    Authorization::try_from(policy(action, m)).unwrap().rules[0][0][0].clone()
}

fn bad_ip() -> pb::Address {
    pb::Address {
        address: Bytes::from_static(&[1, 2]),
        length: 8,
    }
}

fn good_ip() -> pb::Address {
    pb::Address {
        address: Bytes::from_static(&[10, 1, 2, 3]),
        length: 8,
    }
}

fn exact(text: &str) -> pb::StringMatch {
    (&StringMatch::Exact(text.into())).into()
}

#[test]
fn unknown_scope_or_action_rejects() {
    let mut message = policy(pb::Action::Allow, pb::Match::default());
    message.scope = 7;
    assert_eq!(
        Authorization::try_from(message.clone()).unwrap_err(),
        ConvertError::UnsupportedValue {
            field: "scope",
            value: 7
        }
    );
    message.scope = 0;
    message.action = 7;
    assert_eq!(
        Authorization::try_from(message).unwrap_err(),
        ConvertError::UnsupportedValue {
            field: "action",
            value: 7
        }
    );
}

#[test]
fn an_unreadable_entry_narrows_an_allow() {
    let m = pb::Match {
        source_ips: vec![bad_ip(), good_ip()],
        principals: vec![exact("a")],
        ..Default::default()
    };
    assert_eq!(read(pb::Action::Allow, m).source_ips.len(), 1);

    let alone = pb::Match {
        source_ips: vec![bad_ip()],
        principals: vec![exact("a")],
        ..Default::default()
    };
    assert_eq!(
        read(pb::Action::Allow, alone),
        Match::default(),
        "never true"
    );

    let excluded = pb::Match {
        not_source_ips: vec![bad_ip()],
        principals: vec![exact("a")],
        ..Default::default()
    };
    assert_eq!(
        read(pb::Action::Allow, excluded),
        Match::default(),
        "never true"
    );
}

#[test]
fn an_unreadable_entry_widens_a_deny() {
    let m = pb::Match {
        source_ips: vec![bad_ip(), good_ip()],
        principals: vec![exact("a")],
        ..Default::default()
    };
    let m = read(pb::Action::Deny, m);
    assert!(m.source_ips.is_empty());
    assert_eq!(m.principals.len(), 1);

    let alone = pb::Match {
        principals: vec![pb::StringMatch::default()],
        ..Default::default()
    };
    let everything = Match {
        destination_ips: everywhere(),
        ..Match::default()
    };
    assert_eq!(read(pb::Action::Deny, alone), everything);

    let excluded = pb::Match {
        not_principals: vec![pb::StringMatch::default()],
        ..Default::default()
    };
    assert_eq!(read(pb::Action::Deny, excluded), everything);
}

#[test]
fn an_empty_match_stays_empty() {
    assert_eq!(
        read(pb::Action::Deny, pb::Match::default()),
        Match::default()
    );
    assert_eq!(
        read(pb::Action::Allow, pb::Match::default()),
        Match::default()
    );
}

#[test]
fn prefixes_are_of_the_canonical_address() {
    let mapped = Ipv4Addr::new(10, 1, 2, 3).to_ipv6_mapped().octets();
    let address = |length| pb::Address {
        address: Bytes::copy_from_slice(&mapped),
        length,
    };
    assert_eq!(network(address(104)).unwrap().to_string(), "10.0.0.0/8");
    assert_eq!(network(address(90)), None);
    assert_eq!(network(good_ip()).unwrap().to_string(), "10.0.0.0/8");
    assert_eq!(
        network(pb::Address {
            length: 33,
            ..good_ip()
        }),
        None
    );
}

#[test]
fn numbers_on_the_wire_are_the_public_ones() {
    let m = pb::Match {
        destination_ports: vec![80],
        ..Default::default()
    };
    let bytes = policy(pb::Action::Deny, m).encode_to_vec();
    let expected: &[u8] = &[
        0x0a, 1, b'p', 0x12, 1, b'n', // name = 1, namespace = 2
        0x20, 1, // action = 4
        0x2a, 7, // rules = 5
        0x0a, 5, // clauses = 1
        0x12, 3, // matches = 2
        0x4a, 1, 80, // destination_ports = 9, packed
    ];
    assert_eq!(bytes, expected);
}

fn strings() -> impl Strategy<Value = Vec<StringMatch>> {
    let one = prop_oneof![
        "[a-z/]{0,4}".prop_map(|s| StringMatch::Exact(s.as_str().into())),
        "[a-z/]{0,4}".prop_map(|s| StringMatch::Prefix(s.as_str().into())),
        "[a-z/]{0,4}".prop_map(|s| StringMatch::Suffix(s.as_str().into())),
        Just(StringMatch::Presence),
    ];
    proptest::collection::vec(one, 0..3)
}

fn nets() -> impl Strategy<Value = Vec<IpNet>> {
    let one = (any::<u32>(), 0u8..=32)
        .prop_map(|(ip, len)| IpNet::V4(Ipv4Net::new(ip.into(), len).unwrap().trunc()));
    proptest::collection::vec(one, 0..3)
}

proptest! {
    #[test]
    fn a_policy_survives_the_wire(
        principals in strings(), not_principals in strings(), namespaces in strings(),
        source_ips in nets(), not_destination_ips in nets(),
        ports in proptest::collection::vec(any::<u16>(), 0..3),
        deny: bool, dry_run: bool, scope in 0..3usize,
    ) {
        let m = Match {
            principals, not_principals, namespaces, source_ips, not_destination_ips,
            destination_ports: ports,
            service_accounts: vec![ServiceAccountMatch {
                namespace: "n".into(), service_account: "s".into(),
            }],
            ..Match::default()
        };
        let policy = Authorization {
            name: "p".into(), namespace: "n".into(), dry_run,
            scope: [PolicyScope::Global, PolicyScope::Namespace,
                PolicyScope::WorkloadSelector][scope],
            action: if deny { Action::Deny } else { Action::Allow },
            rules: vec![vec![], vec![vec![], vec![m]]],
        };
        let bytes = pb::Authorization::from(&policy).encode_to_vec();
        let back = pb::Authorization::decode(&bytes[..]).unwrap();
        prop_assert_eq!(Authorization::try_from(back).unwrap(), policy);
    }
}
