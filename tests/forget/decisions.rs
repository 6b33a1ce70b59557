//! What is written down, who may, and what it does to everybody else.

use std::{
    fs,
    sync::{Arc, Mutex, atomic::Ordering},
};

use coffre::{
    error::{ErrorKind, Result},
    format::{Decision, GcRecord, SnapshotId},
    ops::{decided, forget, head, pins, snapshots, undelete, verify},
    store::{self, Fault, Faulty, Key, Local, Memory, Store},
    sys::{Calendar, Clock},
    vault::{Journal, OwnerKeys, Selector},
};

use crate::common::library::{Forge, Hooked, Host, Sketch, copy_of, noise, read_snapshot, temp, write_files};

const DAY: i64 = 86_400_000_000_000;

fn options(policy: forget::Policy) -> forget::Options {
    forget::Options {
        policy,
        by: crate::BY,
        named: Vec::new(),
        hosts: Vec::new(),
        calendar: Calendar::named("UTC").unwrap(),
        dry_run: false,
        force: false,
    }
}

fn last(n: usize) -> forget::Options {
    options(forget::Policy { last: n, ..forget::Policy::default() })
}

fn named(names: &[&str]) -> forget::Options {
    let named = names.iter().map(|name| Selector::parse(name, 0).unwrap()).collect();
    forget::Options { named, ..options(forget::Policy::default()) }
}

fn forget(host: &Host, options: &forget::Options) -> Result<forget::Report> {
    forget::run(&host.vault, &host.owner, host.clock.now_ns(), options)
}

/// A vault with `n` snapshots of a directory that changes each time.
fn with_snapshots(host: &Host, n: u64) -> (tempfile::TempDir, Vec<SnapshotId>) {
    let (guard, dir) = temp();
    for i in 0..n {
        write_files(&dir, &[("same", &noise(50_000, 77)), ("changes", &noise(60_000, i))]);
        host.seal(&[&dir]).unwrap();
    }
    (guard, host.snapshots().iter().map(|s| s.id).collect())
}

fn ids(host: &Host) -> Vec<SnapshotId> {
    host.snapshots().iter().map(|s| s.id).collect()
}

fn hex(id: &SnapshotId) -> String {
    id.to_string()
}

#[test]
fn what_is_forgotten_is_out_of_sight_and_comes_back_as_it_was() {
    let host = Host::memory();
    let (_guard, all) = with_snapshots(&host, 4);
    let before: Vec<_> = host.snapshots().iter().map(|s| read_snapshot(&host.reader(), s).unwrap()).collect();

    let dry = forget(&host, &forget::Options { dry_run: true, ..last(2) }).unwrap();
    assert_eq!((dry.kept, dry.forgotten, dry.record.is_none()), (2, 2, true));
    assert!(store::list_all(&*host.vault.store, "gc").unwrap().is_empty(), "a dry run writes nothing");

    let report = forget(&host, &last(2)).unwrap();
    assert_eq!((report.kept, report.forgotten, report.time_zone.as_str()), (2, 2, "UTC"));
    assert_eq!(report.snapshots.iter().map(|r| r.keep).collect::<Vec<_>>(), [false, false, true, true]);
    assert_eq!(ids(&host), all[2..]);
    let own = snapshots::run(&host.vault, None, &host.state, &snapshots::Filter::default()).unwrap();
    assert_eq!((own.0.len(), own.1.len()), (2, 0), "a sealer without an owner's key sees the same: {:?}", own.1);
    host.assert_clean();
    assert_eq!(forget(&host, &last(2)).unwrap().record, None, "nothing is decided twice");

    let back = undelete::run(&host.vault, &host.owner, 0, &[hex(&all[0])[..8].to_owned()]).unwrap();
    assert_eq!(back.snapshots, [hex(&all[0])]);
    assert_eq!(ids(&host), [all[0], all[2], all[3]]);
    undelete::run(&host.vault, &host.owner, 0, &[hex(&all[1])]).unwrap();
    assert_eq!(ids(&host), all);
    let after: Vec<_> = host.snapshots().iter().map(|s| read_snapshot(&host.reader(), s).unwrap()).collect();
    assert!(before == after, "every byte is as it was");
    assert_eq!(undelete::run(&host.vault, &host.owner, 0, &[hex(&all[1])]).unwrap_err().kind(), ErrorKind::NotFound);

    // Forgotten again, by name; the newest that is left is `latest`.
    forget(&host, &named(&["latest", &hex(&all[1])[..6]])).unwrap();
    assert_eq!(ids(&host), [all[0], all[2]]);
    host.assert_clean();
}

