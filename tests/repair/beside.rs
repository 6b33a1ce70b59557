//! Prune, copy and audit know what lies beside objects.
#![allow(clippy::unwrap_used)] // a test may stop at the first surprise

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use coffre::{
    error::Result,
    event::Silent,
    format::Sidecar,
    ops::{audit, copy, forget, prune, repair::How, undelete, verify::Depth},
    store::{Key, Memory, Store, Upload},
    sys::{Calendar, Cancel, Clock, SystemClock},
    vault::{Finding, Journal, Selector},
};

use super::{
    assert_whole,
    common::library::{Host, copy_of, noise, objects, read_snapshot, write_files},
    repaired, subject,
};

/// Every object with what should lie beside it; fails if anything lies beside nothing, or an object has nothing.
#[track_caller]
fn assert_paired(store: &Memory) {
    let there: BTreeSet<Key> = objects(store).into_keys().filter(|key| !key.as_str().starts_with("damaged/")).collect();
    let (beside, firsts): (BTreeSet<Key>, BTreeSet<Key>) = there.into_iter().partition(|key| key.as_str().starts_with("parity/"));
    let wanted: BTreeSet<Key> = firsts.iter().map(|key| key.sidecar().unwrap_or_else(|| key.second())).collect();
    let (extra, lacking): (Vec<_>, Vec<_>) = (beside.difference(&wanted).collect(), wanted.difference(&beside).collect());
    assert!(extra.is_empty() && lacking.is_empty(), "lie beside nothing: {extra:?}; have nothing: {lacking:?}");
    for (key, bytes) in objects(store).iter().filter(|(key, _)| key.as_str().ends_with(".par")) {
        assert!(Sidecar::decode(bytes).unwrap().is_whole, "{key}");
    }
}

fn flip(store: &Memory, key: &Key) {
    store.damage(key, |bytes| {
        let at = bytes.len() / 3;
        bytes[at] ^= 1;
    });
}

fn forget(host: &Host, name: &str) {
    let options = forget::Options {
        policy: forget::Policy::default(),
        by: forget::GroupBy { host: true, paths: true, tags: false },
        named: vec![Selector::parse(name, 0).unwrap()],
        hosts: Vec::new(),
        calendar: Calendar::named("UTC").unwrap(),
        dry_run: false,
        force: true,
    };
    forget::run(&host.vault, &host.owner, host.clock.now_ns(), &options).unwrap();
}

fn prune(host: &Host, grace_secs: u64) -> prune::Report {
    let reader = host.reader();
    let context =
        prune::Context { vault: &host.vault, reader: &reader, clock: &host.clock, sink: &Silent, cancel: &host.cancel, workers: 1 };
    let options = prune::Options {
        max_unused_permille: 0,
        max_rewrite: None,
        repack_small: false,
        grace_secs,
        shorten: false,
        dry_run: false,
        force: false,
    };
    prune::run(&context, &options).unwrap()
}

#[test]
fn prune_deletes_what_lies_beside_and_makes_it_for_what_it_writes() {
    let subject = subject();
    let host = &subject.host;
    std::fs::remove_file(subject.root.join("a")).unwrap();
    write_files(&subject.root, &[("b", &[noise(500_000, 2), noise(100_000, 9)].concat())]);
    host.seal(&[&subject.root]).unwrap();
    assert_paired(&subject.store);
    let tree = host.read_latest(&subject.root);
    forget(host, "latest~1");
    forget(host, "latest~1");
    assert_paired(&subject.store);
    let before = objects(&subject.store);
    let report = prune(host, 0);
    assert!(report.deleted_objects >= 4 && report.written_objects >= 2, "{report:?}");
    assert_paired(&subject.store);
    let gone = before.keys().filter(|key| objects(&subject.store).contains_key(*key)).count();
    assert!(gone < before.len(), "something went");
    assert!(host.read_latest(&subject.root) == tree);
    let verified = host.assert_clean();
    assert_eq!(verified.unreferenced, 0);
    // What was written anew is mended like everything else; so are the records and lists below gc/.
    let whole = objects(&subject.store);
    for key in whole.keys().filter(|key| ["packs/", "gc/", "index/"].iter().any(|folder| key.as_str().starts_with(folder))) {
        let store = copy_of(&subject.store);
        flip(&store, key);
        let damaged = host.twin(Arc::new(store.clone()));
        let named: Vec<String> = damaged.verify(Depth::Packs).unwrap().damage.iter().map(|f| f.object.clone()).collect();
        assert_eq!(named, [key.to_string()]);
        let report = repaired(&store, &[]);
        assert_eq!((report.repaired.len(), &report.lost), (1, &Vec::new()), "{key}: {report:?}");
        assert_whole(&store, &whole, key.as_str());
        // One that is gone: records, lists and segments have a copy of all of them.
        if key.sidecar().is_none() {
            store.delete(key).unwrap();
            let report = repaired(&store, &[]);
            assert_eq!((report.repaired.len(), &report.lost), (1, &Vec::new()), "{key} gone: {report:?}");
            assert_whole(&store, &whole, key.as_str());
        }
    }
}

