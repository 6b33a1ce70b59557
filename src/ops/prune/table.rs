//! Every chunk of the vault and whether a snapshot needs it: 24 bytes a chunk and a bit, 20 bytes a frame.
//!
//! Chunks are told apart by the first 16 bytes of their ids, which are keyed hashes. A chunk that lies in several packs is live in all
//! of them: one may be damaged. But packs that are condemned, or that nothing names, only count where no other has the chunk.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use crate::format::{ChunkId, Digest, FrameEntry, PackIndex};

/// The start of an id, and the chunk's number: by pack, then by its place in the pack.
type Row = ([u8; 16], u32);

/// What is known of one pack.
#[derive(Clone, Debug)]
pub struct Pack {
    /// Its name.
    pub digest: Digest,
    /// Bytes of the stored file.
    pub stored_len: u64,
    /// The folder of its domain below `index/`.
    pub domain: String,
    /// Whether it only counts where no other pack has a chunk.
    pub weak: bool,
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
    holds: Vec<AtomicU8>,
}

impl TableBuilder {
    /// Adds a pack.
    ///
    /// # Panics
    /// Beyond 2^32 chunks: 96 GiB of memory would be used by then.
    pub fn push(&mut self, digest: Digest, stored_len: u64, domain: &str, weak: bool, index: PackIndex) {
        let first = u32::try_from(self.lens.len()).expect("fewer than 2^32 chunks");
        for (n, (id, len)) in (first..).zip(&index.chunks) {
            self.rows.push((id.as_bytes()[..16].try_into().expect("16 of 32 bytes"), n));
            self.lens.push(*len);
        }
        let chunks = u32::try_from(index.chunks.len()).expect("fewer than 2^32 chunks");
        self.packs.push(Pack { digest, stored_len, domain: domain.to_owned(), weak, frames: index.frames, first, chunks });
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
        let holds = std::iter::repeat_with(AtomicU8::default).take(self.packs.len()).collect();
        Table { packs: self.packs, rows: self.rows, starts, lens: self.lens, live, holds }
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
        let mut strong = false;
        for n in same() {
            let pack = self.pack_of(n);
            if !self.packs[pack].weak {
                strong = true;
                mark(n, pack);
            }
        }
        if !strong {
            same().for_each(|n| mark(n, self.pack_of(n)));
        }
        marked
    }

    fn pack_of(&self, chunk: u32) -> usize {
        self.packs.partition_point(|pack| pack.first <= chunk) - 1
    }

    /// Whether chunk number `n` of a pack is live.
    pub fn is_live(&self, pack: &Pack, n: u32) -> bool {
        let n = pack.first + n;
        self.live[n as usize / 64].load(Ordering::Relaxed) & 1 << (n % 64) != 0
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
