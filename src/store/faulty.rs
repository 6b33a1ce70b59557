//! A store that fails on purpose.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, Ordering},
};

use crate::{
    error::{Error, ErrorKind, Result},
    store::{Key, Store, Upload},
};

/// How a store misbehaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The n-th call from now on (0 is the next) fails, and every one after it, as if the machine had died.
    CrashAt(u64),
    /// As `CrashAt`, but if that call is a `put`, it still takes effect: the answer was lost, not the write.
    CrashAfter(u64),
    /// As `CrashAt`, but if that call is a `put`, the first half of the object stands under its key: no store of ours does
    /// that, disks and file servers have been seen to.
    TornAt(u64),
    /// The n-th call fails once.
    FailOnceAt(u64),
    /// Puts fail as on a full disk once this many more bytes were stored.
    FullAfter(u64),
}

/// Wraps a store and misbehaves as told.
pub struct Faulty<S> {
    inner: Arc<S>,
    plan: Arc<Plan>,
}

#[derive(Default)]
struct Plan {
    fault: Mutex<Option<Fault>>,
    calls: AtomicU64,
    torn: Mutex<Option<Key>>,
}

impl<S: Store> Faulty<S> {
    /// Behaves well until told otherwise.
    pub fn new(inner: S) -> Self {
        Self { inner: Arc::new(inner), plan: Arc::default() }
    }

    /// Misbehaves from now on, or no longer.
    pub fn set(&self, fault: Option<Fault>) {
        self.plan.calls.store(0, Ordering::SeqCst);
        *self.plan.torn.lock().expect("nobody panics while holding the key") = None;
        *self.plan.fault.lock().expect("nobody panics while holding the fault") = fault;
    }

    /// The object that `TornAt` left half written since the last `set`.
    pub fn torn(&self) -> Option<Key> {
        self.plan.torn.lock().expect("nobody panics while holding the key").clone()
    }

    /// Calls since the last `set`; an upload counts once, when it is committed.
    pub fn calls(&self) -> u64 {
        self.plan.calls.load(Ordering::SeqCst)
    }
}

fn gone() -> Error {
    Error::unavailable("the store is gone (injected)")
}

/// What becomes of a call that does not fail at once.
#[derive(PartialEq, Eq)]
enum Outcome {
    Done,
    /// It takes effect, and then fails.
    Unanswered,
    /// Half of it takes effect, and it fails.
    Torn,
}

impl Plan {
    fn next(&self, put_len: Option<u64>) -> Result<Outcome> {
        let n = self.calls.fetch_add(1, Ordering::SeqCst);
        let mut fault = self.fault.lock().expect("nobody panics while holding the fault");
        match (*fault, put_len) {
            (Some(Fault::CrashAt(at)), _) if n >= at => Err(gone()),
            (Some(Fault::CrashAfter(at)), Some(_)) if n == at => Ok(Outcome::Unanswered),
            (Some(Fault::TornAt(at)), Some(_)) if n == at => Ok(Outcome::Torn),
            (Some(Fault::CrashAfter(at) | Fault::TornAt(at)), _) if n >= at => Err(gone()),
            (Some(Fault::FailOnceAt(at)), _) if n == at => Err(gone()),
            (Some(Fault::FullAfter(room)), Some(len)) => match room.checked_sub(len) {
                Some(left) => {
                    *fault = Some(Fault::FullAfter(left));
                    Ok(Outcome::Done)
                }
                None => Err(Error::new(ErrorKind::Full, "the store is full (injected)")),
            },
            _ => Ok(Outcome::Done),
        }
    }

    /// Puts `len` bytes with `put`, which is told how many of them, unless this call fails.
    fn put(&self, key: &Key, len: usize, put: impl FnOnce(usize) -> Result<()>) -> Result<()> {
        match self.next(Some(len as u64))? {
            Outcome::Done => put(len),
            Outcome::Unanswered => put(len).and(Err(gone())),
            Outcome::Torn => {
                *self.torn.lock().expect("nobody panics while holding the key") = Some(key.clone());
                put(len / 2).and(Err(gone()))
            }
        }
    }
}

/// Keeps what it is given, so that a part of it can be stored.
struct FaultyUpload<S> {
    store: Arc<S>,
    inner: Box<dyn Upload>,
    plan: Arc<Plan>,
    bytes: Vec<u8>,
}

impl<S: Store> Upload for FaultyUpload<S> {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.bytes.extend_from_slice(bytes);
        self.inner.write(bytes)
    }

    fn commit(self: Box<Self>, key: &Key) -> Result<()> {
        let Self { store, inner, plan, bytes } = *self;
        plan.put(key, bytes.len(), |len| if len == bytes.len() { inner.commit(key) } else { store.put(key, &bytes[..len]) })
    }
}

impl<S: Store + 'static> Store for Faulty<S> {
    fn put(&self, key: &Key, bytes: &[u8]) -> Result<()> {
        self.plan.put(key, bytes.len(), |len| self.inner.put(key, &bytes[..len]))
    }

    fn begin(&self) -> Result<Box<dyn Upload>> {
        let (store, inner, plan) = (self.inner.clone(), self.inner.begin()?, self.plan.clone());
        Ok(Box::new(FaultyUpload { store, inner, plan, bytes: Vec::new() }))
    }

    fn get(&self, key: &Key, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.plan.next(None)?;
        self.inner.get(key, offset, buf)
    }

    fn stat(&self, key: &Key) -> Result<Option<u64>> {
        self.plan.next(None)?;
        self.inner.stat(key)
    }

    fn room(&self) -> Result<Option<u64>> {
        self.inner.room()
    }

    fn stored_ns(&self, key: &Key) -> Result<Option<i128>> {
        self.plan.next(None)?;
        self.inner.stored_ns(key)
    }

    fn list(&self, prefix: &str, each: &mut dyn FnMut(Key, u64) -> Result<()>) -> Result<()> {
        self.plan.next(None)?;
        self.inner.list(prefix, each)
    }

    fn replace(&self, key: &Key, bytes: &[u8], aside: &Key) -> Result<()> {
        // Never torn: it is written under another name first.
        self.plan.put(key, bytes.len(), |len| if len < bytes.len() { Ok(()) } else { self.inner.replace(key, bytes, aside) })
    }

    fn delete(&self, key: &Key) -> Result<()> {
        self.plan.next(None)?;
        self.inner.delete(key)
    }

    fn is_empty(&self) -> Result<bool> {
        self.plan.next(None)?;
        self.inner.is_empty()
    }

    fn tidy(&self, before_ns: i128) -> Result<()> {
        self.plan.next(None)?;
        self.inner.tidy(before_ns)
    }

    fn describe(&self) -> String {
        format!("faulty {}", self.inner.describe())
    }
}
