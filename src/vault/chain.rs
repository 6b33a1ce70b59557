//! Which snapshots count: receipts in their place, signed by a sealer whom the owner lists, and not after a revocation.
//!
//! What counts for each receipt alone is here; how they follow one another is `links`'s. Needs no secret.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use crate::{
    error::{Error, ErrorKind, Result},
    format::{Digest, Receipt, SnapshotId, SnapshotKey, digest},
    pack::{Headers, tag_of},
    store::{self, Key, Store},
    sys,
    vault::{Finding, PUBLIC_LEN_MAX, SignerList, Trouble, Vault, sign, snapshots::OBJECT_LEN_MAX},
};

/// Threads that read receipts: of a vault on a server each waits for an answer most of the time.
const THREADS_MAX: usize = 16;

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

/// What lies at a snapshot's place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct There {
    /// `.b3`
    pub receipt: bool,
    /// `.b3.sig`
    pub signature: bool,
}

/// All committed snapshots, each sealer's in order.
#[derive(Clone, Debug, Default)]
pub struct Chain {
    /// Snapshots that count.
    pub committed: Vec<Committed>,
    /// Snapshots of revoked sealers that do not count, though their signatures are right.
    pub revoked: Vec<Committed>,
    /// Receipts that do not count, and why.
    pub findings: Vec<Finding>,
    /// Every place at which there is a receipt or a signature.
    pub there: BTreeMap<SnapshotKey, There>,
    /// Places at which something lies, and no signature: of a seal in work, of one that was broken off, or of a snapshot that lost it.
    pub unsigned: Vec<SnapshotKey>,
    /// Key files that an owner took out of the vault; filled in by who looks for what is missing.
    pub removed: BTreeSet<String>,
}

impl Chain {
    /// The newest snapshot of each sealer.
    pub fn heads(&self) -> BTreeMap<String, (u64, SnapshotId)> {
        self.committed.iter().map(|c| (c.key.sealer.clone(), (c.key.seq, c.id))).collect()
    }

    /// Whether the snapshot with this place and id counts.
    pub fn counts(&self, key: &SnapshotKey, id: &SnapshotId) -> bool {
        self.at(key).is_some_and(|c| c.id == *id)
    }

    /// The snapshot at this place, if it counts.
    pub fn at(&self, key: &SnapshotKey) -> Option<&Committed> {
        self.committed.binary_search_by(|c| c.key.cmp(key)).ok().map(|n| &self.committed[n])
    }
}

/// What a receipt is worth by itself.
type Judged = std::result::Result<Committed, Finding>;

impl Vault {
    /// Reads every receipt from sequence number `from` of each sealer on. Two small reads and 30 µs each.
    ///
    /// A receipt without a signature is a seal that never finished, and no finding.
    pub fn chain(&self, signers: &SignerList, from: impl Fn(&str) -> u64) -> Result<Chain> {
        self.chain_checked(signers, from, &Headers::default())
    }

    /// The same; a receipt that `known` says was signed well is not checked again, nor its signature read. Good ones are noted in it.
    pub(super) fn chain_checked(&self, signers: &SignerList, from: impl Fn(&str) -> u64, known: &Headers) -> Result<Chain> {
        let mut chain = Chain::default();
        let vault = self.digest()?;
        let (mut places, mut all) = (Vec::new(), BTreeSet::new());
        for key in store::all_names(&*self.store, "snaps")? {
            let Some((place, suffix)) = SnapshotKey::parse(key.as_str()) else { continue };
            all.insert(place.clone());
            match suffix {
                "b3" => chain.there.entry(place).or_default().receipt = true,
                "b3.sig" => {
                    chain.there.entry(place.clone()).or_default().signature = true;
                    places.push(place);
                }
                _ => (),
            }
        }
        chain.unsigned = all.into_iter().filter(|place| chain.there.get(place).is_none_or(|there| !there.signature)).collect();
        places.retain(|place| place.seq >= from(&place.sealer));
        let judged = sys::in_parallel(&places, THREADS_MAX, |place| self.judge(signers, place, vault, known));
        for (place, judged) in places.iter().zip(judged) {
            match judged? {
                Ok(committed) => chain.committed.push(committed),
                Err(finding) => {
                    chain.findings.push(finding);
                    chain.committed.extend(self.judge_copies(signers, place));
                }
            }
        }
        chain.committed.sort_by(|a, b| a.key.cmp(&b.key));
        for signer in &signers.signers.0 {
            if let Some(revoked) = &signer.revoked {
                set_aside(&mut chain, &signer.name, &revoked.last);
            }
        }
        Ok(chain)
    }

