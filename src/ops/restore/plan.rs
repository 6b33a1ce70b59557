//! What is to be done, as a value: a window of the tree with the place of every chunk that it needs, in the order of packs.
//!
//! A tree of any size is restored window by window; `walk` makes them, `apply` carries them out. Within a window each frame is decoded
//! once. What a plan takes is bounded by `WEIGHT_MAX`, whatever the tree.

use std::{collections::HashMap, sync::OnceLock};

use crate::{
    format::{ChunkId, Entry},
    ops::restore::table::DirNumber,
    sys::Stat,
};

pub use crate::ops::layout::{Layout, data_len, runs};

/// Bytes of memory at which a window is full. About 350 an entry, 100 a chunk: most trees of 300,000 files are one window.
pub const WEIGHT_MAX: usize = 128 << 20;

/// Number of a job in its window.
pub type JobNumber = u32;

/// One window.
#[derive(Default)]
pub struct Plan {
    /// Everything but directories and further names of an inode, in the order of the tree.
    pub jobs: Vec<Job>,
    /// Jobs that need no chunk from a pack: they are done one after the other.
    pub plain: Vec<JobNumber>,
    /// Jobs whose content is partly there already, or whose chunks are in no pack that is known: read in order, chunk by chunk.
    pub in_order: Vec<JobNumber>,
    /// Jobs with more chunks than a window: their lists are read one after the other.
    pub long: Vec<JobNumber>,
    /// The chunks of all other files, by pack and frame.
    pub pieces: Vec<Piece>,
    /// Further names of inodes.
    pub links: Vec<Link>,
    /// Directories of which this and earlier windows hold everything, those inside others first.
    pub finished: Vec<DirNumber>,
    /// What a restore that was killed left behind: directory and name.
    pub leftovers: Vec<(DirNumber, Box<[u8]>)>,
    /// Bytes of content in the jobs, holes left out.
    pub bytes: u64,
    /// Entries, directories among them.
    pub entries: u64,
    /// Bytes of memory that this takes.
    pub weight: usize,
}

/// One entry that is no directory.
pub struct Job {
    /// The directory it goes into.
    pub dir: DirNumber,
    /// What it shall be.
    pub entry: Entry,
    /// What stands there.
    pub before: Before,
    /// The inode's number in `Firsts`, if it has several names.
    pub first: Option<u32>,
}

/// What stands where an entry is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Before {
    /// Nothing.
    Nothing,
    /// The same, as far as kind, size, time, target and device tell.
    Same(Stat),
    /// A regular file with other content, of this many bytes.
    File(u64),
    /// Anything else but a directory.
    Other,
}

/// A further name of an inode.
pub struct Link {
    /// The directory it goes into.
    pub dir: DirNumber,
    /// The name.
    pub name: Box<[u8]>,
    /// The inode's number in `Firsts`.
    pub first: u32,
    /// Device and inode of what stands there.
    pub before: Option<(u64, u64)>,
}

/// A chunk of a file.
#[derive(Clone, Copy)]
pub struct Piece {
    /// Number of the pack in the index.
    pub pack: u32,
    /// The frame in it.
    pub frame: u32,
    /// The chunk in that.
    pub chunk: u32,
    /// Whose it is.
    pub job: JobNumber,
    /// Where its first byte goes.
    pub offset: u64,
    /// Its length.
    pub len: u32,
    /// Its name.
    pub id: ChunkId,
}

/// Inodes with several names, through all windows: where the first name stands.
#[derive(Default)]
pub struct Firsts {
    numbers: HashMap<u64, u32>,
    list: Vec<First>,
}

/// The first name of an inode.
pub struct First {
    /// Its directory.
    pub dir: DirNumber,
    /// Its name.
    pub name: Box<[u8]>,
    /// Device and inode, once it is there and right.
    pub there: OnceLock<(u64, u64)>,
}

impl Firsts {
    /// The number of the group, and whether this is its first name.
    pub fn number(&mut self, group: u64, dir: DirNumber, name: &[u8]) -> (u32, bool) {
        let next = u32::try_from(self.list.len()).expect("fewer than 2^32 inodes with several names");
        let number = *self.numbers.entry(group).or_insert(next);
        if number == next {
            self.list.push(First { dir, name: name.into(), there: OnceLock::new() });
        }
        (number, number == next)
    }

    /// One of them.
    pub fn get(&self, number: u32) -> &First {
        &self.list[number as usize]
    }
}
