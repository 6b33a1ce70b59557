//! Every byte of a tiny vault: cut at each block, gone, or in another's place. (Each byte flipped in turn: `tests/damage.rs`.)
//!
//! Verify reports it, or all reads as before; nobody ever gets a wrong byte: not the library, not the mount, not restore, not RESTORE.py.
#![allow(clippy::unwrap_used)] // a test may stop at the first surprise

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use age::secrecy::ExposeSecret;
use coffre::{
    error::Result,
    event::Silent,
    ops::verify::{self, Depth},
    store::{Key, Memory, Store},
    sys::{Cancel, SystemClock},
    vault::{self, Reader, Snapshot, StateDir, Unlocking, Vault, Way},
};

use crate::common::{
    bin::{Home, Mounted, tool},
    library::{Host, Tree, copy_of, identity, noise, objects, read_snapshot, temp, write_files},
    tree,
};

/// Two snapshots of two sealers, and what they hold.
struct Tiny {
    _guard: tempfile::TempDir,
    store: Memory,
    identity: String,
    trees: BTreeMap<String, Tree>,
}

fn tiny() -> Tiny {
    let (guard, root) = temp();
    write_files(&root, &[("inline", b"kept in the tree"), ("d/chunk", &noise(3000, 1)), ("d/again", &noise(3000, 1))]);
    let (identity, store) = (identity(), Memory::default());
    let ways = [Way::Age(identity.to_public()), Way::Age(crate::common::library::identity().to_public())];
    let made = vault::create(Arc::new(store.clone()), &ways, "host1").unwrap();
    let first = Host::with(made.vault, Arc::new(made.owner), made.sealer);
    first.seal(&[&root]).unwrap();
    write_files(&root, &[("d/chunk", &noise(3000, 2))]);
    first.seal(&[&root]).unwrap();
    let second = Host::with(first.vault.clone(), first.owner.clone(), first.vault.enrol(&first.owner, "host2").unwrap());
    second.seal(&[&root]).unwrap();
    let reader = second.reader();
    let trees = second.snapshots().iter().map(|s| (s.key.to_string(), read_snapshot(&reader, s).unwrap())).collect();
    Tiny { _guard: guard, store, identity: identity.to_string().expose_secret().to_owned(), trees }
}

impl Tiny {
    /// Whether verify finds something. Panics on a wrong byte, and if something is lost of which verify says nothing.
    fn is_seen(&self, store: &Memory) -> bool {
        let look = || -> Result<(Vault, Reader, Vec<Snapshot>)> {
            let vault = Vault::open(Arc::new(store.clone()))?;
            let mut unlocking = Unlocking::default();
            unlocking.add_identity_file("test", &self.identity)?;
            let owner = Arc::new(unlocking.open(store, vault.config.id)?);
            let snapshots = vault.snapshots(&owner)?.0;
            let reader = Reader::open(vault.clone(), owner, 1 << 20)?.0;
            Ok((vault, reader, snapshots))
        };
        let Ok((vault, reader, snapshots)) = look() else { return true };
        let (cancel, state) = (Cancel::default(), StateDir::new(Path::new("/nonexistent/coffre-test"), vault.config.id));
        let context = verify::Context {
            vault: &vault,
            reader: Some(&reader),
            state: &state,
            clock: &SystemClock,
            sink: &Silent,
            cancel: &cancel,
            workers: 1,
            expect: &[],
        };
        let reported = verify::run(&context, Depth::Chunks).map_or(true, |report| !report.is_clean());
        let mut lost = snapshots.len() < self.trees.len();
        for snapshot in &snapshots {
            match read_snapshot(&reader, snapshot) {
                Ok(tree) => assert!(tree == self.trees[&snapshot.key.to_string()], "wrong bytes in {}", snapshot.key),
                Err(_) => lost = true,
            }
        }
        assert!(reported || !lost, "something cannot be read, and verify says that all is well");
        reported
    }

