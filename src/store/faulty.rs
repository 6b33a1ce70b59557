//! A store that fails on purpose.

use std::sync::{
    Mutex,
    atomic::{AtomicU64, Ordering},
};

use crate::{
    error::{Error, ErrorKind, Result},
    store::{Key, Store},
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
    fault: Mutex<Option<Fault>>,
    calls: AtomicU64,
}

impl<S: Store> Faulty<S> {
    /// Behaves well until told otherwise.
    pub fn new(inner: S) -> Self {
        Self { inner, fault: Mutex::new(None), calls: AtomicU64::new(0) }
    }

    /// Misbehaves from now on, or no longer.
    pub fn set(&self, fault: Option<Fault>) {
        self.calls.store(0, Ordering::SeqCst);
        *self.fault.lock().expect("nobody panics while holding the fault") = fault;
    }

    /// Calls since the last `set`.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::SeqCst)
    }

    /// What this call does: `Ok(true)` to go on, `Ok(false)` to go on and then fail.
    fn next(&self, put_len: Option<usize>) -> Result<bool> {
        let n = self.calls.fetch_add(1, Ordering::SeqCst);
        let mut fault = self.fault.lock().expect("nobody panics while holding the fault");
        let dead = || Err(Error::unavailable("the store is gone (injected)"));
        match (*fault, put_len) {
            (Some(Fault::CrashAt(at)), _) if n >= at => dead(),
            (Some(Fault::CrashAfter(at)), Some(_)) if n == at => Ok(false),
            (Some(Fault::CrashAfter(at)), _) if n >= at => dead(),
            (Some(Fault::FailOnceAt(at)), _) if n == at => dead(),
            (Some(Fault::FullAfter(room)), Some(len)) => match room.checked_sub(len as u64) {
                Some(left) => {
                    *fault = Some(Fault::FullAfter(left));
                    Ok(true)
                }
                None => Err(Error::new(ErrorKind::Full, "the store is full (injected)")),
            },
            _ => Ok(true),
        }
    }
}

impl<S: Store> Store for Faulty<S> {
    fn put(&self, key: &Key, bytes: &[u8]) -> Result<()> {
        let answered = self.next(Some(bytes.len()))?;
        self.inner.put(key, bytes)?;
        if answered { Ok(()) } else { Err(Error::unavailable("the store is gone (injected)")) }
    }

    fn get(&self, key: &Key, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.next(None)?;
        self.inner.get(key, offset, buf)
    }

    fn stat(&self, key: &Key) -> Result<Option<u64>> {
        self.next(None)?;
        self.inner.stat(key)
    }

    fn list(&self, prefix: &str, each: &mut dyn FnMut(Key, u64) -> Result<()>) -> Result<()> {
        self.next(None)?;
        self.inner.list(prefix, each)
    }

    fn delete(&self, key: &Key) -> Result<()> {
        self.next(None)?;
        self.inner.delete(key)
    }

    fn describe(&self) -> String {
        format!("faulty {}", self.inner.describe())
    }
}
