//! The journal below `gc/`: what the owner decided, record by record, and what that amounts to.
//!
//! Only ever added to. A record counts once the owner's signature of it is there; what two owners write at the same moment both
//! counts, and where they disagree, what keeps wins.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    error::{Error, ErrorKind, Result},
    format::{Decision, Digest, GC_RECORD_LEN_MAX, GcRecord, Line, Receipt, SnapshotId, SnapshotKey, digest, hex},
    store::{self, Key},
    vault::{Finding, OwnerKeys, PUBLIC_LEN_MAX, SignerList, Trouble, Vault, read_either, sign},
};

/// Namespace of the owner's signatures below `gc/`.
const NAMESPACE: &str = "coffre-gc-v1";
/// Longest list of objects accepted, in bytes: room for half a million.
const LIST_LEN_MAX: usize = 64 << 20;

/// A snapshot that is no longer wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forgotten {
    /// Its place.
    pub key: SnapshotKey,
    /// When that was decided, ns since 1970.
    pub since_ns: i128,
    /// The number of the record that says so.
    pub seq: u64,
    /// The number of the record that said so for the first time, if it was brought back in between.
    pub first: u64,
    /// Whether deletion has begun: it cannot come back.
    pub gone: bool,
}

/// Objects that are to be deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condemnation {
    /// The name of the record that says so.
    pub record: String,
    /// The hash of that record, as receipts name it.
    pub digest: Digest,
    /// The record's number.
    pub seq: u64,
    /// When it was decided, ns since 1970.
    pub time_ns: i128,
    /// What must have passed since then, in seconds.
    pub grace_secs: u64,
    /// The list of what goes.
    pub list: Digest,
    /// The list of what takes its place.
    pub fresh: Option<Digest>,
    /// Whether all of it is deleted, or spared.
    pub settled: bool,
}

impl Condemnation {
    /// The earliest moment at which it may be carried out, by what the record says: ns since 1970.
    pub fn due_ns(&self) -> i128 {
        self.time_ns + i128::from(self.grace_secs) * 1_000_000_000
    }

    /// Where its record lies.
    pub fn key(&self) -> Key {
        record_key(&self.record)
    }
}

/// A deletion that began, and of which nobody has said that it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deletion {
    /// The name of the record that says so.
    pub record: String,
    /// The list of what is being deleted.
    pub list: Digest,
}

/// What all records together say.
#[derive(Clone, Debug, Default)]
pub struct Journal {
    /// Snapshots that are no longer wanted.
    pub forgotten: BTreeMap<SnapshotId, Forgotten>,
    /// Snapshots that were pinned by hand (true) or explicitly not (false). Others may be pinned by what was sealed after them.
    pub pins: BTreeMap<SnapshotId, bool>,
    /// What was condemned, oldest first.
    pub condemnations: Vec<Condemnation>,
    /// Objects that were condemned and were needed after all, with the number of the newest record that says so: it holds against what was
    /// condemned before it, and not for ever.
    pub spared: BTreeMap<String, u64>,
    /// Deletions that have not ended.
    pub deletions: Vec<Deletion>,
    /// Objects that nothing named, and since when that is known, ns since 1970.
    pub loose: BTreeMap<String, i128>,
    /// The names of all records that count.
    pub records: BTreeSet<String>,
    /// The hashes of those records.
    read: BTreeMap<String, Digest>,
    /// Records that do not count, and why.
    pub findings: Vec<Finding>,
    said_gone: BTreeSet<(u64, SnapshotId)>,
    /// The first record that forgot each snapshot.
    ever: BTreeMap<SnapshotId, u64>,
    /// Records that others name as the ones before them.
    named: BTreeSet<String>,
    last_seq: u64,
}

fn record_key(name: &str) -> Key {
    Key::fixed(format!("gc/{name}.txt"))
}

fn signature_key(record: &Key) -> Key {
    Key::fixed(format!("{record}.sig"))
}

fn list_key(list: &Digest) -> Key {
    Key::fixed(format!("gc/{}.b3", hex(list.as_bytes())))
}

/// The name in the path of a record's signature.
fn signed_name(key: &Key) -> Option<&str> {
    let name = key.as_str().strip_prefix("gc/")?.strip_suffix(".txt.sig")?;
    GcRecord::seq(name).map(|_| name)
}

