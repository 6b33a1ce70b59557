//! Diff: what differs between two snapshots, from a path down.
//!
//! `renames` finds what only moved, in a walk before; `text` compares contents. Equal directories are never read.

mod renames;
mod text;

pub use text::{Compared, compare};

use std::ops::ControlFlow;

use serde::Serialize;

use crate::{
    error::{ErrorKind, Result},
    format::{ChunkId, Content, Entry},
    ops::{
        look::Look,
        ls::missing,
        row::{Facet, Facts, PathText, facets},
    },
    sys::Cancel,
    vault::{Go, Pair, Side, parts_of, walk_changes},
};

/// What became of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// Only the newer snapshot has it.
    Added,
    /// Only the older one has it.
    Removed,
    /// Both have it, with other content or as another type.
    Modified,
    /// Both have it, and only what is said of it differs: mode, owner, time, extended attributes.
    Metadata,
    /// It stands elsewhere now, with the same content.
    Renamed,
}

impl Change {
    /// All of them.
    pub const ALL: [Change; 5] = [Change::Added, Change::Removed, Change::Modified, Change::Metadata, Change::Renamed];

    /// The letter that stands for it.
    pub fn letter(self) -> char {
        match self {
            Change::Added => '+',
            Change::Removed => '-',
            Change::Modified => 'M',
            Change::Metadata => 'm',
            Change::Renamed => 'R',
        }
    }

    /// The word.
    pub fn word(self) -> &'static str {
        match self {
            Change::Added => "added",
            Change::Removed => "removed",
            Change::Modified => "modified",
            Change::Metadata => "metadata only",
            Change::Renamed => "renamed",
        }
    }
}

/// One difference.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// What became of it.
    pub change: Change,
    /// The path; the new one of what was renamed.
    #[serde(flatten)]
    pub path: PathText,
    /// The old path of what was renamed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<PathText>,
    /// In what both differ.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub changed: Vec<Facet>,
    /// What the older snapshot has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub old: Option<Facts>,
    /// What the newer one has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub new: Option<Facts>,
    /// The entries themselves.
    #[serde(skip)]
    pub entries: (Option<Entry>, Option<Entry>),
}

/// How much differs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Count {
    /// Entries; one for a directory that was renamed with all that is in it.
    pub entries: u64,
    /// Of these, directories.
    pub dirs: u64,
    /// Bytes of files in the older snapshot.
    pub old_bytes: u64,
    /// Bytes of files in the newer one.
    pub new_bytes: u64,
}

/// How much differs, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Stat {
    /// Only in the newer snapshot.
    pub added: Count,
    /// Only in the older one.
    pub removed: Count,
    /// Other content.
    pub modified: Count,
    /// Same content.
    pub metadata: Count,
    /// Same content elsewhere.
    pub renamed: Count,
    /// Whether there was too much to look for renames.
    pub renames_unknown: bool,
}

impl Stat {
    /// The count of one kind.
    pub fn of(&self, change: Change) -> &Count {
        match change {
            Change::Added => &self.added,
            Change::Removed => &self.removed,
            Change::Modified => &self.modified,
            Change::Metadata => &self.metadata,
            Change::Renamed => &self.renamed,
        }
    }

    fn count(&mut self, row: &Row) {
        let count = match row.change {
            Change::Added => &mut self.added,
            Change::Removed => &mut self.removed,
            Change::Modified => &mut self.modified,
            Change::Metadata => &mut self.metadata,
            Change::Renamed => &mut self.renamed,
        };
        let size = |entry: &Option<Entry>| entry.as_ref().map_or(0, Entry::size);
        let is_dir = |entry: &Option<Entry>| entry.as_ref().is_some_and(Entry::is_dir);
        count.entries += 1;
        count.dirs += u64::from(is_dir(&row.entries.1) || is_dir(&row.entries.0));
        count.old_bytes += size(&row.entries.0);
        count.new_bytes += size(&row.entries.1);
    }
}

/// What became of a comparison.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// How much differs.
    pub stat: Stat,
    /// Directories that could not be read, and why the first of them.
    pub unreadable: Option<(usize, String)>,
}

/// What to compare, and how.
pub struct Options<'a> {
    /// Where to begin; `/` or nothing for everything.
    pub path: &'a [u8],
    /// Whether to look for what only moved.
    pub renames: bool,
}

