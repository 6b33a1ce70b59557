//! The local working memory of a sealing host, in sled. Rebuildable, never the truth.
//!
//! Holds which chunks are stored, which packs wait for their receipt, and what each directory looked like at the last seal.
//! Any state of it changes speed, never results. Used as sled 0.34.7 was measured (docs/ARCHITECTURE.md, Catalog): one
//! writer process, plain inserts, small values, a sync of our own after its flush, panics caught, and no sled type leaves.

mod proofs;
mod state;

pub use proofs::{ProofDepth, Proofs};
pub use state::State;

use std::{
    fs, io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::mpsc,
    time::Duration,
};

use crate::{
    error::{Error, Result},
    format::{ChunkId, Digest, DomainId, VaultId},
    sys,
};

/// sled's page cache. With it the process takes about 100 MiB at a million records, at half the insert rate of 64 MiB.
const CACHE_BYTES: u64 = 16 << 20;
/// Chunk ids in one record, and bytes of a pending pack's table in one: sled keeps larger values in files of their own.
const IDS_PER_RECORD: usize = 2048;
const TABLE_PIECE_LEN: usize = 32 << 10;
/// How long opening may take when the last writer died; sled's recovery has been seen to hang (its issue 1412).
const OPEN_SECS_MAX: u64 = 60;

/// The first 16 bytes of a chunk id: enough to tell chunks apart, as ids are keyed hashes.
pub type ShortId = [u8; 16];

/// The first 16 bytes of a pack's name.
pub type PackStart = [u8; 16];

/// Returns the first 16 bytes of `id`.
pub fn short_id(id: &ChunkId) -> ShortId {
    id.as_bytes()[..16].try_into().expect("16 of 32 bytes")
}

/// A stored pack whose receipt is not yet written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingPack {
    /// Its name.
    pub digest: Digest,
    /// Bytes of the stored file.
    pub stored_len: u64,
    /// The encoded body of its index.
    pub table: Vec<u8>,
}

/// The open catalog. One process at a time.
pub struct Catalog {
    open: Option<Open>,
    dir: PathBuf,
    state: State,
}

/// All that is sled's, to be dropped together, and with care.
struct Open {
    db: sled::Db,
    chunks: sled::Tree,
    pending: sled::Tree,
    dirs: sled::Tree,
    entries: sled::Tree,
}

/// Why a catalog starts empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fresh {
    /// There was none.
    Missing,
    /// It could not be opened, or is not this vault's; says why.
    Unusable(String),
}

