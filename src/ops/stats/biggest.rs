//! The largest files and directories of a snapshot.

use std::{cmp::Reverse, collections::BinaryHeap, ops::ControlFlow};

use serde::Serialize;

use crate::{
    error::Result,
    ops::{
        look::{Look, SnapshotRow},
        ls,
        row::{PathText, Type},
    },
    sys::Cancel,
};

/// A directory of which one in it holds more than this share is not listed: the one in it says more.
const SAME_AS_CHILD: f64 = 0.8;

/// One of the largest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Big {
    /// Where.
    #[serde(flatten)]
    pub path: PathText,
    /// Bytes of it, and of all files below it.
    pub bytes: u64,
    /// Files below it; 1 for a file.
    pub files: u64,
}

/// The largest of a snapshot, largest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Biggest {
    /// The snapshot.
    pub snapshot: SnapshotRow,
    /// Directories; one whose content lies almost all in one directory is left out in favour of that.
    pub dirs: Vec<Big>,
    /// Files.
    pub files: Vec<Big>,
}

/// Bytes, path and files, so that the smallest, and of equal ones the last path, is on top of a heap.
type Ranked = Reverse<(u64, Reverse<Vec<u8>>, u64)>;

/// Keeps the largest few.
struct Top {
    len_max: usize,
    heap: BinaryHeap<Ranked>,
}

impl Top {
    fn add(&mut self, path: &[u8], bytes: u64, files: u64) {
        let smallest = self.heap.peek().map_or(0, |Reverse((bytes, ..))| *bytes);
        if bytes > 0 && (self.heap.len() < self.len_max || bytes >= smallest) {
            self.heap.push(Reverse((bytes, Reverse(path.to_vec()), files)));
            if self.heap.len() > self.len_max {
                self.heap.pop();
            }
        }
    }

    fn finish(self) -> Vec<Big> {
        let sorted = self.heap.into_sorted_vec().into_iter();
        sorted.map(|Reverse((bytes, Reverse(path), files))| Big { path: PathText::new(&path), bytes, files }).collect()
    }
}

/// A directory that is being added up.
struct Open {
    path: Vec<u8>,
    bytes: u64,
    files: u64,
    largest_child: u64,
}

/// The `count` largest files and directories below `path` of snapshot number `n`. Reads every directory there once.
///
/// Memory: one part of a directory a level.
pub fn biggest(look: &Look, n: usize, path: &[u8], count: usize, cancel: &Cancel) -> Result<Biggest> {
    let top = || Top { len_max: count, heap: BinaryHeap::new() };
    let (mut dirs, mut files) = (top(), top());
    let mut open: Vec<Open> = Vec::new();
    let close = |open: &mut Vec<Open>, dirs: &mut Top| {
        let Some(done) = open.pop() else { return };
        if (done.largest_child as f64) < SAME_AS_CHILD * done.bytes as f64 {
            dirs.add(&done.path, done.bytes, done.files);
        }
        if let Some(above) = open.last_mut() {
            (above.bytes, above.files) = (above.bytes + done.bytes, above.files + done.files);
            above.largest_child = above.largest_child.max(done.bytes);
        }
    };
    ls::run(look, n, path, true, cancel, |row| {
        while open.last().is_some_and(|dir| !is_below(&row.path.bytes, &dir.path)) {
            close(&mut open, &mut dirs);
        }
        match row.facts.kind {
            Type::Dir => open.push(Open { path: row.path.bytes.to_vec(), bytes: 0, files: 0, largest_child: 0 }),
            Type::File => {
                files.add(&row.path.bytes, row.facts.size, 1);
                if let Some(dir) = open.last_mut() {
                    (dir.bytes, dir.files) = (dir.bytes + row.facts.size, dir.files + 1);
                }
            }
            _ => (),
        }
        Ok(ControlFlow::Continue(()))
    })?;
    while !open.is_empty() {
        close(&mut open, &mut dirs);
    }
    Ok(Biggest { snapshot: look.named(n), dirs: dirs.finish(), files: files.finish() })
}

fn is_below(path: &[u8], dir: &[u8]) -> bool {
    path.strip_prefix(dir).is_some_and(|rest| rest.starts_with(b"/"))
}
