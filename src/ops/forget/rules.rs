//! The rules: what each of them keeps of some snapshots, as if there were no others. Pure.

use std::collections::BTreeSet;

use crate::{
    ops::forget::{
        policy::{Judged, Policy, Reason},
        times::Doubt,
    },
    sys::{Calendar, Period},
};

/// What is kept of the rows `counting` by the times that sealers tell. The rows are in that order.
pub fn by_what_is_told(policy: &Policy, calendar: &Calendar, rows: &[Judged], counting: &[usize]) -> Vec<(usize, Reason)> {
    let mut kept = newest(policy, counting);
    kept.extend(periods(policy, calendar, counting, |n| rows[n].counts_ns).map(|(n, every, period)| (n, Reason::Period { every, period })));
    kept.extend(within(policy, counting, |n| rows[n].counts_ns));
    for n in counting.iter().rev().copied() {
        let tags = policy.tags.iter().filter(|tag| rows[n].candidate.tags.contains(*tag));
        kept.extend(tags.map(|tag| (n, Reason::Tag { tag: tag.clone() })));
    }
    kept
}

/// What is kept of the rows `counting` by when they came to the store.
pub fn by_when_it_came(policy: &Policy, calendar: &Calendar, rows: &[Judged], mut counting: Vec<usize>) -> Vec<(usize, Reason)> {
    counting.sort_by_key(|n| (rows[*n].came_ns, rows[*n].candidate.key.seq));
    let mut kept = newest(policy, &counting);
    kept.extend(periods(policy, calendar, &counting, |n| rows[n].came_ns).map(|(n, every, period)| (n, Reason::Came { every, period })));
    kept.extend(within(policy, &counting, |n| rows[n].came_ns));
    kept.extend(days(policy, calendar, rows, &counting));
    kept
}

/// What is kept by what the chain says alone.
pub fn by_the_chain(policy: &Policy, calendar: &Calendar, rows: &[Judged]) -> Vec<(usize, Reason)> {
    let mut counting: Vec<usize> = (0..rows.len()).filter(|n| rows[*n].told_ns.is_some()).collect();
    let told = |n: usize| rows[n].told_ns.unwrap_or_default();
    counting.sort_by_key(|n| (told(*n), rows[*n].candidate.key.seq));
    let mut kept: Vec<_> =
        periods(policy, calendar, &counting, told).map(|(n, every, period)| (n, Reason::Period { every, period })).collect();
    kept.extend(within(policy, &counting, told));
    let days = newest_of_each(calendar, Period::Day, &counting, told).take(policy.last);
    kept.extend(days.map(|(n, day)| (n, Reason::LastDay { day })));
    kept
}

fn newest(policy: &Policy, counting: &[usize]) -> Vec<(usize, Reason)> {
    counting.iter().rev().take(policy.last).zip(1..).map(|(n, number)| (*n, Reason::Last { number })).collect()
}

fn periods<'a>(
    policy: &Policy,
    calendar: &'a Calendar,
    counting: &'a [usize],
    moment: impl Fn(usize) -> i128 + Copy + 'a,
) -> impl Iterator<Item = (usize, &'static str, String)> + 'a {
    let periods = [
        ("hourly", Period::Hour, policy.hourly),
        ("daily", Period::Day, policy.daily),
        ("weekly", Period::Week, policy.weekly),
        ("monthly", Period::Month, policy.monthly),
        ("yearly", Period::Year, policy.yearly),
    ];
    let one =
        move |(every, period, count)| newest_of_each(calendar, period, counting, moment).take(count).map(move |(n, this)| (n, every, this));
    periods.into_iter().filter(|(.., count)| *count > 0).flat_map(one)
}

/// The newest of each period that has any, newest first, with the period.
fn newest_of_each<'a>(
    calendar: &'a Calendar,
    period: Period,
    counting: &'a [usize],
    moment: impl Fn(usize) -> i128 + 'a,
) -> impl Iterator<Item = (usize, String)> + 'a {
    let mut before = None;
    counting.iter().rev().filter_map(move |n| {
        let this = calendar.period(moment(*n), period);
        (before.as_ref() != Some(&this)).then(|| {
            before = Some(this.clone());
            (*n, this)
        })
    })
}

fn within(policy: &Policy, counting: &[usize], moment: impl Fn(usize) -> i128) -> Vec<(usize, Reason)> {
    let (Some(within), Some(newest)) = (policy.within_ns, counting.last()) else { return Vec::new() };
    let since = moment(*newest) - within;
    counting.iter().rev().filter(|n| moment(**n) >= since).map(|n| (*n, Reason::Within)).collect()
}

/// What `last` keeps beside the newest: the newest of each of so many days, so that it takes a host days to push out days, however often it
/// seals; and of a day with a flood as many of the first, as those were there before it.
fn days(policy: &Policy, calendar: &Calendar, rows: &[Judged], counting: &[usize]) -> Vec<(usize, Reason)> {
    let newest = newest_of_each(calendar, Period::Day, counting, |n| rows[n].came_ns).take(policy.last).collect::<Vec<_>>();
    let day_of = |n: usize| calendar.period(rows[n].came_ns, Period::Day);
    let is_flood = |n: &&usize| rows[**n].doubt == Some(Doubt::Flood);
    let floods: BTreeSet<String> = counting.iter().filter(is_flood).map(|n| day_of(*n)).collect();
    let mut kept = Vec::new();
    for (_, day) in newest.iter().filter(|(_, day)| floods.contains(day)) {
        let first = counting.iter().filter(|n| day_of(**n) == *day).take(policy.last);
        kept.extend(first.map(|n| (*n, Reason::BeforeFlood { day: day.clone() })));
    }
    kept.extend(newest.into_iter().map(|(n, day)| (n, Reason::LastDay { day })));
    kept
}
