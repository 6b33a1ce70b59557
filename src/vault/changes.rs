//! What differs between two directories, and below them, without reading what is equal.
//!
//! Both are read in order of names, part by part; parts and directories with equal ids are skipped. Nothing is kept but the two
//! nodes that are being read on each level.

use std::{ops::ControlFlow, sync::Arc};

use crate::{
    error::{Error, Result},
    format::{ChunkId, Content, DIR_DEPTH_MAX, DomainId, DomainKeys, Entry},
    vault::{
        Reader, Snapshot,
        dirs::{DirNode, Dirs, Held},
        history::is_same,
    },
};

/// One of the two trees: its keys, and whose they are.
#[derive(Clone)]
pub struct Side {
    /// The keys of its domain.
    pub keys: Arc<DomainKeys>,
    /// The domain.
    pub domain: DomainId,
    /// The root node.
    pub root: ChunkId,
}

impl Side {
    /// The tree of `snapshot`.
    pub fn of(reader: &Reader, snapshot: &Snapshot) -> Self {
        Self { keys: reader.keys(snapshot), domain: snapshot.manifest.domain, root: snapshot.manifest.root }
    }
}

/// A name at which two directories differ; at least one of both is there.
pub struct Pair {
    /// What the older one has.
    pub old: Option<Held>,
    /// What the newer one has.
    pub new: Option<Held>,
}

/// What a difference is to who looks for files. Directories are none: they hold some.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Only the newer tree has it, or the older one has a directory there.
    Added,
    /// Both have it, and something about it differs.
    Modified,
    /// Only the older tree has it, or the newer one has a directory there.
    Removed,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 3] = [Kind::Added, Kind::Modified, Kind::Removed];

    /// The bit that stands for it in a set.
    pub fn bit(self) -> u8 {
        1 << self as u8
    }
}

fn is_dir(held: &Option<Held>) -> bool {
    held.as_ref().is_some_and(|h| h.entry().is_dir())
}

fn is_file(held: &Option<Held>) -> bool {
    held.as_ref().is_some_and(|h| !h.entry().is_dir())
}

fn node(held: &Option<Held>) -> Option<ChunkId> {
    match held.as_ref().map(|h| &h.entry().content) {
        Some(Content::Dir { node, .. }) => Some(*node),
        _ => None,
    }
}

impl Pair {
    /// Whether this name itself is a change of that kind.
    pub fn is(&self, kind: Kind) -> bool {
        match kind {
            Kind::Added => is_file(&self.new) && !is_file(&self.old),
            Kind::Modified => is_file(&self.new) && is_file(&self.old),
            Kind::Removed => is_file(&self.old) && !is_file(&self.new),
        }
    }

    /// The directories of that name, if one of both is one and they are not the same all the way down.
    pub fn dirs(&self) -> Option<(Option<ChunkId>, Option<ChunkId>)> {
        let dirs = (node(&self.old), node(&self.new));
        (dirs.0 != dirs.1).then_some(dirs)
    }

    /// The entry that stands for it: the newer one if there is one.
    pub fn entry(&self) -> Option<&Entry> {
        self.new.as_ref().or(self.old.as_ref()).map(Held::entry)
    }

    /// Whether the name is that of a directory on either side.
    pub fn has_dir(&self) -> bool {
        is_dir(&self.old) || is_dir(&self.new)
    }
}

/// Reads a directory in order of names, opening a part only when it must.
struct Cursor {
    /// Parts yet to be read, the next one last, each with its first name.
    parts: Vec<(Box<[u8]>, ChunkId)>,
    here: Option<Held>,
}

enum Head<'a> {
    End,
    Part(&'a [u8], ChunkId),
    Entry(&'a [u8]),
}

impl Cursor {
    fn new(dir: Option<ChunkId>) -> Self {
        Self { parts: dir.into_iter().map(|id| (Box::default(), id)).collect(), here: None }
    }

    fn head(&self) -> Head<'_> {
        match (&self.here, self.parts.last()) {
            (Some(held), _) => Head::Entry(&held.entry().name),
            (None, Some((name, id))) => Head::Part(name, *id),
            (None, None) => Head::End,
        }
    }

    fn open(&mut self, dirs: &Dirs, keys: &DomainKeys) -> Result<()> {
        if let Some((_, id)) = self.parts.pop() {
            let node = dirs.node(keys, &id)?;
            match &*node {
                DirNode::Leaf(_) => self.here = dirs.first_of(&node),
                DirNode::Split(parts) => self.parts.extend(parts.iter().rev().cloned()),
            }
        }
        Ok(())
    }

    fn take(&mut self) -> Option<Held> {
        let held = self.here.take();
        self.here = held.as_ref().and_then(Held::next);
        held
    }
}

/// The names at which two directories differ, in order.
pub struct Differing<'a> {
    dirs: &'a Dirs,
    sides: (&'a Side, &'a Side),
    old: Cursor,
    new: Cursor,
}

impl<'a> Differing<'a> {
    /// Compares the directories with these nodes; one may be absent.
    pub fn new(dirs: &'a Dirs, old_side: &'a Side, new_side: &'a Side, old: Option<ChunkId>, new: Option<ChunkId>) -> Self {
        Self { dirs, sides: (old_side, new_side), old: Cursor::new(old), new: Cursor::new(new) }
    }

