//! Decompressed frames, bounded in bytes, each decoded once. The home of `quick_cache`.

use std::{
    hash::Hash,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use quick_cache::{OptionsBuilder, Weighter, sync::Cache};

use crate::{
    error::Result,
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
    touched: AtomicBool,
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
        Self { bytes, chunks, touched: AtomicBool::new(false) }
    }

    /// Notes that somebody wanted this frame; true the first time.
    pub fn touch(&self) -> bool {
        !self.touched.swap(true, Ordering::Relaxed)
    }

    /// Whether somebody wanted this frame; if not, it was decoded ahead.
    pub fn is_touched(&self) -> bool {
        self.touched.load(Ordering::Relaxed)
    }

    /// Returns chunk number `n` if it is `id` under `key`. Hashes it once; 20 µs for 128 KiB.
    pub fn chunk(&self, n: usize, id: &ChunkId, key: &Key32) -> Option<&[u8]> {
        let (end, known) = self.chunks.get(n)?;
        let start = if n == 0 { 0 } else { self.chunks[n - 1].0 };
        let bytes = self.bytes.get(start as usize..*end as usize)?;
        (known.get_or_init(|| key.chunk_id(bytes)) == id).then_some(bytes)
    }

    /// Whether chunk number `n` is `id` under `key`, looked at afresh.
    pub fn is_chunk(&self, n: usize, id: &ChunkId, key: &Key32) -> bool {
        let start = if n == 0 { 0 } else { self.chunks[n - 1].0 };
        let bytes = self.chunks.get(n).and_then(|(end, _)| self.bytes.get(start as usize..*end as usize));
        bytes.is_some_and(|bytes| key.chunk_id(bytes) == *id)
    }
}

/// Things that know how much memory they take.
pub trait Weigh {
    /// Bytes.
    fn weight(&self) -> u64;
}

impl Weigh for Frame {
    fn weight(&self) -> u64 {
        (self.bytes.capacity() + self.chunks.len() * size_of::<(u32, OnceLock<ChunkId>)>() + 128) as u64
    }
}

#[derive(Clone)]
struct ByBytes;

impl<K, V: Weigh> Weighter<K, Arc<V>> for ByBytes {
    fn weight(&self, _: &K, value: &Arc<V>) -> u64 {
        value.weight().max(1)
    }
}

/// Locks over which a cache is spread. One: a value that is larger than its shard's share is never kept, and frames of archives are large.
const SHARDS: usize = 1;
/// Smallest cache, in bytes: it must hold several frames or nodes of 4 MiB, decoded.
const BYTES_MIN: u64 = 24 << 20;

/// Values by key, at most so many bytes of them; the least useful go first.
pub struct Bounded<K, V: Weigh>(Cache<K, Arc<V>, ByBytes>);

impl<K: Eq + Hash + Clone, V: Weigh> Bounded<K, V> {
    /// Holds at most about `bytes_max` bytes, in values of about `bytes_each`.
    pub fn new(bytes_max: u64, bytes_each: u64) -> Self {
        let bytes_max = bytes_max.max(BYTES_MIN);
        let values = usize::try_from(bytes_max / bytes_each.max(1)).unwrap_or(0).max(16);
        let options = OptionsBuilder::new().estimated_items_capacity(values).weight_capacity(bytes_max).shards(SHARDS).build();
        let options = options.expect("both capacities are given");
        Self(Cache::with_options(options, ByBytes, Default::default(), Default::default()))
    }

    /// Returns the value, making it with `load` unless it is here. Threads that ask for a value which another one is
    /// making wait for that one.
    pub fn get(&self, key: K, load: impl FnOnce() -> Result<V>) -> Result<Arc<V>> {
        self.0.get_or_insert_with(&key, || load().map(Arc::new))
    }

    /// Drops a value that proved wrong.
    pub fn remove(&self, key: &K) {
        self.0.remove(key);
    }

    /// The value if it is here; does not count as a use.
    pub fn peek(&self, key: &K) -> Option<Arc<V>> {
        self.0.peek(key)
    }
}
