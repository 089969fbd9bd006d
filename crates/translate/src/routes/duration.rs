//! Durations of the Gateway API (GEP-2257).

use std::time::Duration;

/// Reads `1h30m`, `10s`, `500ms`: up to four numbers of up to five digits, each with a unit.
pub(super) fn parse(text: &str) -> Option<Duration> {
    let (mut rest, mut total, mut parts) = (text, Duration::ZERO, 0);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = rest
            .get(..digits)
            .filter(|d| (1..=5).contains(&d.len()))?
            .parse()
            .ok()?;
        rest = rest.get(digits..)?;
        let units = [("ms", 1), ("h", 3_600_000), ("m", 60_000), ("s", 1000)];
        let (unit, millis) = units.into_iter().find(|(unit, _)| rest.starts_with(unit))?;
        rest = rest.get(unit.len()..)?;
        total += Duration::from_millis(number * millis);
        parts += 1;
    }
    (1..=4).contains(&parts).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_specification_says() {
        let millis = |text| parse(text).map(|d| d.as_millis());
        assert_eq!(millis("1h"), Some(3_600_000));
        assert_eq!(millis("1h30m10s20ms"), Some(5_410_020));
        assert_eq!(millis("0s"), Some(0));
        assert_eq!(millis("500ms"), Some(500));
        for bad in ["", "1", "1.5s", "-1s", "100000s", "1d", "s", "1s1s1s1s1s"] {
            assert_eq!(millis(bad), None, "{bad}");
        }
    }
}