impl Journal {
    /// Reads all records of `vault`: a listing, and two small reads and 30 µs each.
    ///
    /// `owner` is the owner's public key as this reader knows it; else the list of signers says.
    pub fn load(vault: &Vault, owner: Option<&str>) -> Result<Self> {
        let mut names: BTreeSet<String> =
            store::all_names(&*vault.store, "gc")?.iter().filter_map(signed_name).map(str::to_owned).collect();
        if vault.config.parity > 0 {
            // Nothing is ever removed here: a record of which only a copy is left was signed, and counts.
            let copies = store::all_names(&*vault.store, "parity/gc")?;
            let first = copies.iter().filter_map(|key| Key::parse(key.as_str().strip_prefix("parity/")?));
            names.extend(first.filter_map(|key| signed_name(&key).map(str::to_owned)));
        }
        let mut journal = Self::default();
        if names.is_empty() {
            return Ok(journal);
        }
        let signers = match owner {
            Some(_) => None,
            None => Some(SignerList::load(&*vault.store, None)?),
        };
        let owner = owner.or(signers.as_ref().and_then(|list| list.signers.owner())).unwrap_or_default();
        let mut records: BTreeMap<u64, Vec<(String, Digest, GcRecord)>> = BTreeMap::new();
        for name in names {
            match read_record(vault, owner, &name) {
                Ok((digest, record, finding)) => {
                    journal.last_seq = journal.last_seq.max(GcRecord::seq(&name).unwrap_or(0));
                    journal.findings.extend(finding);
                    journal.records.insert(name.clone());
                    journal.read.insert(name.clone(), digest);
                    records.entry(GcRecord::seq(&name).unwrap_or(0)).or_default().push((name, digest, record));
                }
                Err(e) if matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::Missing | ErrorKind::Unsupported) => {
                    let kind = if is_junk(vault, owner, &name)? { Trouble::Stranger } else { Trouble::Unreadable };
                    journal.findings.push(Finding::of(kind, record_key(&name).as_str(), e.chain()));
                }
                Err(e) => return Err(e),
            }
        }
        for same_moment in records.into_values() {
            // What keeps comes after what does not, and so wins; what is gone is only what nobody kept.
            for turn in 0..3 {
                for (name, digest, record) in &same_moment {
                    record.decisions.iter().filter(|d| turn_of(d) == turn).for_each(|d| journal.take(name, *digest, record.time_ns, d));
                }
            }
        }
        journal.find_gaps();
        Ok(journal)
    }

    /// Each record names those before it, so none can be taken away without a word but the newest.
    fn find_gaps(&mut self) {
        for name in self.named.difference(&self.records) {
            let key = record_key(name);
            match self.findings.iter_mut().find(|f| f.object == key.as_str()) {
                Some(finding) => *finding = Finding::of(Trouble::Altered, key.as_str(), finding.text.clone()),
                None => {
                    let text = "is gone, or its signature is: a later decision of the owner's names it";
                    self.findings.push(Finding::of(Trouble::Deleted, key.as_str(), text));
                }
            }
        }
    }

    fn take(&mut self, name: &str, digest: Digest, time_ns: i128, decision: &Decision) {
        let seq = GcRecord::seq(name).unwrap_or(0);
        match decision {
            Decision::Forget(key, id) => {
                let first = *self.ever.entry(*id).or_insert(seq);
                self.forgotten.entry(*id).or_insert(Forgotten { key: key.clone(), since_ns: time_ns, seq, first, gone: false });
            }
            Decision::Undelete(_, id) => {
                if self.forgotten.get(id).is_some_and(|forgotten| !forgotten.gone) {
                    self.forgotten.remove(id);
                }
            }
            Decision::Pin(_, id) => drop(self.pins.insert(*id, true)),
            Decision::Unpin(_, id) => drop(self.pins.insert(*id, false)),
            Decision::Gone(_, id) => {
                self.said_gone.insert((seq, *id));
                if let Some(forgotten) = self.forgotten.get_mut(id) {
                    forgotten.gone = true;
                }
            }
            Decision::Condemn { list, fresh, grace_secs } => self.condemnations.push(Condemnation {
                record: name.to_owned(),
                digest,
                seq,
                time_ns,
                grace_secs: *grace_secs,
                list: *list,
                fresh: *fresh,
                settled: false,
            }),
            Decision::Settled(name) => {
                self.condemnations.iter_mut().filter(|c| c.record == *name).for_each(|c| c.settled = true);
                self.deletions.retain(|d| d.record != *name);
            }
            Decision::Spare(path) => drop(self.spared.insert(path.clone(), seq)),
            Decision::Loose(path) => drop(self.loose.entry(path.clone()).or_insert(time_ns)),
            Decision::Delete(list) => self.deletions.push(Deletion { record: name.to_owned(), list: *list }),
            Decision::After(before) => drop(self.named.insert(before.clone())),
        }
    }

    /// The highest number that a record has. One that does not count is not among them: anybody can write `9999999999`.
    pub fn last_seq(&self) -> u64 {
        self.last_seq
    }

    /// The records of the highest number, with their hashes: nothing in the journal itself says when these are taken away.
    pub fn newest(&self) -> impl Iterator<Item = (Digest, Key)> + '_ {
        let newest = |name: &str| GcRecord::seq(name) == Some(self.last_seq);
        self.read.iter().filter(move |(name, _)| newest(name)).map(|(name, digest)| (*digest, record_key(name)))
    }

    /// What is wrong if a record of the name was there and does not count any more; `None` if it does. `who` knows of it.
    pub fn is_taken_away(&self, name: &str, who: &str) -> Option<Finding> {
        let key = record_key(name);
        let is_told = || self.findings.iter().any(|f| f.object == key.as_str());
        (!self.records.contains(name) && !is_told())
            .then(|| Finding::of(Trouble::Deleted, key.as_str(), format!("is gone, or its signature is: {who}")))
    }

    /// The name of the record at a place.
    pub fn record_at(path: &str) -> Option<&str> {
        path.strip_prefix("gc/")?.strip_suffix(".txt").filter(|name| GcRecord::seq(name).is_some())
    }

    /// Whether the snapshot is no longer wanted.
    pub fn is_forgotten(&self, id: &SnapshotId) -> bool {
        self.forgotten.contains_key(id)
    }

    /// Whether the snapshot's objects are being deleted, or are deleted.
    pub fn is_gone(&self, id: &SnapshotId) -> bool {
        self.forgotten.get(id).is_some_and(|forgotten| forgotten.gone)
    }

    /// Whether a record of the same number as `name` says that the snapshot is gone.
    pub fn is_said_gone_beside(&self, name: &str, id: &SnapshotId) -> bool {
        GcRecord::seq(name).is_some_and(|seq| self.said_gone.contains(&(seq, *id)))
    }

    /// Whether a record that is not signed (not yet, or its writer died) says that the snapshot is gone. Anybody can write such a one.
    pub fn is_unsigned_gone(vault: &Vault, id: &SnapshotId) -> Result<bool> {
        let keys: BTreeSet<Key> = store::list_all(&*vault.store, "gc")?.into_iter().map(|(key, _)| key).collect();
        let unsigned = keys.iter().filter(|key| key.as_str().ends_with(".txt") && !keys.contains(&signature_key(key)));
        for key in unsigned {
            let record = store::get_all(&*vault.store, key, GC_RECORD_LEN_MAX).and_then(|bytes| GcRecord::decode(&bytes, vault.config.id));
            if record.is_ok_and(|record| record.decisions.iter().any(|d| matches!(d, Decision::Gone(_, gone) if gone == id))) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The objects that a condemnation names, without those that were spared since: path and hash.
    pub fn condemned(&self, vault: &Vault, condemnation: &Condemnation) -> Result<Vec<Line>> {
        Ok(self.judged(vault, condemnation)?.0)
    }

    /// The objects that a condemnation names: those that go, and those that were spared since.
    pub fn judged(&self, vault: &Vault, condemnation: &Condemnation) -> Result<(Vec<Line>, Vec<Line>)> {
        let is_spared = |line: &Line| self.spared.get(&line.path).is_some_and(|seq| *seq >= condemnation.seq);
        let lines = read_list(vault, &condemnation.list)?;
        Ok(lines.into_iter().partition(|line| !is_spared(line)))
    }

    /// The objects that are being deleted.
    pub fn going(&self, vault: &Vault, deletion: &Deletion) -> Result<Vec<Line>> {
        read_list(vault, &deletion.list)
    }

    /// What was written in place of what a condemnation names.
    pub fn fresh(&self, vault: &Vault, condemnation: &Condemnation) -> Result<Vec<Line>> {
        condemnation.fresh.as_ref().map_or_else(|| Ok(Vec::new()), |list| read_list(vault, list))
    }

    /// Whether a new record stands below `gc/` since this was loaded. Costs a listing.
    pub fn is_current(&self, vault: &Vault) -> Result<bool> {
        Ok(signed_records(vault)?
            .iter()
            .all(|name| self.records.contains(name) || self.findings.iter().any(|f| f.object == record_key(name).as_str())))
    }

    /// Adds a record with these decisions, and returns its name. The signature is the commit.
    ///
    /// # Errors
    /// `Unsupported` if no number is left for it: nothing is written that nobody would read.
    pub fn append(vault: &Vault, owner: &OwnerKeys, time_ns: i128, decisions: Vec<Decision>) -> Result<String> {
        let (seq, before) = next_seq(vault, &owner.sign.public())?;
        let decisions = before.into_iter().map(Decision::After).chain(decisions).collect();
        let bytes = GcRecord { time_ns, decisions }.encode(vault.config.id);
        let name = GcRecord::name(seq, &bytes);
        let signature = owner.sign.sign(NAMESPACE, &bytes)?;
        let key = record_key(&name);
        vault.put_twice(&key, &bytes)?;
        vault.put_twice(&signature_key(&key), &signature)?;
        Ok(name)
    }

    /// Stores a list of objects, for a record to name.
    pub fn put_list(vault: &Vault, lines: Vec<Line>) -> Result<Digest> {
        let bytes = Receipt { lines }.encode();
        let list = digest(&bytes);
        vault.put_twice(&list_key(&list), &bytes)?;
        Ok(list)
    }

    /// Every record and list that counts, with its hash.
    pub fn objects(&self) -> impl Iterator<Item = (Key, Digest)> {
        let lists = self.condemnations.iter().flat_map(|c| std::iter::once(c.list).chain(c.fresh));
        let lists = lists.chain(self.deletions.iter().map(|d| d.list));
        self.read.iter().map(|(name, digest)| (record_key(name), *digest)).chain(lists.map(|list| (list_key(&list), list)))
    }

    /// Where a list lies.
    pub fn list_key(list: &Digest) -> Key {
        list_key(list)
    }
}

/// So many numbers above the highest that counts are taken as used: of records that somebody is about to sign, or never did.
const AHEAD_MAX: u64 = 64;

/// The number of the next record, and the newest ones before it. What others have put below `gc/` moves the number by no more than
/// `AHEAD_MAX`, or a single file would end all numbers.
///
/// Cost: a listing, and two small reads for each record from the two highest numbers that count on.
fn next_seq(vault: &Vault, owner: &str) -> Result<(u64, Vec<String>)> {
    let mut names = BTreeSet::new();
    for folder in ["gc", "parity/gc"].iter().take(if vault.config.parity > 0 { 2 } else { 1 }) {
        vault.store.list(folder, &mut |key, _| {
            let name = key.file_name().trim_end_matches(".sig").trim_end_matches(".txt");
            names.extend(GcRecord::seq(name).map(|seq| (seq, name.to_owned())));
            Ok(())
        })?;
    }
    let (mut last, mut before): (Option<u64>, Vec<String>) = (None, Vec::new());
    for (seq, name) in names.iter().rev() {
        // Two owners who write at one moment may not have seen each other: the number before the last is named again.
        if last.is_some_and(|last| *seq + 1 < last) {
            break;
        }
        match read_record(vault, owner, name) {
            Ok(_) => {
                last = last.or(Some(*seq));
                before.push(name.clone());
            }
            Err(e) if matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::Missing | ErrorKind::Unsupported) => (),
            Err(e) => return Err(e),
        }
    }
    let last = last.unwrap_or(0);
    let used = names.iter().map(|(seq, _)| *seq).filter(|seq| *seq <= last + AHEAD_MAX).max().unwrap_or(0);
    match used < GcRecord::SEQ_MAX {
        true => Ok((used + 1, before)),
        false => Err(Error::unsupported(format!("gc/ holds record {last} of the owner's, and no number is left above it"))),
    }
}

