//! Walks the sources in path order and says what is there, step by step, a group at a time.
//!
//! Directories are walked by descriptor, names sorted; every entry is looked at once. Files to be read are handed to
//! the readers in batches; their content meets the steps again in `assemble`.

use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::{
    error::{Error, Result},
    event::{Event, Sink},
    format::{Content, DIR_DEPTH_MAX, Entry, Problem, ProblemKind},
    ops::seal::{
        entry::{EntryMaker, same_as_cached},
        exclude::{Decided, Excludes, LeftOut, Listed, Scope},
        memory::Memory,
        read::{Batch, Piece, Task},
        skip::{DirRecord, is_settled, listing_hash},
        sources::Skeleton,
    },
    sys::{Cancel, Dir, FileType, Found, Stat, xattrs_of_fd, xattrs_of_name},
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
pub struct Walker<'a> {
    pub excludes: &'a Excludes,
    /// Whether what is left out is told, step by step.
    pub explain: bool,
    pub memory: &'a Memory<'a>,
    pub cancel: &'a Cancel,
    pub sink: &'a dyn Sink,
    pub now_ns: &'a (dyn Fn() -> i128 + Sync),
    pub maker: EntryMaker,
    pub groups: Sender<Group>,
    pub batches: Sender<Batch>,
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
    dir: Option<Arc<Dir>>,
    stat: Stat,
    listing: std::vec::IntoIter<Found>,
    /// What was named at or below this directory.
    skeleton: Option<&'s Skeleton>,
    /// What holds in a source; `None` above the sources, where only what leads to them is looked at.
    scope: Option<Scope>,
    /// Directories in this one that are left out themselves, but lead to a source.
    through: Vec<Box<[u8]>>,
    /// Length of the path of this directory.
    path_len: usize,
    cached: Vec<Entry>,
    /// The listing is unchanged: only directories are looked into.
    dirs_only: bool,
}

/// A directory to descend into.
struct Below<'s> {
    dir: Arc<Dir>,
    name: Box<[u8]>,
    stat: Stat,
    skeleton: Option<&'s Skeleton>,
    scope: Option<Scope>,
}

impl<'s> Level<'s> {
    /// What holds in the directory `name` of this one.
    fn below(&self, dir: Arc<Dir>, name: Box<[u8]>, stat: Stat) -> Below<'s> {
        let skeleton = self.skeleton.and_then(|skeleton| skeleton.children.get(&name));
        let scope = match skeleton {
            Some(named) if named.is_source => Some(Excludes::source(self.scope.as_ref(), &stat)),
            _ if self.through.contains(&name) => None,
            _ => self.scope.clone(),
        };
        Below { dir, name, stat, skeleton, scope }
    }
}