fn failed(e: sled::Error) -> Error {
    use io::ErrorKind::{PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    match e {
        // Not the catalog is at fault, and a new one would meet the same.
        sled::Error::Io(e) if matches!(e.kind(), StorageFull | QuotaExceeded) => Error::io("cannot write the catalog", e)
            .hint("make room where the state directory lies, or set COFFRE_STATE_DIR to another place"),
        sled::Error::Io(e) if matches!(e.kind(), ReadOnlyFilesystem | PermissionDenied) => {
            Error::io("cannot write the catalog in the state directory", e).hint("set COFFRE_STATE_DIR to a directory that can be written")
        }
        e => broken(&e.to_string()),
    }
}

fn broken(why: &str) -> Error {
    Error::corrupt("the catalog cannot be used").because(why).hint("coffre catalog rebuild")
}

/// Runs `f`; a panic inside sled becomes an error, and says nothing itself.
fn guard<T>(f: impl FnOnce() -> Result<T>) -> Result<T> {
    sys::quietly(|| catch_unwind(AssertUnwindSafe(f))).unwrap_or_else(|_| Err(broken("sled panicked")))
}

impl Catalog {
    /// Opens the catalog of `vault` below `dir`, or starts an empty one and says why.
    pub fn open(dir: &Path, vault: VaultId, domain: DomainId) -> Result<(Self, Option<Fresh>)> {
        sys::create_private_dir(dir).map_err(|e| Error::io(format!("cannot create {}", dir.display()), e))?;
        let why = match State::load(dir) {
            Ok(Some(state)) if (state.vault, state.domain) == (vault, domain) => {
                let path = generation(dir, state.generation);
                match path.join("db").is_file() {
                    true => match open_db(&path, state.dirty) {
                        Ok(db) => return Ok((Self::with(db, dir, state)?, None)),
                        Err(e) => Fresh::Unusable(e.chain()),
                    },
                    false => Fresh::Missing,
                }
            }
            Ok(Some(state)) if state.vault == vault => Fresh::Unusable("it is that of another sealer".to_owned()),
            Ok(Some(_)) => Fresh::Unusable("it belongs to another vault".to_owned()),
            Ok(None) => Fresh::Missing,
            Err(e) => Fresh::Unusable(e.chain()),
        };
        Ok((Self::create(dir, vault, domain)?, Some(why)))
    }

    /// Starts an empty catalog beside whatever is there; the old one goes once the new one is committed.
    pub fn create(dir: &Path, vault: VaultId, domain: DomainId) -> Result<Self> {
        sys::create_private_dir(dir).map_err(|e| Error::io(format!("cannot create {}", dir.display()), e))?;
        let number = generations(dir).last().map_or(1, |n| n + 1);
        let db = open_db(&generation(dir, number), false)?;
        Self::with(db, dir, State::new(vault, domain, number))
    }

    fn with(db: sled::Db, dir: &Path, state: State) -> Result<Self> {
        guard(|| {
            make_private(dir, &state)?;
            let tree = |name: &str| db.open_tree(name).map_err(failed);
            let (chunks, pending, dirs, entries) = (tree("chunks")?, tree("pending")?, tree("dirs")?, tree("entries")?);
            Ok(Self { open: Some(Open { db, chunks, pending, dirs, entries }), dir: dir.to_owned(), state })
        })
    }

    fn sled(&self) -> &Open {
        self.open.as_ref().expect("open until dropped")
    }

    /// What is known besides the records: heads absorbed, seals committed.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Marks the catalog as being written, so that the next opener is careful if this process dies.
    pub fn begin(&mut self) -> Result<()> {
        self.state.dirty = true;
        self.state.save(&self.dir)
    }

    /// Calls `each` with the start of a pack's name and the ids of some of its chunks, for all packs, pending ones excepted. About
    /// 10 ms for a million chunks.
    pub fn known(&self, mut each: impl FnMut(PackStart, &mut dyn Iterator<Item = ShortId>)) -> Result<()> {
        guard(|| {
            for record in self.sled().chunks.iter() {
                let (key, ids) = record.map_err(failed)?;
                let Some(pack) = key.get(..16).and_then(|start| start.try_into().ok()) else { continue };
                each(pack, &mut ids.chunks_exact(16).map(|id| id.try_into().expect("16 bytes")));
            }
            Ok(())
        })
    }

    /// Forgets packs that are no longer in the vault, and with them every directory that might rest on them.
    pub fn forget_packs(&mut self, gone: &std::collections::BTreeSet<PackStart>) -> Result<()> {
        // First: a death in between must not leave directories that count and packs that nobody misses.
        self.state.committed.clear();
        self.state.save(&self.dir)?;
        self.drop_packs(gone)
    }

    /// Forgets packs of which everything that counts is elsewhere too.
    pub fn drop_packs(&self, gone: &std::collections::BTreeSet<PackStart>) -> Result<()> {
        guard(|| {
            for pack in gone {
                for record in self.sled().chunks.scan_prefix(pack) {
                    let (key, _) = record.map_err(failed)?;
                    self.sled().chunks.remove(key).map_err(failed)?;
                }
            }
            Ok(())
        })
    }

    /// Remembers the chunks of a pack that a receipt names.
    pub fn add_pack(&self, digest: &Digest, ids: impl Iterator<Item = ChunkId>) -> Result<()> {
        let ids: Vec<u8> = ids.flat_map(|id| short_id(&id)).collect();
        guard(|| {
            for (n, piece) in ids.chunks(IDS_PER_RECORD * 16).enumerate() {
                self.sled().chunks.insert(piece_key(digest, n), piece).map_err(failed)?;
            }
            Ok(())
        })
    }

    /// Remembers a pack that is stored but in no receipt yet, durably.
    pub fn add_pending(&self, pack: &PendingPack) -> Result<()> {
        guard(|| {
            for (n, piece) in pack.table.chunks(TABLE_PIECE_LEN).enumerate() {
                let value = [&pack.digest.as_bytes()[..], &pack.stored_len.to_le_bytes(), piece].concat();
                self.sled().pending.insert(piece_key(&pack.digest, n), value).map_err(failed)?;
            }
            self.sled().pending.flush().map(drop).map_err(failed)
        })?;
        self.sync()
    }

    /// The packs that are stored but in no receipt.
    pub fn pending(&self) -> Result<Vec<PendingPack>> {
        guard(|| {
            let mut packs: Vec<PendingPack> = Vec::new();
            for record in self.sled().pending.iter() {
                let (_, value) = record.map_err(failed)?;
                let Some((head, piece)) = value.split_at_checked(40) else { continue };
                let digest = Digest::from_slice(&head[..32]).expect("32 bytes");
                match packs.last_mut() {
                    Some(pack) if pack.digest == digest => pack.table.extend_from_slice(piece),
                    _ => {
                        let stored_len = u64::from_le_bytes(head[32..].try_into().expect("8 bytes"));
                        packs.push(PendingPack { digest, stored_len, table: piece.to_vec() });
                    }
                }
            }
            Ok(packs)
        })
    }

    /// Forgets all pending packs: they are in a receipt now, or gone.
    pub fn clear_pending(&self) -> Result<()> {
        guard(|| self.sled().pending.clear().map_err(failed))
    }

    /// The short record of the directory with this keyed name.
    pub fn dir(&self, name: &[u8; 16]) -> Result<Option<Vec<u8>>> {
        guard(|| Ok(self.sled().dirs.get(name).map_err(failed)?.map(|v| v.to_vec())))
    }

    /// The entries of the directory with this keyed name.
    pub fn entries(&self, name: &[u8; 16]) -> Result<Option<Vec<u8>>> {
        guard(|| Ok(self.sled().entries.get(name).map_err(failed)?.map(|v| v.to_vec())))
    }

    /// Remembers entries of a directory under their keyed name.
    pub fn put_entries(&self, name: &[u8; 16], entries: &[u8]) -> Result<()> {
        guard(|| self.sled().entries.insert(name, entries).map(drop).map_err(failed))
    }

    /// Remembers a directory's short record.
    pub fn put_dir(&self, name: &[u8; 16], record: &[u8]) -> Result<()> {
        guard(|| self.sled().dirs.insert(name, record).map(drop).map_err(failed))
    }

    /// Makes everything durable and notes `state`; catalogs of earlier generations go.
    pub fn commit(&mut self, change: impl FnOnce(&mut State)) -> Result<()> {
        guard(|| self.sled().db.flush().map(drop).map_err(failed))?;
        self.sync()?;
        change(&mut self.state);
        self.state.dirty = false;
        self.state.save(&self.dir)?;
        for old in generations(&self.dir).into_iter().filter(|n| *n < self.state.generation) {
            // Only disk space is lost if it stays.
            let _ = fs::remove_dir_all(generation(&self.dir, old));
        }
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        let file = generation(&self.dir, self.state.generation).join("db");
        sys::sync_file_and_dir(&file).map_err(|e| Error::io("cannot make the catalog durable", e))
    }
}

impl Drop for Catalog {
    fn drop(&mut self) {
        let Some(open) = self.open.take() else { return };
        match guard(|| open.db.flush().map(drop).map_err(failed)) {
            // Dropping writes once more, and panics where that fails. What was promised is durable already.
            Ok(()) => drop(guard(|| {
                drop(open);
                Ok(())
            })),
            // Dropping a broken Db can wait for ever; the process will not need the memory back.
            Err(_) => std::mem::forget(open),
        }
    }
}

fn piece_key(digest: &Digest, piece: usize) -> [u8; 20] {
    let mut key = [0; 20];
    key[..16].copy_from_slice(&digest.as_bytes()[..16]);
    key[16..].copy_from_slice(&u32::try_from(piece).expect("a pack has fewer than 2^32 pieces").to_be_bytes());
    key
}

fn generation(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("g{number}"))
}

