//! Damage that a vault mends by itself: every kind of object, hurt in every way, comes back byte for byte or is named.
#![allow(clippy::unwrap_used)] // a test may stop at the first surprise

#[path = "repair/beside.rs"]
mod beside;
#[path = "repair/binary.rs"]
mod binary;
mod common;
#[path = "repair/status.rs"]
mod status;
#[path = "repair/threads.rs"]
mod threads;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{Arc, Mutex},
};

use coffre::{
    event::{Event, Silent},
    format::{SHARD_LEN, Sidecar, digest},
    ops::{
        repair::{self, Context, How, Repaired, Scope},
        verify::Depth,
    },
    store::{Fault, Faulty, Key, Local, Memory, Store},
    sys::{Cancel, SystemClock},
    vault::{self, Vault, Way},
};
use common::library::{Hooked, Host, Tree, copy_of, identity, noise, objects, temp, write_files};
use proptest::prelude::*;

/// A vault with parity, of two snapshots, and what it holds.
struct Subject {
    _guard: tempfile::TempDir,
    host: Host,
    store: Memory,
    whole: BTreeMap<Key, Vec<u8>>,
    root: PathBuf,
    tree: Tree,
}

/// The lengths make data packs of 20 and of about 60 shards.
fn subject() -> Subject {
    let (guard, root) = temp();
    let store = Memory::default();
    let host = host_in(Arc::new(store.clone()));
    write_files(&root, &[("a", &noise(240_000, 1)), ("dir/inline", b"inline")]);
    host.seal(&[&root]).unwrap();
    write_files(&root, &[("b", &noise(900_000, 2))]);
    host.seal(&[&root]).unwrap();
    let tree = host.read_latest(&root);
    let whole = objects(&store);
    Subject { _guard: guard, host, store, whole, root, tree }
}

fn host_in(store: Arc<dyn Store>) -> Host {
    let made = vault::create_with(store, &[Way::Age(identity().to_public())], "host1", vault::Promise { parity: 5, lock_days: 0 }).unwrap();
    Host::with(made.vault, Arc::new(made.owner), made.sealer)
}

impl Subject {
    fn of_kind(&self, start: &str) -> Vec<Key> {
        self.whole.keys().filter(|key| key.as_str().starts_with(start)).cloned().collect()
    }

    /// The larger data pack.
    fn pack(&self) -> Key {
        self.of_kind("packs/").into_iter().max_by_key(|key| self.whole[key].len()).unwrap()
    }
}

fn repaired(store: &dyn StoreAndClone, from: &[Arc<dyn Store>]) -> repair::Report {
    let cancel = Cancel::default();
    let context = Context { store: store.shared(), from, owner: None, clock: &SystemClock, sink: &Silent, cancel: &cancel, workers: 1 };
    repair::run(&context, &Scope::Everything).unwrap()
}

trait StoreAndClone: Store {
    fn shared(&self) -> Arc<dyn Store>;
}

impl StoreAndClone for Memory {
    fn shared(&self) -> Arc<dyn Store> {
        Arc::new(self.clone())
    }
}

/// What is in a store, what repairs kept aside left out.
fn content(store: &dyn Store) -> BTreeMap<Key, Vec<u8>> {
    objects(store).into_iter().filter(|(key, _)| !key.as_str().starts_with("damaged/")).collect()
}

fn assert_whole(store: &Memory, whole: &BTreeMap<Key, Vec<u8>>, what: &str) {
    let now = content(store);
    let differing: Vec<&Key> =
        whole.keys().filter(|key| now.get(*key) != whole.get(*key)).chain(now.keys().filter(|k| !whole.contains_key(*k))).collect();
    assert!(differing.is_empty(), "{what}: {differing:?} differ");
}

