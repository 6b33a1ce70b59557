//! Inode number ⇄ place. No table: a number says which snapshot, seen through which door, and which entry of it.
//!
//! ```text
//! 63..62 view   61..34 snapshot   33 hard link   32..0 entry
//! ```
//!
//! An entry's number is its place in a walk of the snapshot in order of names, which the counts in the tree give without a walk;
//! so numbers are the same in every mount of a vault. Names of one inode share a number made from their group. Each
//! view (`snapshots/…`, `latest/…`) has numbers of its own, as the kernel allows a directory one name only.

use std::{collections::HashMap, sync::{Arc, RwLock}};

use crate::{
    error::{Error, Result},
    format::{ChunkId, Content, Data, DomainKeys, Entry},
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

/// The entries of a directory, with the number of each.
pub struct DirNode {
    /// Sorted by name.
    pub entries: Vec<Entry>,
    /// For each entry: how many numbers stand between the directory's own and its.
    starts: Vec<u64>,
    weight: u64,
}

impl Weigh for DirNode {
    fn weight(&self) -> u64 {
        self.weight
    }
}

impl DirNode {
    fn new(entries: Vec<Entry>) -> Self {
        let mut next = 1u64;
        let mut weight = 256;
        let starts = entries
            .iter()
            .map(|entry| {
                let this = next;
                next = next.saturating_add(entry.span());
                weight += 200 + entry.name.len() as u64 + extra(entry);
                this
            })
            .collect();
        Self { entries, starts, weight }
    }

    /// Number of entry `n`, from the directory's own.
    pub fn offset(&self, n: usize) -> u64 {
        self.starts[n]
    }

    /// Where the entry called `name` stands.
    pub fn find(&self, name: &[u8]) -> Option<usize> {
        self.entries.binary_search_by(|e| (*e.name).cmp(name)).ok()
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

/// An entry with the directory that holds it.
pub struct Spot {
    node: Arc<DirNode>,
    at: usize,
    /// Its number in the snapshot, by place; hard links are folded when it is shown.
    pub index: u64,
}

impl Spot {
    /// The entry.
    pub fn entry(&self) -> &Entry {
        &self.node.entries[self.at]
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
        self.nodes.get(*id, || self.reader.dir(&mounted.keys, id).map(DirNode::new))
    }

    /// The root directory of a snapshot.
    pub fn root(&self, mounted: &Mounted) -> Result<Arc<DirNode>> {
        self.dir(mounted, &mounted.snapshot.manifest.root)
    }

    /// Entry `at` of the directory `node`, whose own number is `base`.
    pub fn spot(&self, node: Arc<DirNode>, base: u64, at: usize) -> Spot {
        let index = base + node.offset(at);
        Spot { node, at, index }
    }

    /// Finds the entry with the number `index`, as it was shown. Costs a look into each directory on the way.
    ///
    /// # Errors
    /// `NotFound` if the snapshot has no such number.
    pub fn locate(&self, mounted: &Mounted, index: u64) -> Result<Spot> {
        let index = match index & LINK_BIT {
            0 => index,
            _ => self.first_name(mounted, index)?,
        };
        let unknown = || Error::not_found(format!("snapshot {} has no entry number {index}", mounted.snapshot.id.short()));
        let (mut node, mut base) = (self.root(mounted)?, 0);
        loop {
            let offset = index.checked_sub(base).filter(|offset| *offset > 0).ok_or_else(unknown)?;
            let at = node.starts.partition_point(|start| *start <= offset).checked_sub(1).ok_or_else(unknown)?;
            let start = node.starts[at];
            if start == offset {
                return Ok(Spot { node, at, index });
            }
            match &node.entries[at].content {
                Content::Dir { node: below, .. } if offset < start + node.entries[at].span() => {
                    base += start;
                    node = self.dir(mounted, below)?;
                }
                _ => return Err(unknown()),
            }
        }
    }

    /// The directory that holds entry number `index` (by place); `None` if that is the root.
    pub fn above(&self, mounted: &Mounted, index: u64) -> Result<Option<Spot>> {
        let unknown = || Error::not_found(format!("snapshot {} has no entry number {index}", mounted.snapshot.id.short()));
        let (mut node, mut base, mut above) = (self.root(mounted)?, 0, None);
        loop {
            let offset = index.checked_sub(base).filter(|offset| *offset > 0).ok_or_else(unknown)?;
            let at = node.starts.partition_point(|start| *start <= offset).checked_sub(1).ok_or_else(unknown)?;
            if node.starts[at] == offset {
                return Ok(above);
            }
            let Content::Dir { node: below, .. } = &node.entries[at].content else { return Err(unknown()) };
            let below = self.dir(mounted, below)?;
            base += node.starts[at];
            above = Some(Spot { node, at, index: base });
            node = below;
        }
    }

    /// The place of a name of a hard-linked inode. One not seen yet (a handle from an earlier mount) is searched for.
    fn first_name(&self, mounted: &Mounted, folded: u64) -> Result<u64> {
        let known = |mounted: &Mounted| mounted.links.read().expect("nobody panics while holding the links").get(&folded).copied();
        if let Some(index) = known(mounted) {
            return Ok(index);
        }
        let mut stack = vec![(self.root(mounted)?, 0u64)];
        while let Some((node, base)) = stack.pop() {
            for (at, entry) in node.entries.iter().enumerate() {
                let index = base + node.offset(at);
                if mounted.shown(entry, index) == folded {
                    return Ok(index);
                }
                if let Content::Dir { node, .. } = &entry.content {
                    stack.push((self.dir(mounted, node)?, index));
                }
            }
        }
        Err(Error::not_found("no such hard link in this snapshot"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_apart_as_they_were_put_together() {
        for place in [Place::Top(ROOT), Place::In(View::Snapshots, 0, 0), Place::In(View::Latest, (1 << 28) - 1, LINK_BIT | INDEX_MASK), Place::In(View::Snapshots, 7, 12345)] {
            assert_eq!(Place::of(place.ino()), Some(place));
        }
        assert_ne!(serial(1, 5), serial(2, 5));
        assert_eq!(serial(255, 0xf_ffff), (1 << 28) - 1);
    }
}
