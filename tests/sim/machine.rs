//! A sealing host whose world the simulation owns: its clock, its store, its state directory.
#![allow(clippy::unwrap_used)] // a test may stop at the first surprise

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use coffre::{
    error::Result,
    event::Silent,
    format::Config,
    ops::{seal, verify},
    store::{Fault, Faulty, Key, Memory, Store, Upload},
    sys::{Cancel, Clock},
    vault::{Reader, SealerKeys, StateDir, Vault},
};
use tempfile::TempDir;

use super::dice::Dice;
use crate::common::library::copy_dir;

/// Time as the simulation says: long after anything was written to the disk, unless it is set back.
pub struct SimClock(AtomicI64);

/// The year 2096.
pub const LATE_SECS: i64 = 4_000_000_000;

impl SimClock {
    pub fn late() -> Self {
        Self(AtomicI64::new(LATE_SECS * 1_000_000_000))
    }

    pub fn set(&self, secs: i64) {
        self.0.store(secs * 1_000_000_000, Ordering::SeqCst);
    }
}

impl Clock for SimClock {
    fn now_ns(&self) -> i128 {
        i128::from(self.0.load(Ordering::SeqCst))
    }
    fn monotonic(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::SeqCst).unsigned_abs())
    }
    fn sleep(&self, time: Duration) {
        self.0.fetch_add(time.as_nanos() as i64, Ordering::SeqCst);
    }
}

type Visit = Box<dyn FnOnce() + Send>;

/// The store as one process sees it: it fails as told, and at one of its calls somebody else does something.
pub struct Sight {
    pub faulty: Faulty<Memory>,
    calls: AtomicU64,
    visit: Mutex<Option<(u64, Visit)>>,
}

impl Sight {
    pub fn new(disk: &Memory) -> Self {
        Self { faulty: Faulty::new(disk.clone()), calls: AtomicU64::new(0), visit: Mutex::default() }
    }

    pub fn set(&self, fault: Option<Fault>, visit: Option<(u64, Visit)>) {
        self.faulty.set(fault);
        self.calls.store(0, Ordering::SeqCst);
        *self.visit.lock().unwrap() = visit;
    }

    /// Counts a call; before the one that was named, the visitor comes.
    fn call(&self) {
        let n = self.calls.fetch_add(1, Ordering::SeqCst);
        let mut visit = self.visit.lock().unwrap();
        let due = visit.as_ref().is_some_and(|(at, _)| *at == n);
        if let Some((_, visitor)) = visit.take_if(|_| due) {
            drop(visit);
            visitor();
        }
    }
}

impl Store for Sight {
    fn put(&self, key: &Key, bytes: &[u8]) -> Result<()> {
        self.call();
        self.faulty.put(key, bytes)
    }
    fn begin(&self) -> Result<Box<dyn Upload>> {
        self.faulty.begin()
    }
    fn get(&self, key: &Key, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.call();
        self.faulty.get(key, offset, buf)
    }
    fn stat(&self, key: &Key) -> Result<Option<u64>> {
        self.call();
        self.faulty.stat(key)
    }
    fn stored_ns(&self, key: &Key) -> Result<Option<i128>> {
        self.faulty.stored_ns(key)
    }
    fn list(&self, prefix: &str, each: &mut dyn FnMut(Key, u64) -> Result<()>) -> Result<()> {
        self.call();
        self.faulty.list(prefix, each)
    }
    fn delete(&self, key: &Key) -> Result<()> {
        self.call();
        self.faulty.delete(key)
    }
    fn describe(&self) -> String {
        "the simulated store".to_owned()
    }
}

pub struct Machine {
    pub name: &'static str,
    pub vault: Vault,
    pub sight: Arc<Sight>,
    pub sealer: SealerKeys,
    pub state: StateDir,
    pub clock: SimClock,
    root: PathBuf,
    base: TempDir,
}