#[test]
fn a_sound_vault_has_everything_twice_and_needs_no_repair() {
    let subject = subject();
    for key in subject.whole.keys().filter(|key| !key.as_str().starts_with("parity/")) {
        match key.sidecar() {
            Some(sidecar) => {
                let parsed = Sidecar::decode(&subject.whole[&sidecar]).unwrap();
                let shards = subject.whole[key].len().div_ceil(SHARD_LEN);
                assert!(parsed.is_whole, "{key}");
                assert_eq!(parsed.shape.recovery as usize, (shards * 5).div_ceil(100).max(2).min(shards), "{key}");
            }
            None => assert_eq!(subject.whole.get(&key.second()), Some(&subject.whole[key]), "{key}"),
        }
    }
    let report = repaired(&subject.store, &[]);
    assert_eq!((report.repaired, report.lost), (Vec::new(), Vec::new()));
    assert_whole(&subject.store, &subject.whole, "untouched");
    subject.host.assert_clean();
}

type Hurt = (&'static str, fn(&mut Vec<u8>));

const HURTS: [Hurt; 5] = [
    ("flipped", |bytes| {
        let at = bytes.len() / 2;
        bytes[at] ^= 0x20;
    }),
    ("first byte flipped", |bytes| bytes[0] ^= 1),
    ("cut by a byte", |bytes| bytes.truncate(bytes.len() - 1)),
    ("longer", |bytes| bytes.extend_from_slice(b"more")),
    ("last byte flipped", |bytes| *bytes.last_mut().unwrap() ^= 0x80),
];

#[test]
fn every_object_hurt_in_one_place_comes_back_and_what_stood_there_is_kept() {
    let subject = subject();
    for (key, bytes) in &subject.whole {
        for (what, hurt) in &HURTS {
            let store = copy_of(&subject.store);
            let mut now = bytes.clone();
            hurt(&mut now);
            store.damage(key, |there| there.clone_from(&now));
            let report = repaired(&store, &[]);
            assert_whole(&store, &subject.whole, &format!("{key} {what}"));
            assert_eq!(report.lost, [], "{key} {what}");
            let [Repaired { object, how, aside: Some(aside) }] = &report.repaired[..] else { panic!("{key} {what}: {report:?}") };
            let wanted = match () {
                () if key.as_str().starts_with("parity/") => How::Again,
                () if key.sidecar().is_some() => How::Parity,
                () => How::Copy,
            };
            assert_eq!((object.as_str(), *how), (key.as_str(), wanted), "{what}");
            assert_eq!(objects(&store)[&Key::parse(aside).unwrap()], now, "{key} {what}");
        }
    }
}

#[test]
fn an_object_that_is_gone_comes_back_if_it_has_a_copy() {
    let subject = subject();
    for key in subject.whole.keys() {
        let store = copy_of(&subject.store);
        store.delete(key).unwrap();
        let report = repaired(&store, &[]);
        // A pack of two shards has two recovery shards; a longer one needs another copy of the vault.
        if key.sidecar().is_some_and(|s| Sidecar::decode(&subject.whole[&s]).unwrap().shape.data() > 2) {
            assert_eq!(report.lost.iter().map(|f| f.object.as_str()).collect::<Vec<_>>(), [key.as_str()]);
            let report = repaired(&store, &[Arc::new(copy_of(&subject.store))]);
            assert_eq!(report.repaired, [Repaired { object: key.to_string(), how: How::Other, aside: None }]);
        } else {
            assert_eq!((report.repaired.len(), &report.lost), (1, &Vec::new()), "{key}: {report:?}");
        }
        assert_whole(&store, &subject.whole, key.as_str());
        assert!(!objects(&store).keys().any(|k| k.as_str().starts_with("damaged/")), "there was nothing to keep");
    }
}

#[test]
fn a_pack_and_its_sidecar_are_both_hurt_and_both_come_back() {
    let subject = subject();
    let pack = subject.pack();
    let sidecar = pack.sidecar().unwrap();
    for at in [0, 40, subject.whole[&sidecar].len() / 2, subject.whole[&sidecar].len() - 1] {
        let store = copy_of(&subject.store);
        store.damage(&pack, |bytes| bytes[5 * SHARD_LEN + 7] ^= 4);
        store.damage(&sidecar, |bytes| bytes[at] ^= 4);
        let report = repaired(&store, &[]);
        assert_whole(&store, &subject.whole, &format!("byte {at} of the sidecar"));
        assert_eq!(report.repaired.iter().map(|r| r.how).collect::<BTreeSet<_>>(), BTreeSet::from([How::Parity, How::Again]));
    }
}

#[test]
fn damage_beyond_the_budget_is_named_and_nothing_is_touched_until_another_copy_helps() {
    let subject = subject();
    let pack = subject.pack();
    let (store, other) = (copy_of(&subject.store), copy_of(&subject.store));
    for (store, shards) in [(&store, [1, 5, 9, 13, 17]), (&other, [1, 5, 9, 13, 18])] {
        store.damage(&pack, |bytes| shards.iter().for_each(|n| bytes[n * SHARD_LEN] ^= 1));
    }
    let before = objects(&store);
    let report = repaired(&store, &[]);
    assert_eq!(report.lost.iter().map(|f| f.object.as_str()).collect::<Vec<_>>(), [pack.as_str()]);
    assert!(report.lost[0].text.contains("5 of its"), "{:?}", report.lost);
    assert_eq!(objects(&store), before);
    // A copy that is as damaged as this one does not help, a damaged one that can mend itself does.
    assert_eq!(repaired(&store, &[Arc::new(other.clone())]).lost.len(), 1);
    // Three copies, each beyond mending and each elsewhere, are put together: four shards are bad in all of two, two in all of three.
    let third = copy_of(&subject.store);
    third.damage(&pack, |bytes| [1, 5, 20, 21, 22].iter().for_each(|n| bytes[n * SHARD_LEN] ^= 1));
    third.damage(&pack.sidecar().unwrap(), |bytes| bytes.truncate(40));
    let together = copy_of(&store);
    let report = repaired(&together, &[Arc::new(other.clone()), Arc::new(third)]);
    assert_eq!((report.lost, report.repaired.iter().map(|r| r.how).collect::<Vec<_>>()), (vec![], vec![How::Other]));
    assert_whole(&together, &subject.whole, "from three copies");
    other.damage(&pack, |bytes| [5, 9, 13].iter().for_each(|n| bytes[n * SHARD_LEN] ^= 1));
    assert_eq!(repaired(&store, &[Arc::new(other)]).lost, []);
    assert_whole(&store, &subject.whole, "from a damaged copy");
}

#[test]
fn a_copy_of_another_vault_is_refused() {
    let (subject, other) = (subject(), Host::memory());
    let cancel = Cancel::default();
    let from = [other.vault.store.clone()];
    let context = Context {
        store: subject.store.shared(),
        from: &from,
        owner: None,
        clock: &SystemClock,
        sink: &Silent,
        cancel: &cancel,
        workers: 1,
    };
    let e = repair::run(&context, &Scope::Everything).unwrap_err();
    assert!(e.chain().contains("another vault"), "{}", e.chain());
}

#[test]
fn a_reader_mends_in_memory_says_so_once_and_writes_nothing() {
    let subject = subject();
    for pack in subject.of_kind("packs/") {
        subject.store.damage(&pack, |bytes| {
            let at = bytes.len() / 2;
            bytes[at] ^= 1;
            bytes[at / 2] ^= 1;
        });
    }
    let before = objects(&subject.store);
    let told = Arc::new(Mutex::new(Vec::new()));
    let reader = subject.host.reader();
    reader.tell(told.clone());
    for _ in 0..2 {
        let snapshot = subject.host.latest();
        let tree = common::library::below(&common::library::read_snapshot(&reader, &snapshot).unwrap(), &subject.root);
        assert!(tree == subject.tree, "what is read is what was sealed");
    }
    let told = told.lock().unwrap();
    let packs: BTreeSet<String> = told
        .iter()
        .map(|e| match e {
            Event::Warning(text) => text.split(' ').next().unwrap().to_owned(),
            e => panic!("{e:?}"),
        })
        .collect();
    assert_eq!(packs.len(), told.len(), "each pack once: {told:?}");
    assert!(packs.len() >= 2, "{told:?}");
    assert_eq!(objects(&subject.store), before);
}

#[test]
fn small_objects_are_read_from_their_second_copies() {
    let subject = subject();
    for start in ["snaps/", "index/", "signers/", "keys/"] {
        for key in subject.of_kind(start) {
            let store = copy_of(&subject.store);
            store.damage(&key, |bytes| bytes[7] ^= 1);
            let host = subject.host.twin(Arc::new(store));
            let (snapshots, _) = host.vault.snapshots(&host.owner).unwrap();
            assert_eq!(snapshots.len(), 2, "{key}");
            let tree = common::library::read_snapshot(&host.reader(), &snapshots[1]).unwrap();
            assert!(common::library::below(&tree, &subject.root) == subject.tree, "{key}");
        }
    }
}

#[test]
fn on_a_disk_the_damaged_object_is_replaced_at_once() {
    let (_guard, dir) = temp();
    let (_source, root) = temp();
    let host = host_in(Arc::new(Local::new(dir.join("vault"))));
    write_files(&root, &[("a", &noise(400_000, 1))]);
    host.seal(&[&root]).unwrap();
    let store = host.vault.store.clone();
    let whole = objects(&*store);
    for key in whole.keys() {
        let path = dir.join("vault").join(key.as_str());
        let mut bytes = whole[key].clone();
        bytes[11] ^= 1;
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, &bytes).unwrap();
        let cancel = Cancel::default();
        let context =
            Context { store: store.clone(), from: &[], owner: None, clock: &SystemClock, sink: &Silent, cancel: &cancel, workers: 1 };
        let report = repair::run(&context, &Scope::Everything).unwrap();
        assert_eq!(report.repaired.len(), 1, "{key}");
        assert!(content(&*store) == whole, "{key}");
        assert_eq!(std::fs::read(dir.join("vault/damaged").join(key.as_str())).unwrap(), bytes);
    }
    assert!(host.verify(Depth::Chunks).unwrap().is_clean());
}

