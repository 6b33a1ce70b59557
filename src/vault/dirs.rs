//! Directories of snapshots, decoded and kept: looked into by name, by place, by number.
//!
//! A large directory is stored in parts (docs/FORMAT.md section 5), and stays so here: for one name one part is read. An entry's
//! *number* is its place in a walk of the snapshot in order of names, 0 being the root; the counts in the tree give it without a walk.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use crate::{
    error::{Error, Result},
    format::{ChunkId, Content, DIR_DEPTH_MAX, DomainKeys, Entry, Node},
    pack::{Bounded, Weigh},
    vault::Reader,
};

/// Deepest nesting of a directory's parts; two levels hold 16 million entries.
const PARTS_DEPTH_MAX: usize = 8;
/// Bytes kept of the tables that number the parts of large directories, and of the counts they are made from, each.
const TABLES_BYTES_MAX: u64 = 24 << 20;

/// One node, decoded.
pub enum DirNode {
    /// The entries of a directory, or of a part of it.
    Leaf(Leaf),
    /// The parts of a large one, in order, each with its first name.
    Split(Vec<(Box<[u8]>, ChunkId)>),
}

/// Entries sorted by name.
pub struct Leaf {
    /// The entries.
    pub entries: Vec<Entry>,
    /// For each entry: how many numbers stand between the first one's and its; one more at the end for all of them.
    starts: Vec<u64>,
    weight: u64,
}

/// Where the parts of a large directory stand in it.
struct Table(Vec<Part>);

struct Part {
    first_name: Box<[u8]>,
    id: ChunkId,
    entries_before: usize,
    /// Numbers before it, the directory's own not counted.
    numbers_before: u64,
}

#[derive(Clone, Copy)]
struct Counts {
    entries: usize,
    numbers: u64,
}

impl Weigh for DirNode {
    fn weight(&self) -> u64 {
        match self {
            DirNode::Leaf(leaf) => leaf.weight,
            DirNode::Split(parts) => parts.iter().map(|(name, _)| 64 + name.len() as u64).sum(),
        }
    }
}

impl Weigh for Table {
    fn weight(&self) -> u64 {
        self.0.iter().map(|part| 96 + part.first_name.len() as u64).sum()
    }
}

impl Weigh for Counts {
    fn weight(&self) -> u64 {
        96
    }
}

impl Leaf {
    fn new(entries: Vec<Entry>) -> Self {
        let mut next = 0u64;
        let mut weight = 256;
        let mut starts = Vec::with_capacity(entries.len() + 1);
        for entry in &entries {
            starts.push(next);
            next = next.saturating_add(entry.span());
            weight += (8 + entry.memory()) as u64;
        }
        starts.push(next);
        Self { entries, starts, weight }
    }

    fn counts(&self) -> Counts {
        Counts { entries: self.entries.len(), numbers: *self.starts.last().expect("there is one more start than entries") }
    }
}

/// A directory that can be looked into.
#[derive(Clone)]
pub struct Dir {
    id: ChunkId,
    node: Arc<DirNode>,
}

/// An entry with what holds it.
#[derive(Clone)]
pub struct Held {
    leaf: Arc<DirNode>,
    at: usize,
}

impl Held {
    /// Takes entry `at` of a leaf; `None` past its end.
    fn new(leaf: &Arc<DirNode>, at: usize) -> Option<Self> {
        match &**leaf {
            DirNode::Leaf(l) if at < l.entries.len() => Some(Self { leaf: leaf.clone(), at }),
            _ => None,
        }
    }

    /// The entry.
    pub fn entry(&self) -> &Entry {
        match &*self.leaf {
            DirNode::Leaf(leaf) => &leaf.entries[self.at],
            DirNode::Split(_) => unreachable!("it is made from a leaf"),
        }
    }

    /// The entry after it in the same leaf.
    pub fn next(&self) -> Option<Self> {
        Self::new(&self.leaf, self.at + 1)
    }
}

/// An entry with its number in the snapshot.
#[derive(Clone)]
pub struct Spot {
    held: Held,
    /// Its number.
    pub index: u64,
}

impl Spot {
    /// The entry.
    pub fn entry(&self) -> &Entry {
        self.held.entry()
    }
}

/// Entry `pick(leaf)` of a leaf whose first entry has the number `first`.
fn spot(leaf: &Arc<DirNode>, first: u64, pick: impl FnOnce(&Leaf) -> Option<usize>) -> Option<Spot> {
    let DirNode::Leaf(l) = &**leaf else { return None };
    let at = pick(l)?;
    Some(Spot { held: Held::new(leaf, at)?, index: first + l.starts[at] })
}

/// Directories of snapshots, decoded, bounded in bytes.
pub struct Dirs {
    reader: Arc<Reader>,
    nodes: Bounded<ChunkId, DirNode>,
    tables: Bounded<ChunkId, Table>,
    counts: Bounded<ChunkId, Counts>,
    loads: AtomicU64,
}

