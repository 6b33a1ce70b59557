//! A death at any moment: what was sealed stays whole, what was stored is used again, and the next command works.
#![allow(clippy::unwrap_used)] // a test may stop at the first surprise

mod common;

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::Arc,
};

use age::secrecy::ExposeSecret;
use coffre::{
    error::ErrorKind,
    format::VaultId,
    store::{Fault, Faulty, Local, Memory, Store, list_all},
    sys::{Clock, SystemClock},
    vault::{self, Unlocking, Vault, Way},
};
use common::library::{Host, Tree, assert_same, copy_of, identity, keys, noise, read_disk, read_snapshot, temp, write_files};

/// A vault with one snapshot, and a source that has changed since.
struct Before {
    _guard: tempfile::TempDir,
    root: PathBuf,
    host: Host,
    first: Tree,
    now: Tree,
}

fn before() -> Before {
    let (guard, root) = temp();
    write_files(&root, &[("a", &noise(50_000, 1)), ("d/inline", b"inline"), ("d/gone", b"gone")]);
    let host = Host::memory();
    host.seal(&[&root]).unwrap();
    let first = read_snapshot(&host.reader(), &host.latest()).unwrap();
    write_files(&root, &[("a", &noise(70_000, 2)), ("new/b", &noise(40_000, 3))]);
    fs::remove_file(root.join("d/gone")).unwrap();
    let now = read_disk(&root);
    Before { _guard: guard, root, host, first, now }
}

/// What must hold for the host that crashed, once its store is back: earlier snapshots whole, no damage, the next seal works.
fn assert_recovers(before: &Before, crashed: &Host, store: &Memory, committed: bool, what: &str) {
    let after = crashed.fork(Arc::new(store.clone()));
    let report = after.assert_clean_after(what);
    assert_eq!(report.snapshots, 1 + u64::from(committed), "{what}");
    let check = |n: usize| {
        let snapshots = after.snapshots();
        assert_eq!(snapshots.len(), n, "{what}");
        let reader = after.reader();
        assert_same(&read_snapshot(&reader, &snapshots[0]).unwrap(), &before.first, what);
        for snapshot in &snapshots[1..] {
            let tree = read_snapshot(&reader, snapshot).unwrap();
            assert_same(&common::library::below(&tree, &before.root), &before.now, what);
        }
    };
    check(1 + usize::from(committed));
    after.seal(&[&before.root]).unwrap_or_else(|e| panic!("{what}: the next seal: {}", e.chain()));
    check(2 + usize::from(committed));
    // Whatever the dead seal left in packs is in a receipt now.
    let named: Vec<_> = after.snapshots().iter().flat_map(|s| s.manifest.new_packs.clone()).collect();
    let loose: Vec<_> = keys(store, "packs/").into_iter().filter(|k| !named.contains(&k.digest().unwrap())).collect();
    assert!(loose.len() <= 1, "{what}: {} packs are in no receipt", loose.len());
    after.assert_clean_after(what);
}

/// Runs a seal that dies at each of its store calls in turn.
fn crash_everywhere(fault: fn(u64) -> Fault) {
    let before = before();
    let mut points = 0;
    for n in 0.. {
        let inner = copy_of(&*before.host.vault.store);
        let store = Arc::new(Faulty::new(inner.clone()));
        let host = before.host.fork(store.clone());
        store.set(Some(fault(n)));
        let result = host.seal(&[&before.root]);
        if store.calls() <= n {
            result.unwrap();
            break;
        }
        points += 1;
        // The last call of all may have taken effect: then the snapshot is committed, though nobody was told.
        let committed = keys(&inner, "snaps/").iter().filter(|k| k.as_str().ends_with(".sig")).count() == 2;
        assert_eq!(result.unwrap_err().kind(), ErrorKind::Unavailable, "{:?}", fault(n));
        assert_recovers(&before, &host, &inner, committed, &format!("{:?}", fault(n)));
    }
    println!("{points} crash points of a seal, {:?}", fault(0));
    assert!(points >= 20, "{points} points");
}

#[test]
fn a_seal_that_dies_before_any_store_call_harms_nothing() {
    crash_everywhere(Fault::CrashAt);
}

#[test]
fn a_seal_that_dies_after_any_store_call_harms_nothing() {
    crash_everywhere(Fault::CrashAfter);
}

/// Found by this test: a read that failed once while the newest receipt was looked for made the seal start a second chain.
#[test]
fn a_store_that_fails_once_at_any_call_of_a_seal_harms_nothing() {
    let before = before();
    let mut survived = 0;
    for n in 0.. {
        let inner = copy_of(&*before.host.vault.store);
        let store = Arc::new(Faulty::new(inner.clone()));
        let host = before.host.fork(store.clone());
        store.set(Some(Fault::FailOnceAt(n)));
        let result = host.seal(&[&before.root]);
        if store.calls() <= n {
            break;
        }
        survived += u64::from(result.is_ok());
        assert_recovers(
            &before,
            &host,
            &inner,
            result.is_ok(),
            &format!("call {n} failed once, seal {}", if result.is_ok() { "went on" } else { "failed" }),
        );
    }
    println!("{survived} single failures did not stop the seal");
}