/// A repair that dies at any call of a store that replaces step by step is taken up by the next one.
#[test]
fn a_repair_that_dies_is_taken_up_by_the_next() {
    let subject = subject();
    let (pack, manifest) = (subject.pack(), subject.of_kind("snaps/").remove(0));
    for n in 0.. {
        let store = copy_of(&subject.store);
        store.damage(&pack, |bytes| bytes[SHARD_LEN * 3] ^= 1);
        store.damage(&manifest, |bytes| bytes[9] ^= 1);
        let faulty = Arc::new(Faulty::new(store.clone()));
        faulty.set(Some(Fault::CrashAt(n)));
        // This one has no `replace` of its own.
        let by_steps = Arc::new(Hooked { inner: faulty, prefix: "", suffix: "", hook: Mutex::default() });
        let cancel = Cancel::default();
        let context = Context { store: by_steps, from: &[], owner: None, clock: &SystemClock, sink: &Silent, cancel: &cancel, workers: 1 };
        let died = repair::run(&context, &Scope::Everything).is_err();
        assert_eq!(repaired(&store, &[]).lost, [], "died at call {n}");
        assert_whole(&store, &subject.whole, &format!("died at call {n}"));
        if !died {
            assert!(n > 50, "{n} calls");
            break;
        }
    }
}

