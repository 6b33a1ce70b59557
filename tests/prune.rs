//! Prune: what is wanted stays, whoever is at work and whoever dies; what is not goes, later, and not before everybody knows.
#![allow(clippy::unwrap_used)] // a test may stop at the first surprise

mod common;
#[path = "prune/figures.rs"]
mod figures;
#[path = "prune/owners.rs"]
mod owners;
#[path = "prune/plans.rs"]
mod plans;
#[path = "prune/processes.rs"]
mod processes;
#[path = "prune/room.rs"]
mod room;
#[path = "prune/sim.rs"]
mod sim;
#[path = "prune/steps.rs"]
mod steps;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::atomic::Ordering,
};

use coffre::{
    error::{ErrorKind, Result},
    format::SnapshotId,
    ops::{
        forget,
        prune::{self, Options, Report},
        undelete, verify,
    },
    store::{self, Key},
    sys::{Calendar, Clock},
    vault::{Journal, Selector},
};
use common::library::{Host, Tree, assert_same, keys, noise, read_snapshot, temp, write_files};

const DAY: i64 = 86_400_000_000_000;

/// As a person prunes who says nothing, but for the grace.
fn options(grace_secs: u64) -> Options {
    Options { max_unused_permille: 50, max_rewrite: None, repack_small: false, grace_secs, shorten: false, dry_run: false, force: false }
}

fn prune(host: &Host, options: &Options) -> Result<Report> {
    let reader = host.reader();
    prune::run(&context(host, &reader), options)
}

fn context<'a>(host: &'a Host, reader: &'a coffre::vault::Reader) -> prune::Context<'a> {
    prune::Context { vault: &host.vault, reader, clock: &host.clock, sink: &host.told, cancel: &host.cancel, workers: host.workers }
}

/// Forgets the snapshots that these names mean, whatever the clock says.
fn forget(host: &Host, names: &[&str]) -> Result<forget::Report> {
    let options = forget::Options {
        policy: forget::Policy::default(),
        by: forget::GroupBy { host: true, paths: true, tags: false },
        named: names.iter().map(|name| Selector::parse(name, 0).unwrap()).collect(),
        hosts: Vec::new(),
        calendar: Calendar::named("UTC").unwrap(),
        dry_run: false,
        force: true,
    };
    forget::run(&host.vault, &host.owner, host.clock.now_ns(), &options)
}

/// What every wanted snapshot holds.
fn all(host: &Host) -> BTreeMap<SnapshotId, Tree> {
    let reader = host.reader();
    host.snapshots().iter().map(|s| (s.id, read_snapshot(&reader, s).unwrap_or_else(|e| panic!("{}: {}", s.key, e.chain())))).collect()
}

/// Fails unless every snapshot of `expected` is there, byte for byte, and nothing else is.
fn assert_all(host: &Host, expected: &BTreeMap<SnapshotId, Tree>, what: &str) {
    let got = all(host);
    assert_eq!(got.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "{what}: snapshots");
    got.iter().for_each(|(id, tree)| assert_same(tree, &expected[id], what));
}

fn bytes_of(host: &Host, folder: &str) -> u64 {
    store::list_all(&*host.vault.store, folder).unwrap().iter().map(|(_, len)| len).sum()
}

/// Four days of a tree: something stays, something changes in part, something is there for a day only.
fn day(root: &Path, n: u64) {
    write_files(root, &[("stays/big", &noise(200_000, 1)), ("stays/small", b"inline")]);
    // So many that what goes and comes looks like no attack.
    for i in 0..36 {
        write_files(root, &[(&format!("stays/many/{i}"), format!("number {i}").as_bytes())]);
    }
    let mut half = noise(150_000, 2);
    half.extend(noise(150_000, 100 + n));
    write_files(root, &[("changes/half", &half), ("changes/text", format!("day {n}").as_bytes())]);
    for old in fs::read_dir(root.join("days")).into_iter().flatten() {
        fs::remove_dir_all(old.unwrap().path()).unwrap();
    }
    for i in 0..16 {
        let path = format!("days/{n}/{i}");
        write_files(root, &[(&path, &noise(3_000 + 100 * i as usize, 1000 * n + i))]);
    }
    write_files(root, &[(&format!("days/{n}/all"), &noise(100_000, 500 + n))]);
}

