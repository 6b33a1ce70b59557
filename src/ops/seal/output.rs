//! Frames become packs, packs become objects: compressors, and the one who stores.

use std::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use crossbeam_channel::{Receiver, Sender};

use crate::{
    catalog::{Catalog, PendingPack},
    error::{Error, Result},
    event::{Event, Sink},
    format::{ChunkId, Digester, FRAME_LEN_RAW_MAX, PACK_LEN_META_MAX, PackKind},
    ops::seal::pool::Pool,
    pack::{Compressor, LEVEL_DEFAULT, PackBuilder, SealedPack},
    store::Key,
    sys,
    vault::{SealerKeys, Vault, Writer},
};

/// How content becomes frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compression {
    /// zstd's level, 1 to 19.
    pub level: i32,
    /// Frames of tens of MiB and matches found over all of a frame, for what is seldom read.
    pub large_frames: bool,
}

/// Level of an archive unless told otherwise: the highest that keeps zstd's memory within bounds.
const LEVEL_ARCHIVE: i32 = 19;
/// Raw bytes of the frames into which a large one falls that does not compress: it would not fit a pack, and gains nothing.
const PART_LEN: usize = 4 << 20;

impl Compression {
    /// For what is sealed often and read at any place.
    pub fn standard(level: Option<i32>) -> Self {
        Self { level: level.unwrap_or(LEVEL_DEFAULT), large_frames: false }
    }

    /// For what is kept for long and seldom read.
    pub fn archive(level: Option<i32>) -> Self {
        Self { level: level.unwrap_or(LEVEL_ARCHIVE), large_frames: true }
    }

    /// Room that a frame of content needs, where a vault wants frames of `target` bytes.
    pub fn frame_room(self, target: usize) -> usize {
        if self.large_frames { FRAME_LEN_RAW_MAX } else { target * 2 }
    }

    fn compressor(self) -> Result<Compressor> {
        match self.large_frames {
            true => Compressor::far(self.level),
            false => Compressor::new(self.level),
        }
    }
}

/// Chunks that become one frame.
pub struct FrameJob {
    /// Which packs it goes to.
    pub kind: PackKind,
    /// Raw bytes.
    pub raw: Vec<u8>,
    /// What they are.
    pub chunks: Vec<(ChunkId, u32)>,
}

impl FrameJob {
    /// The same in shorter frames.
    fn parts(&self) -> impl Iterator<Item = (&[u8], &[(ChunkId, u32)])> {
        let (mut raw, mut chunks) = (&self.raw[..], &self.chunks[..]);
        std::iter::from_fn(move || {
            let mut len = 0;
            let n = chunks
                .iter()
                .take_while(|(_, next)| {
                    len < PART_LEN && {
                        len += *next as usize;
                        true
                    }
                })
                .count();
            let (part, rest) = raw.split_at(len);
            let (these, others) = chunks.split_at(n);
            (raw, chunks) = (rest, others);
            (n > 0).then_some((part, these))
        })
    }
}

/// The packs that are open: two for data, so that the size of a tail is not the size of a file; one for trees.
pub struct OpenPacks<'a> {
    vault: &'a Vault,
    sealer: &'a SealerKeys,
    data: [Mutex<Option<PackBuilder>>; 2],
    meta: Mutex<Option<PackBuilder>>,
    /// The first pack of the second place closes half full, so that the two are not full, synced, and lost by a kill, at the same time.
    staggered: AtomicBool,
    coin: Option<[u8; 32]>,
    /// Bytes of content, raw and compressed.
    raw: AtomicU64,
    compressed: AtomicU64,
}

impl<'a> OpenPacks<'a> {
    /// No pack is open yet. Frames go to a pack as `coin` says, or at random.
    pub fn new(vault: &'a Vault, sealer: &'a SealerKeys, coin: Option<[u8; 32]>) -> Self {
        Self {
            vault,
            sealer,
            coin,
            data: Default::default(),
            meta: Mutex::default(),
            staggered: AtomicBool::new(false),
            raw: AtomicU64::new(0),
            compressed: AtomicU64::new(0),
        }
    }

    /// Compresses frames into packs, and sends on those that are full, until there are no more frames.
    pub fn compress(&self, compression: Compression, jobs: &Receiver<FrameJob>, pool: &Pool, full: &Sender<SealedPack>) -> Result<()> {
        let mut compressor = compression.compressor()?;
        let mut frame = Vec::new();
        let mut coin = Coin { seed: self.coin.map_or_else(sys::random, Ok)?, bits: Vec::new(), round: 0 };
        for job in jobs {
            compressor.compress(&job.raw, &mut frame)?;
            if frame.len() > self.vault.config.pack_len_max as usize / 2 {
                for (raw, chunks) in job.parts() {
                    compressor.compress(raw, &mut frame)?;
                    self.add(job.kind, raw.len(), &frame, chunks, coin.toss(), full)?;
                }
            } else {
                self.add(job.kind, job.raw.len(), &frame, &job.chunks, coin.toss(), full)?;
            }
            pool.put(job.raw);
        }
        Ok(())
    }

