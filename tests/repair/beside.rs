//! Prune, copy and audit know what lies beside objects.
#![allow(clippy::unwrap_used)] // a test may stop at the first surprise

use std::{collections::BTreeSet, sync::Arc};

use coffre::{
    event::Silent,
    format::Sidecar,
    ops::{audit, copy, forget, prune, repair::How, undelete, verify::Depth},
    store::{Key, Memory, Store},
    sys::{Calendar, Cancel, Clock, SystemClock},
    vault::Selector,
};

use super::{
    assert_whole,
    common::library::{Host, copy_of, noise, objects, write_files},
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
    host.clock.ahead_ns.fetch_add(200_000 * 1_000_000_000, std::sync::atomic::Ordering::SeqCst);
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