impl Dirs {
    /// Keeps at most about `bytes_max` bytes of decoded directories.
    pub fn new(reader: Arc<Reader>, bytes_max: u64) -> Self {
        Self {
            reader,
            nodes: Bounded::new(bytes_max, 1 << 13),
            tables: Bounded::new(TABLES_BYTES_MAX, 1 << 16),
            counts: Bounded::new(TABLES_BYTES_MAX, 96),
            loads: AtomicU64::new(0),
        }
    }

    /// Ends without giving back the memory of what is kept: for a process that ends, too. Keys are wiped all the same.
    pub fn end(self) {
        std::mem::forget(self.nodes);
    }

    /// What reads them.
    pub fn reader(&self) -> &Reader {
        &self.reader
    }

    /// Nodes decoded so far.
    pub fn loads(&self) -> u64 {
        self.loads.load(Ordering::Relaxed)
    }

    fn load(&self, keys: &DomainKeys, id: &ChunkId) -> Result<DirNode> {
        self.loads.fetch_add(1, Ordering::Relaxed);
        Ok(match self.reader.node(keys, id)? {
            Node::Entries(entries) => DirNode::Leaf(Leaf::new(entries)),
            Node::Parts(parts) => DirNode::Split(parts),
        })
    }

    /// Node `id`.
    pub fn node(&self, keys: &DomainKeys, id: &ChunkId) -> Result<Arc<DirNode>> {
        self.nodes.get(*id, || self.load(keys, id))
    }

    /// The directory whose node is `id`.
    pub fn dir(&self, keys: &DomainKeys, id: &ChunkId) -> Result<Dir> {
        Ok(Dir { id: *id, node: self.node(keys, id)? })
    }

    /// The entry called `name` of the directory whose node is `id`, without its number. Reads one part of a large directory.
    pub fn named(&self, keys: &DomainKeys, id: &ChunkId, name: &[u8]) -> Result<Option<Held>> {
        let mut node = self.node(keys, id)?;
        for _ in 0..=PARTS_DEPTH_MAX {
            let part = match &*node {
                DirNode::Leaf(leaf) => {
                    let at = leaf.entries.binary_search_by(|e| (*e.name).cmp(name)).ok();
                    return Ok(at.and_then(|at| Held::new(&node, at)));
                }
                DirNode::Split(parts) => match parts.partition_point(|(first, _)| **first <= *name).checked_sub(1) {
                    Some(n) => parts[n].1,
                    None => return Ok(None),
                },
            };
            node = self.node(keys, &part)?;
        }
        Err(too_deep(id))
    }

    /// The parts of `dir` in order, each with the numbers before it; one for a directory that is one node.
    pub fn parts(&self, keys: &DomainKeys, dir: &Dir) -> Result<Vec<(ChunkId, u64)>> {
        match &*dir.node {
            DirNode::Leaf(_) => Ok(vec![(dir.id, 0)]),
            DirNode::Split(_) => Ok(self.table(keys, dir)?.0.iter().map(|part| (part.id, part.numbers_before)).collect()),
        }
    }

    /// Where the parts of a large directory stand. Reads every part whose counts are not known, once, and keeps none.
    fn table(&self, keys: &DomainKeys, dir: &Dir) -> Result<Arc<Table>> {
        self.tables.get(dir.id, || {
            let mut parts: Vec<Part> = Vec::new();
            let (mut entries_before, mut numbers_before) = (0usize, 0u64);
            // Nodes yet to be counted, the next one last, with their first name and depth.
            let mut stack: Vec<(Box<[u8]>, ChunkId, usize)> = Vec::new();
            let split = |stack: &mut Vec<_>, parts: &[(Box<[u8]>, ChunkId)], depth: usize| match depth > PARTS_DEPTH_MAX {
                true => Err(too_deep(&dir.id)),
                false => {
                    stack.extend(parts.iter().rev().map(|(name, id)| (name.clone(), *id, depth)));
                    Ok(())
                }
            };
            if let DirNode::Split(top) = &*dir.node {
                split(&mut stack, top, 1)?;
            }
            while let Some((first_name, id, depth)) = stack.pop() {
                let counts = match self.counts.peek(&id) {
                    Some(counts) => *counts,
                    None => {
                        let node = self.nodes.peek(&id).map_or_else(|| self.load(keys, &id).map(Arc::new), Ok)?;
                        match &*node {
                            DirNode::Split(more) => {
                                split(&mut stack, more, depth + 1)?;
                                continue;
                            }
                            DirNode::Leaf(leaf) => *self.counts.get(id, || Ok(leaf.counts()))?,
                        }
                    }
                };
                if parts.last().is_some_and(|last| last.first_name >= first_name) {
                    return Err(Error::corrupt(format!("directory node {} has its parts out of order", dir.id.short())));
                }
                parts.push(Part { first_name, id, entries_before, numbers_before });
                entries_before = entries_before.saturating_add(counts.entries);
                numbers_before = numbers_before.saturating_add(counts.numbers);
            }
            Ok(Table(parts))
        })
    }