    /// Adds a frame to an open pack, and sends that on first if it would become too long.
    fn add(
        &self,
        kind: PackKind,
        raw_len: usize,
        frame: &[u8],
        chunks: &[(ChunkId, u32)],
        coin: usize,
        full: &Sender<SealedPack>,
    ) -> Result<()> {
        let (slot, len_max) = match kind {
            PackKind::Data if coin == 1 && !self.staggered.load(Ordering::Relaxed) => (&self.data[1], self.vault.config.pack_len_max / 2),
            PackKind::Data => (&self.data[coin], self.vault.config.pack_len_max),
            PackKind::Meta => (&self.meta, PACK_LEN_META_MAX),
        };
        if kind == PackKind::Data {
            self.raw.fetch_add(raw_len as u64, Ordering::Relaxed);
            self.compressed.fetch_add(frame.len() as u64, Ordering::Relaxed);
        }
        let mut slot = lock(slot);
        let closed = match &*slot {
            Some(pack) if !pack.fits(frame.len(), chunks.len(), len_max as usize) => slot.take(),
            _ => None,
        };
        let pack = match &mut *slot {
            Some(pack) => pack,
            none => none.insert(self.start(kind)?),
        };
        pack.push(frame, chunks)?;
        drop(slot);
        if closed.is_some() && kind == PackKind::Data && coin == 1 {
            self.staggered.store(true, Ordering::Relaxed);
        }
        match closed {
            Some(pack) => full.send(pack.finish()?).map_err(|_| Error::cancelled()),
            None => Ok(()),
        }
    }

    fn start(&self, kind: PackKind) -> Result<PackBuilder> {
        let recipient = match kind {
            PackKind::Data => &self.sealer.data,
            PackKind::Meta => &self.sealer.meta,
        };
        self.vault.start_pack(kind, recipient)
    }

    /// Bytes of content so far, raw and compressed.
    pub fn content(&self) -> (u64, u64) {
        (self.raw.load(Ordering::Relaxed), self.compressed.load(Ordering::Relaxed))
    }

    /// Closes the packs that are still open.
    pub fn finish(&self, full: &Sender<SealedPack>) -> Result<()> {
        for slot in self.data.iter().chain([&self.meta]) {
            if let Some(pack) = lock(slot).take() {
                full.send(pack.finish()?).map_err(|_| Error::cancelled())?;
            }
        }
        Ok(())
    }

    /// Stores packs, and notes each in the catalog, until there are no more.
    pub fn store(&self, packs: &Receiver<SealedPack>, writer: &Writer, catalog: &Catalog, sink: &dyn Sink) -> Result<()> {
        let mut catalog_works = true;
        for mut pack in packs {
            // Behind the note: should there be no room for it, the pack is found again, and gets it then.
            let sidecar = pack.sidecar.take();
            let stored = writer.put_pack(pack)?;
            if catalog_works {
                let mut table = Vec::with_capacity(stored.index.body_len());
                stored.index.encode_body(&mut table);
                let pending = PendingPack { digest: stored.digest, stored_len: stored.stored_len, table };
                if let Err(e) = catalog.add_pending(&pending) {
                    // The vault is what counts; the catalog is made again at the next seal.
                    catalog_works = false;
                    sink.send(Event::Warning(e.chain()));
                }
            }
            if let (Some(sidecar), Some(beside)) = (sidecar, Key::pack(&stored.digest).sidecar()) {
                self.vault.store.put(&beside, &sidecar)?;
            }
        }
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nobody panics while holding a pack")
}

/// Random bits, from a seed.
struct Coin {
    seed: [u8; 32],
    bits: Vec<u8>,
    round: u64,
}

impl Coin {
    /// 0 or 1.
    fn toss(&mut self) -> usize {
        if self.bits.is_empty() {
            let mut hash = Digester::default();
            hash.update(&self.seed);
            hash.update(&self.round.to_le_bytes());
            self.round += 1;
            self.bits = hash.finish().as_bytes().iter().flat_map(|byte| (0..8).map(move |bit| byte >> bit & 1)).collect();
        }
        usize::from(self.bits.pop().expect("just filled"))
    }
}
