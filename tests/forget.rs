//! Forget: what a policy keeps, whatever hosts say of themselves; what is forgotten is out of sight, and comes back.
#![allow(clippy::unwrap_used)] // a test may stop at the first surprise

mod common;
#[path = "forget/decisions.rs"]
mod decisions;
#[path = "forget/floods.rs"]
mod floods;
#[path = "forget/screen.rs"]
mod screen;

use std::collections::BTreeSet;

use coffre::{
    format::{SnapshotId, SnapshotKey},
    ops::{
        forget::{Candidate, Doubt, Group, GroupBy, Policy, Reason, judge},
        pins::Pinned,
    },
    sys::Calendar,
};

const HOUR: i128 = 3_600_000_000_000;
const DAY: i128 = 24 * HOUR;
/// 2025-11-08T02:00:00Z, a Saturday.
const START: i128 = 1_762_567_200_000_000_000;
const BY: GroupBy = GroupBy { host: true, paths: true, tags: false };

/// A snapshot of `sealer` that was stored a minute after it began.
fn candidate(sealer: &str, seq: u64, time_ns: i128) -> Candidate {
    let mut id = [0; 32];
    id[..8].copy_from_slice(&seq.to_be_bytes());
    id[8] = sealer.bytes().fold(0, |sum, b| sum ^ b);
    Candidate {
        id: SnapshotId::from_bytes(id),
        key: SnapshotKey { sealer: sealer.to_owned(), seq },
        host: sealer.to_owned(),
        paths: BTreeSet::from(["/srv".to_owned()]),
        tags: BTreeSet::new(),
        time_ns,
        duration_ns: 0,
        stored_ns: Some(time_ns + 60_000_000_000),
        pinned: None,
    }
}

/// One snapshot a day for so many days.
fn days(sealer: &str, n: u64) -> Vec<Candidate> {
    (0..n).map(|i| candidate(sealer, i + 1, START + i128::from(i) * DAY)).collect()
}

fn judged(policy: &Policy, candidates: Vec<Candidate>) -> Vec<Group> {
    let now = START + 1000 * DAY;
    judge(policy, BY, &Calendar::named("UTC").unwrap(), candidates, now)
}

/// The numbers of what `sealer` keeps.
fn kept(groups: &[Group], sealer: &str) -> Vec<u64> {
    let rows = groups.iter().filter(|g| g.sealer == sealer).flat_map(|g| &g.rows);
    let mut kept: Vec<u64> = rows.filter(|row| !row.reasons.is_empty()).map(|row| row.candidate.key.seq).collect();
    kept.sort_unstable();
    kept
}

#[test]
fn each_rule_keeps_what_it_says_and_says_so() {
    let policy = Policy { last: 2, daily: 3, weekly: 2, monthly: 2, yearly: 9, ..Policy::default() };
    let groups = judged(&policy, days("web", 60));
    // Days 58 to 60 are 2026-01-04 (a Sunday) to 06; weeks end on Sundays.
    assert_eq!(kept(&groups, "web"), [54, 58, 59, 60]);
    let rows = &groups[0].rows;
    let period = |every, period: &str| Reason::Period { every, period: period.to_owned() };
    assert_eq!(
        rows[59].reasons,
        [
            Reason::Last { number: 1 },
            period("daily", "2026-01-06"),
            period("weekly", "2026-W02"),
            period("monthly", "2026-01"),
            period("yearly", "2026")
        ]
    );
    assert_eq!(rows[57].reasons, [period("daily", "2026-01-04"), period("weekly", "2026-W01")]);
    assert_eq!(rows[53].reasons, [period("monthly", "2025-12"), period("yearly", "2025")]);
    assert!(rows.iter().all(|row| row.doubt.is_none()));

    let hourly = Policy { hourly: 2, ..Policy::default() };
    let often = (0..8).map(|i| candidate("web", i + 1, START + i128::from(i) * HOUR / 4)).collect();
    assert_eq!(kept(&judged(&hourly, often), "web"), [4, 8], "the newest of each hour");
    let within = Policy { within_ns: Some(2 * DAY), ..Policy::default() };
    assert_eq!(kept(&judged(&within, days("web", 9)), "web"), [7, 8, 9], "counted from the newest, not from now");
}

