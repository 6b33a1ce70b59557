//! Decompressed frames, bounded in bytes, each decoded once. The home of `quick_cache`.

use std::sync::{Arc, OnceLock};

use quick_cache::{Weighter, sync::Cache};

use crate::{
    error::{Error, Result},
    format::{ChunkId, Key32},
};

/// A frame of a pack, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FrameKey {
    /// Number of the pack in the reader's index.
    pub pack: u32,
    /// Number of the frame in the pack.
    pub frame: u32,
}

/// Raw bytes of a frame, and which of its chunks were checked.
pub struct Frame {
    bytes: Vec<u8>,
    /// For each chunk: end offset, and the id it was found to have.
    chunks: Vec<(u32, OnceLock<ChunkId>)>,
}

impl Frame {
    /// Takes raw bytes and the lengths of the chunks in them.
    pub fn new(bytes: Vec<u8>, lens: impl Iterator<Item = u32>) -> Self {
        let mut end = 0;
        let chunks = lens
            .map(|len| {
                end += len;
                (end, OnceLock::new())
            })
            .collect();
        Self { bytes, chunks }
    }

    /// Returns chunk number `n` if it is `id` under `key`. Hashes it once; 20 µs for 128 KiB.
    pub fn chunk(&self, n: usize, id: &ChunkId, key: &Key32) -> Option<&[u8]> {
        let (end, known) = self.chunks.get(n)?;
        let start = if n == 0 { 0 } else { self.chunks[n - 1].0 };
        let bytes = self.bytes.get(start as usize..*end as usize)?;
        (known.get_or_init(|| key.chunk_id(bytes)) == id).then_some(bytes)
    }

    /// Bytes this takes in memory.
    pub fn weight(&self) -> u64 {
        (self.bytes.capacity() + self.chunks.len() * size_of::<(u32, OnceLock<ChunkId>)>() + 128) as u64
    }
}

#[derive(Clone)]
struct ByBytes;

impl Weighter<FrameKey, Arc<Frame>> for ByBytes {
    fn weight(&self, _: &FrameKey, frame: &Arc<Frame>) -> u64 {
        frame.weight()
    }
}

/// Frames by key, least useful out first.
pub struct FrameCache(Cache<FrameKey, Arc<Frame>, ByBytes>);

impl FrameCache {
    /// Holds at most about `bytes_max` bytes.
    pub fn new(bytes_max: u64) -> Self {
        let frames = usize::try_from(bytes_max >> 17).unwrap_or(0).max(16);
        Self(Cache::with_weighter(frames, bytes_max, ByBytes))
    }

    /// Returns the frame, decoding it with `load` unless it is here. Threads that ask for a frame which another one
    /// is decoding wait for that one.
    pub fn get(&self, key: FrameKey, load: impl FnOnce() -> Result<Frame>) -> Result<Arc<Frame>> {
        self.0.get_or_insert_with(&key, || load().map(Arc::new)).map_err(|e: Error| e)
    }

    /// Whether the frame is here.
    pub fn contains(&self, key: FrameKey) -> bool {
        self.0.peek(&key).is_some()
    }
}
