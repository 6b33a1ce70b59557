//! Carries out a window: files and others, further names, directories last. On all cores; packs in their order, each frame decoded once.
//!
//! Work is cut into units that threads take in turn. What a thread holds: a frame, the blocks of the pack it reads, up to eight files
//! and 256 directories. A file that fails costs itself; a full disk, or a person who has enough, stops all.

use std::{
    collections::HashMap,
    ffi::OsStr,
    ops::Range,
    os::unix::ffi::OsStrExt,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
};

use crate::{
    error::{Error, Result},
    format::{ChunkId, Content, Data, DomainKeys},
    ops::restore::{
        Context, Options,
        files::{Files, Kept},
        metadata::{Now, Setter},
        pieces::units_of,
        place::Start,
        plan::{Before, Firsts, JobNumber, Layout, Plan, data_len},
        table::{Handles, Table},
        tally::Tally,
    },
    sys::{self, Subject},
};

/// Jobs of a unit.
const JOBS_EACH: usize = 128;

/// A window being carried out.
pub struct Apply<'a> {
    pub context: &'a Context<'a>,
    pub options: &'a Options,
    pub start: &'a Start,
    /// The target is there.
    pub is_there: bool,
    pub keys: &'a DomainKeys,
    pub table: &'a Table,
    pub plan: &'a Plan,
    pub files: Files<'a>,
    pub firsts: &'a Firsts,
    pub setter: &'a Setter<'a>,
    pub tally: &'a Tally<'a>,
    pub bad: &'a Mutex<HashMap<ChunkId, String>>,
}

/// What a thread takes at once.
enum Unit {
    Jobs(Range<usize>),
    Pieces(Range<usize>),
    InOrder(JobNumber),
}

