//! Copies: what arrives, in which order, after which deaths; and what is refused.
#![allow(clippy::unwrap_used)] // a test may stop at the first surprise

mod common;

#[path = "copy/binary.rs"]
mod binary;
#[path = "copy/known.rs"]
mod known;

use std::{path::Path, sync::Arc};

use coffre::{
    error::{ErrorKind, Result},
    format::{Receipt, digest},
    ops::{copy, verify},
    store::{Fault, Faulty, Key, Local, Memory, Store, list_all},
    sys::Cancel,
    vault::{SealerKeys, Vault},
};
use common::library::{Host, TestClock, copy_of, keys, named, noise, objects, temp, write_files};

/// Two hosts, three and one snapshots: the first host's later ones need packs of its earlier ones.
fn two_hosts() -> (Host, tempfile::TempDir) {
    let (guard, dir) = temp();
    let host = Host::memory();
    let other = Host::with(host.vault.clone(), host.owner.clone(), host.vault.enrol(&host.owner, "host2").unwrap());
    write_files(&dir, &[("a/one", &noise(400_000, 1)), ("b/two", &noise(50_000, 2))]);
    host.seal(&[&dir]).unwrap();
    other.seal(&[&dir.join("b")]).unwrap();
    write_files(&dir, &[("a/three", &noise(700_000, 3))]);
    host.seal(&[&dir]).unwrap();
    write_files(&dir, &[("a/four", b"a small one")]);
    host.seal(&[&dir]).unwrap();
    (host, guard)
}

fn copy_with(from: &Arc<dyn Store>, to: &Arc<dyn Store>, options: &copy::Options) -> Result<copy::Report> {
    let (clock, told, cancel) = (TestClock::default(), std::sync::Mutex::default(), Cancel::default());
    let context = copy::Context { from, to, clock: &clock, sink: &told, cancel: &cancel, workers: 1 };
    copy::run(&context, options)
}

fn copy_to(host: &Host, to: &Arc<dyn Store>) -> Result<copy::Report> {
    copy_with(&host.vault.store, to, &copy::Options::default())
}

fn compare() -> copy::Options {
    copy::Options { compare: true, ..copy::Options::default() }
}

fn empty() -> Arc<dyn Store> {
    Arc::new(Memory::default())
}

/// The copy as a machine without any key sees it.
fn verified(host: &Host, store: &Arc<dyn Store>) -> verify::Report {
    let report = host.twin(store.clone()).verify_with(verify::Depth::Packs, None).unwrap();
    assert_eq!(report.damage, [], "{}", store.describe());
    report
}

#[test]
fn a_copy_holds_what_the_vault_holds_and_the_next_one_only_what_is_new() {
    let (host, dir) = two_hosts();
    let all = objects(&*host.vault.store);
    let (_guard, place) = temp();
    let stores: [Arc<dyn Store>; 2] = [empty(), Arc::new(Local::new(place.join("new/copy")))];
    for to in stores {
        let dry = copy_with(&host.vault.store, &to, &copy::Options { dry_run: true, ..Default::default() }).unwrap();
        assert!(list_all(&*to, "").unwrap().is_empty());
        let report = copy_to(&host, &to).unwrap();
        assert_eq!(objects(&*to), all);
        let bytes: u64 = all.values().map(|bytes| bytes.len() as u64).sum();
        assert_eq!((report.snapshots, report.objects, report.bytes, report.present), (4, all.len() as u64, bytes, 0));
        assert_eq!((dry.snapshots, dry.objects, dry.bytes), (report.snapshots, report.objects, report.bytes));
        assert_eq!(report.findings, []);
        host.twin(to.clone()).assert_clean();

        let again = copy_with(&host.vault.store, &to, &compare()).unwrap();
        assert_eq!(
            (again.objects, again.present, again.compared, &again.findings[..]),
            (0, all.len() as u64, Some(all.len() as u64), &[][..])
        );
    }
    let to = copy_of(&*host.vault.store);
    let to: Arc<dyn Store> = Arc::new(to);
    write_files(dir.path(), &[("five", &noise(90_000, 5))]);
    host.seal(&[dir.path()]).unwrap();
    let report = copy_to(&host, &to).unwrap();
    let new = objects(&*host.vault.store).len() - all.len();
    assert_eq!((report.snapshots, report.objects), (1, new as u64));
    assert_eq!(objects(&*to), objects(&*host.vault.store));
}

