//! What owners decide one after the other and at the same moment, and what others put beside it.

use std::{
    sync::{Arc, atomic::Ordering},
    thread,
};

use coffre::{
    error::ErrorKind,
    format::Decision,
    ops::{
        prune::{Options, list},
        undelete, verify,
    },
    store::{Key, Local, Store},
    vault::Journal,
};

use crate::{
    DAY, all, assert_all, bytes_of,
    common::library::{Host, copy_of, keys, noise, temp, write_files},
    context, day, forget, options, prune, vault,
};

fn pass(host: &Host, ns: i64) {
    host.clock.ahead_ns.fetch_add(ns, Ordering::SeqCst);
}

fn back(host: &Host, id: &str) -> coffre::error::Result<undelete::Report> {
    undelete::run(&host.vault, &host.owner, 0, &[id.to_owned()])
}

/// A record of the journal that spared an object once held for ever: the object was condemned again, deleted or not, and counted as wanted.
#[test]
fn what_was_spared_once_goes_when_it_is_forgotten_again() {
    let (_guard, _, host) = vault(2);
    let id = host.snapshots()[0].id.to_string();
    let mut sizes = Vec::new();
    for round in 0..3 {
        forget(&host, &["latest~1"]).unwrap();
        prune(&host, &options(14 * 86_400)).unwrap();
        back(&host, &id).unwrap();
        let spared = prune(&host, &Options { shorten: true, max_unused_permille: 0, ..options(0) }).unwrap();
        assert!(spared.spared_objects > 0 && spared.waiting.is_empty(), "{spared:?}");
        host.assert_clean_after(&format!("spared, round {round}"));
        sizes.push(bytes_of(&host, "packs"));
    }
    assert!(sizes[2] < sizes[0] + sizes[0] / 50, "it does not grow from round to round: {sizes:?}");
    forget(&host, &["latest~1"]).unwrap();
    let expected = all(&host);
    let deleted = prune(&host, &options(0)).unwrap();
    assert!(deleted.deleted_bytes > 100_000 && bytes_of(&host, "packs") < sizes[2], "{deleted:?}");
    let reader = host.reader();
    assert!(list(&context(&host, &reader)).unwrap().snapshots.is_empty(), "it cannot come back");
    assert_eq!(back(&host, &id).unwrap_err().kind(), ErrorKind::NotFound);
    assert_all(&host, &expected, "gone");
    host.assert_clean_after("gone");
}

/// An empty file with the highest number made every later decision unreadable, and none of them said so.
#[test]
fn a_number_that_no_owner_gave_moves_no_number() {
    let (_guard, _, host) = vault(3);
    host.vault.store.put(&Key::fixed("gc/9999999999.0000000000000000.txt"), b"").unwrap();
    let oldest = host.snapshots()[0].id.to_string();
    forget(&host, &["latest~1", "latest~2"]).unwrap();
    assert_eq!(host.snapshots().len(), 1);
    back(&host, &oldest).unwrap();
    assert_eq!(host.snapshots().len(), 2);
    let expected = all(&host);
    assert!(prune(&host, &options(0)).unwrap().deleted_objects > 0);
    assert_all(&host, &expected, "pruned");
    assert!(Journal::load(&host.vault, None).unwrap().last_seq() < 100);
}

/// What cannot be an owner's record stops nobody: not its name, and not its signature either.
#[test]
fn junk_beside_the_journal_is_told_and_stops_nothing() {
    let (_guard, _, host) = vault(3);
    host.vault.store.put(&Key::fixed("gc/0000000002.0123456789abcdef.txt"), b"coffre-gc 1\n").unwrap();
    host.vault.store.put(&Key::fixed("gc/0000000002.0123456789abcdef.txt.sig"), b"of nobody\n").unwrap();
    let expected: Vec<_> = all_but_findings(&host).into_iter().take(1).collect();
    forget(&host, &["latest~1", "latest~2"]).unwrap();
    assert!(prune(&host, &options(0)).unwrap().deleted_objects > 0);
    assert_eq!(all_but_findings(&host), expected);
    let report = host.verify(verify::Depth::Chunks).unwrap();
    assert_eq!(report.damage.iter().map(|f| f.kind.word()).collect::<Vec<_>>(), ["stranger"], "{:?}", report.damage);
    // A record of the owner's whose bytes have changed is another thing: nobody knows what it said.
    let record = keys(&*host.vault.store, "gc/").into_iter().find(|key| key.as_str().starts_with("gc/0000000003")).unwrap();
    let mut bytes = coffre::store::get_all(&*host.vault.store, &record, 1 << 20).unwrap();
    bytes[60] ^= 1;
    host.vault.store.delete(&record).unwrap();
    host.vault.store.put(&record, &bytes).unwrap();
    assert_eq!(prune(&host, &options(0)).unwrap_err().kind(), ErrorKind::Corrupt);
}