    /// Snapshots of which no signature is in its place, but a second copy, or another copy of the vault, has one. For readers: what they are shown
    /// must not depend on a single file.
    pub(super) fn without_signature(&self, signers: &SignerList, unsigned: &[SnapshotKey]) -> Vec<Committed> {
        // What a revoked sealer signed is sorted out where all its signatures are.
        let counts = |place: &&SnapshotKey| signers.signers.revoked(&place.sealer).is_none();
        let places: Vec<&SnapshotKey> = unsigned.iter().filter(counts).collect();
        sys::in_parallel(&places, THREADS_MAX, |place| self.judge_copies(signers, place)).into_iter().flatten().collect()
    }

    /// The hash of `VAULT`, which every receipt of this vault names.
    fn digest(&self) -> Result<Option<Digest>> {
        match store::get_all(&*self.store, &Key::fixed("VAULT"), PUBLIC_LEN_MAX) {
            Ok(bytes) => Ok(Some(digest(&bytes))),
            Err(e) if matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::Missing) => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn judge(&self, signers: &SignerList, place: &SnapshotKey, vault: Option<Digest>, known: &Headers) -> Result<Judged> {
        let finding = |kind, text: String| Ok(Err(Finding::of(kind, place.receipt(), text)));
        let bytes = match store::get_all(&*self.store, &Key::receipt(place), OBJECT_LEN_MAX) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == ErrorKind::Missing => {
                return finding(Trouble::SnapshotDeleted, "is gone, though its signature is there".to_owned());
            }
            Err(e) if e.kind() == ErrorKind::Corrupt => return finding(Trouble::Altered, e.chain()),
            Err(e) => return Err(e),
        };
        let public = signers.signers.sealer(&place.sealer);
        let tag = public.map(|public| tag_of([b"a signed receipt", public.as_bytes(), &bytes].into_iter()));
        if tag.is_some_and(|tag| known.get(&tag).is_some()) {
            return Ok(Self::placed(place, &bytes));
        }
        let signature = match store::get_all(&*self.store, &Key::signature(place), PUBLIC_LEN_MAX) {
            Ok(signature) => signature,
            Err(e) if matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::Missing) => return finding(Trouble::Altered, e.chain()),
            Err(e) => return Err(e),
        };
        if !public.is_some_and(|public| sign::is_signed(public, sign::RECEIPT, &bytes, &signature)) {
            let Some(maker) = sign::maker(sign::RECEIPT, &bytes, &signature) else {
                let text = format!("its signature is not that of sealer {}: the receipt or the signature was changed", place.sealer);
                return finding(Trouble::Altered, text);
            };
            let named = Receipt::decode(&bytes).ok().and_then(|r| r.lines.iter().find(|l| l.path == "VAULT").map(|l| l.digest));
            if named.is_some() && vault.is_some() && named != vault {
                return finding(Trouble::OtherVault, "was made for another vault, and signed there".to_owned());
            }
            let text = match (signers.signers.whose(&maker), public) {
                (Some(other), _) => format!("is signed by {other}, who may not seal as {}", place.sealer),
                (None, Some(_)) => format!("is signed by a stranger, not by sealer {}", place.sealer),
                (None, None) => format!("is signed by a stranger: sealer {} is not in {}", place.sealer, signers.key),
            };
            return finding(Trouble::Stranger, text);
        }
        if let Some(tag) = tag {
            known.put(tag, [1; 16]);
        }
        Ok(Self::placed(place, &bytes))
    }

    /// What a receipt that its sealer signed is worth at this place.
    fn placed(place: &SnapshotKey, bytes: &[u8]) -> Judged {
        let receipt = Receipt::decode(bytes).map_err(|e| Finding::of(Trouble::Unreadable, place.receipt(), e.chain()))?;
        if !receipt.lines.iter().any(|line| line.path == place.manifest()) {
            let text = "does not name its own manifest: it was made for another place".to_owned();
            return Err(Finding::of(Trouble::SnapshotReordered, place.receipt(), text));
        }
        Ok(Committed { key: place.clone(), id: Receipt::id(bytes), receipt })
    }

    /// A snapshot of which receipt or signature are damaged, from their second copies, or from another copy of the vault.
    fn judge_copies(&self, signers: &SignerList, place: &SnapshotKey) -> Option<Committed> {
        let (receipt, signature) = (Key::receipt(place), Key::signature(place));
        let pairs = [(receipt.second(), signature.clone()), (receipt.clone(), signature.second()), (receipt.second(), signature.second())];
        let check = |store: &dyn Store, receipt: &Key, signature: &Key| {
            let bytes = store::get_all(store, receipt, OBJECT_LEN_MAX).ok()?;
            let signature = store::get_all(store, signature, PUBLIC_LEN_MAX).ok()?;
            check_receipt(signers, place, &bytes, &signature).ok()
        };
        let here = || pairs.iter().find_map(|(receipt, signature)| check(&*self.store, receipt, signature));
        here().or_else(|| self.store.others().iter().find_map(|other| check(&**other, &receipt, &signature)))
    }

    /// The id of the receipt that lies at this place, signed or not; `None` if there is none.
    pub fn receipt_id(&self, place: &SnapshotKey) -> Result<Option<SnapshotId>> {
        match store::get_all(&*self.store, &Key::receipt(place), OBJECT_LEN_MAX) {
            Ok(bytes) => Ok(Some(Receipt::id(&bytes))),
            Err(e) if matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::Missing) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// The newest committed snapshot of one sealer.
    pub fn head(&self, signers: &SignerList, sealer: &str) -> Result<Option<Committed>> {
        self.newest(signers, sealer, u64::MAX)
    }

    /// The newest committed snapshot of one sealer with a number below `below`.
    fn newest(&self, signers: &SignerList, sealer: &str, below: u64) -> Result<Option<Committed>> {
        let vault = self.digest()?;
        let mut places: Vec<SnapshotKey> = store::list_all(&*self.store, &format!("snaps/{sealer}"))?
            .iter()
            .filter_map(|(key, _)| SnapshotKey::parse(key.as_str()).filter(|(_, suffix)| *suffix == "b3.sig").map(|(place, _)| place))
            .filter(|place| place.seq < below)
            .collect();
        places.sort_unstable();
        for place in places.iter().rev() {
            // A damaged newest receipt is verify's to report; the chain goes on from the newest that counts.
            match self.judge(signers, place, vault, &Headers::default())? {
                Ok(committed) => return Ok(Some(committed)),
                Err(_) => {
                    if let Some(committed) = self.judge_copies(signers, place) {
                        return Ok(Some(committed));
                    }
                }
            }
        }
        Ok(None)
    }

    /// The snapshots that the next one of this sealer goes on from, newest first: its head, and what a cloned machine, sealing at
    /// the same moment, left beside it.
    pub fn tips(&self, signers: &SignerList, sealer: &str) -> Result<Vec<Committed>> {
        let Some(head) = self.head(signers, sealer)? else { return Ok(Vec::new()) };
        let (mut tips, mut named, mut at) = (Vec::new(), HashSet::new(), Some(head));
        // Whatever lies between the head and the one that it goes on from is named by nobody.
        while let Some(committed) = at.take() {
            let before: Vec<SnapshotKey> = committed.receipt.previous_all().map(|(key, _)| key).collect();
            named.extend(before.iter().map(|key| key.seq));
            let (seq, floor) = (committed.key.seq, named.iter().copied().max().unwrap_or(0));
            tips.push(committed);
            if seq > floor + 1 && tips.len() < TIPS_MAX {
                at = self.newest(signers, sealer, seq)?.filter(|c| c.key.seq > floor && !named.contains(&c.key.seq));
            }
        }
        Ok(tips)
    }

    /// The lowest number above `after` that no object of `sealer` has, be it of a snapshot or not. That some higher one has it says nothing:
    /// whoever may add objects can take any.
    ///
    /// # Errors
    /// `Unsupported` if there is none.
    pub fn free_seq(&self, sealer: &str, after: u64) -> Result<u64> {
        let mut used = BTreeSet::new();
        self.store.list(&format!("snaps/{sealer}"), &mut |key, _| {
            used.extend(SnapshotKey::parse(key.as_str()).map(|(place, _)| place.seq).filter(|seq| *seq > after));
            Ok(())
        })?;
        let mut free = after + 1;
        while used.contains(&free) {
            free += 1;
        }
        match free <= SnapshotKey::SEQ_MAX {
            true => Ok(free),
            false => Err(Error::unsupported(format!("sealer {sealer} has used its last number"))
                .hint("make a sealer of another name for this machine: coffre key add --sealer NAME")),
        }
    }
}

