//! Location ─▶ frame: ranged read, decrypt, decompress.

use std::{cell::RefCell, sync::Arc};

use quick_cache::sync::Cache;

use crate::{
    error::{Error, ErrorKind, Result},
    format::{Digest, FrameEntry, HEADER_LEN, PackIndex, PackKind, TRAILER_LEN, Trailer, VaultId, check_header, parse_index},
    pack::{
        Headers, Identity, Remembered,
        cipher::{BLOCK_LEN, HEADER_LEN_MAX, StreamHead},
        frame,
        headers::tag_of,
    },
    store::{Key, Store},
};

/// Opened headers kept; each saves 60 µs and takes about 600 bytes.
const HEADS_MAX: usize = 4096;
/// First read of a pack: enough for its age header and its own.
const HEAD_READ: usize = 2048;
/// Longest index frame accepted, in bytes.
const INDEX_LEN_MAX: u32 = 1 << 30;

/// Reads frames of packs.
pub struct PackReader {
    vault: VaultId,
    identities: Vec<Identity>,
    headers: Arc<Headers>,
    heads: Cache<Digest, Arc<StreamHead>>,
}

/// Bytes that a thread keeps of the pack it read last, beyond what it just needed.
const SCRATCH_LEN_MAX: usize = 1 << 20;

thread_local! {
    static SCRATCH: RefCell<Scratch> = const { RefCell::new(Scratch { pack: None, first: 0, plain: Vec::new(), stored: Vec::new() }) };
}

/// The blocks of a pack that this thread decrypted last. Frames are shorter than blocks, so the next one often begins in a block that was
/// just decrypted. And fresh pages are dear, so they are kept.
struct Scratch {
    pack: Option<Digest>,
    /// Number of the first block in `plain`.
    first: u64,
    plain: Vec<u8>,
    stored: Vec<u8>,
}

impl Scratch {
    /// The plaintext of a pack, `len` bytes from `offset` on.
    fn range(&mut self, store: &dyn Store, pack: &Digest, head: &StreamHead, offset: u64, len: usize, what: &str) -> Result<&[u8]> {
        head.stored_range(offset, len, what)?;
        let block = BLOCK_LEN as u64;
        let (first, end) = (offset / block, offset + len as u64);
        let known = self.plain.len().div_ceil(BLOCK_LEN) as u64;
        if self.pack == Some(*pack) && (self.first..=self.first + known).contains(&first) {
            self.plain.drain(..((first - self.first) as usize * BLOCK_LEN).min(self.plain.len()));
        } else {
            self.plain.clear();
        }
        self.first = first;
        // Not known again before all of it is there.
        self.pack = None;
        let next = (first + self.plain.len().div_ceil(BLOCK_LEN) as u64) * block;
        if next < end {
            let upto = end.next_multiple_of(block).min(head.plain_len());
            let more = range(store, &Key::pack(pack), head, next, (upto - next) as usize, &mut self.stored, what)?;
            self.plain.extend_from_slice(more);
        }
        self.pack = Some(*pack);
        let start = (offset - first * block) as usize;
        Ok(&self.plain[start..start + len])
    }

    /// Gives back what a long frame took.
    fn trim(&mut self) {
        if self.plain.capacity() > SCRATCH_LEN_MAX || self.stored.capacity() > SCRATCH_LEN_MAX {
            self.pack = None;
            (self.plain, self.stored) = (Vec::new(), Vec::new());
        }
    }
}

impl PackReader {
    /// Reads packs of `vault` with `identities`, and keeps in `headers` what they open.
    pub fn new(vault: VaultId, identities: Vec<Identity>, headers: Arc<Headers>) -> Self {
        Self { vault, identities, headers, heads: Cache::new(HEADS_MAX) }
    }

    fn head(&self, store: &dyn Store, pack: &Digest) -> Result<Arc<StreamHead>> {
        if let Some(head) = self.heads.get(pack) {
            return Ok(head);
        }
        let (key, what) = (Key::pack(pack), name(pack));
        let remembered = Remembered::new(&self.identities, &self.headers);
        let (mut bytes, len) = store.start(&key, HEAD_READ)?.ok_or_else(|| Error::missing(format!("{what} is not in the vault")))?;
        let head = match remembered.head(&bytes, len, &what) {
            // Many or large recipients; read on.
            Err(e) if e.kind() == ErrorKind::Corrupt && (bytes.len() as u64) < len => {
                bytes.resize(HEADER_LEN_MAX.min(usize::try_from(len).unwrap_or(HEADER_LEN_MAX)), 0);
                store.get(&key, 0, &mut bytes)?;
                remembered.head(&bytes, len, &what)
            }
            other => other,
        };
        // Who got here opened the vault, and with it every pack that is what it was.
        let head = head.map_err(|e| if e.kind() == ErrorKind::WrongKey { e.as_kind(ErrorKind::Corrupt) } else { e })?;
        // Only who has the key that this header gave can have made what follows it, so once is enough.
        let header = usize::try_from(head.stored_offset(0)).ok().and_then(|len| bytes.get(..len)).unwrap_or(&bytes);
        let tag = tag_of([b"begins a pack of this vault", header].into_iter());
        if self.headers.get(&tag).is_none() {
            SCRATCH.with_borrow_mut(|scratch| {
                let first = scratch.range(store, pack, &head, 0, HEADER_LEN, &what)?;
                check_header(first, self.vault).map_err(|e| e.while_doing(format!("cannot use {what}")))
            })?;
            self.headers.put(tag, [1; 16]);
        }
        let head = Arc::new(head);
        self.heads.insert(*pack, head.clone());
        Ok(head)
    }

