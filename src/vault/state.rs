//! The state directory: what this host keeps about a vault, outside it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};

use zeroize::Zeroizing;

use crate::{
    error::{Error, Result},
    format::{GcRecord, SnapshotId, SnapshotKey, VaultId, digest, hex, unhex},
    pack::HEADERS_LEN_MAX,
    sys,
    vault::keys::SealerKeys,
};

/// Sealing keys, remembered heads, manifests of this host's own seals, the catalog. Mode 0700; nothing in it reads a vault.
#[derive(Clone, Debug)]
pub struct StateDir(PathBuf, Option<String>);

impl StateDir {
    /// The state of `vault` below `base`; nothing is created yet.
    pub fn new(base: &Path, vault: VaultId) -> Self {
        Self(base.join(vault.to_string()), None)
    }

    /// The same, where somebody who is here knows the owner's public key: it counts in place of the one that is kept, and is not kept.
    pub fn knowing(self, owner: Option<String>) -> Self {
        Self(self.0, owner)
    }

    /// Creates the directory.
    pub fn create(&self) -> Result<()> {
        sys::create_private_dir(&self.0).map_err(|e| {
            Error::io(format!("cannot create the state directory {}", self.0.display()), e)
                .hint("set COFFRE_STATE_DIR to a directory that can be written")
        })
    }

    /// Where the catalog lies.
    pub fn catalog(&self) -> PathBuf {
        self.0.join("catalog")
    }

    /// Where this is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Takes the lock that sealing on this host holds.
    pub fn lock(&self, wait: impl FnOnce(&str)) -> Result<sys::FileLock> {
        sys::FileLock::take(&self.0.join("lock"), wait)
    }

    pub(super) fn read(&self, name: &str) -> Result<Option<Zeroizing<String>>> {
        match fs::read_to_string(self.0.join(name)) {
            Ok(text) => Ok(Some(Zeroizing::new(text))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::io(format!("cannot read {}", self.0.join(name).display()), e)),
        }
    }

