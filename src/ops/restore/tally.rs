//! What a restore has done so far, what it could not do, and how far it is. Shared by threads.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use serde::Serialize;

use crate::{
    event::{Event, HowFar, Sink},
    sys::Clock,
};

/// Most files listed one by one, of each kind.
const LISTED_MAX: usize = 10_000;
/// How often progress is told.
const TELL_EVERY: Duration = Duration::from_millis(200);

/// A file that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Failed {
    /// Path in the snapshot, with what is not UTF-8 replaced.
    pub path: String,
    /// Why.
    pub text: String,
    /// The path as it is.
    #[serde(skip)]
    pub bytes: Box<[u8]>,
}

impl Failed {
    /// Takes the path and why.
    pub fn new(path: &[u8], text: String) -> Self {
        Self { path: String::from_utf8_lossy(path).into_owned(), text, bytes: path.into() }
    }
}

/// Files that are not as they should be: the first of them, and how many more.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Failures {
    /// One by one.
    pub files: Vec<Failed>,
    /// Not listed.
    pub more: u64,
}

impl Failures {
    fn add(&mut self, path: &[u8], text: String) {
        match self.files.len() < LISTED_MAX {
            true => self.files.push(Failed::new(path, text)),
            false => self.more += 1,
        }
    }

    /// How many.
    pub fn count(&self) -> u64 {
        self.files.len() as u64 + self.more
    }
}

/// Something of an entry that can be refused while the entry itself is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Owner or group.
    Owner,
    /// Permission bits.
    Mode,
    /// Modification time.
    Time,
    /// An extended attribute.
    Xattr,
    /// An access list.
    Acl,
}

/// How many entries lack what.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct NotSet {
    /// Owner or group.
    pub owners: u64,
    /// Permission bits, setuid and setgid among them.
    pub modes: u64,
    /// Modification time.
    pub times: u64,
    /// Extended attributes.
    pub xattrs: u64,
    /// Access lists.
    pub acls: u64,
    /// The first of them, and why.
    pub first: Option<Failed>,
}

impl NotSet {
    /// All together.
    pub fn count(&self) -> u64 {
        self.owners + self.modes + self.times + self.xattrs + self.acls
    }
}

macro_rules! counts {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// Counters.
        #[derive(Default)]
        pub struct Counts { $($(#[$doc])* pub $name: AtomicU64,)* }
        /// What the counters say.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
        pub struct Done { $($(#[$doc])* pub $name: u64,)* }
        impl Counts {
            fn read(&self) -> Done { Done { $($name: self.$name.load(Relaxed),)* } }
        }
    };
}

counts! {
    /// Regular files written.
    files,
    /// Bytes written into them.
    bytes,
    /// Regular files that were right already, and were not fetched.
    files_unchanged,
    /// Bytes of content in those, or kept from files of which a part was right.
    bytes_unchanged,
    /// Directories made.
    directories,
    /// Links, fifos and devices made, and further names of files.
    others,
    /// Entries of which only owner, mode, time or attributes were set.
    metadata_only,
    /// Entries that stood there and were put right.
    replaced,
    /// Entries deleted because the snapshot lacks them.
    deleted,
    /// Files read back and found right.
    verified,
}

/// All of it.
pub struct Tally<'a> {
    /// Counters.
    pub counts: Counts,
    lost: Mutex<Failures>,
    problems: Mutex<Failures>,
    not_set: Mutex<NotSet>,
    sink: &'a dyn Sink,
    clock: &'a dyn Clock,
    began: Duration,
    told_ms: AtomicU64,
    entries: AtomicU64,
    /// Bytes of content dealt with.
    moved: AtomicU64,
    total: AtomicU64,
}

impl<'a> Tally<'a> {
    /// Begins now.
    pub fn new(sink: &'a dyn Sink, clock: &'a dyn Clock) -> Self {
        Self {
            counts: Counts::default(),
            lost: Mutex::default(),
            problems: Mutex::default(),
            not_set: Mutex::default(),
            sink,
            clock,
            began: clock.monotonic(),
            told_ms: AtomicU64::new(0),
            entries: AtomicU64::new(0),
            moved: AtomicU64::new(0),
            total: AtomicU64::new(0),
        }
    }

    /// A file whose content is damaged in the vault.
    pub fn lost(&self, path: &[u8], text: String) {
        self.lost.lock().expect("nobody panics while listing").add(path, text);
    }

    /// A file that the target does not take.
    pub fn problem(&self, path: &[u8], text: String) {
        self.problems.lock().expect("nobody panics while listing").add(path, text);
    }

    /// Something of an entry that could not be set.
    pub fn not_set(&self, part: Part, path: impl FnOnce() -> Vec<u8>, text: impl FnOnce() -> String) {
        let mut not_set = self.not_set.lock().expect("nobody panics while counting");
        *match part {
            Part::Owner => &mut not_set.owners,
            Part::Mode => &mut not_set.modes,
            Part::Time => &mut not_set.times,
            Part::Xattr => &mut not_set.xattrs,
            Part::Acl => &mut not_set.acls,
        } += 1;
        if not_set.first.is_none() {
            not_set.first = Some(Failed::new(&path(), text()));
        }
    }

    /// How much there is to do; known better with every window.
    pub fn expect(&self, bytes: u64) {
        self.total.store(bytes, Relaxed);
        self.tell(true);
    }

    /// So many bytes of content are dealt with, and so many entries.
    pub fn moved(&self, entries: u64, bytes: u64) {
        self.entries.fetch_add(entries, Relaxed);
        self.moved.fetch_add(bytes, Relaxed);
        self.tell(false);
    }

    fn tell(&self, now: bool) {
        let ms = self.elapsed().as_millis() as u64;
        let told = self.told_ms.load(Relaxed);
        let due = now || ms.saturating_sub(told) >= TELL_EVERY.as_millis() as u64;
        if due && self.told_ms.compare_exchange(told, ms, Relaxed, Relaxed).is_ok() {
            let bytes = self.moved.load(Relaxed);
            self.sink.send(Event::Progress(HowFar {
                elapsed_ms: ms,
                entries: self.entries.load(Relaxed),
                bytes,
                bytes_total: Some(self.total.load(Relaxed).max(bytes)),
                bytes_read: self.counts.bytes.load(Relaxed),
                current: None,
            }));
        }
    }

    /// Since it began.
    pub fn elapsed(&self) -> Duration {
        self.clock.monotonic().saturating_sub(self.began)
    }

    /// What was done, lost, refused and left unset; lists in order of paths.
    pub fn result(&self) -> (Done, Failures, Failures, NotSet) {
        let sorted = |failures: &Mutex<Failures>| {
            let mut failures = failures.lock().expect("nobody panics while listing").clone();
            failures.files.sort();
            failures
        };
        let not_set = self.not_set.lock().expect("nobody panics while counting").clone();
        (self.counts.read(), sorted(&self.lost), sorted(&self.problems), not_set)
    }
}