    /// The leaf of `dir` that `pick` chooses among its parts, with the entries and numbers before it.
    fn leaf(&self, keys: &DomainKeys, dir: &Dir, pick: impl Fn(&Part) -> bool) -> Result<Option<(Arc<DirNode>, usize, u64)>> {
        if let DirNode::Leaf(_) = &*dir.node {
            return Ok(Some((dir.node.clone(), 0, 0)));
        }
        let table = self.table(keys, dir)?;
        match table.0.partition_point(pick).checked_sub(1) {
            Some(n) => Ok(Some((self.node(keys, &table.0[n].id)?, table.0[n].entries_before, table.0[n].numbers_before))),
            None => Ok(None),
        }
    }

    /// Entry `at` of the directory `dir`, whose own number is `base`; `None` past its end.
    pub fn at(&self, keys: &DomainKeys, dir: &Dir, base: u64, at: usize) -> Result<Option<Spot>> {
        let Some((leaf, entries, numbers)) = self.leaf(keys, dir, |part| part.entries_before <= at)? else { return Ok(None) };
        Ok(spot(&leaf, base + 1 + numbers, |l| Some(at - entries).filter(|at| *at < l.entries.len())))
    }

    /// The entry called `name` of the directory `dir`, whose own number is `base`.
    pub fn find(&self, keys: &DomainKeys, dir: &Dir, base: u64, name: &[u8]) -> Result<Option<Spot>> {
        let Some((leaf, _, numbers)) = self.leaf(keys, dir, |part| *part.first_name <= *name)? else { return Ok(None) };
        Ok(spot(&leaf, base + 1 + numbers, |l| l.entries.binary_search_by(|e| (*e.name).cmp(name)).ok()))
    }

    /// The entry of `dir` that has the number `index`, or that leads to it.
    fn towards(&self, keys: &DomainKeys, dir: &Dir, base: u64, index: u64) -> Result<Option<Spot>> {
        let Some(offset) = index.checked_sub(base + 1) else { return Ok(None) };
        let Some((leaf, _, numbers)) = self.leaf(keys, dir, |part| part.numbers_before <= offset)? else { return Ok(None) };
        let offset = offset - numbers;
        Ok(spot(&leaf, base + 1 + numbers, |l| {
            (offset < l.counts().numbers).then(|| l.starts.partition_point(|start| *start <= offset) - 1)
        }))
    }

    /// The entries from the first directory below `root` down to the one with the number `index`.
    ///
    /// # Errors
    /// `NotFound` if the snapshot has no such number.
    ///
    /// Cost: a look into each directory on the way.
    pub fn way_to(&self, keys: &DomainKeys, root: &ChunkId, index: u64) -> Result<Vec<Spot>> {
        let unknown = || Error::not_found(format!("no entry has the number {index}"));
        let (mut id, mut base, mut way) = (*root, 0, Vec::new());
        while way.len() <= DIR_DEPTH_MAX {
            let dir = self.dir(keys, &id)?;
            let spot = self.towards(keys, &dir, base, index)?.ok_or_else(unknown)?;
            base = spot.index;
            let below = match spot.entry().content {
                Content::Dir { node, .. } => Some(node),
                _ => None,
            };
            way.push(spot);
            match below {
                _ if base == index => return Ok(way),
                Some(node) => id = node,
                None => break,
            }
        }
        Err(unknown())
    }

    /// The entry at `path` below `root`, with its number; `None` if there is none.
    pub fn place<'a>(&self, keys: &DomainKeys, root: &ChunkId, path: impl Iterator<Item = &'a [u8]>) -> Result<Option<Spot>> {
        let mut found: Option<Spot> = None;
        for name in path {
            let (id, base) = match found.as_ref().map(|spot| (&spot.entry().content, spot.index)) {
                None => (*root, 0),
                Some((Content::Dir { node, .. }, index)) => (*node, index),
                Some(_) => return Ok(None),
            };
            found = self.find(keys, &self.dir(keys, &id)?, base, name)?;
            if found.is_none() {
                return Ok(None);
            }
        }
        Ok(found)
    }

    /// The first entry of a leaf, by its node.
    pub fn first_of(&self, leaf: &Arc<DirNode>) -> Option<Held> {
        Held::new(leaf, 0)
    }

    /// Calls `each` with every entry of a leaf and the numbers before it within the leaf.
    pub fn each_of(&self, leaf: &DirNode, mut each: impl FnMut(&Entry, u64) -> Result<()>) -> Result<()> {
        match leaf {
            DirNode::Leaf(leaf) => leaf.entries.iter().zip(&leaf.starts).try_for_each(|(entry, start)| each(entry, *start)),
            DirNode::Split(_) => Err(Error::corrupt("a part of a directory that was counted as a leaf has parts")),
        }
    }
}

/// The parts of a path, absolute or not.
pub fn parts_of(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|b| *b == b'/').filter(|part| !part.is_empty())
}

fn too_deep(id: &ChunkId) -> Error {
    Error::corrupt(format!("directory node {} is nested too deep", id.short()))
}
