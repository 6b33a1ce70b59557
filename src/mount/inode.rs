//! Inode number ⇄ place. No table: a number says which snapshot, seen through which door, and which entry of it.
//!
//! ```text
//! 63..62 view   61..34 snapshot   33 hard link   32..0 entry
//! ```
//!
//! An entry's number is its place in a walk of the snapshot in order of names, which the counts in the tree give without a walk;
//! so numbers are the same in every mount of a vault. Names of one inode share a number made from their group. Each
//! view (`snapshots/…`, `latest/…`) has numbers of its own, as the kernel allows a directory one name only.

use std::{
    collections::HashMap,
    sync::{Arc, RwLock},
};

use crate::{
    error::{Error, Result},
    format::{ChunkId, Content, Data, DomainKeys, Entry, Node},
    pack::{Bounded, Weigh},
    vault::{Reader, Snapshot},
};

/// The root of the mount.
pub const ROOT: u64 = 1;
/// `snapshots/`.
pub const SNAPSHOTS: u64 = 2;

const VIEW_SHIFT: u32 = 62;
const SERIAL_SHIFT: u32 = 34;
const SERIAL_BITS: u32 = 28;
const LINK_BIT: u64 = 1 << 33;
const INDEX_MASK: u64 = LINK_BIT - 1;

/// The door through which a snapshot is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum View {
    /// `snapshots/<name>/`.
    Snapshots = 1,
    /// `latest/`.
    Latest = 2,
}

/// A number, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A directory of the mount itself.
    Top(u64),
    /// An entry of a snapshot; 0 is its root.
    In(View, u32, u64),
}

impl Place {
    /// Takes a number apart.
    pub fn of(ino: u64) -> Option<Self> {
        let serial = (ino >> SERIAL_SHIFT) as u32 & ((1 << SERIAL_BITS) - 1);
        let index = ino & (LINK_BIT | INDEX_MASK);
        match ino >> VIEW_SHIFT {
            0 => Some(Place::Top(ino)),
            1 => Some(Place::In(View::Snapshots, serial, index)),
            2 => Some(Place::In(View::Latest, serial, index)),
            _ => None,
        }
    }

    /// Puts a number together.
    pub fn ino(self) -> u64 {
        match self {
            Place::Top(ino) => ino,
            Place::In(view, serial, index) => (view as u64) << VIEW_SHIFT | u64::from(serial) << SERIAL_SHIFT | index,
        }
    }
}

/// A number for a snapshot that never changes and is never used again: its sealer's place in the list of signers, and its own in the chain.
pub fn serial(ordinal: usize, seq: u64) -> u32 {
    ((ordinal as u64) << 20 | seq & 0xf_ffff) as u32 & ((1 << SERIAL_BITS) - 1)
}

/// A directory: its entries if they are one node, else where its parts are.
///
/// A part stays below 4 MiB, so that a directory of a million entries is never decoded whole for one of them.
pub enum DirNode {
    /// The entries, with the number of each.
    Leaf(Leaf),
    /// The parts, in order.
    Split(Vec<PartRef>),
}

/// Entries sorted by name.
pub struct Leaf {
    /// The entries.
    pub entries: Vec<Entry>,
    /// For each entry: how many numbers stand between the first one's and its; one more at the end for all of them.
    starts: Vec<u64>,
    weight: u64,
}

/// One part of a large directory.
pub struct PartRef {
    first_name: Box<[u8]>,
    id: ChunkId,
    /// Entries before it.
    entries_before: usize,
    /// Numbers before it, the directory's own not counted.
    numbers_before: u64,
}

impl Weigh for DirNode {
    fn weight(&self) -> u64 {
        match self {
            DirNode::Leaf(leaf) => leaf.weight,
            DirNode::Split(parts) => parts.iter().map(|p| 80 + p.first_name.len() as u64).sum(),
        }
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
            weight += (size_of::<Entry>() + 8 + entry.name.len()) as u64 + extra(entry);
        }
        starts.push(next);
        Self { entries, starts, weight }
    }

    fn span(&self) -> u64 {
        *self.starts.last().expect("there is one more start than entries")
    }
}

fn extra(entry: &Entry) -> u64 {
    let content = match &entry.content {
        Content::File { data: Data::Inline(bytes), holes, .. } => bytes.len() + holes.len() * 16,
        Content::File { data: Data::Chunks(list), holes, .. } => list.as_bytes().len() + holes.len() * 16,
        Content::File { data: Data::Lists(parts), holes, .. } => parts.len() * 40 + holes.len() * 16,
        Content::Symlink(target) => target.len(),
        _ => 0,
    };
    (content + entry.xattrs.iter().map(|(n, v)| n.len() + v.len() + 32).sum::<usize>()) as u64
}

