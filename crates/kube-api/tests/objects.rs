//! Objects as users write them are read as they mean them.

use ambit_kube_api::security::authorization_policy::Action;
use ambit_kube_api::security::peer_authentication::Mode;
use ambit_kube_api::{AuthorizationPolicy, PeerAuthentication};

#[test]
fn a_policy_of_the_walkthrough() {
    let policy: AuthorizationPolicy = serde_saphyr::from_str(
        r#"
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata:
  name: productpage-viewer
  namespace: default
spec:
  selector:
    matchLabels:
      app: productpage
  action: ALLOW
  rules:
  - from:
    - source:
        principals:
        - cluster.local/ns/default/sa/bookinfo-gateway-istio
    to:
    - operation:
        ports: ["9080"]
    when:
    - key: source.ip
      values: ["10.0.0.0/8"]
"#,
    )
    .unwrap();
    assert_eq!(policy.spec.action, Some(Action::Allow));
    let rule = &policy.spec.rules[0];
    let source = rule.from[0].source.as_ref().unwrap();
    assert_eq!(
        source.principals,
        ["cluster.local/ns/default/sa/bookinfo-gateway-istio"]
    );
    assert!(source.unknown.is_empty());
    assert_eq!(rule.to[0].operation.as_ref().unwrap().ports, ["9080"]);
    assert_eq!(rule.when[0].key, "source.ip");
}

#[test]
fn a_policy_without_a_spec_is_an_empty_one() {
    let policy: AuthorizationPolicy = serde_json::from_str(
        r#"{"apiVersion":"security.istio.io/v1","kind":"AuthorizationPolicy","metadata":{"name":"deny-all"}}"#,
    )
    .unwrap();
    assert_eq!(policy.spec, Default::default());
}

#[test]
fn fields_of_a_newer_api_are_kept() {
    let policy: AuthorizationPolicy = serde_json::from_str(
        r#"{"metadata":{"name":"p"},"spec":{"rules":[{"from":[{"source":{"moons":["full"]}}]}]}}"#,
    )
    .unwrap();
    let source = policy.spec.rules[0].from[0].source.as_ref().unwrap();
    assert_eq!(source.unknown.keys().collect::<Vec<_>>(), ["moons"]);
}

#[test]
fn peer_authentication_modes() {
    let object: PeerAuthentication = serde_json::from_str(
        r#"{"metadata":{"name":"p"},"spec":{"mtls":{"mode":"STRICT"},"portLevelMtls":{"8080":{"mode":"DISABLE"}}}}"#,
    )
    .unwrap();
    assert_eq!(object.spec.mtls.unwrap().mode, Some(Mode::Strict));
    assert_eq!(
        object.spec.port_level_mtls["8080"].mode,
        Some(Mode::Disable)
    );
}