#[test]
fn what_is_forgotten_and_condemned_can_be_repaired_and_comes_back() {
    let subject = subject();
    let host = &subject.host;
    forget(host, "latest~1");
    prune(host, 86_400);
    assert_paired(&subject.store);
    let report = repaired(&subject.store, &[]);
    assert_eq!((report.repaired, report.lost), (Vec::new(), Vec::new()));
    let id = host.vault.snapshots_but(&host.owner, |_| false).unwrap().0[0].id;
    undelete::run(&host.vault, &host.owner, host.clock.now_ns(), &[id.to_string()]).unwrap();
    host.clock.ahead_ns.fetch_add(200_000 * 1_000_000_000, Ordering::SeqCst);
    prune(host, 86_400);
    assert_eq!(host.snapshots().len(), 2);
    assert_paired(&subject.store);
    host.assert_clean();
}

#[test]
fn a_copy_mends_itself_and_an_audit_knows_everything_in_it() {
    let subject = subject();
    write_files(&subject.root, &[("c", &noise(200_000, 4))]);
    subject.host.seal(&[&subject.root]).unwrap();
    forget(&subject.host, "latest~2");
    prune(&subject.host, 86_400);
    let copy = Memory::default();
    let (from, to): (Arc<dyn Store>, Arc<dyn Store>) = (Arc::new(subject.store.clone()), Arc::new(copy.clone()));
    let cancel = Cancel::default();
    let context = copy::Context { from: &from, to: &to, clock: &SystemClock, sink: &Silent, cancel: &cancel, workers: 2 };
    let report = copy::run(&context, &copy::Options { compare: true, ..copy::Options::default() }).unwrap();
    let whole = objects(&subject.store);
    assert_eq!((report.findings, report.objects, report.compared), (Vec::new(), whole.len() as u64, Some(whole.len() as u64)));
    assert!(objects(&copy) == whole);
    assert_paired(&copy);
    // What is condemned may be gone, so nothing is said of it.
    let condemned = |key: &Key| {
        let name = key.as_str().trim_start_matches("parity/").rsplit('/').next().unwrap().split('.').next().unwrap();
        let is_list = |list: &Key| list.as_str().starts_with("gc/") && list.as_str().ends_with(".b3");
        key.as_str().contains(".age") && whole.iter().any(|(list, text)| is_list(list) && String::from_utf8_lossy(text).contains(name))
    };
    for key in whole.keys().filter(|key| !condemned(key) && !condemned(&Key::fixed(key.as_str().replace(".par", ".age")))) {
        let hurt = copy_of(&copy);
        flip(&hurt, key);
        let report = repaired(&hurt, &[]);
        assert_eq!((report.repaired.len(), &report.lost), (1, &Vec::new()), "{key}: {report:?}");
        assert_whole(&hurt, &whole, key.as_str());
        // An audit says which object it is, one that lies beside another as well.
        flip(&hurt, key);
        let twin = subject.host.twin(Arc::new(hurt));
        let context = audit::Context {
            vault: &twin.vault,
            owner: None,
            state: &twin.state,
            expect: &[],
            clock: &SystemClock,
            sink: &Silent,
            cancel: &cancel,
            workers: 1,
        };
        let report = audit::run(&context).unwrap();
        let named: BTreeSet<&str> = report.findings.iter().map(|f| f.object.trim_end_matches(".sig")).collect();
        assert_eq!(named, BTreeSet::from([key.as_str().trim_end_matches(".sig")]), "{:?}", report.findings);
        assert_eq!(report.unreferenced, 0);
    }
}

#[test]
fn a_copy_of_some_snapshots_brings_nothing_that_lies_beside_others() {
    let subject = subject();
    let copy = Memory::default();
    let (from, to): (Arc<dyn Store>, Arc<dyn Store>) = (Arc::new(subject.store.clone()), Arc::new(copy.clone()));
    let cancel = Cancel::default();
    let context = copy::Context { from: &from, to: &to, clock: &SystemClock, sink: &Silent, cancel: &cancel, workers: 1 };
    let which = vec![copy::Which::parse("host1/1").unwrap()];
    copy::run(&context, &copy::Options { which, ..copy::Options::default() }).unwrap();
    assert_paired(&copy);
    let report = repaired(&copy, &[]);
    assert_eq!((report.repaired, report.lost), (Vec::new(), Vec::new()));
    // A repair brings back what is missing of it, with how.
    let manifest = Key::fixed("snaps/host1/0000000001.age");
    copy.delete(&manifest).unwrap();
    assert_eq!(repaired(&copy, &[]).repaired[0].how, How::Copy);
}

fn audited(host: &Host) -> Vec<Finding> {
    let (vault, cancel) = (&host.vault, Cancel::default());
    let context = audit::Context {
        vault,
        owner: None,
        state: &host.state,
        expect: &[],
        clock: &SystemClock,
        sink: &Silent,
        cancel: &cancel,
        workers: 1,
    };
    audit::run(&context).unwrap().findings
}

