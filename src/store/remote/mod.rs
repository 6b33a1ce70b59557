//! Stores at the other end of a line: what all of them share. A backend makes one attempt; here it is made again.
//!
//! Every attempt runs on a thread of its own, so that ^C is heard while a server says nothing. Nothing rests on conditional puts:
//! an object whose name is not the hash of its bytes is looked for before it is put.

mod credentials;
mod http;
mod s3;
mod sftp;
mod sign;
mod ssh;
mod traffic;
mod webdav;
mod xml;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, mpsc},
};

use crate::{
    error::{Error, ErrorKind, Result},
    store::{Glimpse, Holds, Key, Store, Upload, conflict, missing, place::Url, short},
    sys,
};

pub use traffic::{Settings, Traffic};

/// How often an attempt is made before the store gives up.
const ATTEMPTS_MAX: u32 = 7;
/// The first pause between two attempts, in ms; each is twice the one before it, and a random part of that is taken off.
const PAUSE_MS: u64 = 200;
/// The longest pause, in ms.
const PAUSE_MS_MAX: u64 = 10_000;
/// How the names of files begin that are still being written, where a server lets others see them.
const UNFINISHED: &str = ".tmp-";
/// Signatures whose times are kept from a list: who asks for one asks for all.
const TIMES_MAX: usize = 1 << 20;
/// Bytes compared at once.
const COMPARE_LEN: usize = 4 << 20;

/// A failed attempt.
#[derive(Debug)]
pub struct Failure {
    error: Error,
    /// Whether trying again may help.
    again: bool,
}

impl Failure {
    /// Trying again may help.
    pub fn passing(error: Error) -> Self {
        Self { error, again: true }
    }

    /// Trying again does not help.
    pub fn lasting(error: Error) -> Self {
        Self { error, again: false }
    }
}

/// The outcome of one attempt.
pub type Attempt<T> = std::result::Result<T, Failure>;

/// What became of a put.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Put {
    /// The object is stored; with its mark, if the server says it.
    Done(Option<String>),
    /// Something is there already.
    Exists,
}

/// What a server says of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Its path below the place.
    pub path: String,
    /// Its length.
    pub len: u64,
    /// When it was stored, by the server's clock, in ns since 1970, if it says so.
    pub stored_ns: Option<i128>,
    /// The server's mark of its content; may be empty.
    pub tag: String,
}

/// Objects below a place; and where the list goes on.
#[derive(Debug, Default)]
pub struct Page {
    /// Files, not in order, not all of them objects.
    pub found: Vec<Found>,
    /// Where the next page begins.
    pub next: Option<String>,
}

/// What lies in one folder: files, and folders with a slash at the end of their paths; `None` if there is no such folder.
type Folder = Option<Vec<Found>>;

/// One way of speaking to a server. Each call is one attempt.
pub trait Backend: Send + Sync + 'static {
    /// Stores an object whole, or not at all; something that is there already is left alone if the server can do that.
    fn put(&self, path: &str, bytes: &[u8]) -> Attempt<Put>;
    /// Reads up to `len` bytes from `offset` on: fewer if the object ends before. `None` if there is no such object.
    fn get(&self, path: &str, offset: u64, len: usize) -> Attempt<Option<Vec<u8>>>;
    /// The length of an object.
    fn stat(&self, path: &str) -> Attempt<Option<u64>>;
    /// Lists what lies below the folder `folder` (`""` for all), from `next` on.
    fn list(&self, folder: &str, next: Option<&str>) -> Attempt<Page>;
    /// What lies below the folder, with marks, if one request tells all of it.
    fn glance(&self, _folder: &str) -> Attempt<Option<Vec<Found>>> {
        Ok(None)
    }
    /// When an object was stored, by the server's clock.
    fn stored_ns(&self, path: &str) -> Attempt<Option<i128>>;
    /// Removes what writers left unfinished that died, if it was begun before.
    fn tidy(&self, before_ns: i128) -> Attempt<()> {
        for found in self.list("", None)?.found {
            let name = found.path.rsplit('/').next().unwrap_or_default();
            if name.starts_with(UNFINISHED) && found.stored_ns.is_some_and(|at| at < before_ns) {
                self.delete(&found.path)?;
            }
        }
        Ok(())
    }
    /// What the server does about objects that somebody overwrites or deletes.
    fn holds(&self) -> Attempt<Holds> {
        Ok(Holds::default())
    }
    /// From now on, what is put is to be held for so many days.
    fn hold(&self, _days: u32) {}
    /// Until when an object is held, in ns since 1970.
    fn held_until_ns(&self, _path: &str) -> Attempt<Option<i128>> {
        Ok(None)
    }
    /// Removes an object, or nothing.
    fn delete(&self, path: &str) -> Attempt<()>;
    /// Where this is, without any secret.
    fn describe(&self) -> String;
}

