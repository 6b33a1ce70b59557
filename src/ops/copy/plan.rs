//! What is copied, in which order. Pure: takes listings and receipts, returns waves of objects.
//!
//! A wave begins when the one before it is durable, so the copy is a valid vault after each: keys and signers, what the owner
//! decided, then snapshot by snapshot packs, index, manifest, receipt, signature. A sealer's snapshots go oldest first: the newest
//! one needs packs of all before it, so none could be whole any sooner, and a copy that is stopped has whole snapshots. Sealers of
//! whose snapshots least is lacking go first: so the newest ones of most hosts are there soonest.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    error::{Error, Result},
    format::{Digest, Receipt, SnapshotKey},
    ops::copy::look::{Listing, Sides, signed},
    store::Key,
    vault::{Chain, Committed, Finding, Trouble},
};

/// Snapshots of one sealer whose packs, segments and manifests travel together: those cost one round trip a wave, not one each.
const BATCH_SNAPSHOTS: usize = 64;
/// Bytes of packs that close a batch: what a stopped copy has carried without a snapshot to show for it.
const BATCH_BYTES: u64 = 256 << 20;
/// Shortest beginning of a snapshot's id that names it.
const ID_LEN_MIN: usize = 4;

/// Snapshots that are to be copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    /// All of a sealer.
    Sealer(String),
    /// One, by its place: `SEALER/NUMBER`.
    Place(SnapshotKey),
    /// One, by the beginning of its id.
    Id(String),
}

impl Which {
    /// Reads `SEALER`, `SEALER/NUMBER` or `id:HEX`.
    pub fn parse(text: &str) -> Option<Self> {
        if let Some(id) = text.strip_prefix("id:") {
            return (id.len() >= ID_LEN_MIN && id.bytes().all(|b| b.is_ascii_hexdigit())).then(|| Self::Id(id.to_ascii_lowercase()));
        }
        let (sealer, seq) = text.split_once('/').map_or((text, None), |(sealer, seq)| (sealer, Some(seq)));
        let sealer = crate::format::is_name(sealer).then(|| sealer.to_owned())?;
        match seq {
            None => Some(Self::Sealer(sealer)),
            Some(seq) => Some(Self::Place(SnapshotKey { sealer, seq: seq.parse().ok().filter(|seq| *seq > 0)? })),
        }
    }
}

/// The newest snapshot wanted of each sealer; those before it are what it stands on.
#[derive(Clone, Debug)]
pub struct Bounds(Option<BTreeMap<String, u64>>);

impl Bounds {
    /// What `which` asks for; all, if it names nothing.
    ///
    /// # Errors
    /// `NotFound` if the vault has no such snapshot.
    pub fn of(which: &[Which], from: &Listing, chain: &Chain) -> Result<Self> {
        if which.is_empty() {
            return Ok(Self(None));
        }
        let mut bounds: BTreeMap<String, u64> = BTreeMap::new();
        for one in which {
            let (sealer, seq) = match one {
                Which::Sealer(name) => (signed(from).find(|(place, _)| place.sealer == *name).map(|_| name.clone()), u64::MAX),
                Which::Place(place) => (signed(from).find(|(p, _)| p == place).map(|_| place.sealer.clone()), place.seq),
                Which::Id(id) => {
                    let found = chain.committed.iter().find(|c| c.id.to_string().starts_with(id));
                    (found.map(|c| c.key.sealer.clone()), found.map_or(0, |c| c.key.seq))
                }
            };
            let sealer = sealer.ok_or_else(|| {
                let names: BTreeSet<String> = signed(from).map(|(place, _)| place.sealer).collect();
                let names: Vec<String> = names.into_iter().collect();
                Error::not_found(format!("the vault has no snapshots that --snapshots {} names", one.text()))
                    .hint(format!("give SEALER, SEALER/NUMBER or id:ID; the sealers are: {}", names.join(", ")))
            })?;
            let bound = bounds.entry(sealer).or_insert(seq);
            *bound = seq.max(*bound);
        }
        Ok(Self(Some(bounds)))
    }

    fn wants(&self, place: &SnapshotKey) -> bool {
        self.0.as_ref().is_none_or(|bounds| bounds.get(&place.sealer).is_some_and(|bound| place.seq <= *bound))
    }
}

