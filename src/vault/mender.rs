//! Damaged packs, mended in memory while they are read. Nothing is written: that is `verify --repair`.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, OnceLock},
};

use crate::{
    error::{ErrorKind, Result},
    event::{Event, Sink},
    format::{Digest, SHARD_LEN},
    store::{Key, Store, Upload},
    vault::sidecars,
};

/// Bytes of mended shards kept; a pack of 16 MiB at 5 % has at most 832 KiB of them.
const PATCH_BYTES_MAX: usize = 32 << 20;
/// Packs remembered, mended or beyond help: as many notes are written at most.
const PACKS_MAX: usize = 65_536;

/// The shards of a pack that had to be mended.
pub struct Patch {
    len: u64,
    shards: BTreeMap<u32, Box<[u8]>>,
}

/// Mends packs as they are met, one at a time.
#[derive(Default)]
pub struct Mender {
    known: Mutex<Known>,
    sink: OnceLock<Arc<dyn Sink>>,
}

#[derive(Default)]
struct Known {
    patches: HashMap<Digest, Arc<Patch>>,
    bytes: usize,
    /// Packs that are more damaged than can be mended.
    beyond: HashSet<Digest>,
    told: HashSet<Digest>,
}

impl Mender {
    /// Says where to tell of what is mended.
    pub fn tell(&self, sink: Arc<dyn Sink>) {
        // The first one keeps it.
        let _ = self.sink.set(sink);
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().expect("nobody panics while mending")
    }

    /// What to lay over the pack, if it can be mended. Holds up others that need a pack mended meanwhile: each takes its size in memory.
    pub fn patch(&self, store: &dyn Store, pack: &Digest) -> Option<Arc<Patch>> {
        let mut known = self.known();
        if let Some(patch) = known.patches.get(pack) {
            return Some(patch.clone());
        }
        if known.beyond.contains(pack) {
            return None;
        }
        let key = Key::pack(pack);
        // What a server sent, or a cache kept, may be wrong where the pack is not.
        store.doubt(&key);
        match sidecars::mend(store, &key, pack) {
            Ok(mended) => {
                let shards = mended.shards.iter().map(|n| (*n, mended.bytes[mended.range(*n)].into())).collect();
                let patch = Arc::new(Patch { len: mended.bytes.len() as u64, shards });
                known.keep(pack, &patch);
                let (news, hurt) = (known.is_news(pack), patch.shards.len());
                drop(known);
                if let Some(sink) = self.sink.get().filter(|_| news) {
                    sink.send(Event::Warning(told(&key, hurt)));
                }
                Some(patch)
            }
            Err(e) => {
                // A store that does not answer may do so later.
                if e.kind() != ErrorKind::Unavailable && known.beyond.len() < PACKS_MAX {
                    known.beyond.insert(*pack);
                }
                None
            }
        }
    }
}

/// What is said of a pack that had `hurt` shards mended.
fn told(key: &Key, hurt: usize) -> String {
    let places = match hurt {
        0 => return format!("{key} was read wrong, or not at all, and is right when read again"),
        1 => "one place".to_owned(),
        n => format!("{n} places"),
    };
    format!("{key} is damaged in {places} of {} KiB, and mended in memory: coffre verify --repair", SHARD_LEN >> 10)
}

impl Known {
    fn keep(&mut self, pack: &Digest, patch: &Arc<Patch>) {
        let len = patch.shards.len() * SHARD_LEN;
        if self.bytes + len > PATCH_BYTES_MAX || self.patches.len() >= PACKS_MAX {
            // A disk that fails in so many places at once is read slowly, then.
            self.patches.clear();
            self.bytes = 0;
        }
        self.bytes += len;
        self.patches.insert(*pack, patch.clone());
    }

    fn is_news(&mut self, pack: &Digest) -> bool {
        self.told.len() < PACKS_MAX && self.told.insert(*pack)
    }
}

/// A store in which one pack is whole again.
pub struct Patched<'a> {
    /// The store.
    pub inner: &'a dyn Store,
    /// The pack.
    pub key: &'a Key,
    /// What is laid over it.
    pub patch: &'a Patch,
}

impl Store for Patched<'_> {
    fn put(&self, key: &Key, bytes: &[u8]) -> Result<()> {
        self.inner.put(key, bytes)
    }

    fn begin(&self) -> Result<Box<dyn Upload>> {
        self.inner.begin()
    }

    fn get(&self, key: &Key, offset: u64, buf: &mut [u8]) -> Result<()> {
        if key != self.key || offset.checked_add(buf.len() as u64).is_none_or(|end| end > self.patch.len) {
            return self.inner.get(key, offset, buf);
        }
        let shard = SHARD_LEN as u64;
        let mut done = 0;
        while done < buf.len() {
            let at = offset + done as u64;
            let mended = |n: u64| u32::try_from(n).ok().and_then(|n| self.patch.shards.get(&n));
            let first = at / shard;
            let upto = |n: u64| usize::try_from((n * shard).saturating_sub(offset)).unwrap_or(usize::MAX).min(buf.len());
            if let Some(bytes) = mended(first) {
                let end = upto(first + 1);
                let start = (at - first * shard) as usize;
                buf[done..end].copy_from_slice(&bytes[start..start + end - done]);
                done = end;
            } else {
                // As much as is sound, at once.
                let last = (first + 1..).find(|n| upto(*n) == buf.len() || mended(*n).is_some()).expect("a buffer ends");
                let end = upto(last);
                self.inner.get(key, at, &mut buf[done..end])?;
                done = end;
            }
        }
        Ok(())
    }

    fn stat(&self, key: &Key) -> Result<Option<u64>> {
        if key == self.key { Ok(Some(self.patch.len)) } else { self.inner.stat(key) }
    }

    fn list(&self, prefix: &str, each: &mut dyn FnMut(Key, u64) -> Result<()>) -> Result<()> {
        self.inner.list(prefix, each)
    }

    fn delete(&self, key: &Key) -> Result<()> {
        self.inner.delete(key)
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}
