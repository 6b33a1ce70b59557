//! What the kernel asked for, counted: the price of a mount that needs no clock.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
};

/// A kind of request. Those that are answered once and never asked again are not told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// A name was looked up.
    Lookup,
    /// Attributes.
    Getattr,
    /// The target of a link.
    Readlink,
    /// Content.
    Read,
    /// Some of a listing.
    Readdir,
    /// An extended attribute, or the names of all.
    Xattr,
    /// Data and holes.
    Lseek,
    /// Anything else that waits for an answer.
    Other,
}

const NAMES: [&str; 8] = ["lookup", "getattr", "readlink", "read", "readdir", "xattr", "lseek", "other"];

/// The counts of one mount.
#[derive(Default)]
pub struct Requests([AtomicU64; NAMES.len()]);

impl Requests {
    /// Counts one.
    pub fn count(&self, op: Op) {
        self.0[op as usize].fetch_add(1, Ordering::Relaxed);
    }
}

impl fmt::Display for Requests {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        for (name, count) in NAMES.iter().zip(&self.0) {
            write!(f, "{name} {}, ", count.load(Ordering::Relaxed))?;
        }
        write!(f, "in all {}", self.0.iter().map(|count| count.load(Ordering::Relaxed)).sum::<u64>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_told_by_its_name() {
        let requests = Requests::default();
        requests.count(Op::Read);
        requests.count(Op::Read);
        requests.count(Op::Other);
        let told = requests.to_string();
        assert_eq!(told, "lookup 0, getattr 0, readlink 0, read 2, readdir 0, xattr 0, lseek 0, other 1, in all 3");
    }
}