/// A vault with the snapshots of `n` days.
fn vault(n: u64) -> (tempfile::TempDir, PathBuf, Host) {
    let (guard, root) = temp();
    let host = Host::memory();
    for i in 0..n {
        day(&root, i);
        host.seal(&[&root]).unwrap();
    }
    (guard, root, host)
}

#[test]
fn what_is_condemned_is_deleted_after_its_grace_and_not_before_every_sealer_knows() {
    let (_guard, root, host) = vault(4);
    let before = all(&host);
    forget(&host, &["latest~1", "latest~2", "latest~3"]).unwrap();
    let newest: BTreeMap<_, _> = before.iter().filter(|(id, _)| **id == host.latest().id).map(|(id, tree)| (*id, tree.clone())).collect();
    let (packs, total) = (keys(&*host.vault.store, "packs/"), bytes_of(&host, "packs"));

    let dry = prune(&host, &Options { dry_run: true, ..options(14 * 86_400) }).unwrap();
    assert!(dry.record.is_none() && dry.plan.bytes_won > 0 && dry.forgotten == 3, "{dry:?}");
    assert_eq!(dry.plan.bytes_before, total);
    assert!(store::list_all(&*host.vault.store, "gc").unwrap().len() == 2, "a dry run writes nothing");

    let first = prune(&host, &options(14 * 86_400)).unwrap();
    assert_eq!((first.plan.clone(), first.deleted_objects), (dry.plan, 0), "done as planned");
    assert!(packs.iter().all(|pack| keys(&*host.vault.store, "packs/").contains(pack)), "nothing is deleted yet");
    host.assert_clean_after("condemned");
    assert_all(&host, &newest, "condemned");

    // Nothing is condemned twice, and nothing happens before the time is over.
    host.clock.ahead_ns.fetch_add(13 * DAY, Ordering::SeqCst);
    let early = prune(&host, &options(14 * 86_400)).unwrap();
    assert!(early.record.is_none() && early.deleted_objects == 0 && early.waiting.len() == 1, "{early:?}");
    assert!(early.waiting[0].reasons[0].contains("grace"), "{early:?}");

    // The sealer knows: its receipt names the record.
    host.seal(&[&root]).unwrap();
    let record = first.record.unwrap();
    let receipt = store::get_all(&*host.vault.store, &Key::receipt(&host.latest().key), 1 << 20).unwrap();
    assert!(String::from_utf8(receipt).unwrap().contains(&format!("gc/{record}.txt")));
    let newest = all(&host);

    host.clock.ahead_ns.fetch_add(2 * DAY, Ordering::SeqCst);
    let second = prune(&host, &options(14 * 86_400)).unwrap();
    assert_eq!((second.deleted_objects, second.deleted_bytes), (first.condemned_objects, first.condemned_bytes));
    assert_eq!(second.settled, [record]);
    assert!(second.plan.unused_before * 20 <= second.plan.bytes_before, "at most 5 % unused: {:?}", second.plan);
    let left = bytes_of(&host, "packs");
    assert!(left.abs_diff(first.plan.bytes_after) * 10 < left, "{left} bytes are left, {} were planned", first.plan.bytes_after);
    host.assert_clean_after("deleted");
    assert_all(&host, &newest, "deleted");
    let refused = undelete::run(&host.vault, &host.owner, 0, &[before.keys().find(|id| !newest.contains_key(id)).unwrap().to_string()]);
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::NotFound);
    // The catalog followed: an unchanged tree costs nothing, and what is sealed next reads back.
    assert_eq!(host.seal(&[&root]).unwrap().files_read, 0);
    day(&root, 9);
    host.seal(&[&root]).unwrap();
    host.assert_clean_after("sealed on");
    let lost_catalog = host.twin(host.vault.store.clone());
    day(&root, 8);
    lost_catalog.seal(&[&root]).unwrap();
    host.assert_clean_after("sealed by a host without memory");
}