#[test]
fn the_last_snapshot_of_a_host_stays() {
    let host = Host::memory();
    let (_guard, all) = with_snapshots(&host, 2);
    let refused = forget(&host, &named(&["latest", "latest~1"])).unwrap_err();
    assert!(refused.kind() == ErrorKind::Conflict && refused.chain().contains("last snapshot") && refused.hint_text().is_some());
    let by_tag = options(forget::Policy { tags: vec!["none-has-it".to_owned()], ..forget::Policy::default() });
    assert_eq!(forget(&host, &by_tag).unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(ids(&host), all, "nothing was forgotten");

    // The same sealer under another host's name is another host.
    let mut other = host.options(&[_guard.path()]);
    other.host = "other".to_owned();
    host.seal_with(&other).unwrap();
    assert_eq!(forget(&host, &named(&["latest"])).unwrap_err().kind(), ErrorKind::Conflict);
    forget(&host, &forget::Options { force: true, ..named(&["latest"]) }).unwrap();
    assert_eq!(ids(&host), all);
}

#[test]
fn a_clock_that_looks_wrong_forgets_nothing() {
    let host = Host::memory();
    let (_guard, all) = with_snapshots(&host, 3);
    let ten_seconds = host.clock.ahead_ns.load(Ordering::SeqCst);
    for (ahead, says) in [(-2 * DAY, "before the newest"), (20 * DAY, "long after the newest")] {
        host.clock.ahead_ns.store(ten_seconds + ahead, Ordering::SeqCst);
        for options in [last(1), named(&["latest~2"])] {
            let refused = forget(&host, &options).unwrap_err();
            assert!(refused.kind() == ErrorKind::Conflict && refused.chain().contains(says), "{}", refused.chain());
            assert!(refused.hint_text().unwrap().contains("--force"));
        }
    }
    assert_eq!(ids(&host), all);
    forget(&host, &forget::Options { force: true, ..last(1) }).unwrap();
    assert_eq!(ids(&host), all[2..]);
}

#[test]
fn a_pinned_snapshot_stays_until_it_is_unpinned() {
    let host = Host::memory();
    let (_guard, all) = with_snapshots(&host, 4);
    let pin = |name: &str, on| pins::run(&host.vault, &host.owner, 0, &[Selector::parse(name, 0).unwrap()], on).unwrap();
    assert!(pin("latest~3", true).record.is_some());
    assert!(pin("latest~3", true).record.is_none(), "it is pinned already");
    let filter = snapshots::Filter::default();
    let rows = snapshots::run(&host.vault, Some(&host.owner), &host.state, &filter).unwrap().0;
    assert_eq!(rows.iter().map(|r| r.pinned).collect::<Vec<_>>(), [true, false, false, false]);
    assert_eq!(forget(&host, &named(&["latest~3"])).unwrap_err().kind(), ErrorKind::Conflict);
    forget(&host, &last(1)).unwrap();
    assert_eq!(ids(&host), [all[0], all[3]]);
    pin("latest~1", false);
    forget(&host, &last(1)).unwrap();
    assert_eq!(ids(&host), [all[3]]);
}

/// The seal after an accident pins what was there before it, and the pin outlives the snapshot that asked for it.
#[test]
fn what_stood_before_a_suspicious_seal_is_pinned_by_itself() {
    let host = Host::memory();
    let (_guard, dir) = temp();
    for i in 0..30 {
        write_files(&dir, &[(&format!("file{i}"), format!("content {i}").as_bytes())]);
    }
    host.seal(&[&dir]).unwrap();
    for i in 0..28 {
        fs::remove_file(dir.join(format!("file{i}"))).unwrap();
    }
    assert_eq!(host.seal(&[&dir]).unwrap().suspicions.len(), 1);
    host.seal(&[&dir]).unwrap();
    let all = ids(&host);
    forget(&host, &last(1)).unwrap();
    assert_eq!(ids(&host), [all[0], all[2]], "the suspicious one itself goes");
    forget(&host, &last(1)).unwrap();
    assert_eq!(ids(&host), [all[0], all[2]], "and its word stays");
    pins::run(&host.vault, &host.owner, 0, &[Selector::parse("latest~1", 0).unwrap()], false).unwrap();
    forget(&host, &last(1)).unwrap();
    assert_eq!(ids(&host), [all[2]]);
}

#[test]
fn only_the_owner_decides() {
    let host = Host::memory();
    let (_guard, all) = with_snapshots(&host, 3);
    // A sealer with append-only rights writes what it likes: here in the form of the owner, signed by another key.
    let stranger = OwnerKeys::generate(host.vault.config.id).unwrap();
    let latest = host.latest();
    let name = Journal::append(&host.vault, &stranger, 5, vec![Decision::Forget(latest.key.clone(), latest.id)]).unwrap();
    let (seen, findings) = host.vault.snapshots(&host.owner).unwrap();
    assert_eq!((seen.len(), findings.len()), (3, 1), "{findings:?}");
    assert!(findings[0].object.contains(&name) && findings[0].text.contains("owner"), "{findings:?}");
    assert_eq!(forget(&host, &last(1)).unwrap_err().kind(), ErrorKind::Corrupt, "nothing is decided on ground that is not firm");

    // An unsigned record is one that was never finished.
    let key = Key::fixed(format!("gc/{name}.txt.sig"));
    host.vault.store.delete(&key).unwrap();
    assert_eq!(ids(&host), all);
    forget(&host, &last(1)).unwrap();
    assert_eq!(ids(&host), all[2..]);
    // Its number was not used again.
    assert_eq!(Journal::load(&host.vault, None).unwrap().last_seq(), GcRecord::seq(&name).unwrap() + 1);
}

#[test]
fn of_two_owners_at_the_same_moment_the_one_who_keeps_wins() {
    let host = Host::memory();
    let (_guard, all) = with_snapshots(&host, 3);
    let snapshots = host.snapshots();
    let decide = |store: &Memory, decisions| {
        let mut vault = host.vault.clone();
        vault.store = Arc::new(store.clone());
        Journal::append(&vault, &host.owner, 7, decisions).unwrap()
    };
    for turn in [false, true] {
        let (one, two) = (copy_of(&*host.vault.store), copy_of(&*host.vault.store));
        let (key, id) = (snapshots[0].key.clone(), snapshots[0].id);
        decide(&one, vec![Decision::Forget(key.clone(), id), Decision::Unpin(key.clone(), id)]);
        decide(&two, vec![Decision::Undelete(key.clone(), id), Decision::Pin(key.clone(), id)]);
        let both = copy_of(if turn { &one } else { &two });
        for (key, bytes) in crate::common::library::objects(if turn { &two } else { &one }) {
            both.put(&key, &bytes).unwrap();
        }
        let joined = host.twin(Arc::new(both));
        assert_eq!(ids(&joined), all);
        assert_eq!(Journal::load(&joined.vault, None).unwrap().pins.get(&id), Some(&true));
    }
}

#[test]
fn two_owners_at_the_same_moment_leave_a_host_its_last_snapshot_and_a_pin_its_own() {
    let pin = |host: &Host, name: &str| pins::run(&host.vault, &host.owner, 0, &[Selector::parse(name, 0).unwrap()], true);
    let first = |host: &Host| drop(forget(host, &named(&["host1/1"])).unwrap());
    let second = |host: &Host| drop(forget(host, &named(&["host1/2"])).unwrap());
    let pinning = move |host: &Host| drop(pin(host, "host1/1").unwrap());
    type Does = Box<dyn Fn(&Host) + Send>;
    let cases: [(Does, Does, usize); 3] =
        [(Box::new(first), Box::new(second), 1), (Box::new(first), Box::new(pinning), 2), (Box::new(pinning), Box::new(first), 2)];
    for (n, (mine, theirs, left)) in cases.into_iter().enumerate() {
        let host = Host::memory();
        let (_guard, all) = with_snapshots(&host, 2);
        let other = host.twin(host.vault.store.clone());
        // Theirs is decided when mine is written, and not yet signed.
        let hook: Box<dyn FnMut(Key) + Send> = Box::new(move |_| theirs(&other));
        let store = Hooked { inner: host.vault.store.clone(), prefix: "gc/", suffix: ".txt", hook: Mutex::new(Some(hook)) };
        mine(&host.twin(Arc::new(store)));
        let stays = ids(&host);
        assert_eq!(stays.len(), left, "case {n}");
        assert!(left == 1 || stays.contains(&all[0]), "case {n}");
    }
}

#[test]
fn a_forget_that_dies_anywhere_has_happened_or_has_not() {
    let host = Host::memory();
    let (_guard, all) = with_snapshots(&host, 3);
    for fault in [Fault::CrashAt as fn(u64) -> Fault, Fault::CrashAfter, Fault::FailOnceAt] {
        for n in 0.. {
            let inner = copy_of(&*host.vault.store);
            let store = Arc::new(Faulty::new(inner.clone()));
            let other = host.twin(store.clone());
            store.set(Some(fault(n)));
            let result = forget(&other, &last(1));
            if store.calls() <= n {
                break;
            }
            let after = host.twin(Arc::new(inner));
            let seen = ids(&after);
            assert!(seen == all || seen == all[2..], "{:?}: {seen:?}", fault(n));
            assert!(result.is_err() || seen == all[2..], "{:?}", fault(n));
            forget(&after, &last(1)).unwrap();
            assert_eq!(ids(&after), all[2..]);
            assert!(after.verify(verify::Depth::Packs).unwrap().is_clean());
        }
    }
}

/// A directory as a store knows when receipts came, so a host's word counts for nothing against it.
#[test]
fn a_false_clock_is_seen_through_by_the_store() {
    let (_guard, dir) = temp();
    let host = Host::create(Arc::new(Local::new(dir.join("vault"))));
    let mut forge = Forge::new(&host);
    let mut sketch = Sketch::default();
    // Sealed today, a second apart, and dated 2025-01-01, hour by hour.
    for hour in 0..6 {
        sketch.write("file", &format!("hour {hour}"), hour);
        forge.seal(&sketch, "test");
    }
    let source = dir.join("source");
    write_files(&source, &[("a", b"a")]);
    host.clock.ahead_ns.store(4000 * DAY, Ordering::SeqCst);
    host.seal(&[&source]).unwrap();
    host.clock.ahead_ns.store(0, Ordering::SeqCst);
    let by = forget::GroupBy { host: false, paths: false, tags: false };
    let hourly = forget::Options { by, ..options(forget::Policy { hourly: 3, ..forget::Policy::default() }) };
    let report = forget(&host, &hourly).unwrap();
    let ahead = report.snapshots.iter().find(|row| row.snapshot.ends_with("/7")).unwrap();
    assert_eq!(ahead.doubt, Some(forget::Doubt::Ahead));
    let kept: Vec<&str> = report.snapshots.iter().filter(|row| row.keep).map(|row| row.snapshot.as_str()).collect();
    assert_eq!(kept, ["host1/4", "host1/5", "host1/6", "host1/7"]);
}

/// No rule could judge it, no name meant it, and no prune went on while it was wanted.
#[test]
fn a_snapshot_whose_manifest_is_lost_can_be_forgotten() {
    let host = Host::memory();
    let (_guard, all) = with_snapshots(&host, 4);
    for (n, name) in [(0, "host1/1".to_owned()), (1, hex(&all[1])[..8].to_owned())] {
        host.vault.store.delete(&Key::fixed(format!("snaps/host1/{:010}.age", n + 1))).unwrap();
        let report = forget(&host, &named(&[&name])).unwrap();
        assert_eq!(report.forgotten, 1, "{name}");
        assert_eq!(forget(&host, &named(&[&name])).unwrap_err().kind(), ErrorKind::NotFound, "only once");
    }
    assert_eq!(host.vault.snapshots(&host.owner).unwrap().0.iter().map(|s| s.id).collect::<Vec<_>>(), all[2..]);
}

/// What the one after it said, nobody knows any more; it may have been that this one is to stay.
#[test]
fn what_stood_before_a_manifest_that_cannot_be_read_is_pinned_by_itself() {
    let host = Host::memory();
    let (_guard, all) = with_snapshots(&host, 5);
    host.vault.store.delete(&Key::fixed("snaps/host1/0000000002.age")).unwrap();
    let read = |host: &Host| host.vault.snapshots(&host.owner).unwrap().0.iter().map(|s| s.id).collect::<Vec<_>>();
    forget(&host, &last(1)).unwrap();
    assert_eq!(read(&host), [all[0], all[4]]);
    forget(&host, &named(&["host1/2"])).unwrap();
    forget(&host, &last(1)).unwrap();
    assert_eq!(read(&host), [all[0], all[4]], "and it outlives the lost one");
    pins::run(&host.vault, &host.owner, 0, &[Selector::parse("host1/1", 0).unwrap()], false).unwrap();
    forget(&host, &last(1)).unwrap();
    assert_eq!(read(&host), [all[4]]);
}

#[test]
fn places_name_snapshots_and_what_is_forgotten_says_so() {
    let host = Host::memory();
    let (_guard, all) = with_snapshots(&host, 3);
    forget(&host, &named(&["host1/2"])).unwrap();
    assert_eq!(ids(&host), [all[0], all[2]]);
    let pin = |name: &str| pins::run(&host.vault, &host.owner, 0, &[Selector::parse(name, 0).unwrap()], true);
    for name in ["host1/2", &hex(&all[1])[..8]] {
        let refused = pin(name).unwrap_err();
        assert!(refused.chain().contains("is forgotten") && refused.hint_text().unwrap().contains("undelete"), "{}", refused.chain());
    }
    undelete::run(&host.vault, &host.owner, 0, &["host1/2".to_owned()]).unwrap();
    pin("host1/2").unwrap();
    assert_eq!(ids(&host), all);
    let typo = forget::Options { hosts: vec!["hots1".to_owned()], ..last(1) };
    let refused = forget(&host, &typo).unwrap_err();
    assert!(refused.kind() == ErrorKind::NotFound && refused.hint_text().unwrap().contains("host1"), "{}", refused.chain());
    assert_eq!(ids(&host), all);
}

/// Records name those before them; what says that the newest was there are the receipts of after, and who saw it.
#[test]
fn the_newest_decision_is_missed_by_receipts_and_by_who_saw_it() {
    let host = Host::memory();
    let (guard, all) = with_snapshots(&host, 3);
    pins::run(&host.vault, &host.owner, 0, &[Selector::parse("host1/1", 0).unwrap()], true).unwrap();
    let record = forget(&host, &named(&["host1/2"])).unwrap().record.unwrap();
    let places = [format!("gc/{record}.txt"), format!("gc/{record}.txt.sig")];
    let without = |what: &[String]| {
        let store = copy_of(&*host.vault.store);
        what.iter().for_each(|path| store.delete(&Key::parse(path).unwrap()).unwrap());
        Arc::new(store)
    };
    let findings = |host: &Host| {
        let report = host.verify(verify::Depth::Snapshots).unwrap();
        report.damage.iter().map(|f| (f.object.clone(), f.text.clone())).collect::<Vec<_>>()
    };
    let nobody_knows = host.twin(without(&places));
    assert_eq!(findings(&nobody_knows), [], "the limit: who was never here, where nobody sealed since");

    // This machine has seen it.
    host.assert_clean();
    for what in [&places[..], &places[1..]] {
        let robbed = host.fork(without(what));
        let found = findings(&robbed);
        assert!(found.len() == 1 && found[0].0 == places[0] && found[0].1.contains("this machine saw it"), "{found:?}");
        let refused = decided::check(&robbed.vault, &robbed.owner, &robbed.state).unwrap_err();
        assert!(refused.kind() == ErrorKind::Corrupt && refused.hint_text().unwrap().contains("head --accept"), "{}", refused.chain());
        head::accept(&robbed.vault, &robbed.state).unwrap();
        decided::check(&robbed.vault, &robbed.owner, &robbed.state).unwrap();
        robbed.assert_clean();
    }
    decided::check(&host.vault, &host.owner, &host.state).unwrap();

    // A receipt names it: whoever looks finds out.
    host.seal(&[guard.path()]).unwrap();
    for what in [&places[..], &places[1..]] {
        let found = findings(&host.twin(without(what)));
        assert!(found.iter().any(|(object, _)| *object == places[0]), "{found:?}");
    }
    assert_eq!(ids(&host)[..2], [all[0], all[2]]);
    host.assert_clean();
}
