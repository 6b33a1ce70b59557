//! A local cache of what lies on a server: pieces of packs and segments, as they are stored, that is encrypted.
//!
//! Bounded, survives restarts, may be deleted at any time, and may be shared by processes. Only objects whose name is the hash of
//! their bytes are kept, so nothing in it can be out of date; a piece that was damaged on the disk is fetched again.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc, Condvar, Mutex, MutexGuard,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::SystemTime,
};

use crate::{
    error::{Error, Result},
    format::digest,
    store::{Key, Store, Upload, missing, short},
    sys,
};

/// Bytes of a piece: what one request brings.
const PIECE_LEN: u64 = 1 << 20;
/// Of an object that is only looked into, this much of its beginning is fetched: the head of a pack and its first block, which say what it is.
const HEAD_LEN: u64 = 72 << 10;
/// Pieces in memory: two readers each in the middle of two packs, and what comes next.
const RECENT_MAX: usize = 16;
/// Pieces fetched before anybody asks, at once.
const AHEAD_MAX: usize = 4;
/// Share of the cache, in percent, that is freed when it is full: looking for the oldest costs a walk.
const FREED_PERCENT: u64 = 10;

/// A store seen through a cache.
pub struct Cached {
    shared: Arc<Shared>,
}

struct Shared {
    inner: Arc<dyn Store>,
    dir: PathBuf,
    bytes_max: u64,
    bytes: AtomicU64,
    lens: Mutex<HashMap<Key, u64>>,
    recent: Mutex<VecDeque<(Piece, Arc<[u8]>)>>,
    fetching: Mutex<HashSet<Piece>>,
    fetched: Condvar,
    ahead: AtomicUsize,
}

/// Which bytes of an object: a number, from 0; or its head.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Piece {
    key: Key,
    number: Option<u64>,
}

impl Piece {
    fn range(&self, len: u64) -> (u64, u64) {
        match self.number {
            None => (0, HEAD_LEN.min(len)),
            Some(n) => (n * PIECE_LEN, ((n + 1) * PIECE_LEN).min(len)),
        }
    }

    fn name(&self) -> String {
        self.number.map_or_else(|| "head".to_owned(), |n| n.to_string())
    }

    /// Says that `bytes` are those of this piece, and of no other.
    fn mark(&self, bytes: &[u8]) -> [u8; 32] {
        *digest(&[format!("{} {} ", self.key, self.name()).as_bytes(), digest(bytes).as_bytes()].concat()).as_bytes()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nobody panics while holding a part of the cache")
}

impl Cached {
    /// Keeps at most about `bytes_max` bytes in `dir`, which is created.
    ///
    /// # Errors
    /// As the system says, if it cannot be.
    pub fn new(inner: Arc<dyn Store>, dir: &Path, bytes_max: u64) -> Result<Self> {
        sys::create_private_dir(dir)
            .map_err(|e| Error::io(format!("cannot create the cache {}", dir.display()), e).hint("set COFFRE_CACHE_DIR"))?;
        let bytes = files(dir).iter().map(|file| file.len).sum();
        let shared = Shared {
            inner,
            dir: dir.to_owned(),
            bytes_max,
            bytes: AtomicU64::new(bytes),
            lens: Mutex::default(),
            recent: Mutex::default(),
            fetching: Mutex::default(),
            fetched: Condvar::new(),
            ahead: AtomicUsize::new(0),
        };
        Ok(Self { shared: Arc::new(shared) })
    }
}

impl Shared {
    fn path(&self, piece: &Piece) -> PathBuf {
        self.dir.join(piece.key.as_str()).join(piece.name())
    }

    fn len(&self, key: &Key) -> Result<u64> {
        if let Some(len) = lock(&self.lens).get(key) {
            return Ok(*len);
        }
        let len = self.inner.stat(key)?.ok_or_else(|| missing(key))?;
        lock(&self.lens).insert(key.clone(), len);
        Ok(len)
    }

