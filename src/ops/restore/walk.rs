//! Through the tree of a snapshot and what stands in the target, side by side, window by window. Reads both, changes nothing.

use std::rc::Rc;

use crate::{
    error::{Error, ErrorKind, Result},
    format::{ChunkId, Content, DIR_DEPTH_MAX, Data, DomainKeys, Entry, Node},
    ops::restore::{
        Context, LEFTOVER, Options, Place,
        extras::{Gather, only_leads},
        failed,
        place::Start,
        plan::{Before, Firsts, Job, JobNumber, Layout, Link, Piece, Plan, WEIGHT_MAX, data_len},
        table::{self, DirNumber, Table},
        tally::Tally,
        wanted::Taken,
    },
    sys::{Dir, FileType, Found, Stat},
    vault::Reader,
};

/// Deepest nesting of a directory's parts; two levels hold 16 million entries.
const PARTS_DEPTH_MAX: usize = 8;

/// A directory being walked.
struct Level {
    dir: DirNumber,
    /// Parts of it that were not read yet, the next one last, with their depth.
    parts: Vec<(ChunkId, usize)>,
    entries: std::vec::IntoIter<Entry>,
    last: Box<[u8]>,
    /// What stands in the target, if it is there.
    there: Option<(Rc<Dir>, Vec<Found>)>,
    path_len: usize,
    /// It, or a directory above it, was asked for.
    within: bool,
    /// Something in it is restored.
    used: bool,
    /// Which entries of `there` the snapshot has too, if that is asked.
    matched: Vec<bool>,
}

/// The walk.
pub struct Walk<'a> {
    context: &'a Context<'a>,
    options: &'a Options,
    keys: &'a DomainKeys,
    tally: &'a Tally<'a>,
    levels: Vec<Level>,
    /// What the target has more than the snapshot, if that is asked.
    pub extras: Option<Gather<'a>>,
    /// Something was taken.
    pub took: bool,
    /// The path of the directory being walked, in the snapshot.
    path: Vec<u8>,
}

impl<'a> Walk<'a> {
    /// Starts at the entry that is restored (`None`: the root of the snapshot), whose content goes into the target, or which goes there
    /// itself if it is no directory.
    pub fn new(
        context: &'a Context<'a>,
        options: &'a Options,
        keys: &'a DomainKeys,
        tally: &'a Tally<'a>,
        start: &Start,
        target: Option<&Dir>,
    ) -> Result<Self> {
        let mut walk = Self { context, options, keys, tally, levels: Vec::new(), extras: None, took: false, path: start.base.clone() };
        // A file says nothing of what else is in its directory.
        let mut matched = Vec::new();
        let (parts, entries) = match start.entry.clone() {
            None => (vec![(context.snapshot.manifest.root, 0)], Vec::new()),
            Some(Entry { content: Content::Dir { node, .. }, .. }) => (vec![(node, 0)], Vec::new()),
            Some(entry) => (Vec::new(), vec![entry]),
        };
        let there = match target {
            None => None,
            Some(target) => {
                let target = Rc::new(target.again().map_err(|e| failed("cannot open the target", e))?);
                let found = target.list().map_err(|e| failed("cannot list the target", e.into()))?;
                matched = vec![parts.is_empty(); found.len()];
                Some((target, found))
            }
        };
        let path_len = walk.path.len();
        let entries = entries.into_iter();
        walk.levels.push(Level { dir: 0, parts, entries, last: Box::default(), there, path_len, within: false, used: true, matched });
        Ok(walk)
    }

    /// The next window, or `None` if all was walked.
    pub fn window(&mut self, table: &mut Table, firsts: &mut Firsts) -> Result<Option<Plan>> {
        if self.levels.is_empty() {
            return Ok(None);
        }
        let mut plan = Plan::default();
        while plan.weight < WEIGHT_MAX {
            let Some(level) = self.levels.last_mut() else { break };
            if let Some((_, found)) = level.there.as_mut().filter(|_| level.last.is_empty() && level.entries.len() == 0) {
                let leftovers = found.iter().filter(|f| is_leftover(&f.name)).map(|f| (level.dir, f.name.clone()));
                plan.leftovers.extend(leftovers);
            }
            match self.next() {
                Ok(Some(entry)) => self.entry(entry, table, firsts, &mut plan)?,
                Ok(None) => {
                    self.gather();
                    self.leave(table, &mut plan);
                }
                Err(e) if e.kind() == ErrorKind::Cancelled => return Err(e),
                Err(e) => {
                    self.tally.lost(
                        &[&self.path, &b"/"[..]].concat(),
                        format!("the directory and what is below it cannot be read: {}", e.chain()),
                    );
                    // Its own entry is fine; what was read of it before is restored.
                    self.leave(table, &mut plan);
                }
            }
        }
        plan.pieces.sort_unstable_by_key(|p| (p.pack, p.frame, p.chunk, p.job));
        Ok(Some(plan))
    }

    /// Whether all of it was walked.
    pub fn is_over(&self) -> bool {
        self.levels.is_empty()
    }

    fn level(&mut self) -> &mut Level {
        self.levels.last_mut().expect("a directory is being walked")
    }

