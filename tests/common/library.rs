//! Vaults through the library: a host that seals, a reader, and whole trees to compare.
#![allow(clippy::unwrap_used)] // a test may stop at the first surprise

mod forge;
mod trees;

#[allow(unused_imports)] // each test file uses a part
pub use forge::{Forge, Sketch};
#[allow(unused_imports)]
pub use trees::*;

use std::{
    collections::BTreeMap,
    fs,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use coffre::{
    error::Result,
    event::Event,
    format::{ChunkId, Content},
    ops::{seal, verify},
    store::{self, Key, Memory, Store, Upload},
    sys::{Cancel, Clock, SystemClock},
    vault::{self, Finding, OwnerKeys, Reader, SealerKeys, Snapshot, StateDir, Vault, Way},
};
use tempfile::TempDir;

type Hook<T> = Mutex<Option<Box<dyn FnMut(T) + Send>>>;

/// The real clock, moved: by default ten seconds on, so that what a test just wrote counts as settled.
pub struct TestClock {
    pub ahead_ns: AtomicI64,
    calls: AtomicU64,
    /// Called with the number of the question, before each answer. A seal asks as it enters each directory.
    pub hook: Hook<u64>,
}

impl Default for TestClock {
    fn default() -> Self {
        Self { ahead_ns: AtomicI64::new(10_000_000_000), calls: AtomicU64::new(0), hook: Mutex::default() }
    }
}

impl Clock for TestClock {
    fn now_ns(&self) -> i128 {
        let n = self.calls.fetch_add(1, Ordering::SeqCst);
        if let Some(hook) = &mut *self.hook.lock().unwrap() {
            hook(n);
        }
        SystemClock.now_ns() + i128::from(self.ahead_ns.load(Ordering::SeqCst))
    }
    fn monotonic(&self) -> Duration {
        SystemClock.monotonic()
    }
    fn sleep(&self, time: Duration) {
        SystemClock.sleep(time);
    }
}

/// A store that calls a hook once, after the put of the first key that starts with `prefix` and ends with `suffix`, be it refused.
pub struct Hooked {
    pub inner: Arc<dyn Store>,
    pub prefix: &'static str,
    pub suffix: &'static str,
    pub hook: Hook<Key>,
}

impl Store for Hooked {
    fn put(&self, key: &Key, bytes: &[u8]) -> Result<()> {
        let done = self.inner.put(key, bytes);
        if key.as_str().starts_with(self.prefix) && key.as_str().ends_with(self.suffix) {
            let hook = self.hook.lock().unwrap().take();
            if let Some(mut hook) = hook {
                hook(key.clone());
            }
        }
        done
    }
    fn begin(&self) -> Result<Box<dyn Upload>> {
        self.inner.begin()
    }
    fn get(&self, key: &Key, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.inner.get(key, offset, buf)
    }
    fn stat(&self, key: &Key) -> Result<Option<u64>> {
        self.inner.stat(key)
    }
    fn list(&self, prefix: &str, each: &mut dyn FnMut(Key, u64) -> Result<()>) -> Result<()> {
        self.inner.list(prefix, each)
    }
    fn delete(&self, key: &Key) -> Result<()> {
        self.inner.delete(key)
    }
    fn describe(&self) -> String {
        self.inner.describe()
    }
}

/// A directory for one test, gone when it ends; its path holds no links.
pub fn temp() -> (TempDir, PathBuf) {
    let dir = tempfile::Builder::new().prefix("coffre-test-").tempdir().unwrap();
    let path = dir.path().canonicalize().unwrap();
    (dir, path)
}

/// A vault's identity for tests.
pub fn identity() -> age::x25519::Identity {
    age::x25519::Identity::generate()
}

/// One sealing host with its vault, its owner's keys at hand, and what it was told.
pub struct Host {
    pub vault: Vault,
    pub owner: Arc<OwnerKeys>,
    pub sealer: SealerKeys,
    pub state: StateDir,
    pub clock: TestClock,
    pub told: Mutex<Vec<Event>>,
    pub cancel: Cancel,
    pub workers: usize,
    state_base: TempDir,
}

impl Host {
    /// A new vault in memory.
    pub fn memory() -> Self {
        Self::create(Arc::new(Memory::default()))
    }

    /// A new vault in `store`.
    pub fn create(store: Arc<dyn Store>) -> Self {
        let made = vault::create(store, &[Way::Age(identity().to_public())], "host1").unwrap();
        Self::with(made.vault, Arc::new(made.owner), made.sealer)
    }

    /// A host with these keys and a state directory of its own.
    pub fn with(vault: Vault, owner: Arc<OwnerKeys>, sealer: SealerKeys) -> Self {
        let state_base = temp().0;
        let state = StateDir::new(state_base.path(), vault.config.id);
        state.keep_sealer(&sealer).unwrap();
        state.pin_owner(&owner.sign.public()).unwrap();
        Self {
            vault,
            owner,
            sealer,
            state,
            clock: TestClock::default(),
            told: Mutex::default(),
            cancel: Cancel::default(),
            workers: 1,
            state_base,
        }
    }

    /// The same sealer on another machine: its own state directory, and `store` in place of the vault's.
    pub fn twin(&self, store: Arc<dyn Store>) -> Self {
        let vault = Vault { store, config: self.vault.config.clone() };
        Self::with(vault, self.owner.clone(), SealerKeys::decode(&self.sealer.encode()).unwrap())
    }

    /// This host as it is now, on a machine of its own: a copy of its state directory, and `store` in place of the vault's.
    pub fn fork(&self, store: Arc<dyn Store>) -> Self {
        let twin = self.twin(store);
        fs::remove_dir_all(twin.state.path()).unwrap();
        copy_dir(self.state.path(), twin.state.path());
        twin
    }

    /// The same host, whose process looks at the vault through `store`: state directory and all.
    pub fn through(self, store: Arc<dyn Store>) -> Self {
        Self { vault: Vault { store, config: self.vault.config.clone() }, ..self }
    }

    pub fn context(&self) -> seal::Context<'_> {
        seal::Context {
            vault: &self.vault,
            sealer: &self.sealer,
            state: &self.state,
            clock: &self.clock,
            sink: &self.told,
            cancel: &self.cancel,
        }
    }

    pub fn options(&self, paths: &[&Path]) -> seal::Options {
        seal::Options {
            paths: paths.iter().map(|p| p.to_path_buf()).collect(),
            listed: Vec::new(),
            rules: seal::Rules::default(),
            explain: false,
            never: Vec::new(),
            host: "test".to_owned(),
            tags: Vec::new(),
            labels: Default::default(),
            accept_changes: false,
            compression: seal::Compression::standard(None),
            bytes_per_sec: None,
            workers: self.workers,
            coin: None,
        }
    }

    pub fn seal(&self, paths: &[&Path]) -> Result<seal::Report> {
        self.seal_with(&self.options(paths))
    }

    pub fn seal_with(&self, options: &seal::Options) -> Result<seal::Report> {
        seal::run(&self.context(), options)
    }

    /// A reader as a process has it that has just started.
    pub fn reader(&self) -> Reader {
        Reader::open(self.vault.clone(), self.owner.clone(), 64 << 20).unwrap().0
    }

    /// All snapshots, oldest first.
    pub fn snapshots(&self) -> Vec<Snapshot> {
        let (snapshots, findings) = self.vault.snapshots(&self.owner).unwrap();
        assert_eq!(findings, [], "findings among the snapshots");
        snapshots
    }

    /// The newest snapshot.
    pub fn latest(&self) -> Snapshot {
        self.snapshots().pop().unwrap()
    }

    /// The id of the node of the directory at `root` in the newest snapshot: names everything below it, and nothing above.
    pub fn latest_node(&self, root: &Path) -> ChunkId {
        match vault::resolve_path(&self.reader(), &self.latest(), root.as_os_str().as_bytes()).unwrap().unwrap().content {
            Content::Dir { node, .. } => node,
            other => panic!("{} is no directory: {other:?}", root.display()),
        }
    }

    /// What the newest snapshot holds below `root`.
    pub fn read_latest(&self, root: &Path) -> Tree {
        below(&read_snapshot(&self.reader(), &self.latest()).unwrap(), root)
    }

    pub fn verify(&self, depth: verify::Depth) -> Result<verify::Report> {
        let reader = self.reader();
        self.verify_with(depth, Some(&reader))
    }

    pub fn verify_with(&self, depth: verify::Depth, reader: Option<&Reader>) -> Result<verify::Report> {
        let context = verify::Context {
            vault: &self.vault,
            reader,
            state: &self.state,
            expect: &[],
            clock: &self.clock,
            sink: &self.told,
            cancel: &self.cancel,
            workers: 1,
        };
        verify::run(&context, depth)
    }

    /// Verifies everything, and that nothing is wrong.
    pub fn assert_clean(&self) -> verify::Report {
        self.assert_clean_after("verify")
    }

    /// The same; `what` is said where something is wrong.
    pub fn assert_clean_after(&self, what: &str) -> verify::Report {
        let report = self.verify(verify::Depth::Chunks).unwrap();
        assert_eq!((&report.damage, &report.damaged_files), (&Vec::new(), &Vec::new()), "{what}");
        report
    }
}

