//! Every chunk of the vault and whether a snapshot needs it: 24 bytes a chunk and a bit, 20 bytes a frame.
//!
//! Chunks are told apart by the first 16 bytes of their ids, which are keyed hashes. Of packs that have the same chunk, those of the highest
//! rank hold it: a pack that is condemned only counts where no other has it, one that is being deleted only as the very last. Of several of
//! one rank, all hold it, but after `join` it is live in one of them; the others may go once that one was found whole.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicU8, AtomicU64, Ordering},
};

use crate::format::{ChunkId, Digest, FrameEntry, PackIndex};

/// The start of an id, and the chunk's number: by pack, then by its place in the pack.
type Row = ([u8; 16], u32);

/// How much a pack can be relied on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    /// Somebody is deleting it.
    Going,
    /// It is condemned, or nothing names it.
    Weak,
    /// It is part of the vault.
    Firm,
}

/// What is known of one pack.
#[derive(Clone, Debug)]
pub struct Pack {
    /// Its name.
    pub digest: Digest,
    /// Bytes of the stored file.
    pub stored_len: u64,
    /// The folder of its domain below `index/`.
    pub domain: String,
    /// Whether it counts where others have the same chunk.
    pub rank: Rank,
    /// Its frames.
    pub frames: Vec<FrameEntry>,
    /// The number of its first chunk.
    pub first: u32,
    /// How many it has.
    pub chunks: u32,
}

/// The table while it is filled.
#[derive(Default)]
pub struct TableBuilder {
    packs: Vec<Pack>,
    rows: Vec<Row>,
    lens: Vec<u32>,
}

/// Whether marking a chunk was news.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marked {
    /// It was not marked before.
    New,
    /// It was.
    Already,
    /// No pack has it.
    Unknown,
}

/// What a pack was found to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holds {
    /// Nothing that is live.
    Nothing,
    /// File content.
    Content,
    /// Nodes.
    Nodes,
}

/// The table.
pub struct Table {
    /// The packs, in the order in which they came.
    pub packs: Vec<Pack>,
    /// Sorted.
    rows: Vec<Row>,
    /// Where ids with each first two bytes begin in `rows`.
    starts: Vec<u32>,
    lens: Vec<u32>,
    live: Vec<AtomicU64>,
    /// Chunks that are live in another pack.
    spare: Vec<u64>,
    holds: Vec<AtomicU8>,
}

impl TableBuilder {
    /// Adds a pack.
    ///
    /// # Panics
    /// Beyond 2^32 chunks: 96 GiB of memory would be used by then.
    pub fn push(&mut self, digest: Digest, stored_len: u64, domain: &str, rank: Rank, index: PackIndex) {
        let first = u32::try_from(self.lens.len()).expect("fewer than 2^32 chunks");
        for (n, (id, len)) in (first..).zip(&index.chunks) {
            self.rows.push((id.as_bytes()[..16].try_into().expect("16 of 32 bytes"), n));
            self.lens.push(*len);
        }
        let chunks = u32::try_from(index.chunks.len()).expect("fewer than 2^32 chunks");
        self.packs.push(Pack { digest, stored_len, domain: domain.to_owned(), rank, frames: index.frames, first, chunks });
    }

    /// Sorts it. About a second for ten million chunks.
    pub fn finish(mut self) -> Table {
        self.rows.sort_unstable();
        self.rows.shrink_to_fit();
        self.lens.shrink_to_fit();
        let mut starts = vec![0u32; (1 << 16) + 1];
        for (id, _) in &self.rows {
            starts[bucket(id) + 1] += 1;
        }
        for n in 1..starts.len() {
            starts[n] += starts[n - 1];
        }
        let live = std::iter::repeat_with(AtomicU64::default).take(self.rows.len().div_ceil(64)).collect();
        let spare = vec![0; self.rows.len().div_ceil(64)];
        let holds = std::iter::repeat_with(AtomicU8::default).take(self.packs.len()).collect();
        Table { packs: self.packs, rows: self.rows, starts, lens: self.lens, live, spare, holds }
    }
}

fn bucket(id: &[u8; 16]) -> usize {
    usize::from(u16::from_be_bytes([id[0], id[1]]))
}