/// A snapshot that can be looked into.
pub struct Mounted {
    /// The snapshot.
    pub snapshot: Snapshot,
    /// The keys of its domain.
    pub keys: Arc<DomainKeys>,
    /// Its number.
    pub serial: u32,
    /// Numbers of inodes with several names, from their groups: known once one of the names was seen.
    links: RwLock<HashMap<u64, u64>>,
}

/// An entry with what holds it.
pub struct Spot {
    leaf: Arc<DirNode>,
    at: usize,
    /// Its number in the snapshot, by place; hard links are folded when it is shown.
    pub index: u64,
}

impl Spot {
    /// The entry.
    pub fn entry(&self) -> &Entry {
        match &*self.leaf {
            DirNode::Leaf(leaf) => &leaf.entries[self.at],
            DirNode::Split(_) => unreachable!("a spot is made from a leaf"),
        }
    }
}

impl Mounted {
    /// Makes a snapshot ready.
    pub fn new(snapshot: Snapshot, keys: Arc<DomainKeys>, serial: u32) -> Self {
        Self { snapshot, keys, serial, links: RwLock::default() }
    }

    /// The number by which entry `entry` at place `index` is shown.
    pub fn shown(&self, entry: &Entry, index: u64) -> u64 {
        let Some(link) = entry.hard_link else { return index };
        let folded = LINK_BIT | (link.group ^ link.group >> 33) & INDEX_MASK;
        let known = self.links.read().expect("nobody panics while holding the links").contains_key(&folded);
        if !known {
            self.links.write().expect("nobody panics while holding the links").insert(folded, index);
        }
        folded
    }
}

/// Directories of snapshots, decoded, bounded in bytes.
pub struct Tree {
    reader: Arc<Reader>,
    nodes: Bounded<ChunkId, DirNode>,
}

impl Tree {
    /// Keeps at most about `bytes_max` bytes of decoded directories.
    pub fn new(reader: Arc<Reader>, bytes_max: u64) -> Self {
        Self { reader, nodes: Bounded::new(bytes_max, 1 << 13) }
    }

    /// The directory whose node is `id`.
    pub fn dir(&self, mounted: &Mounted, id: &ChunkId) -> Result<Arc<DirNode>> {
        self.nodes.get(*id, || match self.reader.node(&mounted.keys, id)? {
            Node::Entries(entries) => Ok(DirNode::Leaf(Leaf::new(entries))),
            Node::Parts(_) => {
                let mut parts: Vec<PartRef> = Vec::new();
                let (mut entries_before, mut numbers_before) = (0, 0);
                self.reader.each_part(&mounted.keys, id, |id, entries| {
                    let Some(first) = entries.first() else { return Ok(()) };
                    if parts.last().is_some_and(|last: &PartRef| last.first_name >= first.name) {
                        return Err(Error::corrupt(format!("directory node {} has its parts out of order", id.short())));
                    }
                    parts.push(PartRef { first_name: first.name.clone(), id, entries_before, numbers_before });
                    entries_before += entries.len();
                    numbers_before += entries.iter().map(Entry::span).sum::<u64>();
                    Ok(())
                })?;
                Ok(DirNode::Split(parts))
            }
        })
    }

    /// The root directory of a snapshot.
    pub fn root(&self, mounted: &Mounted) -> Result<Arc<DirNode>> {
        self.dir(mounted, &mounted.snapshot.manifest.root)
    }

    /// The leaf of `dir` that `pick` chooses among its parts, with the entries and numbers before it.
    fn leaf(&self, mounted: &Mounted, dir: &Arc<DirNode>, pick: impl Fn(&PartRef) -> bool) -> Result<Option<(Arc<DirNode>, usize, u64)>> {
        let DirNode::Split(parts) = &**dir else { return Ok(Some((dir.clone(), 0, 0))) };
        match parts.partition_point(pick).checked_sub(1) {
            Some(n) => Ok(Some((self.dir(mounted, &parts[n].id)?, parts[n].entries_before, parts[n].numbers_before))),
            None => Ok(None),
        }
    }

    /// Entry `at` of the directory `dir`, whose own number is `base`; `None` past its end.
    pub fn at(&self, mounted: &Mounted, dir: &Arc<DirNode>, base: u64, at: usize) -> Result<Option<Spot>> {
        let Some((leaf, entries, numbers)) = self.leaf(mounted, dir, |part| part.entries_before <= at)? else { return Ok(None) };
        Ok(spot(leaf, base + 1 + numbers, |l| Some(at - entries).filter(|at| *at < l.entries.len())))
    }

