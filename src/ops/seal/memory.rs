//! What a seal knows from before: stored chunks, and directories as they were. Hints, all of it.

use std::{
    cell::RefCell,
    collections::HashSet,
    sync::atomic::{AtomicU64, Ordering},
};

use crate::{
    catalog::{Catalog, ShortId, short_id},
    format::{ChunkId, Content, Data, DomainKeys, Entry, NODE_ENTRIES_MAX, Node},
    ops::seal::skip::DirRecord,
    pack,
};

/// Longest piece of a directory's cached entries, in bytes, raw.
const PIECE_LEN_MAX: usize = 64 << 20;

/// The chunks that the vault held when the seal began, and which of them it builds on. 16 bytes a chunk, and a bit.
pub struct Known {
    ids: Vec<ShortId>,
    used: Vec<AtomicU64>,
}

impl Known {
    /// Takes ids in any order.
    pub fn new(mut ids: Vec<ShortId>) -> Self {
        ids.sort_unstable();
        ids.dedup();
        let used = std::iter::repeat_with(AtomicU64::default).take(ids.len().div_ceil(64)).collect();
        Self { ids, used }
    }

    /// Whether the chunk is there. Whoever asks builds on it.
    fn holds(&self, id: &ChunkId) -> bool {
        match self.ids.binary_search(&short_id(id)) {
            Ok(at) => {
                self.used[at / 64].fetch_or(1 << (at % 64), Ordering::Relaxed);
                true
            }
            Err(_) => false,
        }
    }

    /// Whether the seal builds on one of `lost`.
    pub fn builds_on(&self, lost: &HashSet<ShortId>) -> bool {
        let is_used = |at: usize| self.used[at / 64].load(Ordering::Relaxed) & 1 << (at % 64) != 0;
        lost.iter().any(|id| self.ids.binary_search(id).is_ok_and(is_used))
    }
}

/// The catalog and the chunk ids in it, as they were when the seal began.
pub struct Memory<'a> {
    /// `None` remembers nothing and takes nothing in.
    catalog: Option<&'a Catalog>,
    keys: &'a DomainKeys,
    known: Option<&'a Known>,
    /// Whether directory records may be used.
    use_records: bool,
}

impl<'a> Memory<'a> {
    /// Remembers what the catalog says.
    pub fn new(catalog: &'a Catalog, keys: &'a DomainKeys, known: &'a Known, use_records: bool) -> Self {
        Self { catalog: Some(catalog), keys, known: Some(known), use_records }
    }

    /// Remembers nothing.
    pub fn none(keys: &'a DomainKeys) -> Self {
        Self { catalog: None, keys, known: None, use_records: false }
    }

    /// The catalog's name for the directory at `path`.
    pub fn name(&self, path: &[u8]) -> [u8; 16] {
        self.keys.catalog.short_name(path)
    }

    /// Whether the chunk was stored before this seal.
    pub fn knows(&self, id: &ChunkId) -> bool {
        self.known.is_some_and(|known| known.holds(id))
    }

    /// Whether all chunks of an entry were.
    pub fn holds(&self, entry: &Entry) -> bool {
        match &entry.content {
            Content::File { data: Data::Chunks(list), .. } => list.iter().all(|c| self.knows(&c.id)),
            Content::File { data: Data::Lists(parts), .. } => parts.iter().all(|p| self.knows(&p.id)),
            _ => true,
        }
    }

    /// The record of a directory, if it counts.
    pub fn dir(&self, name: &[u8; 16]) -> Option<DirRecord> {
        let catalog = self.catalog.filter(|_| self.use_records)?;
        let record = DirRecord::decode(&catalog.dir(name).ok()??)?;
        (catalog.state().committed.contains(&record.seal) && self.knows(&record.node)).then_some(record)
    }

    /// The entries of a directory as they were, directories left out, sorted by name.
    pub fn entries(&self, name: &[u8; 16]) -> Option<Vec<Entry>> {
        let catalog = self.catalog.filter(|_| self.use_records)?;
        let mut all = Vec::new();
        for piece in 0.. {
            let Some(bytes) = catalog.entries(&piece_name(self.keys, name, piece)).ok()? else { break };
            let mut plain = Vec::new();
            pack::decompress(&bytes, PIECE_LEN_MAX, &mut plain, "the catalog").ok()?;
            let Ok(Node::Entries(mut entries)) = Node::decode(&plain) else { return None };
            let full = entries.len() == NODE_ENTRIES_MAX;
            all.append(&mut entries);
            if !full {
                break;
            }
        }
        all.is_sorted_by(|a: &Entry, b| a.name < b.name).then_some(all)
    }

    /// Remembers a directory.
    pub fn put(&self, name: &[u8; 16], record: &DirRecord, entries: Option<&[&[u8]]>) {
        thread_local! {
            static SMALL: RefCell<Option<pack::Compressor>> = const { RefCell::new(None) };
        }
        let Some(catalog) = self.catalog else { return };
        let write = || -> crate::error::Result<()> {
            if let Some(entries) = entries {
                SMALL.with_borrow_mut(|compressor| {
                    let compressor = match compressor {
                        Some(compressor) => compressor,
                        None => compressor.insert(pack::Compressor::new(1)?),
                    };
                    let mut out = Vec::new();
                    // The last piece is never full, so that it ends the list, whatever a longer one left behind.
                    for n in 0..=entries.len() / NODE_ENTRIES_MAX {
                        let piece = entries.iter().skip(n * NODE_ENTRIES_MAX).take(NODE_ENTRIES_MAX);
                        compressor.compress(&Node::encode_entries(piece.copied()), &mut out)?;
                        catalog.put_entries(&piece_name(self.keys, name, n), &out)?;
                    }
                    crate::error::Result::Ok(())
                })?;
            }
            catalog.put_dir(name, &record.encode())
        };
        // A catalog that cannot take a hint is found broken, and made anew, when it is committed or opened next.
        let _ = write();
    }
}

fn piece_name(keys: &DomainKeys, name: &[u8; 16], piece: usize) -> [u8; 16] {
    match piece {
        0 => *name,
        n => keys.catalog.short_name(&[&name[..], &(n as u64).to_le_bytes()].concat()),
    }
}
