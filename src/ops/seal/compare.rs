//! What a seal found changed since the one before it, and whether that looks like an accident or an attack.
//!
//! Counts are of regular files. They come from the listings that the catalog remembers; a sealer cannot read trees back.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

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
    /// Something could not be compared, so that no count means anything.
    incomplete: AtomicBool,
}

impl Tally {
    /// Notes that a directory could not be listed, or that nothing is remembered of where a file stands.
    pub fn give_up(&self) {
        self.incomplete.store(true, Ordering::Relaxed);
    }

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
    /// `before` is the snapshot before, if there is one. `None` if the counts mean nothing.
    pub fn of(tally: &Tally, before: Option<&Stats>) -> Option<Self> {
        if tally.incomplete.load(Ordering::Relaxed) {
            return None;
        }
        let [new, changed, unchanged] = [&tally.new, &tally.changed, &tally.unchanged].map(|n| n.load(Ordering::Relaxed));
        let removed = before.map_or(0, |before| before.files.saturating_sub(changed + unchanged));
        Some(Self { new, changed, unchanged, removed })
    }
}

/// How far back a snapshot of the same sources is looked for.
const BACK_MAX: usize = 1000;

/// The snapshot before: its id, its manifest, and whether the catalog's listings are still those of it.
pub struct Before {
    pub id: SnapshotId,
    pub manifest: Manifest,
    /// False if a later seal went over some of the same paths.
    pub is_remembered: bool,
}

/// This host's newest snapshot of the same sources, from `head` back, among those whose manifests it kept.
pub fn before(context: &Context, head: Option<(u64, SnapshotId)>, host: &str, sources: &[Vec<u8>]) -> Option<Before> {
    let (mut seq, mut id) = head?;
    let mut is_remembered = true;
    for _ in 0..BACK_MAX {
        let key = SnapshotKey { sealer: context.sealer.name.clone(), seq };
        let manifest = Manifest::decode(&context.state.manifest(&key, &id)?).ok()?;
        if manifest.sources == sources && manifest.host == host {
            return Some(Before { id, manifest, is_remembered });
        }
        is_remembered &= !manifest.sources.iter().any(|theirs| sources.iter().any(|ours| is_below(ours, theirs) || is_below(theirs, ours)));
        (seq, id) = (seq.checked_sub(1)?, manifest.previous?);
    }
    None
}

/// Whether `path` is `top` or lies below it.
fn is_below(path: &[u8], top: &[u8]) -> bool {
    let top = top.strip_suffix(b"/").unwrap_or(top);
    path.strip_prefix(top).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
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
    // Files that were moved are there again, and bring no content with them.
    let moved = changes.new * 2 >= changes.removed && raw < before.logical_bytes / 10;
    if changes.removed * 2 > before.files && !moved {
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
        let before = Stats { files: 100, logical_bytes: 90 << 20, ..Stats::default() };
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
        assert_eq!(kinds(100, 0, 0, mib, mib), [], "a directory got another name");
        let few = Stats { files: 19, ..Stats::default() };
        assert_eq!(suspect(&few, &Changes { removed: 19, ..Changes::default() }, 0, 0), []);
    }
}
