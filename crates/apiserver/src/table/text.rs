//! Texts of cells.

use crate::object;
use serde_json::Value;

/// How long ago a time was, as kubectl writes it; `<unknown>` without a time.
pub fn age(time: &str) -> String {
    match time.parse::<jiff::Timestamp>() {
        Ok(then) => duration(jiff::Timestamp::now().as_second() - then.as_second()),
        Err(_) => "<unknown>".into(),
    }
}

/// Seconds in at most two units: `5s`, `3m20s`, `2d4h`, `3y10d`.
pub fn duration(seconds: i64) -> String {
    const MINUTE: i64 = 60;
    const HOUR: i64 = 60 * MINUTE;
    const DAY: i64 = 24 * HOUR;
    const YEAR: i64 = 365 * DAY;
    let two = |big: i64, unit: char, small: i64, small_unit: char| match small {
        0 => format!("{big}{unit}"),
        small => format!("{big}{unit}{small}{small_unit}"),
    };
    match seconds {
        // A clock that is a little ahead is no error.
        s if s < -1 => "<invalid>".into(),
        s if s < 0 => "0s".into(),
        s if s < 2 * MINUTE => format!("{s}s"),
        s if s < 10 * MINUTE => two(s / MINUTE, 'm', s % MINUTE, 's'),
        s if s < 3 * HOUR => format!("{}m", s / MINUTE),
        s if s < 8 * HOUR => two(s / HOUR, 'h', s % HOUR / MINUTE, 'm'),
        s if s < 2 * DAY => format!("{}h", s / HOUR),
        s if s < 8 * DAY => two(s / DAY, 'd', s % DAY / HOUR, 'h'),
        s if s < 2 * YEAR => format!("{}d", s / DAY),
        s if s < 8 * YEAR => two(s / YEAR, 'y', s % YEAR / DAY, 'd'),
        s => format!("{}y", s / YEAR),
    }
}

/// The text, or `<none>`.
pub fn or_none(text: &str) -> String {
    if text.is_empty() {
        "<none>".into()
    } else {
        text.into()
    }
}

/// The number at a JSON pointer, or 0.
pub fn number(value: &Value, pointer: &str) -> i64 {
    value.pointer(pointer).and_then(Value::as_i64).unwrap_or(0)
}

/// The list at a JSON pointer.
pub fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value
        .pointer(pointer)
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default()
}

/// Texts joined by commas, or `<none>`.
pub fn joined<'a>(texts: impl IntoIterator<Item = &'a str>) -> String {
    or_none(&texts.into_iter().collect::<Vec<_>>().join(","))
}

/// A map as `a=b,c=d`, or `<none>`.
pub fn labels(value: Option<&Value>) -> String {
    let map = value.and_then(Value::as_object);
    let mut parts: Vec<String> = map
        .into_iter()
        .flatten()
        .map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default()))
        .collect();
    parts.sort();
    or_none(&parts.join(","))
}

/// A label selector object as text, or `<none>`.
pub fn selector(value: &Value, pointer: &str) -> String {
    or_none(&crate::selectors::to_text(
        value.pointer(pointer).unwrap_or(&Value::Null),
    ))
}

/// The status of a condition, or "".
pub fn condition<'a>(value: &'a Value, kind: &str) -> &'a str {
    list(value, "/status/conditions")
        .iter()
        .find(|c| object::text(c, "/type") == kind)
        .map(|c| object::text(c, "/status"))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (s, text) in [
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (125, "2m5s"),
            (600, "10m"),
            (3 * 3600, "3h"),
            (3 * 3600 + 120, "3h2m"),
            (8 * 3600 + 60, "8h"),
            (47 * 3600, "47h"),
            (2 * 86400, "2d"),
            (2 * 86400 + 3600, "2d1h"),
            (8 * 86400 + 3600, "8d"),
            (800 * 86400, "2y70d"),
            (-5, "<invalid>"),
        ] {
            assert_eq!(duration(s), text);
        }
    }
}