#[test]
fn a_copy_that_dies_at_any_call_is_a_valid_vault_and_goes_on_where_it_was() {
    let (host, _dir) = two_hosts();
    let all = objects(&*host.vault.store);
    let (mut seen, mut n) = (Vec::new(), 0);
    loop {
        let inner = Memory::default();
        let faulty = Arc::new(Faulty::new(inner.clone()));
        faulty.set(Some(Fault::CrashAfter(n)));
        let to: Arc<dyn Store> = faulty.clone();
        let died = copy_to(&host, &to);
        let store: Arc<dyn Store> = Arc::new(inner.clone());
        let before = objects(&inner);
        if inner.stat(&Key::fixed("VAULT")).unwrap().is_some() {
            let snapshots = verified(&host, &store).snapshots;
            let (listed, findings) = Vault::open(store.clone()).unwrap().snapshots(&host.owner).unwrap();
            assert_eq!((listed.len() as u64, &findings[..]), (snapshots, &[][..]), "died at call {n}");
            host.twin(store.clone()).assert_clean_after(&format!("died at call {n}"));
            seen.push(snapshots);
        }
        if died.is_ok() {
            break;
        }
        let report = copy_to(&host, &store).unwrap();
        assert_eq!(objects(&inner), all, "went on after call {n}");
        assert_eq!(report.objects as usize, all.len() - before.len(), "what was there was not carried again, after call {n}");
        n += 1;
    }
    assert!(n > 60, "only {n} calls");
    seen.dedup();
    assert_eq!(seen, [0, 1, 2, 3, 4], "one snapshot after the other");
}

#[test]
fn the_host_of_which_least_is_lacking_has_its_newest_snapshot_first() {
    let (host, _dir) = two_hosts();
    let to = Arc::new(Faulty::new(Memory::default()));
    let store: Arc<dyn Store> = to.clone();
    let small: u64 =
        objects(&*host.vault.store).iter().filter(|(key, _)| !key.as_str().starts_with("packs/")).map(|(_, b)| b.len() as u64).sum();
    // Room for all but the large pack of the first host's second snapshot.
    to.set(Some(Fault::FullAfter(small + 600_000)));
    assert_eq!(copy_to(&host, &store).unwrap_err().kind(), ErrorKind::Full);
    to.set(None);
    let names: Vec<String> = keys(&*store, "snaps/").iter().filter(|k| k.as_str().ends_with(".sig")).map(|k| k.to_string()).collect();
    assert!(names.contains(&"snaps/host2/0000000001.b3.sig".to_owned()) && names.len() < 4, "{names:?}");
    verified(&host, &store);
    copy_to(&host, &store).unwrap();
    assert_eq!(objects(&*store), objects(&*host.vault.store));
}

#[test]
fn what_is_no_copy_of_this_vault_is_refused_and_left_alone() {
    let (host, _dir) = two_hosts();
    let strange: Arc<dyn Store> = empty();
    strange.put(&Key::fixed("photo.jpg"), b"mine").unwrap();
    let same_name: Arc<dyn Store> = empty();
    same_name.put(&Key::fixed("README.txt"), b"mine").unwrap();
    let another = Host::memory().vault.store;
    let (_guard, place) = temp();
    std::fs::write(place.join("a file of mine"), b"mine").unwrap();
    let directory: Arc<dyn Store> = Arc::new(Local::new(&place));
    for to in [strange, same_name, another, directory] {
        let before = objects(&*to);
        let refused = copy_to(&host, &to).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Conflict, "{}", refused.chain());
        assert_eq!(objects(&*to), before);
    }
    let nothing = copy_with(&empty(), &empty(), &copy::Options::default()).unwrap_err();
    assert_eq!(nothing.kind(), ErrorKind::NoVault);
}