impl Apply<'_> {
    /// Does all of it.
    ///
    /// # Errors
    /// `Full` if the target has no room, `Cancelled` if the person wants to stop; the same command goes on from there.
    pub fn run(&self) -> Result<()> {
        let done = self.all();
        if done.is_err() {
            self.files.clear_aside(&mut Handles::new(self.table)?);
        }
        done
    }

    fn all(&self) -> Result<()> {
        let workers = self.options.workers;
        self.leftovers()?;
        let jobs = (0..self.plan.plain.len()).step_by(JOBS_EACH).map(|at| Unit::Jobs(at..(at + JOBS_EACH).min(self.plan.plain.len())));
        let pieces = units_of(&self.plan.pieces).into_iter().map(Unit::Pieces);
        let in_order = self.plan.in_order.iter().map(|job| Unit::InOrder(*job));
        let units: Vec<Unit> = spread(jobs.collect(), pieces.collect()).into_iter().chain(in_order).collect();
        self.each(workers, units.len(), |hands, n| match &units[n] {
            Unit::Jobs(range) => self.plan.plain[range.clone()].iter().try_for_each(|job| self.plain(hands, *job)),
            Unit::Pieces(range) => self.pieces(hands, &self.plan.pieces[range.clone()]),
            Unit::InOrder(job) => self.in_order(hands, *job),
        })?;
        for job in &self.plan.long {
            self.long(*job)?;
        }
        let failed: Vec<JobNumber> = (0..self.plan.jobs.len() as JobNumber).filter(|job| self.files.is_failed(*job)).collect();
        self.each(1, failed.len(), |hands, n| {
            self.files.discard(hands, failed[n]);
            Ok(())
        })?;
        self.each(workers, self.plan.links.len(), |hands, n| self.link(hands, n))?;
        self.directories()
    }

    /// Runs `work` on the numbers below `len`, on several threads; stops at the first error.
    pub fn each(&self, workers: usize, len: usize, work: impl Fn(&mut Handles, usize) -> Result<()> + Sync) -> Result<()> {
        let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
        let worker = || {
            let mut hands = Handles::new(self.table)?;
            loop {
                let n = next.fetch_add(1, Relaxed);
                if n >= len || stop.load(Relaxed) {
                    return Ok(());
                }
                if let Err(e) = self.context.cancel.check().and_then(|()| work(&mut hands, n)) {
                    stop.store(true, Relaxed);
                    return Err(e);
                }
            }
        };
        if len == 0 {
            return Ok(());
        }
        sys::share(workers.clamp(1, len), worker)
    }

    /// A file that could not be written: a problem of its own, or the end of all if there is no room.
    pub fn refused(&self, job: JobNumber, e: std::io::Error) -> Result<()> {
        self.stop_if_hopeless(&e, || self.files.path(job))?;
        if self.files.fail(job) {
            self.tally.problem(&self.shown(&self.files.path(job)), e.to_string());
        }
        Ok(())
    }

    /// Fails if what the system says holds for every other file too.
    fn stop_if_hopeless(&self, e: &std::io::Error, below: impl FnOnce() -> Vec<u8>) -> Result<()> {
        use std::io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
        let hint = match e.kind() {
            StorageFull | QuotaExceeded => "make room and run the same command again: it goes on, and fetches nothing again that is whole",
            ReadOnlyFilesystem => "the target cannot be written to; mount it with -o rw, or say another place with --to DIR",
            _ => return Ok(()),
        };
        let path = self.start.target(self.options).join(OsStr::from_bytes(&below()));
        let e = e.raw_os_error().map_or_else(|| std::io::Error::from(e.kind()), std::io::Error::from_raw_os_error);
        Err(Error::io(format!("cannot write {}", path.display()), e).hint(hint))
    }

    /// A file whose content is damaged.
    pub fn lost(&self, job: JobNumber, text: String) {
        if self.files.fail(job) {
            self.tally.lost(&self.shown(&self.files.path(job)), text);
        }
    }

    /// A path below the target as it stands in the snapshot.
    pub fn shown(&self, path: &[u8]) -> Vec<u8> {
        self.start.path(path)
    }

    /// A job that needs no chunk from a pack.
    fn plain(&self, hands: &mut Handles, number: JobNumber) -> Result<()> {
        let job = self.files.job(number);
        let replaces = job.before != Before::Nothing;
        if let Before::Same(seen) = &job.before {
            match self.files.keep(hands, number, seen) {
                Ok(Kept::Differs) => return self.in_order(hands, number),
                Ok(kept) => {
                    self.kept(number, kept);
                    return Ok(());
                }
                Err(e) => return self.refused(number, e),
            }
        }
        let counts = &self.tally.counts;
        let done = match &job.entry.content {
            Content::File { data, holes, .. } => {
                let bytes: &[u8] = if let Data::Inline(bytes) = data { bytes } else { &[] };
                counts.files.fetch_add(1, Relaxed);
                counts.bytes.fetch_add(bytes.len() as u64, Relaxed);
                self.files.open(hands, number, true).and_then(|writing| {
                    let written = match bytes.is_empty() {
                        true => Ok(()),
                        false => writing.write(holes, Layout::new(holes).place(bytes.len() as u64), bytes),
                    };
                    written.and_then(|()| self.files.finish(number, &writing)).inspect_err(|_| self.files.remember(number, &writing))
                })
            }
            _ => {
                counts.others.fetch_add(1, Relaxed);
                self.files.make_other(hands, number)
            }
        };
        counts.replaced.fetch_add(u64::from(replaces), Relaxed);
        self.tally.moved(1, data_len(&job.entry));
        done.or_else(|e| self.refused(number, e))
    }

    pub fn kept(&self, number: JobNumber, kept: Kept) {
        let (job, counts) = (self.files.job(number), &self.tally.counts);
        let len = data_len(&job.entry);
        if let Content::File { .. } = job.entry.content {
            counts.files_unchanged.fetch_add(1, Relaxed);
            counts.bytes_unchanged.fetch_add(len, Relaxed);
        }
        counts.metadata_only.fetch_add(u64::from(kept == Kept::Set), Relaxed);
        self.tally.moved(1, len);
    }

    fn link(&self, hands: &mut Handles, n: usize) -> Result<()> {
        let link = &self.plan.links[n];
        let path = || self.table.path_of(link.dir, &link.name);
        match self.files.link(hands, link, n as u32) {
            Ok(new) => {
                self.tally.counts.others.fetch_add(u64::from(new), Relaxed);
                self.tally.counts.replaced.fetch_add(u64::from(new && link.before.is_some()), Relaxed);
            }
            Err(e) => {
                self.stop_if_hopeless(&e, path)?;
                let path = self.shown(&path());
                match self.firsts.get(link.first).there.get() {
                    Some(_) => self.tally.problem(&path, e.to_string()),
                    None => self.tally.lost(&path, e.to_string()),
                }
            }
        }
        self.tally.moved(1, 0);
        Ok(())
    }

    /// Removes what a restore that was killed left behind.
    fn leftovers(&self) -> Result<()> {
        self.each(1, self.plan.leftovers.len(), |hands, n| {
            let (dir, name) = &self.plan.leftovers[n];
            // What cannot be removed is in nobody's way.
            let _ = hands.get(*dir).and_then(|dir| dir.remove_file(name));
            Ok(())
        })
    }

    /// Makes the directories in which there is nothing, then sets what all of them are, those inside others first.
    fn directories(&self) -> Result<()> {
        let finished = &self.plan.finished;
        self.each(self.options.workers, finished.len(), |hands, n| match self.table.is_there(finished[n]) {
            true => Ok(()),
            false => hands.get(finished[n]).map(drop).or_else(|e| self.no_directory(finished[n], &e)),
        })?;
        // Who may not enter a directory once it is finished must have finished those in it before.
        let workers = if sys::is_root() { self.options.workers } else { 1 };
        self.each(workers, finished.len(), |hands, n| {
            let node = self.table.node(finished[n]);
            let Some(entry) = &node.entry else { return Ok(()) };
            if !self.table.is_there(finished[n]) {
                return Ok(());
            }
            let set = hands.get(finished[n]).and_then(|dir| {
                let stat = dir.stat()?;
                let now = Now { bare: !self.table.passes_on(finished[n]) && node.is_new(), ..Now::of(&stat) };
                self.setter.set(&Subject::Dir(&dir), entry, now, &|| self.table.path(finished[n]));
                Ok(())
            });
            self.tally.counts.directories.fetch_add(u64::from(node.is_new()), Relaxed);
            self.tally.moved(1, 0);
            set.or_else(|e| self.no_directory(finished[n], &e))
        })
    }

    fn no_directory(&self, number: u32, e: &std::io::Error) -> Result<()> {
        self.stop_if_hopeless(e, || self.table.path(number))?;
        self.tally.problem(&self.shown(&self.table.path(number)), e.to_string());
        Ok(())
    }
}

