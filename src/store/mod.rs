//! Objects by key: where a vault lies.
//!
//! Small on purpose, so that a fault injector is an afternoon's work and a new kind of store a day's.

mod cached;
mod fallback;
mod faulty;
mod key;
mod local;
mod memory;
mod place;
mod remote;
mod seen;
mod watched;

pub use cached::Cached;
pub use fallback::Fallback;
pub use faulty::{Fault, Faulty};
pub use key::Key;
pub use local::Local;
pub use memory::Memory;
pub use place::open;
pub use remote::{Settings, Traffic};
pub use seen::Seen;
pub use watched::{Call, Calls, Watched};

use std::sync::Arc;

use crate::error::{Error, Result};

/// What a list shows of an object, where it shows enough to tell it from another one under the same key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glimpse {
    /// Its length in bytes.
    pub len: u64,
    /// The store's own mark of its content: another one if the object is another one.
    pub tag: String,
}

/// What a store does about objects that somebody overwrites or deletes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Holds {
    /// It can hold an object against everybody for a time.
    pub locks: bool,
    /// It keeps what was there before.
    pub versions: bool,
}

/// Objects by key. Written once, read in ranges, listed, deleted.
///
/// Contract, checked by `tests/store.rs` for every implementation:
/// - when `put` returns `Ok`, the object is whole and survives power loss;
/// - until then readers see nothing of it;
/// - putting the same bytes under the same key again is `Ok`; other bytes are `Conflict`;
/// - `get` fills the whole buffer or fails: `Missing` if there is no such object, `Corrupt` if it is shorter;
/// - `list` gives every object whose `put` returned before, in no particular order, and `names` the same ones;
/// - `start` says what `stat` and `get` say;
/// - deleting what is not there is `Ok`;
/// - any call may be repeated after an error, and calls may come from many threads.
pub trait Store: Send + Sync {
    /// Stores an object.
    fn put(&self, key: &Key, bytes: &[u8]) -> Result<()>;
    /// The same, for who has just seen in a list that there is no such object: no need to look for it once more. Returns its mark, if the store says it.
    ///
    /// Two who do so at one moment may both succeed where the server knows no conditional puts.
    fn put_new(&self, key: &Key, bytes: &[u8]) -> Result<Option<String>> {
        self.put(key, bytes).map(|()| None)
    }
    /// Starts an object whose key is known only when all of it is written: a pack is named by its hash.
    fn begin(&self) -> Result<Box<dyn Upload>>;
    /// Fills `buf` from byte `offset` on.
    fn get(&self, key: &Key, offset: u64, buf: &mut [u8]) -> Result<()>;
    /// These bytes will be read soon. A hint: costs little, promises nothing.
    fn expect(&self, _key: &Key, _offset: u64, _len: u64) {}
    /// The object's length in bytes, or `None` if there is no such object.
    fn stat(&self, key: &Key) -> Result<Option<u64>>;
    /// The object's first bytes, at most `len_max` of them, and its length; `None` if there is no such object.
    fn start(&self, key: &Key, len_max: usize) -> Result<Option<(Vec<u8>, u64)>> {
        let Some(len) = self.stat(key)? else { return Ok(None) };
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(usize::MAX).min(len_max)];
        self.get(key, 0, &mut bytes)?;
        Ok(Some((bytes, len)))
    }
    /// When the object was stored, by the store's own clock, in ns since 1970; `None` if there is no such object, or the store cannot tell.
    /// A copy of a vault may say when it was copied.
    fn stored_ns(&self, _key: &Key) -> Result<Option<i128>> {
        Ok(None)
    }
    /// Calls `each` with key and length of every object below the folder `prefix` (`""` for all).
    fn list(&self, prefix: &str, each: &mut dyn FnMut(Key, u64) -> Result<()>) -> Result<()>;
    /// Calls `each` with the key alone, which may cost less.
    fn names(&self, prefix: &str, each: &mut dyn FnMut(Key)) -> Result<()> {
        self.list(prefix, &mut |key, _| {
            each(key);
            Ok(())
        })
    }
    /// All that lies below the folder `prefix`, if a single request tells; `None` if it takes more, or no marks are known.
    fn glance(&self, _prefix: &str) -> Result<Option<Vec<(Key, Glimpse)>>> {
        Ok(None)
    }
    /// Other copies of the same vault, for readers that find damage here. Only to be read from.
    fn others(&self) -> &[Arc<dyn Store>] {
        &[]
    }
    /// Bytes that can still be stored; `None` if the store cannot tell, as servers cannot.
    fn room(&self) -> Result<Option<u64>> {
        Ok(None)
    }
    /// From now on lists and stats show what is there now, not what was there a while ago.
    fn refresh(&self) {}
    /// What was read of this object makes no sense: whatever is kept of it elsewhere than in the store is dropped.
    fn doubt(&self, _key: &Key) {}
    /// Puts `bytes` in the place of the object at `key`, or where one is gone; what was there is kept as `aside`, which is free. For repairs alone.
    ///
    /// A store that can do so replaces the one by the other at once. This does it step by step: a death in between leaves the object missing,
    /// and what was there at `aside`.
    fn replace(&self, key: &Key, bytes: &[u8], aside: &Key) -> Result<()> {
        if let Some(len) = self.stat(key)? {
            let mut upload = self.begin()?;
            let mut buf = vec![0; 1 << 20];
            let mut at = 0;
            while at < len {
                let n = buf.len().min(usize::try_from(len - at).unwrap_or(buf.len()));
                self.get(key, at, &mut buf[..n])?;
                upload.write(&buf[..n])?;
                at += n as u64;
            }
            upload.commit(aside)?;
            self.delete(key)?;
        }
        self.put(key, bytes)
    }
    /// What the store does about objects that somebody overwrites or deletes.
    fn holds(&self) -> Result<Holds> {
        Ok(Holds::default())
    }
    /// From now on each object that is put is to be held for so many days; asked of stores that can do that.
    fn hold(&self, _days: u32) {}
    /// Until when an object is held, in ns since 1970; `None` if it is not.
    fn held_until_ns(&self, _key: &Key) -> Result<Option<i128>> {
        Ok(None)
    }
    /// Whether each look costs time and money: the store is at the other end of a line.
    fn is_far(&self) -> bool {
        false
    }
    /// Removes an object.
    fn delete(&self, key: &Key) -> Result<()>;
    /// Whether nothing at all is here, not even what is no object.
    fn is_empty(&self) -> Result<bool> {
        let mut empty = true;
        self.list("", &mut |_, _| {
            empty = false;
            Ok(())
        })?;
        Ok(empty)
    }
    /// Removes what writers that died left unfinished, if it was begun before `before_ns` (ns since 1970).
    fn tidy(&self, _before_ns: i128) -> Result<()> {
        Ok(())
    }
    /// Where this is, for messages.
    fn describe(&self) -> String;
}

