//! Step by step: a prune at every store call of a seal, a seal at every store call of a prune, and a death at each.

use std::{
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use coffre::{
    error::Result,
    store::{Fault, Faulty, Key, Memory, Store, Upload},
};

use crate::{
    DAY, all, assert_all,
    common::library::{Host, assert_same, below, copy_of, keys, read_disk, read_snapshot},
    day, forget, options, prune, vault,
};

type Action = Box<dyn FnMut() + Send>;

/// A store that does something once, before its n-th call.
struct Stepped {
    inner: Memory,
    at: u64,
    calls: Arc<AtomicU64>,
    action: Arc<Mutex<Option<Action>>>,
}

impl Stepped {
    fn new(inner: Memory, at: u64, action: impl FnMut() + Send + 'static) -> Self {
        Self { inner, at, calls: Arc::default(), action: Arc::new(Mutex::new(Some(Box::new(action)))) }
    }

    fn step(calls: &AtomicU64, at: u64, action: &Mutex<Option<Action>>) {
        if calls.fetch_add(1, Ordering::SeqCst) == at {
            let action = action.lock().unwrap().take();
            if let Some(mut action) = action {
                action();
            }
        }
    }

    fn next(&self) {
        Self::step(&self.calls, self.at, &self.action);
    }
}

struct SteppedUpload {
    inner: Box<dyn Upload>,
    at: u64,
    calls: Arc<AtomicU64>,
    action: Arc<Mutex<Option<Action>>>,
}

impl Upload for SteppedUpload {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.inner.write(bytes)
    }
    fn commit(self: Box<Self>, key: &Key) -> Result<()> {
        Stepped::step(&self.calls, self.at, &self.action);
        self.inner.commit(key)
    }
}

impl Store for Stepped {
    fn put(&self, key: &Key, bytes: &[u8]) -> Result<()> {
        self.next();
        self.inner.put(key, bytes)
    }
    fn begin(&self) -> Result<Box<dyn Upload>> {
        let (calls, action) = (self.calls.clone(), self.action.clone());
        Ok(Box::new(SteppedUpload { inner: self.inner.begin()?, at: self.at, calls, action }))
    }
    fn get(&self, key: &Key, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.next();
        self.inner.get(key, offset, buf)
    }
    fn stat(&self, key: &Key) -> Result<Option<u64>> {
        self.next();
        self.inner.stat(key)
    }
    fn list(&self, prefix: &str, each: &mut dyn FnMut(Key, u64) -> Result<()>) -> Result<()> {
        self.next();
        self.inner.list(prefix, each)
    }
    fn delete(&self, key: &Key) -> Result<()> {
        self.next();
        self.inner.delete(key)
    }
    fn describe(&self) -> String {
        "stepped".to_owned()
    }
}

/// A vault in which the next seal builds on what is dead: the first of two days is forgotten, and is there again.
fn tempting() -> (tempfile::TempDir, std::path::PathBuf, Host) {
    let (guard, root, host) = vault(2);
    forget(&host, &["latest~1"]).unwrap();
    day(&root, 0);
    (guard, root, host)
}

/// Everything that was sealed is whole, now and after the next prunes; what was sealed last is what is on the disk.
fn assert_whole(host: &Host, store: &Memory, root: &Path, sealed: usize, what: &str) {
    let look = host.twin(Arc::new(store.clone()));
    look.clock.ahead_ns.store(host.clock.ahead_ns.load(Ordering::SeqCst), Ordering::SeqCst);
    for round in ["now", "after a prune", "after another"] {
        let what = format!("{what}, {round}");
        let snapshots = look.snapshots();
        assert_eq!(snapshots.len(), sealed, "{what}");
        let newest = read_snapshot(&look.reader(), snapshots.last().unwrap()).unwrap_or_else(|e| panic!("{what}: {}", e.chain()));
        assert_same(&below(&newest, root), &read_disk(root), &what);
        look.assert_clean_after(&what);
        look.clock.ahead_ns.fetch_add(3 * DAY, Ordering::SeqCst);
        prune(&look, &options(0)).unwrap_or_else(|e| panic!("{what}: {}", e.chain()));
    }
}

