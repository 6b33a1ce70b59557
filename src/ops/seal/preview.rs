//! Dry runs: what a seal would take, told entry by entry.
//!
//! Walks as a real seal walks, by the same code, so that both agree. Opens no catalog, reads no content, writes nothing.

use std::thread;

use crossbeam_channel::bounded;
use serde::Serialize;

use crate::{
    error::{Error, Result},
    event::{LeftOut, Sink},
    format::{Content, DomainKeys, Key32, Problem},
    ops::seal::{
        Options,
        ahead::Ahead,
        compare::Tally,
        entry::EntryMaker,
        excludes,
        look::Looker,
        memory::Memory,
        sources::{self, Sources},
        walk::{Pending, Step, Walker},
    },
    sys::{self, Cancel, Clock, random},
    vault::StateDir,
};

/// Groups that wait to be told.
const GROUPS_MAX: usize = 8;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Taken {
    /// A directory.
    Directory,
    /// A regular file.
    File,
    /// A symbolic link.
    Symlink,
    /// A fifo or a device.
    Other,
}

/// One thing that a dry run tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// An entry would be taken: its absolute path, what it is, its size.
    Take(Vec<u8>, Taken, u64),
    /// It would be left out.
    LeftOut(LeftOut),
    /// It could not be taken.
    Problem(Problem),
}

/// The totals of a dry run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Preview {
    /// Entries of every kind.
    pub entries: u64,
    /// Regular files.
    pub files: u64,
    /// Directories.
    pub directories: u64,
    /// Symbolic links.
    pub symlinks: u64,
    /// Fifos and devices.
    pub others: u64,
    /// Sockets, which are never sealed.
    pub sockets_skipped: u64,
    /// Bytes of all files, holes among them.
    pub logical_bytes: u64,
    /// Entries that are left out; what is below them is not counted.
    pub left_out: u64,
    /// Entries that cannot be taken.
    pub unreadable: u64,
}

/// Tells each entry that a seal with `options` would take, in path order, and what it would leave out and why.
///
/// # Errors
/// Those of a seal before it reads anything, and those of `each`.
///
/// Cost: a listing of every directory.
pub fn preview(
    state: &StateDir,
    options: &Options,
    clock: &dyn Clock,
    sink: &dyn Sink,
    cancel: &Cancel,
    each: &mut dyn FnMut(Line) -> Result<()>,
) -> Result<Preview> {
    let Sources { all, skeleton, problems, .. } = sources::plan(&options.paths, &options.listed)?;
    let excludes = excludes(options, state)?;
    excludes.check_sources(&all)?;
    // Nothing is looked up or kept under these keys.
    let keys = DomainKeys::derive(&Key32::new(random()?));
    let memory = Memory::none(&keys);
    let now_ns = || clock.now_ns();
    let mut teller = Teller { each, path: Vec::new(), ends: Vec::new(), totals: Preview::default() };
    let (ahead, tally) = (Ahead::none(), Tally::default());
    thread::scope(|scope| {
        let (batches_in, batches) = bounded(GROUPS_MAX);
        let (groups_in, groups) = bounded(GROUPS_MAX);
        let looker = Looker { excludes: &excludes, explain: true, memory: &memory, now_ns: &now_ns };
        let walker = Walker {
            looker,
            ahead: &ahead,
            cancel,
            sink,
            maker: EntryMaker::new(0),
            groups: groups_in,
            batches: batches_in,
            tally: &tally,
            out: Pending::default(),
            path: Vec::new(),
            linked: Default::default(),
        };
        let walk = sys::spawn_in(scope, || walker.run(&skeleton))?;
        // Nobody reads: the files are only named.
        sys::spawn_in(scope, move || batches.iter().for_each(drop))?;
        let told = problems.into_iter().try_for_each(|problem| teller.step(Step::Failed(problem)));
        let told = told.and_then(|()| groups.iter().flat_map(|group| group.steps).try_for_each(|step| teller.step(step)));
        drop(groups);
        let walked = walk.join().unwrap_or_else(|_| Err(Error::bug("the walk panicked").hint("please report this with the text above")));
        // A teller that stopped makes the walk stop; its reason is the real one.
        told.and(walked)
    })?;
    Ok(Preview { left_out: excludes.left_out(), ..teller.totals })
}

struct Teller<'a> {
    each: &'a mut dyn FnMut(Line) -> Result<()>,
    /// Of the directory in work.
    path: Vec<u8>,
    /// Lengths of the paths of the directories above it.
    ends: Vec<usize>,
    totals: Preview,
}

impl Teller<'_> {
    fn step(&mut self, step: Step) -> Result<()> {
        match step {
            Step::Enter(dir) => {
                self.ends.push(self.path.len());
                self.path = dir.path;
                // The root is in every snapshot, and is no entry of it.
                if self.path.is_empty() {
                    return Ok(());
                }
                self.count(self.path.clone(), Taken::Directory, 0)
            }
            Step::Leave => {
                let end = self.ends.pop().expect("a directory ends after it began");
                self.path.truncate(end);
                Ok(())
            }
            Step::Read(name, size) => self.take(&name, Taken::File, size),
            Step::Linked(linked) => self.take(&linked.0.name, Taken::File, linked.1.size),
            Step::Ready(entry) => match &entry.content {
                Content::File { size, .. } => self.take(&entry.name, Taken::File, *size),
                Content::Symlink(_) => self.take(&entry.name, Taken::Symlink, 0),
                Content::Dir { .. } => self.take(&entry.name, Taken::Directory, 0),
                Content::Device { .. } | Content::Fifo => self.take(&entry.name, Taken::Other, 0),
            },
            Step::Socket => {
                self.totals.sockets_skipped += 1;
                Ok(())
            }
            Step::Failed(problem) => {
                self.totals.unreadable += 1;
                (self.each)(Line::Problem(problem))
            }
            Step::LeftOut(out) => (self.each)(Line::LeftOut(*out)),
        }
    }

    fn take(&mut self, name: &[u8], kind: Taken, size: u64) -> Result<()> {
        self.count([&self.path, &b"/"[..], name].concat(), kind, size)
    }

    fn count(&mut self, path: Vec<u8>, kind: Taken, size: u64) -> Result<()> {
        let totals = &mut self.totals;
        totals.entries += 1;
        totals.logical_bytes += size;
        match kind {
            Taken::Directory => totals.directories += 1,
            Taken::File => totals.files += 1,
            Taken::Symlink => totals.symlinks += 1,
            Taken::Other => totals.others += 1,
        }
        (self.each)(Line::Take(path, kind, size))
    }
}