// The second one found that the first had kept the damaged object already, and gave up with `File exists`.
#[test]
fn two_repairs_at_once_both_succeed() {
    let subject = subject();
    for round in 0..10 {
        let (_guard, dir) = temp();
        let store: Arc<dyn Store> = Arc::new(Local::new(dir.join("vault")));
        for (key, bytes) in &subject.whole {
            let mut bytes = bytes.clone();
            if ["packs/", "snaps/", "index/"].iter().any(|folder| key.as_str().starts_with(folder)) {
                let at = bytes.len() / 2;
                bytes[at] ^= 4;
            }
            store.put(key, &bytes).unwrap();
        }
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let cancel = Cancel::default();
                    let context = Context {
                        store: store.clone(),
                        from: &[],
                        owner: None,
                        clock: &SystemClock,
                        sink: &Silent,
                        cancel: &cancel,
                        workers: 2,
                    };
                    assert_eq!(repair::run(&context, &Scope::Everything).unwrap().lost, [], "round {round}");
                });
            }
        });
        assert!(content(&*store) == subject.whole, "round {round}");
    }
}

#[test]
fn a_vault_without_its_first_file_is_not_taken_for_none() {
    let subject = subject();
    let key = Key::fixed("VAULT");
    let opened = |store: &Memory| Vault::open(Arc::new(store.clone()));
    let hurts: [fn(&Memory, &Key); 2] =
        [|store, key| store.delete(key).unwrap(), |store, key| assert!(store.damage(key, |bytes| bytes.clear()))];
    for hurt in hurts {
        let store = copy_of(&subject.store);
        hurt(&store, &key);
        assert_eq!(opened(&store).unwrap().config.id, opened(&subject.store).unwrap().config.id);
        store.delete(&key.second()).unwrap();
        assert!(opened(&store).is_err());
    }
}

