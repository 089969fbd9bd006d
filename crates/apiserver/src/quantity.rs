//! `resource.Quantity`: numbers with decimal or binary suffixes, in their canonical text form.

use serde_json::Value;

/// A parsed quantity: `value` times 10^-9, with the suffix family it was written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Quantity {
    nanos: i128,
    family: Family,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    Decimal,
    Binary,
    Exponent,
}

const BINARY: [(&str, u32); 6] = [
    ("Ki", 10),
    ("Mi", 20),
    ("Gi", 30),
    ("Ti", 40),
    ("Pi", 50),
    ("Ei", 60),
];
const DECIMAL: [(&str, i32); 10] = [
    ("n", -9),
    ("u", -6),
    ("m", -3),
    ("", 0),
    ("k", 3),
    ("M", 6),
    ("G", 9),
    ("T", 12),
    ("P", 15),
    ("E", 18),
];

/// The canonical form: no fraction, the largest suffix that keeps it exact. None if the text is
/// no quantity.
pub fn canonical(text: &str) -> Option<String> {
    Some(write(parse(text)?))
}

/// Whether an amount in an object, text or number, is less than nothing.
pub fn is_negative(amount: &Value) -> bool {
    nanos(amount).is_some_and(|n| n < 0)
}

/// Whether one amount in an object is more than another.
pub fn exceeds(one: &Value, other: &Value) -> bool {
    matches!((nanos(one), nanos(other)), (Some(a), Some(b)) if a > b)
}

fn nanos(amount: &Value) -> Option<i128> {
    match amount {
        Value::String(text) => parse(text),
        other => parse(&other.to_string()),
    }
    .map(|quantity| quantity.nanos)
}

fn parse(text: &str) -> Option<Quantity> {
    let end = text
        .char_indices()
        .find(|(i, c)| !(c.is_ascii_digit() || *c == '.' || (*i == 0 && (*c == '+' || *c == '-'))))
        .map_or(text.len(), |(i, _)| i);
    let (number, suffix) = text.split_at(end);
    let (family, scale) = parse_suffix(suffix)?;
    let negative = number.starts_with('-');
    let digits = number.trim_start_matches(['+', '-']);
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return None;
    }
    let all: i128 = format!("0{whole}{fraction}").parse().ok()?;
    let nanos = scaled(all, fraction.len() as u32, scale)?;
    Some(Quantity {
        nanos: if negative { -nanos } else { nanos },
        family,
    })
}

#[derive(Clone, Copy)]
enum Scale {
    PowerOfTen(i32),
    PowerOfTwo(u32),
}

fn parse_suffix(suffix: &str) -> Option<(Family, Scale)> {
    if let Some((_, bits)) = BINARY.iter().find(|(s, _)| *s == suffix) {
        return Some((Family::Binary, Scale::PowerOfTwo(*bits)));
    }
    if let Some((_, power)) = DECIMAL.iter().find(|(s, _)| *s == suffix) {
        return Some((Family::Decimal, Scale::PowerOfTen(*power)));
    }
    let exponent = suffix.strip_prefix(['e', 'E'])?.parse::<i32>().ok()?;
    (-30..=30)
        .contains(&exponent)
        .then_some((Family::Exponent, Scale::PowerOfTen(exponent)))
}

/// `digits` / 10^`fraction` times the scale, in nanos, rounded up as Kubernetes does.
fn scaled(digits: i128, fraction: u32, scale: Scale) -> Option<i128> {
    let (up, two) = match scale {
        Scale::PowerOfTen(power) => (9 + power - fraction as i32, 0),
        Scale::PowerOfTwo(bits) => (9 - fraction as i32, bits),
    };
    let base = digits.checked_mul(1i128.checked_shl(two)?)?;
    match u32::try_from(up) {
        Ok(up) => base.checked_mul(10i128.checked_pow(up)?),
        Err(_) => {
            let by = 10i128.checked_pow(up.unsigned_abs())?;
            Some((base + by - 1) / by)
        }
    }
}

fn write(q: Quantity) -> String {
    const ONE: i128 = 1_000_000_000;
    if q.nanos == 0 {
        return "0".into();
    }
    let whole = q.nanos % ONE == 0;
    if q.family == Family::Binary && whole && (q.nanos / ONE).abs() >= 1024 {
        let n = q.nanos / ONE;
        let best = BINARY
            .iter()
            .rev()
            .find(|(_, bits)| n % (1i128 << bits) == 0);
        return match best {
            Some((suffix, bits)) => format!("{}{suffix}", n >> bits),
            None => n.to_string(),
        };
    }
    for (suffix, power) in DECIMAL.iter().rev() {
        let unit = 10i128.pow((power + 9) as u32);
        if q.nanos % unit == 0 {
            let n = q.nanos / unit;
            return match (q.family, *power) {
                (Family::Exponent, p) if p != 0 => format!("{n}e{p}"),
                (Family::Binary, p) if p > 0 => (q.nanos / ONE).to_string(),
                _ => format!("{n}{suffix}"),
            };
        }
    }
    q.nanos.to_string() + "n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_forms() {
        for (from, to) in [
            ("0.5", "500m"),
            ("1", "1"),
            ("1000m", "1"),
            ("1024Mi", "1Gi"),
            ("128Mi", "128Mi"),
            ("1000Ki", "1000Ki"),
            ("1500m", "1500m"),
            ("2000", "2k"),
            ("1e3", "1e3"),
            ("0", "0"),
            ("100M", "100M"),
            ("1.5Gi", "1536Mi"),
            ("-1", "-1"),
            ("0.1m", "100u"),
            ("512Ki", "512Ki"),
        ] {
            assert_eq!(canonical(from).as_deref(), Some(to), "{from}");
        }
        assert!(exceeds(&"2".into(), &"1500m".into()) && !exceeds(&"1Ki".into(), &1024.into()));
        assert!(is_negative(&"-1".into()) && !is_negative(&0.into()));
        for bad in ["", "x", "1.2.3", "1Q", "1 Gi", "--1", "1e999999999", "."] {
            assert_eq!(canonical(bad), None, "{bad}");
        }
    }
}