/// Calls `each` with what differs between the snapshots with the numbers `old` and `new`, in order of paths. Stops when `each` breaks.
///
/// A directory is told if it was added or removed, or if something about it other than its time differs.
///
/// # Errors
/// `NotFound` if neither snapshot has the path.
///
/// Cost: in proportion to what differs. Memory: two nodes a level, and about 100 bytes for each path that is added or removed, for the renames.
pub fn run(
    look: &Look,
    (old, new): (usize, usize),
    options: &Options,
    cancel: &Cancel,
    mut each: impl FnMut(Row) -> Result<ControlFlow<()>>,
) -> Result<Report> {
    let sides = (look.side(old), look.side(new));
    let sides = (&sides.0, &sides.1);
    let one_domain = sides.0.domain == sides.1.domain;
    let shown: Vec<u8> = parts_of(options.path).flat_map(|part| [b"/", part].concat()).collect();
    let mut stat = Stat::default();
    let entries = (entry_at(look, old, sides.0, &shown)?, entry_at(look, new, sides.1, &shown)?);
    if !shown.is_empty() && entries.0.is_none() && entries.1.is_none() {
        return Err(missing(look, new, &shown));
    }
    if !shown.is_empty()
        && let Some(row) = row_of(&shown, entries.clone(), one_domain)
    {
        stat.count(&row);
        if each(row)?.is_break() {
            return Ok(Report { stat, unreadable: None });
        }
    }
    let top = |entry: &Option<Entry>, side: &Side| match entry {
        Some(entry) => node(entry),
        None => shown.is_empty().then_some(side.root),
    };
    let pair = (top(&entries.0, sides.0), top(&entries.1, sides.1));
    let moved = match options.renames && one_domain {
        true => renames::find(look, sides, pair, &shown, cancel)?,
        false => renames::Renames::default(),
    };
    stat.renames_unknown = moved.unknown;
    let mut unreadable: Option<(usize, String)> = None;
    let each = |path: &[u8], pair: &Pair| {
        cancel.check()?;
        let full = [&shown[..], path].concat();
        if moved.is_source(&full) && pair.new.is_none() {
            return Ok(Go::Past);
        }
        let own = |pair: &Pair| (pair.old.as_ref().map(|h| h.entry().clone()), pair.new.as_ref().map(|h| h.entry().clone()));
        if let Some((from, was)) = moved.of(&full).filter(|_| pair.old.is_none()) {
            let (_, is) = own(pair);
            let row = Row {
                change: Change::Renamed,
                path: PathText::new(&full),
                from: Some(PathText::new(from)),
                changed: is.as_ref().map_or_else(Vec::new, |is| facets(was, is, true)),
                old: Some(Facts::of(was)),
                new: is.as_ref().map(Facts::of),
                entries: (Some(was.clone()), is),
            };
            stat.count(&row);
            return Ok(if each(row)?.is_break() { Go::Stop } else { Go::Past });
        }
        let Some(row) = row_of(&full, own(pair), one_domain) else { return Ok(Go::In) };
        stat.count(&row);
        Ok(if each(row)?.is_break() { Go::Stop } else { Go::In })
    };
    walk_changes(&look.dirs, sides, pair, each, |_, e| match e.kind() {
        ErrorKind::Corrupt | ErrorKind::Missing => {
            unreadable.get_or_insert_with(|| (0, e.chain())).0 += 1;
            Ok(())
        }
        _ => Err(e),
    })?;
    Ok(Report { stat, unreadable })
}

/// The entry at `path`, or none.
fn entry_at(look: &Look, n: usize, side: &Side, path: &[u8]) -> Result<Option<Entry>> {
    Ok(look.dirs.place(look.line.keys(n), &side.root, parts_of(path))?.map(|spot| spot.entry().clone()))
}

fn node(entry: &Entry) -> Option<ChunkId> {
    match entry.content {
        Content::Dir { node, .. } => Some(node),
        _ => None,
    }
}

/// The difference at a path itself; `None` if it is only in what a directory holds.
fn row_of(path: &[u8], entries: (Option<Entry>, Option<Entry>), one_domain: bool) -> Option<Row> {
    let (change, changed) = match &entries {
        (None, None) => return None,
        (None, Some(_)) => (Change::Added, Vec::new()),
        (Some(_), None) => (Change::Removed, Vec::new()),
        (Some(old), Some(new)) => {
            let mut changed = facets(old, new, one_domain);
            if old.is_dir() && new.is_dir() {
                // What it holds is told by itself; that its time moved says no more than that.
                changed.retain(|facet| !matches!(facet, Facet::Content | Facet::Time));
            }
            match changed.iter().all(|facet| facet.is_metadata()) {
                _ if changed.is_empty() => return None,
                true => (Change::Metadata, changed),
                false => (Change::Modified, changed),
            }
        }
    };
    let facts = |entry: &Option<Entry>| entry.as_ref().map(Facts::of);
    Some(Row { change, path: PathText::new(path), from: None, changed, old: facts(&entries.0), new: facts(&entries.1), entries })
}