impl Which {
    fn text(&self) -> String {
        match self {
            Self::Sealer(name) => name.clone(),
            Self::Place(place) => place.to_string(),
            Self::Id(id) => format!("id:{id}"),
        }
    }
}

/// One object to be carried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Where it lies, on both sides.
    pub key: Key,
    /// Its length in the vault.
    pub len: u64,
    /// The hash of its bytes, if anything names it by that.
    pub digest: Option<Digest>,
}

/// What goes in which order.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// Objects that may travel at once, wave by wave.
    pub waves: Vec<Vec<Item>>,
    /// Snapshots that the copy will have and has not now.
    pub lacking: Vec<SnapshotKey>,
    /// Objects that both sides have.
    pub present: u64,
    /// What is wrong on one of the sides.
    pub findings: Vec<Finding>,
}

impl Plan {
    /// How many objects are to be copied.
    pub fn objects(&self) -> u64 {
        self.waves.iter().map(|wave| wave.len() as u64).sum()
    }

    /// Their bytes.
    pub fn bytes(&self) -> u64 {
        self.waves.iter().flatten().map(|item| item.len).sum()
    }
}

/// Makes the plan.
pub fn plan(sides: &Sides) -> Plan {
    let mut draft = Draft { sides, plan: Plan::default(), taken: BTreeSet::new() };
    draft.plan.findings.extend(sides.chain.findings.iter().cloned());
    for place in &sides.forked {
        let text = "is not the same on both sides: somebody sealed into the copy under this name, or one side was changed";
        draft.plan.findings.push(Finding::of(Trouble::Fork, place.receipt(), text));
    }
    draft.publics();
    draft.decisions();
    draft.snapshots();
    draft.rest();
    draft.plan.waves.retain(|wave| !wave.is_empty());
    draft.plan.present = sides.from.iter().filter(|(key, len)| sides.to.get(key) == Some(len)).count() as u64;
    draft.plan
}

struct Draft<'a> {
    sides: &'a Sides,
    plan: Plan,
    taken: BTreeSet<Key>,
}

