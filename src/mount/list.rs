//! The snapshots of a mount at one moment, by everything that a path can name them by.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
};

use crate::{
    mount::{
        inode::{Mounted, hashed},
        names::safe,
    },
    sys,
    vault::{Snapshot, Timeline},
};

/// Snapshots kept that are no longer in the vault, for who has a file of them open.
const GONE_MAX: usize = 1024;

/// A host or a tag.
pub struct Group {
    /// The name as it is shown.
    pub name: String,
    /// What it is hashed to.
    pub hash: u64,
    /// Its snapshots, by their places in the list.
    pub members: Vec<usize>,
}

/// All snapshots, in order of time. Never changed: a new one takes its place.
#[derive(Default)]
pub struct SnapshotList {
    /// Counts the lists of this mount.
    pub generation: u64,
    /// When its directories changed last, ns since 1970: the time of the newest snapshot, or as little more as makes it another than before.
    pub changed_ns: i128,
    /// The snapshots.
    pub all: Vec<Arc<Mounted>>,
    /// The same, for those who know no mount.
    pub line: Timeline,
    /// The same, to choose from.
    pub snapshots: Vec<Arc<Snapshot>>,
    /// Those of each host, by name.
    pub hosts: Vec<Group>,
    /// Those of each tag, by name.
    pub tags: Vec<Group>,
    /// Days that have a snapshot.
    pub days: Vec<String>,
    by_serial: HashMap<u32, usize>,
    by_name: HashMap<String, usize>,
    gone: VecDeque<Arc<Mounted>>,
}

impl SnapshotList {
    /// The list that comes after this one. Returns what cannot be shown, one line each, too.
    pub fn next(&self, all: Vec<Arc<Mounted>>, line: Timeline) -> (Self, Vec<String>) {
        let mut problems = Vec::new();
        let mut next = Self { generation: self.generation + 1, line, gone: self.gone.clone(), ..Self::default() };
        next.changed_ns =
            all.iter().map(|m| m.snapshot.manifest.time_ns).max().unwrap_or(0).max(self.changed_ns + i128::from(self.generation > 0));
        next.by_serial = all.iter().enumerate().map(|(n, m)| (m.serial, n)).collect();
        next.by_name = all.iter().enumerate().map(|(n, m)| (m.name.clone(), n)).collect();
        next.snapshots = all.iter().map(|m| m.snapshot.clone()).collect();
        next.gone.extend(self.all.iter().filter(|m| !next.by_serial.contains_key(&m.serial)).cloned());
        next.gone.retain(|m| !next.by_serial.contains_key(&m.serial));
        next.gone.drain(..next.gone.len().saturating_sub(GONE_MAX));
        next.hosts = groups(all.iter().map(|m| std::slice::from_ref(&m.snapshot.manifest.host)), "host", &mut problems);
        next.tags = groups(all.iter().map(|m| &m.snapshot.manifest.tags[..]), "tag", &mut problems);
        next.days = all.iter().map(|m| sys::day_name(m.snapshot.manifest.time_ns)).collect();
        next.days.sort_unstable();
        next.days.dedup();
        next.all = all;
        (next, problems)
    }

    /// The snapshot with this number, if it is or was there.
    pub fn by_serial(&self, serial: u32) -> Option<&Arc<Mounted>> {
        self.by_serial.get(&serial).map(|n| &self.all[*n]).or_else(|| self.gone.iter().find(|m| m.serial == serial))
    }

    /// The snapshot whose directory has this name.
    pub fn by_name(&self, name: &[u8]) -> Option<&Arc<Mounted>> {
        self.by_name.get(std::str::from_utf8(name).ok()?).map(|n| &self.all[*n])
    }

    /// The newest of `host`, else the newest.
    pub fn latest(&self, host: &str) -> Option<&Arc<Mounted>> {
        self.all.iter().rev().find(|m| m.snapshot.manifest.host == host).or(self.all.last())
    }
}

/// Sorts snapshots by the names that each has.
fn groups<'a>(names: impl Iterator<Item = &'a [String]>, what: &str, problems: &mut Vec<String>) -> Vec<Group> {
    let mut found: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (n, names) in names.enumerate() {
        for name in names {
            let members = found.entry(name).or_default();
            if members.last() != Some(&n) {
                members.push(n);
            }
        }
    }
    let mut groups: Vec<Group> = Vec::with_capacity(found.len());
    let (mut shown, mut hashes) = (std::collections::HashSet::new(), std::collections::HashSet::new());
    for (text, members) in found {
        let (name, hash) = (safe(text), hashed(text));
        if !shown.insert(name.clone()) || !hashes.insert(hash) {
            problems.push(format!("{what} {text:?} is not shown: another one has the same name or number"));
            continue;
        }
        groups.push(Group { name, hash, members });
    }
    groups.sort_by(|a, b| a.name.cmp(&b.name));
    groups
}