    /// Does each of these to a copy of the vault; returns how many verify saw.
    fn each<T: Sync>(&self, work: &[T], hurt: impl Fn(&Memory, &T) + Sync, say: impl Fn(&T) -> String + Sync) -> usize {
        let (next, seen) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let worker = || {
            while let Some(item) = work.get(next.fetch_add(1, Ordering::Relaxed)) {
                let store = copy_of(&self.store);
                hurt(&store, item);
                let verdict = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.is_seen(&store)));
                seen.fetch_add(usize::from(verdict.unwrap_or_else(|_| panic!("{}", say(item)))), Ordering::Relaxed);
            }
        };
        thread::scope(|scope| (0..2).for_each(|_| drop(scope.spawn(worker))));
        seen.into_inner()
    }
}

fn set(store: &Memory, key: &Key, bytes: Vec<u8>) {
    assert!(store.damage(key, |there| *there = bytes));
}

#[test]
fn an_object_cut_anywhere_is_seen() {
    let tiny = tiny();
    let cuts = |(key, bytes): (Key, Vec<u8>)| {
        let edges = (0..bytes.len()).step_by(4096).chain([1, bytes.len() / 2, bytes.len() - 1]).collect::<std::collections::BTreeSet<_>>();
        edges.into_iter().map(move |len| (key.clone(), len))
    };
    let work: Vec<(Key, usize)> = objects(&tiny.store).into_iter().flat_map(cuts).collect();
    let cut = |store: &Memory, (key, len): &(Key, usize)| assert!(store.damage(key, |bytes| bytes.truncate(*len)));
    let seen = tiny.each(&work, cut, |(key, len)| format!("{key} cut to {len}"));
    let second_copies = work.iter().filter(|(key, _)| key.as_str().starts_with("parity/")).count();
    println!("{} cuts: {seen} seen, {second_copies} in second copies", work.len());
    // The line break at the end of a signature's text means nothing.
    let signatures = work.iter().filter(|(key, len)| key.as_str().ends_with(".sig") && *len > 200).count();
    assert!(seen + second_copies + signatures >= work.len(), "{} cuts, {seen} seen", work.len());
}

#[test]
fn an_object_that_is_gone_is_seen() {
    let tiny = tiny();
    // Without the signature of its newest snapshot a vault is one in which that was never made: only who remembers it knows.
    let newest = ["snaps/host1/0000000002.b3.sig", "snaps/host2/0000000001.b3.sig"];
    let work: Vec<Key> = objects(&tiny.store).into_keys().filter(|key| !newest.contains(&key.as_str())).collect();
    let seen = tiny.each(&work, |store, key| store.delete(key).unwrap(), |key| format!("{key} gone"));
    let unseen = work.iter().filter(|key| key.as_str().starts_with("parity/")).count();
    println!("{} objects gone: {seen} seen", work.len());
    assert!(seen + unseen >= work.len(), "{} gone, {seen} seen", work.len());
}

#[test]
fn two_objects_in_each_others_place_are_seen() {
    let tiny = tiny();
    let all: Vec<(Key, Vec<u8>)> = objects(&tiny.store).into_iter().collect();
    let kind =
        |key: &Key| (key.as_str().split('/').next().unwrap().to_owned(), key.as_str().split_once('.').map(|(_, end)| end.to_owned()));
    let mut work = Vec::new();
    for (n, (one, a)) in all.iter().enumerate() {
        work.extend(
            all[n + 1..].iter().filter(|(two, b)| kind(one) == kind(two) && a != b).map(|two| ((one.clone(), a.clone()), two.clone())),
        );
    }
    type Pair = ((Key, Vec<u8>), (Key, Vec<u8>));
    let swap = |store: &Memory, ((one, a), (two, b)): &Pair| {
        set(store, one, b.clone());
        set(store, two, a.clone());
    };
    let seen = tiny.each(&work, swap, |((one, _), (two, _))| format!("{one} and {two} swapped"));
    let second_copies = work.iter().filter(|((key, _), _)| key.as_str().starts_with("parity/")).count();
    println!("{} pairs swapped: {seen} seen", work.len());
    assert!(work.len() > 30 && seen + second_copies == work.len(), "{} pairs, {seen} seen", work.len());
}