/// The number of the newest snapshot, where the journal has findings.
fn all_but_findings(host: &Host) -> Vec<(u64, usize)> {
    let (snapshots, _) = host.vault.snapshots(&host.owner).unwrap();
    let reader = host.reader();
    let read = |s| crate::common::library::read_snapshot(&reader, s).unwrap().len();
    snapshots.iter().rev().map(|s| (s.key.seq, read(s))).collect()
}

#[test]
fn a_decision_that_is_taken_away_is_missed() {
    let (_guard, _, host) = vault(3);
    let latest = host.latest();
    let pin = Journal::append(&host.vault, &host.owner, 0, vec![Decision::Pin(latest.key.clone(), latest.id)]).unwrap();
    forget(&host, &["latest~2"]).unwrap();
    host.assert_clean();
    for suffix in ["txt", "txt.sig"] {
        host.vault.store.delete(&Key::fixed(format!("gc/{pin}.{suffix}"))).unwrap();
    }
    let damage = host.verify(verify::Depth::Snapshots).unwrap().damage;
    assert!(damage.len() == 1 && damage[0].object.contains(&pin) && damage[0].kind.word() == "deleted", "{damage:?}");
    assert_eq!(forget(&host, &["latest~1"]).unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(prune(&host, &options(0)).unwrap_err().kind(), ErrorKind::Corrupt);
}

/// Its old condemnation came due a day after it was forgotten again, and took it along.
#[test]
fn what_is_forgotten_again_has_its_whole_grace_again() {
    let (_guard, root, host) = vault(3);
    let before = all(&host);
    let first = host.snapshots()[0].id;
    let fortnight = options(14 * 86_400);
    forget(&host, &[&first.to_string()]).unwrap();
    prune(&host, &fortnight).unwrap();
    pass(&host, 9 * DAY);
    host.seal(&[&root]).unwrap();
    pass(&host, 4 * DAY);
    back(&host, &first.to_string()).unwrap();
    forget(&host, &[&first.to_string()]).unwrap();
    pass(&host, 2 * DAY);
    let report = prune(&host, &fortnight).unwrap();
    assert_eq!(report.deleted_objects, 0, "{report:?}");
    let reader = host.reader();
    let until = list(&context(&host, &reader)).unwrap().snapshots[0].until.clone();
    assert!(until.is_some(), "and it is condemned anew");
    back(&host, &first.to_string()).unwrap();
    assert_eq!(all(&host)[&first], before[&first]);
    host.assert_clean();
}

/// Two snapshots share content. One is condemned for long, the other, later, for an hour.
#[test]
fn a_shorter_grace_takes_nothing_from_what_has_a_longer_one() {
    let (_guard, root) = temp();
    let host = Host::memory();
    write_files(&root, &[("shared", &noise(300_000, 1)), ("stays", b"small")]);
    host.seal(&[&root]).unwrap();
    write_files(&root, &[("more", &noise(50_000, 2))]);
    host.seal(&[&root]).unwrap();
    std::fs::remove_file(root.join("shared")).unwrap();
    host.seal(&[&root]).unwrap();
    let before = all(&host);
    let (first, second) = (host.snapshots()[0].id, host.snapshots()[1].id.to_string());
    forget(&host, &[&first.to_string()]).unwrap();
    prune(&host, &options(14 * 86_400)).unwrap();
    forget(&host, &[&second]).unwrap();
    prune(&host, &options(3_600)).unwrap();
    pass(&host, 2 * DAY);
    prune(&host, &options(3_600)).unwrap();
    assert_eq!(back(&host, &second).unwrap_err().kind(), ErrorKind::NotFound);
    back(&host, &first.to_string()).unwrap();
    assert_eq!(all(&host)[&first], before[&first]);
    host.assert_clean();
}

#[test]
fn a_clock_that_is_wrong_deletes_nothing() {
    let (_guard, root) = temp();
    let host = Host::create(Arc::new(Local::new(root.join("vault"))));
    for n in 0..2 {
        day(&root.join("source"), n);
        host.seal(&[&root.join("source")]).unwrap();
    }
    forget(&host, &["latest~1"]).unwrap();
    let ahead = host.clock.ahead_ns.load(Ordering::SeqCst);
    // Years behind as it condemns: the grace is counted from when the record came.
    host.clock.ahead_ns.store(-2_000 * DAY, Ordering::SeqCst);
    prune(&host, &options(14 * 86_400)).unwrap();
    host.clock.ahead_ns.store(ahead, Ordering::SeqCst);
    let right = prune(&host, &options(14 * 86_400)).unwrap();
    assert!(right.deleted_objects == 0 && right.waiting[0].reasons[0].contains("its grace"), "{right:?}");
    // A month ahead.
    host.clock.ahead_ns.store(30 * DAY, Ordering::SeqCst);
    let wrong = prune(&host, &options(14 * 86_400)).unwrap();
    assert!(wrong.deleted_objects == 0 && wrong.waiting[0].reasons[0].contains("this machine's clock says"), "{wrong:?}");
    let forced = prune(&host, &Options { force: true, ..options(14 * 86_400) }).unwrap();
    assert!(forced.deleted_objects > 0, "{forced:?}");
    host.assert_clean();
}

#[test]
fn a_wanted_snapshot_without_its_manifest_stops_prune_until_it_is_forgotten() {
    let (_guard, _, host) = vault(3);
    let mut expected = all(&host);
    expected.remove(&host.snapshots()[0].id);
    host.vault.store.delete(&Key::fixed("snaps/host1/0000000001.age")).unwrap();
    assert_eq!(prune(&host, &options(0)).unwrap_err().kind(), ErrorKind::Missing);
    forget(&host, &["host1/1"]).unwrap();
    assert!(prune(&host, &options(0)).unwrap().deleted_objects > 0);
    assert_all(&host, &expected, "gone on");
    host.assert_clean();
}

/// The receipts do not name what a prune wrote, so nobody knew to which domain it belonged.
#[test]
fn a_vault_that_was_pruned_and_lost_its_index_is_pruned_again() {
    let (_guard, root, host) = vault(3);
    forget(&host, &["latest~1", "latest~2"]).unwrap();
    prune(&host, &Options { max_unused_permille: 0, ..options(0) }).unwrap();
    day(&root, 5);
    host.seal(&[&root]).unwrap();
    keys(&*host.vault.store, "index/").iter().for_each(|key| host.vault.store.delete(key).unwrap());
    forget(&host, &["latest~1"]).unwrap();
    let expected = all(&host);
    let report = prune(&host, &Options { max_unused_permille: 0, repack_small: true, ..options(0) }).unwrap();
    assert!(report.plan.packs_rewritten > 0 && report.deleted_objects > 0, "{report:?}");
    assert_all(&host, &expected, "pruned");
}

/// What two prunes wrote twice is one again after the next.
#[test]
fn content_that_is_there_twice_is_joined() {
    let (_guard, _, host) = vault(3);
    forget(&host, &["latest~1", "latest~2"]).unwrap();
    let expected = all(&host);
    let pressed = Options { max_unused_permille: 0, repack_small: true, ..options(86_400) };
    let once = host.twin(Arc::new(copy_of(&*host.vault.store)));
    prune(&once, &Options { grace_secs: 0, ..pressed }).unwrap();
    let size = bytes_of(&once, "packs");
    // Both plan from the same state of things.
    let other = host.twin(Arc::new(copy_of(&*host.vault.store)));
    prune(&other, &pressed).unwrap();
    prune(&host, &pressed).unwrap();
    for (key, bytes) in crate::common::library::objects(&*other.vault.store) {
        host.vault.store.put(&key, &bytes).unwrap();
    }
    host.assert_clean_after("both");
    for _ in 0..2 {
        pass(&host, 2 * DAY);
        prune(&host, &Options { grace_secs: 0, ..pressed }).unwrap();
    }
    assert_all(&host, &expected, "joined");
    host.assert_clean_after("joined");
    let left = bytes_of(&host, "packs");
    assert!(left <= size + size / 20, "{left} bytes are left, {size} by one owner alone");
    assert_eq!(prune(&host, &Options { grace_secs: 0, ..pressed }).unwrap().record, None, "and then nothing is left to do");
}

/// Two owners with no grace, one sealer, one who verifies: `COFFRE_ROUNDS=n` for more.
#[test]
fn two_owners_and_a_sealer_at_once_lose_nothing() {
    let rounds = std::env::var("COFFRE_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(3);
    for round in 0..rounds {
        let (_guard, root, host) = vault(3);
        let store: Arc<dyn Store> = host.vault.store.clone();
        thread::scope(|scope| {
            for owner in 0..2u64 {
                let twin = host.twin(store.clone());
                scope.spawn(move || {
                    for n in 0..4 {
                        // Whoever is second may find that the other was quicker.
                        let _ = forget(&twin, &[["latest~1", "latest~2"][(n as usize + owner as usize) % 2]]);
                        let pressed = Options { max_unused_permille: 25 * (n + owner) % 60, repack_small: n % 2 == owner, ..options(0) };
                        if let Err(e) = prune(&twin, &pressed) {
                            assert_eq!(e.kind(), ErrorKind::Conflict, "round {round}: {}", e.chain());
                        }
                    }
                });
            }
            for n in 0..4 {
                day(&root, n % 3 + 10);
                host.seal(&[&root]).unwrap_or_else(|e| panic!("round {round}: {}", e.chain()));
            }
        });
        let what = format!("round {round}");
        let expected = all(&host);
        for step in ["at rest", "pruned", "pruned again"] {
            assert_all(&host, &expected, &format!("{what}, {step}"));
            host.assert_clean_after(&format!("{what}, {step}"));
            prune(&host, &options(0)).unwrap_or_else(|e| panic!("{what}: {}", e.chain()));
        }
    }
}
