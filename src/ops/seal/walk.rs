//! Walks the sources in path order and says what is there, step by step, a group at a time.
//!
//! Directories are walked by descriptor, names sorted; every entry is looked at once. Files to be read are handed to
//! the readers in batches; their content meets the steps again in `assemble`.

use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::{
    error::{Error, Result},
    event::{Event, LeftOut, Sink},
    format::{Content, DIR_DEPTH_MAX, Entry, Problem, ProblemKind},
    ops::seal::{
        ahead::{Ahead, Visits},
        compare::Tally,
        entry::{EntryMaker, looks_like_cached, same_as_cached},
        look::{Below, Looked, Looker},
        read::{Batch, Piece, Task},
        skip::{DirRecord, is_settled},
        sources::Skeleton,
    },
    sys::{Cancel, Dir, FileType, Stat, xattrs_of_name},
};

/// Something the walk met, in path order.
pub enum Step {
    /// A directory begins.
    Enter(Box<EnteredDir>),
    /// The directory that began last ends.
    Leave,
    /// A file whose content comes from the readers, in this order, and its size when it was listed.
    Read(Box<[u8]>, u64),
    /// An entry that needs no reading.
    Ready(Box<Entry>),
    /// Another name of an inode that was read before.
    Linked(Box<(Task, Stat)>),
    /// A socket, which is not taken.
    Socket,
    /// An entry that could not be taken.
    Failed(Problem),
    /// An entry of the directory that began last is left out. Only sent to who asks for it.
    LeftOut(Box<LeftOut>),
}

/// A directory as it was found.
pub struct EnteredDir {
    /// Its name; empty for the root.
    pub name: Box<[u8]>,
    /// Its stat.
    pub stat: Stat,
    /// Its attributes.
    pub xattrs: crate::sys::Xattrs,
    /// Its keyed name in the catalog; `None` for directories above the sources.
    pub record_name: Option<[u8; 16]>,
    /// Hash of its listing.
    pub listing: [u8; 32],
    /// What the catalog knows, if the listing is still the same: its entries are then not sent.
    pub unchanged: Option<DirRecord>,
    /// When it was listed, ns since 1970.
    pub listed_ns: i128,
    /// Absolute path.
    pub path: Vec<u8>,
}

/// Steps in order, and the content of the files among them.
pub struct Group {
    /// The steps.
    pub steps: Vec<Step>,
    /// Content of the `Read` steps.
    pub pieces: Receiver<Piece>,
}

/// Limits of a group: files, bytes, steps and directories held open at most.
const GROUP_FILES: usize = 64;
const GROUP_BYTES: u64 = 1 << 20;
const GROUP_STEPS: usize = 1024;
const GROUP_DIRS: usize = 16;
/// Pieces that wait for their turn, a group.
pub const GROUP_PIECES: usize = 2;
/// Directories held open on the way down; deeper ones are reopened through their children on the way up.
const OPEN_DIRS: usize = 64;

/// Walks.
pub struct Walker<'a, 's> {
    pub looker: Looker<'a>,
    /// Who looks at directories before this walk comes to them.
    pub ahead: &'a Ahead<'s>,
    pub cancel: &'a Cancel,
    pub sink: &'a dyn Sink,
    pub maker: EntryMaker,
    pub groups: Sender<Group>,
    pub batches: Sender<Batch>,
    /// Counts files by what became of them.
    pub tally: &'a Tally,
    pub out: Pending,
    pub path: Vec<u8>,
    /// Inodes with several names that are being read.
    pub linked: std::collections::HashSet<(u64, u64)>,
}

/// The group that is being filled.
#[derive(Default)]
pub struct Pending {
    steps: Vec<Step>,
    tasks: Vec<Task>,
    bytes: u64,
    dirs: usize,
    /// Whether a step keeps a directory open.
    holds_dirs: bool,
}

/// A directory on the way down.
struct Level<'s> {
    looked: Looked<'s>,
    visits: Visits<'s>,
    /// Which entry comes next.
    next: usize,
}

