//! Every crash point: the real binary works on the device, and after each of its file operations the machine dies in every way.
#![allow(clippy::unwrap_used)] // a test may stop at the first surprise

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use age::secrecy::ExposeSecret;
use coffre::{
    error::ErrorKind,
    event::Silent,
    ops::{copy, seal, verify::Depth},
    store::{Local, Store},
    sys::{Cancel, SystemClock},
    vault::{self, OwnerKeys, Reader, StateDir, Unlocking, Vault, Way},
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

/// A command that ended well: from here on in the log, what it promised must hold.
struct Done {
    at: usize,
    name: &'static str,
    /// The source as it was, if it was a seal.
    tree: Option<Tree>,
}

/// A vault's first days, as its disk saw them.
struct Recording {
    _guard: tempfile::TempDir,
    dir: PathBuf,
    log: Vec<Op>,
    done: Vec<Done>,
    identity: String,
}

impl Recording {
    fn source(&self) -> PathBuf {
        self.dir.join("source")
    }

    /// Runs the binary with vault and state on the device.
    fn run(dir: &Path, arguments: &[&str]) {
        let mut command = tool(env!("CARGO_BIN_EXE_coffre"));
        command.env("COFFRE_STATE_DIR", dir.join("disk/state")).env("COFFRE_VAULT", dir.join("disk/vault"));
        command.env("COFFRE_IDENTITY", dir.join("identity")).current_dir(dir).args(arguments);
        Coffre(command).ok();
    }

    fn new() -> Self {
        let (guard, dir) = temp();
        let identity = identity();
        let secret = identity.to_string().expose_secret().to_owned();
        super::common::bin::secret(&dir.join("identity"), &secret);
        let disk = Mounted::at(&dir.join("disk"));
        let source = dir.join("source");
        let mut done = Vec::new();
        let mut step = |name: &'static str, arguments: &[&str], tree: Option<Tree>| {
            Self::run(&dir, arguments);
            done.push(Done { at: disk.device.mark(), name, tree });
        };
        step("init", &["init", "--recipient", &identity.to_public().to_string(), "--sealer", "host1"], None);
        write_files(&source, &[("a", &noise(50_000, 1)), ("d/inline", b"inline"), ("d/gone", b"gone")]);
        step("seal", &["-q", "seal", source.to_str().unwrap()], Some(read_disk(&source)));
        write_files(&source, &[("a", &noise(70_000, 2)), ("new/b", &noise(40_000, 3))]);
        fs::remove_file(source.join("d/gone")).unwrap();
        step("seal", &["-q", "seal", source.to_str().unwrap()], Some(read_disk(&source)));
        let token = dir.join("token");
        step("key", &["key", "add", "--sealer", "host2", "--output", token.to_str().unwrap()], None);
        step("copy", &["-q", "copy", dir.join("disk/copy").to_str().unwrap()], None);
        let log = disk.device.state().log.clone();
        Self { _guard: guard, dir, log, done, identity: secret }
    }

    /// What must hold after a crash at `point`.
    fn check(&self, point: usize, unsynced: Unsynced, at: &Path) {
        let what =
            format!("{unsynced:?} after {point} of {} operations, the last {:?}", self.log.len(), self.log.get(point.wrapping_sub(1)));
        let mut ended = self.done.iter().filter(|d| d.at <= point);
        let has_vault = ended.next().is_some();
        let promised: Vec<&Tree> = ended.filter_map(|d| d.tree.as_ref()).collect();
        let trees: Vec<&Tree> = self.done.iter().filter_map(|d| d.tree.as_ref()).collect();
        let store = Arc::new(Local::new(at.join("vault")));
        let vault = match Vault::open(store.clone()) {
            Ok(vault) => vault,
            Err(e) => {
                assert!(!has_vault && e.kind() == ErrorKind::NoVault, "{what}: {}", e.chain());
                return self.assert_init_goes_again(&*store, &what);
            }
        };
        let owner = Arc::new(self.unlock(&*store, &vault));
        let snapshots = self.whole_snapshots(&vault, &owner, &promised, &trees, &what);
        let state = StateDir::new(&at.join("state"), vault.config.id);
        let sealer = match seal::sealer_keys(&vault, &state) {
            Ok(keys) => keys,
            // As the command does it, with an owner's key.
            Err(_) => {
                let keys = vault.enrol(&owner, "host1").unwrap_or_else(|e| panic!("{what}: {}", e.chain()));
                state.keep_sealer(&keys).unwrap();
                keys
            }
        };
        let (cancel, source) = (Cancel::default(), self.source());
        let context = seal::Context { vault: &vault, sealer: &sealer, state: &state, clock: &SystemClock, sink: &Silent, cancel: &cancel };
        seal::run(&context, &options(&source)).unwrap_or_else(|e| panic!("{what}: the next seal: {}", e.chain()));
        let now = read_disk(&source);
        let mut all = trees.clone();
        all.push(&now);
        let after = self.whole_snapshots(&vault, &owner, &promised, &all, &what);
        assert_eq!(after, snapshots + 1, "{what}: snapshots after the next seal");
        if point > self.done.iter().rev().nth(1).map_or(0, |key| key.at) {
            let copied = self.done.last().is_some_and(|copy| copy.at <= point);
            self.check_copy(&vault, &owner, at, if copied { &trees } else { &[] }, &all, &what);
        }
    }

    /// What a copy that died left is a vault with whole snapshots, or none yet; and it goes on from there.
    fn check_copy(&self, vault: &Vault, owner: &Arc<OwnerKeys>, at: &Path, promised: &[&Tree], trees: &[&Tree], what: &str) {
        let what = format!("the copy, {what}");
        let store: Arc<dyn Store> = Arc::new(Local::new(at.join("copy")));
        match Vault::open(store.clone()) {
            Ok(copy) => drop(self.whole_snapshots(&copy, owner, promised, trees, &what)),
            Err(e) => assert!(promised.is_empty() && e.kind() == ErrorKind::NoVault, "{what}: {}", e.chain()),
        }
        let cancel = Cancel::default();
        let context = copy::Context { from: &vault.store, to: &store, clock: &SystemClock, sink: &Silent, cancel: &cancel, workers: 1 };
        copy::run(&context, &copy::Options::default()).unwrap_or_else(|e| panic!("{what}: copied again: {}", e.chain()));
        self.whole_snapshots(&Vault::open(store).unwrap(), owner, trees, trees, &what);
    }

    fn unlock(&self, store: &dyn Store, vault: &Vault) -> OwnerKeys {
        let mut unlocking = Unlocking::default();
        unlocking.add_identity_file("test", &self.identity).unwrap();
        unlocking.open(store, vault.config.id).unwrap()
    }

    /// Reads all snapshots: those that were promised are there, each is one of `trees`, and nothing is damaged.
    fn whole_snapshots(&self, vault: &Vault, owner: &Arc<OwnerKeys>, promised: &[&Tree], trees: &[&Tree], what: &str) -> usize {
        let reader = Reader::open(vault.clone(), owner.clone(), 1 << 20).unwrap().0;
        let (snapshots, findings) = vault.snapshots(owner).unwrap_or_else(|e| panic!("{what}: {}", e.chain()));
        assert_eq!(findings, [], "{what}");
        assert!(snapshots.len() >= promised.len(), "{what}: {} snapshots, {} were promised", snapshots.len(), promised.len());
        for (n, snapshot) in snapshots.iter().enumerate() {
            let got = read_snapshot(&reader, snapshot).unwrap_or_else(|e| panic!("{what}: {}", e.chain()));
            let got = below(&got, &self.source());
            match promised.get(n) {
                Some(tree) => assert_same(&got, tree, what),
                None => assert!(trees.iter().any(|tree| **tree == got), "{what}: snapshot {n} is none of what was sealed"),
            }
        }
        let (cancel, nobody) = (Cancel::default(), StateDir::new(Path::new("/nonexistent/coffre-test"), vault.config.id));
        let report = coffre::ops::verify::run(
            &coffre::ops::verify::Context {
                vault,
                reader: Some(&reader),
                state: &nobody,
                clock: &SystemClock,
                sink: &Silent,
                cancel: &cancel,
                workers: 1,
                expect: &[],
            },
            Depth::Chunks,
        );
        let report = report.unwrap_or_else(|e| panic!("{what}: {}", e.chain()));
        assert!(report.is_clean(), "{what}: {:?} {:?}", report.damage, report.damaged_files);
        snapshots.len()
    }

    /// No vault is there: a new one can be made, once what was left is removed.
    fn assert_init_goes_again(&self, store: &dyn Store, what: &str) {
        let left = coffre::store::list_all(store, "").unwrap();
        left.iter().for_each(|(key, _)| store.delete(key).unwrap());
        store.tidy(i128::MAX).unwrap();
        let identity = identity();
        let again = vault::create(Arc::new(Local::new(store.describe())), &[Way::Age(identity.to_public())], "host1");
        again.map(drop).unwrap_or_else(|e| panic!("{what}: init again: {}", e.chain()));
    }
}

