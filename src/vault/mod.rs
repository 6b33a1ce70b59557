//! An opened vault: the only handle that operations get.

mod admit;
mod ahead;
mod callbacks;
mod cards;
mod chain;
mod changes;
mod copies;
mod create;
mod dirs;
mod enrol;
mod epochs;
mod finding;
mod foreign;
mod history;
mod index;
mod journal;
mod keys;
mod kit;
mod links;
mod mender;
mod owners;
mod read;
mod recipe;
mod recipients;
mod removed;
mod second;
mod select;
mod sidecars;
mod sign;
mod signed;
mod signers;
mod snapshots;
mod ssh;
mod state;
mod ways;
mod write;

pub use callbacks::{Ask, Callbacks};
pub use cards::{Card, Standing};
pub use chain::{Chain, Committed, There, check_receipt, may_seal};
pub use changes::{Differing, Go, Kind, Pair, Side, each_change, kinds, walk_changes};
pub use copies::{Checked, KnownCopy};
pub use create::{Created, Promise, create, create_with};
pub use dirs::{Dir, Dirs, Held, Spot, parts_of};
pub use enrol::{Domain, NewSealer, Token};
pub use epochs::Rotation;
pub use finding::{Finding, Trouble, settle};
pub use foreign::key_findings;
pub use history::{Past, Timeline, Version, has_acl, is_same};
pub use index::{Index, Located, read_segment};
pub use journal::{Condemnation, Deletion, Forgotten, Journal, is_record, signed_records};
pub use keys::{OwnerKeys, SealerKeys};
pub use kit::KIT_LEN_MAX;
pub use links::{Expected, Links, expected, links, not_offered, remembered, set_aside};
pub use owners::Unlocking;
pub use read::{FileReader, Reader, resolve_path};
pub use recipients::{Way, shortened};
pub use removed::list as removed_keys;
pub use second::read_either;
pub use select::{Selector, nearest, select};
pub use sidecars::{Mended, SIDECAR_LEN_MAX, hash_of, is_damage, is_whole_sidecar, make_sidecar, mend, mend_from, mend_together};
pub use sign::{is_as_made, public_key};
pub use signers::SignerList;
pub use snapshots::{Snapshot, from_manifest, judge_snapshot, load_snapshot, sort};
pub use state::StateDir;
pub use ways::{WayFile, find_way, way_files};
pub use write::{CommitFacts, Honour, Honoured, NewSnapshot, Writer};

use std::sync::Arc;

use crate::{
    error::{Error, ErrorKind, Result},
    format::{Config, PackKind, SegmentPack},
    pack::{PackBuilder, ParityEncoder, SealedPack, Wrap},
    store::{self, Key, Store},
};

/// Longest small public object accepted, in bytes.
const PUBLIC_LEN_MAX: usize = 1 << 20;

/// A vault whose configuration was read.
#[derive(Clone)]
pub struct Vault {
    /// Where its objects are.
    pub store: Arc<dyn Store>,
    /// What `VAULT` says.
    pub config: Config,
}

impl Vault {
    /// Opens the vault in `store`.
    ///
    /// # Errors
    /// `NoVault` if there is none, `Unsupported` if a newer coffre made it.
    pub fn open(store: Arc<dyn Store>) -> Result<Self> {
        let key = Key::fixed("VAULT");
        if store.stat(&key)?.is_none() && store.stat(&key.second())?.is_none() {
            return Err(
                Error::no_vault(format!("no vault at {}", store.describe())).hint("check the path, or make one: coffre --vault PATH init")
            );
        }
        let read = |key: &Key| store::get_all(&*store, key, PUBLIC_LEN_MAX).and_then(|bytes| Config::decode(&bytes));
        let config = match read(&key) {
            // What a newer coffre wrote is neither.
            Err(e) if matches!(e.kind(), ErrorKind::Missing | ErrorKind::Corrupt) => read(&key.second()).map_err(|_| e)?,
            other => other?,
        };
        store.hold(config.lock_days);
        Ok(Self { store, config })
    }

    /// Starts a pack of this vault for `recipient`, with a sidecar if this vault keeps them.
    pub fn start_pack(&self, kind: PackKind, recipient: Wrap) -> Result<PackBuilder> {
        let Config { id, parity, pack_len_max, .. } = self.config;
        let parity = (parity > 0).then(|| ParityEncoder::new(parity, pack_len_max.into()));
        PackBuilder::with_parity(kind, id, recipient, self.store.begin()?, parity)
    }

    /// Stores a pack, and its sidecar behind it.
    pub fn put_pack(&self, pack: SealedPack) -> Result<SegmentPack> {
        let key = Key::pack(&pack.digest);
        pack.upload.commit(&key)?;
        if let (Some(sidecar), Some(beside)) = (&pack.sidecar, key.sidecar()) {
            self.store.put(&beside, sidecar)?;
        }
        Ok(SegmentPack { digest: pack.digest, stored_len: pack.stored_len, index: pack.index })
    }

    /// Removes an object, and before it what was kept beside it: nothing brings it back.
    pub fn delete(&self, key: &Key) -> Result<()> {
        if self.config.parity > 0 {
            self.store.delete(&key.sidecar().unwrap_or_else(|| key.second()))?;
        }
        self.store.delete(key)
    }

    /// Stores a small object, and a second copy of it if this vault keeps them.
    pub fn put_twice(&self, key: &Key, bytes: &[u8]) -> Result<()> {
        self.store.put(key, bytes)?;
        match self.config.parity {
            0 => Ok(()),
            _ => self.store.put(&key.second(), bytes),
        }
    }
}
