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
    calls: BTreeMap<u64, Asked>,
}

/// A call, as it is noted: it is told to nobody as a rule, and so put into words when it is.
#[derive(Clone)]
struct Asked {
    verb: &'static str,
    object: String,
    place: Arc<str>,
    since: Duration,
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
        let (number, Asked { verb, object, place, since }) = self.lock().calls.first_key_value().map(|(n, asked)| (*n, asked.clone()))?;
        let object = if object.is_empty() { object } else { format!(" {object}") };
        Some((number, Call { what: format!("{verb}{object} in {place}"), since }))
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
    place: Arc<str>,
}

impl Watched {
    /// Notes in `calls` what `inner` is asked for.
    pub fn new(inner: Arc<dyn Store>, calls: Calls, clock: Arc<dyn Clock>) -> Self {
        let place = inner.describe().into();
        Self { inner, watch: Watch { calls, clock, place } }
    }
}

impl Watch {
    /// Does `f`, which is a call about an object.
    fn call<T>(&self, verb: &'static str, object: impl AsRef<str>, f: impl FnOnce() -> T) -> T {
        let (object, place) = (object.as_ref().to_owned(), self.place.clone());
        let asked = Asked { verb, object, place, since: self.clock.monotonic() };
        let number = {
            let mut waiting = self.calls.lock();
            waiting.next += 1;
            let number = waiting.next;
            waiting.calls.insert(number, asked);
            number
        };
        let answer = f();
        self.calls.lock().calls.remove(&number);
        answer
    }
}

impl Store for Watched {
    fn put(&self, key: &Key, bytes: &[u8]) -> Result<()> {
        self.watch.call("write", key, || self.inner.put(key, bytes))
    }

    fn put_new(&self, key: &Key, bytes: &[u8]) -> Result<Option<String>> {
        self.watch.call("write", key, || self.inner.put_new(key, bytes))
    }

    fn glance(&self, prefix: &str) -> Result<Option<Vec<(Key, Glimpse)>>> {
        self.watch.call("list", format!("{prefix}/"), || self.inner.glance(prefix))
    }

    fn others(&self) -> &[Arc<dyn Store>] {
        self.inner.others()
    }

    fn refresh(&self) {
        self.inner.refresh();
    }

    fn doubt(&self, key: &Key) {
        self.inner.doubt(key);
    }

    fn begin(&self) -> Result<Box<dyn Upload>> {
        let inner = self.watch.call("begin a pack", "", || self.inner.begin())?;
        Ok(Box::new(WatchedUpload { inner, watch: self.watch.clone() }))
    }

    fn get(&self, key: &Key, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.watch.call("read", key, || self.inner.get(key, offset, buf))
    }

    fn expect(&self, key: &Key, offset: u64, len: u64) {
        self.watch.call("expect reads of", key, || self.inner.expect(key, offset, len));
    }

    fn stat(&self, key: &Key) -> Result<Option<u64>> {
        self.watch.call("look at", key, || self.inner.stat(key))
    }

    fn start(&self, key: &Key, len_max: usize) -> Result<Option<(Vec<u8>, u64)>> {
        self.watch.call("read", key, || self.inner.start(key, len_max))
    }

    fn room(&self) -> Result<Option<u64>> {
        self.inner.room()
    }

    fn stored_ns(&self, key: &Key) -> Result<Option<i128>> {
        self.watch.call("look at", key, || self.inner.stored_ns(key))
    }

    fn list(&self, prefix: &str, each: &mut dyn FnMut(Key, u64) -> Result<()>) -> Result<()> {
        self.watch.call("list", format!("{prefix}/"), || self.inner.list(prefix, each))
    }

    fn names(&self, prefix: &str, each: &mut dyn FnMut(Key)) -> Result<()> {
        self.watch.call("list", format!("{prefix}/"), || self.inner.names(prefix, each))
    }

    fn replace(&self, key: &Key, bytes: &[u8], aside: &Key) -> Result<()> {
        self.watch.call("replace", key, || self.inner.replace(key, bytes, aside))
    }

    fn delete(&self, key: &Key) -> Result<()> {
        self.watch.call("delete", key, || self.inner.delete(key))
    }

    fn holds(&self) -> Result<Holds> {
        self.watch.call("look at", "the bucket", || self.inner.holds())
    }

    fn hold(&self, days: u32) {
        self.inner.hold(days);
    }

    fn held_until_ns(&self, key: &Key) -> Result<Option<i128>> {
        self.watch.call("look at", key.as_str(), || self.inner.held_until_ns(key))
    }

    fn is_far(&self) -> bool {
        self.inner.is_far()
    }

    fn is_empty(&self) -> Result<bool> {
        self.watch.call("look whether anything is", "", || self.inner.is_empty())
    }

    fn tidy(&self, before_ns: i128) -> Result<()> {
        self.watch.call("look for unfinished writes", "", || self.inner.tidy(before_ns))
    }

    fn describe(&self) -> String {
        self.watch.place.to_string()
    }
}

struct WatchedUpload {
    inner: Box<dyn Upload>,
    watch: Watch,
}

impl Upload for WatchedUpload {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.watch.call("write a pack", "", || self.inner.write(bytes))
    }

    fn commit(self: Box<Self>, key: &Key) -> Result<()> {
        let Self { inner, watch } = *self;
        watch.call("sync", key, || inner.commit(key))
    }
}
