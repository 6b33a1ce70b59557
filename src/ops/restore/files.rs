//! One entry of the target: made, written in pieces by several threads, finished, or taken away again.
//!
//! Where nothing stood a file is written under its own name: its time, which comes last, says whether it is whole. Where something stood
//! it gets a name of ours, and takes the place of that when it is whole.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    rc::Rc,
    sync::{
        Mutex, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst},
    },
};

use crate::{
    format::{Content, Entry, Hole},
    ops::restore::{
        LEFTOVER,
        metadata::{Now, Setter},
        plan::{Before, Firsts, Job, JobNumber, Link, data_len, runs},
        table::{Handles, Table},
    },
    sys::{Dir, FileType, Stat, Subject, open_file, reserve, stat_of_file},
};

/// Locks over which the making of files is spread.
const LOCKS: usize = 64;
/// Files of this length and more get their room before they are written: several threads write their pieces, in no order.
const RESERVE_MIN: u64 = 4 << 20;

/// How far a file is.
pub struct State {
    /// Bytes of content that are still to be written.
    left: AtomicU64,
    /// Device and inode, if it is opened more than once or was given up.
    identity: OnceLock<(u64, u64)>,
    made: AtomicBool,
    /// It has a name of ours.
    aside: AtomicBool,
    failed: AtomicBool,
}

/// All files of a window.
pub struct Files<'a> {
    table: &'a Table,
    firsts: &'a Firsts,
    jobs: &'a [Job],
    states: Vec<State>,
    locks: Vec<Mutex<()>>,
    setter: &'a Setter<'a>,
    token: u64,
}

impl<'a> Files<'a> {
    /// Starts; `token` makes names of ours that no other run has.
    pub fn new(table: &'a Table, firsts: &'a Firsts, jobs: &'a [Job], setter: &'a Setter<'a>, token: u64) -> Self {
        let state = |job: &Job| State {
            left: AtomicU64::new(data_len(&job.entry)),
            identity: OnceLock::new(),
            made: AtomicBool::new(false),
            aside: AtomicBool::new(job.before != Before::Nothing),
            failed: AtomicBool::new(false),
        };
        let locks = std::iter::repeat_with(Mutex::default).take(LOCKS).collect();
        Self { table, firsts, jobs, states: jobs.iter().map(state).collect(), locks, setter, token }
    }

