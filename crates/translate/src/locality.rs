//! `localityLbSetting` → [`LocalityRule`].

use ambit_kube_api::networking::destination_rule::{Distribute, LocalityLbSetting};
use ambit_model::balance::locality::{LocalityKind, LocalityRule, Place, Scope, Share};

/// What place means: shares, or, where endpoints that fail are left out, what is near. As in Istio,
/// nothing fails over that nobody watches.
///
/// `found` gets what has no effect, by its field.
pub(crate) fn rule(
    api: &LocalityLbSetting,
    of_mesh: bool,
    watched: bool,
    found: &mut dyn FnMut(&str, String),
) -> Option<LocalityRule> {
    if api.enabled == Some(false) {
        return None;
    }
    let kind = if !api.distribute.is_empty() {
        LocalityKind::Distribute(api.distribute.iter().map(share).collect())
    } else if !watched {
        if !api.failover.is_empty() || !api.failover_priority.is_empty() {
            let message = "it has no effect without outlierDetection".to_owned();
            found("", message);
        }
        return None;
    } else if !api.failover_priority.is_empty() {
        LocalityKind::Priority(scopes(&api.failover_priority, found)?)
    } else {
        let regions = api.failover.iter();
        LocalityKind::Failover(
            regions
                .map(|f| (f.from.as_str().into(), f.to.as_str().into()))
                .collect(),
        )
    };
    Some(LocalityRule { kind, of_mesh })
}

fn share(api: &Distribute) -> Share {
    let to = api.to.iter();
    Share {
        from: Place::parse(&api.from),
        to: to
            .map(|(place, share)| (Place::parse(place), share.0))
            .collect(),
    }
}

/// Labels of places. Those of workloads are not known to a waypoint: the list ends before one.
fn scopes(labels: &[String], found: &mut dyn FnMut(&str, String)) -> Option<Vec<Scope>> {
    let mut scopes = Vec::new();
    for label in labels {
        let scope = match label.as_str() {
            "topology.istio.io/network" => Scope::Network,
            "topology.kubernetes.io/region" => Scope::Region,
            "topology.kubernetes.io/zone" => Scope::Zone,
            "topology.istio.io/subzone" => Scope::Subzone,
            other => {
                let message = format!(
                    "{other} is no label of a place: it, and what stands behind it, has no effect"
                );
                found(".failoverPriority", message);
                break;
            }
        };
        scopes.push(scope);
    }
    (!scopes.is_empty()).then_some(scopes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn read(api: Value, watched: bool) -> (Option<LocalityKind>, usize) {
        let api: LocalityLbSetting = serde_json::from_value(api).unwrap();
        let mut findings = 0;
        let rule = rule(&api, false, watched, &mut |_, _| findings += 1);
        (rule.map(|rule| rule.kind), findings)
    }

    #[test]
    fn what_people_write() {
        let failover = json!({"failover": [{"from": "eu", "to": "us"}]});
        let wanted = LocalityKind::Failover(vec![("eu".into(), "us".into())]);
        assert_eq!(read(failover.clone(), true), (Some(wanted), 0));
        assert_eq!(read(failover, false), (None, 1));
        let nothing = LocalityKind::Failover(Vec::new());
        assert_eq!(read(json!({}), true), (Some(nothing), 0));
        assert_eq!(read(json!({}), false), (None, 0));
        assert_eq!(read(json!({"enabled": false}), true), (None, 0));
        let priority = json!({"failoverPriority": [
            "topology.kubernetes.io/region", "version", "topology.kubernetes.io/zone",
        ]});
        let wanted = LocalityKind::Priority(vec![Scope::Region]);
        assert_eq!(read(priority, true), (Some(wanted), 1));
        let distribute = json!({"distribute": [{"from": "eu/*", "to": {"eu/*": 80, "us/*": 20}}]});
        let wanted = LocalityKind::Distribute(vec![Share {
            from: Place::parse("eu"),
            to: vec![(Place::parse("eu"), 80), (Place::parse("us"), 20)],
        }]);
        assert_eq!(read(distribute, false), (Some(wanted), 0));
    }
}
