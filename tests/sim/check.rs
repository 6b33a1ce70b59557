//! What must hold after every step.
#![allow(clippy::unwrap_used)] // a test may stop at the first surprise

use std::{collections::BTreeSet, os::unix::ffi::OsStrExt, panic::resume_unwind, thread};

use coffre::{
    error::ErrorKind,
    format::Content,
    ops::verify::{Depth, Report},
    store::{Key, Memory},
    vault::{Reader, Snapshot, Vault, resolve_path},
};

use super::{
    dice::Dice,
    source::{What, is_at_or_below},
    world::{Sealed, World},
};
use crate::common::library::read_entry;

/// Runs `f` as a process of its own would: in a thread that remembers nothing.
fn afresh(f: impl FnOnce() + Send) {
    thread::scope(|scope| scope.spawn(f).join()).unwrap_or_else(|panic| resume_unwind(panic));
}

/// Everything: every snapshot is read, everything verified, and the two agree on what is lost.
pub fn thoroughly(world: &World, dice: &mut Dice) {
    afresh(|| all(world, dice));
}

fn all(world: &World, dice: &mut Dice) {
    let reader = world.reader();
    let (snapshots, _) = world.vault().snapshots(&world.owner).unwrap();
    let machine = &world.machines[dice.below(world.machines.len())];
    let report = machine.verify(&world.vault(), Some(&reader), Depth::Chunks).unwrap();
    assert_named(world, &report);
    let keyless = machine.verify(&world.vault(), None, Depth::Packs).unwrap();
    assert_named(world, &keyless);
    let mends = world.mends_itself();
    if mends {
        assert!(report.damaged_files.is_empty(), "all can be mended, and these cannot be read: {:?}", report.damaged_files);
    }
    for (key, sealed) in &world.sealed {
        let Some(snapshot) = snapshots.iter().find(|s| s.key == *key) else {
            let explains = [key.manifest(), key.receipt(), key.signature()];
            assert!(world.is_hurt(&explains) && !mends, "snapshot {key} is gone, and nothing of it was hurt beyond mending");
            continue;
        };
        assert_eq!(snapshot.id, sealed.id, "snapshot {key} is another one");
        let lost = read(&reader, snapshot, sealed);
        assert!(lost.is_empty() || !mends, "snapshot {key}: {lost:?} cannot be read, and all can be mended");
        // Signed well once, it counts for who knows that; to verify it is damaged as a whole, whatever of it still reads.
        if world.is_hurt(&[key.receipt(), key.signature()]) {
            continue;
        }
        assert_lost_is_named(&report, snapshot, sealed, &lost);
    }
    assert_eq!(snapshots.iter().filter(|s| !world.sealed.contains_key(&s.key)).count(), 0, "snapshots that nobody sealed");
    if world.hurt.is_empty() {
        assert!(report.is_clean() && snapshots.len() == world.sealed.len(), "nothing is hurt: {report:?}");
        world.assert_everything_is_twice();
    }
}

/// The newest snapshots of a process that just started, and one through the reader that stays.
pub fn quickly(world: &World, dice: &mut Dice) {
    let (snapshots, _) = world.vault().snapshots(&world.owner).unwrap();
    afresh(|| {
        let reader = world.reader();
        snapshots.iter().rev().take(2).for_each(|snapshot| check_read(world, &reader, snapshot));
    });
    if let Some(snapshot) = dice.pick(&snapshots) {
        check_read(world, &world.mount, snapshot);
    }
}

/// Every snapshot is in the copy too, and reads there.
pub fn copied(world: &World, copy: &Memory) {
    afresh(|| {
        let vault = Vault { store: std::sync::Arc::new(copy.clone()), config: world.config.clone() };
        let (snapshots, findings) = vault.snapshots(&world.owner).unwrap();
        assert_eq!(findings, [], "the copy");
        let reader = Reader::open(vault, world.owner.clone(), 1 << 20).unwrap().0;
        for (key, sealed) in &world.sealed {
            let snapshot = snapshots.iter().find(|s| s.key == *key).unwrap_or_else(|| panic!("{key} is not in the copy"));
            assert!(read(&reader, snapshot, sealed).is_empty(), "{key} cannot be read from the copy");
        }
    });
}

fn check_read(world: &World, reader: &Reader, snapshot: &Snapshot) {
    let lost = read(reader, snapshot, &world.sealed[&snapshot.key]);
    assert!(lost.is_empty() || !world.hurt.is_empty(), "snapshot {}: {lost:?} cannot be read, and nothing is hurt", snapshot.key);
}

