//! One vault, its machines, and what the simulation knows of it: every snapshot as a plain map, every object that was hurt.
#![allow(clippy::unwrap_used)] // a test may stop at the first surprise

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use coffre::{
    format::{Config, SHARD_LEN, Sidecar, SnapshotId, SnapshotKey, digest},
    ops::repair,
    store::{Key, Local, Memory, Store, get_all},
    vault::{OwnerKeys, Reader, SealerKeys, Unlocking, Vault},
};
use tempfile::TempDir;

use super::{
    dice::Dice,
    machine::{Machine, fast_place},
    source::{Plain, Source},
};
use crate::common::library::{copy_of, objects};

/// A snapshot as it must read.
pub struct Sealed {
    pub id: SnapshotId,
    pub root: PathBuf,
    pub plain: Plain,
}

pub struct World {
    /// What the store holds, past every fault.
    pub disk: Memory,
    pub owner: Arc<OwnerKeys>,
    pub config: Config,
    pub machines: Vec<Arc<Machine>>,
    pub sources: Vec<Source>,
    pub sealed: BTreeMap<SnapshotKey, Sealed>,
    /// Objects that are not as they were written, and what they were; of torn writes nothing is known.
    pub hurt: BTreeMap<Key, Option<Vec<u8>>>,
    /// A reader that stays, as a mount does.
    pub mount: Reader,
    _base: TempDir,
}

/// A vault without snapshots and with two sealers, kept as it was made: so its keys are the same in every run.
pub fn template() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/vaults/empty")
}

impl World {
    /// Two sealers, and sometimes a clone of the first; a vault that keeps what mends it, if so many of a hundred are not 0.
    pub fn new(dice: &mut Dice, parity: u8) -> Self {
        let disk = copy_of(&Local::new(template().join("vault")));
        let mut vault = Vault::open(Arc::new(disk.clone())).unwrap();
        if parity > 0 {
            vault.config.parity = parity;
            assert!(disk.damage(&Key::fixed("VAULT"), |bytes| *bytes = vault.config.encode()));
        }
        let mut unlocking = Unlocking::default();
        unlocking.add_identity_file("identity", &fs::read_to_string(template().join("identity")).unwrap()).unwrap();
        let owner = Arc::new(unlocking.open(&disk, vault.config.id).unwrap());
        let base = tempfile::Builder::new().prefix("coffre-sim-").tempdir_in(fast_place()).unwrap();
        let names = if dice.chance(20) { vec!["web", "db", "clone"] } else { vec!["web", "db"] };
        let (mut machines, mut sources) = (Vec::new(), Vec::new());
        for name in names {
            let sealer = if name == "clone" { "web" } else { name };
            let sealer: SealerKeys = vault.enrol(&owner, sealer).unwrap();
            let root = base.path().canonicalize().unwrap().join(name);
            machines.push(Arc::new(Machine::new(name, &disk, &vault.config, sealer, &root)));
            sources.push(Source::new(root));
        }
        let mount = Reader::open(vault.clone(), owner.clone(), 1 << 20).unwrap().0;
        let config = vault.config;
        Self { disk, owner, config, machines, sources, sealed: BTreeMap::new(), hurt: BTreeMap::new(), mount, _base: base }
    }

    /// The vault as somebody finds it who has nothing but a key.
    pub fn vault(&self) -> Vault {
        Vault { store: Arc::new(self.disk.clone()), config: self.config.clone() }
    }

    pub fn reader(&self) -> Reader {
        Reader::open(self.vault(), self.owner.clone(), 4 << 20).unwrap().0
    }