fn prune_at_every_step_of_a_seal(grace: u64) {
    let (_guard, root, host) = tempting();
    let (mut steps, mut restarts) = (0, 0);
    for n in 0.. {
        let inner = copy_of(&*host.vault.store);
        let pruner = host.twin(Arc::new(inner.clone()));
        let store = Stepped::new(inner.clone(), n, move || {
            prune(&pruner, &options(grace)).unwrap();
        });
        let action = store.action.clone();
        let sealing = host.fork(Arc::new(store));
        sealing.seal(&[&root]).unwrap_or_else(|e| panic!("step {n}: {}", e.chain()));
        let told = format!("{:?}", sealing.told.lock().unwrap());
        restarts += u64::from(told.contains("pruned while this seal ran"));
        assert_whole(&sealing, &inner, &root, 2, &format!("a prune with grace {grace} at call {n}"));
        steps += 1;
        if action.lock().unwrap().is_some() {
            break;
        }
    }
    println!("{steps} steps of a seal; it began again {restarts} times");
    assert!(steps > 30 && restarts > 3, "{steps} steps, {restarts} restarts");
}

#[test]
fn a_prune_at_every_step_of_a_seal_takes_nothing_from_it() {
    prune_at_every_step_of_a_seal(0);
}

#[test]
fn a_condemnation_at_every_step_of_a_seal_is_honoured() {
    prune_at_every_step_of_a_seal(86_400);
}

#[test]
fn a_seal_at_every_step_of_a_prune_loses_nothing() {
    for grace in [0, 86_400] {
        let (_guard, root, host) = tempting();
        let mut steps = 0;
        for n in 0.. {
            let inner = copy_of(&*host.vault.store);
            let sealing = host.fork(Arc::new(inner.clone()));
            let source = root.clone();
            let store = Stepped::new(inner.clone(), n, move || {
                sealing.seal(&[&source]).unwrap();
            });
            let action = store.action.clone();
            let pruner = host.twin(Arc::new(store));
            prune(&pruner, &options(grace)).unwrap_or_else(|e| panic!("step {n}: {}", e.chain()));
            if action.lock().unwrap().is_some() {
                break;
            }
            steps += 1;
            assert_whole(&pruner, &inner, &root, 2, &format!("a seal at call {n} of a prune with grace {grace}"));
        }
        println!("{steps} steps of a prune with grace {grace}");
        assert!(steps > 30, "{steps}");
    }
}

#[test]
fn a_prune_that_dies_anywhere_loses_nothing_and_the_next_one_ends_it() {
    let (_guard, _, host) = vault(3);
    forget(&host, &["latest~1", "latest~2"]).unwrap();
    let expected = all(&host);
    let done = copy_of(&*host.vault.store);
    let whole = host.twin(Arc::new(done));
    prune(&whole, &options(0)).unwrap();
    let size = crate::bytes_of(&whole, "packs");
    // The first kind at every call, the others at some: a life is short.
    for (fault, every) in [(Fault::CrashAt as fn(u64) -> Fault, 1), (Fault::CrashAfter, 3), (Fault::FailOnceAt, 3)] {
        let mut points = 0;
        for n in (0..).step_by(every) {
            let inner = copy_of(&*host.vault.store);
            let store = Arc::new(Faulty::new(inner.clone()));
            let dying = host.twin(store.clone());
            let reader = dying.reader();
            store.set(Some(fault(n)));
            let result = coffre::ops::prune::run(&crate::context(&dying, &reader), &options(0));
            if store.calls() <= n {
                result.unwrap();
                break;
            }
            points += 1;
            let what = format!("{:?}", fault(n));
            let after = host.twin(Arc::new(inner.clone()));
            assert_all(&after, &expected, &what);
            after.assert_clean_after(&what);
            for _ in 0..3 {
                prune(&after, &options(0)).unwrap_or_else(|e| panic!("{what}: {}", e.chain()));
                after.clock.ahead_ns.fetch_add(3 * DAY, Ordering::SeqCst);
            }
            assert_all(&after, &expected, &what);
            after.assert_clean_after(&what);
            let left = crate::bytes_of(&after, "packs");
            assert!(left <= size + size / 20, "{what}: {left} bytes left, {size} without a death");
        }
        println!("{points} crash points of a prune, {:?}", fault(0));
        assert!(points * every > 90, "{points}");
    }
}

