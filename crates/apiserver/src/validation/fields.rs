//! Rules that many kinds share: numbers, choices, ports, addresses, shares.

use super::meta;
use crate::{object, status::Cause};
use ipnet::IpNet;
use serde_json::Value;
use std::net::IpAddr;

/// The items of a list, none when it is missing.
pub fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    let items = value.get(key).and_then(Value::as_array);
    items.map(Vec::as_slice).unwrap_or_default()
}

/// A field of text with few values; missing is fine, as it was defaulted before.
pub fn one_of(map: &Value, key: &str, path: &str, allowed: &[&str], causes: &mut Vec<Cause>) {
    if let Some(value) = map.get(key)
        && !value.as_str().is_some_and(|v| allowed.contains(&v))
    {
        let field = format!("{path}.{key}");
        causes.push(Cause::not_supported(field, value, allowed));
    }
}

/// Numbers that count something.
pub fn non_negative(map: &Value, keys: &[&str], path: &str, causes: &mut Vec<Cause>) {
    for key in keys {
        if let Some(n) = map.get(*key).and_then(Value::as_i64).filter(|n| *n < 0) {
            let why = "must be greater than or equal to 0";
            causes.push(Cause::invalid(format!("{path}.{key}"), &n.into(), why));
        }
    }
}

/// A number from `least` to `most`.
pub fn within(value: &Value, least: i64, most: i64, path: &str, causes: &mut Vec<Cause>) {
    if let Some(n) = value.as_i64().filter(|n| *n < least || *n > most) {
        let why = format!("must be between {least} and {most}, inclusive");
        causes.push(Cause::invalid(path, &n.into(), &why));
    }
}

/// A port number of 1 to 65535.
pub fn port_number(port: Option<&Value>, path: &str, causes: &mut Vec<Cause>) {
    within(port.unwrap_or(&Value::from(0)), 1, 65535, path, causes);
}

/// TCP, UDP or SCTP.
pub fn protocol(port: &Value, path: &str, causes: &mut Vec<Cause>) {
    one_of(port, "protocol", path, &["SCTP", "TCP", "UDP"], causes);
}

/// A port by number or by the name that a container gave it.
pub fn port_reference(port: Option<&Value>, path: &str, causes: &mut Vec<Cause>) {
    match port {
        Some(Value::String(name)) => port_name(name, path, causes),
        other => port_number(other, path, causes),
    }
}

/// The name of a port: every rule that it breaks.
pub fn port_name(name: &str, path: &str, causes: &mut Vec<Cause>) {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let mut wrong = Vec::new();
    if name.len() > 15 {
        wrong.push("must be no more than 15 characters");
    }
    if !name.chars().all(inner) {
        wrong.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)");
    }
    if !name.contains(|c: char| c.is_ascii_lowercase()) {
        wrong.push("must contain at least one letter (a-z)");
    }
    if name.contains("--") {
        wrong.push("must not contain consecutive hyphens");
    }
    if name.starts_with('-') || name.ends_with('-') {
        wrong.push("must not begin or end with a hyphen");
    }
    for why in wrong {
        causes.push(Cause::invalid(path, &name.into(), why));
    }
}

/// A name that is a label of DNS.
pub fn label_name(name: &str, path: &str, causes: &mut Vec<Cause>) {
    if name.is_empty() {
        causes.push(Cause::required(path, ""));
    } else if let Some(why) = meta::dns_label(name, false) {
        causes.push(Cause::invalid(path, &name.into(), why));
    }
}

/// An address, IPv4 or IPv6.
pub fn address(text: &str, path: &str, causes: &mut Vec<Cause>) {
    if text.parse::<IpAddr>().is_err() {
        let why = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
        causes.push(Cause::invalid(path, &text.into(), why));
    }
}

/// A range of addresses.
pub fn range(text: &str, path: &str, causes: &mut Vec<Cause>) {
    if text.parse::<IpNet>().is_err() {
        let why = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
        causes.push(Cause::invalid(path, &text.into(), why));
    }
}

/// A number or a share such as `25%`, at most 100%; nothing when it is missing.
pub fn share(value: Option<&Value>, path: &str, causes: &mut Vec<Cause>) {
    number_or_share(value, path, causes);
    if let Some(text) = value.and_then(Value::as_str)
        && percent(text).is_some_and(|n| n > 100)
    {
        let why = "must not be greater than 100%";
        causes.push(Cause::invalid(path, &text.into(), why));
    }
}

/// A number or a share such as `125%`; nothing when it is missing.
pub fn number_or_share(value: Option<&Value>, path: &str, causes: &mut Vec<Cause>) {
    match value {
        Some(Value::String(text)) if percent(text).is_none() => {
            let why = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')";
            causes.push(Cause::invalid(path, &text.as_str().into(), why));
        }
        Some(number) if number.as_i64().is_some_and(|n| n < 0) => {
            let why = "must be greater than or equal to 0";
            causes.push(Cause::invalid(path, number, why));
        }
        _ => {}
    }
}

/// Whether a number or share is there and is none at all.
pub fn is_zero(value: Option<&Value>) -> bool {
    match value {
        Some(Value::String(text)) => percent(text) == Some(0),
        Some(number) => number.as_i64() == Some(0),
        None => false,
    }
}

fn percent(text: &str) -> Option<u32> {
    let digits = text.strip_suffix('%')?;
    let numeric = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    numeric.then(|| digits.parse().unwrap_or(u32::MAX))
}

/// The keys and operators of a `metav1.LabelSelector`.
pub fn selector(selector: Option<&Value>, path: &str, causes: &mut Vec<Cause>) {
    let Some(selector) = selector else { return };
    meta::labels_of(
        selector.get("matchLabels"),
        &format!("{path}.matchLabels"),
        causes,
    );
    for (i, expression) in list(selector, "matchExpressions").iter().enumerate() {
        let path = format!("{path}.matchExpressions[{i}]");
        let values = list(expression, "values");
        let field = format!("{path}.values");
        match object::text(expression, "/operator") {
            "In" | "NotIn" if values.is_empty() => {
                let hint = "must be specified when `operator` is 'In' or 'NotIn'";
                causes.push(Cause::required(field, hint));
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                let why = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                causes.push(Cause::forbidden(field, why));
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => {
                let why = "not a valid selector operator";
                causes.push(Cause::invalid(
                    format!("{path}.operator"),
                    &other.into(),
                    why,
                ));
            }
        }
        meta::label_name(
            object::text(expression, "/key"),
            &format!("{path}.key"),
            causes,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn found(check: impl FnOnce(&mut Vec<Cause>)) -> Vec<String> {
        let mut causes = Vec::new();
        check(&mut causes);
        causes.into_iter().map(|c| c.message).collect()
    }

    #[test]
    fn shares() {
        for good in [json!(0), json!("0%"), json!("100%"), json!(7)] {
            assert!(found(|c| share(Some(&good), "x", c)).is_empty(), "{good}");
        }
        for bad in [
            json!(-1),
            json!("7"),
            json!("%"),
            json!("101%"),
            json!("x%"),
        ] {
            assert_eq!(found(|c| share(Some(&bad), "x", c)).len(), 1, "{bad}");
        }
    }

    #[test]
    fn names_of_ports_break_several_rules_at_once() {
        assert!(found(|c| port_name("http-2", "x", c)).is_empty());
        assert_eq!(found(|c| port_name("--9", "x", c)).len(), 3);
        assert_eq!(
            found(|c| port_name("much-too-long-for-a-port", "x", c)).len(),
            1
        );
    }
}
