//! Cron schedules: `minute hour day-of-month month day-of-week`, and the
//! usual shorthands.

use std::time::Duration;

use k8s_openapi::jiff::civil::{Date, time};
use k8s_openapi::jiff::tz::TimeZone;
use k8s_openapi::jiff::{SignedDuration, Timestamp, ToSpan};

/// A schedule that has no time in so many days has none at all: the longest
/// gap is that of a 29th of February around a year without one.
const HORIZON_DAYS: usize = 8 * 366 + 1;

/// A parsed schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Schedule {
    /// At the times that the fields allow.
    Fields(Fields),
    /// `@every`: in equal steps.
    Every(Duration),
}

/// One bit per allowed value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fields {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Whether `days`, and `weekdays`, were left open.
    open: (bool, bool),
}

/// Why a text is no schedule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct ScheduleError(String);

const MONTHS: [&str; 12] = [
    "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

impl Schedule {
    /// Reads a schedule.
    pub(crate) fn parse(text: &str) -> Result<Self, ScheduleError> {
        let text = text.trim();
        let text = match text {
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@monthly" => "0 0 1 * *",
            "@weekly" => "0 0 * * 0",
            "@daily" | "@midnight" => "0 0 * * *",
            "@hourly" => "0 * * * *",
            other => other,
        };
        if let Some(step) = text.strip_prefix("@every ") {
            return every(step).map(Self::Every);
        }
        let fields: Vec<&str> = text.split_whitespace().collect();
        let [minute, hour, day, month, weekday] = fields[..] else {
            let count = fields.len();
            return Err(ScheduleError(format!(
                "expected exactly 5 fields, found {count}: {text:?}"
            )));
        };
        let open = |field: &str| field.starts_with(['*', '?']);
        Ok(Self::Fields(Fields {
            minutes: bits(minute, 0, 59, &[])?,
            hours: bits(hour, 0, 23, &[])?,
            days: bits(day, 1, 31, &[])?,
            months: bits(month, 1, 12, &MONTHS)?,
            weekdays: bits(weekday, 0, 6, &WEEKDAYS)?,
            open: (open(day), open(weekday)),
        }))
    }

    /// The first time after `after`; none if there never is one.
    pub(crate) fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        match self {
            Self::Every(step) => {
                let second = after.as_second() + i64::try_from(step.as_secs()).ok()?;
                Timestamp::from_second(second).ok()
            }
            Self::Fields(fields) => fields.next(after, zone),
        }
    }

    /// The last time in (`after`, `until`], and how many there are; the count
    /// stops at `limit`.
    pub(crate) fn last(
        &self,
        after: Timestamp,
        until: Timestamp,
        zone: &TimeZone,
        limit: usize,
    ) -> (Option<Timestamp>, usize) {
        let (mut last, mut count, mut from) = (None, 0, after);
        while let Some(next) = self.next(from, zone).filter(|next| *next <= until) {
            (last, count, from) = (Some(next), count + 1, next);
            if count >= limit {
                // Too many to visit: begin again shortly before the end.
                let mut span = SignedDuration::from_mins(2);
                while let Ok(near) = until.checked_sub(span) {
                    if near <= from {
                        break;
                    }
                    if let (Some(found), _) = self.last(near, until, zone, usize::MAX) {
                        return (Some(found), count);
                    }
                    span = span.saturating_mul(4);
                }
            }
        }
        (last, count)
    }
}

impl Fields {
    fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let begin = after.to_zoned(zone.clone()).datetime();
        let days = begin.date().series(1.day()).take(HORIZON_DAYS);
        for date in days.filter(|date| self.has_day(*date)) {
            for hour in (0..24).filter(|hour| self.hours & (1 << hour) != 0) {
                for minute in (0..60).filter(|minute| self.minutes & (1 << minute) != 0) {
                    let local = date.to_datetime(time(hour, minute, 0, 0));
                    if local < begin.date().to_datetime(time(begin.hour(), 0, 0, 0)) {
                        continue;
                    }
                    // An hour that the clock skips has no times; one that it
                    // repeats counts once.
                    let ambiguous = zone.to_ambiguous_timestamp(local);
                    if matches!(
                        ambiguous.offset(),
                        k8s_openapi::jiff::tz::AmbiguousOffset::Gap { .. }
                    ) {
                        continue;
                    }
                    let found = ambiguous.earlier().ok()?;
                    if found > after {
                        return Some(found);
                    }
                }
            }
        }
        None
    }

    fn has_day(&self, date: Date) -> bool {
        let bit = |set: u64, value: i8| u32::try_from(value).is_ok_and(|v| set & (1 << v) != 0);
        let day = bit(self.days, date.day());
        let weekday = bit(self.weekdays, date.weekday().to_sunday_zero_offset());
        // Two restrictions on the day are alternatives.
        let fits = match self.open {
            (false, false) => day || weekday,
            _ => day && weekday,
        };
        fits && bit(self.months, date.month())
    }
}

