//! Every crash point of what deletes and what replaces: both phases of a prune, and a repair.
#![allow(clippy::unwrap_used)] // a test may stop at the first surprise

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use age::secrecy::ExposeSecret;
use coffre::{
    event::Silent,
    ops::{prune, repair, verify, verify::Depth},
    store::{Local, Store},
    sys::{Cancel, SystemClock},
    vault::{OwnerKeys, Reader, StateDir, Unlocking, Vault},
};

use super::{
    common::{
        bin::{Coffre, tool},
        library::{Tree, assert_same, below, identity, noise, read_disk, read_snapshot, temp, write_files},
    },
    device::Op,
    image::{Unsynced, check_all, image},
    serve::Mounted,
};

/// Where in the log something ended.
type Mark = (usize, &'static str);

struct Recording {
    _guard: tempfile::TempDir,
    dir: PathBuf,
    log: Vec<Op>,
    marks: Vec<Mark>,
    /// What the second and the third snapshot hold, and the one that was forgotten.
    kept: Vec<Tree>,
    forgotten: Tree,
    identity: String,
}

impl Recording {
    fn new() -> Self {
        let (guard, dir) = temp();
        let identity = identity();
        let secret = identity.to_string().expose_secret().to_owned();
        super::common::bin::secret(&dir.join("identity"), &secret);
        let disk = Mounted::at(&dir.join("disk"));
        let (source, mut marks) = (dir.join("source"), Vec::new());
        let step = |marks: &mut Vec<Mark>, name: &'static str, arguments: &[&str]| {
            let mut command = tool(env!("CARGO_BIN_EXE_coffre"));
            command.env("COFFRE_STATE_DIR", dir.join("disk/state")).env("COFFRE_VAULT", dir.join("disk/vault"));
            command.env("COFFRE_IDENTITY", dir.join("identity")).current_dir(&dir).args(arguments);
            Coffre(command).ok();
            marks.push((disk.device.mark(), name));
        };
        let seal = ["-q", "seal", source.to_str().unwrap()];
        step(&mut marks, "init", &["init", "--recipient", &identity.to_public().to_string(), "--sealer", "host1"]);
        write_files(&source, &[("a", &noise(90_000, 1)), ("stays", &noise(60_000, 7))]);
        step(&mut marks, "seal", &seal);
        let forgotten = read_disk(&source);
        write_files(&source, &[("a", &noise(70_000, 2)), ("new/b", &noise(40_000, 3))]);
        step(&mut marks, "seal", &seal);
        let mut kept = vec![read_disk(&source)];
        step(&mut marks, "forget", &["-q", "forget", "latest~1", "--force"]);
        step(&mut marks, "condemn", &["-q", "prune", "--max-unused", "0%"]);
        write_files(&source, &[("new/c", b"c")]);
        step(&mut marks, "seal", &seal);
        kept.push(read_disk(&source));
        step(&mut marks, "settle", &["-q", "prune", "--grace", "0", "--max-unused", "0%"]);
        // The longest pack, its neighbour's manifest: one is mended by its sidecar, one by its second copy.
        let longest = |folder: &str, ending: &str| {
            let found = coffre::store::list_all(&Local::new(dir.join("disk/vault")), folder).unwrap();
            let path = found.into_iter().filter(|(key, _)| key.as_str().ends_with(ending)).max_by_key(|(_, len)| *len).unwrap().0;
            dir.join("disk/vault").join(path.as_str())
        };
        for path in [longest("packs", ".age"), longest("snaps", ".age")] {
            fs::File::options().write(true).open(path).unwrap().write_all_at(b"hurt", 300).unwrap();
        }
        marks.push((disk.device.mark(), "hurt"));
        step(&mut marks, "repair", &["-q", "verify", "--repair"]);
        let log = disk.device.state().log.clone();
        Self { _guard: guard, dir, log, marks, kept, forgotten, identity: secret }
    }

    fn mark(&self, name: &str) -> usize {
        self.marks.iter().find(|(_, n)| *n == name).unwrap().0
    }

    /// What must hold after a crash at `point`.
    fn check(&self, point: usize, unsynced: Unsynced, at: &Path) {
        let what =
            format!("{unsynced:?} after {point} of {} operations, the last {:?}", self.log.len(), self.log.get(point.wrapping_sub(1)));
        let store: Arc<dyn Store> = Arc::new(Local::new(at.join("vault")));
        let vault = Vault::open(store.clone()).unwrap_or_else(|e| panic!("{what}: {}", e.chain()));
        let mut unlocking = Unlocking::default();
        unlocking.add_identity_file("test", &self.identity).unwrap();
        let owner = Arc::new(unlocking.open(&*store, vault.config.id).unwrap());
        // Before anything is put right: what is wanted reads, mended in memory if need be.
        self.reads(&vault, &owner, point, &what);
        let (cancel, reader) = (Cancel::default(), Reader::open(vault.clone(), owner.clone(), 1 << 20).unwrap().0);
        let fixed = repair::run(
            &repair::Context {
                store: store.clone(),
                from: &[],
                owner: None,
                clock: &SystemClock,
                sink: &Silent,
                cancel: &cancel,
                workers: 1,
            },
            &repair::Scope::Everything,
        );
        assert_eq!(fixed.unwrap_or_else(|e| panic!("{what}: repair: {}", e.chain())).lost, [], "{what}");
        self.is_clean(&vault, &reader, &what);
        let context = prune::Context { vault: &vault, reader: &reader, clock: &SystemClock, sink: &Silent, cancel: &cancel, workers: 1 };
        let options = prune::Options {
            max_unused_permille: 0,
            max_rewrite: None,
            repack_small: false,
            grace_secs: 0,
            shorten: true,
            dry_run: false,
            force: true,
        };
        prune::run(&context, &options).unwrap_or_else(|e| panic!("{what}: the next prune: {}", e.chain()));
        self.reads(&vault, &owner, point, &format!("{what}, pruned again"));
        let reader = Reader::open(vault.clone(), owner.clone(), 1 << 20).unwrap().0;
        self.is_clean(&vault, &reader, &format!("{what}, pruned again"));
    }

    /// Every snapshot that was sealed by then and is wanted is there and reads; of the one that was forgotten all, or nothing.
    fn reads(&self, vault: &Vault, owner: &Arc<OwnerKeys>, point: usize, what: &str) {
        let reader = Reader::open(vault.clone(), owner.clone(), 1 << 20).unwrap().0;
        let snapshots = vault.snapshots(owner).unwrap_or_else(|e| panic!("{what}: {}", e.chain())).0;
        let seals: Vec<usize> = self.marks.iter().filter(|(_, name)| *name == "seal").map(|(at, _)| *at).collect();
        let mut got = Vec::new();
        for snapshot in &snapshots {
            let tree = read_snapshot(&reader, snapshot).unwrap_or_else(|e| panic!("{what}: {}: {}", snapshot.key, e.chain()));
            got.push((snapshot.key.seq, below(&tree, &self.dir.join("source"))));
        }
        for (n, tree) in self.kept.iter().enumerate() {
            match got.iter().find(|(seq, _)| *seq == n as u64 + 2) {
                Some((_, got)) => assert_same(got, tree, what),
                None => assert!(point < seals[n + 1], "{what}: snapshot {} is gone", n + 2),
            }
        }
        match got.iter().find(|(seq, _)| *seq == 1) {
            Some((_, got)) => assert_same(got, &self.forgotten, what),
            None => assert!(point > seals[1], "{what}: nobody forgot the first snapshot yet"),
        }
    }

    fn is_clean(&self, vault: &Vault, reader: &Reader, what: &str) {
        let (cancel, nobody) = (Cancel::default(), StateDir::new(Path::new("/nonexistent/coffre-test"), vault.config.id));
        let context = verify::Context {
            vault,
            reader: Some(reader),
            state: &nobody,
            clock: &SystemClock,
            sink: &Silent,
            cancel: &cancel,
            workers: 1,
            expect: &[],
        };
        let report = verify::run(&context, Depth::Chunks).unwrap_or_else(|e| panic!("{what}: {}", e.chain()));
        assert!(report.is_clean(), "{what}: {:?} {:?}", report.damage, report.damaged_files);
    }
}

