//! Hours, days, weeks, months and years in a time zone: what a moment falls into.

use jiff::{Timestamp, tz::TimeZone};

/// A stretch of the calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Period {
    /// From full hour to full hour.
    Hour,
    /// From midnight to midnight.
    Day,
    /// From Monday to Sunday (ISO 8601).
    Week,
    /// By the calendar.
    Month,
    /// By the calendar.
    Year,
}

/// The calendar of a time zone.
#[derive(Clone, Debug)]
pub struct Calendar(TimeZone);

impl Calendar {
    /// That of this machine, or of `TZ`.
    pub fn system() -> Self {
        Self(TimeZone::system())
    }

    /// That of a zone by its name: `UTC`, `Europe/Berlin`. `None` if this machine does not know it.
    pub fn named(name: &str) -> Option<Self> {
        TimeZone::get(name).ok().map(Self)
    }

    /// What the zone is called.
    pub fn name(&self) -> String {
        match self.0.iana_name() {
            Some(name) => name.to_owned(),
            None => self.text(0).rsplit(' ').next().unwrap_or("UTC").to_owned(),
        }
    }

    /// The period that the moment falls into: `2025-11-08`, `2025-W45`. An hour that a change of clocks repeats is two.
    pub fn period(&self, ns: i128, period: Period) -> String {
        let form = match period {
            Period::Hour => "%Y-%m-%d %H:00 %z",
            Period::Day => "%Y-%m-%d",
            Period::Week => "%G-W%V",
            Period::Month => "%Y-%m",
            Period::Year => "%Y",
        };
        self.zoned(ns).strftime(form).to_string()
    }

    /// A moment for people: `2025-11-08 03:00:00 +0100`.
    pub fn text(&self, ns: i128) -> String {
        self.zoned(ns).strftime("%Y-%m-%d %H:%M:%S %z").to_string()
    }

    fn zoned(&self, ns: i128) -> jiff::Zoned {
        let edge = if ns < 0 { Timestamp::MIN } else { Timestamp::MAX };
        Timestamp::from_nanosecond(ns).unwrap_or(edge).to_zoned(self.0.clone())
    }
}

/// Reads a length of time: `30d`, `12h`, `2w`, `90m`, `45s`, `0`, or several of them together: `1d12h`. Nanoseconds.
/// A month is 30 days and a year 365 (`6mo`, `2y`).
pub fn parse_span(text: &str) -> Option<i128> {
    const SECOND: i128 = 1_000_000_000;
    if text == "0" {
        return Some(0);
    }
    let (mut total, mut rest) = (0i128, text);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).filter(|n| (1..=9).contains(n))?;
        let (count, tail) = rest.split_at(digits);
        let word = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let secs = match &tail[..word] {
            "s" => 1,
            "m" | "min" => 60,
            "h" => 3600,
            "d" => 86_400,
            "w" => 7 * 86_400,
            "mo" => 30 * 86_400,
            "y" => 365 * 86_400,
            _ => return None,
        };
        total += count.parse::<i128>().ok()? * secs * SECOND;
        rest = &tail[word..];
    }
    (!text.is_empty()).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_falls_into_the_periods_of_its_zone() {
        // 2025-10-26T00:30:00Z and an hour later: both are half past two in Berlin, where the clocks went back.
        let (first, second) = (1_761_438_600_000_000_000, 1_761_442_200_000_000_000);
        let berlin = Calendar::named("Europe/Berlin").unwrap();
        assert_eq!(berlin.name(), "Europe/Berlin");
        assert_eq!(berlin.period(first, Period::Hour), "2025-10-26 02:00 +0200");
        assert_eq!(berlin.period(second, Period::Hour), "2025-10-26 02:00 +0100");
        let late = 1_767_220_200_000_000_000; // 2025-12-31T22:30:00Z
        assert_eq!(berlin.period(late + 3_600_000_000_000, Period::Day), "2026-01-01");
        let utc = Calendar::named("UTC").unwrap();
        let periods = [Period::Day, Period::Week, Period::Month, Period::Year].map(|p| utc.period(late, p));
        assert_eq!(periods, ["2025-12-31", "2026-W01", "2025-12", "2025"]);
        assert!(Calendar::named("Nowhere/Land").is_none());
    }

    #[test]
    fn lengths_of_time_are_read_as_people_write_them() {
        let hours = |text: &str| parse_span(text).map(|ns| ns / 3_600_000_000_000);
        let expected = [("30d", Some(720)), ("1d12h", Some(36)), ("2w", Some(336)), ("1y", Some(8760)), ("0", Some(0)), ("120m", Some(2))];
        for (text, n) in expected {
            assert_eq!(hours(text), n, "{text}");
        }
        for wrong in ["", "30", "d", "3 d", "-1d", "1x", "99999999999d"] {
            assert_eq!(parse_span(wrong), None, "{wrong}");
        }
    }
}
