//! A store whose calls can be watched: a dead file server answers nothing, not even an error.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use crate::{
    error::Result,
    store::{Glimpse, Holds, Key, Store, Upload},
    sys::Clock,
};

/// The calls that stores have not answered yet. Clones share them.
#[derive(Clone, Default)]
pub struct Calls(Arc<Mutex<Waiting>>);

#[derive(Default)]
struct Waiting {
    next: u64,
    calls: BTreeMap<u64, Call>,
}

/// A call that waits for its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// What the store was asked to do, for people.
    pub what: String,
    /// When, of the monotonic clock.
    pub since: Duration,
}

impl Calls {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().expect("nobody panics while holding the calls")
    }

    /// The one that has waited longest, with its number.
    pub fn oldest(&self) -> Option<(u64, Call)> {
        self.lock().calls.first_key_value().map(|(n, call)| (*n, call.clone()))
    }
}

/// Wraps a store.
pub struct Watched {
    inner: Arc<dyn Store>,
    watch: Watch,
}

#[derive(Clone)]
struct Watch {
    calls: Calls,
    clock: Arc<dyn Clock>,
    place: String,
}

impl Watched {
    /// Notes in `calls` what `inner` is asked for.
    pub fn new(inner: Arc<dyn Store>, calls: Calls, clock: Arc<dyn Clock>) -> Self {
        let place = inner.describe();
        Self { inner, watch: Watch { calls, clock, place } }
    }
}

impl Watch {
    /// Does `f`, which is a call.
    fn call<T>(&self, what: impl FnOnce() -> String, f: impl FnOnce() -> T) -> T {
        let call = Call { what: format!("{} in {}", what(), self.place), since: self.clock.monotonic() };
        let number = {
            let mut waiting = self.calls.lock();
            waiting.next += 1;
            let number = waiting.next;
            waiting.calls.insert(number, call);
            number
        };
        let answer = f();
        self.calls.lock().calls.remove(&number);
        answer
    }
}

impl Store for Watched {
    fn put(&self, key: &Key, bytes: &[u8]) -> Result<()> {
        self.watch.call(|| format!("write {key}"), || self.inner.put(key, bytes))
    }

    fn put_new(&self, key: &Key, bytes: &[u8]) -> Result<Option<String>> {
        self.watch.call(|| format!("write {key}"), || self.inner.put_new(key, bytes))
    }

    fn glance(&self, prefix: &str) -> Result<Option<Vec<(Key, Glimpse)>>> {
        self.watch.call(|| format!("list {prefix}/"), || self.inner.glance(prefix))
    }

    fn others(&self) -> &[Arc<dyn Store>] {
        self.inner.others()
    }

    fn refresh(&self) {
        self.inner.refresh();
    }

    fn begin(&self) -> Result<Box<dyn Upload>> {
        let inner = self.watch.call(|| "begin a pack".to_owned(), || self.inner.begin())?;
        Ok(Box::new(WatchedUpload { inner, watch: self.watch.clone() }))
    }

    fn get(&self, key: &Key, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.watch.call(|| format!("read {key}"), || self.inner.get(key, offset, buf))
    }

    fn expect(&self, key: &Key, offset: u64, len: u64) {
        self.watch.call(|| format!("expect reads of {key}"), || self.inner.expect(key, offset, len));
    }

    fn stat(&self, key: &Key) -> Result<Option<u64>> {
        self.watch.call(|| format!("look at {key}"), || self.inner.stat(key))
    }

    fn stored_ns(&self, key: &Key) -> Result<Option<i128>> {
        self.watch.call(|| format!("look at {key}"), || self.inner.stored_ns(key))
    }

    fn list(&self, prefix: &str, each: &mut dyn FnMut(Key, u64) -> Result<()>) -> Result<()> {
        self.watch.call(|| format!("list {prefix}/"), || self.inner.list(prefix, each))
    }

    fn replace(&self, key: &Key, bytes: &[u8], aside: &Key) -> Result<()> {
        self.watch.call(|| format!("replace {key}"), || self.inner.replace(key, bytes, aside))
    }

    fn delete(&self, key: &Key) -> Result<()> {
        self.watch.call(|| format!("delete {key}"), || self.inner.delete(key))
    }

    fn holds(&self) -> Result<Holds> {
        self.watch.call(|| "look at the bucket".to_owned(), || self.inner.holds())
    }

    fn hold(&self, days: u32) {
        self.inner.hold(days);
    }

    fn held_until_ns(&self, key: &Key) -> Result<Option<i128>> {
        self.watch.call(|| "look at the bucket".to_owned(), || self.inner.held_until_ns(key))
    }

    fn is_far(&self) -> bool {
        self.inner.is_far()
    }

    fn is_empty(&self) -> Result<bool> {
        self.watch.call(|| "look whether anything is".to_owned(), || self.inner.is_empty())
    }

    fn tidy(&self, before_ns: i128) -> Result<()> {
        self.watch.call(|| "look for unfinished writes".to_owned(), || self.inner.tidy(before_ns))
    }

    fn describe(&self) -> String {
        self.watch.place.clone()
    }
}

struct WatchedUpload {
    inner: Box<dyn Upload>,
    watch: Watch,
}

impl Upload for WatchedUpload {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.watch.call(|| "write a pack".to_owned(), || self.inner.write(bytes))
    }

    fn commit(self: Box<Self>, key: &Key) -> Result<()> {
        let Self { inner, watch } = *self;
        watch.call(|| format!("sync {key}"), || inner.commit(key))
    }
}
