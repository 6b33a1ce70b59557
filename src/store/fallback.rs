//! A store with other copies of the same vault behind it: what one has lost, another may have.
//!
//! For readers. Objects never change, so one that stands under its key in a copy is the one that stood in the vault, or fails the check
//! that whoever reads it makes. Lists are the vault's own: what was deleted on purpose stays out of them.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
};

use crate::{
    error::{Error, ErrorKind, Result},
    event::{Event, Sink},
    store::{Key, Store, Upload},
};

/// Objects told of; as many lines are written at most.
const TOLD_MAX: usize = 65_536;
/// Reads that ask the copies first after the vault itself gave no answer: each of them would wait as long.
const SPARED: u32 = 64;

/// Wraps a store.
pub struct Fallback {
    inner: Arc<dyn Store>,
    copies: Vec<Arc<dyn Store>>,
    silent: AtomicU32,
}

impl Fallback {
    /// Reads what `inner` has lost from `copies`, the first first, and says so in `sink`, once an object.
    pub fn new(inner: Arc<dyn Store>, copies: Vec<Arc<dyn Store>>, sink: Arc<dyn Sink>) -> Self {
        let told: Arc<Mutex<HashSet<Key>>> = Arc::default();
        let telling = |inner| Arc::new(Telling { inner, sink: sink.clone(), told: told.clone() }) as Arc<dyn Store>;
        Self { inner, copies: copies.into_iter().map(telling).collect(), silent: AtomicU32::new(0) }
    }

    /// What `ask` gives: of the store, or of the first copy that has an answer.
    fn first<T>(&self, ask: impl FnMut(&dyn Store) -> Result<Option<T>>) -> Result<Option<T>> {
        let mut ask = ask;
        let is_silent = self.silent.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_ok();
        if is_silent && let Some(found) = self.copies.iter().find_map(|copy| ask(&**copy).ok().flatten()) {
            return Ok(Some(found));
        }
        let failure = match ask(&*self.inner) {
            Ok(Some(found)) => return Ok(Some(found)),
            Ok(None) => None,
            Err(e) if matches!(e.kind(), ErrorKind::Missing | ErrorKind::Corrupt | ErrorKind::Unavailable) => Some(e),
            Err(e) => return Err(e),
        };
        if failure.as_ref().is_some_and(|e| e.kind() == ErrorKind::Unavailable) {
            self.silent.store(SPARED, Ordering::Relaxed);
        }
        match (self.copies.iter().find_map(|copy| ask(&**copy).ok().flatten()), failure) {
            (Some(found), _) => Ok(Some(found)),
            (None, None) => Ok(None),
            (None, Some(e)) => Err(e),
        }
    }
}

impl Store for Fallback {
    fn put(&self, key: &Key, bytes: &[u8]) -> Result<()> {
        self.inner.put(key, bytes)
    }

    fn begin(&self) -> Result<Box<dyn Upload>> {
        self.inner.begin()
    }

    fn get(&self, key: &Key, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.first(|store| store.get(key, offset, buf).map(Some)).map(drop)
    }

    fn expect(&self, key: &Key, offset: u64, len: u64) {
        self.inner.expect(key, offset, len);
    }

    fn stat(&self, key: &Key) -> Result<Option<u64>> {
        self.first(|store| store.stat(key))
    }

    fn room(&self) -> Result<Option<u64>> {
        self.inner.room()
    }

    fn stored_ns(&self, key: &Key) -> Result<Option<i128>> {
        self.inner.stored_ns(key)
    }

    fn list(&self, prefix: &str, each: &mut dyn FnMut(Key, u64) -> Result<()>) -> Result<()> {
        self.inner.list(prefix, each)
    }

    fn others(&self) -> &[Arc<dyn Store>] {
        &self.copies
    }

    fn refresh(&self) {
        self.inner.refresh();
    }

    fn doubt(&self, key: &Key) {
        self.inner.doubt(key);
    }

    fn replace(&self, key: &Key, bytes: &[u8], aside: &Key) -> Result<()> {
        self.inner.replace(key, bytes, aside)
    }

    fn delete(&self, key: &Key) -> Result<()> {
        self.inner.delete(key)
    }

    fn is_far(&self) -> bool {
        self.inner.is_far()
    }

    fn is_empty(&self) -> Result<bool> {
        self.inner.is_empty()
    }

    fn tidy(&self, before_ns: i128) -> Result<()> {
        self.inner.tidy(before_ns)
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}

/// A copy that says what is read from it. Nothing is ever written to it.
struct Telling {
    inner: Arc<dyn Store>,
    sink: Arc<dyn Sink>,
    told: Arc<Mutex<HashSet<Key>>>,
}

fn read_only() -> Error {
    Error::bug("a copy that is only read from was to be written to")
}

impl Store for Telling {
    fn put(&self, _: &Key, _: &[u8]) -> Result<()> {
        Err(read_only())
    }

    fn begin(&self) -> Result<Box<dyn Upload>> {
        Err(read_only())
    }

    fn get(&self, key: &Key, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.inner.get(key, offset, buf)?;
        let mut told = self.told.lock().expect("nobody panics while holding what was told");
        if told.len() < TOLD_MAX && told.insert(key.clone()) {
            drop(told);
            let place = self.inner.describe();
            self.sink.send(Event::Warning(format!(
                "{key} is lost or damaged in the vault, and read from its copy at {place}: coffre verify --repair --from {place}"
            )));
        }
        Ok(())
    }

    fn stat(&self, key: &Key) -> Result<Option<u64>> {
        self.inner.stat(key)
    }

    fn list(&self, prefix: &str, each: &mut dyn FnMut(Key, u64) -> Result<()>) -> Result<()> {
        self.inner.list(prefix, each)
    }

    fn delete(&self, _: &Key) -> Result<()> {
        Err(read_only())
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Fault, Faulty, Memory, get_all};

    #[test]
    fn what_is_lost_comes_from_a_copy_and_is_said_once_and_what_no_copy_has_stays_missing() {
        #[derive(Default)]
        struct Said(Mutex<Vec<String>>);
        impl Sink for Said {
            fn send(&self, event: Event) {
                if let Event::Warning(text) = event {
                    self.0.lock().unwrap().push(text);
                }
            }
        }
        let said = Arc::new(Said::default());
        let (main, copy) = (Arc::new(Faulty::new(Memory::default())), Arc::new(Memory::default()));
        let [a, b, c] = ["packs/a", "packs/b", "packs/c"].map(Key::fixed);
        main.put(&a, b"a").unwrap();
        copy.put(&b, b"b").unwrap();
        let both = Fallback::new(main.clone(), vec![copy.clone()], said.clone());
        assert_eq!(get_all(&both, &a, 9).unwrap(), b"a");
        assert!(said.0.lock().unwrap().is_empty());
        for _ in 0..2 {
            assert_eq!(get_all(&both, &b, 9).unwrap(), b"b");
        }
        assert_eq!(said.0.lock().unwrap().len(), 1);
        assert_eq!(get_all(&both, &c, 9).unwrap_err().kind(), ErrorKind::Missing);
        assert_eq!(crate::store::list_all(&both, "").unwrap(), [(a.clone(), 1)]);
        // The vault does not answer at all.
        copy.put(&a, b"a").unwrap();
        main.set(Some(Fault::CrashAt(0)));
        assert_eq!(get_all(&both, &a, 9).unwrap(), b"a");
        assert_eq!(get_all(&both, &c, 9).unwrap_err().kind(), ErrorKind::Unavailable);
        assert!(both.others()[0].put(&c, b"c").is_err() && both.others()[0].delete(&a).is_err());
    }
}