#[test]
fn an_init_that_dies_anywhere_leaves_no_vault_or_a_whole_one() {
    let identity = identity();
    let ways = [Way::Age(identity.to_public())];
    let (_guard, root) = temp();
    write_files(&root, &[("a", b"a")]);
    for fault in [Fault::CrashAt as fn(u64) -> Fault, Fault::CrashAfter] {
        let (mut points, mut whole) = (0, 0);
        for n in 0.. {
            let inner = Memory::default();
            let store = Arc::new(Faulty::new(inner.clone()));
            store.set(Some(fault(n)));
            let result = vault::create(store.clone(), &ways, "host1");
            if store.calls() <= n {
                assert!(result.is_ok());
                break;
            }
            points += 1;
            assert_eq!(result.err().unwrap().kind(), ErrorKind::Unavailable, "{:?}", fault(n));
            match Vault::open(Arc::new(inner.clone())) {
                Ok(vault) => {
                    whole += 1;
                    let mut unlocking = Unlocking::default();
                    unlocking.add_identity_file("test", identity.to_string().expose_secret()).unwrap();
                    let owner = Arc::new(unlocking.open(&inner, vault.config.id).unwrap());
                    let sealer = vault.enrol(&owner, "host1").unwrap();
                    let host = Host::with(vault, owner, sealer);
                    host.seal(&[&root]).unwrap();
                    host.assert_clean();
                }
                Err(e) => {
                    assert_eq!(e.kind(), ErrorKind::NoVault, "{:?}: {}", fault(n), e.chain());
                    if !inner.is_empty().unwrap() {
                        let refused = vault::create(Arc::new(inner.clone()), &ways, "host1").err().unwrap();
                        assert_eq!(refused.kind(), ErrorKind::Conflict);
                        assert!(refused.hint_text().unwrap().contains("remove"), "{:?}", refused.hint_text());
                        list_all(&inner, "").unwrap().iter().for_each(|(key, _)| inner.delete(key).unwrap());
                    }
                    vault::create(Arc::new(inner), &ways, "host1").unwrap();
                }
            }
        }
        println!("{points} crash points of an init, {:?}; {whole} left a whole vault", fault(0));
        assert!(points >= 10 && whole <= 1, "{points} points, {whole} whole");
    }
}

#[test]
fn an_init_that_fails_cleans_up_and_can_be_repeated_in_the_same_place() {
    let ways = [Way::Age(identity().to_public())];
    for n in 0.. {
        let inner = Memory::default();
        let store = Arc::new(Faulty::new(inner.clone()));
        store.set(Some(Fault::FailOnceAt(n)));
        let result = vault::create(store.clone(), &ways, "host1");
        if store.calls() <= n {
            break;
        }
        assert_eq!(result.err().unwrap().kind(), ErrorKind::Unavailable, "call {n}");
        assert!(inner.is_empty().unwrap(), "call {n}: {:?}", list_all(&inner, "").unwrap());
        vault::create(store, &ways, "host1").unwrap();
    }
    for room in [0, 100, 40_000, 60_000] {
        let inner = Memory::default();
        let store = Arc::new(Faulty::new(inner.clone()));
        store.set(Some(Fault::FullAfter(room)));
        match vault::create(store.clone(), &ways, "host1") {
            Ok(_) => assert!(room > 40_000),
            Err(e) => assert!(e.kind() == ErrorKind::Full && inner.is_empty().unwrap(), "{room}: {}", e.chain()),
        }
    }
}

#[test]
fn a_seal_into_a_full_store_says_so_and_the_next_one_uses_what_was_stored() {
    let (_guard, root) = temp();
    for n in 0..16 {
        write_files(&root, &[(&format!("f{n:02}"), &noise(500_000, n))]);
    }
    let mut empty = Host::memory();
    // Packs of a mebibyte, so that a small tree fills several.
    empty.vault.config.pack_len_max = 1 << 20;
    let fork = |store: Arc<dyn Store>| {
        let mut host = empty.fork(store);
        host.vault.config.pack_len_max = 1 << 20;
        host
    };
    let clean = fork(Arc::new(copy_of(&*empty.vault.store)));
    let clean_report = clean.seal(&[&root]).unwrap();
    let clean_packs = keys(&*clean.vault.store, "packs/").len();
    assert!(clean_packs >= 8, "{clean_packs} packs");
    let expected = read_disk(&root);
    let all = clean_report.stats.stored_bytes;
    let mut reused = 0;
    // How the frames fall to the two open packs is random, and with it the padding: stay clear of the last mebibyte.
    for room in [0, 1_000, all / 4, all / 2, all - 2_500_000] {
        let inner = copy_of(&*empty.vault.store);
        let store = Arc::new(Faulty::new(inner.clone()));
        let host = fork(store.clone());
        store.set(Some(Fault::FullAfter(room)));
        let failed = host.seal(&[&root]).unwrap_err();
        assert_eq!(failed.kind(), ErrorKind::Full, "room for {room}: {}", failed.chain());
        assert!(host.snapshots().is_empty());
        let left = keys(&inner, "packs/").len();
        store.set(None);
        let report = host.seal(&[&root]).unwrap();
        assert_same(&host.read_latest(&root), &expected, &format!("room for {room}"));
        let packs = keys(&inner, "packs/").len();
        assert!(packs <= clean_packs + 3, "room for {room}: {left} packs left, then {packs}, {clean_packs} without the failure");
        assert!(
            report.stats.stored_bytes <= all + (1 << 20),
            "room for {room}: {} bytes, {all} without the failure",
            report.stats.stored_bytes
        );
        assert_eq!(host.latest().manifest.new_packs.len(), packs, "every pack is in the receipt");
        let raw = report.stats.new_bytes;
        assert!(
            left == 0 || raw < clean_report.stats.new_bytes,
            "room for {room}: {left} packs were there, and everything was stored again"
        );
        reused += left;
        host.assert_clean();
    }
    assert!(reused > clean_packs, "{reused} packs were left in all");
}