    /// One job.
    pub fn job(&self, number: JobNumber) -> &'a Job {
        &self.jobs[number as usize]
    }

    /// The path of a job below the target.
    pub fn path(&self, number: JobNumber) -> Vec<u8> {
        let job = self.job(number);
        self.table.path_of(job.dir, &job.entry.name)
    }

    /// Whether the job was given up.
    pub fn is_failed(&self, number: JobNumber) -> bool {
        self.states[number as usize].failed.load(Relaxed)
    }

    /// Gives the job up; true the first time.
    pub fn fail(&self, number: JobNumber) -> bool {
        !self.states[number as usize].failed.swap(true, SeqCst)
    }

    /// The name that nobody else has for it. 16 digits for the run, 8 for the job.
    fn aside_name(&self, number: u32) -> Vec<u8> {
        [LEFTOVER, format!("{:016x}{number:08x}", self.token).as_bytes()].concat()
    }

    fn name(&self, number: JobNumber) -> std::borrow::Cow<'a, [u8]> {
        match self.states[number as usize].aside.load(SeqCst) {
            true => self.aside_name(number).into(),
            false => (&*self.job(number).entry.name).into(),
        }
    }

    /// Opens the file of a job for writing, making it if nobody has. `whole` says that this is the only time.
    ///
    /// # Errors
    /// What the system says of it.
    pub fn open(&self, hands: &mut Handles, number: JobNumber, whole: bool) -> io::Result<Writing> {
        let (job, state) = (self.job(number), &self.states[number as usize]);
        let dir = hands.get(job.dir)?;
        let _making = self.locks[number as usize % LOCKS].lock().expect("nobody panics while making a file");
        if state.made.load(SeqCst) {
            let file = dir.open_for_writing(&self.name(number))?;
            let stat = stat_of_file(&file)?;
            return match state.identity.get() == Some(&(stat.device, stat.inode)) {
                true => Ok(Writing { file, dir, now: Now::of(&stat) }),
                false => Err(io::Error::other("another file was put in its place meanwhile")),
            };
        }
        let passes_on = self.table.passes_on(job.dir);
        let (mode, now) = self.setter.first_mode(&job.entry, passes_on);
        let file = match dir.make_file(&self.name(number), mode) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && !state.aside.load(SeqCst) => {
                expected_name(&dir, &job.entry.name)?;
                state.aside.store(true, SeqCst);
                dir.make_file(&self.name(number), mode)?
            }
            other => other?,
        };
        if !whole {
            let len = data_len(&job.entry);
            if len >= RESERVE_MIN && job.entry.size() == len {
                // Where the file system cannot, which is no error, the pieces find their room one by one.
                if let Err(e) = reserve(&file, len) {
                    // What room there was is given back.
                    let _ = dir.remove_file(&self.name(number));
                    return Err(e);
                }
            }
            let stat = stat_of_file(&file)?;
            let _ = state.identity.set((stat.device, stat.inode));
        }
        state.made.store(true, SeqCst);
        Ok(Writing { file, dir, now })
    }

    /// Notes that `len` bytes were written; whether these were the last.
    pub fn wrote(&self, number: JobNumber, len: u64) -> bool {
        let before = self.states[number as usize].left.fetch_sub(len, SeqCst);
        before == len && !self.is_failed(number)
    }

    /// Makes a file that is whole what it shall be, attributes and all, and gives it its name.
    pub fn finish(&self, number: JobNumber, writing: &Writing) -> io::Result<()> {
        let job = self.job(number);
        if let Content::File { size, holes, .. } = &job.entry.content
            && holes.last().is_some_and(|hole| hole.offset + hole.len == *size)
        {
            writing.file.set_len(*size)?;
        }
        self.setter.set(&Subject::File(&writing.file), &job.entry, writing.now, &|| self.path(number));
        self.settle(number, &writing.dir)?;
        if let Some(first) = job.first {
            let stat = stat_of_file(&writing.file)?;
            let _ = self.firsts.get(first).there.set((stat.device, stat.inode));
        }
        Ok(())
    }

    /// Puts what has a name of ours in its place.
    fn settle(&self, number: JobNumber, dir: &Dir) -> io::Result<()> {
        match self.states[number as usize].aside.load(SeqCst) {
            true => dir.rename(&self.aside_name(number), &self.job(number).entry.name),
            false => Ok(()),
        }
    }

    /// Notes which file it is that was opened once, before it is given up.
    pub fn remember(&self, number: JobNumber, writing: &Writing) {
        if let Ok(stat) = stat_of_file(&writing.file) {
            let _ = self.states[number as usize].identity.set((stat.device, stat.inode));
        }
    }

    /// Takes away what was written of a job that was given up. What stood there before stays, and what somebody put there meanwhile.
    pub fn discard(&self, hands: &mut Handles, number: JobNumber) {
        let state = &self.states[number as usize];
        if !state.made.load(SeqCst) {
            return;
        }
        let Ok(dir) = hands.get(self.job(number).dir) else { return };
        let name = self.name(number);
        let is_ours = || dir.stat_of(&name).is_ok_and(|stat| state.identity.get() == Some(&(stat.device, stat.inode)));
        // A name of ours nobody else has. What cannot be removed stays unfinished: its time says so.
        if state.aside.load(SeqCst) || is_ours() {
            let _ = dir.remove_file(&name);
        }
    }

    /// Takes away all that has a name of ours, when the work stops: it would take room, perhaps the last, and be of no use to the next run.
    pub fn clear_aside(&self, hands: &mut Handles) {
        for number in (0..).take(self.states.len()).filter(|number| self.states[*number as usize].aside.load(SeqCst)) {
            self.discard(hands, number);
        }
    }

    /// Makes a link, fifo or device.
    pub fn make_other(&self, hands: &mut Handles, number: JobNumber) -> io::Result<()> {
        let job = self.job(number);
        let dir = hands.get(job.dir)?;
        match self.make_named(&dir, &self.name(number), &job.entry) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && !self.states[number as usize].aside.load(SeqCst) => {
                expected_name(&dir, &job.entry.name)?;
                self.states[number as usize].aside.store(true, SeqCst);
                self.make_named(&dir, &self.name(number), &job.entry)?;
            }
            other => other?,
        }
        self.states[number as usize].made.store(true, SeqCst);
        let name = self.name(number);
        let now = self.setter.just_made(self.table.passes_on(job.dir), 0o600);
        self.setter.set(&Subject::Named(&dir, &name, kind_of(&job.entry)), &job.entry, now, &|| self.path(number));
        let stat = job.first.map(|first| dir.stat_of(&name).map(|stat| (first, stat))).transpose()?;
        self.settle(number, &dir)?;
        if let Some((first, stat)) = stat {
            let _ = self.firsts.get(first).there.set((stat.device, stat.inode));
        }
        Ok(())
    }

    fn make_named(&self, dir: &Dir, name: &[u8], entry: &Entry) -> io::Result<()> {
        match &entry.content {
            Content::Symlink(target) => dir.make_link(name, target),
            Content::Fifo => dir.make_fifo(name),
            Content::Device { major, minor } => dir.make_device(name, entry.mode & 0o170_000 == 0o060_000, *major, *minor),
            Content::File { .. } | Content::Dir { .. } => unreachable!("these are made elsewhere"),
        }
    }

    /// Looks at an entry that seems to be there as it should be, and sets what differs.
    pub fn keep(&self, hands: &mut Handles, number: JobNumber, seen: &Stat) -> io::Result<Kept> {
        let (kept, file) = self.look(hands, number, seen)?;
        let job = self.job(number);
        if kept == Kept::Set {
            let dir = hands.get(job.dir)?;
            let subject = match &file {
                Some(file) => Subject::File(file),
                None => Subject::Named(&dir, &job.entry.name, kind_of(&job.entry)),
            };
            self.setter.set(&subject, &job.entry, Now::of(seen), &|| self.path(number));
        }
        Ok(kept)
    }

    /// Looks at an entry that seems to be there as it should be, and says what must be done. Notes that the inode is there.
    pub fn look(&self, hands: &mut Handles, number: JobNumber, seen: &Stat) -> io::Result<(Kept, Option<File>)> {
        let job = self.job(number);
        let dir = hands.get(job.dir)?;
        let file = match job.entry.content {
            Content::File { .. } => match open_file(&dir, &job.entry.name) {
                Ok((_, stat)) if !stat.same_content_as(seen) => return Ok((Kept::Differs, None)),
                Ok((file, _)) => Some(file),
                // Nobody but root reads what he may not. Its stat is known.
                Err(_) if !self.setter.differs(&job.entry, seen) => None,
                Err(e) => return Err(e.into()),
            },
            _ => None,
        };
        let subject = match (&file, &job.entry.content) {
            (Some(file), _) => Some(Subject::File(file)),
            (None, Content::File { .. }) => None,
            (None, _) => Some(Subject::Named(&dir, &job.entry.name, kind_of(&job.entry))),
        };
        let differs = self.setter.differs(&job.entry, seen)
            || job.entry.mtime_ns != seen.mtime_ns
            || subject.is_some_and(|subject| self.setter.xattrs_differ(&subject, &job.entry));
        if differs && seen.nlink > 1 {
            // Another name of it may lie anywhere; what is set here would be set there.
            return Ok((Kept::Differs, None));
        }
        if let Some(first) = job.first {
            let _ = self.firsts.get(first).there.set((seen.device, seen.inode));
        }
        Ok((if differs { Kept::Set } else { Kept::Same }, file))
    }

    /// Gives an inode a further name; whether it had not got it yet.
    pub fn link(&self, hands: &mut Handles, link: &Link, number: u32) -> io::Result<bool> {
        let first = self.firsts.get(link.first);
        let Some(there) = first.there.get() else {
            return Err(io::Error::other("the file that it is another name of was not restored"));
        };
        if link.before == Some(*there) {
            return Ok(false);
        }
        let (from, dir) = (hands.get(first.dir)?, hands.get(link.dir)?);
        if link.before.is_none() {
            match dir.make_hard_link(&link.name, &from, &first.name) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => expected_name(&dir, &link.name)?,
                other => return other.map(|()| true),
            }
        }
        // Names of ours for links start where those of jobs end.
        let aside = self.aside_name(u32::MAX - number);
        dir.make_hard_link(&aside, &from, &first.name)?;
        dir.rename(&aside, &link.name)?;
        Ok(true)
    }
}

