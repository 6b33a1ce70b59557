//! Location ─▶ frame: ranged read, decrypt, decompress.

use std::{cell::RefCell, sync::Arc};

use quick_cache::sync::Cache;

use crate::{
    error::{Error, Result},
    format::{Digest, FrameEntry, HEADER_LEN, PackIndex, PackKind, TRAILER_LEN, Trailer, VaultId, check_header, parse_index},
    pack::{
        Identity, Unwrap,
        cipher::{HEADER_LEN_MAX, StreamHead},
        frame,
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
    heads: Cache<Digest, Arc<StreamHead>>,
}

thread_local! {
    /// Stored bytes on their way to plaintext; fresh pages are dear, so they are kept.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl PackReader {
    /// Reads packs of `vault` with `identities`.
    pub fn new(vault: VaultId, identities: Vec<Identity>) -> Self {
        Self { vault, identities, heads: Cache::new(HEADS_MAX) }
    }

    fn head(&self, store: &dyn Store, pack: &Digest) -> Result<Arc<StreamHead>> {
        if let Some(head) = self.heads.get(pack) {
            return Ok(head);
        }
        let (key, what) = (Key::pack(pack), name(pack));
        let len = store.stat(&key)?.ok_or_else(|| Error::missing(format!("{what} is not in the vault")))?;
        let identities: Vec<Unwrap> = self.identities.iter().map(|i| i as Unwrap).collect();
        let mut bytes = vec![0; HEAD_READ.min(usize::try_from(len).unwrap_or(HEAD_READ))];
        store.get(&key, 0, &mut bytes)?;
        let head = match StreamHead::open(&identities, &bytes, len, &what) {
            // Many or large recipients; read on.
            Err(e) if e.kind() == crate::error::ErrorKind::Corrupt && (bytes.len() as u64) < len => {
                bytes.resize(HEADER_LEN_MAX.min(usize::try_from(len).unwrap_or(HEADER_LEN_MAX)), 0);
                store.get(&key, 0, &mut bytes)?;
                StreamHead::open(&identities, &bytes, len, &what)?
            }
            other => other?,
        };
        let mut scratch = Vec::new();
        let first = range(store, &key, &head, 0, HEADER_LEN, &mut scratch, &what)?;
        check_header(first, self.vault).map_err(|e| e.while_doing(format!("cannot use {what}")))?;
        let head = Arc::new(head);
        self.heads.insert(*pack, head.clone());
        Ok(head)
    }

    /// Returns the raw bytes of a frame, as long as its index says.
    ///
    /// # Errors
    /// `Missing` if the pack is gone, `Corrupt` if decryption or decompression fails, `WrongKey` if no identity opens it.
    ///
    /// Cost: one ranged read of at most two blocks more than the frame; no check of chunk ids, which is the caller's.
    pub fn frame(&self, store: &dyn Store, pack: &Digest, at: &FrameEntry) -> Result<Vec<u8>> {
        let (key, what) = (Key::pack(pack), name(pack));
        let head = self.head(store, pack)?;
        SCRATCH.with_borrow_mut(|scratch| {
            let compressed = range(store, &key, &head, u64::from(at.offset), at.compressed_len as usize, scratch, &what)?;
            let mut raw = Vec::new();
            frame::decompress(compressed, at.raw_len as usize, &mut raw, &what)?;
            match raw.len() == at.raw_len as usize {
                true => Ok(raw),
                false => Err(Error::corrupt(format!("{what} holds a frame of another length than its index says"))),
            }
        })
    }

    /// Forgets what is known of a pack, because it proved wrong.
    pub fn forget(&self, pack: &Digest) {
        self.heads.remove(pack);
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