/// A backend as a store.
pub struct Remote<B> {
    backend: Arc<B>,
    settings: Arc<Settings>,
    /// When signatures of snapshots were stored, as lists showed it.
    times: Arc<Mutex<HashMap<Key, i128>>>,
}

/// Opens the store at `url`. Costs no request yet.
///
/// # Errors
/// `Usage` if the URL makes no sense, or needs credentials that are not there.
pub fn open(url: &Url, settings: Settings) -> Result<Arc<dyn Store>> {
    let settings = Arc::new(settings);
    Ok(match url.scheme.as_str() {
        "s3" => Arc::new(Remote::new(s3::S3::open(url, settings.clone())?, settings)),
        "sftp" => Arc::new(Remote::new(sftp::Sftp::open(url, settings.clone())?, settings)),
        "webdav" | "webdavs" | "webdav+http" => Arc::new(Remote::new(webdav::WebDav::open(url, settings.clone())?, settings)),
        other => {
            return Err(Error::usage(format!("this coffre knows no vaults at {other}://"))
                .hint("give a directory, s3://BUCKET/PATH, sftp://HOST/PATH or webdav://HOST/PATH"));
        }
    })
}

impl<B: Backend> Remote<B> {
    fn new(backend: B, settings: Arc<Settings>) -> Self {
        Self { backend: Arc::new(backend), settings, times: Arc::default() }
    }

    fn times(&self) -> MutexGuard<'_, HashMap<Key, i128>> {
        self.times.lock().expect("nobody panics while holding the times")
    }

    /// Makes attempts until one succeeds, or trying again makes no sense any more.
    fn persist<T: Send + 'static>(&self, what: &str, attempt: impl Fn(&B) -> Attempt<T> + Send + Sync + 'static) -> Result<T> {
        let attempt = Arc::new(attempt);
        let mut pause = PAUSE_MS;
        for n in 1.. {
            let failure = match self.once(attempt.clone())? {
                Ok(done) => return Ok(done),
                Err(failure) => failure,
            };
            if !failure.again || n >= ATTEMPTS_MAX {
                let tries = if n > 1 { format!(", {n} times") } else { String::new() };
                return Err(failure.error.while_doing(format!("cannot {what} in {}{tries}", self.backend.describe())));
            }
            self.settings.traffic.retried();
            let random = u64::from_le_bytes(sys::random()?);
            self.settings.pause(std::time::Duration::from_millis(pause / 2 + random % (pause / 2).max(1)))?;
            pause = (pause * 2).min(PAUSE_MS_MAX);
        }
        unreachable!("the last attempt returns")
    }

    /// One attempt, on a thread of its own; left to itself if the person wants to stop.
    fn once<T: Send + 'static>(&self, attempt: Arc<impl Fn(&B) -> Attempt<T> + Send + Sync + 'static>) -> Result<Attempt<T>> {
        let (backend, (tell, told)) = (self.backend.clone(), mpsc::sync_channel(1));
        let slot = self.settings.slot()?;
        let work = move || {
            let _slot = slot;
            let _ = tell.send(attempt(&backend));
        };
        std::thread::Builder::new().name("store".to_owned()).spawn(work).map_err(|e| Error::io("cannot start a thread", e))?;
        loop {
            match told.recv_timeout(self.settings.look_every()) {
                Ok(outcome) => return Ok(outcome),
                Err(mpsc::RecvTimeoutError::Timeout) => self.settings.cancel.check()?,
                Err(mpsc::RecvTimeoutError::Disconnected) => return Err(Error::bug("a request ended without an answer")),
            }
        }
    }

    /// Stores `bytes`, which are all of the object.
    fn put_all(&self, key: &Key, bytes: Arc<[u8]>) -> Result<()> {
        // A name that is the hash of the bytes can stand for nothing else.
        if key.digest().is_none()
            && let Some(len) = self.stat(key)?
        {
            return self.settle(key, len, &bytes);
        }
        self.send(key, bytes).map(drop)
    }

    /// Sends `bytes` without a look for what may be there. Returns the server's mark of them.
    fn send(&self, key: &Key, bytes: Arc<[u8]>) -> Result<Option<String>> {
        let (path, sent) = (key.as_str().to_owned(), bytes.clone());
        match self.persist(&format!("write {key}"), move |b| b.put(&path, &sent))? {
            Put::Done(tag) => Ok(tag),
            Put::Exists => match self.stat(key)? {
                Some(len) => self.settle(key, len, &bytes).map(|()| None),
                None => Err(Error::unavailable(format!("{} says both that {key} is there and that it is not", self.backend.describe()))),
            },
        }
    }

    /// Says whether what is there, of `len` bytes, is the object that was to be put.
    fn settle(&self, key: &Key, len: u64, bytes: &[u8]) -> Result<()> {
        if len != bytes.len() as u64 {
            return Err(conflict(key));
        }
        let mut there = vec![0; COMPARE_LEN.min(bytes.len())];
        for (n, ours) in bytes.chunks(COMPARE_LEN).enumerate() {
            let there = &mut there[..ours.len()];
            self.get(key, (n * COMPARE_LEN) as u64, there)?;
            if there != ours {
                return Err(conflict(key));
            }
        }
        Ok(())
    }
}

