//! Verify of vaults that are well: every depth says so, whoever else is at work, and counts what it looked at.
//!
//! What it says of vaults that are not is in `tests/damage.rs`.
#![allow(clippy::unwrap_used)] // a test may stop at the first surprise

mod common;

use std::{
    fs,
    sync::{
        Arc, Barrier, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use coffre::{
    error::ErrorKind,
    event::Event,
    format::PackKind,
    ops::{
        audit,
        verify::{self, Depth, Extent, Sample},
    },
    store::{Fault, Faulty, Key, Memory, list_all},
    vault::StateDir,
};
use common::library::{Hooked, Host, assert_same, copy_of, keys, noise, objects, read_disk, read_snapshot, temp, write_files};

const DEPTHS: [Depth; 3] = [Depth::Snapshots, Depth::Packs, Depth::Chunks];

#[test]
fn a_new_vault_without_snapshots_is_clean() {
    let host = Host::memory();
    for depth in DEPTHS {
        let report = host.verify(depth).unwrap();
        assert!(report.is_clean(), "{report:?}");
        assert_eq!((report.depth, report.snapshots, report.objects, report.unreferenced), (depth, 0, 0, 0));
    }
}

#[test]
fn a_clean_vault_is_clean_at_every_depth_and_the_counts_are_what_is_there() {
    let (_guard, dir) = temp();
    write_files(&dir, &[("a", &noise(2 << 20, 1)), ("b/inline", b"inline"), ("b/same", &noise(100_000, 2))]);
    let host = Host::memory();
    host.seal(&[&dir]).unwrap();
    write_files(&dir, &[("b/more", &noise(100_000, 3)), ("b/same-again", &noise(100_000, 2))]);
    host.seal(&[&dir]).unwrap();
    let all = objects(&*host.vault.store);
    // Second copies of keys are the only objects that no receipt names; the newest signature is named by nothing but its place.
    let listed: Vec<&Key> = all
        .keys()
        .filter(|k| !k.as_str().starts_with("parity/") && (!k.as_str().starts_with("snaps/") || !k.as_str().ends_with(".sig")))
        .collect();
    let bytes: u64 = listed.iter().map(|k| all[*k].len() as u64).sum();
    let reader = host.reader();
    let chunks: usize =
        host.snapshots().iter().flat_map(|s| s.manifest.new_packs.clone()).map(|p| reader.pack_index(&p).unwrap().1.chunks.len()).sum();
    for (depth, keyless) in [(Depth::Snapshots, true), (Depth::Packs, true), (Depth::Packs, false), (Depth::Chunks, false)] {
        let report = host.verify_with(depth, (!keyless).then_some(&reader)).unwrap();
        assert!(report.is_clean(), "{report:?}");
        assert_eq!((report.depth, report.snapshots, report.objects, report.unreferenced), (depth, 2, listed.len() as u64, 0), "{depth:?}");
        assert_eq!(report.bytes, if depth == Depth::Snapshots { 0 } else { bytes }, "{depth:?}");
        assert_eq!(report.chunks, if depth == Depth::Chunks { chunks as u64 } else { 0 }, "{depth:?}");
    }
    let told = host.told.lock().unwrap();
    let last = told.iter().rev().find_map(|e| if let Event::Progress(far) = e { Some((far.bytes, far.bytes_total)) } else { None });
    let (done, total) = last.unwrap();
    assert_eq!(Some(done), total, "progress ends where it said it would");
}

#[test]
fn objects_of_a_seal_that_never_finished_are_counted_and_are_no_damage() {
    let (_guard, dir) = temp();
    write_files(&dir, &[("a", &noise(50_000, 1))]);
    let host = Host::memory();
    host.seal(&[&dir]).unwrap();
    write_files(&dir, &[("b", &noise(50_000, 2))]);
    let inner = copy_of(&*host.vault.store);
    let store = Arc::new(Faulty::new(inner.clone()));
    let dying = host.fork(store.clone());
    let before = list_all(&inner, "").unwrap().len() as u64;
    // Dies as it writes its manifest: two packs and a segment are there.
    let hooked = Arc::new(Hooked { inner: store.clone(), prefix: "index/", suffix: ".age", hook: Mutex::default() });
    *hooked.hook.lock().unwrap() = Some(Box::new(move |_| store.set(Some(Fault::CrashAt(0)))));
    dying.through(hooked).seal(&[&dir]).unwrap_err();
    let left = list_all(&inner, "").unwrap().len() as u64 - before;
    let report = host.fork(Arc::new(inner)).assert_clean();
    assert_eq!((report.snapshots, report.unreferenced, left), (1, 3, 3));
}

#[test]
fn a_state_directory_that_does_not_exist_is_no_obstacle() {
    let (_guard, dir) = temp();
    write_files(&dir, &[("a", b"a")]);
    let mut host = Host::memory();
    host.seal(&[&dir]).unwrap();
    host.state = StateDir::new(&dir.join("nowhere"), host.vault.config.id);
    for depth in DEPTHS {
        assert!(host.verify(depth).unwrap().is_clean());
    }
    assert!(host.verify_with(Depth::Packs, None).unwrap().is_clean());
    assert!(!dir.join("nowhere").exists(), "verify leaves nothing behind");
}

#[test]
fn a_wish_to_stop_is_heard() {
    let (_guard, dir) = temp();
    write_files(&dir, &[("a", &noise(100_000, 1))]);
    let host = Host::memory();
    host.seal(&[&dir]).unwrap();
    host.cancel.cancel();
    for depth in [Depth::Packs, Depth::Chunks] {
        assert_eq!(host.verify(depth).unwrap_err().kind(), ErrorKind::Cancelled, "{depth:?}");
    }
    assert_eq!(host.seal(&[&dir]).unwrap_err().kind(), ErrorKind::Cancelled);
}

#[test]
fn verify_and_audit_are_clean_while_others_seal() {
    let (_guard, dir) = temp();
    let (_nothing, nothing) = temp();
    let host = Host::memory();
    write_files(&dir, &[("a", &noise(100_000, 0))]);
    host.seal(&[&dir]).unwrap();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for n in 1..15 {
                write_files(&dir, &[("a", &noise(100_000, n)), (&format!("d/{n}"), &noise(20_000, n))]);
                host.seal(&[&dir]).unwrap();
            }
            done.store(true, Ordering::SeqCst);
        });
        let watcher = host.twin(host.vault.store.clone());
        let mut rounds = 0;
        while !done.load(Ordering::SeqCst) || rounds == 0 {
            watcher.assert_clean_after(&format!("round {rounds}"));
            // On the machine that stores the vault: it remembers nothing.
            let Host { vault, clock, told, cancel, .. } = &watcher;
            let state = &StateDir::new(&nothing, vault.config.id);
            let audited =
                audit::run(&audit::Context { vault, owner: None, state, expect: &[], clock, sink: told, cancel, workers: 1 }).unwrap();
            assert_eq!(audited.findings, [], "round {rounds}");
            rounds += 1;
        }
    });
    assert_eq!(host.assert_clean().snapshots, 15);
}