/// What verify names is what was hurt, if any receipt speaks of it.
fn assert_named(world: &World, report: &Report) {
    // A receipt stands for its signature too: nothing tells which of the two was hurt.
    let plain = |path: &str| path.strip_suffix(".sig").unwrap_or(path).to_owned();
    let found: BTreeSet<String> = report.damage.iter().map(|f| plain(&f.object)).collect();
    let may: BTreeSet<String> = world.hurt.keys().map(|key| plain(key.as_str())).collect();
    let named = world.named();
    let is_named = |key: &&Key| named.contains(key.as_str()) || world.is_beside(key, &named);
    let must: BTreeSet<String> =
        world.hurt.keys().filter(is_named).filter(|key| !world.is_swapped_beside_damage(key)).map(|key| plain(key.as_str())).collect();
    let missed: Vec<_> = must.difference(&found).collect();
    let invented: Vec<_> = found.difference(&may).collect();
    assert!(missed.is_empty() && invented.is_empty(), "verify misses {missed:?} and invents {invented:?}: {:?}", report.damage);
}

/// Verify names the files that cannot be read, and no others.
fn assert_lost_is_named(report: &Report, snapshot: &Snapshot, sealed: &Sealed, lost: &BTreeSet<String>) {
    let id = snapshot.id.to_string();
    let files: Vec<_> = report.damaged_files.iter().filter(|f| f.snapshot == id).collect();
    for path in sealed.plain.keys() {
        let absolute = format!("{}/{path}", sealed.root.display());
        // A directory with a slash at its end stands for all below it.
        let is_named = files.iter().any(|f| f.path == absolute || (f.path.ends_with('/') && format!("{absolute}/").starts_with(&f.path)));
        let is_lost = lost.iter().any(|top| top.is_empty() || is_at_or_below(path, top));
        assert_eq!(is_lost, is_named, "snapshot {} {path}: lost {is_lost}, named by verify {is_named}: {files:?}", snapshot.key);
    }
}

/// Reads a snapshot and holds it against the map; returns the paths that cannot be read, each for all below it.
fn read(reader: &Reader, snapshot: &Snapshot, sealed: &Sealed) -> BTreeSet<String> {
    let mut reading = Reading { reader, snapshot, sealed, seen: BTreeSet::new(), lost: BTreeSet::new() };
    match resolve_path(reader, snapshot, sealed.root.as_os_str().as_bytes()) {
        Ok(Some(entry)) => reading.content(&entry, ""),
        Ok(None) => panic!("snapshot {} does not hold its source", snapshot.key),
        Err(e) => reading.lose("", &e),
    }
    for path in sealed.plain.keys() {
        let lost = reading.lost.iter().any(|top| top.is_empty() || is_at_or_below(path, top));
        assert!(lost || reading.seen.contains(path), "snapshot {}: {path} is missing", snapshot.key);
    }
    reading.lost
}

struct Reading<'a> {
    reader: &'a Reader,
    snapshot: &'a Snapshot,
    sealed: &'a Sealed,
    seen: BTreeSet<String>,
    lost: BTreeSet<String>,
}

impl Reading<'_> {
    fn lose(&mut self, path: &str, e: &coffre::error::Error) {
        assert!(matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::Missing), "{path}: {}", e.chain());
        self.lost.insert(path.to_owned());
    }

    fn content(&mut self, entry: &coffre::format::Entry, path: &str) {
        if !path.is_empty() {
            let expected = self.sealed.plain.get(path);
            let secs = (entry.mtime_ns / 1_000_000_000) as i64;
            let got = match &entry.content {
                Content::Dir { .. } => What::Dir,
                Content::Symlink(to) => What::Link(secs, to.to_vec()),
                _ => match read_entry(self.reader, self.snapshot, entry) {
                    Ok(bytes) => What::File(secs, bytes),
                    Err(e) => return self.lose(path, &e),
                },
            };
            assert!(expected == Some(&got), "snapshot {}: wrong: {path}", self.snapshot.key);
            self.seen.insert(path.to_owned());
        }
        if let Content::Dir { node, .. } = &entry.content {
            match self.reader.dir(&self.reader.keys(self.snapshot), node) {
                Err(e) => self.lose(path, &e),
                Ok(entries) => {
                    for entry in &entries {
                        let name = std::str::from_utf8(&entry.name).unwrap();
                        self.content(entry, &if path.is_empty() { name.to_owned() } else { format!("{path}/{name}") });
                    }
                }
            }
        }
    }
}
