//! Which moments of a snapshot count: what the sealer's clock says, within what its place in the chain and the store's clock allow, and when
//! it came. What came cannot be moved by anything that is sealed later.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::ops::forget::policy::Candidate;

const HOUR_NS: i128 = 3_600_000_000_000;
/// How far a sealer's clock may be off without anybody minding.
const SKEW_NS: i128 = HOUR_NS;
/// How much later than it says a receipt may arrive without its time being doubted.
const LATE_NS: i128 = 24 * HOUR_NS;
/// More snapshots than this of one sealer within an hour are a flood.
const AN_HOUR_MAX: usize = 24;

/// Why a snapshot does not push out others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Doubt {
    /// The sealer's clock was ahead of the store's.
    Ahead,
    /// The time does not fit its place in the chain.
    OutOfOrder,
    /// The receipt came to the store long after the time that the sealer says: a false clock, or a copied vault.
    Late,
    /// One of very many within an hour.
    Flood,
}

impl Doubt {
    /// For people.
    pub fn text(self) -> &'static str {
        match self {
            Doubt::Ahead => "its host's clock was ahead",
            Doubt::OutOfOrder => "its host's clock was wrong",
            Doubt::Late => "stored later than it says",
            Doubt::Flood => "one of very many within an hour",
        }
    }
}

/// A snapshot with the moment that counts.
pub struct Timed {
    /// The snapshot.
    pub candidate: Candidate,
    /// When it was sealed, as far as that can be believed: ns since 1970.
    pub counts_ns: i128,
    /// When it came to the store, ns since 1970; never before that of an earlier one of its chain.
    pub came_ns: i128,
    /// What its sealer says, ns since 1970, if something of the chain is in doubt and this is in order with the rest of what the chain says.
    pub told_ns: Option<i128>,
    /// Why it does not push out others.
    pub doubt: Option<Doubt>,
}

/// Finds the moments that count, chain by chain.
pub fn timed(candidates: Vec<Candidate>, now_ns: i128) -> Vec<Timed> {
    let mut chains: BTreeMap<String, Vec<Candidate>> = BTreeMap::new();
    for candidate in candidates {
        chains.entry(candidate.key.sealer.clone()).or_default().push(candidate);
    }
    chains.into_values().flat_map(|chain| one_chain(chain, now_ns)).collect()
}

fn one_chain(mut chain: Vec<Candidate>, now_ns: i128) -> Vec<Timed> {
    chain.sort_by_key(|c| c.key.seq);
    let stored = chain.iter().map(|c| c.stored_ns).collect::<Option<Vec<i128>>>();
    let (mut found, came) = match &stored {
        Some(stored) => {
            let found = by_the_store(&chain, stored);
            let came = came(&found, stored);
            (found, came)
        }
        None => (by_the_chain(&chain, now_ns), claims_in_order(&chain, now_ns)),
    };
    // Where only the chain tells the time, one that is out of order has none of its own.
    let has_moment = |n: &usize| stored.is_some() || found[*n].1 != Some(Doubt::OutOfOrder);
    let (places, moments): (Vec<usize>, Vec<i128>) = (0..chain.len()).filter(has_moment).map(|n| (n, came[n])).unzip();
    for n in floods(&moments) {
        found[places[n]].1.get_or_insert(Doubt::Flood);
    }
    // If all are in doubt, there is nothing that they could push out.
    if found.iter().all(|(_, doubt)| matches!(doubt, Some(Doubt::Late | Doubt::Flood))) {
        found.iter_mut().for_each(|(_, doubt)| *doubt = None);
    }
    // The store's clock may be the one that was wrong: of a vault that was put back, or of a machine that set its own clock right again.
    let is_doubted = stored.is_some() && found.iter().any(|(_, doubt)| doubt.is_some());
    let told: Vec<Option<i128>> = match is_doubted {
        true => by_the_chain(&chain, now_ns).into_iter().map(|(ns, doubt)| doubt.is_none().then_some(ns)).collect(),
        false => vec![None; chain.len()],
    };
    let timed = |(((candidate, (counts_ns, doubt)), came_ns), told_ns)| Timed { candidate, counts_ns, came_ns, told_ns, doubt };
    chain.into_iter().zip(found).zip(came).zip(told).map(timed).collect()
}

/// When each came, by the store's clock. What a copied vault begins with came all at once, and later than it was sealed: that is taken for
/// what it says.
fn came(found: &[(i128, Option<Doubt>)], stored: &[i128]) -> Vec<i128> {
    let is_copied = |n: &usize| found[*n].1 == Some(Doubt::Late) && stored[*n] - stored[0] < LATE_NS;
    let copied = (0..found.len()).take_while(is_copied).count();
    let mut floor = i128::MIN;
    let mut later = |ns: i128| {
        floor = floor.max(ns);
        floor
    };
    (0..found.len()).map(|n| later(if n < copied { found[n].0 } else { stored[n] })).collect()
}