/// What a repair may leave of a pack: what it was, or, beyond the budget, what it is.
fn is_honest(store: &Memory, whole: &BTreeMap<Key, Vec<u8>>, hurt: &BTreeMap<Key, Vec<u8>>) -> Result<(), TestCaseError> {
    for (key, now) in content(store) {
        prop_assert!(whole.get(&key) == Some(&now) || hurt.get(&key) == Some(&now), "{} holds bytes that it never had", key);
        if key.sidecar().is_some() && whole.get(&key) == Some(&now) {
            prop_assert_eq!(Some(digest(&now)), key.digest());
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    /// Any bytes of a pack and its sidecar: within the budget it comes back, beyond it nothing is made up.
    #[test]
    fn random_damage_is_mended_or_left(
        places in proptest::collection::vec((any::<u32>(), 1u8..), 0..7),
        beside in proptest::collection::vec((any::<u32>(), 1u8..), 0..3),
        cut in 0usize..4 * SHARD_LEN,
        cuts: bool,
    ) {
        let subject = SUBJECT.with(|s| s.clone());
        let (store, pack) = (copy_of(&subject.store), subject.pack());
        let sidecar = pack.sidecar().unwrap();
        store.damage(&pack, |bytes| {
            places.iter().for_each(|(at, by)| { let at = *at as usize % bytes.len(); bytes[at] ^= by; });
            if cuts { bytes.truncate(bytes.len() - cut); }
        });
        store.damage(&sidecar, |bytes| beside.iter().for_each(|(at, by)| { let at = *at as usize % bytes.len(); bytes[at] ^= by; }));
        let hurt = objects(&store);
        let (whole, now) = (&subject.whole[&pack], &hurt[&pack]);
        let shape = Sidecar::decode(&subject.whole[&sidecar]).unwrap().shape;
        let bad = (0..whole.len()).step_by(SHARD_LEN).filter(|at| now.get(*at..(at + SHARD_LEN).min(whole.len())) != Some(&whole[*at..(at + SHARD_LEN).min(whole.len())])).count();
        let usable = Sidecar::decode(&hurt[&sidecar]).map_or(0, |s| (0..shape.recovery).filter(|n| s.recovery(*n).is_some()).count());
        let report = repaired(&store, &[]);
        is_honest(&store, &subject.whole, &hurt)?;
        if bad <= usable {
            prop_assert_eq!(&report.lost, &Vec::new());
            prop_assert!(content(&store) == subject.whole);
        } else {
            prop_assert_eq!(report.lost.len(), 1);
        }
    }
}

thread_local! {
    static SUBJECT: std::rc::Rc<Subject> = std::rc::Rc::new(subject());
}