/// An object on its way into a store. Dropped without `commit`, nothing of it stays.
pub trait Upload: Send {
    /// Appends bytes.
    fn write(&mut self, bytes: &[u8]) -> Result<()>;
    /// Stores what was written under `key`; promises what `Store::put` promises.
    fn commit(self: Box<Self>, key: &Key) -> Result<()>;
}

/// Reads a whole object of at most `len_max` bytes.
///
/// # Errors
/// `Missing` if it is not there, `Corrupt` if it is longer.
pub fn get_all(store: &dyn Store, key: &Key, len_max: usize) -> Result<Vec<u8>> {
    let (bytes, len) = store.start(key, len_max)?.ok_or_else(|| missing(key))?;
    match bytes.len() as u64 == len {
        true => Ok(bytes),
        false => Err(Error::corrupt(format!("{key} is impossibly long: {len} bytes"))),
    }
}

/// Lists a folder into a sorted vector.
pub fn list_all(store: &dyn Store, prefix: &str) -> Result<Vec<(Key, u64)>> {
    let mut keys = Vec::new();
    store.list(prefix, &mut |key, len| {
        keys.push((key, len));
        Ok(())
    })?;
    keys.sort_unstable();
    Ok(keys)
}

/// The keys below a folder, sorted.
pub fn all_names(store: &dyn Store, prefix: &str) -> Result<Vec<Key>> {
    let mut keys = Vec::new();
    store.names(prefix, &mut |key| keys.push(key))?;
    keys.sort_unstable();
    Ok(keys)
}

fn missing(key: &Key) -> Error {
    Error::missing(format!("{key} is not in the vault"))
}

fn short(key: &Key) -> Error {
    Error::corrupt(format!("{key} is shorter than it should be"))
}

fn conflict(key: &Key) -> Error {
    Error::conflict(format!("{key} is already in the vault with other content"))
}