#[test]
fn undelete_brings_back_everything_until_deletion() {
    let (_guard, _, host) = vault(3);
    let before = all(&host);
    let oldest = host.snapshots()[0].id.to_string();
    forget(&host, &["latest~1", "latest~2"]).unwrap();
    prune(&host, &options(86_400)).unwrap();
    undelete::run(&host.vault, &host.owner, 0, &[oldest]).unwrap();
    let wanted: BTreeMap<_, _> = host.snapshots().iter().map(|s| (s.id, before[&s.id].clone())).collect();
    assert_eq!(wanted.len(), 2);
    assert_all(&host, &wanted, "back");
    host.assert_clean_after("back");
    host.clock.ahead_ns.fetch_add(3 * DAY, Ordering::SeqCst);
    let report = prune(&host, &options(86_400)).unwrap();
    assert!(report.spared_objects > 0 && report.deleted_objects > 0, "{report:?}");
    assert_all(&host, &wanted, "after deletion");
    host.assert_clean_after("after deletion");
    // And judged anew: what was spared and is sparse is written anew.
    for _ in 0..2 {
        host.clock.ahead_ns.fetch_add(3 * DAY, Ordering::SeqCst);
        prune(&host, &Options { max_unused_permille: 0, ..options(0) }).unwrap();
    }
    assert_all(&host, &wanted, "pressed");
    host.assert_clean_after("pressed");
    let last = prune(&host, &Options { dry_run: true, ..options(0) }).unwrap();
    assert!(last.plan.unused_before * 20 <= last.plan.bytes_before, "{:?}", last.plan);
}

#[test]
fn a_sealer_that_does_not_say_that_it_knows_is_waited_for() {
    let (_guard, root, host) = vault(3);
    forget(&host, &["latest~1", "latest~2"]).unwrap();
    // A seal that reads gc/ before the record comes, and ends after it: one that runs an old version would do the same.
    let old = common::library::copy_of(&*host.vault.store);
    let behind = host.fork(std::sync::Arc::new(old.clone()));
    prune(&host, &options(60)).unwrap();
    host.clock.ahead_ns.fetch_add(DAY / 24, Ordering::SeqCst);
    day(&root, 7);
    behind.clock.ahead_ns.store(host.clock.ahead_ns.load(Ordering::SeqCst), Ordering::SeqCst);
    behind.seal(&[&root]).unwrap();
    for (key, bytes) in common::library::objects(&old) {
        host.vault.store.put(&key, &bytes).unwrap();
    }
    let expected = all(&host);
    host.clock.ahead_ns.fetch_add(3 * DAY, Ordering::SeqCst);
    let report = prune(&host, &options(60)).unwrap();
    assert_eq!(report.deleted_objects, 0);
    assert!(report.waiting.iter().any(|w| w.reasons.iter().any(|r| r.starts_with("host1: "))), "{:?}", report.waiting);
    // Even when forced, what that snapshot needs is spared.
    let forced = prune(&host, &Options { force: true, ..options(60) }).unwrap();
    assert!(forced.deleted_objects > 0, "{forced:?}");
    assert_all(&host, &expected, "forced");
    host.assert_clean_after("forced");
}

#[test]
fn what_a_dead_seal_left_goes_when_it_is_old() {
    use coffre::store::{Fault, Faulty};
    let (_guard, root, first) = vault(1);
    day(&root, 5);
    let calls = {
        let probe = std::sync::Arc::new(Faulty::new(common::library::copy_of(&*first.vault.store)));
        first.twin(probe.clone()).seal(&[&root]).unwrap();
        probe.calls()
    };
    // It dies between its packs and its receipt, and its state directory with it.
    let inner = common::library::copy_of(&*first.vault.store);
    let faulty = std::sync::Arc::new(Faulty::new(inner.clone()));
    faulty.set(Some(Fault::CrashAt(calls - 2)));
    first.twin(faulty).seal(&[&root]).unwrap_err();
    let host = first.twin(std::sync::Arc::new(inner));
    let expected = all(&host);
    let first = prune(&host, &options(0)).unwrap();
    assert!(first.loose.objects > 1 && first.deleted_objects == 0, "{first:?}");
    let again = prune(&host, &options(0)).unwrap();
    assert_eq!((again.record, again.loose.objects), (None, first.loose.objects), "it is not old yet");
    host.clock.ahead_ns.fetch_add(2 * DAY, Ordering::SeqCst);
    let late = prune(&host, &options(0)).unwrap();
    assert_eq!((late.condemned_objects, late.condemned_bytes), (first.loose.objects, first.loose.bytes), "{late:?}");
    // The manifest without a receipt might be a seal that is about to end, and has not seen this.
    assert!(late.deleted_objects == 0 && late.waiting[0].reasons[0].contains("at work"), "{late:?}");
    host.clock.ahead_ns.fetch_add(2 * DAY, Ordering::SeqCst);
    let last = prune(&host, &options(0)).unwrap();
    assert_eq!((last.deleted_objects, last.deleted_bytes), (first.loose.objects, first.loose.bytes), "{last:?}");
    assert_eq!(prune(&host, &options(0)).unwrap().loose.objects, 0);
    assert_all(&host, &expected, "cleared");
    host.assert_clean_after("cleared");
}

