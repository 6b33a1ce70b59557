//! Receipts and manifests: which snapshots a vault has, and whether they can be trusted.

use std::collections::BTreeMap;

use crate::{
    error::{Error, ErrorKind, Result},
    format::{Digest, Manifest, Receipt, SnapshotId, SnapshotKey, digest},
    pack::{self, Unwrap},
    store::{self, Key},
    sys,
    vault::{Journal, PUBLIC_LEN_MAX, SignerList, Vault, keys::OwnerKeys, sign},
};

/// Longest receipt or manifest file accepted, in bytes.
const OBJECT_LEN_MAX: usize = 64 << 20;

/// A snapshot whose receipt is signed by its sealer.
#[derive(Clone, Debug)]
pub struct Committed {
    /// Its place.
    pub key: SnapshotKey,
    /// Its id: the hash of its receipt.
    pub id: SnapshotId,
    /// What it names.
    pub receipt: Receipt,
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct Finding {
    /// The object.
    pub object: String,
    /// What is wrong, for people.
    pub text: String,
}

impl Finding {
    /// Notes that `object` is not as it should be.
    pub fn new(object: impl Into<String>, text: impl Into<String>) -> Self {
        Self { object: object.into(), text: text.into() }
    }
}

/// All committed snapshots, each sealer's in order.
#[derive(Clone, Debug, Default)]
pub struct Chain {
    /// Snapshots whose signature counts.
    pub committed: Vec<Committed>,
    /// Receipts that do not count, and why.
    pub findings: Vec<Finding>,
}

impl Chain {
    /// The newest snapshot of each sealer.
    pub fn heads(&self) -> BTreeMap<String, (u64, SnapshotId)> {
        self.committed.iter().map(|c| (c.key.sealer.clone(), (c.key.seq, c.id))).collect()
    }
}

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
    /// Reads every receipt from sequence number `from` of each sealer on. Two small reads and 30 µs each.
    ///
    /// A receipt without a signature is a seal that never finished, and no finding.
    pub fn chain(&self, signers: &SignerList, from: impl Fn(&str) -> u64) -> Result<Chain> {
        let mut chain = Chain::default();
        for (key, _) in store::list_all(&*self.store, "snaps")? {
            match SnapshotKey::parse(key.as_str()) {
                Some((place, "b3.sig")) if place.seq >= from(&place.sealer) => match self.committed(signers, &place) {
                    Ok(committed) => chain.committed.push(committed),
                    Err(e) if matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::Missing | ErrorKind::Unsupported) => {
                        chain.findings.push(Finding::new(place.receipt(), e.chain()));
                    }
                    Err(e) => return Err(e),
                },
                _ => (),
            }
        }
        chain.committed.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(chain)
    }

    fn committed(&self, signers: &SignerList, place: &SnapshotKey) -> Result<Committed> {
        let bytes = store::get_all(&*self.store, &Key::receipt(place), OBJECT_LEN_MAX)?;
        let signature = store::get_all(&*self.store, &Key::signature(place), PUBLIC_LEN_MAX)?;
        let Some(public) = signers.signers.sealer(&place.sealer) else {
            return Err(Error::corrupt(format!("sealer {} is not in {}", place.sealer, signers.key)));
        };
        if !sign::is_signed(public, sign::RECEIPT, &bytes, &signature) {
            return Err(Error::corrupt(format!("its signature is not that of sealer {}", place.sealer)));
        }
        let receipt = Receipt::decode(&bytes)?;
        if !receipt.lines.iter().any(|line| line.path == place.manifest()) {
            return Err(Error::corrupt("it does not name its own manifest: it was made for another place"));
        }
        Ok(Committed { key: place.clone(), id: Receipt::id(&bytes), receipt })
    }

    /// The newest committed snapshot of one sealer.
    pub fn head(&self, signers: &SignerList, sealer: &str) -> Result<Option<Committed>> {
        let mut places: Vec<SnapshotKey> = store::list_all(&*self.store, &format!("snaps/{sealer}"))?
            .iter()
            .filter_map(|(key, _)| SnapshotKey::parse(key.as_str()).filter(|(_, suffix)| *suffix == "b3.sig").map(|(place, _)| place))
            .collect();
        places.sort_unstable();
        for place in places.iter().rev() {
            match self.committed(signers, place) {
                Ok(committed) => return Ok(Some(committed)),
                // A damaged newest receipt is verify's to report; the chain goes on from the newest that counts.
                Err(e) if matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::Missing) => (),
                Err(e) => return Err(e),
            }
        }
        Ok(None)
    }

    /// The highest sequence number that any object of `sealer` uses, committed or not.
    pub fn last_seq(&self, sealer: &str) -> Result<u64> {
        let mut last = 0;
        self.store.list(&format!("snaps/{sealer}"), &mut |key, _| {
            if let Some((place, _)) = SnapshotKey::parse(key.as_str()) {
                last = last.max(place.seq);
            }
            Ok(())
        })?;
        Ok(last)
    }

    /// Reads all snapshots that are wanted, oldest first. Findings are those of the chain, and manifests that cannot be used.
    pub fn snapshots(&self, owner: &OwnerKeys) -> Result<(Vec<Snapshot>, Vec<Finding>)> {
        let journal = Journal::load(self, Some(&owner.sign.public()))?;
        let (snapshots, mut findings) = self.snapshots_but(owner, |id| journal.is_forgotten(id))?;
        findings.extend(journal.findings);
        Ok((snapshots, findings))
    }

    /// Reads all snapshots, oldest first, but those that `leave_out` names: their manifests may be gone.
    pub fn snapshots_but(&self, owner: &OwnerKeys, leave_out: impl Fn(&SnapshotId) -> bool) -> Result<(Vec<Snapshot>, Vec<Finding>)> {
        let signers = SignerList::load(&*self.store, Some(&owner.sign.public()))?;
        let mut chain = self.chain(&signers, |_| 0)?;
        let mut snapshots = Vec::with_capacity(chain.committed.len());
        for committed in chain.committed.iter().filter(|committed| !leave_out(&committed.id)) {
            match load_snapshot(self, owner, committed) {
                Ok(snapshot) => snapshots.push(snapshot),
                // Whoever decides by a list must know that it is whole.
                Err(e) if matches!(e.kind(), ErrorKind::Unavailable | ErrorKind::Cancelled) => return Err(e),
                Err(e) => chain.findings.push(Finding::new(committed.key.manifest(), e.chain())),
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
    let path = Key::manifest(&committed.key);
    let bytes = store::get_all(&*vault.store, &path, OBJECT_LEN_MAX)?;
    let listed: Option<Digest> = committed.receipt.lines.iter().find(|l| l.path == path.as_str()).map(|l| l.digest);
    if listed != Some(digest(&bytes)) {
        return Err(Error::corrupt(format!("{path} is not what its receipt says")));
    }
    let identities: Vec<Unwrap> = owner.meta_identities().iter().map(|i| i as Unwrap).collect();
    let compressed = pack::open_whole(&identities, &bytes, path.as_str())?;
    let mut cbor = Vec::new();
    pack::decompress(&compressed, OBJECT_LEN_MAX, &mut cbor, path.as_str())?;
    from_manifest(vault, committed, &cbor)
}

/// Holds a manifest against the receipt that commits it.
pub fn from_manifest(vault: &Vault, committed: &Committed, cbor: &[u8]) -> Result<Snapshot> {
    let manifest = Manifest::decode(cbor)?;
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
