//! Inode number ⇄ place. No table but one for names that somebody made up: a number says what it stands for.
//!
//! ```text
//! 63..61 kind   60..33 snapshot, or door   32..0 entry
//! ```
//!
//! An entry's number is its place in a walk of the snapshot in order of names, which the counts in the tree give without a walk;
//! so numbers are the same in every mount of a vault. Names of one inode share a number made from their group. Files have one
//! number, however one came to them; directories one for each way, as the kernel allows a directory one name only:
//!
//! | kind | what | entry |
//! |---|---|---|
//! | 0 | made up: the tops, `hosts/HOST/`, `tags/TAG/`, their links | see [`Made`] |
//! | 1, 2 | `snapshots/NAME/…`, and every file of every view; 2 with several names | the entry; its group |
//! | 3 | directories in `latest/…` | the entry |
//! | 4, 5 | `history/PATH/`, `history/PATH/@versions/` | the path's entry in the oldest snapshot that has it |
//! | 6 | directories in a version of a directory | the entry << 6, and how deep the version lies |
//! | 7 | directories in `at/TIME/…` and `changes/A..B/…`: the name has a number in this mount (`mount/doors.rs`) | the entry |

use std::{
    collections::HashMap,
    sync::{Arc, RwLock},
};

use crate::{
    error::{Error, Result},
    format::{ChunkId, Content, DomainKeys, Entry},
    vault::{Dirs, Snapshot, Spot},
};

/// The directories at the top.
pub const ROOT: u64 = 1;
/// `snapshots/`.
pub const SNAPSHOTS: u64 = 2;
/// `hosts/`.
pub const HOSTS: u64 = 3;
/// `tags/`.
pub const TAGS: u64 = 4;
/// `at/`.
pub const AT: u64 = 5;
/// `history/`.
pub const HISTORY: u64 = 6;
/// `changes/`.
pub const CHANGES: u64 = 7;

const KIND_SHIFT: u32 = 61;
const SERIAL_SHIFT: u32 = 33;
const SERIAL_MASK: u64 = (1 << 28) - 1;
const INDEX_MASK: u64 = (1 << SERIAL_SHIFT) - 1;
const DEPTH_BITS: u32 = 6;
/// In numbers of kind 0: which, above 57 bits.
const MADE_SHIFT: u32 = 57;
const MADE_MASK: u64 = (1 << MADE_SHIFT) - 1;
/// Names below `at/` and `changes/` that one mount can number.
pub const DOORS_MAX: u32 = SERIAL_MASK as u32;

/// What the mount made up, apart from the way into snapshots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Made {
    /// A directory at the top, or the top itself.
    Top(u64),
    /// `hosts/HOST/`, by a hash of the host.
    Host(u64),
    /// `tags/TAG/`, by a hash of the tag.
    Tag(u64),
    /// The link to a snapshot: one inode with a name for its host and each tag.
    Link(u32),
}

/// A number, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// Made up.
    Made(Made),
    /// An entry of a snapshot; 0 is its root.
    Snapshot(u32, u64),
    /// An inode of a snapshot that has several names.
    Linked(u32, u64),
    /// A directory of the newest snapshot.
    Latest(u32, u64),
    /// All that ever stood at a path.
    Path(u32, u64),
    /// The versions of a directory.
    Versions(u32, u64),
    /// A directory in a version of the directory that lies so deep.
    Version(u32, u64, u8),
    /// A directory behind a numbered name.
    Door(u32, u64),
}

impl Place {
    /// Takes a number apart.
    pub fn of(ino: u64) -> Option<Self> {
        let (serial, index) = ((ino >> SERIAL_SHIFT & SERIAL_MASK) as u32, ino & INDEX_MASK);
        Some(match ino >> KIND_SHIFT {
            0 => Place::Made(match (ino >> MADE_SHIFT, ino & MADE_MASK) {
                (0, top @ ROOT..=CHANGES) => Made::Top(top),
                (1, hash) => Made::Host(hash),
                (2, hash) => Made::Tag(hash),
                (3, serial) => Made::Link(u32::try_from(serial).ok()?),
                _ => return None,
            }),
            1 => Place::Snapshot(serial, index),
            2 => Place::Linked(serial, index),
            3 => Place::Latest(serial, index),
            4 => Place::Path(serial, index),
            5 => Place::Versions(serial, index),
            6 => Place::Version(serial, index >> DEPTH_BITS, (index & ((1 << DEPTH_BITS) - 1)) as u8),
            _ => Place::Door(serial, index),
        })
    }

    /// Puts a number together.
    pub fn ino(self) -> u64 {
        let join = |kind: u64, serial: u32, index: u64| kind << KIND_SHIFT | u64::from(serial) << SERIAL_SHIFT | index & INDEX_MASK;
        match self {
            Place::Made(Made::Top(ino)) => ino,
            Place::Made(Made::Host(hash)) => 1 << MADE_SHIFT | hash & MADE_MASK,
            Place::Made(Made::Tag(hash)) => 2 << MADE_SHIFT | hash & MADE_MASK,
            Place::Made(Made::Link(serial)) => 3 << MADE_SHIFT | u64::from(serial),
            Place::Snapshot(serial, index) => join(1, serial, index),
            Place::Linked(serial, index) => join(2, serial, index),
            Place::Latest(serial, index) => join(3, serial, index),
            Place::Path(serial, index) => join(4, serial, index),
            Place::Versions(serial, index) => join(5, serial, index),
            Place::Version(serial, index, depth) => join(6, serial, index << DEPTH_BITS | u64::from(depth)),
            Place::Door(door, index) => join(7, door, index),
        }
    }