#[test]
fn only_an_owner_prunes_and_not_on_ground_that_is_not_firm() {
    let (_guard, _, host) = vault(2);
    forget(&host, &["latest~1"]).unwrap();
    let stranger = coffre::vault::OwnerKeys::generate(host.vault.config.id).unwrap();
    let list = Journal::put_list(&host.vault, vec![]).unwrap();
    let everything = coffre::format::Decision::Condemn { list, fresh: None, grace_secs: 0 };
    Journal::append(&host.vault, &stranger, 0, vec![everything]).unwrap();
    assert_eq!(prune(&host, &options(0)).unwrap_err().kind(), ErrorKind::Corrupt);
    // A wanted manifest that is gone: what its tree needs is not known.
    let (_guard, _, host) = vault(3);
    forget(&host, &["latest~2"]).unwrap();
    host.vault.store.delete(&Key::manifest(&host.latest().key)).unwrap();
    let refused = prune(&host, &options(0)).unwrap_err();
    assert!(refused.kind() == ErrorKind::Missing && refused.hint_text().is_some(), "{}", refused.chain());
    // A pack of nodes that is gone.
    let (_guard, _, host) = vault(3);
    forget(&host, &["latest~2"]).unwrap();
    let reader = host.reader();
    let meta = |key: &&Key| reader.pack_index(&key.digest().unwrap()).unwrap().0 == coffre::format::PackKind::Meta;
    let all = keys(&*host.vault.store, "packs/");
    all.iter().filter(meta).for_each(|key| host.vault.store.delete(key).unwrap());
    let before = keys(&*host.vault.store, "");
    let refused = prune(&host, &options(0)).unwrap_err();
    assert!(refused.kind() == ErrorKind::Missing && refused.hint_text().is_some(), "{}", refused.chain());
    assert_eq!(keys(&*host.vault.store, ""), before);
    let report = host.verify(verify::Depth::Snapshots).unwrap();
    assert!(!report.is_clean());
}

#[test]
fn a_vault_that_lost_its_index_is_pruned_by_what_its_packs_say() {
    let (_guard, root, host) = vault(1);
    // A pack of which one half is in all snapshots, and one in the oldest alone.
    write_files(&root, &[("kept", &noise(200_000, 71)), ("gone", &noise(200_000, 72))]);
    host.seal(&[&root]).unwrap();
    fs::remove_file(root.join("gone")).unwrap();
    day(&root, 1);
    host.seal(&[&root]).unwrap();
    forget(&host, &["latest~1", "latest~2"]).unwrap();
    let (expected, before) = (all(&host), bytes_of(&host, "packs"));
    keys(&*host.vault.store, "index/").iter().for_each(|key| host.vault.store.delete(key).unwrap());
    let report = prune(&host, &options(0)).unwrap();
    assert!(report.plan.packs_rewritten > 0 && report.deleted_objects > 0, "{report:?}");
    assert!(bytes_of(&host, "packs") < before * 3 / 4);
    assert_all(&host, &expected, "pruned");
    host.seal(&[&root]).unwrap();
    assert_eq!(all(&host).len(), 2);
}

/// An older copy of the vault is merged into it: what was deleted is there again, and goes again, unless somebody needs it by now.
#[test]
fn what_was_deleted_and_is_there_again_goes_again() {
    let (_guard, _, host) = vault(3);
    let old = common::library::objects(&*host.vault.store);
    forget(&host, &["latest~1", "latest~2"]).unwrap();
    let expected = all(&host);
    let report = prune(&host, &options(0)).unwrap();
    let after = keys(&*host.vault.store, "packs/");
    for (key, bytes) in old.iter().filter(|(key, _)| key.as_str().starts_with("packs/") || key.as_str().starts_with("index/")) {
        host.vault.store.put(key, bytes).unwrap();
    }
    host.assert_clean_after("merged");
    let again = prune(&host, &options(0)).unwrap();
    // The manifests were not put back.
    assert_eq!(again.deleted_objects + report.forgotten, report.deleted_objects, "{again:?}");
    assert_eq!(keys(&*host.vault.store, "packs/"), after);
    assert_all(&host, &expected, "again");
    host.assert_clean_after("again");
}
