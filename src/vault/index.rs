//! Which chunk is in which pack, for readers: all index segments, in memory.
//!
//! A hint: whatever it says is checked against the chunk's id. About 24 bytes a chunk and 16 a frame.

use std::collections::HashMap;

use crate::{
    error::Result,
    format::{ChunkId, Digest, FrameEntry, PackIndex, Segment},
    pack::{self, PackReader, Unwrap},
    store::{self, Key, Store},
    vault::Finding,
};

/// Longest segment accepted, in bytes.
pub const SEGMENT_LEN_MAX: usize = 1 << 30;

/// One chunk: the start of its id, its pack, and its number in it.
type Row = (u64, u32, u32);

/// The table.
#[derive(Default)]
pub struct Index {
    packs: Vec<Table>,
    numbers: HashMap<Digest, u32>,
    rows: Vec<Row>,
    segments: HashMap<Key, ()>,
}

struct Table {
    digest: Digest,
    stored_len: u64,
    frames: Vec<(FrameEntry, u32)>,
    lens: Box<[u32]>,
}

/// A place where a chunk may be.
#[derive(Clone, Copy, Debug)]
pub struct Located {
    /// The pack.
    pub pack: Digest,
    /// Its number in the index.
    pub pack_number: u32,
    /// The frame in it.
    pub frame: FrameEntry,
    /// The frame's number.
    pub frame_number: u32,
    /// The chunk's number in the frame.
    pub chunk: u32,
}

fn start_of(id: &ChunkId) -> u64 {
    u64::from_be_bytes(id.as_bytes()[..8].try_into().expect("8 of 32 bytes"))
}

impl Index {
    /// Raw bytes of the longest frame.
    pub fn frame_len_max(&self) -> u32 {
        self.packs.iter().flat_map(|table| &table.frames).map(|(frame, _)| frame.raw_len).max().unwrap_or(0)
    }

    /// Adds the segments of `store` that are not in yet. Segments that cannot be read are findings, not errors.
    pub fn add_segments(&mut self, store: &dyn Store, identities: &[Unwrap]) -> Result<Vec<Finding>> {
        let mut findings = Vec::new();
        for (key, _) in store::list_all(store, "index")? {
            if self.segments.contains_key(&key) {
                continue;
            }
            match read_segment(store, &key, identities) {
                Ok(segment) => {
                    for pack in segment.packs {
                        self.push(pack.digest, pack.stored_len, &pack.index);
                    }
                    self.segments.insert(key, ());
                }
                Err(e) => findings.push(Finding::new(key.as_str(), e.chain())),
            }
        }
        self.rows.sort_unstable();
        Ok(findings)
    }

    /// Adds packs that no segment names, from their own trailers. One small read a pack.
    pub fn add_from_trailers(&mut self, store: &dyn Store, reader: &PackReader) -> Result<Vec<Finding>> {
        let mut findings = Vec::new();
        for (key, len) in store::list_all(store, "packs")? {
            let Some(digest) = key.digest().filter(|d| !self.numbers.contains_key(d)) else { continue };
            match reader.index(store, &digest) {
                Ok((_, index)) => self.push(digest, len, &index),
                Err(e) => findings.push(Finding::new(key.as_str(), e.chain())),
            }
        }
        self.rows.sort_unstable();
        Ok(findings)
    }

    fn push(&mut self, digest: Digest, stored_len: u64, index: &PackIndex) {
        if self.numbers.contains_key(&digest) {
            return;
        }
        let number = u32::try_from(self.packs.len()).expect("fewer than 2^32 packs");
        self.rows.extend(index.chunks.iter().zip(0..).map(|((id, _), n)| (start_of(id), number, n)));
        let mut first = 0;
        let frames = index
            .frames
            .iter()
            .map(|frame| {
                let this = (*frame, first);
                first += frame.chunks;
                this
            })
            .collect();
        self.packs.push(Table { digest, stored_len, frames, lens: index.chunks.iter().map(|(_, len)| *len).collect() });
        self.numbers.insert(digest, number);
    }

    /// The places where `id` may be, rarely more than one.
    pub fn locate(&self, id: &ChunkId) -> impl Iterator<Item = Located> + '_ {
        let start = start_of(id);
        let from = self.rows.partition_point(|row| row.0 < start);
        self.rows[from..].iter().take_while(move |row| row.0 == start).filter_map(|(_, pack_number, n)| {
            let table = &self.packs[*pack_number as usize];
            let frame_number = table.frames.partition_point(|(_, first)| first <= n).checked_sub(1)?;
            let (frame, first) = table.frames[frame_number];
            Some(Located { pack: table.digest, pack_number: *pack_number, frame, frame_number: frame_number as u32, chunk: n - first })
        })
    }

    /// Raw lengths of the chunks in a frame.
    pub fn lens(&self, at: &Located) -> Vec<u32> {
        let table = &self.packs[at.pack_number as usize];
        let (frame, first) = table.frames[at.frame_number as usize];
        table.lens[first as usize..(first + frame.chunks) as usize].to_vec()
    }

    /// Every pack with its stored length.
    pub fn packs(&self) -> impl Iterator<Item = (Digest, u64)> + '_ {
        self.packs.iter().map(|t| (t.digest, t.stored_len))
    }

    /// Frame number `frame_number` of pack number `pack_number`.
    pub fn frame(&self, pack_number: u32, frame_number: u32) -> Option<Located> {
        let table = self.packs.get(pack_number as usize)?;
        let (frame, _) = *table.frames.get(frame_number as usize)?;
        Some(Located { pack: table.digest, pack_number, frame, frame_number, chunk: 0 })
    }

    /// How many chunks it knows.
    pub fn chunks(&self) -> usize {
        self.rows.len()
    }
}

/// Reads one segment.
pub fn read_segment(store: &dyn Store, key: &Key, identities: &[Unwrap]) -> Result<Segment> {
    let bytes = store::get_all(store, key, SEGMENT_LEN_MAX)?;
    let compressed = pack::open_whole(identities, &bytes, key.as_str())?;
    let mut plain = Vec::new();
    pack::decompress(&compressed, SEGMENT_LEN_MAX, &mut plain, key.as_str())?;
    Segment::decode(&plain)
}