    /// Takes in the snapshots that are new. Those of `must` have one more, those of `may` perhaps, no others any.
    pub fn take_in(&mut self, must: &[usize], may: &[usize]) {
        let (snapshots, _) = self.vault().snapshots(&self.owner).unwrap();
        let mut new: BTreeSet<usize> = BTreeSet::new();
        for snapshot in snapshots {
            if self.sealed.contains_key(&snapshot.key) {
                continue;
            }
            let who = self.machines.iter().position(|m| m.name == snapshot.manifest.host).unwrap();
            assert!(new.insert(who), "{} has two new snapshots", self.machines[who].name);
            let source = &self.sources[who];
            // What was hurt in this place was of a seal that never finished; its manifest was written anew.
            let manifest = Key::manifest(&snapshot.key);
            let line = format!("{}  {manifest}", digest(&get_all(&self.disk, &manifest, 1 << 20).unwrap_or_default()));
            let receipt = get_all(&self.disk, &Key::receipt(&snapshot.key), 1 << 20).unwrap();
            if String::from_utf8(receipt).unwrap().lines().any(|named| named == line) {
                self.hurt.remove(&manifest);
            }
            self.sealed.insert(snapshot.key, Sealed { id: snapshot.id, root: source.root.clone(), plain: source.plain.clone() });
        }
        for who in must {
            assert!(new.remove(who), "{} sealed, and there is no new snapshot", self.machines[*who].name);
        }
        // A seal makes copies of keys that have none.
        let disk = objects(&self.disk);
        self.hurt.retain(|key, before| !key.as_str().starts_with("parity/") || before.is_none() || disk.get(key) != before.as_ref());
        new.retain(|who| !may.contains(who));
        assert!(new.is_empty(), "new snapshots of machines {new:?}, which sealed nothing");
    }

    /// Hurts an object, or two. What is named must be found by verify.
    ///
    /// Keys are not deleted: they come and go.
    pub fn injure(&mut self, dice: &mut Dice) -> String {
        // What a key was, receipts alone say: not both at a time.
        let hurt = |part: &str| self.hurt.keys().any(|key| key.as_str().contains(part));
        let spared = if hurt("keys/") {
            ".b3"
        } else if hurt(".b3") {
            "keys/"
        } else {
            "//"
        };
        let places = ["snaps/", "packs/", "index/", "keys/", "parity/"];
        let wanted = |key: &Key| !key.as_str().contains(spared) && places.iter().any(|folder| key.as_str().starts_with(folder));
        let whole: Vec<(Key, Vec<u8>)> =
            objects(&self.disk).into_iter().filter(|(key, _)| wanted(key) && !self.hurt.contains_key(key)).collect();
        // Without parity as it always was, so that a seed means the same life.
        let folders = ["packs/", "packs/", "snaps/", "index/", "keys/", "packs/", "snaps/", "parity/"];
        let folder = folders[dice.below(if self.config.parity > 0 { folders.len() } else { 5 })];
        let like: Vec<&(Key, Vec<u8>)> = whole.iter().filter(|(key, _)| key.as_str().starts_with(folder)).collect();
        let Some((key, bytes)) = dice.pick(&like).copied().cloned() else { return format!("nothing in {folder} to hurt") };
        if folder == "keys/" && !self.named().contains(key.as_str()) {
            return format!("{key} stays: no receipt says yet what it should be");
        }
        let is_signature = key.as_str().ends_with(".sig");
        let (now, how) = match dice.below(10) {
            // Some bits of a signature's text mean nothing, and a signature that is gone is a seal that was never done.
            _ if is_signature => ([&bytes[..bytes.len() / 2], b"*"].concat(), "cut".to_owned()),
            0..=4 => {
                let mut now = bytes.clone();
                let at = dice.below(now.len());
                now[at] ^= 1 << dice.below(8);
                (now, format!("flipped at {at} of {}", bytes.len()))
            }
            5 => {
                let len = dice.below(bytes.len());
                (bytes[..len].to_vec(), format!("cut to {len} of {}", bytes.len()))
            }
            6 => ([&bytes[..], b"\n"].concat(), "longer".to_owned()),
            7..=8 => {
                let others: Vec<_> = like.iter().filter(|(k, b)| k.as_str().ends_with(suffix(&key)) && *k != key && *b != bytes).collect();
                let same: Vec<_> = others.iter().filter(|(_, b)| b.len() == bytes.len()).copied().collect();
                let Some((other, theirs)) = dice.pick(if same.is_empty() { &others } else { &same }).map(|o| (o.0.clone(), o.1.clone()))
                else {
                    return "no pair".to_owned();
                };
                self.replace(&other, bytes.clone(), Some(theirs.clone()));
                (theirs, format!("swapped with {other}"))
            }
            _ if folder == "keys/" => return "keys stay".to_owned(),
            _ => {
                self.disk.delete(&key).unwrap();
                self.hurt.insert(key.clone(), Some(bytes));
                return format!("{key} deleted");
            }
        };
        self.replace(&key, now, Some(bytes));
        format!("{key} {how}")
    }

    fn replace(&mut self, key: &Key, now: Vec<u8>, before: Option<Vec<u8>>) {
        assert!(self.disk.damage(key, |bytes| *bytes = now));
        self.hurt.insert(key.clone(), before);
    }