fn options(source: &Path) -> seal::Options {
    seal::Options {
        paths: vec![source.to_owned()],
        listed: Vec::new(),
        rules: seal::Rules::default(),
        explain: false,
        never: Vec::new(),
        host: "test".to_owned(),
        tags: Vec::new(),
        labels: Default::default(),
        accept_changes: true,
        compression: seal::Compression::standard(Some(1)),
        bytes_per_sec: None,
        workers: 1,
        coin: None,
    }
}

/// COFFRE_WAYS=20 for that many ways of losing some of what was not synced, at each point.
#[test]
fn whatever_a_crash_leaves_on_the_disk_is_a_vault_with_all_that_was_promised() {
    let recording = Recording::new();
    let ways: u64 = std::env::var("COFFRE_WAYS").map_or(1, |n| n.parse().unwrap());
    let mut points = Vec::new();
    let mut seen = BTreeSet::new();
    for point in 0..=recording.log.len() {
        let some = (0..ways).map(|n| Unsynced::Some(0x9e37_79b9 * (point as u64 + 1) + 7 * n + 3));
        for unsynced in [Unsynced::Kept, Unsynced::Lost].into_iter().chain(some) {
            // The same disk, and the same promises: nothing new to see.
            let promises = recording.done.iter().filter(|d| d.at <= point).count();
            if seen.insert((image(&recording.log[..point], unsynced).fingerprint(), promises)) {
                points.push((point, unsynced));
            }
        }
    }
    let names: Vec<String> = recording.done.iter().map(|d| format!("{} up to {}", d.name, d.at)).collect();
    println!("{} crash points of {}: {} disks that differ", recording.log.len(), names.join(", "), points.len());
    check_all(&recording.log, &points, |point, unsynced, at| recording.check(point, unsynced, at));
    assert!(recording.log.len() > 200, "{} operations", recording.log.len());
}