/// A command of the real binary, in its own world.
fn coffre(dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_coffre"));
    command.env_clear().env("PATH", "/usr/bin:/bin").env("HOME", dir).env("COFFRE_STATE_DIR", dir.join("state"));
    command.env("COFFRE_VAULT", dir.join("vault")).env("COFFRE_IDENTITY", dir.join("identity")).args(arguments);
    command.stdin(Stdio::null());
    command
}

fn succeed(dir: &Path, arguments: &[&str]) -> Output {
    let output = coffre(dir, arguments).output().unwrap();
    assert!(output.status.success(), "coffre {arguments:?}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    output
}

#[test]
fn kill_9_of_a_seal_at_any_moment_harms_nothing() {
    const ROUNDS: u64 = 12;
    let (_guard, dir) = temp();
    let source = dir.join("source");
    let change = |round: u64| {
        for n in (0..40).filter(|n| round == 0 || n % 3 == round % 3) {
            write_files(&source, &[(&format!("d{}/f{n}", n % 5), &noise(1_250_000, 1000 * round + n))]);
        }
    };
    change(0);
    let identity = identity();
    fs::write(dir.join("identity"), identity.to_string().expose_secret()).unwrap();
    fs::set_permissions(dir.join("identity"), Permissions::from_mode(0o600)).unwrap();
    succeed(&dir, &["init", "--recipient", &identity.to_public().to_string(), "--sealer", "host1"]);
    let began = SystemClock.monotonic();
    succeed(&dir, &["seal", source.to_str().unwrap()]);
    let whole = SystemClock.monotonic() - began;

    let store = Arc::new(Local::new(dir.join("vault")));
    let vault = Vault::open(store.clone()).unwrap();
    let mut unlocking = Unlocking::default();
    unlocking.add_identity_file("test", identity.to_string().expose_secret()).unwrap();
    let owner = Arc::new(unlocking.open(&*store, vault.config.id).unwrap());
    let count = || vault.snapshots(&owner).unwrap().0.len();

    let (mut killed, mut packs_found, mut expected) = (0, 0, vec![read_disk(&source)]);
    let moments = noise(ROUNDS as usize, std::process::id().into());
    println!("seed of the moments: {}", std::process::id());
    for (round, moment) in (1..).zip(moments) {
        change(round);
        let (packs, snapshots) = (keys(&*store, "packs/").len(), count());
        let mut child = coffre(&dir, &["-q", "seal", source.to_str().unwrap()]).stdout(Stdio::null()).spawn().unwrap();
        // No waiting for anything: the moment is the point.
        SystemClock.sleep(whole.mul_f64(f64::from(moment) / 300.0));
        child.kill().unwrap();
        let died = !child.wait().unwrap().success();
        killed += usize::from(died);
        packs_found += keys(&*store, "packs/").len() - packs;
        let now = read_disk(&source);
        // It may have been committed just before it died.
        expected.extend(vec![now.clone(); count() - snapshots]);
        succeed(&dir, &["verify", "--depth", "packs"]);
        succeed(&dir, &["-q", "seal", source.to_str().unwrap()]);
        expected.push(now);
        assert_eq!(count(), expected.len(), "round {round}");
    }
    println!("{killed} of {ROUNDS} seals were killed in time; {packs_found} packs were stored by seals that were");
    assert!(killed >= 4, "only {killed} seals were killed in time");
    let verified = String::from_utf8(succeed(&dir, &["verify", "--depth", "chunks"]).stdout).unwrap();
    assert!(verified.contains("no damage"), "{verified}");
    let host = Host::with(vault.clone(), owner.clone(), vault.enrol(&owner, "host1").unwrap());
    let reader = host.reader();
    for (n, (snapshot, tree)) in host.snapshots().iter().zip(&expected).enumerate() {
        let got = common::library::below(&read_snapshot(&reader, snapshot).unwrap(), &source);
        assert_same(&got, tree, &format!("snapshot {n} of {}", expected.len()));
    }
    assert_ne!(vault.config.id, VaultId([0; 16]));
}