#[test]
fn damage_on_either_side_is_named_and_never_carried() {
    let (host, _dir) = two_hosts();
    let good: Arc<dyn Store> = Arc::new(copy_of(&*host.vault.store));
    let packs = keys(&*good, "packs/");
    let (hurt, lost, changed) = (&packs[0], &packs[1], &packs[2]);

    // The vault is damaged: everything else is carried.
    let vault = copy_of(&*good);
    assert!(vault.damage(hurt, |bytes| bytes[100] ^= 1));
    vault.delete(lost).unwrap();
    let (from, to): (Arc<dyn Store>, _) = (Arc::new(vault), empty());
    let report = copy_with(&from, &to, &copy::Options::default()).unwrap();
    assert_eq!(named(&report.findings), [hurt.as_str(), lost.as_str()].map(str::to_owned));
    let mut expected = objects(&*good);
    expected.retain(|key, _| key != hurt && key != lost);
    assert_eq!(objects(&*to), expected);
    // From a whole one the copy gets what it lacks, though it has all signatures.
    assert_eq!(copy_with(&good, &to, &copy::Options::default()).unwrap().objects, 2);
    assert_eq!(objects(&*to), objects(&*good));

    // The copy is damaged: said, by length at once, by content when both are read.
    let there = copy_of(&*good);
    assert!(there.damage(hurt, |bytes| bytes.truncate(10)) && there.damage(changed, |bytes| bytes[5] ^= 1));
    there.delete(lost).unwrap();
    let to: Arc<dyn Store> = Arc::new(there);
    let report = copy_with(&good, &to, &compare()).unwrap();
    assert_eq!((report.objects, named(&report.findings)), (1, vec![hurt.to_string(), changed.to_string()]));
    let text = &report.findings.iter().find(|f| f.object == changed.as_str()).unwrap().text;
    assert_eq!(text, "is damaged in the copy, and whole in the vault");
}

#[test]
fn two_copies_into_which_both_somebody_sealed_are_told_apart() {
    let (host, dir) = two_hosts();
    let to: Arc<dyn Store> = Arc::new(copy_of(&*host.vault.store));
    let fork = host.fork(to.clone());
    write_files(dir.path(), &[("here", b"here")]);
    host.seal(&[dir.path()]).unwrap();
    write_files(dir.path(), &[("there", b"there")]);
    fork.seal(&[dir.path()]).unwrap();
    let before = objects(&*to);
    let report = copy_to(&host, &to).unwrap();
    assert!(named(&report.findings).contains(&"snaps/host1/0000000004.b3".to_owned()), "{:?}", report.findings);
    for (key, bytes) in before {
        assert_eq!(objects(&*to).get(&key), Some(&bytes), "{key} is as it was");
    }
}

#[test]
fn only_the_snapshots_asked_for_come_with_what_they_build_on() {
    let (host, _dir) = two_hosts();
    let signed = |store: &Arc<dyn Store>| -> Vec<String> {
        keys(&**store, "snaps/")
            .iter()
            .filter_map(|k| k.as_str().strip_suffix(".b3.sig").map(|k| k[6..].replace("000000000", "")))
            .collect()
    };
    let id = host.snapshots().iter().find(|s| s.key.seq == 2).unwrap().id.to_string();
    let cases = [
        (vec!["host2".to_owned()], vec!["host2/1"]),
        (vec!["host1/2".to_owned()], vec!["host1/1", "host1/2"]),
        (vec![format!("id:{}", &id[..8])], vec!["host1/1", "host1/2"]),
        (vec!["host1/1".to_owned(), "host2/1".to_owned()], vec!["host1/1", "host2/1"]),
    ];
    for (which, expected) in cases {
        let options = copy::Options { which: which.iter().map(|w| copy::Which::parse(w).unwrap()).collect(), ..compare() };
        let to = empty();
        let report = copy_with(&host.vault.store, &to, &options).unwrap();
        assert_eq!(
            (signed(&to), report.snapshots as usize, &report.findings[..]),
            (expected.iter().map(|s| s.to_string()).collect(), expected.len(), &[][..])
        );
        verified(&host, &to);
        host.twin(to.clone()).assert_clean();
        assert!(objects(&*to).len() < objects(&*host.vault.store).len());
        // Later all of it.
        copy_to(&host, &to).unwrap();
        assert_eq!(objects(&*to), objects(&*host.vault.store));
    }
    for none in ["host3", "host1/9", "id:00000000"] {
        let options = copy::Options { which: vec![copy::Which::parse(none).unwrap()], ..Default::default() };
        assert_eq!(copy_with(&host.vault.store, &empty(), &options).unwrap_err().kind(), ErrorKind::NotFound, "{none}");
    }
    assert!(["", "host1/0", "host1/x", "id:1", "id:xyzw", "../x"].iter().all(|text| copy::Which::parse(text).is_none()));
}

