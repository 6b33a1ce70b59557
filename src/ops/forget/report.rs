//! What forget decided, for people and scripts.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::{
    format::SnapshotId,
    ops::forget::{Doubt, Group, Options, Reason},
    sys,
    vault::Finding,
};

/// What was decided about one snapshot.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Id.
    pub id: String,
    /// Sealer and number.
    pub snapshot: String,
    /// When it was sealed, by the sealer's clock.
    pub time: String,
    /// The moment that counts, in the time zone of the policy.
    pub counts: String,
    /// Host.
    pub host: String,
    /// Paths.
    pub paths: Vec<String>,
    /// Tags.
    pub tags: Vec<String>,
    /// What is counted together.
    pub group: String,
    /// Whether it stays.
    pub keep: bool,
    /// The rules that keep it.
    pub reasons: Vec<Reason>,
    /// Why it pushes out no other.
    pub doubt: Option<Doubt>,
}

/// The whole decision.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Time zone of hours, days, weeks, months and years.
    pub time_zone: String,
    /// Whether nothing was written down.
    pub dry_run: bool,
    /// Every snapshot, group by group, oldest first.
    pub snapshots: Vec<Row>,
    /// How many stay.
    pub kept: usize,
    /// How many go.
    pub forgotten: usize,
    /// The record that says so.
    pub record: Option<String>,
    /// Snapshots that could not be judged, and so stay.
    #[serde(skip)]
    pub findings: Vec<Finding>,
}

pub(super) fn of(
    groups: &[Group],
    going: &BTreeSet<SnapshotId>,
    options: &Options,
    record: Option<String>,
    findings: Vec<Finding>,
) -> Report {
    let mut snapshots = Vec::new();
    for group in groups {
        // Snapshots that are named are a decision of their own; those that are not, nobody asked about.
        let rows = group.rows.iter().filter(|row| options.named.is_empty() || going.contains(&row.candidate.id));
        snapshots.extend(rows.map(|row| {
            let c = &row.candidate;
            let keep = !going.contains(&c.id);
            Row {
                id: c.id.to_string(),
                snapshot: c.key.to_string(),
                time: sys::utc_text(c.time_ns),
                counts: options.calendar.text(row.counts_ns),
                host: c.host.clone(),
                paths: c.paths.iter().cloned().collect(),
                tags: c.tags.iter().cloned().collect(),
                group: group.name.clone(),
                keep,
                reasons: if keep { row.reasons.clone() } else { Vec::new() },
                doubt: row.doubt,
            }
        }));
    }
    Report {
        time_zone: options.calendar.name(),
        dry_run: options.dry_run,
        kept: snapshots.iter().filter(|row| row.keep).count(),
        forgotten: going.len(),
        snapshots,
        record,
        findings,
    }
}