    pub(super) fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.0.join(name);
        sys::replace_durably(&path, bytes).map_err(|e| Error::io(format!("cannot write {}", path.display()), e))
    }

    /// The sealing keys of this host, if it has any.
    pub fn sealer(&self) -> Result<Option<SealerKeys>> {
        self.read("sealer")?.map(|text| SealerKeys::decode(&text)).transpose()
    }

    /// Keeps sealing keys.
    pub fn keep_sealer(&self, keys: &SealerKeys) -> Result<()> {
        self.create()?;
        self.write("sealer", keys.encode().as_bytes())
    }

    /// Random digits by which this directory is known from others; made once.
    pub(super) fn mark(&self) -> Result<String> {
        if let Some(mark) = self.read("mark")?.filter(|mark| !mark.is_empty()) {
            return Ok(mark.to_string());
        }
        let mark = hex(&sys::random::<16>()?);
        self.create()?;
        self.write("mark", mark.as_bytes())?;
        Ok(mark)
    }

    /// The owner's public key as it was first seen, or as somebody gave it.
    pub fn pinned_owner(&self) -> Result<Option<String>> {
        match &self.1 {
            Some(owner) => Ok(Some(owner.clone())),
            None => Ok(self.read("owner.pub")?.map(|text| text.trim().to_owned())),
        }
    }

    /// Pins the owner's public key.
    pub fn pin_owner(&self, key: &str) -> Result<()> {
        self.create()?;
        self.write("owner.pub", format!("{key}\n").as_bytes())
    }

    /// What a reader kept of opened headers.
    pub fn headers(&self) -> Option<Vec<u8>> {
        let path = self.0.join("headers");
        let len = fs::metadata(&path).ok()?.len();
        (len <= HEADERS_LEN_MAX).then(|| fs::read(&path).ok()).flatten()
    }

    /// Keeps that. Not synced: a torn file is as good as none.
    pub fn keep_headers(&self, bytes: &[u8]) {
        // Whoever only reads may do so without a place to keep anything.
        let _ = self.create().and_then(|()| sys::replace(&self.0.join("headers"), bytes).map_err(|e| Error::io("cannot keep headers", e)));
    }

    /// The newest snapshot of each sealer that this host has seen.
    pub fn heads(&self) -> Result<BTreeMap<String, (u64, SnapshotId)>> {
        Ok(self.head_lines("heads")?.into_iter().map(|(sealer, seq, id)| (sealer, (seq, id))).collect())
    }

    /// Remembers the newest snapshots seen.
    pub fn keep_heads(&self, heads: &BTreeMap<String, (u64, SnapshotId)>) -> Result<()> {
        let text: String = heads.iter().map(|(sealer, (seq, id))| format!("{sealer} {seq} {id}\n")).collect();
        self.write("heads", text.as_bytes())
    }

    /// Snapshots that this host remembered when it sealed, and that the vault did not have any more.
    pub fn lost(&self) -> Result<Vec<(SnapshotKey, SnapshotId)>> {
        Ok(self.head_lines("lost")?.into_iter().map(|(sealer, seq, id)| (SnapshotKey { sealer, seq }, id)).collect())
    }

    /// Remembers that these are lost, and no others.
    pub fn keep_lost(&self, lost: &[(SnapshotKey, SnapshotId)]) -> Result<()> {
        self.keep_places("lost", lost)
    }

    /// Snapshots that another machine made with this host's key, as was seen when this host sealed.
    pub fn foreign(&self) -> Result<Vec<(SnapshotKey, SnapshotId)>> {
        Ok(self.head_lines("foreign")?.into_iter().map(|(sealer, seq, id)| (SnapshotKey { sealer, seq }, id)).collect())
    }

    /// Remembers these, and no others.
    pub fn keep_foreign(&self, foreign: &[(SnapshotKey, SnapshotId)]) -> Result<()> {
        self.keep_places("foreign", foreign)
    }

    fn keep_places(&self, name: &str, places: &[(SnapshotKey, SnapshotId)]) -> Result<()> {
        let text: String = places.iter().map(|(key, id)| format!("{} {} {id}\n", key.sealer, key.seq)).collect();
        self.write(name, text.as_bytes())
    }

    fn head_lines(&self, name: &str) -> Result<Vec<(String, u64, SnapshotId)>> {
        let text = self.read(name)?.unwrap_or_default();
        let line = |line: &str| {
            let mut words = line.split(' ');
            let (sealer, seq, id) = (words.next()?, words.next()?.parse().ok()?, unhex(words.next()?)?);
            Some((sealer.to_owned(), seq, SnapshotId::from_bytes(id)))
        };
        Ok(text.lines().filter_map(line).collect())
    }

    /// The number of the newest list of signers that this host has seen; 0 if none.
    pub fn signers_seen(&self) -> Result<u32> {
        Ok(self.read("signers")?.and_then(|text| text.trim().parse().ok()).unwrap_or(0))
    }

    /// Remembers the number of the newest list of signers.
    pub fn keep_signers_seen(&self, number: u32) -> Result<()> {
        self.write("signers", format!("{number}\n").as_bytes())
    }

    /// Remembers that list number `number` was seen, if no newer one was. Creates the directory: who changes a list must not believe an
    /// older one afterwards.
    pub fn saw_signers(&self, number: u32) -> Result<()> {
        self.create()?;
        self.keep_signers_seen(number.max(self.signers_seen()?))
    }

    /// The newest of the owner's decisions that this host saw at `place`, by the names of their records. A copy of the vault may have decisions of
    /// its own.
    pub fn decisions_seen(&self, place: &str) -> Result<BTreeSet<String>> {
        let text = self.read(&decisions_at(place))?.unwrap_or_default();
        Ok(text.lines().filter(|name| GcRecord::seq(name).is_some()).map(str::to_owned).collect())
    }

    /// Remembers these, and no others.
    pub fn keep_decisions_seen(&self, place: &str, names: &BTreeSet<String>) -> Result<()> {
        let text: String = names.iter().map(|name| format!("{name}\n")).collect();
        self.write(&decisions_at(place), text.as_bytes())
    }

    /// Remembers these if none of a higher number was seen.
    pub fn saw_decisions(&self, place: &str, names: &BTreeSet<String>) -> Result<()> {
        let newest = |names: &BTreeSet<String>| names.iter().filter_map(|name| GcRecord::seq(name)).max();
        if newest(names) >= newest(&self.decisions_seen(place)?) { self.keep_decisions_seen(place, names) } else { Ok(()) }
    }

    /// Keeps the manifest of a seal of this host, so that it can list its own snapshots without an owner's key.
    pub fn keep_manifest(&self, key: &SnapshotKey, id: &SnapshotId, manifest: &[u8]) -> Result<()> {
        let folder = self.0.join("snapshots");
        sys::create_private_dir(&folder).map_err(|e| Error::io(format!("cannot create {}", folder.display()), e))?;
        self.write(&format!("snapshots/{}-{:010}", key.sealer, key.seq), &[&id.as_bytes()[..], manifest].concat())
    }

    /// The manifest of a seal of this host with snapshot id `id`, as CBOR, if it is kept.
    pub fn manifest(&self, key: &SnapshotKey, id: &SnapshotId) -> Option<Vec<u8>> {
        let bytes = fs::read(self.0.join(format!("snapshots/{}-{:010}", key.sealer, key.seq))).ok()?;
        let (kept, manifest) = bytes.split_at_checked(32)?;
        (kept == id.as_bytes()).then(|| manifest.to_vec())
    }
}

/// The file of what was seen at `place`.
fn decisions_at(place: &str) -> String {
    let name: String = digest(place.as_bytes()).to_string().chars().take(16).collect();
    format!("decisions-{name}")
}
