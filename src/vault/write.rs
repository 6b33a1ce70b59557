//! The order of writes: packs → index segment → manifest → receipt → signature. Written once, here.
//!
//! A pack's sidecar, and the second copy of everything else, go right behind it. The signature is the commit. A crash before it leaves objects that nothing names, never a snapshot that cannot be
//! read. `docs/FORMAT.md` section 7; `tests/damage.rs` and `tests/crash.rs` hold it to that.

use std::{collections::BTreeMap, sync::Mutex};

use crate::{
    error::{Error, ErrorKind, Result},
    format::{
        ChunkId, Digest, Manifest, PackIndex, Problem, Receipt, Segment, SegmentPack, SnapshotId, SnapshotKey, Stats, Suspicion, digest,
    },
    pack::{self, SealedPack},
    store::{self, Key},
    vault::{Journal, PUBLIC_LEN_MAX, SealerKeys, SignerList, StateDir, Vault, sidecars::make_sidecar},
};

/// How often a commit looks for another number when somebody took the one it wanted.
const COMMIT_ATTEMPTS: usize = 16;

/// What a seal knows at its end, for the manifest.
#[derive(Clone, Debug)]
pub struct CommitFacts {
    /// When the seal began, ns since 1970.
    pub time_ns: i128,
    /// What was sealed.
    pub sources: Vec<Vec<u8>>,
    /// The root node.
    pub root: ChunkId,
    /// Counts; `stored_bytes` is filled in here.
    pub stats: Stats,
    /// Free facts.
    pub labels: BTreeMap<String, String>,
    /// What could not be taken as it was.
    pub problems: Vec<Problem>,
    /// Name of the host.
    pub host: String,
    /// Tags.
    pub tags: Vec<String>,
    /// What looked like an accident or an attack.
    pub suspicions: Vec<Suspicion>,
    /// Snapshots to be kept because of it.
    pub pins: Vec<SnapshotId>,
}

/// Adds one snapshot to a vault.
pub struct Writer<'a> {
    vault: &'a Vault,
    sealer: &'a SealerKeys,
    /// Where the manifest is kept before the signature makes it count.
    state: Option<&'a StateDir>,
    stored: Mutex<Vec<SegmentPack>>,
    gc_seen: u64,
}

/// Asked when the manifest is stored and before the receipt is: which condemnations the snapshot honours, as lines of its receipt. It is
/// given the packs that the snapshot will name. `None` calls the commit off.
pub type Honour<'a> = &'a mut dyn FnMut(&[SegmentPack]) -> Result<Option<Honoured>>;

/// The records that a snapshot honours, with their hashes.
pub type Honoured = Vec<(Digest, Key)>;

/// A snapshot that was just committed.
#[derive(Debug)]
pub struct NewSnapshot {
    /// Its place.
    pub key: SnapshotKey,
    /// Its id.
    pub id: SnapshotId,
    /// Its manifest.
    pub manifest: Manifest,
    /// The bytes of its manifest, in clear.
    pub manifest_bytes: Vec<u8>,
    /// The packs that it names.
    pub packs: Vec<SegmentPack>,
    /// Why there is no second copy of its signature, if there should be one.
    pub not_copied: Option<Error>,
}

impl<'a> Writer<'a> {
    /// Writes as `sealer`.
    pub fn new(vault: &'a Vault, sealer: &'a SealerKeys) -> Self {
        Self { vault, sealer, state: None, stored: Mutex::default(), gc_seen: 0 }
    }

    /// Keeps the manifest of what it commits in `state`, just before the commit: so a host knows its own snapshots even if it died
    /// a moment later, and one that it does not know was made by another machine with its keys.
    pub fn remembering(self, state: &'a StateDir) -> Self {
        Self { state: Some(state), ..self }
    }

    /// Has read the records of `gc/` up to number `seq`.
    pub fn having_seen(self, seq: u64) -> Self {
        Self { gc_seen: seq, ..self }
    }

    /// Stores a pack durably; it becomes part of the snapshot that `commit` makes. Called from several threads.
    pub fn put_pack(&self, pack: SealedPack) -> Result<SegmentPack> {
        let stored = self.vault.put_pack(pack)?;
        self.stored().push(stored.clone());
        Ok(stored)
    }