/// Whether what lies at the place of a record cannot be one: its name is not that of its content, and nobody even says that the owner signed
/// it. Anybody who may add to the vault can put such a thing there.
fn is_junk(vault: &Vault, owner: &str, name: &str) -> Result<bool> {
    let key = record_key(name);
    let read = |key: &Key, len_max| match store::get_all(&*vault.store, key, len_max) {
        Err(e) if matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::Missing) => Ok(None),
        other => other.map(Some),
    };
    let (Some(bytes), Some(signature)) = (read(&key, GC_RECORD_LEN_MAX)?, read(&signature_key(&key), PUBLIC_LEN_MAX)?) else {
        return Ok(false);
    };
    let is_named = GcRecord::seq(name).is_some_and(|seq| GcRecord::name(seq, &bytes) == name);
    Ok(!is_named && !sign::claims(owner, &signature))
}

/// The names of all records that are signed, by whomever. A listing: cheap enough to be asked every second.
pub fn signed_records(vault: &Vault) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    vault.store.list("gc", &mut |key, _| {
        names.extend(signed_name(&key).map(str::to_owned));
        Ok(())
    })?;
    Ok(names)
}

/// In which turn a decision is taken among those of one number.
fn turn_of(decision: &Decision) -> u8 {
    match decision {
        Decision::Forget(..) | Decision::Unpin(..) | Decision::Condemn { .. } | Decision::Loose(_) | Decision::After(_) => 0,
        Decision::Undelete(..) | Decision::Pin(..) | Decision::Spare(_) | Decision::Settled(_) => 1,
        Decision::Gone(..) | Decision::Delete(_) => 2,
    }
}