    /// Everything that was hurt comes back, as from another copy. What was torn stays: no whole one ever was.
    pub fn heal(&mut self) {
        for (key, before) in std::mem::take(&mut self.hurt) {
            match before {
                Some(bytes) => {
                    self.disk.delete(&key).unwrap();
                    self.disk.put(&key, &bytes).unwrap();
                }
                None => drop(self.hurt.insert(key, None)),
            }
        }
    }

    /// Whether one of these objects is hurt.
    pub fn is_hurt(&self, paths: &[String]) -> bool {
        self.hurt.keys().any(|key| paths.iter().any(|path| path == key.as_str()))
    }

    /// Objects that signed receipts name, as far as those are whole: what verify has to answer for.
    pub fn named(&self) -> BTreeSet<String> {
        let mut named = BTreeSet::new();
        let whole = |key: &&SnapshotKey| !self.is_hurt(&[key.receipt(), key.signature()]);
        let newest: BTreeMap<&str, &SnapshotKey> = self.sealed.keys().filter(whole).map(|key| (key.sealer.as_str(), key)).collect();
        let disk = objects(&self.disk);
        for key in self.sealed.keys() {
            named.extend([key.receipt(), key.signature()]);
            if !whole(&key) {
                continue;
            }
            let text = String::from_utf8(disk[&Key::receipt(key)].clone()).unwrap();
            for path in text.lines().map(|line| line.split_once("  ").unwrap().1) {
                let lasting = ["packs/", "index/", "snaps/"].iter().any(|folder| path.starts_with(folder));
                if lasting || newest[key.sealer.as_str()] == key {
                    named.insert(path.to_owned());
                }
            }
        }
        // What an owner condemned is on its way out, and nobody's loss.
        let condemned: Vec<String> = disk
            .iter()
            .filter(|(key, _)| key.as_str().starts_with("gc/"))
            .map(|(_, bytes)| String::from_utf8_lossy(bytes).into_owned())
            .collect();
        named.retain(|path| !condemned.iter().any(|text| text.contains(path.as_str())));
        // A signature that was torn when it was written is there for all to see.
        let signatures = self.hurt.keys().filter(|key| key.as_str().ends_with(".sig") && !key.as_str().starts_with("parity/"));
        named.extend(signatures.map(Key::to_string));
        named
    }
}

/// What mends what.
impl World {
    /// Whether everything that is hurt and was whole once can be read all the same. False where that is not sure.
    pub fn mends_itself(&self) -> bool {
        self.config.parity > 0
            && self.hurt.iter().filter_map(|(key, before)| Some((key, before.as_ref()?))).all(|(key, before)| {
                // Nobody reads what lies beside an object that is whole.
                key.as_str().starts_with("parity/") || self.is_mendable(key, before, &self.disk)
            })
    }

    /// Whether this is a whole sidecar where another one was, and the pack that it should belong to is hurt as well: then nothing shows it.
    pub fn is_swapped_beside_damage(&self, key: &Key) -> bool {
        let of_hurt = self.hurt.keys().any(|pack| pack.sidecar().as_ref() == Some(key));
        of_hurt && get_all(&self.disk, key, 1 << 30).is_ok_and(|bytes| Sidecar::decode(&bytes).is_ok_and(|sidecar| sidecar.is_whole))
    }

    /// Whether what is left of an object in `disk`, and what lies beside it, are enough to have it back.
    fn is_mendable(&self, key: &Key, before: &[u8], disk: &Memory) -> bool {
        let disk = objects(disk);
        let Some(beside) = key.sidecar() else { return disk.get(&key.second()).is_some_and(|copy| copy == before) };
        let Some(bytes) = disk.get(&beside).filter(|_| !self.hurt.contains_key(&beside)) else { return false };
        let now = disk.get(key).map_or(&[][..], |now| now);
        let at = |bytes: &[u8], n: usize| bytes.get(n..(n + SHARD_LEN).min(before.len())).map(<[u8]>::to_vec);
        let bad = (0..before.len()).step_by(SHARD_LEN).filter(|n| at(now, *n) != at(before, *n)).count();
        Sidecar::decode(bytes).is_ok_and(|sidecar| sidecar.is_whole && bad <= sidecar.shape.recovery as usize)
    }

