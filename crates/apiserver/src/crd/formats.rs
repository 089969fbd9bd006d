//! The formats of strings that the API server checks. Others mean nothing.

use regex::Regex;
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::LazyLock,
};

fn regex(pattern: &str) -> Option<Regex> {
    // A pattern of this file that does not compile would let everything pass: a test tries all.
    Regex::new(pattern).ok()
}

macro_rules! matches {
    ($pattern:expr, $text:expr) => {{
        static PATTERN: LazyLock<Option<Regex>> = LazyLock::new(|| regex($pattern));
        PATTERN.as_ref().is_some_and(|p| p.is_match($text))
    }};
}

/// Whether a text has a format.
pub fn fits(format: &str, text: &str) -> bool {
    match format.replace('-', "").as_str() {
        "datetime" => text.parse::<jiff::Timestamp>().is_ok(),
        "date" => text.len() == 10 && text.parse::<jiff::civil::Date>().is_ok(),
        "duration" => duration(text),
        "ipv4" => text.parse::<Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<Ipv6Addr>().is_ok(),
        "cidr" => cidr(text),
        "mac" => {
            matches!(
                r"^([0-9A-Fa-f]{2}([:-][0-9A-Fa-f]{2}){5}|[0-9A-Fa-f]{4}(\.[0-9A-Fa-f]{4}){2})$",
                text
            )
        }
        "uri" => text.starts_with('/') || url::Url::parse(text).is_ok(),
        "hostname" => hostname(text),
        "email" => matches!(r"^[^@\s]+@[^@\s]+$", text),
        "byte" => base64(text),
        "uuid" => {
            matches!(
                r"(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}$",
                text
            )
        }
        "uuid3" => {
            matches!(
                r"(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?3[0-9a-f]{3}-?[0-9a-f]{4}-?[0-9a-f]{12}$",
                text
            )
        }
        "uuid4" => {
            matches!(
                r"(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?4[0-9a-f]{3}-?[89ab][0-9a-f]{3}-?[0-9a-f]{12}$",
                text
            )
        }
        "uuid5" => {
            matches!(
                r"(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?5[0-9a-f]{3}-?[89ab][0-9a-f]{3}-?[0-9a-f]{12}$",
                text
            )
        }
        "hexcolor" => matches!(r"^#?([0-9a-fA-F]{3}|[0-9a-fA-F]{6})$", text),
        "ssn" => matches!(r"^\d{3}[- ]?\d{2}[- ]?\d{4}$", text),
        "bsonobjectid" => matches!(r"^[0-9a-fA-F]{24}$", text),
        "k8sshortname" => text.len() <= 63 && matches!(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", text),
        "k8slongname" => {
            text.len() <= 253
                && matches!(
                    r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$",
                    text
                )
        }
        _ => true,
    }
}

fn cidr(text: &str) -> bool {
    let Some((address, bits)) = text.split_once('/') else {
        return false;
    };
    let limit = match address.parse::<IpAddr>() {
        Ok(IpAddr::V4(_)) => 32,
        Ok(IpAddr::V6(_)) => 128,
        Err(_) => return false,
    };
    bits.parse::<u8>().is_ok_and(|bits| bits <= limit)
}

fn hostname(text: &str) -> bool {
    let label = |l: &str| {
        (1..=63).contains(&l.len())
            && l.starts_with(char::is_alphanumeric)
            && l.ends_with(char::is_alphanumeric)
            && l.chars().all(|c| c.is_alphanumeric() || c == '-')
    };
    text.len() <= 255 && text.strip_suffix('.').unwrap_or(text).split('.').all(label)
}

fn base64(text: &str) -> bool {
    use base64::{Engine, engine::general_purpose::STANDARD};
    !text.is_empty() && STANDARD.decode(text).is_ok()
}

/// Go's form (`1h30m`), or numbers with units in words (`2 days`).
fn duration(text: &str) -> bool {
    text == "0"
        || matches!(
            r"^[-+]?(\d+(\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h)((\d+(\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h))*$",
            text
        )
        || matches!(
            r"(?i)\d+\s*(ns|nano|us|µs|micro|ms|milli|s|sec|m|min|h|hr|hour|d|day|w|wk|week)[A-Za-zµ]*",
            text
        )
}

#[cfg(test)]
mod tests {
    use super::fits;

    #[test]
    fn each_format_accepts_and_refuses() {
        for (format, good, bad) in [
            ("date-time", "2024-01-02T03:04:05Z", "2024-01-02"),
            ("date", "2024-01-02", "2024-13-02"),
            ("duration", "1h30m", "soon"),
            ("duration", "22 ns", "h"),
            ("ipv4", "10.0.0.1", "10.0.0"),
            ("ipv6", "::1", "10.0.0.1"),
            ("cidr", "10.0.0.0/8", "10.0.0.0/33"),
            ("mac", "00:11:22:33:44:55", "00:11"),
            ("uri", "https://a.b/c", "a b"),
            ("hostname", "a-b.example", "a_b"),
            ("email", "a@b", "a"),
            ("byte", "aGk=", "?"),
            ("uuid", "123e4567-e89b-12d3-a456-426614174000", "123"),
            (
                "uuid3",
                "123e4567-e89b-32d3-a456-426614174000",
                "123e4567-e89b-42d3-a456-426614174000",
            ),
            (
                "uuid4",
                "123e4567-e89b-42d3-a456-426614174000",
                "123e4567-e89b-52d3-a456-426614174000",
            ),
            (
                "uuid5",
                "123e4567-e89b-52d3-a456-426614174000",
                "123e4567-e89b-42d3-a456-426614174000",
            ),
            ("hexcolor", "#ffffff", "#ff"),
            ("ssn", "123-45-6789", "12-3"),
            ("bsonobjectid", "507f1f77bcf86cd799439011", "507f"),
            ("k8s-short-name", "a-b", "a.b"),
            ("k8s-long-name", "a.b", "A"),
        ] {
            assert!(fits(format, good), "{format} {good}");
            assert!(!fits(format, bad), "{format} {bad}");
        }
        assert!(fits("unheard-of", "anything"));
    }
}
