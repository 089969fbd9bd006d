//! What the status of a policy says: where it is enforced and for how many workloads, or why not.

use ambit_kube_api::status::Condition;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::findings::{Code, Finding, Severity};
use crate::key::ObjectKey;
use crate::policies::{Enforcement, Translation};
use crate::waypoints::Refusal;

/// Condition type of policies that node proxies enforce.
pub const ZTUNNEL_ACCEPTED: &str = "ZtunnelAccepted";
/// Condition type of policies that waypoints enforce.
pub const WAYPOINT_ACCEPTED: &str = "WaypointAccepted";

/// Condition type of services that ask for a waypoint.
pub const WAYPOINT_BOUND: &str = "istio.io/WaypointBound";

/// How many workloads a policy reaches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    /// Workloads that it covers.
    pub covered: usize,
    /// Those of them that are in the mesh, where it is enforced.
    pub enforced: usize,
}

/// The condition of an `AuthorizationPolicy`.
pub fn policy_condition(
    translation: &Translation,
    reach: Reach,
    generation: Option<i64>,
) -> Condition {
    let first = || sentence(&translation.findings);
    let (type_, status, reason, message) = match translation.enforcement {
        Enforcement::AsWritten => (
            ZTUNNEL_ACCEPTED,
            true,
            "Accepted",
            format!("attached to ztunnel; {}", reached(reach)),
        ),
        Enforcement::WithoutHttp { effective } => {
            let reach = if effective {
                format!("; {}", reached(reach))
            } else {
                String::new()
            };
            (
                ZTUNNEL_ACCEPTED,
                true,
                "UnsupportedValue",
                format!("{}{reach}", first()),
            )
        }
        Enforcement::InPart => (
            ZTUNNEL_ACCEPTED,
            false,
            "Invalid",
            format!("{}; {}", first(), reached(reach)),
        ),
        Enforcement::Withheld => (ZTUNNEL_ACCEPTED, false, "UnsupportedValue", first()),
        // Node proxies do not get it; `access_condition` says what waypoints do.
        Enforcement::Waypoint => (ZTUNNEL_ACCEPTED, false, "UnsupportedValue", first()),
    };
    condition(type_, status, reason, message, generation)
}

/// What became of a target of a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetState {
    /// A waypoint, or the waypoints of a class, enforce it: which.
    Bound(String),
    /// The object goes through no waypoint.
    NotBound(String),
    /// There is no such object.
    Missing(String),
    /// It cannot be a target.
    Invalid(String),
}

/// The condition of an `AuthorizationPolicy` that has targets. One that is bound to some of them
/// is accepted, and says which it is not bound to.
pub fn access_condition(
    targets: &[TargetState],
    findings: &[Finding],
    generation: Option<i64>,
) -> Condition {
    let mut bound = Vec::new();
    let mut unbound: Vec<(&str, &str)> = Vec::new();
    for target in targets {
        match target {
            TargetState::Bound(to) => bound.push(to.as_str()),
            TargetState::NotBound(why) => unbound.push(("AncestorNotBound", why)),
            TargetState::Missing(why) => unbound.push(("TargetNotFound", why)),
            TargetState::Invalid(why) => unbound.push(("Invalid", why)),
        }
    }
    let invalid = || {
        unbound
            .iter()
            .map(|(_, why)| *why)
            .collect::<Vec<_>>()
            .join("; ")
    };
    let (good, reason, message) = match (&bound[..], &unbound[..]) {
        ([], [(reason, why)]) => (false, *reason, (*why).to_owned()),
        ([], _) => (
            false,
            "Invalid",
            format!("Invalid targetRefs: {}", invalid()),
        ),
        (bound, []) => (true, "Accepted", format!("bound to {}", bound.join(", "))),
        (bound, _) => (
            true,
            "PartiallyInvalid",
            format!(
                "bound to {}; invalid targetRefs: {}",
                bound.join(", "),
                invalid()
            ),
        ),
    };
    let message = match findings {
        [] => message,
        findings => format!("{message}. {}", sentence(findings)),
    };
    condition(WAYPOINT_ACCEPTED, good, reason, message, generation)
}

/// The condition of an object that asks for a waypoint: bound to this one, or why not.
pub fn bound_condition(binding: &Result<ObjectKey, Refusal>) -> Condition {
    let (good, reason, message) = match binding {
        Ok(gateway) => (
            true,
            "WaypointAccepted",
            format!("Successfully attached to waypoint {gateway}"),
        ),
        Err(refusal) => (false, refusal.reason(), refusal.to_string()),
    };
    condition(WAYPOINT_BOUND, good, reason, message, None)
}

