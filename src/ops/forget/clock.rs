//! Whether this machine's clock can be right: measured by the newest receipts. Pure.

use crate::{error::Error, format::SnapshotKey, ops::forget::policy::Judged, sys};

const HOUR_NS: i128 = 3_600_000_000_000;
/// How far behind the newest receipt the clock may be: different clocks, and no more.
const BEHIND_NS: i128 = HOUR_NS;
/// How far ahead of it: a vault that is sealed into every week, and a day late.
const AHEAD_NS: i128 = 8 * 24 * HOUR_NS;

/// Refuses a clock that is behind the newest receipt or many days ahead of it.
pub fn check<'a>(rows: impl Iterator<Item = &'a Judged>, now_ns: i128) -> Result<(), Error> {
    let moment = |row: &Judged| row.candidate.stored_ns.map_or(row.candidate.time_ns, |stored| stored.min(row.candidate.time_ns));
    let Some((newest, key)) = rows.map(|row| (moment(row), &row.candidate.key)).max() else { return Ok(()) };
    match wrong(newest, key, now_ns) {
        None => Ok(()),
        Some(wrong) => Err(Error::conflict(format!("nothing is forgotten: {wrong}"))
            .hint("set the clock, or seal first; if the clock is right and nothing was sealed for so long, add --force")),
    }
}

/// What is wrong with a clock that says `now_ns` when the newest snapshot came at `newest_ns`; `None` if it may be right.
pub fn wrong(newest_ns: i128, newest: &SnapshotKey, now_ns: i128) -> Option<String> {
    let (now, then) = (sys::utc_text(now_ns), sys::utc_text(newest_ns));
    match () {
        () if now_ns < newest_ns - BEHIND_NS => {
            Some(format!("this machine's clock says {now}, before the newest snapshot {newest} of {then}"))
        }
        () if now_ns > newest_ns + AHEAD_NS => {
            Some(format!("this machine's clock says {now}, long after the newest snapshot {newest} of {then}"))
        }
        () => None,
    }
}