#[test]
fn two_seals_of_a_cloned_host_at_once_both_succeed_and_leave_a_clean_vault() {
    for round in 0..8 {
        let (_guard, dir) = temp();
        let (left, right) = (dir.join("left"), dir.join("right"));
        write_files(
            &dir,
            &[
                ("left/a", &noise(200_000, 1)),
                ("left/both", &noise(90_000, 2)),
                ("right/b", &noise(300_000, 3)),
                ("right/both", &noise(90_000, 2)),
            ],
        );
        let one = Host::memory();
        let two = one.twin(one.vault.store.clone());
        let start = Barrier::new(2);
        thread::scope(|scope| {
            let seals: Vec<_> = [(&one, &left), (&two, &right)]
                .map(|(host, root)| {
                    let start = &start;
                    scope.spawn(move || {
                        start.wait();
                        host.seal(&[root]).map(drop)
                    })
                })
                .into_iter()
                .collect();
            seals.into_iter().for_each(|s| s.join().unwrap().unwrap_or_else(|e| panic!("round {round}: {}", e.chain())));
        });
        assert_both_sealed(&one, &two, &[&left, &right], &format!("round {round}"));
    }
}

/// Both snapshots read back, the vault is clean, and both hosts seal again.
fn assert_both_sealed(one: &Host, two: &Host, roots: &[&std::path::Path; 2], what: &str) {
    let report = one.assert_clean_after(what);
    assert_eq!(report.snapshots, 2, "{what}");
    for root in roots {
        let source = coffre_bytes(root);
        let snapshot = one.snapshots().into_iter().find(|s| s.manifest.sources == [source.clone()]).unwrap();
        let tree = read_snapshot(&one.reader(), &snapshot).unwrap();
        assert_same(&common::library::below(&tree, root), &read_disk(root), what);
    }
    for host in [one, two, one] {
        host.seal(&roots[..]).unwrap();
        host.assert_clean_after(what);
    }
}

fn coffre_bytes(path: &std::path::Path) -> Vec<u8> {
    path.as_os_str().as_encoded_bytes().to_vec()
}

/// Runs a whole seal of a cloned host at the moment when the first one has just put the object with this suffix.
fn overtaken_at(suffix: &'static str) {
    let (_guard, dir) = temp();
    write_files(&dir, &[("left/a", &noise(60_000, 1)), ("right/b", &noise(60_000, 2)), ("before/c", b"c")]);
    let (left, right, before) = (dir.join("left"), dir.join("right"), dir.join("before"));
    for earlier in [0, 1] {
        let store = Memory::default();
        let plain = Host::create(Arc::new(store.clone()));
        for _ in 0..earlier {
            plain.seal(&[&before]).unwrap();
        }
        let two = Arc::new(plain.twin(Arc::new(store.clone())));
        let hooked = Arc::new(Hooked { inner: Arc::new(store.clone()), prefix: "snaps/", suffix, hook: Mutex::default() });
        let one = plain.through(hooked.clone());
        let (other, at) = (two.clone(), right.clone());
        *hooked.hook.lock().unwrap() = Some(Box::new(move |_| drop(other.seal(&[&at]).unwrap())));
        one.seal(&[&left]).unwrap();
        let what = format!("{earlier} snapshots before, overtaken after the put of {suffix}");
        let report = one.assert_clean_after(&what);
        assert_eq!(report.snapshots, earlier + 2, "{what}");
        assert_eq!(one.snapshots().len() as u64, earlier + 2, "{what}");
        for host in [&one, &*two] {
            host.seal(&[&left, &right]).unwrap();
            host.assert_clean_after(&what);
        }
    }
}