/// Most snapshots that one can go on from: so many machines sealing under one name at one moment.
const TIPS_MAX: usize = 16;

/// Takes out of `chain` what a revoked sealer signed and nobody vouches for: all but `last`, and what its chain of hashes names.
///
/// The sealer's clock plays no part in it: who has the key can write any time into a manifest, but nothing before a hash.
fn set_aside(chain: &mut Chain, sealer: &str, last: &[(u64, SnapshotId)]) {
    let mine: HashMap<SnapshotId, &Committed> = chain.committed.iter().filter(|c| c.key.sealer == sealer).map(|c| (c.id, c)).collect();
    let (mut kept, mut next): (HashSet<SnapshotId>, Vec<SnapshotId>) = (HashSet::new(), last.iter().map(|(_, id)| *id).collect());
    while let Some(id) = next.pop() {
        if let Some(committed) = mine.get(&id)
            && kept.insert(id)
        {
            next.extend(committed.receipt.previous_all().map(|(_, id)| id));
        }
    }
    let (counts, revoked) = std::mem::take(&mut chain.committed).into_iter().partition(|c| c.key.sealer != sealer || kept.contains(&c.id));
    chain.committed = counts;
    chain.revoked.extend::<Vec<Committed>>(revoked);
}

/// Fails if `sealer`, signing with the key `public`, may not seal (any more).
///
/// # Errors
/// `WrongKey`.
pub fn may_seal(signers: &SignerList, sealer: &str, public: &str) -> Result<()> {
    let Some(line) = signers.signers.line(sealer) else { return Ok(()) };
    match &line.revoked {
        Some(revoked) => {
            Err(Error::wrong_key(format!("sealer {sealer} was revoked: what it signs since {} does not count", revoked.since_text())).hint(
                "an owner gives this machine a new name and new keys: coffre key add --sealer NAME there, coffre enroll --replace here",
            ))
        }
        None if line.key != public => Err(Error::wrong_key(format!("the vault knows sealer {sealer} by another key than this host's"))
            .hint("remove this host's state directory of this vault, and enrol it again with an owner's key")),
        None => Ok(()),
    }
}