/// When each came at the earliest, where only sealers tell the time: no earlier than what stands before it in the chain, and not in the future.
fn claims_in_order(chain: &[Candidate], now_ns: i128) -> Vec<i128> {
    let first = chain.iter().map(|c| c.time_ns).find(|ns| *ns <= now_ns + SKEW_NS).unwrap_or(now_ns);
    let mut floor = first;
    let one = |c: &Candidate| {
        if c.time_ns <= now_ns + SKEW_NS {
            floor = floor.max(c.time_ns);
        }
        floor
    };
    chain.iter().map(one).collect()
}

/// Where the store knows when receipts came: that bounds what a sealer can say of the future, and what stands before it in the chain what it
/// can say of the past. Nothing depends on what was sealed later, so that nobody can move the times of what is there.
fn by_the_store(chain: &[Candidate], stored: &[i128]) -> Vec<(i128, Option<Doubt>)> {
    let mut floor = i128::MIN;
    let one = |(c, stored): (&Candidate, &i128)| match () {
        () if c.time_ns > stored + SKEW_NS => (*stored, Some(Doubt::Ahead)),
        () if c.time_ns < floor.saturating_sub(SKEW_NS) => (floor, Some(Doubt::OutOfOrder)),
        () => {
            floor = floor.max(c.time_ns);
            (floor, (*stored > c.time_ns + c.duration_ns + LATE_NS).then_some(Doubt::Late))
        }
    };
    chain.iter().zip(stored).map(one).collect()
}

/// Where the store does not know: those times are false without which the others are in order.
fn by_the_chain(chain: &[Candidate], now_ns: i128) -> Vec<(i128, Option<Doubt>)> {
    let said: Vec<i128> = chain.iter().map(|c| c.time_ns).collect();
    let in_order = longest_in_order(&said);
    let fits = |n: usize| in_order[n] && said[n] <= now_ns + SKEW_NS;
    // A false time is taken from the one before it in the chain, or else from the one after.
    let mut last = (0..said.len()).find(|n| fits(*n)).map_or(now_ns, |n| said[n]);
    (0..said.len())
        .map(|n| match fits(n) {
            true => {
                last = said[n];
                (last, None)
            }
            false => (last, Some(Doubt::OutOfOrder)),
        })
        .collect()
}

/// Which of `times` stay if as few as possible are taken out so that the rest never goes back (patience sorting, n log n).
fn longest_in_order(times: &[i128]) -> Vec<bool> {
    // tails[k]: where the best row of k + 1 moments ends so far.
    let (mut tails, mut before): (Vec<usize>, Vec<Option<usize>>) = (Vec::new(), Vec::new());
    for (n, time) in times.iter().enumerate() {
        let at = tails.partition_point(|tail| times[*tail] <= *time);
        before.push(at.checked_sub(1).map(|at| tails[at]));
        match tails.get_mut(at) {
            Some(tail) => *tail = n,
            None => tails.push(n),
        }
    }
    let mut stays = vec![false; times.len()];
    let mut next = tails.last().copied();
    while let Some(n) = next {
        stays[n] = true;
        next = before[n];
    }
    stays
}

/// The places of all moments of which more than `AN_HOUR_MAX` lie within an hour, but the first: that one was there before the flood.
fn floods(times: &[i128]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..times.len()).collect();
    order.sort_by_key(|n| times[*n]);
    let (mut from, mut flooded) = (0, vec![false; times.len()]);
    let mut marked = 0;
    for to in 0..order.len() {
        while times[order[to]] - times[order[from]] >= HOUR_NS {
            from += 1;
        }
        if to - from >= AN_HOUR_MAX {
            order[marked.max(from + 1)..=to].iter().for_each(|n| flooded[*n] = true);
            marked = to + 1;
        }
    }
    (0..times.len()).filter(|n| flooded[*n]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_few_as_possible_are_out_of_order() {
        assert_eq!(longest_in_order(&[1, 2, 9, 3, 4]), [true, true, false, true, true]);
        assert_eq!(longest_in_order(&[5, 6, 1, 7, 7]), [true, true, false, true, true]);
        assert_eq!(longest_in_order(&[]), [false; 0]);
    }

    #[test]
    fn a_flood_is_more_than_so_many_in_an_hour() {
        let minutes = |every: i128, n: i128| (0..n).map(|i| i * every * 60_000_000_000).collect::<Vec<_>>();
        assert_eq!(floods(&minutes(5, 100)), [0; 0]);
        assert_eq!(floods(&minutes(2, 100)), (1..100).collect::<Vec<_>>());
        let mut mixed = minutes(60, 50);
        mixed.extend(std::iter::repeat_n(mixed[49] + 1, 30));
        assert_eq!(floods(&mixed), (50..80).collect::<Vec<_>>());
    }
}