/// Found by this test: a clone that seals between our manifest and our signature goes on from the same snapshot as we do.
#[test]
fn a_seal_overtaken_by_a_clone_after_its_manifest_leaves_a_clean_vault() {
    overtaken_at(".age");
}

#[test]
fn a_seal_overtaken_by_a_clone_after_its_receipt_leaves_a_clean_vault() {
    overtaken_at(".b3");
}

#[test]
fn a_second_sealer_has_its_own_domain_and_chain_and_both_are_verified() {
    let (_guard, dir) = temp();
    write_files(&dir, &[("a", &noise(150_000, 1))]);
    let one = Host::memory();
    let other = one.vault.enrol(&one.owner, "host2").unwrap();
    assert_ne!(other.domain, one.sealer.domain);
    let two = Host::with(one.vault.clone(), one.owner.clone(), other);
    one.seal(&[&dir]).unwrap();
    let report = two.seal(&[&dir]).unwrap();
    assert!(report.stats.new_bytes > 150_000, "no chunk of another domain is used");
    one.seal(&[&dir]).unwrap();
    let report = two.assert_clean();
    assert_eq!(report.snapshots, 3);
    let places: Vec<String> = two.snapshots().iter().map(|s| s.key.to_string()).collect();
    assert_eq!(places, ["host1/1", "host2/1", "host1/2"]);
    for snapshot in two.snapshots() {
        let tree = read_snapshot(&one.reader(), &snapshot).unwrap();
        assert_same(&common::library::below(&tree, &dir), &read_disk(&dir), &snapshot.key.to_string());
    }
    // Enrolling again gives the keys that the vault keeps.
    let again = one.vault.enrol(&one.owner, "host2").unwrap();
    assert_eq!(*again.encode(), *two.sealer.encode());
    let kinds: Vec<PackKind> = one.latest().manifest.new_packs.iter().map(|p| one.reader().pack_index(p).unwrap().0).collect();
    assert!(!kinds.contains(&PackKind::Data), "an unchanged tree stores no data: {kinds:?}");
    assert!(keys(&*one.vault.store, "index/").len() >= 2);
    fs::remove_file(dir.join("a")).unwrap();
}

#[test]
fn samples_go_round_the_vault_and_what_was_read_lately_is_not_due() {
    const DAY_NS: i64 = 86_400_000_000_000;
    let (_guard, root) = temp();
    let host = Host::memory();
    for n in 0..4 {
        write_files(&root, &[("a", &noise(200_000, n))]);
        host.seal(&[&root]).unwrap();
    }
    let packs = keys(&*host.vault.store, "packs/").len();
    let read = |sample, days: u64| {
        let context = verify::Context {
            vault: &host.vault,
            reader: None,
            state: &host.state,
            expect: &[],
            clock: &host.clock,
            sink: &host.told,
            cancel: &host.cancel,
            workers: 1,
        };
        let within = (days > 0).then(|| std::time::Duration::from_secs(days * 86_400));
        let report = verify::run_some(&context, Depth::Packs, Extent { sample, within, snapshot: None }, Vec::new()).unwrap();
        assert!(report.is_clean(), "{report:?}");
        assert_eq!(report.packs, packs as u64);
        report.packs_read
    };
    let smallest = Some(Sample::Bytes(1));
    let rounds: Vec<u64> = (0..packs + 2).map(|_| read(smallest, 30)).collect();
    assert_eq!(rounds, [vec![1; packs], vec![0, 0]].concat(), "each once, then nothing is due");
    assert_eq!(read(smallest, 0), 1, "without a limit of time the oldest is read again");
    host.clock.ahead_ns.store(31 * DAY_NS, Ordering::SeqCst);
    assert_eq!(read(None, 30), packs as u64, "after a month all are due");
    assert_eq!((read(None, 30), read(None, 0)), (0, packs as u64));
    assert!(read(Some(Sample::Percent(50.0)), 0) < packs as u64);
    assert_eq!(read(Some(Sample::Time(std::time::Duration::ZERO)), 0), 0);
    // The clock was ahead, and is put right: what it said then does not keep a pack from being due.
    host.clock.ahead_ns.store(0, Ordering::SeqCst);
    assert_eq!((read(None, 30), read(None, 30)), (packs as u64, 0));
}
