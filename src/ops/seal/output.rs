//! Frames become packs, packs become objects: compressors, and the one who stores.

use std::sync::{Mutex, MutexGuard};

use crossbeam_channel::{Receiver, Sender};

use crate::{
    catalog::{Catalog, PendingPack},
    error::{Error, Result},
    event::{Event, Sink},
    format::{ChunkId, Digester, PACK_LEN_META_MAX, PackKind},
    ops::seal::pool::Pool,
    pack::{Compressor, PackBuilder, SealedPack},
    sys,
    vault::{SealerKeys, Vault, Writer},
};

/// Chunks that become one frame.
pub struct FrameJob {
    /// Which packs it goes to.
    pub kind: PackKind,
    /// Raw bytes.
    pub raw: Vec<u8>,
    /// What they are.
    pub chunks: Vec<(ChunkId, u32)>,
}

/// The packs that are open: two for data, so that the size of a tail is not the size of a file; one for trees.
pub struct OpenPacks<'a> {
    vault: &'a Vault,
    sealer: &'a SealerKeys,
    data: [Mutex<Option<PackBuilder>>; 2],
    meta: Mutex<Option<PackBuilder>>,
}

impl<'a> OpenPacks<'a> {
    /// No pack is open yet.
    pub fn new(vault: &'a Vault, sealer: &'a SealerKeys) -> Self {
        Self { vault, sealer, data: Default::default(), meta: Mutex::default() }
    }

    /// Compresses frames into packs, and sends on those that are full, until there are no more frames.
    pub fn compress(&self, level: i32, jobs: &Receiver<FrameJob>, pool: &Pool, full: &Sender<SealedPack>) -> Result<()> {
        let mut compressor = Compressor::new(level)?;
        let mut frame = Vec::new();
        let mut coin = Coin::new()?;
        for job in jobs {
            compressor.compress(&job.raw, &mut frame)?;
            pool.put(job.raw);
            let (slot, len_max) = match job.kind {
                PackKind::Data => (&self.data[coin.toss()], self.vault.config.pack_len_max),
                PackKind::Meta => (&self.meta, PACK_LEN_META_MAX),
            };
            let mut slot = lock(slot);
            let closed = match &*slot {
                Some(pack) if !pack.fits(frame.len(), job.chunks.len(), len_max as usize) => slot.take(),
                _ => None,
            };
            let pack = match &mut *slot {
                Some(pack) => pack,
                none => none.insert(self.start(job.kind)?),
            };
            pack.push(&frame, &job.chunks)?;
            drop(slot);
            if let Some(pack) = closed {
                full.send(pack.finish()?).map_err(|_| Error::cancelled())?;
            }
        }
        Ok(())
    }

    fn start(&self, kind: PackKind) -> Result<PackBuilder> {
        let recipient = match kind {
            PackKind::Data => &self.sealer.data,
            PackKind::Meta => &self.sealer.meta,
        };
        PackBuilder::new(kind, self.vault.config.id, recipient, self.vault.store.begin()?)
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
        for pack in packs {
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
        }
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nobody panics while holding a pack")
}

/// Random bits, from a seed of the operating system.
struct Coin {
    seed: [u8; 32],
    bits: Vec<u8>,
    round: u64,
}

impl Coin {
    fn new() -> Result<Self> {
        Ok(Self { seed: sys::random()?, bits: Vec::new(), round: 0 })
    }

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