/// The condition of a `PeerAuthentication`.
pub fn peer_condition(findings: &[Finding], reach: Reach, generation: Option<i64>) -> Condition {
    let errors = findings
        .iter()
        .any(|f| f.code.severity() == Severity::Error);
    let shadowed = findings.iter().any(|f| f.code == Code::OlderWins);
    let (status, reason) = match (errors, shadowed) {
        (true, _) => (false, "Invalid"),
        (false, true) => (false, "Conflicted"),
        (false, false) => (true, "Accepted"),
    };
    let message = match findings {
        [] => format!("attached to ztunnel; {}", reached(reach)),
        findings => format!("{}; {}", sentence(findings), reached(reach)),
    };
    condition(ZTUNNEL_ACCEPTED, status, reason, message, generation)
}

/// The condition of an object that could not be read at all.
pub fn unreadable_condition(error: &str, generation: Option<i64>) -> Condition {
    let finding = Finding::new(Code::UnreadableObject, "", error);
    condition(
        ZTUNNEL_ACCEPTED,
        false,
        "Invalid",
        finding.to_string(),
        generation,
    )
}

/// A condition without times; who writes it knows them.
pub(crate) fn condition(
    type_: &str,
    status: bool,
    reason: &str,
    message: impl Into<String>,
    generation: Option<i64>,
) -> Condition {
    Condition {
        type_: Some(type_.to_owned()),
        status: Some(if status { "True" } else { "False" }.to_owned()),
        reason: Some(reason.to_owned()),
        message: Some(message.into()),
        observed_generation: generation.map(|g| match i32::try_from(g) {
            Ok(g) => IntOrString::Int(g),
            Err(_) => IntOrString::String(g.to_string()),
        }),
        last_transition_time: None,
        last_probe_time: None,
    }
}

/// All findings up to three; a message is read by people.
fn sentence(findings: &[Finding]) -> String {
    let mut parts: Vec<String> = findings.iter().take(3).map(ToString::to_string).collect();
    if findings.len() > parts.len() {
        parts.push(format!("and {} more", findings.len() - parts.len()));
    }
    parts.join(". ")
}

fn reached(reach: Reach) -> String {
    let plural = |n: usize| {
        if n == 1 {
            "1 workload".to_owned()
        } else {
            format!("{n} workloads")
        }
    };
    match reach {
        Reach { covered: 0, .. } => {
            "it covers no workload: compare its selector and namespace with the pods".to_owned()
        }
        Reach {
            covered,
            enforced: 0,
        } => format!(
            "it covers {}, none of them in the mesh: label the namespace \
             istio.io/dataplane-mode=ambient",
            plural(covered)
        ),
        Reach { covered, enforced } if covered == enforced => {
            format!("enforced for {}", plural(enforced))
        }
        Reach { covered, enforced } => {
            format!(
                "enforced for {enforced} of the {} that it covers",
                plural(covered)
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::Mesh;
    use crate::policies::{PolicyFacts, translate};
    use serde_json::{Value, json};

    fn of(spec: Value, reach: Reach) -> (String, String, String, String) {
        let object =
            json!({"metadata": {"name": "p", "namespace": "shop", "generation": 3}, "spec": spec});
        let facts = PolicyFacts::of(&serde_json::from_value(object).unwrap());
        let c = policy_condition(
            &translate(&Mesh::default(), &facts),
            reach,
            facts.generation,
        );
        assert_eq!(c.observed_generation, Some(IntOrString::Int(3)));
        (
            c.type_.unwrap(),
            c.status.unwrap(),
            c.reason.unwrap(),
            c.message.unwrap(),
        )
    }

    #[test]
    fn conditions() {
        let some = Reach {
            covered: 3,
            enforced: 2,
        };
        insta::assert_debug_snapshot!([
            of(
                json!({"rules": [{}]}),
                Reach {
                    covered: 1,
                    enforced: 1
                }
            ),
            of(json!({"rules": [{}]}), some),
            of(
                json!({"rules": [{}]}),
                Reach {
                    covered: 2,
                    enforced: 0
                }
            ),
            of(json!({"rules": [{}]}), Reach::default()),
            of(
                json!({"rules": [{"to": [{"operation": {"paths": ["/"]}}]}]}),
                some
            ),
            of(json!({"action": "AUDIT", "rules": [{}]}), some),
            of(
                json!({"rules": [{"from": [{"source": {"principals": ["spiffe://a/ns/b/sa/c"]}}]}]}),
                some
            ),
        ]);
    }
}
