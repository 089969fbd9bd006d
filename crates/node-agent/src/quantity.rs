//! Kubernetes quantities (`100m`, `512Mi`, `1e3`), as far as a node needs them. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ResourceRequirements;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// A quantity in thousandths; `None` if the text is not one.
pub(crate) fn milli(text: &str) -> Option<i128> {
    let text = text.trim();
    let digits_end = text
        .find(|c: char| !(c.is_ascii_digit() || "+-.".contains(c)))
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits_end);
    // Factor as numerator and denominator, so that nano and micro stay exact until the end.
    let (numerator, denominator): (i128, i128) = match suffix {
        "" => (1000, 1),
        "n" => (1, 1_000_000),
        "u" => (1, 1000),
        "m" => (1, 1),
        "k" => (1_000_000, 1),
        "M" => (1_000_000_000, 1),
        "G" => (1_000_000_000_000, 1),
        "T" => (1_000_000_000_000_000, 1),
        "P" => (1_000_000_000_000_000_000, 1),
        "E" => (1_000_000_000_000_000_000_000, 1),
        "Ki" => (1000 << 10, 1),
        "Mi" => (1000 << 20, 1),
        "Gi" => (1000 << 30, 1),
        "Ti" => (1000 << 40, 1),
        "Pi" => (1000 << 50, 1),
        "Ei" => (1000 << 60, 1),
        exponent => {
            let power: i32 = exponent.strip_prefix(['e', 'E'])?.parse().ok()?;
            if !(-18..=18).contains(&power) {
                return None;
            }
            let scale = 10i128.pow(power.unsigned_abs());
            if power < 0 {
                (1000, scale)
            } else {
                (1000 * scale, 1)
            }
        }
    };
    let negative = number.starts_with('-');
    let (whole, fraction) = number
        .trim_start_matches(['+', '-'])
        .split_once('.')
        .unwrap_or((number.trim_start_matches(['+', '-']), ""));
    if whole.len() + fraction.len() == 0 || whole.len() > 18 || fraction.len() > 9 {
        return None;
    }
    let all: i128 = format!("{whole}{fraction}").parse().ok()?;
    let denominator = denominator.checked_mul(10i128.pow(fraction.len() as u32))?;
    let value = ceiling(all.checked_mul(numerator)?, denominator);
    Some(if negative { -value } else { value })
}

/// Division rounding up, for non-negative numbers.
fn ceiling(numerator: i128, denominator: i128) -> i128 {
    (numerator + denominator - 1) / denominator
}

/// A resource in units of a divisor, rounded up, as `resourceFieldRef` gives it.
pub(crate) fn in_units(quantity: &Quantity, divisor: Option<&Quantity>) -> Option<i128> {
    let divisor = match divisor.map(|q| q.0.as_str()) {
        None | Some("" | "0") => 1000,
        Some(text) => milli(text)?,
    };
    (divisor > 0).then_some(ceiling(milli(&quantity.0)?, divisor))
}

/// The two resources that decide about quality of service.
const QOS_RESOURCES: [&str; 2] = ["cpu", "memory"];

/// Whether limits are set, and requests equal them, for cpu and memory.
pub(crate) fn is_guaranteed(resources: Option<&ResourceRequirements>) -> bool {
    let Some(resources) = resources else {
        return false;
    };
    QOS_RESOURCES.iter().all(|name| {
        let limit = value(resources.limits.as_ref(), name);
        let request = value(resources.requests.as_ref(), name).or(limit);
        limit.is_some_and(|limit| limit > 0) && request == limit
    })
}

/// Whether any cpu or memory is requested or limited.
pub(crate) fn asks_for_something(resources: Option<&ResourceRequirements>) -> bool {
    let Some(resources) = resources else {
        return false;
    };
    QOS_RESOURCES.iter().any(|name| {
        [&resources.limits, &resources.requests]
            .into_iter()
            .any(|map| value(map.as_ref(), name).is_some_and(|v| v > 0))
    })
}

fn value(map: Option<&BTreeMap<String, Quantity>>, name: &str) -> Option<i128> {
    map?.get(name).and_then(|quantity| milli(&quantity.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suffixes() {
        for (text, expected) in [
            ("1", 1000),
            ("100m", 100),
            ("0.5", 500),
            ("512Mi", 512 * 1024 * 1024 * 1000),
            ("1e3", 1_000_000),
            ("2k", 2_000_000),
            ("1n", 1),
            ("-1", -1000),
            ("1.5Gi", 1_610_612_736_000),
        ] {
            assert_eq!(milli(text), Some(expected), "{text}");
        }
        for text in ["", "m", "1x", "1e99", "one", "1.2.3"] {
            assert_eq!(milli(text), None, "{text}");
        }
    }

    #[test]
    fn units_round_up() {
        let q = |text: &str| Quantity(text.to_string());
        assert_eq!(in_units(&q("200m"), None), Some(1));
        assert_eq!(in_units(&q("200m"), Some(&q("1m"))), Some(200));
        assert_eq!(in_units(&q("512Mi"), Some(&q("1Mi"))), Some(512));
        assert_eq!(in_units(&q("3"), Some(&q("0"))), Some(3));
    }

    #[test]
    fn quality_of_service() {
        let resources = |limits: &[(&str, &str)], requests: &[(&str, &str)]| {
            let map = |pairs: &[(&str, &str)]| {
                Some(
                    pairs
                        .iter()
                        .map(|(k, v)| (k.to_string(), Quantity(v.to_string())))
                        .collect(),
                )
            };
            ResourceRequirements {
                limits: map(limits),
                requests: map(requests),
                ..Default::default()
            }
        };
        assert!(is_guaranteed(Some(&resources(
            &[("cpu", "1"), ("memory", "1Gi")],
            &[("cpu", "1000m")]
        ))));
        assert!(!is_guaranteed(Some(&resources(&[("cpu", "1")], &[]))));
        assert!(!is_guaranteed(Some(&resources(
            &[("cpu", "1"), ("memory", "1Gi")],
            &[("cpu", "1m")]
        ))));
        assert!(asks_for_something(Some(&resources(&[], &[("cpu", "1m")]))));
        assert!(!asks_for_something(Some(&resources(
            &[("x.io/gpu", "1")],
            &[]
        ))));
        assert!(!asks_for_something(None));
    }
}