/// Numbers of the generations on disk, ascending.
fn generations(dir: &Path) -> Vec<u64> {
    let names = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut numbers: Vec<u64> = names.filter_map(|e| e.file_name().to_str()?.strip_prefix('g')?.parse().ok()).collect();
    numbers.sort_unstable();
    numbers
}

/// sled gives its files what the umask leaves; they hold names of files.
fn make_private(dir: &Path, state: &State) -> Result<()> {
    let path = generation(dir, state.generation);
    sys::make_private(&path).map_err(|e| Error::io(format!("cannot keep {} from others", path.display()), e))
}

/// Opens sled at `path`; within a time limit if the last writer died.
fn open_db(path: &Path, careful: bool) -> Result<sled::Db> {
    let config = sled::Config::new().path(path).cache_capacity(CACHE_BYTES).flush_every_ms(None).use_compression(false);
    let open = move || guard(|| config.open().map_err(failed));
    if !careful {
        return open();
    }
    let (tell, hear) = mpsc::channel();
    std::thread::Builder::new()
        .name("catalog".to_owned())
        .spawn(move || tell.send(open()))
        .map_err(|e| Error::io("cannot start a thread", e))?;
    hear.recv_timeout(Duration::from_secs(OPEN_SECS_MAX))
        .unwrap_or_else(|_| Err(broken(&format!("it did not open within {OPEN_SECS_MAX} s"))))
}