    /// Returns the raw bytes of a frame, as long as its index says.
    ///
    /// # Errors
    /// `Missing` if the pack is gone, `Corrupt` if it does not open, decrypt or decompress.
    ///
    /// Cost: one ranged read of at most two blocks more than the frame, less the blocks that this thread decrypted for the frame before; no check of chunk ids, which is the caller's.
    pub fn frame(&self, store: &dyn Store, pack: &Digest, at: &FrameEntry) -> Result<Vec<u8>> {
        let mut raw = Vec::new();
        self.frame_into(store, pack, at, &mut raw).map(|()| raw)
    }

    /// The same into `raw`, which is overwritten: for who reads many.
    pub fn frame_into(&self, store: &dyn Store, pack: &Digest, at: &FrameEntry, raw: &mut Vec<u8>) -> Result<()> {
        let what = name(pack);
        let head = self.head(store, pack)?;
        SCRATCH.with_borrow_mut(|scratch| {
            let compressed = scratch.range(store, pack, &head, u64::from(at.offset), at.compressed_len as usize, &what)?;
            frame::decompress(compressed, at.raw_len as usize, raw, &what)?;
            scratch.trim();
            match raw.len() == at.raw_len as usize {
                true => Ok(()),
                false => Err(Error::corrupt(format!("{what} holds a frame of another length than its index says"))),
            }
        })
    }

    /// Returns a frame as it was compressed, to be copied to another pack. It was authentic when it was decrypted; its chunks are not checked.
    pub fn compressed(&self, store: &dyn Store, pack: &Digest, at: &FrameEntry) -> Result<Vec<u8>> {
        let what = name(pack);
        let head = self.head(store, pack)?;
        SCRATCH.with_borrow_mut(|scratch| {
            let compressed = scratch.range(store, pack, &head, u64::from(at.offset), at.compressed_len as usize, &what)?.to_vec();
            scratch.trim();
            Ok(compressed)
        })
    }

    /// Opens a pack's header, so that its first frame does not wait for that.
    pub fn open(&self, store: &dyn Store, pack: &Digest) -> Result<()> {
        self.head(store, pack).map(drop)
    }

    /// Tells the store that the frames from `at` on will be read, so many stored bytes of them.
    pub fn expect(&self, store: &dyn Store, pack: &Digest, at: &FrameEntry, len: u64) {
        if let Some(head) = self.heads.get(pack) {
            store.expect(&Key::pack(pack), head.stored_offset(u64::from(at.offset)), len);
        }
    }

    /// Forgets what is known of a pack, here and in this thread, because it proved wrong.
    pub fn forget(&self, pack: &Digest) {
        self.heads.remove(pack);
        SCRATCH.with_borrow_mut(|scratch| scratch.pack = scratch.pack.filter(|kept| kept != pack));
    }

    /// Reads kind and index of a pack from its own trailer: for vaults whose index segments are lost.
    pub fn index(&self, store: &dyn Store, pack: &Digest) -> Result<(PackKind, PackIndex)> {
        let (key, what) = (Key::pack(pack), name(pack));
        let head = self.head(store, pack)?;
        let mut scratch = Vec::new();
        let plain_len = head.plain_len();
        let at = plain_len.checked_sub(TRAILER_LEN as u64).ok_or_else(|| Error::corrupt(format!("{what} is too short")))?;
        let kind = check_header(range(store, &key, &head, 0, HEADER_LEN, &mut scratch, &what)?, self.vault)?;
        let trailer = Trailer::decode(range(store, &key, &head, at, TRAILER_LEN, &mut scratch, &what)?, plain_len)?;
        if trailer.index_len > INDEX_LEN_MAX {
            return Err(Error::corrupt(format!("{what} has an impossibly long index")));
        }
        let index = range(store, &key, &head, trailer.index_offset, trailer.index_len as usize, &mut scratch, &what)?;
        Ok((kind, parse_index(index)?))
    }
}

fn name(pack: &Digest) -> String {
    format!("pack {}", pack.short())
}

fn range<'a>(
    store: &dyn Store,
    key: &Key,
    head: &StreamHead,
    offset: u64,
    len: usize,
    scratch: &'a mut Vec<u8>,
    what: &str,
) -> Result<&'a [u8]> {
    let (at, stored) = head.stored_range(offset, len, what)?;
    scratch.resize(stored, 0);
    store.get(key, at, scratch)?;
    head.open_range(offset, len, scratch, what)
}