    /// The next name.
    pub fn next_pair(&mut self) -> Result<Option<Pair>> {
        enum Step {
            Skip,
            OpenOld,
            OpenNew,
            Old,
            New,
            Both,
        }
        let one_domain = self.sides.0.domain == self.sides.1.domain;
        loop {
            let step = match (self.old.head(), self.new.head()) {
                (Head::End, Head::End) => return Ok(None),
                (Head::Part(_, a), Head::Part(_, b)) if one_domain && a == b => Step::Skip,
                // The part with the smaller first name; the other one may yet turn out to be skipped.
                (Head::Part(a, _), Head::Part(b, _)) if a <= b => Step::OpenOld,
                (Head::Part(..), Head::Part(..)) => Step::OpenNew,
                (Head::Part(first, _), Head::Entry(name)) if first > name => Step::New,
                (Head::Part(..), _) => Step::OpenOld,
                (Head::Entry(name), Head::Part(first, _)) if first > name => Step::Old,
                (_, Head::Part(..)) => Step::OpenNew,
                (Head::Entry(_), Head::End) => Step::Old,
                (Head::End, Head::Entry(_)) => Step::New,
                (Head::Entry(a), Head::Entry(b)) => match a.cmp(b) {
                    std::cmp::Ordering::Less => Step::Old,
                    std::cmp::Ordering::Greater => Step::New,
                    std::cmp::Ordering::Equal => Step::Both,
                },
            };
            let pair = match step {
                Step::Skip => {
                    self.old.parts.pop();
                    self.new.parts.pop();
                    continue;
                }
                Step::OpenOld => {
                    self.old.open(self.dirs, &self.sides.0.keys)?;
                    continue;
                }
                Step::OpenNew => {
                    self.new.open(self.dirs, &self.sides.1.keys)?;
                    continue;
                }
                Step::Old => Pair { old: self.old.take(), new: None },
                Step::New => Pair { old: None, new: self.new.take() },
                Step::Both => Pair { old: self.old.take(), new: self.new.take() },
            };
            match (&pair.old, &pair.new) {
                (Some(a), Some(b)) if is_same(a.entry(), b.entry(), one_domain) => (),
                _ => return Ok(Some(pair)),
            }
        }
    }
}

/// Where a walk of changes goes from a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Go {
    /// Into the directory of that name, if there is one.
    In,
    /// To the next name, past what is in that directory.
    Past,
    /// Nowhere: it has seen enough.
    Stop,
}

/// Calls `each` with the path (absolute) of everything that differs between the directories `old` and `new`, and below them, in order
/// of names, a directory before what is in it, until `each` breaks.
///
/// Cost: in proportion to the directories that differ. Memory: two nodes a level.
pub fn each_change(
    dirs: &Dirs,
    sides: (&Side, &Side),
    pair: (Option<ChunkId>, Option<ChunkId>),
    mut each: impl FnMut(&[u8], &Pair) -> Result<ControlFlow<()>>,
) -> Result<()> {
    walk_changes(dirs, sides, pair, |path, pair| Ok(if each(path, pair)?.is_break() { Go::Stop } else { Go::In }), |_, e| Err(e))
}

/// The same, going where `each` says. `unreadable` is told of a directory that cannot be read to its end; unless it fails, that is passed over.
pub fn walk_changes(
    dirs: &Dirs,
    sides: (&Side, &Side),
    (old, new): (Option<ChunkId>, Option<ChunkId>),
    mut each: impl FnMut(&[u8], &Pair) -> Result<Go>,
    mut unreadable: impl FnMut(&[u8], Error) -> Result<()>,
) -> Result<()> {
    if old == new && sides.0.domain == sides.1.domain {
        return Ok(());
    }
    let mut path: Vec<u8> = Vec::new();
    let mut levels = vec![(Differing::new(dirs, sides.0, sides.1, old, new), 0)];
    while let Some((level, len)) = levels.last_mut() {
        path.truncate(*len);
        let pair = match level.next_pair() {
            Ok(Some(pair)) => pair,
            Ok(None) => {
                levels.pop();
                continue;
            }
            Err(e) => {
                unreadable(&path, e)?;
                levels.pop();
                continue;
            }
        };
        path.push(b'/');
        path.extend_from_slice(pair.entry().map(|e| &*e.name).unwrap_or_default());
        match each(&path, &pair)? {
            Go::In => (),
            Go::Past => continue,
            Go::Stop => return Ok(()),
        }
        if let Some((old, new)) = pair.dirs() {
            if levels.len() > DIR_DEPTH_MAX {
                return Err(Error::corrupt("directories are nested too deep"));
            }
            levels.push((Differing::new(dirs, sides.0, sides.1, old, new), path.len()));
        }
    }
    Ok(())
}

/// Which kinds of changes there are between these directories and below, as bits; looks no further than it must.
pub fn kinds(dirs: &Dirs, sides: (&Side, &Side), pair: (Option<ChunkId>, Option<ChunkId>)) -> Result<u8> {
    let possible = match pair {
        (None, _) => Kind::Added.bit(),
        (_, None) => Kind::Removed.bit(),
        _ => Kind::ALL.iter().map(|k| k.bit()).sum(),
    };
    let mut found = 0;
    each_change(dirs, sides, pair, |_, pair| {
        found |= Kind::ALL.iter().filter(|kind| pair.is(**kind)).map(|kind| kind.bit()).sum::<u8>();
        Ok(if found == possible { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })?;
    Ok(found)
}