/// A record with its hash, and what is wrong with its signature if it counts by the copy of that: no hash of one is anywhere.
fn read_record(vault: &Vault, owner: &str, name: &str) -> Result<(Digest, GcRecord, Option<Finding>)> {
    let key = record_key(name);
    let bytes = read_either(&*vault.store, &key, GC_RECORD_LEN_MAX, |bytes| is_named(name, &bytes).map(|()| bytes))?;
    let signature = signature_key(&key);
    let check = |place: &Key| is_signed(owner, name, &bytes, &store::get_all(&*vault.store, place, PUBLIC_LEN_MAX)?);
    let finding = match check(&signature) {
        Err(e) if matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::Missing) && check(&signature.second()).is_ok() => {
            let kind = if e.kind() == ErrorKind::Missing { Trouble::Deleted } else { Trouble::Altered };
            Some(Finding::of(kind, signature.as_str(), e.chain()))
        }
        checked => checked.map(|()| None)?,
    };
    Ok((digest(&bytes), GcRecord::decode(&bytes, vault.config.id)?, finding))
}

fn is_named(name: &str, bytes: &[u8]) -> Result<()> {
    match GcRecord::seq(name).is_some_and(|seq| GcRecord::name(seq, bytes) == name) {
        true => Ok(()),
        false => Err(Error::corrupt(format!("{} is not what its name says", record_key(name)))),
    }
}

fn is_signed(owner: &str, name: &str, bytes: &[u8], signature: &[u8]) -> Result<()> {
    match sign::is_signed(owner, NAMESPACE, bytes, signature) {
        true => Ok(()),
        false => Err(Error::corrupt(format!("{} is not signed by the vault's owner", record_key(name)))),
    }
}

/// Whether these are a record of this name and the signature of `owner` under it.
pub fn is_record(owner: &str, name: &str, bytes: &[u8], signature: &[u8]) -> bool {
    is_named(name, bytes).and_then(|()| is_signed(owner, name, bytes, signature)).is_ok()
}

fn read_list(vault: &Vault, list: &Digest) -> Result<Vec<Line>> {
    let key = list_key(list);
    let bytes = read_either(&*vault.store, &key, LIST_LEN_MAX, |bytes| match digest(&bytes) == *list {
        true => Ok(bytes),
        false => Err(Error::corrupt(format!("{key} is not what its name says"))),
    })?;
    if bytes.is_empty() {
        return Ok(Vec::new());
    }
    Ok(Receipt::decode(&bytes)?.lines)
}
