//! Manifests: what the snapshots that count hold, and whether that agrees with their receipts.

use std::collections::BTreeMap;

use crate::{
    error::{Error, ErrorKind, Result},
    format::{Digest, Manifest, SnapshotId, SnapshotKey, digest},
    pack::{self, Remembered},
    store::Key,
    sys,
    vault::{Chain, Committed, Finding, Journal, SignerList, Trouble, Vault, keys::OwnerKeys, not_offered, second::read_either},
};

/// Threads that read manifests: of a vault on a server each waits for an answer most of the time.
const THREADS_MAX: usize = 16;
/// Longest receipt or manifest file accepted, in bytes.
pub(super) const OBJECT_LEN_MAX: usize = 64 << 20;

/// A snapshot whose manifest was read and agrees with its receipt.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Its place.
    pub key: SnapshotKey,
    /// Its id.
    pub id: SnapshotId,
    /// What it is.
    pub manifest: Manifest,
}

impl Snapshot {
    /// The name of its directory in a mount: `2025-11-08T02-00-00Z-1a2b3c4d`.
    pub fn dir_name(&self) -> String {
        format!("{}-{}", sys::utc_name(self.manifest.time_ns), self.id.short())
    }
}

impl Vault {
    /// Reads all snapshots that are wanted, oldest first. Findings are those of the chain, and manifests that cannot be used.
    pub fn snapshots(&self, owner: &OwnerKeys) -> Result<(Vec<Snapshot>, Vec<Finding>)> {
        let journal = Journal::load(self, Some(&owner.sign.public()))?;
        let (snapshots, mut findings) = self.snapshots_but(owner, |id| journal.is_forgotten(id))?;
        findings.extend(journal.findings);
        Ok((snapshots, findings))
    }

    /// Reads all snapshots, oldest first, but those that `leave_out` names: their manifests may be gone.
    pub fn snapshots_but(&self, owner: &OwnerKeys, leave_out: impl Fn(&SnapshotId) -> bool) -> Result<(Vec<Snapshot>, Vec<Finding>)> {
        self.snapshots_of(owner, |chain| &chain.committed, leave_out)
    }

    /// Reads the snapshots that do not count because their sealers were revoked.
    pub fn revoked_snapshots(&self, owner: &OwnerKeys) -> Result<(Vec<Snapshot>, Vec<Finding>)> {
        self.snapshots_of(owner, |chain| &chain.revoked, |_| false)
    }

    fn snapshots_of(
        &self,
        owner: &OwnerKeys,
        which: impl Fn(&Chain) -> &Vec<Committed>,
        leave_out: impl Fn(&SnapshotId) -> bool,
    ) -> Result<(Vec<Snapshot>, Vec<Finding>)> {
        let signers = SignerList::load(&*self.store, Some(&owner.sign.public()))?;
        let mut chain = self.chain_checked(&signers, |_| 0, &owner.headers)?;
        for found in self.without_signature(&signers, &chain.unsigned) {
            let text = "is gone, and was read from a copy: coffre verify --repair";
            chain.findings.push(Finding::of(Trouble::SnapshotDeleted, found.key.signature(), text));
            chain.committed.push(found);
        }
        chain.committed.sort_by(|a, b| a.key.cmp(&b.key));
        chain.findings.extend(not_offered(&chain, &signers));
        let wanted: Vec<Committed> = which(&chain).iter().filter(|committed| !leave_out(&committed.id)).cloned().collect();
        let mut snapshots = Vec::with_capacity(wanted.len());
        for read in sys::in_parallel(&wanted, THREADS_MAX, |committed| judge_snapshot(self, owner, committed)) {
            match read? {
                Ok(snapshot) => snapshots.push(snapshot),
                Err(finding) => chain.findings.push(finding),
            }
        }
        sort(&mut snapshots);
        Ok((snapshots, chain.findings))
    }
}