/// Fails if `name` is that of a revoked sealer: it is never used again.
///
/// # Errors
/// `WrongKey`.
pub fn not_revoked(signers: &SignerList, name: &str) -> Result<()> {
    match signers.signers.revoked(name) {
        Some(revoked) => {
            Err(Error::wrong_key(format!("sealer {name} is revoked since {}: a name is never used again", revoked.since_text()))
                .hint("make a sealer of another name for this machine: coffre key add --sealer NAME"))
        }
        None => Ok(()),
    }
}

/// The snapshot at `place`, if `signature` is its sealer's under the receipt `bytes`.
pub fn check_receipt(signers: &SignerList, place: &SnapshotKey, bytes: &[u8], signature: &[u8]) -> Result<Committed> {
    let Some(public) = signers.signers.sealer(&place.sealer) else {
        return Err(Error::corrupt(format!("sealer {} is not in {}", place.sealer, signers.key)));
    };
    if !sign::is_signed(public, sign::RECEIPT, bytes, signature) {
        return Err(Error::corrupt(format!("its signature is not that of sealer {}", place.sealer)));
    }
    let receipt = Receipt::decode(bytes)?;
    if !receipt.lines.iter().any(|line| line.path == place.manifest()) {
        return Err(Error::corrupt("it does not name its own manifest: it was made for another place"));
    }
    Ok(Committed { key: place.clone(), id: Receipt::id(bytes), receipt })
}