impl<B: Backend> Store for Remote<B> {
    fn put(&self, key: &Key, bytes: &[u8]) -> Result<()> {
        self.put_all(key, bytes.into())
    }

    fn put_new(&self, key: &Key, bytes: &[u8]) -> Result<Option<String>> {
        self.send(key, bytes.into())
    }

    fn glance(&self, prefix: &str) -> Result<Option<Vec<(Key, Glimpse)>>> {
        let folder = prefix.to_owned();
        let what = format!("list {}", if prefix.is_empty() { "what is" } else { prefix });
        let found = self.persist(&what, move |b| b.glance(&folder))?;
        let glimpse = |found: Found| Some((Key::parse(&found.path)?, Glimpse { len: found.len, tag: found.tag }));
        Ok(found.map(|found| found.into_iter().filter_map(glimpse).collect()))
    }

    fn begin(&self) -> Result<Box<dyn Upload>> {
        Ok(Box::new(Pending { remote: self.clone(), bytes: Vec::new() }))
    }

    fn get(&self, key: &Key, offset: u64, buf: &mut [u8]) -> Result<()> {
        if buf.is_empty() {
            let len = self.stat(key)?.ok_or_else(|| missing(key))?;
            return if offset <= len { Ok(()) } else { Err(short(key)) };
        }
        let (path, len) = (key.as_str().to_owned(), buf.len());
        let bytes =
            self.persist(&format!("read {key} at byte {offset}"), move |b| b.get(&path, offset, len))?.ok_or_else(|| missing(key))?;
        if bytes.len() != buf.len() {
            return Err(short(key));
        }
        buf.copy_from_slice(&bytes);
        Ok(())
    }

    fn stat(&self, key: &Key) -> Result<Option<u64>> {
        let path = key.as_str().to_owned();
        self.persist(&format!("look at {key}"), move |b| b.stat(&path))
    }

    fn list(&self, prefix: &str, each: &mut dyn FnMut(Key, u64) -> Result<()>) -> Result<()> {
        let mut next = None;
        loop {
            let (folder, from) = (prefix.to_owned(), next.take());
            let what = format!("list {}", if prefix.is_empty() { "what is" } else { prefix });
            let page: Page = self.persist(&what, move |b| b.list(&folder, from.as_deref()))?;
            for found in page.found {
                let Some(key) = Key::parse(&found.path) else { continue };
                if let Some(at) = found.stored_ns.filter(|_| found.path.starts_with("snaps/") && found.path.ends_with(".sig")) {
                    let mut times = self.times();
                    if times.len() < TIMES_MAX {
                        times.insert(key.clone(), at);
                    }
                }
                each(key, found.len)?;
            }
            next = page.next;
            if next.is_none() {
                return Ok(());
            }
        }
    }

    fn stored_ns(&self, key: &Key) -> Result<Option<i128>> {
        if let Some(at) = self.times().get(key) {
            return Ok(Some(*at));
        }
        let path = key.as_str().to_owned();
        self.persist(&format!("look at {key}"), move |b| b.stored_ns(&path))
    }

