//! Moments as people write them. The home of `jiff`.

use jiff::{Span, Timestamp, ToSpan, Zoned, civil, tz::TimeZone};

fn timestamp(ns: i128) -> Timestamp {
    Timestamp::from_nanosecond(ns).unwrap_or(if ns < 0 { Timestamp::MIN } else { Timestamp::MAX })
}

/// A moment as a file name: `2025-11-08T02-00-00Z`.
pub fn utc_name(ns: i128) -> String {
    timestamp(ns).strftime("%Y-%m-%dT%H-%M-%SZ").to_string()
}

/// A moment for people: `2025-11-08 02:00:00 UTC`.
pub fn utc_text(ns: i128) -> String {
    timestamp(ns).strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// The day of a moment in the local time zone, as [`parse_moment`] reads it: `2025-11-08`.
pub fn day_name(ns: i128) -> String {
    timestamp(ns).to_zoned(TimeZone::system()).strftime("%Y-%m-%d").to_string()
}

/// A moment for people who see no zone beside it, in the local one, as [`parse_moment`] reads it: `2025-11-08 03:00`.
pub fn local_minute(ns: i128) -> String {
    timestamp(ns).to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M").to_string()
}

/// A moment as servers read it: `2025-11-08T02:00:00Z`.
pub fn utc_iso(ns: i128) -> String {
    timestamp(ns).strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// A moment as OpenSSH writes it: `20251108020000Z`.
pub fn utc_stamp(ns: i128) -> String {
    timestamp(ns).strftime("%Y%m%d%H%M%SZ").to_string()
}

/// Reads a moment as servers write it: `2025-11-08T02:00:00.000Z`, or `Sat, 08 Nov 2025 02:00:00 GMT`; in ns since 1970.
pub fn parse_server_time(text: &str) -> Option<i128> {
    let text = text.trim();
    let at = text.parse::<Timestamp>().ok().or_else(|| jiff::fmt::rfc2822::parse(text).ok().map(|zoned| zoned.timestamp()));
    at.map(Timestamp::as_nanosecond)
}

/// The same as [`parse_moment`], but the first nanosecond of the day, minute or second that was named.
pub fn parse_start(text: &str, now_ns: i128) -> Option<i128> {
    parse_in(text, &timestamp(now_ns).to_zoned(TimeZone::system())).map(|(start, _)| start)
}

/// Reads a moment, in the local time zone unless it names one, and returns its last nanosecond: the end of the day,
/// minute or second that was named. `None` if `text` is no moment.
///
/// `2025-11-08`, `20251108`, `2025-11-08T03:00[:00][Z]`, `2025-11-08T02-00-00Z`, `now`, `today`, `yesterday`,
/// `3 days ago` (minutes to years).
pub fn parse_moment(text: &str, now_ns: i128) -> Option<i128> {
    parse_in(text, &timestamp(now_ns).to_zoned(TimeZone::system())).map(|(_, end)| end)
}

/// The first and the last nanosecond of what was named.
fn parse_in(text: &str, now: &Zoned) -> Option<(i128, i128)> {
    let text = text.trim();
    let last_of =
        |start: Zoned, unit: Span| Some((start.timestamp().as_nanosecond(), start.checked_add(unit).ok()?.timestamp().as_nanosecond() - 1));
    let just = |at: Timestamp| Some((at.as_nanosecond(), at.as_nanosecond()));
    let day = |date: civil::Date| last_of(date.to_zoned(now.time_zone().clone()).ok()?, 1.day());
    match text {
        "now" => return just(now.timestamp()),
        "today" => return day(now.date()),
        "yesterday" => return day(now.date().yesterday().ok()?),
        _ => (),
    }
    if let Some(ago) = text.strip_suffix(" ago") {
        let (count, unit) = ago.trim().split_once(' ')?;
        let n: i32 = if matches!(count, "a" | "an") { 1 } else { count.parse().ok().filter(|n| *n >= 0)? };
        // Found by fuzzing: spans that are longer than all of time panic, unless they are tried.
        let span = Span::new();
        let (span, whole_days) = match unit.trim().trim_end_matches('s') {
            "second" => (span.try_seconds(n), false),
            "minute" => (span.try_minutes(n), false),
            "hour" => (span.try_hours(n), false),
            "day" => (span.try_days(n), true),
            "week" => (span.try_weeks(n), true),
            "month" => (span.try_months(n), true),
            "year" => (span.try_years(n), true),
            _ => return None,
        };
        let then = now.checked_sub(span.ok()?).ok()?;
        return if whole_days { day(then.date()) } else { just(then.timestamp()) };
    }
    for form in ["%Y-%m-%d", "%Y%m%d"] {
        if let Ok(date) = civil::Date::strptime(form, text) {
            return day(date);
        }
    }
    let (body, utc) = match text.strip_suffix(['Z', 'z']) {
        Some(body) => (body, true),
        None => (text, false),
    };
    let zone = if utc { TimeZone::UTC } else { now.time_zone().clone() };
    let forms = [
        ("%Y-%m-%dT%H:%M:%S", 1.second()),
        ("%Y-%m-%dT%H-%M-%S", 1.second()),
        ("%Y-%m-%d %H:%M:%S", 1.second()),
        ("%Y-%m-%dT%H:%M", 1.minute()),
        ("%Y-%m-%d %H:%M", 1.minute()),
    ];
    for (form, unit) in forms {
        if let Ok(at) = civil::DateTime::strptime(form, body) {
            return last_of(at.to_zoned(zone).ok()?, unit);
        }
    }
    just(text.parse::<Timestamp>().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_write_moments_in_two_ways() {
        let at = Some(1_762_567_200_000_000_000);
        assert_eq!(parse_server_time("2025-11-08T02:00:00.000Z"), at);
        assert_eq!(parse_server_time("Sat, 08 Nov 2025 02:00:00 GMT"), at);
        assert_eq!(parse_server_time("yesterday"), None);
    }

    #[test]
    fn moments_are_read_as_people_mean_them() {
        let now: Zoned = "2025-11-09T12:00:00[Europe/Berlin]".parse().unwrap();
        let utc = |text: &str| parse_in(text, &now).map(|(_, ns)| timestamp(ns).strftime("%Y-%m-%dT%H:%M:%S").to_string());
        let expected = [
            ("2025-11-08", Some("2025-11-08T22:59:59")), // the end of that day in Berlin
            ("20251108", Some("2025-11-08T22:59:59")),
            ("yesterday", Some("2025-11-08T22:59:59")),
            ("10701073 days ago", None),
            ("2000000000 weeks ago", None),
            ("2000000000 years ago", None),
            ("1 day ago", Some("2025-11-08T22:59:59")),
            ("2025-11-08T03:00", Some("2025-11-08T02:00:59")),
            ("2025-11-08T02:00:00Z", Some("2025-11-08T02:00:00")),
            ("2025-11-08T02-00-00Z", Some("2025-11-08T02:00:00")),
            ("90 minutes ago", Some("2025-11-09T09:30:00")),
            ("1a2b3c4d", None),
            ("latest", None),
            ("-3 days ago", None),
        ];
        for (text, moment) in expected {
            assert_eq!(utc(text).as_deref(), moment, "{text}");
        }
        assert_eq!(utc_name(0), "1970-01-01T00-00-00Z");
        let start = |text: &str| parse_in(text, &now).map(|(ns, _)| utc_stamp(ns));
        for (text, moment) in
            [("2025-11-08", "20251107230000Z"), ("2025-11-08T03:00", "20251108020000Z"), ("1 hour ago", "20251109100000Z")]
        {
            assert_eq!(start(text).as_deref(), Some(moment), "{text}");
        }
    }
}