#[test]
fn what_a_seal_left_unfinished_stays_behind_and_what_the_owner_decided_and_parity_come_along() {
    let (host, _dir) = two_hosts();
    let store = &host.vault.store;
    let all = objects(&**store);
    // A pack that no receipt names, and a receipt without a signature.
    let unfinished = Key::pack(&digest(b"unfinished"));
    store.put(&unfinished, b"unfinished").unwrap();
    store.put(&Key::fixed("snaps/host1/0000000009.b3"), b"x").unwrap();
    // An object that a prune deleted, what it wrote in its place, and the list of both.
    let (gone, fresh) = (keys(&**store, "packs/")[0].clone(), Key::pack(&digest(b"fresh")));
    store.put(&fresh, b"fresh").unwrap();
    store.delete(&gone).unwrap();
    let mut list = Receipt::default();
    list.push(gone.digest().unwrap(), gone.as_str());
    list.push(digest(b"fresh"), fresh.as_str());
    store.put(&Key::fixed("gc/0000000001.condemn.b3"), &list.encode()).unwrap();
    store.put(&Key::fixed("gc/0000000001.condemn.b3.sig"), b"signature").unwrap();
    let named = |digest: &str| Key::fixed(format!("parity/{}/{digest}.par", &digest[..2]));
    let sidecar = named(&fresh.digest().unwrap().to_string());
    store.put(&sidecar, b"parity").unwrap();
    store.put(&named(&unfinished.digest().unwrap().to_string()), b"parity").unwrap();
    store.put(&Key::fixed("parity/snaps/host1/0000000001.b3"), b"a second copy").unwrap();

    let to = empty();
    let report = copy_to(&host, &to).unwrap();
    assert_eq!(report.findings, [], "what was condemned is no loss");
    let mut expected = all;
    expected.remove(&gone);
    for key in [
        fresh,
        sidecar,
        Key::fixed("gc/0000000001.condemn.b3"),
        Key::fixed("gc/0000000001.condemn.b3.sig"),
        Key::fixed("parity/snaps/host1/0000000001.b3"),
    ] {
        let bytes = objects(&**store)[&key].clone();
        expected.insert(key, bytes);
    }
    assert_eq!(objects(&*to), expected);
}

/// A store from which a pack goes, properly condemned, the moment somebody wants to read it.
struct Pruning {
    inner: Memory,
    pack: Key,
}

impl Store for Pruning {
    fn put(&self, key: &Key, bytes: &[u8]) -> Result<()> {
        self.inner.put(key, bytes)
    }
    fn begin(&self) -> Result<Box<dyn coffre::store::Upload>> {
        self.inner.begin()
    }
    fn get(&self, key: &Key, offset: u64, buf: &mut [u8]) -> Result<()> {
        if *key == self.pack {
            let mut list = Receipt::default();
            list.push(key.digest().unwrap(), key.as_str());
            self.inner.put(&Key::fixed("gc/0000000001.condemn.b3"), &list.encode())?;
            self.inner.delete(key)?;
        }
        self.inner.get(key, offset, buf)
    }
    fn stat(&self, key: &Key) -> Result<Option<u64>> {
        self.inner.stat(key)
    }
    fn list(&self, prefix: &str, each: &mut dyn FnMut(Key, u64) -> Result<()>) -> Result<()> {
        self.inner.list(prefix, each)
    }
    fn delete(&self, key: &Key) -> Result<()> {
        self.inner.delete(key)
    }
    fn describe(&self) -> String {
        self.inner.describe()
    }
}

#[test]
fn a_prune_that_runs_meanwhile_is_followed() {
    let (host, _dir) = two_hosts();
    let pack = keys(&*host.vault.store, "packs/")[0].clone();
    let inner = copy_of(&*host.vault.store);
    let from: Arc<dyn Store> = Arc::new(Pruning { inner: inner.clone(), pack: pack.clone() });
    let to = empty();
    let report = copy_with(&from, &to, &copy::Options::default()).unwrap();
    assert_eq!((report.findings, report.snapshots), (vec![], 4));
    assert_eq!(objects(&*to), objects(&inner));
    assert!(to.stat(&pack).unwrap().is_none());
}

#[test]
fn a_host_that_is_enrolled_later_is_known_in_the_copy_before_its_snapshots() {
    let (host, dir) = two_hosts();
    let to: Arc<dyn Store> = Arc::new(copy_of(&*host.vault.store));
    let keys: SealerKeys = host.vault.enrol(&host.owner, "host3").unwrap();
    let third = Host::with(host.vault.clone(), host.owner.clone(), keys);
    third.seal(&[Path::new(dir.path())]).unwrap();
    copy_to(&host, &to).unwrap();
    assert_eq!(objects(&*to), objects(&*host.vault.store));
    verified(&host, &to);
}