/// Files that differ from the source, among those that are there.
fn wrong(source: &Path, got: &Path) -> Vec<PathBuf> {
    let mut wrong = Vec::new();
    for entry in fs::read_dir(source).unwrap().map(|e| e.unwrap()) {
        let (here, there) = (entry.path(), got.join(entry.file_name()));
        match entry.file_type().unwrap().is_dir() {
            true => wrong.extend(wrong_in(&here, &there)),
            // What cannot be read is not wrong.
            false => wrong.extend(fs::read(&there).ok().filter(|bytes| *bytes != fs::read(&here).unwrap()).map(|_| there)),
        }
    }
    wrong
}

fn wrong_in(source: &Path, got: &Path) -> Vec<PathBuf> {
    if got.is_dir() { wrong(source, got) } else { Vec::new() }
}

/// The real programs on a vault with one byte flipped, one object cut or two swapped: a sample, as each starts several processes.
#[test]
fn nobody_gets_a_wrong_byte_from_a_damaged_vault() {
    let home = Home::new();
    for n in 0..6 {
        tree::write(home.source().join(format!("d{}/f{n}", n % 2)), tree::noise(n, 30_000));
    }
    home.seal();
    tree::write(home.source().join("d0/f0"), tree::noise(9, 30_000));
    home.seal();
    let objects = [home.objects("packs", ".age"), home.objects("index", ".age"), home.objects("snaps", "")].concat();
    let whole: Vec<Vec<u8>> = objects.iter().map(|path| fs::read(path).unwrap()).collect();
    let mut tried = 0;
    for (n, path) in objects.iter().enumerate() {
        let bytes = &whole[n];
        let middle = (n * 7919 + bytes.len() / 3) % bytes.len();
        let mut flipped = bytes.clone();
        flipped[middle] ^= 1 << (n % 8);
        let swapped = &whole[(n + 1) % objects.len()];
        for hurt in [flipped, bytes[..bytes.len() / 2].to_vec(), swapped.clone()].into_iter().skip(n % 3).take(1) {
            fs::remove_file(path).unwrap();
            fs::write(path, &hurt).unwrap();
            let to = |name: &str| home.path(format!("{name}-{n}"));
            home.owner(["restore", "latest", "--to"]).args([to("restored")]).run();
            let mut python = tool("python3");
            python.arg(home.vault().join("RESTORE.py")).arg(home.key()).arg(to("recipe")).output().unwrap();
            let recipe = to("recipe").join(home.source().strip_prefix("/").unwrap());
            let mut got = vec![to("restored"), to("restored").join(home.source().strip_prefix("/").unwrap()), recipe];
            let mounted = home.snapshots_are_listed().then(|| Mounted::start(&home, &[]));
            got.extend(mounted.iter().map(|_| home.mnt().join("latest").join(home.source().strip_prefix("/").unwrap())));
            for got in &got {
                // An older snapshot may be the newest that counts: its first file is the older one.
                let mut wrong = wrong_in(&home.source(), got);
                wrong.retain(|path| fs::read(path).unwrap() != tree::noise(0, 30_000) || !path.ends_with("d0/f0"));
                assert!(wrong.is_empty(), "{} hurt: {wrong:?}", path.display());
            }
            drop(mounted);
            fs::write(path, bytes).unwrap();
            tried += 1;
        }
    }
    home.owner(["verify", "--depth", "chunks"]).ok();
    println!("{tried} objects hurt, each read by restore, RESTORE.py and a mount");
    assert!(tried >= 8, "{tried}");
}

impl Home {
    /// Whether a mount of the vault can begin.
    fn snapshots_are_listed(&self) -> bool {
        self.owner(["snapshots"]).run().code == 0
    }
}
