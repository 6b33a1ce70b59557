//! Puts the content of small files into the kernel's page cache before it is asked for.
//!
//! A program that copies a tree lists a directory, then opens each file; every open file costs a request, and a request costs
//! more than the copy of a small file. So once a directory was listed to its end (the kernel knows its inodes then), and
//! somebody lately read files, its small files are stored into the page cache, in order. Of one directory in four the first
//! file is left out: that it is asked for tells that content is still wanted. A mere listing pushes nothing.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicU32, AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    time::Duration,
};

use fuser::{INodeNo, Notifier};

use crate::{
    error::{Error, Result},
    format::Content,
    mount::view::Views,
    sys::{self, Clock},
};

/// Largest file that is pushed: larger ones are read ahead by the kernel.
const FILE_LEN_MAX: u64 = 128 << 10;
/// Most bytes pushed for one directory.
const DIR_BYTES_MAX: u64 = 64 << 20;
/// For how long a read counts as lately.
const LATELY_MS: u64 = 2000;
/// Directories pushed without anybody reading a file that was left out: then the reader has gone.
const UNSEEN_MAX: u32 = 12;
/// Of so many directories one has its first file left out.
const PROBE_EVERY: u32 = 4;
/// Directories that wait to be pushed; more are left to ordinary requests.
const QUEUE_MAX: usize = 64;
/// Files that are stored before the program learns that it has seen the whole directory, to have a lead. With four a copy asked for
/// less, and took longer.
const LEAD: usize = 1;
/// Longest that it waits for that.
const LEAD_WAIT: Duration = Duration::from_millis(1);
/// Directories remembered as listed, and as pushed.
const REMEMBERED_MAX: usize = 1024;
/// Nothing is pushed while less than this share of memory is free.
const MEMORY_FREE_MIN: f64 = 0.1;

/// Decides what to push, and hands it to the thread that does.
pub struct Push {
    views: Arc<Views>,
    clock: Arc<dyn Clock>,
    queue: OnceLock<SyncSender<Wanted>>,
    last_read_ms: AtomicU64,
    unseen: AtomicU32,
    /// Directories that wait, or are being pushed.
    pending: AtomicU32,
    dirs: Mutex<Dirs>,
}

/// A directory that shall be pushed.
struct Wanted {
    dir: u64,
    /// Whether its first file is left out.
    probe: bool,
    /// Told once the first files are stored.
    begun: SyncSender<()>,
}

#[derive(Default)]
struct Dirs {
    /// Directories listed to their end and not pushed.
    listed: VecDeque<u64>,
    /// Directories that were pushed.
    pushed: VecDeque<u64>,
}

fn remember(list: &mut VecDeque<u64>, dir: u64) {
    if list.len() == REMEMBERED_MAX {
        list.pop_front();
    }
    list.push_back(dir);
}

impl Push {
    /// Pushes nothing until `start`.
    pub fn new(views: Arc<Views>, clock: Arc<dyn Clock>) -> Self {
        Self {
            views,
            clock,
            queue: OnceLock::new(),
            last_read_ms: AtomicU64::new(0),
            unseen: AtomicU32::new(UNSEEN_MAX),
            pending: AtomicU32::new(0),
            dirs: Mutex::default(),
        }
    }

    /// Starts the thread. Pages are never stored from a handler: the kernel may hold locks that the answer must free.
    pub fn start(self: &Arc<Self>, notifier: Notifier) -> Result<()> {
        let (tell, hear) = sync_channel(QUEUE_MAX);
        if self.queue.set(tell).is_err() {
            return Ok(());
        }
        let push = self.clone();
        let work = move || push.run(&hear, &notifier);
        std::thread::Builder::new().name("push".to_owned()).spawn(work).map(drop).map_err(|e| Error::io("cannot start a thread", e))
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.clock.monotonic().as_millis()).unwrap_or(u64::MAX)
    }

    /// The kernel has taken in the whole listing of directory `dir`, and waits to be told that it was all. Returns a moment later if that
    /// is worth it.
    pub fn listed(&self, dir: u64) {
        let lately = self.now_ms().saturating_sub(self.last_read_ms.load(Ordering::Relaxed)) < LATELY_MS;
        if lately && self.unseen.load(Ordering::Relaxed) < UNSEEN_MAX {
            if let Some(begun) = self.want(dir) {
                // Late or not, the program goes on.
                let _ = begun.recv_timeout(LEAD_WAIT);
            }
        } else {
            remember(&mut self.dirs.lock().expect("nobody panics while holding the directories").listed, dir);
        }
    }

    /// Somebody read the start of a file in directory `dir`.
    pub fn read(&self, dir: u64) {
        self.last_read_ms.store(self.now_ms(), Ordering::Relaxed);
        self.unseen.store(0, Ordering::Relaxed);
        let was_listed = {
            let mut dirs = self.dirs.lock().expect("nobody panics while holding the directories");
            let at = dirs.listed.iter().rposition(|d| *d == dir);
            at.map(|at| dirs.listed.remove(at)).is_some()
        };
        if was_listed {
            self.want(dir);
        }
    }

    /// Hands a directory over. Returns who tells that its first files are stored, if no other is in the way.
    fn want(&self, dir: u64) -> Option<Receiver<()>> {
        let mut dirs = self.dirs.lock().expect("nobody panics while holding the directories");
        if dirs.pushed.iter().rev().any(|d| *d == dir) {
            return None;
        }
        let (begun, hear) = sync_channel(1);
        let probe = (self.unseen.load(Ordering::Relaxed) + 1).is_multiple_of(PROBE_EVERY);
        if let Some(queue) = self.queue.get()
            && queue.try_send(Wanted { dir, probe, begun }).is_ok()
        {
            remember(&mut dirs.pushed, dir);
            self.unseen.fetch_add(1, Ordering::Relaxed);
            let before = self.pending.fetch_add(1, Ordering::Relaxed);
            return (before == 0).then_some(hear);
        }
        None
    }

    fn run(&self, queue: &Receiver<Wanted>, notifier: &Notifier) {
        for wanted in queue {
            if sys::memory_free_share() >= MEMORY_FREE_MIN {
                self.push(&wanted, notifier);
            }
            self.pending.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn push(&self, wanted: &Wanted, notifier: &Notifier) {
        let mut files: Vec<(u64, u64)> = Vec::new();
        // A directory or file that cannot be read is left to whoever asks for it, and is told the reason.
        let _ = self.views.list_dir(wanted.dir, 2, |listed, _| {
            if let Some(Content::File { size, .. }) = listed.node.entry().map(|e| &e.content)
                && (1..=FILE_LEN_MAX).contains(size)
            {
                files.push((listed.node.ino(), *size));
            }
            true
        });
        let (mut sum, mut buf) = (0, Vec::new());
        for (n, (ino, size)) in files.into_iter().skip(usize::from(wanted.probe)).enumerate() {
            sum += size;
            if sum > DIR_BYTES_MAX {
                break;
            }
            if n == LEAD {
                // Nobody may wait any more.
                let _ = wanted.begun.try_send(());
            }
            buf.resize(size as usize, 0);
            let stored = match self.views.read(ino, 0, &mut buf) {
                Ok(n) if n as u64 == size => notifier.store(INodeNo(ino), 0, &buf),
                _ => continue,
            };
            if stored.is_err() {
                break;
            }
        }
    }
}