#[test]
fn tags_pins_and_groups_count() {
    let mut all = days("web", 6);
    all[1].tags.insert("release".to_owned());
    all[2].pinned = Some(Pinned::BeforeSuspicious);
    for n in [0, 4] {
        all[n].paths = BTreeSet::from(["/etc".to_owned()]);
    }
    let policy = Policy { last: 1, tags: vec!["release".to_owned()], ..Policy::default() };
    let groups = judged(&policy, all.clone());
    assert_eq!(groups.len(), 2, "/srv and /etc");
    assert_eq!(kept(&groups, "web"), [2, 3, 5, 6]);
    let together = judge(&policy, GroupBy { host: false, paths: false, tags: false }, &Calendar::named("UTC").unwrap(), all, START);
    assert_eq!(kept(&together, "web"), [2, 3, 6]);
}

#[test]
fn the_time_zone_says_when_a_day_begins() {
    // 23:30 and 00:30 UTC: one day in New York, two in UTC.
    let two = vec![candidate("web", 1, START + 21 * HOUR + HOUR / 2), candidate("web", 2, START + 22 * HOUR + HOUR / 2)];
    let policy = Policy { daily: 5, ..Policy::default() };
    let in_zone = |zone: &str| kept(&judge(&policy, BY, &Calendar::named(zone).unwrap(), two.clone(), START + DAY), "web");
    assert_eq!((in_zone("UTC"), in_zone("America/New_York")), (vec![1, 2], vec![2]));
}

/// A host whose clock is years ahead, for a while, and then right again: with or without a store that knows when receipts came.
#[test]
fn a_clock_that_is_ahead_pushes_nothing_out() {
    for store_knows in [true, false] {
        let mut all = days("web", 20);
        for (n, c) in all.iter_mut().enumerate() {
            c.time_ns += if (8..12).contains(&n) { 3650 * DAY + i128::from(c.key.seq) * 7 * DAY } else { 0 };
            c.stored_ns = c.stored_ns.filter(|_| store_knows);
        }
        let policy = Policy { daily: 5, weekly: 4, ..Policy::default() };
        let honest = kept(&judged(&policy, days("web", 20)), "web");
        let groups = judged(&policy, all);
        let kept = kept(&groups, "web");
        assert!(honest.iter().all(|n| kept.contains(n) || (9..=12).contains(n)), "store knows: {store_knows}: {kept:?}, honest {honest:?}");
        let doubt = |n: usize| groups[0].rows.iter().find(|row| row.candidate.key.seq == n as u64).unwrap().doubt;
        assert!((9..=12).all(|n| doubt(n).is_some()) && (13..=20).all(|n| doubt(n).is_none()), "store knows: {store_knows}");
    }
}

#[test]
fn a_clock_that_went_back_to_1970_pushes_nothing_out_and_loses_nothing() {
    for store_knows in [true, false] {
        let mut all = days("web", 12);
        for c in &mut all {
            c.time_ns = if c.key.seq == 9 { HOUR } else { c.time_ns };
            c.stored_ns = c.stored_ns.filter(|_| store_knows);
        }
        let groups = judged(&Policy { daily: 6, ..Policy::default() }, all);
        let kept = kept(&groups, "web");
        assert!([6, 7, 8, 10, 11, 12].iter().all(|n| kept.contains(n)), "store knows: {store_knows}: {kept:?}");
        let row = groups[0].rows.iter().find(|row| row.candidate.key.seq == 9).unwrap();
        assert_eq!((row.doubt, row.counts_ns), (Some(Doubt::OutOfOrder), START + 7 * DAY), "it counts as its place in the chain");
    }
}

/// A stolen host that says of new snapshots that they are old: they would be the newest of days that had good ones.
#[test]
fn snapshots_that_claim_to_be_old_do_not_take_the_place_of_old_ones() {
    let mut all = days("web", 10);
    for i in 0..10 {
        let mut late = candidate("web", 11 + i, START + i128::from(i) * DAY + 20 * HOUR);
        late.stored_ns = Some(START + 12 * DAY);
        all.push(late);
    }
    let kept = kept(&judged(&Policy { daily: 7, ..Policy::default() }, all), "web");
    assert!((4..=10).all(|n| kept.contains(&n)), "{kept:?}");
}