    /// What a repair has to bring back, with the help of `other`.
    pub fn can_be_repaired(&self, other: Option<&Memory>) -> BTreeMap<Key, Vec<u8>> {
        let named = self.named();
        let theirs = other.map(|other| objects(other)).unwrap_or_default();
        let hurt = self.hurt.iter().filter_map(|(key, before)| Some((key, before.as_ref()?)));
        let can = hurt.filter(|(key, before)| {
            let has_copy = theirs.get(*key) == Some(before) && (!key.as_str().ends_with(".sig") || self.config.parity > 0);
            named.contains(key.as_str()) && (has_copy || (self.config.parity > 0 && self.is_mendable(key, before, &self.disk)))
        });
        can.map(|(key, before)| (key.clone(), before.clone())).collect()
    }

    /// Holds a repair against what it had to do: everything in `must` is what it was; nothing else was made up, or is passed over in silence.
    pub fn take_repaired(&mut self, must: &BTreeMap<Key, Vec<u8>>, before: &BTreeMap<Key, Vec<u8>>, report: &repair::Report) {
        let now = objects(&self.disk);
        for (key, bytes) in must {
            assert!(now.get(key) == Some(bytes), "{key} could be repaired, and was not: {report:?}");
        }
        for (key, bytes) in now.iter().filter(|(key, _)| !key.as_str().starts_with("damaged/") && !key.as_str().starts_with("parity/")) {
            let was = self.hurt.get(key).and_then(Option::as_ref);
            assert!(before.get(key) == Some(bytes) || was == Some(bytes), "{key} holds what it never held");
        }
        self.hurt.retain(|key, before| {
            let (is, copied) = (now.get(key), key.as_str().strip_prefix("parity/").and_then(Key::parse));
            let is_whole_again = match (&before, copied) {
                (Some(before), _) if is == Some(before) => true,
                // What a torn copy should be, its object says.
                (None, Some(first)) => is.is_some_and(|is| Sidecar::decode(is).is_ok_and(|s| s.is_whole) || now.get(&first) == Some(is)),
                _ => false,
            };
            !is_whole_again
        });
        let named = self.named();
        let lost: BTreeSet<&str> = report.lost.iter().map(|f| f.object.trim_end_matches(".sig")).collect();
        for key in self.hurt.keys().filter(|key| named.contains(key.as_str()) && self.config.parity > 0) {
            assert!(
                lost.contains(key.as_str().trim_end_matches(".sig")),
                "{key} is still hurt, and the repair does not say so: {report:?}"
            );
        }
    }

    /// Whether verify has to speak of `key` as it lies beside something `named`; one that is gone costs only a chance.
    pub fn is_beside(&self, key: &Key, named: &BTreeSet<String>) -> bool {
        let first_is_hurt =
            || self.is_hurt(&[".sig", ""].map(|end| format!("{}{end}", key.as_str()["parity/".len()..].trim_end_matches(".sig"))));
        if !key.as_str().starts_with("parity/")
            || self.disk.stat(key).unwrap().is_none()
            || ([".sig", ".b3"].iter().any(|end| key.as_str().ends_with(end)) && first_is_hurt())
        {
            return false;
        }
        let packs = named.iter().filter_map(|path| Key::parse(path)?.sidecar());
        let first = key.as_str().strip_prefix("parity/").unwrap_or("");
        named.contains(first) || packs.into_iter().any(|beside| beside == *key)
    }

    /// Everything that receipts name can be mended, and nothing lies beside what is gone.
    pub fn assert_everything_is_twice(&self) {
        let (disk, named) = (objects(&self.disk), self.named());
        let beside = |path: &String| Key::parse(path).map(|key| key.sidecar().unwrap_or_else(|| key.second()));
        if self.config.parity > 0 {
            // A seal may have died just before it made the copy of its signature.
            let alone: Vec<_> =
                named.iter().filter(|path| !path.ends_with(".sig")).filter(|path| !disk.contains_key(&beside(path).unwrap())).collect();
            assert!(alone.is_empty(), "nothing can mend {alone:?}");
        }
        let firsts: BTreeSet<Key> = disk.keys().map(|key| key.sidecar().unwrap_or_else(|| key.second())).collect();
        let orphans: Vec<&Key> = disk.keys().filter(|key| key.as_str().starts_with("parity/") && !firsts.contains(key)).collect();
        assert!(orphans.is_empty(), "{orphans:?} lie beside nothing");
    }
}

fn suffix(key: &Key) -> &str {
    key.as_str().split_once('.').map_or("", |(_, suffix)| suffix)
}
