//! A vault opened for looking: its snapshots in order of time, and their directories. `ls`, `find`, `history`, `diff`, `stats` and `bisect`
//! start here.

use std::sync::Arc;

use serde::Serialize;

use crate::{
    error::Result,
    format::Content,
    sys,
    vault::{Dirs, Finding, OwnerKeys, Reader, Selector, Side, Snapshot, StateDir, Timeline, Vault, parts_of, select},
};

/// Frames kept, in bytes. Directories are read in the order in which they were stored, and fresh pages are dear.
const FRAMES_BYTES_MAX: u64 = 8 << 20;
/// Threads that read ahead.
const THREADS_MAX: usize = 4;
/// Decoded directories kept, in bytes.
const DIRS_BYTES_MAX: u64 = 24 << 20;

/// A vault, looked into.
pub struct Look {
    /// All snapshots that can be read, in order of time.
    pub line: Timeline,
    /// Their directories.
    pub dirs: Dirs,
}

impl Look {
    /// Reads the list of snapshots and the index, side by side. Says what was wrong on the way.
    pub fn open(vault: &Vault, owner: Arc<OwnerKeys>, state: &StateDir) -> Result<(Self, Vec<Finding>)> {
        owner.recall_headers(state);
        let (listed, opened) = std::thread::scope(|scope| {
            let listed = scope.spawn(|| vault.snapshots(&owner));
            let opened = Reader::open(vault.clone(), owner.clone(), FRAMES_BYTES_MAX);
            (listed.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), opened)
        });
        let ((snapshots, mut findings), (reader, more)) = (listed?, opened?);
        findings.extend(more);
        let line = Timeline::new(&reader, snapshots.into_iter().map(Arc::new));
        Ok((Self { line, dirs: Dirs::new(Arc::new(reader), DIRS_BYTES_MAX) }, findings))
    }

    /// Keeps what opening packs gave, for the next look.
    pub fn keep(&self, state: &StateDir) {
        self.dirs.reader().owner.keep_headers(state);
    }

    /// Ends, as the process does: what was decoded is not given back bit by bit, which takes a tenth of the time of a short answer.
    pub fn end(self) {
        self.dirs.end();
    }

    /// Reads the directories on the way to `path` in all snapshots, by all cores and in order of time, which is the order in which they were
    /// stored. What fails here fails again where it is asked for.
    pub fn warm(&self, path: &[u8]) {
        let mut numbers: Vec<usize> = (0..self.line.len()).collect();
        numbers.dedup_by_key(|n| self.line.snapshot(*n).manifest.root);
        sys::in_parallel(&numbers, THREADS_MAX, |n| {
            let (keys, mut node) = (self.line.keys(*n), self.line.snapshot(*n).manifest.root);
            for name in parts_of(path) {
                match self.dirs.named(keys, &node, name).ok().flatten().map(|held| held.entry().content.clone()) {
                    Some(Content::Dir { node: below, .. }) => node = below,
                    _ => return,
                }
            }
        });
    }

    /// The number in the timeline of the snapshot that `selector` means.
    pub fn select(&self, selector: &Selector) -> Result<usize> {
        let all: Vec<&Snapshot> = (0..self.line.len()).map(|n| &**self.line.snapshot(n)).collect();
        let found = select(&all, selector)?;
        Ok(all.iter().position(|s| s.id == found.id).expect("it was found among them"))
    }

    /// The tree of snapshot number `n`.
    pub fn side(&self, n: usize) -> Side {
        Side::of(self.dirs.reader(), self.line.snapshot(n))
    }

    /// How snapshot number `n` is named in what is said about it.
    pub fn named(&self, n: usize) -> SnapshotRow {
        SnapshotRow::of(self.line.snapshot(n))
    }
}

/// A snapshot, as other facts name it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SnapshotRow {
    /// Id.
    pub id: String,
    /// When it was sealed.
    pub time: String,
    /// The same, in ns since 1970.
    pub time_ns: i64,
    /// Host.
    pub host: String,
}

impl SnapshotRow {
    /// Names a snapshot.
    pub fn of(snapshot: &Snapshot) -> Self {
        Self {
            id: snapshot.id.to_string(),
            time: sys::utc_text(snapshot.manifest.time_ns),
            time_ns: i64::try_from(snapshot.manifest.time_ns).unwrap_or(i64::MAX),
            host: snapshot.manifest.host.clone(),
        }
    }

    /// The first digits of its id.
    pub fn short(&self) -> &str {
        &self.id[..8]
    }
}
