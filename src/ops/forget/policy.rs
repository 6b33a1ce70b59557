//! Retention policies: which snapshots are kept, and by which rule.
//!
//! Pure: takes facts, returns a table, touches nothing. A snapshot whose time is in doubt, or that came in a flood, never pushes out
//! another: the rules are applied to those beyond doubt, to those that are only late besides, and to all; what any of these keeps is kept.
//! All that once by the times that sealers tell, and once by when snapshots came to the store: nobody fills more hours or days than have
//! passed. Where the two disagree, once more by what the chain says alone: the store's clock may have been the false one. And as the newest N may come in a minute, `last` keeps the newest of each of N days besides (`days`).

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::{
    format::{SnapshotId, SnapshotKey},
    ops::{
        forget::{
            rules,
            times::{Doubt, Timed, timed},
        },
        pins::Pinned,
    },
    sys::Calendar,
};

/// How many to keep, and which in any case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// The newest so many, and the newest of each of the last so many days that have any.
    pub last: usize,
    /// The newest of each of the last so many hours, days, weeks, months, years that have any.
    pub hourly: usize,
    /// See `hourly`.
    pub daily: usize,
    /// See `hourly`.
    pub weekly: usize,
    /// See `hourly`.
    pub monthly: usize,
    /// See `hourly`.
    pub yearly: usize,
    /// All that are at most so much older than the newest of their group, in ns.
    pub within_ns: Option<i128>,
    /// All with one of these tags.
    pub tags: Vec<String>,
}

impl Policy {
    /// Whether it keeps nothing at all.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What snapshots must have in common for rules to count them together. The sealer always: a host cannot speak for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupBy {
    /// The host name.
    pub host: bool,
    /// The set of paths.
    pub paths: bool,
    /// The set of tags.
    pub tags: bool,
}

/// What the policy is told of a snapshot.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Id.
    pub id: SnapshotId,
    /// Who sealed it, and where in that chain it stands.
    pub key: SnapshotKey,
    /// Host, as the sealer calls it.
    pub host: String,
    /// Paths.
    pub paths: BTreeSet<String>,
    /// Tags.
    pub tags: BTreeSet<String>,
    /// When the seal began by the sealer's clock, ns since 1970.
    pub time_ns: i128,
    /// How long it took, in ns.
    pub duration_ns: i128,
    /// When its receipt came to the store by the store's clock, if that is known.
    pub stored_ns: Option<i128>,
    /// Whether it is pinned.
    pub pinned: Option<Pinned>,
}

/// A rule that keeps a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "rule", rename_all = "snake_case")]
pub enum Reason {
    /// Pinned.
    Pinned {
        /// Why.
        why: Pinned,
    },
    /// One of the newest.
    Last {
        /// Which of them: 1 is the newest.
        number: usize,
    },
    /// The newest of a period.
    Period {
        /// `hourly` to `yearly`.
        every: &'static str,
        /// The period.
        period: String,
    },
    /// The newest of a period by the store's clock.
    Came {
        /// `hourly` to `yearly`.
        every: &'static str,
        /// The period.
        period: String,
    },
    /// The newest of one of the last days: `last` lets nobody push out more than one day a day.
    LastDay {
        /// The day.
        day: String,
    },
    /// One of the first of a day with a flood.
    BeforeFlood {
        /// The day.
        day: String,
    },
    /// Young enough.
    Within,
    /// Has a tag that keeps.
    Tag {
        /// The tag.
        tag: String,
    },
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Reason::Pinned { why: Pinned::ByHand } => write!(f, "pinned"),
            Reason::Pinned { why: Pinned::BeforeSuspicious } => write!(f, "pinned: the one after it looked suspicious"),
            Reason::Pinned { why: Pinned::BeforeUnreadable } => write!(f, "pinned: the one after it cannot be read"),
            Reason::Last { number } => write!(f, "last {number}"),
            Reason::Period { every, period } => write!(f, "{every} {period}"),
            Reason::Came { every, period } => write!(f, "{every} {period} by the store's clock"),
            Reason::LastDay { day } => write!(f, "last of {day}"),
            Reason::BeforeFlood { day } => write!(f, "before the flood of {day}"),
            Reason::Within => write!(f, "within"),
            Reason::Tag { tag } => write!(f, "tag {tag}"),
        }
    }
}