impl Machine {
    pub fn new(name: &'static str, disk: &Memory, config: &Config, sealer: SealerKeys, root: &Path) -> Self {
        let base = tempfile::Builder::new().prefix("coffre-sim-state-").tempdir_in(fast_place()).unwrap();
        let state = StateDir::new(&base.path().join("now"), config.id);
        state.keep_sealer(&sealer).unwrap();
        let sight = Arc::new(Sight::new(disk));
        let vault = Vault { store: sight.clone(), config: config.clone() };
        let clock = SimClock::late();
        Self { name, vault, sight, sealer, state, clock, root: root.to_owned(), base }
    }

    pub fn seal(&self, coin: [u8; 32]) -> Result<seal::Report> {
        let context = seal::Context {
            vault: &self.vault,
            sealer: &self.sealer,
            state: &self.state,
            clock: &self.clock,
            sink: &Silent,
            cancel: &Cancel::default(),
        };
        let options = seal::Options {
            paths: vec![self.root.clone()],
            listed: Vec::new(),
            rules: seal::Rules::default(),
            explain: false,
            never: Vec::new(),
            host: self.name.to_owned(),
            tags: Vec::new(),
            labels: Default::default(),
            accept_changes: false,
            compression: seal::Compression::standard(Some(1)),
            bytes_per_sec: None,
            workers: 1,
            coin: Some(coin),
        };
        seal::run(&context, &options)
    }

    /// Verifies `vault` with what this host remembers of it.
    pub fn verify(&self, vault: &Vault, reader: Option<&Reader>, depth: verify::Depth) -> Result<verify::Report> {
        let cancel = Cancel::default();
        let context = verify::Context {
            vault,
            reader,
            state: &self.state,
            clock: &self.clock,
            sink: &Silent,
            cancel: &cancel,
            workers: 1,
            expect: &[],
        };
        verify::run(&context, depth)
    }

    /// Copies the state directory aside under `name`.
    pub fn keep_state(&self, name: &str) {
        let kept = self.base.path().join(name);
        let _ = fs::remove_dir_all(&kept);
        copy_dir(self.state.path(), &kept);
    }

    /// Puts the state directory back as it was kept; false if it never was.
    pub fn bring_back_state(&self, name: &str) -> bool {
        let kept = self.base.path().join(name);
        if kept.is_dir() {
            fs::remove_dir_all(self.state.path()).unwrap();
            copy_dir(&kept, self.state.path());
        }
        kept.is_dir()
    }

    /// The catalog of `other` takes the place of this host's.
    pub fn take_catalog_of(&self, other: &Machine) {
        self.lose_catalog();
        if other.state.catalog().is_dir() {
            copy_dir(&other.state.catalog(), &self.state.catalog());
        }
    }

    pub fn lose_catalog(&self) {
        let _ = fs::remove_dir_all(self.state.catalog());
    }

    /// Loses everything but the sealing keys, which an owner's key brings back.
    pub fn lose_state(&self) {
        fs::remove_dir_all(self.state.path()).unwrap();
        self.state.keep_sealer(&self.sealer).unwrap();
    }

    /// Flips a byte of one of the catalog's files, or cuts it.
    pub fn hurt_catalog(&self, dice: &mut Dice) -> bool {
        let mut files = Vec::new();
        let mut folders = vec![self.state.catalog()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).into_iter().flatten().map(|e| e.unwrap()) {
                if entry.file_type().unwrap().is_dir() { folders.push(entry.path()) } else { files.push(entry.path()) }
            }
        }
        files.sort();
        let Some(path) = dice.pick(&files) else { return false };
        let mut bytes = fs::read(path).unwrap();
        if bytes.is_empty() {
            return false;
        }
        let at = dice.below(bytes.len());
        if dice.chance(70) {
            bytes[at] ^= 1 << dice.below(8)
        } else {
            bytes.truncate(at)
        }
        fs::write(path, bytes).unwrap();
        true
    }
}

/// Where small files are quick: the simulation is not about the disk. Memory if the machine has it, else where all tests are.
pub fn fast_place() -> PathBuf {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() && tempfile::tempfile_in(memory).is_ok() { memory.to_owned() } else { std::env::temp_dir() }
}
