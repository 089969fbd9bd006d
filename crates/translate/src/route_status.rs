//! What the status of a route says about each of its parents.

use ambit_kube_api::gateway_api::GATEWAY_CONTROLLER;
use ambit_kube_api::gateway_api::route_status::RouteParentStatus;
use ambit_kube_api::status::Condition;

use crate::key::ObjectKey;
use crate::routes::{RouteFacts, Translation};
use crate::status::condition;

/// What is known about a parent of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParentState {
    /// There is no such service.
    Missing,
    /// Nothing asks for a waypoint: nobody looks into its traffic.
    NoWaypoint,
    /// Its traffic goes through a waypoint.
    Waypoint,
}

/// The entries for the parents of a route that are services.
pub fn route_parents(
    facts: &RouteFacts,
    translation: &Translation,
    state: impl Fn(&ObjectKey) -> ParentState,
) -> Vec<RouteParentStatus> {
    let services = translation.parents.len();
    let entry = |(parent_ref, service): &(_, ObjectKey)| RouteParentStatus {
        parent_ref: Clone::clone(parent_ref),
        controller_name: GATEWAY_CONTROLLER.to_owned(),
        conditions: vec![
            accepted(facts, service, state(service), services),
            resolved(facts, translation),
            waypoints(facts, service, state(service)),
        ],
    };
    translation.parents.iter().map(entry).collect()
}

fn accepted(
    facts: &RouteFacts,
    service: &ObjectKey,
    state: ParentState,
    count: usize,
) -> Condition {
    let (good, reason, message) = match state {
        ParentState::Missing => (
            false,
            "NoMatchingParent",
            format!("parent service {service} not found"),
        ),
        _ if count > 1 => (
            true,
            "Accepted",
            format!("Route was valid, bound to {count} parents"),
        ),
        _ => (true, "Accepted", "Route was valid".to_owned()),
    };
    condition("Accepted", good, reason, message, facts.generation)
}

fn resolved(facts: &RouteFacts, translation: &Translation) -> Condition {
    let (good, reason, message) = match &translation.unresolved[..] {
        [] => (true, "ResolvedRefs", "All references resolved".to_owned()),
        [first, more @ ..] => {
            let more = match more.len() {
                0 => String::new(),
                n => format!(" (and {n} more)"),
            };
            (false, first.reason, format!("{}{more}", first.message))
        }
    };
    condition("ResolvedRefs", good, reason, message, facts.generation)
}

/// Always true, as in Istio; the message tells what it means.
fn waypoints(facts: &RouteFacts, service: &ObjectKey, state: ParentState) -> Condition {
    let message = match state {
        ParentState::Missing => format!("parent service {service} not found"),
        _ if service.namespace != facts.key.namespace => format!(
            "the route has no effect: it must be in the namespace of the service, {}",
            service.namespace
        ),
        ParentState::NoWaypoint => format!(
            "istio.io/use-waypoint label missing from parent service {service} and its namespace; \
             route will not be respected"
        ),
        ParentState::Waypoint => "All waypoints resolved".to_owned(),
    };
    let type_ = "ResolvedWaypoints";
    condition(type_, true, type_, message, facts.generation)
}