/// One line of the table.
#[derive(Clone, Debug)]
pub struct Judged {
    /// The snapshot.
    pub candidate: Candidate,
    /// The moment that counts, ns since 1970.
    pub counts_ns: i128,
    /// When it came to the store, ns since 1970.
    pub came_ns: i128,
    /// What its sealer says, where that is asked.
    pub told_ns: Option<i128>,
    /// What is wrong with it.
    pub doubt: Option<Doubt>,
    /// The rules that keep it; none if it goes.
    pub reasons: Vec<Reason>,
}

/// One group of the table, oldest first.
#[derive(Clone, Debug)]
pub struct Group {
    /// Who sealed all of it.
    pub sealer: String,
    /// Host, paths and tags, as far as they were asked for.
    pub name: String,
    /// Its snapshots.
    pub rows: Vec<Judged>,
}

/// Judges every candidate, at the moment `now_ns`.
pub fn judge(policy: &Policy, by: GroupBy, calendar: &Calendar, candidates: Vec<Candidate>, now_ns: i128) -> Vec<Group> {
    let mut groups: BTreeMap<(String, String), Vec<Judged>> = BTreeMap::new();
    for Timed { candidate, counts_ns, came_ns, told_ns, doubt } in timed(candidates, now_ns) {
        let judged = Judged { counts_ns, came_ns, told_ns, doubt, reasons: Vec::new(), candidate };
        groups.entry((judged.candidate.key.sealer.clone(), group_name(&judged.candidate, by))).or_default().push(judged);
    }
    let judged = |((sealer, name), mut rows): (_, Vec<Judged>)| {
        rows.sort_by_key(|row| (row.counts_ns, row.candidate.key.seq));
        let those = |count: fn(Option<Doubt>) -> bool| (0..rows.len()).filter(|n| count(rows[*n].doubt)).collect::<Vec<usize>>();
        let (sure, fairly_sure, all) = (those(|d| d.is_none()), those(|d| matches!(d, None | Some(Doubt::Late))), those(|_| true));
        let sets = [sure, fairly_sure, all];
        let told: Vec<_> = sets.iter().flat_map(|counting| rules::by_what_is_told(policy, calendar, &rows, counting)).collect();
        let came: Vec<_> = sets.into_iter().flat_map(|counting| rules::by_when_it_came(policy, calendar, &rows, counting)).collect();
        let said = rules::by_the_chain(policy, calendar, &rows);
        add(&mut rows, told);
        // Mostly all keep the same, and one reason is enough.
        for more in [came, said] {
            let is_kept: Vec<bool> = rows.iter().map(|row| !row.reasons.is_empty()).collect();
            add(&mut rows, more.into_iter().filter(|(n, _)| !is_kept[*n]).collect());
        }
        for row in &mut rows {
            row.reasons.splice(..0, row.candidate.pinned.map(|why| Reason::Pinned { why }));
        }
        Group { sealer, name, rows }
    };
    groups.into_iter().map(judged).collect()
}

fn group_name(c: &Candidate, by: GroupBy) -> String {
    let set = |set: &BTreeSet<String>| set.iter().map(String::as_str).collect::<Vec<_>>().join(" ");
    let parts = [by.host.then(|| c.host.clone()), by.paths.then(|| set(&c.paths)), by.tags.then(|| format!("[{}]", set(&c.tags)))];
    parts.into_iter().flatten().collect::<Vec<_>>().join(" ")
}

fn add(rows: &mut [Judged], kept: Vec<(usize, Reason)>) {
    for (n, reason) in kept {
        if !rows[n].reasons.contains(&reason) {
            rows[n].reasons.push(reason);
        }
    }
}