    /// The next entry of the directory being walked.
    fn next(&mut self) -> Result<Option<Entry>> {
        self.context.cancel.check()?;
        let (reader, keys) = (self.context.reader, self.keys);
        let level = self.level();
        loop {
            if let Some(entry) = level.entries.next() {
                if entry.name <= level.last && !level.last.is_empty() {
                    return Err(Error::corrupt("a directory has its parts out of order"));
                }
                level.last = entry.name.clone();
                return Ok(Some(entry));
            }
            let Some((id, depth)) = level.parts.pop() else { return Ok(None) };
            match reader.node(keys, &id)? {
                Node::Entries(entries) => level.entries = entries.into_iter(),
                Node::Parts(_) if depth > PARTS_DEPTH_MAX => return Err(Error::corrupt("a directory is nested too deep")),
                Node::Parts(parts) => level.parts.extend(parts.iter().rev().map(|(_, part)| (*part, depth + 1))),
            }
        }
    }

    /// Notes what the target has more than a directory that was walked to its end.
    fn gather(&mut self) {
        let level = self.levels.last().expect("a directory is being walked");
        if let (Some(gather), Some((dir, found))) = (&mut self.extras, &level.there) {
            gather.directory(&self.path, dir, found, &level.matched, level.within);
        }
    }

    /// Ends a directory.
    fn leave(&mut self, table: &mut Table, plan: &mut Plan) {
        let level = self.levels.pop().expect("a directory is being walked");
        match level.used {
            true => plan.finished.push(level.dir),
            false => table.take_back(level.dir),
        }
        let above = self.levels.last_mut();
        let path_len = above.as_ref().map_or(0, |above| above.path_len);
        self.path.truncate(path_len);
        if let Some(above) = above {
            above.used |= level.used;
        }
    }

    fn entry(&mut self, entry: Entry, table: &mut Table, firsts: &mut Firsts, plan: &mut Plan) -> Result<()> {
        let level = self.level();
        let within = level.within;
        let at = level.there.as_ref().and_then(|(_, found)| found.binary_search_by(|found| (*found.name).cmp(&entry.name)).ok());
        if let Some(at) = at {
            level.matched[at] = true;
        }
        let mut now_within = within;
        if !self.options.wanted.is_all() {
            self.path.push(b'/');
            self.path.extend_from_slice(&entry.name);
            let taken = self.options.wanted.taken(&self.path, &entry.name, entry.is_dir(), within);
            let path_len = self.level().path_len;
            self.path.truncate(path_len);
            match taken {
                Taken::No => return Ok(()),
                Taken::Yes => now_within = true,
                Taken::Perhaps => (),
            }
        } else {
            now_within = true;
        }
        self.took |= now_within;
        if entry.is_dir() {
            return self.enter(entry, now_within, table, plan);
        }
        let level = self.level();
        level.used = true;
        plan.entries += 1;
        plan.weight += size_of::<Job>() + 2 * entry.name.len() + 64;
        let dir = level.dir;
        let found = level.there.as_ref().and_then(|(_, found)| find(found, &entry.name));
        let number = entry.hard_link.map(|link| firsts.number(link.group, dir, &entry.name));
        let stat = match found.map(|found| found.stat).transpose() {
            Ok(stat) => stat,
            Err(e) => {
                self.problem(&entry.name, format!("what stands there cannot be looked at: {}", std::io::Error::from(e)));
                return Ok(());
            }
        };
        if stat.is_some_and(|stat| stat.file_type() == FileType::Dir) {
            let there = self.levels.last().and_then(|level| level.there.as_ref());
            match (&mut self.extras, there) {
                (Some(gather), Some((dir, _))) => gather.in_the_way(&self.path, dir, &entry.name),
                _ => self.problem(&entry.name, "a directory stands in the way; --delete removes it".to_owned()),
            }
            return Ok(());
        }
        if let Some((first, false)) = number {
            let before = stat.map(|stat| (stat.device, stat.inode));
            plan.links.push(Link { dir, name: entry.name, first, before });
            return Ok(());
        }
        let before = match (stat, &self.level().there) {
            (Some(stat), Some((there, _))) => before(there, &entry, &stat),
            _ => Before::Nothing,
        };
        self.job(Job { dir, entry, before, first: number.map(|(first, _)| first) }, plan);
        Ok(())
    }

    fn problem(&self, name: &[u8], text: String) {
        self.tally.problem(&[&self.path, &b"/"[..], name].concat(), text);
    }

