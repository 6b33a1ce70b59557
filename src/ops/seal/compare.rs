//! What a seal found changed since the one before it, and whether that looks like an accident or an attack.
//!
//! Counts are of regular files. They come from the listings that the catalog remembers; a sealer cannot read trees back.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

use crate::{
    format::{Manifest, SnapshotId, SnapshotKey, Stats, Suspicion, SuspicionKind},
    ops::seal::Context,
};

/// Files as they were met. Counted by the walk alone.
#[derive(Debug, Default)]
pub struct Tally {
    new: AtomicU64,
    changed: AtomicU64,
    unchanged: AtomicU64,
}

impl Tally {
    /// Counts a file: `Some(true)` is known and the same, `Some(false)` known and changed, `None` not known.
    pub fn file(&self, known: Option<bool>) {
        let count = match known {
            None => &self.new,
            Some(false) => &self.changed,
            Some(true) => &self.unchanged,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts files of a directory that is the same.
    pub fn unchanged(&self, files: u64) {
        self.unchanged.fetch_add(files, Ordering::Relaxed);
    }
}

/// Files of this snapshot and of the one before it, of the same sources.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Changes {
    /// Files that the one before did not have.
    pub new: u64,
    /// Files whose content or attributes are others.
    pub changed: u64,
    /// Files that are the same.
    pub unchanged: u64,
    /// Files that are gone.
    pub removed: u64,
}

impl Changes {
    /// `before` is the snapshot before, if there is one.
    pub fn of(tally: &Tally, before: Option<&Stats>) -> Self {
        let [new, changed, unchanged] = [&tally.new, &tally.changed, &tally.unchanged].map(|n| n.load(Ordering::Relaxed));
        let removed = before.map_or(0, |before| before.files.saturating_sub(changed + unchanged));
        Self { new, changed, unchanged, removed }
    }
}

/// How far back a snapshot of the same sources is looked for.
const BACK_MAX: usize = 1000;

/// This host's newest snapshot of the same sources, from `head` back, among those whose manifests it kept.
pub fn before(context: &Context, head: Option<(u64, SnapshotId)>, host: &str, sources: &[Vec<u8>]) -> Option<(SnapshotId, Manifest)> {
    let (mut seq, mut id) = head?;
    for _ in 0..BACK_MAX {
        let key = SnapshotKey { sealer: context.sealer.name.clone(), seq };
        let manifest = Manifest::decode(&context.state.manifest(&key, &id)?).ok()?;
        if manifest.sources == sources && manifest.host == host {
            return Some((id, manifest));
        }
        (seq, id) = (seq.checked_sub(1)?, manifest.previous?);
    }
    None
}

/// Fewer files than this are rearranged by hand, and nobody is alarmed.
const FILES_MIN: u64 = 20;
/// Raw bytes from which compression tells something, and the share that it saves of what is not encrypted already.
const RAW_LEN_MIN: u64 = 1 << 20;
const SAVED_MIN_PERCENT: u64 = 5;

/// What of `changes` looks like an accident or an attack. `raw` and `compressed` are the bytes of new content in this seal.
pub fn suspect(before: &Stats, changes: &Changes, raw: u64, compressed: u64) -> Vec<Suspicion> {
    let mut found = Vec::new();
    if before.files < FILES_MIN {
        return found;
    }
    if changes.removed * 2 > before.files {
        let text = format!("{} of {} files are gone since the snapshot before", changes.removed, before.files);
        found.push(Suspicion { kind: SuspicionKind::MostGone, text });
    }
    let incompressible = raw >= RAW_LEN_MIN && compressed >= raw / 100 * (100 - SAVED_MIN_PERCENT);
    if changes.changed * 2 > before.files && incompressible {
        let text = format!(
            "{} of {} files were rewritten, with content that does not compress, as encrypted files do not",
            changes.changed, before.files
        );
        found.push(Suspicion { kind: SuspicionKind::MostRewritten, text });
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_most_files_gone_or_scrambled_are_suspicious() {
        let before = Stats { files: 100, ..Stats::default() };
        let kinds = |new, changed, unchanged, raw, compressed| -> Vec<SuspicionKind> {
            let changes = Changes { new, changed, unchanged, removed: 100 - changed - unchanged };
            suspect(&before, &changes, raw, compressed).into_iter().map(|s| s.kind).collect()
        };
        let (mib, most) = (1 << 20, (1 << 20) / 100 * 96);
        assert_eq!(kinds(0, 0, 100, 0, 0), []);
        assert_eq!(kinds(500, 0, 100, 50 * mib, 50 * mib), [], "new files are no loss");
        assert_eq!(kinds(0, 0, 50, 0, 0), [], "half is not most");
        assert_eq!(kinds(0, 0, 49, 0, 0), [SuspicionKind::MostGone]);
        assert_eq!(kinds(0, 60, 40, mib, mib / 3), [], "an upgrade rewrites, and compresses");
        assert_eq!(kinds(0, 60, 40, mib, most), [SuspicionKind::MostRewritten]);
        assert_eq!(kinds(0, 60, 40, 1000, 1000), [], "too little to tell");
        assert_eq!(kinds(100, 0, 0, 90 * mib, 90 * mib), [SuspicionKind::MostGone], "renamed by who encrypted them");
        let few = Stats { files: 19, ..Stats::default() };
        assert_eq!(suspect(&few, &Changes { removed: 19, ..Changes::default() }, 0, 0), []);
    }
}