impl Table {
    /// Notes that a snapshot needs the chunk. From many threads at once.
    pub fn mark(&self, id: &ChunkId, is: Holds) -> Marked {
        let id: &[u8; 16] = id.as_bytes()[..16].try_into().expect("16 of 32 bytes");
        let rows = &self.rows[self.starts[bucket(id)] as usize..self.starts[bucket(id) + 1] as usize];
        let from = rows.partition_point(|row| row.0 < *id);
        let same = || rows[from..].iter().take_while(|row| row.0 == *id).map(|row| row.1);
        let mut marked = Marked::Unknown;
        let mut mark = |n: u32, pack: usize| {
            let before = self.live[n as usize / 64].fetch_or(1 << (n % 64), Ordering::Relaxed) & 1 << (n % 64);
            self.holds[pack].store(is as u8, Ordering::Relaxed);
            marked = if before == 0 || marked == Marked::New { Marked::New } else { Marked::Already };
        };
        if let Some(best) = same().map(|n| self.packs[self.pack_of(n)].rank).max() {
            for n in same() {
                let pack = self.pack_of(n);
                if self.packs[pack].rank == best {
                    mark(n, pack);
                }
            }
        }
        marked
    }

    fn pack_of(&self, chunk: u32) -> usize {
        self.packs.partition_point(|pack| pack.first <= chunk) - 1
    }

    /// Ends marking: of several firm packs that hold one chunk, it stays live in the longest one. Returns
    /// the packs that hold them, each with one that need not any more.
    pub fn join(&mut self) -> BTreeSet<(usize, usize)> {
        let mut keepers = BTreeSet::new();
        for rows in self.rows.chunk_by(|a, b| a.0 == b.0).filter(|rows| rows.len() > 1) {
            let is_marked = |n: u32| self.live[n as usize / 64].load(Ordering::Relaxed) & 1 << (n % 64) != 0;
            let firm = |n: u32| Some(self.pack_of(n)).filter(|pack| is_marked(n) && self.packs[*pack].rank == Rank::Firm);
            let held: Vec<(usize, u32)> = rows.iter().filter_map(|(_, n)| Some((firm(*n)?, *n))).collect();
            let size = |pack: usize| (self.packs[pack].stored_len, self.packs[pack].digest);
            let Some(best) = held.iter().copied().max_by_key(|(pack, n)| (size(*pack), std::cmp::Reverse(*n))) else { continue };
            for (pack, n) in held.iter().filter(|one| **one != best) {
                self.spare[*n as usize / 64] |= 1 << (n % 64);
                keepers.insert((best.0, *pack));
            }
        }
        keepers
    }

    /// Whether chunk number `n` of a pack is live.
    pub fn is_live(&self, pack: &Pack, n: u32) -> bool {
        let n = pack.first + n;
        self.live[n as usize / 64].load(Ordering::Relaxed) & !self.spare[n as usize / 64] & 1 << (n % 64) != 0
    }

    /// Raw length of chunk number `n` of a pack.
    pub fn raw_len(&self, pack: &Pack, n: u32) -> u32 {
        self.lens[(pack.first + n) as usize]
    }

    /// What pack number `n` was found to hold.
    pub fn holds(&self, n: usize) -> Holds {
        match self.holds[n].load(Ordering::Relaxed) {
            n if n == Holds::Content as u8 => Holds::Content,
            n if n == Holds::Nodes as u8 => Holds::Nodes,
            _ => Holds::Nothing,
        }
    }

    /// How many chunks there are.
    pub fn chunks(&self) -> usize {
        self.rows.len()
    }

    /// For each frame of a pack: its first chunk, how many of its chunks are live, and their raw bytes.
    pub fn frames<'a>(&'a self, pack: &'a Pack) -> impl Iterator<Item = (&'a FrameEntry, u32, u32, u64)> {
        let mut next = 0;
        pack.frames.iter().map(move |frame| {
            let first = next;
            next += frame.chunks;
            let live = (first..next).filter(|n| self.is_live(pack, *n));
            let (count, raw) = live.fold((0, 0), |(count, raw), n| (count + 1, raw + u64::from(self.raw_len(pack, n))));
            (frame, first, count, raw)
        })
    }
}
