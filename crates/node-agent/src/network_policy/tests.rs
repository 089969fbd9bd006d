//! The rendered rules in a kernel: every form is accepted, and a plan can
//! follow any other. What they do to packets is tested with pods.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::plan::{Labels, Plan, Pod, plan};
use super::policy::Policy;
use super::render;
use crate::informer::ObjectKey;
use crate::nft::{self, Family, Objects, Protocol};

fn policy(name: &str, spec: Value) -> Arc<Policy> {
    let object = json!({"metadata": {"namespace": "ns", "name": name}, "spec": spec});
    Arc::new(Policy::new(
        &serde_json::from_value(object).expect("a policy"),
    ))
}

fn pod(name: &str, addresses: &[&str], local: bool) -> Pod {
    Pod {
        key: ObjectKey::new("ns", name),
        labels: Labels::from([("app".to_owned(), name.to_owned())]),
        addresses: addresses
            .iter()
            .map(|a| a.parse().expect("an address"))
            .collect(),
        ports: vec![(Protocol::Tcp, "http".into(), 8080)],
        local,
    }
}

fn plans() -> Vec<Plan> {
    let everything = policy(
        "every.thing",
        json!({
            "podSelector": {}, "policyTypes": ["Ingress", "Egress"],
            "ingress": [
                {},
                {"from": [
                    {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16", "10.1.2.0/24", "10.2.0.0/16"]}},
                    {"ipBlock": {"cidr": "fd00::/8", "except": ["fd00:1::/64"]}},
                    {"namespaceSelector": {"matchLabels": {"a": "b"}},
                     "podSelector": {"matchExpressions": [{"key": "x", "operator": "NotIn", "values": ["1", "2"]}]}},
                    {"podSelector": {"matchLabels": {"app": "far"}}}],
                 "ports": [{}, {"protocol": "UDP"}, {"protocol": "SCTP", "port": 7},
                    {"port": 80, "endPort": 90}, {"port": "http"}]}],
            "egress": [{"to": [{"podSelector": {}}], "ports": [{"port": "http"}, {"port": 53, "protocol": "UDP"}]}]}),
    );
    let deny = policy(
        "deny",
        json!({"podSelector": {"matchLabels": {"app": "near"}}}),
    );
    let namespaces = HashMap::from([("ns".to_owned(), Labels::from([("a".into(), "b".into())]))]);
    let near = pod("near", &["10.0.0.1", "fd00::1"], true);
    let far = pod("far", &["10.0.0.2", "fd00::2"], false);
    let moved = pod("near", &["10.0.0.3", "fd00::3"], true);
    let make = |policies: &[Arc<Policy>], pods: &[Pod]| plan(policies, pods, &namespaces);
    vec![
        make(
            std::slice::from_ref(&everything),
            &[near.clone(), far.clone()],
        ),
        make(&[everything.clone(), deny.clone()], &[near.clone(), far]),
        make(&[everything, deny.clone()], &[near, moved]),
        make(&[deny], &[pod("near", &["10.0.0.1"], true)]),
        Plan::default(),
    ]
}

#[test]
fn every_form_is_accepted_and_follows_every_other() {
    let thread = std::thread::spawn(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)
            .expect("this test needs root, to make a network namespace");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let plans = plans();
            for family in [Family::V4, Family::V6] {
                let table = render::table(family);
                nft::apply(&nft::reset(table)).await.expect("a table");
                let mut old = Objects::new();
                // There and back again.
                for plan in plans.iter().chain(plans.iter().rev()) {
                    let new = render::objects(family, plan);
                    let script = nft::changes(table, &[&old], &[&new]);
                    nft::apply(&script).await.expect(&script);
                    old = new;
                }
            }
        });
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}
