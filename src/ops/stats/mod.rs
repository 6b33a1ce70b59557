//! Stats: how much is in a vault, what it costs, how it grows.
//!
//! `biggest` looks through one snapshot; `alone` through all of them, for what only one holds.

mod alone;
mod biggest;

pub use alone::{Alone, alone};
pub use biggest::{Big, Biggest, biggest};

use std::collections::BTreeSet;

use serde::Serialize;

use crate::{
    error::Result,
    ops::look::{Look, SnapshotRow},
    store::{self, Key},
    vault::{Journal, Reader},
};

const DAY_NS: f64 = 86_400e9;
/// Growth is that of so many newest days, or of all if there are fewer.
const GROWTH_DAYS: f64 = 30.0;

/// Objects of one kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Objects {
    /// `packs`, `index`, `snaps` or `other`.
    pub kind: String,
    /// How many.
    pub objects: u64,
    /// Bytes of them.
    pub bytes: u64,
}

/// How a vault grew.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Growth {
    /// Over so many days.
    pub days: f64,
    /// Bytes stored a day, on average.
    pub stored_bytes_a_day: f64,
}

/// What a vault holds.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Snapshots that can be read.
    pub snapshots: usize,
    /// Hosts that they are of.
    pub hosts: usize,
    /// The oldest snapshot.
    pub oldest: Option<SnapshotRow>,
    /// The newest one.
    pub newest: Option<SnapshotRow>,
    /// Files in the newest one.
    pub newest_files: u64,
    /// Bytes of the files in the newest one.
    pub newest_bytes: u64,
    /// Bytes of the files in all of them, each counted whole.
    pub logical_bytes: u64,
    /// Bytes of all distinct chunks, directories included, before compression. What only forgotten snapshots have counts as long as it is
    /// there.
    pub unique_bytes: u64,
    /// The same, compressed.
    pub compressed_bytes: u64,
    /// Bytes of all objects.
    pub stored_bytes: u64,
    /// Forgotten snapshots that can still come back.
    pub forgotten: usize,
    /// Objects that prune condemned and that are still there.
    pub condemned_objects: u64,
    /// Bytes of them; part of `stored_bytes`.
    pub condemned_bytes: u64,
    /// Objects by kind.
    pub objects: Vec<Objects>,
    /// Logical bytes for each distinct one.
    pub dedup_ratio: f64,
    /// Distinct bytes for each compressed one.
    pub compression_ratio: f64,
    /// Logical bytes for each stored one.
    pub ratio: f64,
    /// How it grew of late; nothing before there are two snapshots at two times.
    pub growth: Option<Growth>,
    /// The largest files and directories of one snapshot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub biggest: Option<Biggest>,
    /// What each snapshot alone holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alone: Option<Vec<Alone>>,
}

/// Counts what is there: from the list of objects, the manifests and the index. Reads no directory.
pub fn run(look: &Look) -> Result<Report> {
    let all = || (0..look.line.len()).map(|n| look.line.snapshot(n));
    let there = store::list_all(&*look.dirs.reader().vault.store, "")?;
    let objects = objects(&there);
    let (forgotten, condemned) = going(look, &there)?;
    let stored_bytes = objects.iter().map(|o| o.bytes).sum();
    let (unique_bytes, compressed_bytes) = look.dirs.reader().with_index(|index| index.bytes());
    let logical_bytes = all().map(|s| s.manifest.stats.logical_bytes).sum();
    let newest = all().last();
    Ok(Report {
        snapshots: look.line.len(),
        hosts: all().map(|s| &s.manifest.host).collect::<BTreeSet<_>>().len(),
        oldest: all().next().map(|s| SnapshotRow::of(s)),
        newest: newest.map(|s| SnapshotRow::of(s)),
        newest_files: newest.map_or(0, |s| s.manifest.stats.files),
        newest_bytes: newest.map_or(0, |s| s.manifest.stats.logical_bytes),
        logical_bytes,
        unique_bytes,
        compressed_bytes,
        stored_bytes,
        forgotten,
        condemned_objects: condemned.objects,
        condemned_bytes: condemned.bytes,
        objects,
        dedup_ratio: ratio(logical_bytes, unique_bytes),
        compression_ratio: ratio(unique_bytes, compressed_bytes),
        ratio: ratio(logical_bytes, stored_bytes),
        growth: growth(&all().map(|s| (s.manifest.time_ns, s.manifest.stats.stored_bytes)).collect::<Vec<_>>()),
        biggest: None,
        alone: None,
    })
}

fn objects(there: &[(Key, u64)]) -> Vec<Objects> {
    let mut objects: Vec<Objects> = ["packs", "parity", "index", "snaps", "other"]
        .iter()
        .map(|kind| Objects { kind: (*kind).to_owned(), ..Objects::default() })
        .collect();
    for (key, len) in there {
        let folder = key.as_str().split('/').next().unwrap_or_default();
        let at = objects.iter().position(|o| o.kind == folder).unwrap_or(objects.len() - 1);
        objects[at].objects += 1;
        objects[at].bytes += len;
    }
    objects
}

/// Forgotten snapshots that can still come back, and what is condemned and still there.
fn going(look: &Look, there: &[(Key, u64)]) -> Result<(usize, Objects)> {
    let Reader { vault, owner, .. } = look.dirs.reader();
    let journal = Journal::load(vault, Some(&owner.sign.public()))?;
    let mut paths = BTreeSet::new();
    for condemnation in journal.condemnations.iter().filter(|c| !c.settled) {
        paths.extend(journal.condemned(vault, condemnation)?.into_iter().map(|line| line.path));
    }
    let mut condemned = Objects { kind: "condemned".to_owned(), ..Objects::default() };
    for (_, len) in there.iter().filter(|(key, _)| paths.contains(key.as_str())) {
        (condemned.objects, condemned.bytes) = (condemned.objects + 1, condemned.bytes + len);
    }
    Ok((journal.forgotten.values().filter(|forgotten| !forgotten.gone).count(), condemned))
}

fn ratio(a: u64, b: u64) -> f64 {
    if b == 0 { 1.0 } else { a as f64 / b as f64 }
}

/// The growth in the last days, from times and bytes stored. The first snapshot is what the others grew from.
fn growth(sealed: &[(i128, u64)]) -> Option<Growth> {
    let (last, _) = sealed.last()?;
    let days_before = |ns: i128| (last - ns) as f64 / DAY_NS;
    let from = sealed.iter().position(|(ns, _)| days_before(*ns) <= GROWTH_DAYS)?;
    let days = days_before(sealed[from].0);
    let bytes: u64 = sealed[from + 1..].iter().map(|(_, bytes)| bytes).sum();
    (days > 0.0).then(|| Growth { days, stored_bytes_a_day: bytes as f64 / days })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_that_of_the_last_month() {
        let day = |n: i128| n * 86_400_000_000_000;
        assert_eq!(growth(&[]), None);
        assert_eq!(growth(&[(day(1), 500)]), None);
        let of = |sealed: &[(i128, u64)]| growth(sealed).map(|g| (g.days, g.stored_bytes_a_day));
        assert_eq!(of(&[(day(1), 500), (day(3), 20)]), Some((2.0, 10.0)));
        assert_eq!(of(&[(day(1), 500), (day(100), 20), (day(110), 30), (day(120), 50)]), Some((20.0, 4.0)));
    }
}