    /// A piece, if it is here: its bytes are followed by a mark of what they are, as a power cut may have torn it, and a person moved it.
    fn kept(&self, piece: &Piece, len: u64) -> Option<Arc<[u8]>> {
        let recent = lock(&self.recent).iter().find(|(p, _)| p == piece).map(|(_, bytes)| bytes.clone());
        if recent.is_some() {
            return recent;
        }
        let path = self.path(piece);
        let mut bytes = fs::read(&path).ok()?;
        let mark = bytes.split_off(bytes.len().checked_sub(32)?);
        let (from, to) = piece.range(len);
        if bytes.len() as u64 != to - from || piece.mark(&bytes)[..] != mark[..] {
            let _ = fs::remove_file(&path);
            return None;
        }
        // What was used last is kept longest; where that cannot be noted, it goes earlier.
        #[expect(clippy::disallowed_methods, reason = "times of files are the system's, and only compared with each other")]
        let _ = fs::File::open(&path).and_then(|file| file.set_modified(SystemTime::now()));
        Some(self.remember(piece, bytes.into()))
    }

    fn remember(&self, piece: &Piece, bytes: Arc<[u8]>) -> Arc<[u8]> {
        let mut recent = lock(&self.recent);
        recent.retain(|(p, _)| p != piece);
        recent.push_back((piece.clone(), bytes.clone()));
        if recent.len() > RECENT_MAX {
            recent.pop_front();
        }
        bytes
    }

    /// A piece, from here or from the server. Who wants one that somebody fetches waits for that.
    fn piece(&self, piece: &Piece, len: u64) -> Result<Arc<[u8]>> {
        loop {
            if let Some(bytes) = self.kept(piece, len) {
                return Ok(bytes);
            }
            let mut fetching = lock(&self.fetching);
            if fetching.insert(piece.clone()) {
                break;
            }
            drop(self.fetched.wait(fetching).expect("nobody panics while holding a part of the cache"));
        }
        let (from, to) = piece.range(len);
        let mut bytes = vec![0; usize::try_from(to - from).unwrap_or(0)];
        let got = self.inner.get(&piece.key, from, &mut bytes).map(|()| {
            // A cache that cannot be written to is a slow cache, no failure.
            let _ = self.keep(piece, &bytes);
            self.remember(piece, bytes.into())
        });
        lock(&self.fetching).remove(piece);
        self.fetched.notify_all();
        got
    }

    fn keep(&self, piece: &Piece, bytes: &[u8]) -> io::Result<()> {
        let path = self.path(piece);
        let dir = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
        sys::create_private_dir(dir)?;
        // Two pieces of one object are kept at the same moment, by two threads.
        static WRITTEN: AtomicU64 = AtomicU64::new(0);
        let unfinished = dir.join(format!(".tmp-{}-{}", std::process::id(), WRITTEN.fetch_add(1, Ordering::Relaxed)));
        fs::write(&unfinished, [bytes, &piece.mark(bytes)].concat())?;
        fs::rename(&unfinished, &path)?;
        let bytes = self.bytes.fetch_add(bytes.len() as u64 + 32, Ordering::Relaxed);
        if bytes > self.bytes_max {
            self.make_room();
        }
        Ok(())
    }

    /// Removes what was used longest ago.
    fn make_room(&self) {
        let mut files = files(&self.dir);
        files.sort_by_key(|file| file.used);
        let mut bytes: u64 = files.iter().map(|file| file.len).sum();
        for file in files {
            if bytes <= self.bytes_max - self.bytes_max / 100 * FREED_PERCENT {
                break;
            }
            if fs::remove_file(&file.path).is_ok() {
                bytes -= file.len;
                // An empty folder goes too; one that is not stays.
                let _ = file.path.parent().map(fs::remove_dir);
            }
        }
        self.bytes.store(bytes, Ordering::Relaxed);
    }
}

struct CacheFile {
    path: PathBuf,
    len: u64,
    used: SystemTime,
}

/// All files below `dir`, four levels deep as a vault is.
fn files(dir: &Path) -> Vec<CacheFile> {
    let mut found = Vec::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(meta) if meta.is_dir() => folders.push(entry.path()),
                Ok(meta) if meta.is_file() => {
                    found.push(CacheFile { path: entry.path(), len: meta.len(), used: meta.modified().unwrap_or(SystemTime::UNIX_EPOCH) });
                }
                _ => (),
            }
        }
    }
    found
}