impl Walker<'_> {
    /// Walks everything below `skeleton`, which is the root directory.
    pub fn run(mut self, skeleton: &Skeleton) -> Result<()> {
        let root = Dir::open(std::path::Path::new("/")).map_err(|e| Error::io("cannot open /", e.into()))?;
        let stat = root.stat().map_err(|e| Error::io("cannot look at /", e.into()))?;
        let mut levels = Vec::new();
        let scope = skeleton.is_source.then(|| Excludes::source(None, &stat));
        let level = self.enter(Below { dir: Arc::new(root), name: Box::default(), stat, skeleton: Some(skeleton), scope })?;
        levels.push(level);
        while let Some(level) = levels.last_mut() {
            self.path.truncate(level.path_len);
            let Some(found) = level.listing.next() else {
                let left = levels.pop().expect("there is a last level");
                self.step(Step::Leave)?;
                if let Some(above) = levels.last_mut()
                    && above.dir.is_none()
                {
                    above.dir = Some(self.reopen(&left, above)?);
                }
                continue;
            };
            self.path.push(b'/');
            self.path.extend_from_slice(&found.name);
            if let Some(below) = self.entry(level, found)? {
                if levels.len() >= DIR_DEPTH_MAX {
                    self.failed("directories are nested more than 4096 deep; what is below is left out".to_owned())?;
                    continue;
                }
                let level = self.enter(below)?;
                levels.push(level);
                let deep = levels.len().checked_sub(OPEN_DIRS);
                if let Some(far) = deep {
                    levels[far].dir = None;
                }
            }
        }
        self.flush()
    }

    /// Begins a directory: lists it, and decides whether it changed.
    fn enter<'s>(&mut self, below: Below<'s>) -> Result<Level<'s>> {
        let Below { dir, name, stat, skeleton, scope } = below;
        self.cancel.check()?;
        let listed_ns = (self.now_ns)();
        let mut left_out = Vec::new();
        let listed = match (&scope, skeleton) {
            (Some(scope), _) => {
                let mut told = |out| left_out.push(out);
                let told = self.explain.then_some(&mut told as &mut dyn FnMut(LeftOut));
                self.excludes.list(scope, &stat, &Listed { dir: &dir, path: &self.path, named: skeleton }, told)
            }
            // Above the sources only what leads to them is looked at.
            (None, named) => {
                let names = named.iter().flat_map(|skeleton| skeleton.children.keys());
                Ok((names.map(|name| Found { name: name.clone(), stat: dir.stat_of(name) }).collect(), Decided::default()))
            }
        };
        let (listing, decided) = match listed {
            Ok(listed) => listed,
            Err(e) => {
                self.failed(format!("cannot list: {e}"))?;
                Default::default()
            }
        };
        for warning in decided.warnings {
            self.sink.send(Event::Warning(warning));
        }
        let scope = scope.map(|_| decided.scope);
        let record_name = scope.is_some().then(|| self.memory.name(&self.path));
        let listing_now = listing_hash(&stat, &listing, listed_ns);
        let known = record_name.and_then(|name| self.memory.dir(&name));
        let unchanged = known.filter(|record| record.listing == listing_now && listing_now != [0; 32]);
        let cached = match (&unchanged, record_name) {
            (None, Some(name)) => self.memory.entries(&name).unwrap_or_default(),
            _ => Vec::new(),
        };
        let dirs_only = unchanged.is_some();
        let xattrs = match &unchanged {
            Some(_) => Vec::new(), // They are in the node, and the directory's ctime says that they are the same.
            None => self.or_problem(xattrs_of_fd(&*dir), "cannot read the extended attributes")?.unwrap_or_default(),
        };
        self.out.dirs += 1;
        self.step(Step::Enter(Box::new(EnteredDir {
            name,
            stat,
            xattrs,
            record_name,
            listing: listing_now,
            unchanged,
            listed_ns,
            path: self.path.clone(),
        })))?;
        for out in left_out {
            self.step(Step::LeftOut(Box::new(out)))?;
        }
        let (listing, through, path_len) = (listing.into_iter(), decided.through, self.path.len());
        Ok(Level { dir: Some(dir), stat, listing, skeleton, scope, through, path_len, cached, dirs_only })
    }

    /// Handles one entry; returns what to descend into if it is a directory.
    fn entry<'s>(&mut self, level: &Level<'s>, found: Found) -> Result<Option<Below<'s>>> {
        let dir = level.dir.as_ref().expect("the directory in work is open");
        let stat = match found.stat {
            Ok(stat) => stat,
            Err(e) => return self.failed(format!("cannot look at it: {}", std::io::Error::from(e))).map(|()| None),
        };
        let kind = stat.file_type();
        if level.dirs_only && kind != FileType::Dir {
            if kind == FileType::Socket {
                self.step(Step::Socket)?;
            }
            return Ok(None);
        }
        match kind {
            FileType::Dir => match dir.child(&found.name).and_then(|child| child.stat().map(|stat| (child, stat))) {
                Ok((child, stat)) => return Ok(Some(level.below(Arc::new(child), found.name, stat))),
                Err(rustix::io::Errno::NOENT) => (),
                Err(e) => self.failed(format!("cannot open: {}", std::io::Error::from(e)))?,
            },
            FileType::Socket => self.step(Step::Socket)?,
            FileType::File => self.file(level, dir.clone(), found.name, stat)?,
            FileType::Symlink | FileType::Device | FileType::Fifo => {
                let content = match kind {
                    FileType::Symlink => match dir.read_link(&found.name) {
                        Ok(target) => Content::Symlink(target.into()),
                        Err(rustix::io::Errno::NOENT) => return Ok(None),
                        Err(e) => return self.failed(format!("cannot read the link: {}", std::io::Error::from(e))).map(|()| None),
                    },
                    FileType::Device => Content::Device { major: (stat.rdev >> 32) as u32, minor: stat.rdev as u32 },
                    _ => Content::Fifo,
                };
                let xattrs = self.or_problem(xattrs_of_name(dir, &found.name), "cannot read the extended attributes")?.unwrap_or_default();
                let entry = self.maker.entry(found.name, &stat, xattrs, content);
                self.step(Step::Ready(Box::new(entry)))?;
            }
        }
        Ok(None)
    }

    fn file(&mut self, level: &Level, dir: Arc<Dir>, name: Box<[u8]>, stat: Stat) -> Result<()> {
        if let Ok(at) = level.cached.binary_search_by(|e| e.name.cmp(&name)) {
            let entry = &level.cached[at];
            if same_as_cached(entry, &stat) && self.memory.holds(entry) && is_settled(&stat, (self.now_ns)()) {
                return self.step(Step::Ready(Box::new(entry.clone())));
            }
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
        let below = left.dir.as_ref().expect("the directory in work is open");
        let again = below.parent().and_then(|dir| dir.stat().map(|stat| (dir, stat)));
        match again {
            Ok((dir, stat)) if (stat.device, stat.inode) == (above.stat.device, above.stat.inode) => Ok(Arc::new(dir)),
            // Moved while we were below: walk down to it again by name.
            _ => {
                let mut dir = Dir::open(std::path::Path::new("/")).map_err(|e| Error::io("cannot open /", e.into()))?;
                for part in self.path[..above.path_len].split(|b| *b == b'/').filter(|p| !p.is_empty()) {
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