    fn delete(&self, key: &Key) -> Result<()> {
        self.times().remove(key);
        let path = key.as_str().to_owned();
        self.persist(&format!("delete {key}"), move |b| b.delete(&path))
    }

    fn holds(&self) -> Result<Holds> {
        self.persist("look at the bucket", |b| b.holds())
    }

    fn hold(&self, days: u32) {
        self.backend.hold(days);
    }

    fn held_until_ns(&self, key: &Key) -> Result<Option<i128>> {
        let path = key.as_str().to_owned();
        self.persist(&format!("look at {key}"), move |b| b.held_until_ns(&path))
    }

    fn is_far(&self) -> bool {
        true
    }

    fn tidy(&self, before_ns: i128) -> Result<()> {
        self.persist("look for unfinished writes", move |b| b.tidy(before_ns))
    }

    fn is_empty(&self) -> Result<bool> {
        let page = self.persist("list what is", |b| b.list("", None))?;
        Ok(page.found.is_empty() && page.next.is_none())
    }

    fn describe(&self) -> String {
        self.backend.describe()
    }
}

impl<B> Clone for Remote<B> {
    fn clone(&self) -> Self {
        Self { backend: self.backend.clone(), settings: self.settings.clone(), times: self.times.clone() }
    }
}

/// An object that waits in memory for its name: a server cannot be told to rename it later for nothing. A pack is at most 32 MiB.
struct Pending<B> {
    remote: Remote<B>,
    bytes: Vec<u8>,
}

impl<B: Backend> Upload for Pending<B> {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn commit(self: Box<Self>, key: &Key) -> Result<()> {
        self.remote.put_all(key, self.bytes.into())
    }
}

/// The error of a server that has no room left.
fn full() -> Failure {
    Failure::lasting(
        Error::new(ErrorKind::Full, "the server has no room left")
            .hint("make room and run the same command again; what was stored is reused"),
    )
}

/// Folders of one level that a glance looks into.
const GLANCE_FOLDERS: usize = 256;
/// Files that a glance shows, as many as a page of S3.
const GLANCE_FILES: usize = 1000;

/// Lists a tree of folders, several at once: a round trip for each, one after the other, would take minutes.
fn list_folders(folder: &str, depth_max: usize, at_once: usize, list: &(dyn Fn(&str) -> Attempt<Folder> + Sync)) -> Attempt<Page> {
    let all = walk_folders(folder, depth_max, at_once, usize::MAX, list)?;
    Ok(Page { found: all.unwrap_or_default(), next: None })
}

/// What lies in a tree of folders if it has few of them.
fn glance_folders(
    folder: &str,
    depth_max: usize,
    at_once: usize,
    list: &(dyn Fn(&str) -> Attempt<Folder> + Sync),
) -> Attempt<Option<Vec<Found>>> {
    Ok(walk_folders(folder, depth_max, at_once, GLANCE_FOLDERS, list)?.and_then(at_a_glance))
}

/// What a list showed if it is short and every object in it bears a mark.
fn at_a_glance(found: Vec<Found>) -> Option<Vec<Found>> {
    (found.len() <= GLANCE_FILES && found.iter().all(|found| !found.tag.is_empty())).then_some(found)
}

/// All files of a tree of folders, of which `at_once` are listed at once; `None` once a level has more than `width_max` of them.
fn walk_folders(
    folder: &str,
    depth_max: usize,
    at_once: usize,
    width_max: usize,
    list: &(dyn Fn(&str) -> Attempt<Folder> + Sync),
) -> Attempt<Option<Vec<Found>>> {
    let (mut files, mut level) = (Vec::new(), vec![folder.to_owned()]);
    for _ in 0..depth_max {
        if level.len() > width_max {
            return Ok(None);
        }
        let mut deeper = Vec::new();
        for some in level.chunks(at_once) {
            let listed: Vec<Attempt<Folder>> = std::thread::scope(|scope| {
                let threads: Vec<_> = some.iter().map(|path| scope.spawn(move || list(path))).collect();
                threads.into_iter().map(|thread| thread.join().expect("a listing's panic is ours")).collect()
            });
            for entries in listed {
                for found in entries?.unwrap_or_default() {
                    match found.path.strip_suffix('/') {
                        // What a file system puts into its root is passed over.
                        Some("lost+found") => (),
                        Some(inside) => deeper.push(inside.to_owned()),
                        None => files.push(found),
                    }
                }
            }
        }
        level = deeper;
    }
    Ok(Some(files))
}