/// Puts snapshots in order of time. A sealer's own order counts before its clock: a snapshot is no older than the one before it in the chain.
pub fn sort(snapshots: &mut [Snapshot]) {
    snapshots.sort_by(|a, b| a.key.cmp(&b.key));
    let mut newest: BTreeMap<String, i128> = BTreeMap::new();
    let times: BTreeMap<SnapshotId, i128> = snapshots
        .iter()
        .map(|s| {
            let time = newest.entry(s.key.sealer.clone()).and_modify(|t| *t = s.manifest.time_ns.max(*t)).or_insert(s.manifest.time_ns);
            (s.id, *time)
        })
        .collect();
    snapshots.sort_by(|a, b| (times[&a.id], &a.key).cmp(&(times[&b.id], &b.key)));
}

/// Reads the manifest of a committed snapshot and holds it against its receipt. About 0.1 ms.
pub fn load_snapshot(vault: &Vault, owner: &OwnerKeys, committed: &Committed) -> Result<Snapshot> {
    agreeing(vault, committed, read_manifest(vault, owner, committed)?)
}

/// The same, with what is wrong as a finding.
///
/// # Errors
/// `Unavailable` if the store gave up: whoever decides by a list of snapshots must know that it is whole.
pub fn judge_snapshot(vault: &Vault, owner: &OwnerKeys, committed: &Committed) -> Result<std::result::Result<Snapshot, Finding>> {
    let finding = |kind, e: &Error| Finding::of(kind, committed.key.manifest(), e.chain());
    let manifest = match read_manifest(vault, owner, committed) {
        Ok(manifest) => manifest,
        Err(e) if matches!(e.kind(), ErrorKind::Unavailable | ErrorKind::Cancelled) => return Err(e),
        Err(e) if e.kind() == ErrorKind::Missing => return Ok(Err(finding(Trouble::Deleted, &e))),
        Err(e) => return Ok(Err(finding(Trouble::Unreadable, &e))),
    };
    let of_another = manifest.vault != vault.config.id;
    let kind = if of_another { Trouble::OtherVault } else { Trouble::SnapshotReordered };
    Ok(agreeing(vault, committed, manifest).map_err(|e| finding(kind, &e)))
}

fn read_manifest(vault: &Vault, owner: &OwnerKeys, committed: &Committed) -> Result<Manifest> {
    let path = Key::manifest(&committed.key);
    let listed: Option<Digest> = committed.receipt.lines.iter().find(|l| l.path == path.as_str()).map(|l| l.digest);
    let bytes = read_either(&*vault.store, &path, OBJECT_LEN_MAX, |bytes| match listed == Some(digest(&bytes)) {
        true => Ok(bytes),
        false => Err(Error::corrupt(format!("{path} is not what its receipt says"))),
    })?;
    let compressed = Remembered::new(owner.meta_identities(), &owner.headers).whole(&bytes, path.as_str())?;
    let mut cbor = Vec::new();
    pack::decompress(&compressed, OBJECT_LEN_MAX, &mut cbor, path.as_str())?;
    Manifest::decode(&cbor)
}

/// Holds a manifest against the receipt that commits it.
pub fn from_manifest(vault: &Vault, committed: &Committed, cbor: &[u8]) -> Result<Snapshot> {
    agreeing(vault, committed, Manifest::decode(cbor)?)
}

fn agreeing(vault: &Vault, committed: &Committed, manifest: Manifest) -> Result<Snapshot> {
    let key = &committed.key;
    let previous = committed.receipt.previous().map(|(_, id)| id);
    let agrees =
        manifest.vault == vault.config.id && manifest.sealer == key.sealer && manifest.seq == key.seq && manifest.previous == previous;
    match agrees {
        true => Ok(Snapshot { key: key.clone(), id: committed.id, manifest }),
        false => Err(Error::corrupt(format!(
            "{} belongs to another place: vault {}, sealer {}, number {}",
            key.manifest(),
            manifest.vault,
            manifest.sealer,
            manifest.seq
        ))),
    }
}