/// Both lists in their order, the shorter one spread evenly over the longer one: files that are in the tree itself take time and have no bytes,
/// so that an estimate by bytes would be far off if all of them came first.
fn spread<T>(a: Vec<T>, b: Vec<T>) -> Vec<T> {
    let (a_len, b_len) = (a.len(), b.len());
    let (mut a, mut b) = (a.into_iter(), b.into_iter());
    let mut spread = Vec::with_capacity(a_len + b_len);
    for n in 0..a_len + b_len {
        let is_behind = (a_len - a.len()) * (a_len + b_len) <= n * a_len;
        let next = if is_behind { a.next().or_else(|| b.next()) } else { b.next().or_else(|| a.next()) };
        spread.extend(next);
    }
    spread
}

#[cfg(test)]
mod tests {
    use super::spread;

    #[test]
    fn the_shorter_list_is_spread_over_the_longer_one() {
        let of = |a: usize, b: usize| spread(vec!['a'; a], vec!['b'; b]).into_iter().collect::<String>();
        assert_eq!((of(2, 4), of(4, 2), of(3, 0), of(0, 2)), ("abbabb".to_owned(), "abaaba".to_owned(), "aaa".to_owned(), "bb".to_owned()));
        assert_eq!(spread((0..7).collect(), (100..103).collect()).len(), 10);
    }
}
