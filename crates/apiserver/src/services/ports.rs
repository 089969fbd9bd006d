//! Ports that services have on every node.

use super::Claim;
use crate::{
    object,
    status::{ApiError, Result},
};
use serde_json::{Value, json};

/// Range of node ports, as in Kubernetes.
const RANGE: std::ops::RangeInclusive<u16> = 30000..=32767;

/// Fills in the ports that the service needs.
pub(super) fn fill(claim: &mut Claim<'_>, value: &mut Value, before: Option<&Value>) -> Result<()> {
    let kind = object::text(value, "/spec/type").to_string();
    let without = kind == "LoadBalancer"
        && value.pointer("/spec/allocateLoadBalancerNodePorts") == Some(&Value::Bool(false));
    if matches!(kind.as_str(), "NodePort" | "LoadBalancer") && !without {
        node_ports(claim, value, before)?;
    }
    health_check(claim, value, before, &kind)
}

fn node_ports(claim: &mut Claim<'_>, value: &mut Value, before: Option<&Value>) -> Result<()> {
    let old = before
        .and_then(|b| b.pointer("/spec/ports"))
        .and_then(Value::as_array)
        .cloned();
    let Some(ports) = value
        .pointer_mut("/spec/ports")
        .and_then(Value::as_array_mut)
    else {
        return Ok(());
    };
    for (i, port) in ports.iter_mut().enumerate() {
        let same = |o: &&Value| {
            o.get("port") == port.get("port") && o.get("protocol") == port.get("protocol")
        };
        let kept = old
            .iter()
            .flatten()
            .find(same)
            .and_then(|o| o.get("nodePort"));
        let wanted = port
            .get("nodePort")
            .filter(|p| **p != json!(0))
            .or(kept)
            .cloned();
        let number = claim.port(&format!("spec.ports[{i}].nodePort"), wanted)?;
        if let Some(map) = port.as_object_mut() {
            map.insert("nodePort".into(), number.into());
        }
    }
    Ok(())
}

/// By this port an outer load balancer finds the nodes with endpoints.
fn health_check(
    claim: &mut Claim<'_>,
    value: &mut Value,
    before: Option<&Value>,
    kind: &str,
) -> Result<()> {
    let wanted =
        kind == "LoadBalancer" && object::text(value, "/spec/externalTrafficPolicy") == "Local";
    let given = |value: &Value| {
        let port = value.pointer("/spec/healthCheckNodePort");
        port.filter(|port| **port != json!(0)).cloned()
    };
    let port = given(value).or_else(|| before.and_then(given));
    let number = match wanted {
        true => Some(claim.port("spec.healthCheckNodePort", port)?),
        false => None,
    };
    if let Some(spec) = object::child(value, "spec") {
        match number {
            Some(number) => spec.insert("healthCheckNodePort".into(), number.into()),
            None => spec.shift_remove("healthCheckNodePort"),
        };
    }
    Ok(())
}

impl Claim<'_> {
    /// Takes the port that is wanted, or any.
    fn port(&mut self, field: &str, wanted: Option<Value>) -> Result<u16> {
        let Some(wanted) = wanted else {
            let free =
                |port: &u16| !self.taken.ports.contains(port) && !self.new.ports.contains(port);
            let free = RANGE.clone().find(free);
            let free = free.ok_or_else(|| ApiError::internal("all node ports are taken"))?;
            self.new.ports.insert(free);
            return Ok(free);
        };
        let number = wanted.as_u64().and_then(|n| u16::try_from(n).ok());
        let Some(number) = number.filter(|n| RANGE.contains(n)) else {
            let why =
                "provided port is not in the valid range. The range of valid ports is 30000-32767";
            return Err(self.refuse(field, &wanted, why));
        };
        if !self.owned.ports.contains(&number) {
            if self.taken.ports.contains(&number) || self.new.ports.contains(&number) {
                let why = "provided port is already allocated";
                return Err(self.refuse(field, &wanted, why));
            }
            self.new.ports.insert(number);
        }
        Ok(number)
    }
}