    /// Takes over a pack that an earlier seal of this host stored without committing, if it is still there whole.
    pub fn adopt_pack(&self, digest: Digest, stored_len: u64, index: PackIndex) -> Result<bool> {
        let (store, key) = (&*self.vault.store, Key::pack(&digest));
        let there = store.stat(&key)? == Some(stored_len);
        if there {
            if let Some(beside) = key.sidecar().filter(|_| self.vault.config.parity > 0)
                && store.stat(&beside)?.is_none()
            {
                // It was hurt before anything could mend it: not worth a name.
                let Some(sidecar) = make_sidecar(store, &self.vault.config, &key, &digest)? else { return Ok(false) };
                store.put(&beside, &sidecar)?;
            }
            self.stored().push(SegmentPack { digest, stored_len, index });
        }
        Ok(there)
    }

    fn stored(&self) -> std::sync::MutexGuard<'_, Vec<SegmentPack>> {
        self.stored.lock().expect("nobody panics while holding the list")
    }

    /// Commits a snapshot that builds on nothing but its own packs, or on what is live. Every pack that it needs is durable by now.
    pub fn commit(&self, facts: CommitFacts) -> Result<NewSnapshot> {
        let mut honour = |_: &[SegmentPack]| {
            let journal = Journal::load(self.vault, None)?;
            let waiting = journal.condemnations.iter().filter(|c| !c.settled);
            Ok(Some(waiting.map(|c| (c.digest, c.key())).collect()))
        };
        self.commit_if(facts, &mut honour)?.ok_or_else(|| Error::bug("a commit that nobody called off was called off"))
    }

    /// Commits the snapshot, unless `honour` calls it off: then what was stored stays, for the next one to take over.
    pub fn commit_if(&self, facts: CommitFacts, honour: Honour) -> Result<Option<NewSnapshot>> {
        let mut segment = Segment { packs: std::mem::take(&mut *self.stored()) };
        segment.packs.sort_unstable_by_key(|p| p.digest);
        let mut facts = facts;
        facts.stats.stored_bytes += segment.packs.iter().map(|p| p.stored_len).sum::<u64>();
        let public = self.public_objects()?;
        let segment_line = match segment.packs.is_empty() {
            true => None,
            false => {
                let plain = pack::compress(&segment.encode())?;
                let bytes = pack::seal_whole(&[&self.sealer.meta, &self.sealer.index_identity().to_public()], &plain)?;
                let key = Key::segment(self.sealer.domain, &digest(&bytes));
                self.vault.put_twice(&key, &bytes)?;
                Some((digest(&bytes), key))
            }
        };
        for n in 0..COMMIT_ATTEMPTS {
            if n > 0 {
                self.vault.store.refresh();
            }
            match self.try_commit(&facts, &segment, &public, segment_line.as_ref(), honour) {
                // A clone of this host took the number between our look and our write.
                Err(e) if e.kind() == ErrorKind::Conflict => continue,
                other => return other,
            }
        }
        Err(Error::conflict(format!("another host seals as {} at the same moment, again and again", self.sealer.name))
            .hint("two machines seal under one name; on one of them remove its state directory of this vault, change its host name, and seal once with an owner's key"))
    }

    fn try_commit(
        &self,
        facts: &CommitFacts,
        segment: &Segment,
        public: &[(Digest, Key)],
        segment_line: Option<&(Digest, Key)>,
        honour: Honour,
    ) -> Result<Option<NewSnapshot>> {
        let store = &*self.vault.store;
        let before = self.vault.tips(&SignerList::only(self.sealer), &self.sealer.name)?;
        let previous = before.first().map(|c| (c.key.clone(), c.id));
        let earlier = match before.first() {
            Some(head) => Some(head.receipt.clone()),
            None => self.receipt_of_another()?,
        };
        let key = SnapshotKey {
            sealer: self.sealer.name.clone(),
            seq: self.vault.free_seq(&self.sealer.name, previous.as_ref().map_or(0, |(key, _)| key.seq))?,
        };
        let manifest = Manifest {
            vault: self.vault.config.id,
            sealer: key.sealer.clone(),
            seq: key.seq,
            previous: previous.as_ref().map(|(_, id)| *id),
            time_ns: facts.time_ns,
            sources: facts.sources.clone(),
            root: facts.root,
            domain: self.sealer.domain,
            new_packs: segment.packs.iter().map(|p| p.digest).collect(),
            condemned_seen: self.gc_seen,
            stats: facts.stats,
            labels: facts.labels.clone(),
            tool: concat!("coffre ", env!("CARGO_PKG_VERSION")).to_owned(),
            problems: facts.problems.clone(),
            host: facts.host.clone(),
            tags: facts.tags.clone(),
            suspicions: facts.suspicions.clone(),
            pins: facts.pins.clone(),
        };
        let manifest_bytes = manifest.encode();
        let sealed = pack::seal_whole(&[&self.sealer.meta], &pack::compress(&manifest_bytes)?)?;
        self.vault.put_twice(&Key::manifest(&key), &sealed)?;
        // The manifest says that a snapshot is coming. Who deletes stores a condemnation and then looks for such; we do it the other way
        // round. So at least one of us sees the other.
        store.refresh();
        let Some(honoured) = honour(&segment.packs)? else { return Ok(None) };

        let mut receipt = Receipt::default();
        for (digest, key) in public {
            // Objects never change: one that is not what it was is damaged. The receipt says what it should be, or verify would miss it.
            let named = earlier.iter().flat_map(|receipt| &receipt.lines).find(|line| line.path == key.as_str());
            receipt.push(named.map_or(*digest, |line| line.digest), key.as_str());
        }
        for (digest, key) in &honoured {
            receipt.push(*digest, key.as_str());
        }
        for committed in &before {
            receipt.push(Digest::from_bytes(*committed.id.as_bytes()), committed.key.receipt());
        }
        receipt.push(digest(&sealed), key.manifest());
        if let Some((digest, key)) = segment_line {
            receipt.push(*digest, key.as_str());
        }
        for pack in &segment.packs {
            receipt.push(pack.digest, Key::pack(&pack.digest).as_str());
        }
        let bytes = receipt.encode();
        let signature = self.sealer.sign.sign(super::sign::RECEIPT, &bytes)?;
        self.vault.put_twice(&Key::receipt(&key), &bytes)?;
        if let Some(state) = self.state {
            // A state directory that is full does not keep a snapshot from being made; the seal says so afterwards.
            let _ = state.keep_manifest(&key, &Receipt::id(&bytes), &manifest_bytes);
        }
        store.put(&Key::signature(&key), &signature)?;
        // After the commit: it must not come back from its copy without having happened.
        let second = Key::signature(&key).second();
        let copied = if self.vault.config.parity > 0 { store.put(&second, &signature) } else { Ok(()) };
        let packs = segment.packs.clone();
        Ok(Some(NewSnapshot { key, id: Receipt::id(&bytes), manifest, manifest_bytes, packs, not_copied: copied.err() }))
    }

    /// The newest receipt of another sealer, for who has none yet.
    fn receipt_of_another(&self) -> Result<Option<Receipt>> {
        let signers = SignerList::load(&*self.vault.store, None)?;
        for signer in signers.signers.0.iter().filter(|signer| !signer.owner && signer.name != self.sealer.name) {
            if let Some(head) = self.vault.head(&signers, &signer.name)? {
                return Ok(Some(head.receipt));
            }
        }
        Ok(None)
    }

    /// The small public objects that every receipt names, with their hashes.
    fn public_objects(&self) -> Result<Vec<(Digest, Key)>> {
        let store = &*self.vault.store;
        let mut keys = Vec::new();
        for key in ["VAULT", "README.txt", "RESTORE.py"].map(Key::fixed) {
            if store.stat(&key)?.is_some() {
                keys.push(key);
            }
        }
        for folder in ["keys", "signers"] {
            keys.extend(store::list_all(store, folder)?.into_iter().map(|(key, _)| key));
        }
        let listed = keys.into_iter().map(|key| {
            let bytes = store::get_all(store, &key, PUBLIC_LEN_MAX)?;
            // Whoever added it may not have thought of one.
            if self.vault.config.parity > 0 && store.stat(&key.second())?.is_none() {
                store.put(&key.second(), &bytes)?;
            }
            Ok((digest(&bytes), key))
        });
        listed.collect()
    }
}