impl Store for Cached {
    fn put(&self, key: &Key, bytes: &[u8]) -> Result<()> {
        self.shared.inner.put(key, bytes)
    }

    fn begin(&self) -> Result<Box<dyn Upload>> {
        self.shared.inner.begin()
    }

    fn get(&self, key: &Key, offset: u64, buf: &mut [u8]) -> Result<()> {
        let shared = &*self.shared;
        if key.digest().is_none() || buf.is_empty() {
            return shared.inner.get(key, offset, buf);
        }
        let len = shared.len(key)?;
        let end = offset.checked_add(buf.len() as u64).filter(|end| *end <= len).ok_or_else(|| short(key))?;
        let first = Piece { key: key.clone(), number: Some(offset / PIECE_LEN) };
        if end <= HEAD_LEN && shared.kept(&first, len).is_none() {
            let head = shared.piece(&Piece { number: None, ..first }, len)?;
            buf.copy_from_slice(&head[offset as usize..end as usize]);
            return Ok(());
        }
        let numbers: Vec<u64> = (offset / PIECE_LEN..end.div_ceil(PIECE_LEN)).collect();
        // The ones behind the first come at the same time as it.
        self.expect(key, offset + PIECE_LEN, (end - offset).saturating_sub(1));
        for n in numbers {
            let piece = shared.piece(&Piece { key: key.clone(), number: Some(n) }, len)?;
            let base = n * PIECE_LEN;
            let (from, to) = (offset.max(base), end.min(base + piece.len() as u64));
            buf[(from - offset) as usize..(to - offset) as usize].copy_from_slice(&piece[(from - base) as usize..(to - base) as usize]);
        }
        Ok(())
    }