    /// Whether a version of a directory that lies so deep, in this snapshot, has numbers: up to 63 levels, and 134 million entries.
    pub fn has_versions(depth: usize, last_index: u64) -> bool {
        depth < 1 << DEPTH_BITS && last_index < 1 << (SERIAL_SHIFT - DEPTH_BITS)
    }
}

/// A number for a snapshot that never changes and is never used again: its sealer's place in the list of signers, and its own in the chain.
pub fn serial(ordinal: usize, seq: u64) -> u32 {
    (((ordinal as u64) << 20 | seq & 0xf_ffff) & SERIAL_MASK) as u32
}

/// A number made from text, for [`Made::Host`] and [`Made::Tag`].
pub fn hashed(text: &str) -> u64 {
    let hash = crate::format::digest(text.as_bytes());
    u64::from_le_bytes(hash.as_bytes()[..8].try_into().expect("eight of 32 bytes")) & MADE_MASK
}

/// A snapshot that can be looked into.
pub struct Mounted {
    /// The snapshot.
    pub snapshot: Arc<Snapshot>,
    /// The keys of its domain.
    pub keys: Arc<DomainKeys>,
    /// Its number.
    pub serial: u32,
    /// The name of its directory.
    pub name: String,
    /// Numbers of inodes with several names, from their groups: known once one of the names was seen.
    links: RwLock<HashMap<u64, u64>>,
}

impl Mounted {
    /// Makes a snapshot ready.
    pub fn new(snapshot: Snapshot, keys: Arc<DomainKeys>, serial: u32) -> Self {
        Self { name: snapshot.dir_name(), snapshot: Arc::new(snapshot), keys, serial, links: RwLock::default() }
    }

    /// Its root node.
    pub fn root(&self) -> &ChunkId {
        &self.snapshot.manifest.root
    }

    /// The number by which the entry at place `index` is shown among its own.
    pub fn shown(&self, entry: &Entry, index: u64) -> u64 {
        let Some(link) = entry.hard_link else { return Place::Snapshot(self.serial, index).ino() };
        let folded = (link.group ^ link.group >> SERIAL_SHIFT) & INDEX_MASK;
        let known = self.links.read().expect("nobody panics while holding the links").contains_key(&folded);
        if !known {
            self.links.write().expect("nobody panics while holding the links").insert(folded, index);
        }
        Place::Linked(self.serial, folded).ino()
    }

    /// The place of a name of an inode that has several. One not seen yet (a handle from an earlier mount) is searched for.
    pub fn first_name(&self, dirs: &Dirs, folded: u64) -> Result<u64> {
        if let Some(index) = self.links.read().expect("nobody panics while holding the links").get(&folded) {
            return Ok(*index);
        }
        let mut stack = vec![(*self.root(), 0u64)];
        while let Some((id, base)) = stack.pop() {
            let dir = dirs.dir(&self.keys, &id)?;
            for at in 0.. {
                let Some(spot) = dirs.at(&self.keys, &dir, base, at)? else { break };
                if self.shown(spot.entry(), spot.index) == Place::Linked(self.serial, folded).ino() {
                    return Ok(spot.index);
                }
                if let Content::Dir { node, .. } = &spot.entry().content {
                    stack.push((*node, spot.index));
                }
            }
        }
        Err(Error::not_found("no such hard link in this snapshot"))
    }

    /// The entries from the first directory below the root down to number `index`; see [`Dirs::way_to`].
    pub fn way_to(&self, dirs: &Dirs, index: u64) -> Result<Vec<Spot>> {
        dirs.way_to(&self.keys, self.root(), index)
    }

    /// The path of number `index`, absolute.
    pub fn path(&self, dirs: &Dirs, index: u64) -> Result<Vec<u8>> {
        Ok(match index {
            0 => Vec::new(),
            index => path_of(&self.way_to(dirs, index)?),
        })
    }
}

/// The path along `way`, absolute.
pub fn path_of(way: &[Spot]) -> Vec<u8> {
    way.iter().flat_map(|spot| [b"/", &*spot.entry().name].concat()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_apart_as_they_were_put_together() {
        let mut seen = std::collections::HashSet::new();
        for place in [
            Place::Made(Made::Top(ROOT)),
            Place::Made(Made::Top(CHANGES)),
            Place::Made(Made::Host(7)),
            Place::Made(Made::Tag(MADE_MASK)),
            Place::Made(Made::Link(SERIAL_MASK as u32)),
            Place::Snapshot(0, 0),
            Place::Linked(0, INDEX_MASK),
            Place::Latest(SERIAL_MASK as u32, INDEX_MASK),
            Place::Path(3, 12345),
            Place::Versions(3, 12345),
            Place::Version(9, (1 << 27) - 1, 63),
            Place::Door(DOORS_MAX, 1),
        ] {
            assert_eq!(Place::of(place.ino()), Some(place));
            assert!(seen.insert(place.ino()), "{place:?}");
        }
        assert_eq!((Place::of(0), Place::of(8)), (None, None));
        assert_ne!(serial(1, 5), serial(2, 5));
        assert_eq!(serial(255, 0xf_ffff), (1 << 28) - 1);
        assert!(Place::has_versions(63, (1 << 27) - 1) && !Place::has_versions(64, 1) && !Place::has_versions(1, 1 << 27));
    }
}