#[test]
fn a_flood_pushes_nothing_out() {
    for (every, store_knows) in [(1_000_000_000, true), (1_000_000_000, false), (HOUR, true)] {
        let mut all = days("web", 10);
        // A thousand within a quarter of an hour; the third time they claim hours of the past and of the future.
        for i in 0..1000u64 {
            let mut c = candidate("web", 11 + i, START + 10 * DAY + i128::from(i) * every - if every == HOUR { 500 * HOUR } else { 0 });
            c.stored_ns = Some(START + 10 * DAY + i128::from(i) * 1_000_000_000).filter(|_| store_knows);
            all.push(c);
        }
        all.extend(days("db", 10));
        let policy = Policy { last: 5, daily: 7, hourly: 4, ..Policy::default() };
        let groups = judged(&policy, all);
        let (web, db) = (kept(&groups, "web"), kept(&groups, "db"));
        assert!((5..=10).all(|n| web.contains(&n)), "every {every}: {web:?}");
        assert_eq!(db, [4, 5, 6, 7, 8, 9, 10], "no host counts against another");
        assert!(web.len() < 30, "and the flood itself goes: {} stay", web.len());
    }
}

/// `cp -r` of a vault makes all receipts as old as the copy.
#[test]
fn a_copied_vault_is_judged_as_the_original() {
    let policy = Policy { last: 2, daily: 3, weekly: 5, ..Policy::default() };
    let original = kept(&judged(&policy, days("web", 40)), "web");
    let mut copied = days("web", 40);
    copied.iter_mut().for_each(|c| c.stored_ns = Some(START + 400 * DAY));
    let groups = judged(&policy, copied);
    assert_eq!(kept(&groups, "web"), original);
    assert!(groups[0].rows.iter().all(|row| row.doubt.is_none()), "nothing is in doubt where everything would be");
}

/// A vault that was put back by a machine whose clock stood in the past, or by a tool that sets times.
#[test]
fn a_store_whose_clock_was_behind_makes_no_single_moment_of_a_whole_history() {
    for stored in [0, START - 400 * DAY] {
        let mut all = days("host1", 21);
        all.iter_mut().for_each(|c| c.stored_ns = Some(stored));
        all.push(candidate("host1", 22, START + 21 * DAY));
        assert_eq!(kept(&judged(&Policy { daily: 10, ..Policy::default() }, all.clone()), "host1"), (13..=22).collect::<Vec<_>>());
        let kept_last = kept(&judged(&Policy { last: 5, ..Policy::default() }, all), "host1");
        assert_eq!(kept_last, (18..=22).collect::<Vec<_>>());
    }
}

/// A vault on the machine's own disk: while its clock is ahead, so is the store's.
#[test]
fn a_seal_while_both_clocks_were_ahead_does_not_eat_the_days_up_to_that_moment() {
    let mut all = days("host1", 36);
    let ahead = START + 35 * DAY;
    (all[21].time_ns, all[21].stored_ns) = (ahead, Some(ahead));
    let kept = kept(&judged(&Policy { daily: 20, ..Policy::default() }, all), "host1");
    assert!((17..=36).filter(|seq| *seq != 22).all(|seq| kept.contains(&seq)), "{kept:?}");
}

/// A copy gets its objects in batches, with the times of the copy: `--keep-last` counts days there as anywhere.
#[test]
fn many_seals_after_a_copy_came_back_push_out_no_days() {
    let mut all = days("host1", 21);
    let batch = all[20].time_ns + HOUR;
    all[9..].iter_mut().for_each(|c| c.stored_ns = Some(batch));
    all.extend((0..12).map(|n| candidate("host1", 22 + n, START + 21 * DAY + i128::from(n) * HOUR / 60)));
    let kept = kept(&judged(&Policy { last: 12, ..Policy::default() }, all), "host1");
    assert!((11..=21).all(|seq| kept.contains(&seq)), "{kept:?}");
}

#[test]
fn a_host_that_calls_itself_like_another_does_not_count_with_it() {
    let mut all = days("web", 5);
    let mut imposter = days("laptop", 9);
    imposter.iter_mut().for_each(|c| c.host = "web".to_owned());
    all.extend(imposter);
    assert_eq!(kept(&judged(&Policy { last: 3, ..Policy::default() }, all), "web"), [3, 4, 5]);
}