/// Copies every object into a new store in memory.
pub fn copy_of(from: &dyn Store) -> Memory {
    let to = Memory::default();
    for (key, bytes) in objects(from) {
        to.put(&key, &bytes).unwrap();
    }
    to
}

/// Every object.
pub fn objects(store: &dyn Store) -> BTreeMap<Key, Vec<u8>> {
    let keys = store::list_all(store, "").unwrap();
    keys.into_iter().map(|(key, _)| (key.clone(), store::get_all(store, &key, 1 << 30).unwrap())).collect()
}

/// The keys of all objects whose path starts with `prefix`.
pub fn keys(store: &dyn Store, prefix: &str) -> Vec<Key> {
    store::list_all(store, "").unwrap().into_iter().map(|(key, _)| key).filter(|k| k.as_str().starts_with(prefix)).collect()
}

/// The paths that findings name, each once.
pub fn named(findings: &[Finding]) -> Vec<String> {
    let mut names: Vec<String> = findings.iter().map(|f| f.object.clone()).collect();
    names.sort();
    names.dedup();
    names
}

/// Bytes that do not compress, always the same for a seed.
pub fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        bytes.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Writes files (and the directories above them) below `root`.
pub fn write_files(root: &Path, files: &[(&str, &[u8])]) {
    for (path, bytes) in files {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

/// Copies a directory with all files below it.
pub fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(|e| e.unwrap()) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() { copy_dir(&entry.path(), &target) } else { assert!(fs::copy(entry.path(), target).is_ok()) }
    }
}