/// `1h30m` and the like, at least a second.
fn every(text: &str) -> Result<Duration, ScheduleError> {
    let duration: Result<SignedDuration, _> = text.trim().parse();
    duration
        .ok()
        .and_then(|duration| Duration::try_from(duration).ok())
        .map(|duration| Duration::from_secs(duration.as_secs().max(1)))
        .ok_or_else(|| ScheduleError(format!("failed to parse duration @every {text}")))
}

/// The values of a field: `*`, `a`, `a-b`, each with `/step`, separated by commas.
fn bits(field: &str, min: u32, max: u32, names: &[&str]) -> Result<u64, ScheduleError> {
    let mut set = 0;
    for part in field.split(',') {
        let wrong = |why: &str| ScheduleError(format!("{why}: {part:?}"));
        let number = |text: &str| -> Result<u32, ScheduleError> {
            let lower = text.to_ascii_lowercase();
            if let Some(index) = names.iter().position(|name| *name == lower) {
                return Ok(min + u32::try_from(index).unwrap_or(0));
            }
            text.parse().map_err(|_| wrong("failed to parse number"))
        };
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => (range, Some(step)),
            None => (part, None),
        };
        let (first, last) = match range.split_once('-') {
            _ if matches!(range, "*" | "?") => (min, max),
            Some((first, last)) => (number(first)?, number(last)?),
            // `a/step` runs to the end of the field.
            None if step.is_some() => (number(range)?, max),
            None => (number(range)?, number(range)?),
        };
        let step = match step {
            Some(step) => step.parse().map_err(|_| wrong("failed to parse number"))?,
            None => 1,
        };
        if first < min || last > max || first > last {
            return Err(wrong(&format!("not in {min}-{max}")));
        }
        if step == 0 {
            return Err(wrong("step of range should be a positive number"));
        }
        for value in (first..=last).step_by(usize::try_from(step).unwrap_or(usize::MAX)) {
            set |= 1u64 << value;
        }
    }
    Ok(set)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(schedule: &str, after: &str) -> String {
        let schedule = Schedule::parse(schedule).unwrap();
        let next = schedule.next(after.parse().unwrap(), &TimeZone::UTC);
        next.map_or_else(|| "never".into(), |next| next.to_string())
    }

    #[test]
    fn the_next_time() {
        let after = "2026-11-26T07:06:30Z";
        for (schedule, expected) in [
            ("* * * * *", "2026-11-26T07:07:00Z"),
            ("*/15 * * * *", "2026-11-26T07:15:00Z"),
            ("6 7 * * *", "2026-11-27T07:06:00Z"),
            ("0 9-17/4 * * *", "2026-11-26T09:00:00Z"),
            ("30/10 * * * *", "2026-11-26T07:30:00Z"),
            ("0 0 1 1 *", "2027-01-01T00:00:00Z"),
            ("0 0 * * MON", "2026-11-30T00:00:00Z"),
            ("0 0 13 * fri", "2026-11-27T00:00:00Z"),
            ("0 0 13 * *", "2026-12-13T00:00:00Z"),
            ("0 0 29 feb ?", "2028-02-29T00:00:00Z"),
            ("0 0 30 2 *", "never"),
            ("@hourly", "2026-11-26T08:00:00Z"),
            ("@weekly", "2026-11-29T00:00:00Z"),
            ("@every 90s", "2026-11-26T07:08:00Z"),
        ] {
            assert_eq!(next(schedule, after), expected, "{schedule}");
        }
    }

    #[test]
    fn what_is_no_schedule() {
        for text in [
            "",
            "* * * *",
            "60 * * * *",
            "* 24 * * *",
            "* * 0 * *",
            "* * * 13 *",
            "* * * * 7",
            "*/0 * * * *",
            "5-1 * * * *",
            "x * * * *",
            "@never",
            "@every soon",
        ] {
            assert!(Schedule::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn clocks_that_jump() {
        // +1 hour from March to October, a rule that needs no time zone files.
        let zone = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        let daily = Schedule::parse("30 2 * * *").unwrap();
        let after = |text: &str| {
            let next = daily.next(text.parse().unwrap(), &zone).unwrap();
            next.to_string()
        };
        assert_eq!(
            after("2026-03-28T12:00:00Z"),
            "2026-03-30T00:30:00Z",
            "02:30 does not exist"
        );
        assert_eq!(after("2026-10-24T12:00:00Z"), "2026-10-25T00:30:00Z");
        assert_eq!(
            after("2026-10-25T00:30:00Z"),
            "2026-10-26T01:30:00Z",
            "the repeated one"
        );
    }

    #[test]
    fn the_last_of_many_times() {
        let minutely = Schedule::parse("* * * * *").unwrap();
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let last = |from: &str, to: &str| minutely.last(at(from), at(to), &TimeZone::UTC, 100);
        let (found, count) = last("2026-01-01T00:00:00Z", "2026-01-01T00:05:30Z");
        assert_eq!((found, count), (Some(at("2026-01-01T00:05:00Z")), 5));
        let (found, count) = last("2026-01-01T00:00:00Z", "2026-02-01T00:00:10Z");
        assert_eq!((found, count), (Some(at("2026-02-01T00:00:00Z")), 100));
        assert_eq!(
            last("2026-01-01T00:00:00Z", "2026-01-01T00:00:59Z"),
            (None, 0)
        );
    }
}