    /// Goes into a directory.
    fn enter(&mut self, entry: Entry, within: bool, table: &mut Table, plan: &mut Plan) -> Result<()> {
        let Content::Dir { node, .. } = entry.content else { return Ok(()) };
        if self.levels.len() > DIR_DEPTH_MAX {
            self.problem(&entry.name, "is nested too deep".to_owned());
            return Ok(());
        }
        let level = self.level();
        let (parent, above) = (level.dir, level.there.as_ref());
        let found = above.and_then(|(_, found)| find(found, &entry.name)).map(|found| found.stat);
        let (before, there) = match found {
            None => (table::Before::Nothing, None),
            Some(Ok(stat)) if stat.file_type() != FileType::Dir => (table::Before::Other, None),
            Some(_) => {
                let above = above.map(|(dir, _)| dir.clone()).expect("it was found in one");
                let opened = above.child(&entry.name).and_then(|dir| dir.list().map(|found| (Rc::new(dir), found)));
                match opened {
                    Ok(there) => (table::Before::Dir, Some(there)),
                    Err(e) => {
                        self.problem(&entry.name, format!("the directory that stands there cannot be listed: {}", std::io::Error::from(e)));
                        return Ok(());
                    }
                }
            }
        };
        plan.entries += 1;
        plan.weight += size_of::<Entry>() + 2 * entry.name.len() + 160;
        self.path.push(b'/');
        self.path.extend_from_slice(&entry.name);
        let path_len = self.path.len();
        let name = entry.name.clone();
        let dir = table.add(parent, &name, before, Box::new(entry));
        if before == table::Before::Dir && self.options.place == Place::Original && only_leads(self.context.snapshot, &self.path) {
            table.set_entry(dir, None);
        }
        let matched = vec![false; there.as_ref().map_or(0, |(_, found)| found.len())];
        self.levels.push(Level {
            dir,
            parts: vec![(node, 0)],
            entries: Vec::new().into_iter(),
            last: Box::default(),
            there,
            path_len,
            within,
            used: within,
            matched,
        });
        Ok(())
    }

    /// Adds a job, and its chunks where they are.
    fn job(&self, job: Job, plan: &mut Plan) {
        let number = JobNumber::try_from(plan.jobs.len()).expect("a window is small");
        match (&job.entry.content, job.before) {
            (_, Before::Same(_)) if !self.options.by_content => plan.plain.push(number),
            (Content::File { .. }, Before::Same(_)) => plan.in_order.push(number),
            (Content::File { data: Data::Inline(_), .. }, _) => plan.plain.push(number),
            // Content of one chunk differs if the file does; of several, most may still be right.
            (Content::File { data: Data::Chunks(list), .. }, Before::File(len)) if list.len() > 1 && len > 0 => plan.in_order.push(number),
            (Content::File { data: Data::Lists(_), .. }, Before::File(len)) if len > 0 => plan.in_order.push(number),
            (Content::File { data: Data::Lists(_), .. }, _) => plan.long.push(number),
            (Content::File { data: Data::Chunks(list), holes, .. }, _) => {
                let before = plan.pieces.len();
                let mut layout = Layout::new(holes);
                let found = list.iter().all(|chunk| {
                    let offset = layout.place(u64::from(chunk.len));
                    piece(self.context.reader, chunk.id, chunk.len, number, offset).map(|piece| plan.pieces.push(piece)).is_some()
                });
                plan.weight += list.len() * (36 + size_of::<Piece>());
                if list.is_empty() {
                    plan.plain.push(number);
                } else if !found {
                    plan.pieces.truncate(before);
                    plan.in_order.push(number);
                }
            }
            _ => plan.plain.push(number),
        }
        plan.bytes += data_len(&job.entry);
        plan.jobs.push(job);
    }
}

/// A chunk with its place; `None` if no pack that is known has it.
pub fn piece(reader: &Reader, id: ChunkId, len: u32, job: JobNumber, offset: u64) -> Option<Piece> {
    let at = reader.with_index(|index| index.locate(&id)).into_iter().next()?;
    Some(Piece { pack: at.pack_number, frame: at.frame_number, chunk: at.chunk, job, offset, len, id })
}

/// An entry of a sorted listing.
pub fn find<'a>(listing: &'a [Found], name: &[u8]) -> Option<&'a Found> {
    listing.binary_search_by(|found| found.name.as_ref().cmp(name)).ok().map(|at| &listing[at])
}

/// Whether a restore that was killed left this.
fn is_leftover(name: &[u8]) -> bool {
    let rest = name.strip_prefix(LEFTOVER);
    rest.is_some_and(|rest| rest.len() == 24 && rest.iter().all(u8::is_ascii_hexdigit))
}

/// What stands where `entry` is wanted, which is no directory.
fn before(there: &Dir, entry: &Entry, stat: &Stat) -> Before {
    // An inode with more names than it shall have is shared with something that is none of ours.
    let names = entry.hard_link.map_or(1, |link| link.nlink.max(1));
    let same = match (&entry.content, stat.file_type()) {
        (Content::File { size, .. }, FileType::File) => *size == stat.size && entry.mtime_ns == stat.mtime_ns,
        (Content::Symlink(target), FileType::Symlink) => there.read_link(&entry.name).is_ok_and(|found| *found == **target),
        (Content::Fifo, FileType::Fifo) => true,
        (Content::Device { major, minor }, FileType::Device) => {
            entry.mode & 0o170_000 == stat.mode & 0o170_000 && stat.rdev == u64::from(*major) << 32 | u64::from(*minor)
        }
        _ => false,
    };
    match stat.file_type() {
        _ if same && stat.nlink <= names => Before::Same(*stat),
        FileType::File => Before::File(stat.size),
        _ => Before::Other,
    }
}