/// Two owners at once: at every step of one prune, all of another.
#[test]
fn two_owners_only_ever_condemn_more() {
    let (_guard, _, host) = vault(3);
    forget(&host, &["latest~1", "latest~2"]).unwrap();
    let expected = all(&host);
    for (first, second) in [(0, 0), (0, 86_400), (86_400, 0)] {
        for n in (0..).step_by(2) {
            let inner = copy_of(&*host.vault.store);
            let other = host.twin(Arc::new(inner.clone()));
            let store = Stepped::new(inner.clone(), n, move || {
                prune(&other, &options(second)).unwrap();
            });
            let action = store.action.clone();
            let one = host.twin(Arc::new(store));
            // It may find that the other was quicker, say so, and leave everything as it is.
            let result = prune(&one, &options(first));
            if action.lock().unwrap().is_some() {
                result.unwrap();
                break;
            }
            let what = format!("call {n}, graces {first} and {second}");
            let after = host.twin(Arc::new(inner));
            assert_all(&after, &expected, &what);
            after.assert_clean_after(&what);
            after.clock.ahead_ns.fetch_add(3 * DAY, Ordering::SeqCst);
            prune(&after, &options(0)).unwrap_or_else(|e| panic!("{what}: {}", e.chain()));
            assert_all(&after, &expected, &what);
            after.assert_clean_after(&what);
        }
    }
}

/// `forget` and `undelete` between the two looks of a prune that deletes.
#[test]
fn an_undelete_at_every_step_of_a_prune_holds_or_is_refused() {
    let (_guard, _, host) = vault(3);
    let before = all(&host);
    let id = host.snapshots()[0].id;
    forget(&host, &["latest~1", "latest~2"]).unwrap();
    let (mut held, mut refused) = (0, 0);
    for n in 0.. {
        let inner = copy_of(&*host.vault.store);
        let other = host.twin(Arc::new(inner.clone()));
        let outcome: Arc<Mutex<Option<bool>>> = Arc::default();
        let told = outcome.clone();
        let store = Stepped::new(inner.clone(), n, move || {
            let back = coffre::ops::undelete::run(&other.vault, &other.owner, 0, &[id.to_string()]);
            *told.lock().unwrap() = Some(back.is_ok());
        });
        let one = host.twin(Arc::new(store));
        let _ = prune(&one, &options(0));
        let Some(back) = *outcome.lock().unwrap() else { break };
        let after = host.twin(Arc::new(inner));
        let wanted: std::collections::BTreeMap<_, _> = after.snapshots().iter().map(|s| (s.id, before[&s.id].clone())).collect();
        assert_eq!(wanted.contains_key(&id), back, "call {n}");
        (held, refused) = (held + u64::from(back), refused + u64::from(!back));
        for _ in 0..2 {
            assert_all(&after, &wanted, &format!("call {n}"));
            after.assert_clean_after(&format!("call {n}"));
            after.clock.ahead_ns.fetch_add(3 * DAY, Ordering::SeqCst);
            prune(&after, &options(0)).unwrap();
        }
    }
    println!("brought back at {held} steps, refused at {refused}");
    assert!(held > 10 && refused > 3, "held {held}, refused {refused}");
    assert!(!keys(&*host.vault.store, "gc/").is_empty());
}
