//! Chunks that are new go into frames with their neighbours; those that the vault has go nowhere.

use std::collections::HashSet;

use crossbeam_channel::Sender;

use crate::{
    catalog::{ShortId, short_id},
    error::{Error, Result},
    format::{CHUNK_LEN_MAX, CHUNK_LEN_MIN, ChunkId, FRAME_LEN_RAW_MAX, FRAME_TARGET_META, PackKind},
    ops::seal::{
        memory::Memory,
        output::{Compression, FrameJob},
        pool::Pool,
    },
};

/// Raw bytes at which a frame of nodes is full in an archive.
const FRAME_TARGET_META_LARGE: usize = 1 << 20;

/// Chunks on their way into a frame.
#[derive(Default)]
struct Bundle {
    raw: Vec<u8>,
    chunks: Vec<(ChunkId, u32)>,
}

/// The frames that are being filled, one of content and one of nodes.
pub struct Bundles<'a> {
    memory: &'a Memory<'a>,
    frames: Sender<FrameJob>,
    /// Room for frames of content.
    pool: &'a Pool,
    frame_target: usize,
    compression: Compression,
    /// Chunks that this seal stored. 16 bytes each and the table's room: about 30.
    new: HashSet<ShortId>,
    new_bytes: u64,
    data: Bundle,
    meta: Bundle,
}

impl<'a> Bundles<'a> {
    /// Frames of about `frame_target` raw bytes of content go to `frames`.
    pub fn new(memory: &'a Memory<'a>, frames: Sender<FrameJob>, pool: &'a Pool, frame_target: usize, compression: Compression) -> Self {
        let (data, meta) = Default::default();
        Self { memory, frames, pool, frame_target, compression, new: HashSet::new(), new_bytes: 0, data, meta }
    }

    /// Raw bytes that were new to the vault.
    pub fn new_bytes(&self) -> u64 {
        self.new_bytes
    }

    /// Stores a chunk unless the vault has it.
    pub fn store(&mut self, kind: PackKind, id: ChunkId, bytes: &[u8]) -> Result<()> {
        if self.memory.knows(&id) || !self.new.insert(short_id(&id)) {
            return Ok(());
        }
        self.new_bytes += bytes.len() as u64;
        let chunk = (id, u32::try_from(bytes.len()).expect("a chunk fits a frame"));
        let target = self.target(kind, bytes.len());
        if bytes.len() >= target {
            let mut raw = self.pool.take();
            raw.extend_from_slice(bytes);
            return self.send(FrameJob { kind, raw, chunks: vec![chunk] });
        }
        let bundle = self.bundle(kind);
        bundle.raw.extend_from_slice(bytes);
        bundle.chunks.push(chunk);
        if bundle.raw.len() >= target { self.flush(kind) } else { Ok(()) }
    }

    /// Sends what is not full.
    pub fn finish(&mut self) -> Result<()> {
        self.flush(PackKind::Data)?;
        self.flush(PackKind::Meta)
    }

    /// Raw bytes at which the frame is full that a chunk of `len` bytes goes to.
    fn target(&self, kind: PackKind, len: usize) -> usize {
        match kind {
            PackKind::Data if self.compression.large_frames => FRAME_LEN_RAW_MAX - CHUNK_LEN_MAX,
            // Whole small files go with their neighbours, and a little more company saves half a percent of space; parts of large ones are
            // read at random, and do better with less.
            PackKind::Data if len < CHUNK_LEN_MIN => self.frame_target * 2,
            PackKind::Data => self.frame_target,
            PackKind::Meta if self.compression.large_frames => FRAME_TARGET_META_LARGE,
            PackKind::Meta => FRAME_TARGET_META as usize,
        }
    }

    fn bundle(&mut self, kind: PackKind) -> &mut Bundle {
        match kind {
            PackKind::Data => &mut self.data,
            PackKind::Meta => &mut self.meta,
        }
    }

    fn flush(&mut self, kind: PackKind) -> Result<()> {
        if self.bundle(kind).chunks.is_empty() {
            return Ok(());
        }
        let next = match kind {
            PackKind::Data => self.pool.take(),
            PackKind::Meta => Vec::with_capacity(FRAME_TARGET_META as usize * 2),
        };
        let bundle = self.bundle(kind);
        let raw = std::mem::replace(&mut bundle.raw, next);
        let chunks = std::mem::take(&mut bundle.chunks);
        self.send(FrameJob { kind, raw, chunks })
    }

    fn send(&self, job: FrameJob) -> Result<()> {
        self.frames.send(job).map_err(|_| Error::cancelled())
    }
}