    /// The entry called `name` of the directory `dir`, whose own number is `base`.
    pub fn find(&self, mounted: &Mounted, dir: &Arc<DirNode>, base: u64, name: &[u8]) -> Result<Option<Spot>> {
        let Some((leaf, _, numbers)) = self.leaf(mounted, dir, |part| *part.first_name <= *name)? else { return Ok(None) };
        Ok(spot(leaf, base + 1 + numbers, |l| l.entries.binary_search_by(|e| (*e.name).cmp(name)).ok()))
    }

    /// The entry of `dir` that has the number `index`, or that leads to it.
    fn towards(&self, mounted: &Mounted, dir: &Arc<DirNode>, base: u64, index: u64) -> Result<Option<Spot>> {
        let Some(offset) = index.checked_sub(base + 1) else { return Ok(None) };
        let Some((leaf, _, numbers)) = self.leaf(mounted, dir, |part| part.numbers_before <= offset)? else { return Ok(None) };
        let offset = offset - numbers;
        Ok(spot(leaf, base + 1 + numbers, |l| (offset < l.span()).then(|| l.starts.partition_point(|start| *start <= offset) - 1)))
    }

    /// Finds the entry with the number `index`, as it was shown, and the directory that holds it (`None`: the root).
    /// Costs a look into each directory on the way.
    ///
    /// # Errors
    /// `NotFound` if the snapshot has no such number.
    pub fn locate(&self, mounted: &Mounted, index: u64) -> Result<(Spot, Option<Spot>)> {
        let index = match index & LINK_BIT {
            0 => index,
            _ => self.first_name(mounted, index)?,
        };
        let unknown = || Error::not_found(format!("snapshot {} has no entry number {index}", mounted.snapshot.id.short()));
        let (mut dir, mut base, mut above) = (self.root(mounted)?, 0, None);
        loop {
            let spot = self.towards(mounted, &dir, base, index)?.ok_or_else(unknown)?;
            if spot.index == index {
                return Ok((spot, above));
            }
            let Content::Dir { node, .. } = &spot.entry().content else { return Err(unknown()) };
            dir = self.dir(mounted, node)?;
            base = spot.index;
            above = Some(spot);
        }
    }

    /// The path of entry number `index` below its snapshot, for messages.
    pub fn path(&self, mounted: &Mounted, index: u64) -> Result<Vec<u8>> {
        let mut path = Vec::new();
        let (mut dir, mut base) = (self.root(mounted)?, 0);
        while let Some(spot) = self.towards(mounted, &dir, base, index)? {
            path.push(b'/');
            path.extend_from_slice(&spot.entry().name);
            match &spot.entry().content {
                Content::Dir { node, .. } if spot.index != index => dir = self.dir(mounted, node)?,
                _ => break,
            }
            base = spot.index;
        }
        Ok(path)
    }

    /// The place of a name of a hard-linked inode. One not seen yet (a handle from an earlier mount) is searched for.
    fn first_name(&self, mounted: &Mounted, folded: u64) -> Result<u64> {
        let known = |mounted: &Mounted| mounted.links.read().expect("nobody panics while holding the links").get(&folded).copied();
        if let Some(index) = known(mounted) {
            return Ok(index);
        }
        let mut stack = vec![(self.root(mounted)?, 0u64)];
        while let Some((dir, base)) = stack.pop() {
            for at in 0.. {
                let Some(spot) = self.at(mounted, &dir, base, at)? else { break };
                if mounted.shown(spot.entry(), spot.index) == folded {
                    return Ok(spot.index);
                }
                if let Content::Dir { node, .. } = &spot.entry().content {
                    stack.push((self.dir(mounted, node)?, spot.index));
                }
            }
        }
        Err(Error::not_found("no such hard link in this snapshot"))
    }
}

/// Entry `pick(leaf)` of a leaf whose first entry has the number `first`.
fn spot(leaf: Arc<DirNode>, first: u64, pick: impl FnOnce(&Leaf) -> Option<usize>) -> Option<Spot> {
    let DirNode::Leaf(l) = &*leaf else { return None };
    let at = pick(l)?;
    let index = first + l.starts[at];
    Some(Spot { leaf, at, index })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_apart_as_they_were_put_together() {
        for place in [
            Place::Top(ROOT),
            Place::In(View::Snapshots, 0, 0),
            Place::In(View::Latest, (1 << 28) - 1, LINK_BIT | INDEX_MASK),
            Place::In(View::Snapshots, 7, 12345),
        ] {
            assert_eq!(Place::of(place.ino()), Some(place));
        }
        assert_ne!(serial(1, 5), serial(2, 5));
        assert_eq!(serial(255, 0xf_ffff), (1 << 28) - 1);
    }
}