/// What `keep` found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// It is right.
    Same,
    /// Its attributes were not, and are now.
    Set,
    /// It must be written.
    Differs,
}

/// A file open for writing.
pub struct Writing {
    /// It.
    pub file: File,
    /// The directory it is in.
    pub dir: Rc<Dir>,
    /// What is known of it.
    pub now: Now,
}

impl Writing {
    /// Writes bytes of content at `offset`, around the holes.
    pub fn write(&self, holes: &[Hole], offset: u64, bytes: &[u8]) -> io::Result<()> {
        if holes.is_empty() {
            return self.file.write_all_at(bytes, offset);
        }
        runs(holes, offset, bytes.len()).try_for_each(|(at, range)| self.file.write_all_at(&bytes[range], at))
    }
}

/// Something has the name of an entry though nothing should. Fails if it is not this very name, but one that the file system takes for it.
fn expected_name(dir: &Dir, name: &[u8]) -> io::Result<()> {
    match dir.names()?.binary_search_by(|found| (**found).cmp(name)) {
        Ok(_) => Ok(()),
        Err(_) => {
            Err(io::Error::other("the file system of the target takes its name for that of another entry (upper and lower case, perhaps)"))
        }
    }
}

fn kind_of(entry: &Entry) -> FileType {
    match entry.content {
        Content::Symlink(_) => FileType::Symlink,
        Content::Fifo => FileType::Fifo,
        Content::Device { .. } => FileType::Device,
        Content::File { .. } => FileType::File,
        Content::Dir { .. } => FileType::Dir,
    }
}
