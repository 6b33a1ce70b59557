//! What the catalog remembers of a directory, so that an unchanged one costs a listing and nothing else.
//!
//! A sealer cannot read trees back, so the node's id and its encoded entries are kept here. Everything is a hint: a
//! record counts only if its seal was committed and its node is stored; an entry only if all its chunks are.

use crate::{
    format::{ChunkId, Digester, Stats},
    sys::{Found, Stat},
};

/// The short record of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirRecord {
    /// Which seal wrote it: its time.
    pub seal: u64,
    /// Names and stats of all entries at that time; zero if one of them was too fresh to be sure of.
    pub listing: [u8; 32],
    /// Hash of the encoded entries of the directories in it.
    pub children: [u8; 32],
    /// Its node.
    pub node: ChunkId,
    /// Entries below it.
    pub below: u64,
    /// Counts of its own entries, not of those further below.
    pub own: Stats,
    /// Its own encoded entry, as it stands in the directory above.
    pub entry: Vec<u8>,
}

const LEN: usize = 8 + 32 * 3 + 8 + 8 * 6;

impl DirRecord {
    /// Returns the bytes to keep.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(LEN + self.entry.len());
        out.extend_from_slice(&self.seal.to_le_bytes());
        out.extend_from_slice(&self.listing);
        out.extend_from_slice(&self.children);
        out.extend_from_slice(self.node.as_bytes());
        let s = &self.own;
        for n in [self.below, s.files, s.symlinks, s.others, s.logical_bytes, s.with_xattrs, s.sparse_files] {
            out.extend_from_slice(&n.to_le_bytes());
        }
        out.extend_from_slice(&self.entry);
        out
    }

    /// Reads them; `None` if they are no record of ours.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.len() <= LEN {
            return None;
        }
        let hash = |at: usize| -> [u8; 32] { bytes[at..at + 32].try_into().expect("32 bytes") };
        let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
        let own = Stats {
            files: word(112),
            symlinks: word(120),
            others: word(128),
            logical_bytes: word(136),
            with_xattrs: word(144),
            sparse_files: word(152),
            ..Stats::default()
        };
        Some(Self {
            seal: word(0),
            listing: hash(8),
            children: hash(40),
            node: ChunkId::from_bytes(hash(72)),
            below: word(104),
            own,
            entry: bytes[LEN..].to_vec(),
        })
    }
}

/// How long before the listing an entry must have changed last for its times to tell a later change apart, in ns.
///
/// File systems stamp with the tick of the kernel's clock (1 to 10 ms), some with a second or two (FAT).
const SETTLED_NS: i128 = 2_000_000_000;

/// Whether a change after `now` would show in the entry's times. Every change moves the ctime, which nobody can set.
pub fn is_settled(stat: &Stat, now_ns: i128) -> bool {
    stat.ctime_ns < now_ns - SETTLED_NS
}

/// Hashes names and stats of a listing: everything that a change of an entry would change.
///
/// Returns zero, which no later listing equals, if an entry is too fresh to be sure of or could not be looked at.
pub fn listing_hash(dir: &Stat, listing: &[Found], now_ns: i128) -> [u8; 32] {
    if !is_settled(dir, now_ns) {
        return [0; 32];
    }
    let mut hash = Digester::default();
    let mut line = Vec::with_capacity(256);
    hash.update(&stat_bytes(dir));
    for found in listing {
        match &found.stat {
            // A directory's own content shows in its own listing.
            Ok(stat) if is_settled(stat, now_ns) || stat.file_type() == crate::sys::FileType::Dir => {
                line.clear();
                line.extend_from_slice(&(found.name.len() as u32).to_le_bytes());
                line.extend_from_slice(&found.name);
                if stat.file_type() != crate::sys::FileType::Dir {
                    line.extend_from_slice(&stat_bytes(stat));
                }
                hash.update(&line);
            }
            _ => return [0; 32],
        }
    }
    *hash.finish().as_bytes()
}

fn stat_bytes(s: &Stat) -> [u8; 88] {
    let mut out = [0; 88];
    let words = [
        u64::from(s.mode) << 32 | u64::from(s.nlink),
        u64::from(s.uid) << 32 | u64::from(s.gid),
        s.inode,
        s.device,
        s.rdev,
        s.size,
        s.allocated,
    ];
    for (i, word) in words.iter().enumerate() {
        out[8 * i..8 * i + 8].copy_from_slice(&word.to_le_bytes());
    }
    out[56..72].copy_from_slice(&s.mtime_ns.to_le_bytes());
    out[72..88].copy_from_slice(&s.ctime_ns.to_le_bytes());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_reads_back_and_nothing_else_is_one() {
        let own = Stats { files: 1, symlinks: 2, others: 3, logical_bytes: 4, with_xattrs: 5, sparse_files: 6, ..Stats::default() };
        let record = DirRecord {
            seal: 9,
            listing: [1; 32],
            children: [2; 32],
            node: ChunkId::from_bytes([3; 32]),
            below: 7,
            own,
            entry: vec![8; 9],
        };
        assert_eq!(DirRecord::decode(&record.encode()), Some(record.clone()));
        assert_eq!(DirRecord::decode(&record.encode()[..LEN]), None);
    }
}
