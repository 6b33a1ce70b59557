//! What somebody with a host's sealing keys can have forgotten, at most: lives with random policies, floods and false times.
//! `COFFRE_SEED` and `COFFRE_LIVES` choose others.

use std::collections::BTreeSet;

use coffre::{
    ops::forget::{Candidate, Judged, Policy, judge},
    sys::{Calendar, Period},
};

use crate::{BY, DAY, HOUR, START, candidate};

const MINUTE: i128 = HOUR / 60;
const GOOD: &str = "good";

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }

    fn up_to(&mut self, ns: i128) -> i128 {
        i128::from(self.below(u64::try_from(ns).unwrap().max(1)))
    }

    fn pick<T: Copy>(&mut self, things: &[T]) -> T {
        things[self.below(things.len() as u64) as usize]
    }
}

fn utc() -> Calendar {
    Calendar::named("UTC").unwrap()
}

fn rows(policy: &Policy, all: &[Candidate], now: i128) -> Vec<Judged> {
    judge(policy, BY, &utc(), all.to_vec(), now).into_iter().flat_map(|group| group.rows).collect()
}

/// Judges, and takes out what is kept by nothing.
fn forget(policy: &Policy, all: &mut Vec<Candidate>, now: i128) {
    let gone: BTreeSet<u64> = rows(policy, all, now).iter().filter(|row| row.reasons.is_empty()).map(|row| row.candidate.key.seq).collect();
    all.retain(|c| !gone.contains(&c.key.seq));
}

/// What a bad one says of its time: anything.
fn claim(dice: &mut Dice, now: i128) -> (i128, i128) {
    match dice.below(6) {
        0 => (now + dice.up_to(4000 * DAY), 0),
        1 => (now - dice.up_to(9000 * DAY), 0),
        2 => (now - dice.up_to(DAY), 0),
        3 => (now - dice.up_to(60 * DAY), 0),
        // A seal that took days.
        4 => {
            let took = dice.up_to(30 * DAY);
            (now - took, took)
        }
        _ => (now, 0),
    }
}

/// Which of the good snapshots the promise covers, when it is `now` and the thief came at `thief`: of those that the policy still kept when he
/// came, the newest of each period before the one in which he came, as long as fewer than N periods with any snapshot begin after it.
fn promised(policy: &Policy, good: &[Candidate], came: &[i128], thief: i128, now: i128) -> BTreeSet<u64> {
    let calendar = utc();
    let mut promised = BTreeSet::new();
    let rules = [
        (Period::Hour, policy.hourly),
        (Period::Day, policy.daily),
        (Period::Week, policy.weekly),
        (Period::Month, policy.monthly),
        (Period::Year, policy.yearly),
        (Period::Day, policy.last),
    ];
    for (period, n) in rules {
        let of = |ns: i128| calendar.period(ns, period);
        for (i, c) in good.iter().enumerate() {
            let at = c.stored_ns.unwrap();
            let is_newest = good.get(i + 1).is_none_or(|next| of(next.stored_ns.unwrap()) != of(at));
            let later: BTreeSet<String> = came.iter().filter(|ns| **ns > at && of(**ns) != of(at)).map(|ns| of(*ns)).collect();
            if is_newest && of(at) != of(thief) && later.len() < n {
                promised.insert(c.key.seq);
            }
        }
    }
    let young = |c: &&Candidate| policy.within_ns.is_some_and(|within| c.stored_ns.unwrap() >= now - within);
    promised.extend(good.iter().filter(young).map(|c| c.key.seq));
    promised
}

/// A host seals for a while, at a pace of its own, and its owner forgets. Then somebody has its keys for weeks, and seals whatever and whenever
/// he likes, while the owner goes on forgetting.
fn one_life(seed: u64) {
    let mut dice = Dice(seed);
    let small = |dice: &mut Dice, most: u64| dice.below(most) as usize * usize::from(dice.below(2) == 0);
    let mut policy = Policy {
        last: small(&mut dice, 13),
        hourly: small(&mut dice, 30),
        daily: small(&mut dice, 15),
        weekly: small(&mut dice, 6),
        monthly: small(&mut dice, 6),
        within_ns: (dice.below(3) == 0).then(|| dice.up_to(20 * DAY)),
        ..Policy::default()
    };
    policy.last += usize::from(policy.is_empty());
    let pace = dice.pick(&[5 * MINUTE, 20 * MINUTE, HOUR, 6 * HOUR, DAY, 3 * DAY]);
    let (mut all, mut came, mut now, mut seq) = (Vec::new(), Vec::new(), START, 0);
    let mut seal = |all: &mut Vec<Candidate>, now: i128, said: i128, took: i128, is_good: bool| {
        seq += 1;
        let mut c = candidate("web", seq, said);
        (c.stored_ns, c.duration_ns) = (Some(now), took);
        c.tags.extend(is_good.then(|| GOOD.to_owned()));
        all.push(c);
    };
    for _ in 0..1 + dice.below(60) {
        now += pace + dice.up_to(pace / 10);
        let took = dice.up_to(2 * MINUTE);
        seal(&mut all, now, now - took, took, true);
        came.push(now);
        if dice.below(3) > 0 {
            forget(&policy, &mut all, now + MINUTE);
        }
    }
    forget(&policy, &mut all, now + MINUTE);
    let good = all.clone();
    let thief = now + 2 * MINUTE + dice.up_to(2 * pace);
    now = thief;
    for _ in 0..dice.below(12) {
        // Bursts above and below each threshold, and quiet weeks.
        let (every, count) = (dice.pick(&[1_000_000_000, MINUTE, 3 * MINUTE, 7 * MINUTE, HOUR, 7 * HOUR, DAY]), 1 + dice.below(40));
        for _ in 0..count {
            let (said, took) = claim(&mut dice, now);
            seal(&mut all, now, said, took, false);
            came.push(now);
            now += every;
        }
        if dice.below(2) == 0 {
            forget(&policy, &mut all, now + MINUTE);
        }
        let left: BTreeSet<u64> = all.iter().filter(|c| c.tags.contains(GOOD)).map(|c| c.key.seq).collect();
        let lost: Vec<u64> = promised(&policy, &good, &came, thief, now + MINUTE).into_iter().filter(|seq| !left.contains(seq)).collect();
        assert!(lost.is_empty(), "COFFRE_SEED={seed}: {policy:?} lost {lost:?} of {left:?}");
        now += dice.up_to(10 * DAY) * i128::from(dice.below(2));
    }
}

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