impl Draft<'_> {
    /// The object at `key`, if it is to be carried and is not yet taken.
    fn item(&mut self, key: &Key, digest: Option<Digest>) -> Option<Item> {
        let len = *self.sides.from.get(key)?;
        if self.sides.gone.contains(key) && !self.sides.to.contains_key(key) {
            return None;
        }
        if !self.taken.insert(key.clone()) {
            return None;
        }
        match self.sides.to.get(key) {
            None => Some(Item { key: key.clone(), len, digest: key.digest().or(digest) }),
            Some(there) if *there == len => None,
            Some(there) => {
                let text = format!("is {len} bytes long in the vault and {there} in the copy: one of them is damaged");
                self.plan.findings.push(Finding::of(Trouble::Altered, key.as_str(), text));
                None
            }
        }
    }

    /// A wave of every object that `belongs`.
    fn wave(&mut self, belongs: impl Fn(&str) -> bool) {
        let keys: Vec<Key> = self.sides.from.keys().filter(|key| belongs(key.as_str())).cloned().collect();
        let wave = keys.iter().filter_map(|key| self.item(key, None)).collect();
        self.plan.waves.push(wave);
    }

    /// Keys, signers, and last `VAULT`: until it stands, there is no vault.
    fn publics(&mut self) {
        self.wave(|path| (!path.contains('/') && path != "VAULT") || path.starts_with("keys/") || path.starts_with("parity/keys/"));
        // As they were written: nobody ever sees a list without its signature.
        self.wave(|path| path.starts_with("signers/") && path.ends_with(".sig"));
        self.wave(|path| path.starts_with("signers/"));
        self.wave(|path| path == "VAULT");
    }

    /// What the owner decided: first what was written in place of what goes, then the lists, the records, their signatures.
    fn decisions(&mut self) {
        let decided = self.sides.decided.clone();
        let wave = decided.iter().filter_map(|key| self.item(key, None)).collect();
        self.plan.waves.push(wave);
        self.wave(|path| path.starts_with("gc/") && path.ends_with(".b3"));
        self.wave(|path| path.starts_with("gc/") && !path.ends_with(".sig"));
        self.wave(|path| path.starts_with("gc/"));
    }

    fn snapshots(&mut self) {
        let sides = self.sides;
        let mut sealers: BTreeMap<&str, Vec<&Committed>> = BTreeMap::new();
        for committed in sides.chain.committed.iter().filter(|c| sides.bounds.wants(&c.key)) {
            sealers.entry(&committed.key.sealer).or_default().push(committed);
        }
        let mut sealers: Vec<(u64, Vec<&Committed>)> = sealers.into_values().map(|chain| (lacking(sides, &chain), chain)).collect();
        sealers.sort_by_key(|(lacking, _)| *lacking);
        for (_, chain) in sealers {
            let mut batch = Batch::default();
            for committed in chain {
                self.take(committed, &mut batch);
                if batch.snapshots >= BATCH_SNAPSHOTS || batch.bytes >= BATCH_BYTES {
                    self.close(std::mem::take(&mut batch));
                }
            }
            self.close(batch);
        }
    }

    fn take(&mut self, committed: &Committed, batch: &mut Batch) {
        let sides = self.sides;
        let own: BTreeMap<Key, Digest> = lasting(&committed.receipt).collect();
        for (key, digest) in &own {
            if !sides.from.contains_key(key) && !sides.to.contains_key(key) && !sides.decided.contains(key) {
                let text = "is gone from the vault, and not in the copy either";
                self.plan.findings.push(Finding::of(Trouble::Deleted, key.as_str(), text));
            }
            let Some(item) = self.item(key, Some(*digest)) else { continue };
            batch.bytes += item.len;
            match key.as_str().starts_with("snaps/") {
                true => batch.manifests.push(item),
                false => batch.packs.push(item),
            }
        }
        // What repairs an object travels with it.
        let repairs: Vec<Key> = own.keys().filter_map(Key::sidecar).filter(|key| sides.from.contains_key(key)).collect();
        batch.packs.extend(repairs.iter().filter_map(|key| self.item(key, None)));
        let id = Digest::from_bytes(*committed.id.as_bytes());
        batch.commits.extend(self.item(&Key::receipt(&committed.key), Some(id)));
        if let Some(item) = self.item(&Key::signature(&committed.key), None) {
            self.plan.lacking.push(committed.key.clone());
            batch.snapshots += 1;
            batch.commits.push(item);
        }
    }

    fn close(&mut self, batch: Batch) {
        self.plan.waves.extend([batch.packs, batch.manifests]);
        // One sealer's receipts and signatures follow one another: a later one without the one before it would look like a loss.
        self.plan.waves.extend(batch.commits.into_iter().map(|item| vec![item]));
    }

    /// Everything else that lies there: what lies beside objects that are in the copy, and what a later version may add.
    fn rest(&mut self) {
        let sides = self.sides;
        let beside: BTreeSet<Key> = sides.to.keys().chain(&self.taken).map(|key| key.sidecar().unwrap_or_else(|| key.second())).collect();
        let belongs = |path: &str| match path.split('/').next() {
            Some("packs" | "index" | "snaps" | "gc" | "signers" | "keys" | "damaged") => false,
            // A token works once, and not once more for each copy.
            Some("enrol") => false,
            Some("parity") => beside.contains(&Key::fixed(path)),
            _ => true,
        };
        let keys: Vec<Key> = sides.from.keys().filter(|key| belongs(key.as_str())).cloned().collect();
        let wave = keys.iter().filter_map(|key| self.item(key, None)).collect();
        self.plan.waves.push(wave);
    }
}

#[derive(Default)]
struct Batch {
    packs: Vec<Item>,
    manifests: Vec<Item>,
    /// Receipts and signatures, in the order in which they were made.
    commits: Vec<Item>,
    snapshots: usize,
    bytes: u64,
}

/// Bytes of a sealer's snapshots that the copy lacks.
fn lacking(sides: &Sides, chain: &[&Committed]) -> u64 {
    let named = chain.iter().flat_map(|c| lasting(&c.receipt));
    named.filter(|(key, _)| !sides.to.contains_key(key)).filter_map(|(key, _)| sides.from.get(&key)).sum()
}

/// What a receipt brings into the vault: packs, segments, its manifest. Keys and signers come and go.
fn lasting(receipt: &Receipt) -> impl Iterator<Item = (Key, Digest)> + '_ {
    receipt.lines.iter().filter_map(|line| {
        let bulk = line.path.starts_with("packs/") || line.path.starts_with("index/");
        let manifest = SnapshotKey::parse(&line.path).is_some_and(|(_, suffix)| suffix == "age");
        Key::parse(&line.path).filter(|_| bulk || manifest).map(|key| (key, line.digest))
    })
}