impl<'s> Walker<'_, 's> {
    /// Walks everything below `skeleton`, which is the root directory.
    pub fn run(mut self, skeleton: &'s Skeleton) -> Result<()> {
        let done = self.walk(skeleton);
        self.ahead.close();
        done
    }

    fn walk(&mut self, skeleton: &'s Skeleton) -> Result<()> {
        let root = Dir::open(std::path::Path::new("/")).map_err(|e| Error::io("cannot open /", e.into()))?;
        let stat = root.stat().map_err(|e| Error::io("cannot look at /", e.into()))?;
        let root = Arc::new(root);
        let (parent, is_source) = (root.clone(), skeleton.is_source);
        let below = Below { parent, name: Box::default(), path: Vec::new(), skeleton: Some(skeleton), is_source, scope: None };
        let looked = self.looker.look(root, stat, below);
        let mut levels = vec![self.enter(looked, Visits::default())?];
        while let Some(level) = levels.last_mut() {
            self.path.truncate(level.looked.path.len());
            let Some(at) = level.looked.listing.get(level.next) else {
                let left = levels.pop().expect("there is a last level");
                self.step(Step::Leave)?;
                if let Some(above) = levels.last_mut()
                    && above.looked.dir.is_none()
                {
                    above.looked.dir = Some(self.reopen(&left, above)?);
                }
                continue;
            };
            level.next += 1;
            self.path.push(b'/');
            self.path.extend_from_slice(&at.name);
            if let Some((looked, visits)) = self.entry(level)? {
                if levels.len() >= DIR_DEPTH_MAX {
                    self.failed("directories are nested more than 4096 deep; what is below is left out".to_owned())?;
                    continue;
                }
                levels.push(self.enter(looked, visits)?);
                let deep = levels.len().checked_sub(OPEN_DIRS);
                if let Some(far) = deep {
                    self.ahead.withdraw(&mut levels[far].visits, &self.looker);
                    levels[far].looked.dir = None;
                }
            }
        }
        self.flush()
    }

    /// Begins a directory.
    fn enter(&mut self, mut looked: Looked<'s>, mut visits: Visits<'s>) -> Result<Level<'s>> {
        self.cancel.check()?;
        for warning in looked.warnings.drain(..) {
            self.sink.send(Event::Warning(warning));
        }
        if !looked.problems.is_empty() {
            self.tally.give_up();
        }
        for problem in std::mem::take(&mut looked.problems) {
            self.failed(problem)?;
        }
        if let Some(record) = &looked.unchanged {
            self.tally.unchanged(record.own.files);
        }
        self.out.dirs += 1;
        self.step(Step::Enter(Box::new(EnteredDir {
            name: looked.name.clone(),
            stat: looked.stat,
            xattrs: std::mem::take(&mut looked.xattrs),
            record_name: looked.record_name,
            listing: looked.listing_hash,
            unchanged: looked.unchanged.take(),
            listed_ns: looked.listed_ns,
            path: looked.path.clone(),
        })))?;
        for _ in 0..looked.sockets {
            self.step(Step::Socket)?;
        }
        for out in std::mem::take(&mut looked.left_out) {
            self.step(Step::LeftOut(Box::new(out)))?;
        }
        self.ahead.announce(&looked, &mut visits);
        Ok(Level { looked, visits, next: 0 })
    }

    /// Handles the entry that comes next; returns what to descend into if it is a directory.
    fn entry(&mut self, level: &mut Level<'s>) -> Result<Option<(Looked<'s>, Visits<'s>)>> {
        let found = &mut level.looked.listing[level.next - 1];
        let stat = match found.stat {
            Ok(stat) => stat,
            Err(e) => return self.failed(format!("cannot look at it: {}", std::io::Error::from(e))).map(|()| None),
        };
        let kind = stat.file_type();
        let name = std::mem::take(&mut found.name);
        let dir = level.looked.dir.as_ref().expect("the directory in work is open");
        match kind {
            FileType::Dir => {
                let visited = self.ahead.visit(&mut level.visits, level.next - 1, &self.looker, || level.looked.below(&name));
                self.ahead.announce(&level.looked, &mut level.visits);
                match visited {
                    Ok(visited) => return Ok(Some(visited)),
                    Err(e) if e.kind() == std::io::ErrorKind::NotFound => (),
                    Err(e) => {
                        self.tally.give_up();
                        self.failed(format!("cannot open: {e}"))?;
                    }
                }
            }
            FileType::Socket => self.step(Step::Socket)?,
            FileType::File => self.file(&level.looked, dir.clone(), name, stat)?,
            FileType::Symlink | FileType::Device | FileType::Fifo => {
                let content = match kind {
                    FileType::Symlink => match dir.read_link(&name) {
                        Ok(target) => Content::Symlink(target.into()),
                        Err(rustix::io::Errno::NOENT) => return Ok(None),
                        Err(e) => return self.failed(format!("cannot read the link: {}", std::io::Error::from(e))).map(|()| None),
                    },
                    FileType::Device => Content::Device { major: (stat.rdev >> 32) as u32, minor: stat.rdev as u32 },
                    _ => Content::Fifo,
                };
                let xattrs = self.or_problem(xattrs_of_name(dir, &name), "cannot read the extended attributes")?.unwrap_or_default();
                let entry = self.maker.entry(name, &stat, xattrs, content);
                self.step(Step::Ready(Box::new(entry)))?;
            }
        }
        Ok(None)
    }

    fn file(&mut self, looked: &Looked, dir: Arc<Dir>, name: Box<[u8]>, stat: Stat) -> Result<()> {
        let cached = looked.cached.as_deref().unwrap_or_default();
        let known = cached.binary_search_by(|e| e.name.cmp(&name)).ok().map(|at| &cached[at]);
        let known = known.filter(|entry| matches!(entry.content, Content::File { .. }));
        if looked.record_name.is_none() {
            self.tally.give_up();
        }
        self.tally.file(known.map(|entry| looks_like_cached(entry, &stat)));
        if let Some(entry) = known
            && same_as_cached(entry, &stat)
            && self.looker.memory.holds(entry)
            && is_settled(&stat, (self.looker.now_ns)())
        {
            return self.step(Step::Ready(Box::new(entry.clone())));
        }
        if stat.nlink > 1 && !self.linked.insert((stat.device, stat.inode)) {
            self.out.holds_dirs = true;
            return self.step(Step::Linked(Box::new((Task { dir, name }, stat))));
        }
        self.out.bytes += stat.size.min(stat.allocated.max(4096));
        self.out.tasks.push(Task { dir, name: name.clone() });
        self.step(Step::Read(name, stat.size))
    }

    /// Opens the directory above `left` again, and makes sure that it is the same one.
    fn reopen(&mut self, left: &Level, above: &Level) -> Result<Arc<Dir>> {
        let again = left.looked.dir.as_ref().map(|below| below.parent().and_then(|dir| dir.stat().map(|stat| (dir, stat))));
        match again {
            Some(Ok((dir, stat))) if (stat.device, stat.inode) == (above.looked.stat.device, above.looked.stat.inode) => Ok(Arc::new(dir)),
            // Moved while we were below: walk down to it again by name.
            _ => {
                let mut dir = Dir::open(std::path::Path::new("/")).map_err(|e| Error::io("cannot open /", e.into()))?;
                for part in above.looked.path.split(|b| *b == b'/').filter(|p| !p.is_empty()) {
                    dir = dir.child(part).map_err(|e| {
                        Error::io(format!("{} moved away while it was sealed", String::from_utf8_lossy(&self.path)), e.into())
                            .hint("run the seal again")
                    })?;
                }
                Ok(Arc::new(dir))
            }
        }
    }

    fn or_problem<T>(&mut self, result: std::result::Result<T, rustix::io::Errno>, what: &str) -> Result<Option<T>> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(e) => self.failed(format!("{what}: {}", std::io::Error::from(e))).map(|()| None),
        }
    }

    fn failed(&mut self, text: String) -> Result<()> {
        self.sink.send(Event::Warning(format!("{}: {text}", String::from_utf8_lossy(&self.path))));
        self.step(Step::Failed(Problem { kind: ProblemKind::Unreadable, path: self.path.clone(), text }))
    }

    fn step(&mut self, step: Step) -> Result<()> {
        self.out.steps.push(step);
        let out = &self.out;
        let full = out.tasks.len() >= GROUP_FILES
            || out.bytes >= GROUP_BYTES
            || out.steps.len() >= GROUP_STEPS
            || (out.dirs >= GROUP_DIRS && (out.holds_dirs || !out.tasks.is_empty()));
        if full { self.flush() } else { Ok(()) }
    }

    /// Sends the group on. Ends the walk if nobody takes it: whoever stopped has the reason.
    fn flush(&mut self) -> Result<()> {
        let out = std::mem::take(&mut self.out);
        let (pieces_in, pieces) = bounded(GROUP_PIECES);
        let gone = |_| Error::cancelled();
        if !out.tasks.is_empty() {
            self.batches.send(Batch { tasks: out.tasks, pieces: pieces_in }).map_err(|_| gone(()))?;
        }
        self.groups.send(Group { steps: out.steps, pieces }).map_err(|_| gone(()))
    }
}