#[test]
fn nobody_pushes_out_more_than_one_period_a_period() {
    let first = number("COFFRE_SEED", 1);
    (first..first + number("COFFRE_LIVES", 100)).for_each(one_life);
}

/// A host that seals each five minutes is not taken for a flood: what is kept of it is what anybody would count.
#[test]
fn an_honest_host_that_seals_often_keeps_what_it_asks_for() {
    let policy = Policy { last: 12, ..Policy::default() };
    let (mut all, mut dice, mut now) = (Vec::new(), Dice(7), START);
    for seq in 1..=5 * 24 * 12 {
        now = START + i128::from(seq) * 5 * MINUTE;
        let mut c = candidate("web", seq, now + dice.up_to(20_000_000_000));
        c.stored_ns = Some(c.time_ns + 3_000_000_000 + dice.up_to(10_000_000_000));
        all.push(c);
        forget(&policy, &mut all, now + MINUTE);
        let newest: BTreeSet<u64> = (seq.saturating_sub(11).max(1)..=seq).collect();
        let left: BTreeSet<u64> = all.iter().map(|c| c.key.seq).collect();
        assert!(left.is_superset(&newest), "{left:?}");
        // Beside them, the newest of each day before.
        let day = |ns: i128| utc().period(ns, Period::Day);
        let others: Vec<String> = all.iter().filter(|c| !newest.contains(&c.key.seq)).map(|c| day(c.stored_ns.unwrap())).collect();
        assert!(others.len() == others.iter().collect::<BTreeSet<_>>().len() && !others.contains(&day(now)), "{others:?}");
    }
    assert_eq!(all.len(), 12 + 5);
    assert!(rows(&policy, &all, now).iter().all(|row| row.doubt.is_none()));
}

/// The floods that a tester pushed good ones out with: so many just below what is called one, and times spread over the last day.
#[test]
fn what_stays_below_every_threshold_pushes_out_no_day_either() {
    let seven = |rule: &str| match rule {
        "last" => Policy { last: 7, ..Policy::default() },
        "hourly" => Policy { hourly: 7, ..Policy::default() },
        _ => Policy { daily: 7, ..Policy::default() },
    };
    let thief = START + 7 * DAY;
    let bursts: [(&str, Vec<(i128, i128)>); 5] = [
        ("24 in an hour", (0..24).map(|i| (thief + i * 150_000_000_000, 0)).collect()),
        ("24 in each of two hours", (0..48).map(|i| (thief + i * 151_000_000_000, 0)).collect()),
        ("spread over the last day", (0..20).map(|i| (thief + i, (20 - i) * HOUR)).collect()),
        ("dated 2001", (0..20).map(|i| (thief + i * HOUR, thief - 1_000_000_000_000_000_000)).collect()),
        ("a thousand in a minute", (0..1000).map(|i| (thief + i * MINUTE / 1000, 0)).collect()),
    ];
    for (name, burst) in bursts {
        for (rule, store_knows) in [("last", true), ("hourly", true), ("daily", true), ("last", false), ("daily", false)] {
            let mut all: Vec<Candidate> = (0..7).map(|i| candidate("web", i + 1, START + i128::from(i) * DAY)).collect();
            for (n, (came, before)) in burst.iter().enumerate() {
                let mut c = candidate("web", 8 + n as u64, came - before);
                c.stored_ns = Some(*came);
                all.push(c);
            }
            all.iter_mut().for_each(|c| c.stored_ns = c.stored_ns.filter(|_| store_knows));
            forget(&seven(rule), &mut all, thief + 3 * HOUR);
            let left: Vec<u64> = all.iter().map(|c| c.key.seq).filter(|seq| *seq <= 7).collect();
            // The burst is a day, or a few hours. Where only the host says when, it may say the day of the last good one besides.
            let least = if rule == "hourly" { 4 } else { 5 + usize::from(store_knows) };
            assert!(left.len() >= least && (left.last() == Some(&7) || !store_knows), "{name}, {rule}, {store_knows}: {left:?}");
        }
    }
}

/// On the day of a flood, what was there before it stays too: by the hour it cannot be told apart.
#[test]
fn what_came_on_the_day_of_a_flood_and_before_it_stays() {
    let mut all: Vec<Candidate> = (0..3).map(|i| candidate("web", i + 1, START + i128::from(i) * MINUTE)).collect();
    all.extend((0..100).map(|i| candidate("web", 4 + i, START + 4 * MINUTE + i128::from(i) * 1_000_000_000)));
    forget(&Policy { last: 5, ..Policy::default() }, &mut all, START + HOUR);
    let left: Vec<u64> = all.iter().map(|c| c.key.seq).collect();
    assert_eq!(left, [1, 2, 3, 4, 5, 99, 100, 101, 102, 103]);
}