/// COFFRE_WAYS=20 for that many ways of losing some of what was not synced, at each point.
#[test]
fn a_prune_and_a_repair_lose_nothing_wherever_the_machine_dies() {
    let recording = Recording::new();
    let ways: u64 = std::env::var("COFFRE_WAYS").map_or(1, |n| n.parse().unwrap());
    let (mut points, mut seen) = (Vec::new(), BTreeSet::new());
    let first = recording.marks.iter().filter(|(_, name)| *name == "seal").nth(1).unwrap().0;
    for point in first..=recording.log.len() {
        let some = (0..ways).map(|n| Unsynced::Some(0x9e37_79b9 * (point as u64 + 1) + 7 * n + 3));
        for unsynced in [Unsynced::Kept, Unsynced::Lost].into_iter().chain(some) {
            // While it is hurt by hand, nobody promises anything.
            let by_hand = recording.mark("settle")..recording.mark("hurt");
            if !by_hand.contains(&point) && seen.insert(image(&recording.log[..point], unsynced).fingerprint()) {
                points.push((point, unsynced));
            }
        }
    }
    let names: Vec<String> = recording.marks.iter().map(|(at, name)| format!("{name} up to {at}")).collect();
    println!("{} crash points of {}: {} disks that differ", recording.log.len() - first, names.join(", "), points.len());
    check_all(&recording.log, &points, |point, unsynced, at| recording.check(point, unsynced, at));
    assert!(points.len() > 100, "{} disks", points.len());
}
