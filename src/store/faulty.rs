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
    /// The n-th call fails once.
    FailOnceAt(u64),
    /// Puts fail as on a full disk once this many more bytes were stored.
    FullAfter(u64),
}

/// Wraps a store and misbehaves as told.
pub struct Faulty<S> {
    inner: S,
    plan: Arc<Plan>,
}

#[derive(Default)]
struct Plan {
    fault: Mutex<Option<Fault>>,
    calls: AtomicU64,
}

impl<S: Store> Faulty<S> {
    /// Behaves well until told otherwise.
    pub fn new(inner: S) -> Self {
        Self { inner, plan: Arc::default() }
    }

    /// Misbehaves from now on, or no longer.
    pub fn set(&self, fault: Option<Fault>) {
        self.plan.calls.store(0, Ordering::SeqCst);
        *self.plan.fault.lock().expect("nobody panics while holding the fault") = fault;
    }

    /// Calls since the last `set`; an upload counts once, when it is committed.
    pub fn calls(&self) -> u64 {
        self.plan.calls.load(Ordering::SeqCst)
    }
}

fn gone() -> Error {
    Error::unavailable("the store is gone (injected)")
}

impl Plan {
    /// What this call does: `Ok(true)` to go on, `Ok(false)` to go on and then fail.
    fn next(&self, put_len: Option<u64>) -> Result<bool> {
        let n = self.calls.fetch_add(1, Ordering::SeqCst);
        let mut fault = self.fault.lock().expect("nobody panics while holding the fault");
        match (*fault, put_len) {
            (Some(Fault::CrashAt(at)), _) if n >= at => Err(gone()),
            (Some(Fault::CrashAfter(at)), Some(_)) if n == at => Ok(false),
            (Some(Fault::CrashAfter(at)), _) if n >= at => Err(gone()),
            (Some(Fault::FailOnceAt(at)), _) if n == at => Err(gone()),
            (Some(Fault::FullAfter(room)), Some(len)) => match room.checked_sub(len) {
                Some(left) => {
                    *fault = Some(Fault::FullAfter(left));
                    Ok(true)
                }
                None => Err(Error::new(ErrorKind::Full, "the store is full (injected)")),
            },
            _ => Ok(true),
        }
    }

    /// Puts with `put`, unless this call fails.
    fn put(&self, len: u64, put: impl FnOnce() -> Result<()>) -> Result<()> {
        let answered = self.next(Some(len))?;
        put()?;
        if answered { Ok(()) } else { Err(gone()) }
    }
}

struct FaultyUpload {
    inner: Box<dyn Upload>,
    plan: Arc<Plan>,
    len: u64,
}

impl Upload for FaultyUpload {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.len += bytes.len() as u64;
        self.inner.write(bytes)
    }

    fn commit(self: Box<Self>, key: &Key) -> Result<()> {
        let Self { inner, plan, len } = *self;
        plan.put(len, || inner.commit(key))
    }
}

impl<S: Store> Store for Faulty<S> {
    fn put(&self, key: &Key, bytes: &[u8]) -> Result<()> {
        self.plan.put(bytes.len() as u64, || self.inner.put(key, bytes))
    }

    fn begin(&self) -> Result<Box<dyn Upload>> {
        Ok(Box::new(FaultyUpload { inner: self.inner.begin()?, plan: self.plan.clone(), len: 0 }))
    }

    fn get(&self, key: &Key, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.plan.next(None)?;
        self.inner.get(key, offset, buf)
    }

    fn stat(&self, key: &Key) -> Result<Option<u64>> {
        self.plan.next(None)?;
        self.inner.stat(key)
    }

    fn stored_ns(&self, key: &Key) -> Result<Option<i128>> {
        self.plan.next(None)?;
        self.inner.stored_ns(key)
    }

    fn list(&self, prefix: &str, each: &mut dyn FnMut(Key, u64) -> Result<()>) -> Result<()> {
        self.plan.next(None)?;
        self.inner.list(prefix, each)
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