/// Objects that wait to be deleted, with what lies beside them.
fn waiting(host: &Host, store: &Memory) -> Vec<Key> {
    let journal = Journal::load(&host.vault, None).unwrap();
    let lines = journal.condemnations.iter().filter(|c| !c.settled).flat_map(|c| journal.condemned(&host.vault, c).unwrap());
    let keys = lines.filter_map(|line| Key::parse(&line.path)).flat_map(|key| [key.sidecar().unwrap_or_else(|| key.second()), key]);
    let there = objects(store);
    keys.filter(|key| there.contains_key(key)).collect()
}

// What is condemned was looked at by nobody: an undelete within its grace then brought back a snapshot that could not be read.
#[test]
fn what_waits_to_be_deleted_is_named_and_mended_while_an_undelete_needs_it() {
    let subject = subject();
    let host = &subject.host;
    write_files(&subject.root, &[("c", &noise(200_000, 4))]);
    std::fs::remove_file(subject.root.join("b")).unwrap();
    host.seal(&[&subject.root]).unwrap();
    forget(host, "latest~1");
    prune(host, 86_400);
    let whole = objects(&subject.store);
    let keys = waiting(host, &subject.store);
    for folder in ["packs/", "snaps/", "index/", "parity/"] {
        assert!(keys.iter().any(|key| key.as_str().starts_with(folder)), "nothing in {folder} waits: {keys:?}");
    }
    for key in &keys {
        let store = copy_of(&subject.store);
        flip(&store, key);
        let hurt = host.twin(Arc::new(store.clone()));
        let verified = hurt.verify_with(Depth::Packs, None).unwrap();
        for (who, found) in [("verify", verified.damage), ("audit", audited(&hurt))] {
            assert_eq!(found.iter().map(|f| f.object.as_str()).collect::<Vec<_>>(), [key.as_str()], "{who}");
            assert!(found[0].text.contains("waits to be deleted") && found[0].text.contains("undelete"), "{who}: {}", found[0].text);
        }
        let report = repaired(&store, &[]);
        assert_eq!((report.repaired.len(), &report.lost), (1, &Vec::new()), "{key}: {report:?}");
        assert_whole(&store, &whole, key.as_str());
        // A copy that never had it lacks nothing.
        store.delete(key).unwrap();
        assert_eq!((hurt.verify_with(Depth::Packs, None).unwrap().damage, audited(&hurt)), (Vec::new(), Vec::new()), "{key} is not there");
    }
    // All of them hurt, repaired, and asked for again.
    keys.iter().filter(|key| !key.as_str().starts_with("parity/")).for_each(|key| flip(&subject.store, key));
    repaired(&subject.store, &[]);
    let id = host.vault.snapshots_but(&host.owner, |_| false).unwrap().0[1].id;
    undelete::run(&host.vault, &host.owner, host.clock.now_ns(), &[id.to_string()]).unwrap();
    assert_eq!(host.snapshots().len(), 3);
    host.assert_clean();
    assert!(read_snapshot(&host.reader(), &host.snapshots()[1]).is_ok());
}

/// A store in which something happens before objects are read.
struct BeforeReads {
    inner: Memory,
    hook: Box<dyn Fn(&Key) + Send + Sync>,
}

impl Store for BeforeReads {
    fn put(&self, key: &Key, bytes: &[u8]) -> Result<()> {
        self.inner.put(key, bytes)
    }
    fn begin(&self) -> Result<Box<dyn Upload>> {
        self.inner.begin()
    }
    fn get(&self, key: &Key, offset: u64, buf: &mut [u8]) -> Result<()> {
        (self.hook)(key);
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

// A prune that carries on while an audit reads was taken for somebody who removes objects.
#[test]
fn an_audit_and_a_repair_while_a_prune_deletes_find_nothing_missing() {
    for step in [0, 1, 2, 3, 5, 8] {
        let subject = subject();
        write_files(&subject.root, &[("c", &noise(200_000, 4))]);
        std::fs::remove_file(subject.root.join("b")).unwrap();
        subject.host.seal(&[&subject.root]).unwrap();
        forget(&subject.host, "latest~1");
        prune(&subject.host, 60);
        subject.host.clock.ahead_ns.fetch_add(200_000 * 1_000_000_000, Ordering::SeqCst);
        // The prune runs in the middle of the audit: at its n-th read of a pack.
        let (count, going) = (AtomicU64::new(0), waiting(&subject.host, &subject.store));
        let (store, host) = (subject.store.clone(), Arc::new(subject.host));
        let pruner = host.clone();
        let hook = move |key: &Key| {
            if key.as_str().starts_with("packs/") && count.fetch_add(1, Ordering::SeqCst) == step {
                prune(&pruner, 60);
            }
        };
        let reader = host.twin(Arc::new(BeforeReads { inner: store.clone(), hook: Box::new(hook) }));
        assert_eq!(audited(&reader), [], "at read {step}");
        let after = objects(&store);
        let report = repaired(&store, &[]);
        assert_eq!((report.repaired, report.lost), (Vec::new(), Vec::new()), "at read {step}");
        let left: Vec<&Key> = going.iter().filter(|key| after.contains_key(*key)).collect();
        assert!(!going.is_empty() && (step > 3 || left.is_empty()), "the prune of step {step} left {left:?}");
    }
}