    fn expect(&self, key: &Key, offset: u64, len: u64) {
        let Some(object_len) = lock(&self.shared.lens).get(key).copied().filter(|_| key.digest().is_some() && len > 0) else { return };
        for n in offset / PIECE_LEN..offset.saturating_add(len).min(object_len).div_ceil(PIECE_LEN) {
            let piece = Piece { key: key.clone(), number: Some(n) };
            if self.shared.path(&piece).exists() || lock(&self.shared.fetching).contains(&piece) {
                continue;
            }
            if self.shared.ahead.fetch_add(1, Ordering::Relaxed) >= AHEAD_MAX {
                self.shared.ahead.fetch_sub(1, Ordering::Relaxed);
                return;
            }
            let shared = self.shared.clone();
            let work = move || {
                // Whoever reads it meets what is wrong with it, and tells it.
                let _ = shared.piece(&piece, object_len);
                shared.ahead.fetch_sub(1, Ordering::Relaxed);
            };
            if std::thread::Builder::new().name("cache".to_owned()).spawn(work).is_err() {
                self.shared.ahead.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }

    fn stat(&self, key: &Key) -> Result<Option<u64>> {
        if key.digest().is_some()
            && let Some(len) = lock(&self.shared.lens).get(key)
        {
            return Ok(Some(*len));
        }
        let len = self.shared.inner.stat(key)?;
        if let (Some(len), Some(_)) = (len, key.digest()) {
            lock(&self.shared.lens).insert(key.clone(), len);
        }
        Ok(len)
    }

    fn list(&self, prefix: &str, each: &mut dyn FnMut(Key, u64) -> Result<()>) -> Result<()> {
        self.shared.inner.list(prefix, &mut |key, len| {
            if key.digest().is_some() {
                lock(&self.shared.lens).insert(key.clone(), len);
            }
            each(key, len)
        })
    }

    fn refresh(&self) {
        self.shared.inner.refresh();
    }

    fn doubt(&self, key: &Key) {
        lock(&self.shared.recent).retain(|(piece, _)| piece.key != *key);
        let dir = self.shared.dir.join(key.as_str());
        // What cannot be removed is met again, and doubted again.
        let _ = key.digest().map(|_| fs::remove_dir_all(dir));
        self.shared.inner.doubt(key);
    }

    fn others(&self) -> &[Arc<dyn Store>] {
        self.shared.inner.others()
    }

    fn room(&self) -> Result<Option<u64>> {
        self.shared.inner.room()
    }

    fn stored_ns(&self, key: &Key) -> Result<Option<i128>> {
        self.shared.inner.stored_ns(key)
    }

    fn replace(&self, key: &Key, bytes: &[u8], aside: &Key) -> Result<()> {
        lock(&self.shared.lens).remove(key);
        self.shared.inner.replace(key, bytes, aside)
    }

    fn delete(&self, key: &Key) -> Result<()> {
        lock(&self.shared.lens).remove(key);
        self.shared.inner.delete(key)
    }

    fn is_far(&self) -> bool {
        self.shared.inner.is_far()
    }

    fn is_empty(&self) -> Result<bool> {
        self.shared.inner.is_empty()
    }

    fn tidy(&self, before_ns: i128) -> Result<()> {
        self.shared.inner.tidy(before_ns)
    }

    fn describe(&self) -> String {
        self.shared.inner.describe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Memory, get_all};

    const LEN: usize = 5 << 20;

    fn object() -> (Key, Vec<u8>) {
        let bytes: Vec<u8> = (0..LEN as u32 / 4).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        (Key::pack(&digest(&bytes)), bytes)
    }

    fn holding(key: &Key, bytes: &[u8]) -> Arc<dyn Store> {
        let store = Memory::default();
        store.put(key, bytes).unwrap();
        Arc::new(store)
    }

    fn cached(store: &Arc<dyn Store>, dir: &Path) -> Cached {
        Cached::new(store.clone(), dir, 1 << 30).unwrap()
    }

    #[test]
    fn pieces_kept_at_the_same_moment_are_each_their_own() {
        let (key, bytes) = object();
        let store = holding(&key, &bytes);
        for _ in 0..40 {
            let dir = tempfile::tempdir().unwrap();
            let cache = cached(&store, dir.path());
            cache.stat(&key).unwrap();
            std::thread::scope(|scope| {
                for n in 0..5 {
                    let (cache, key) = (&cache, &key);
                    scope.spawn(move || cache.get(key, n * PIECE_LEN, &mut vec![0; 1 << 20]).unwrap());
                }
            });
            let kept: Vec<Vec<u8>> = (0..5).map(|n| fs::read(dir.path().join(key.as_str()).join(n.to_string())).unwrap()).collect();
            for (kept, piece) in kept.iter().zip(bytes.chunks(1 << 20)) {
                assert!(kept[..1 << 20] == *piece);
            }
        }
    }

    #[test]
    fn a_piece_in_the_place_of_another_is_fetched_again() {
        let ((key, bytes), dir) = (object(), tempfile::tempdir().unwrap());
        let store = holding(&key, &bytes);
        assert!(get_all(&cached(&store, dir.path()), &key, LEN).unwrap() == bytes);
        let piece = |n: &str| dir.path().join(key.as_str()).join(n);
        fs::copy(piece("0"), piece("3")).unwrap();
        assert!(get_all(&cached(&store, dir.path()), &key, LEN).unwrap() == bytes);
    }

    /// A server that sent something wrong is asked again, once somebody noticed.
    #[test]
    fn what_is_doubted_is_fetched_again() {
        let ((key, bytes), dir) = (object(), tempfile::tempdir().unwrap());
        let wrong = vec![7; LEN];
        assert!(get_all(&cached(&holding(&key, &wrong), dir.path()), &key, LEN).unwrap() == wrong);
        let cache = cached(&holding(&key, &bytes), dir.path());
        assert!(get_all(&cache, &key, LEN).unwrap() == wrong, "kept, and nobody noticed");
        cache.doubt(&key);
        assert!(get_all(&cache, &key, LEN).unwrap() == bytes);
        assert!(get_all(&cached(&store_without(), dir.path()), &key, LEN).is_err(), "the length is asked of the store");
    }

    fn store_without() -> Arc<dyn Store> {
        Arc::new(Memory::default())
    }
}
