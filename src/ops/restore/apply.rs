//! Carries out a window: files and others, further names, directories last. On all cores; packs in their order, each frame decoded once.
//!
//! Work is cut into units that threads take in turn. What a thread holds: a frame, the blocks of the pack it reads, up to `OPEN_MAX` files
//! and 256 directories. A file that fails costs itself; a full disk, or a person who has enough, stops all.

use std::{
    collections::HashMap,
    ops::Range,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
};

use crate::{
    error::{Error, ErrorKind, Result},
    format::{ChunkId, Content, Data, DomainKeys},
    ops::restore::{
        Context, Options,
        files::{Files, Kept, RESERVE_MIN, Writing},
        metadata::{Now, Setter},
        plan::{Before, Firsts, JobNumber, Layout, Piece, Plan},
        table::{Handles, Table},
        tally::Tally,
        walk::piece,
    },
    sys::{self, Subject},
};

/// Jobs of a unit.
const JOBS_EACH: usize = 128;
/// Raw bytes of a unit of pieces, and how many there are at most.
const PIECES_LEN_EACH: u64 = 4 << 20;
const PIECES_EACH: usize = 4096;
/// Files that a thread has open: copies of one file are written side by side.
const OPEN_MAX: usize = 8;
/// Chunks of which it is remembered that they are bad.
const BAD_MAX: usize = 100_000;

/// A window being carried out.
pub struct Apply<'a> {
    pub context: &'a Context<'a>,
    pub options: &'a Options,
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
        let workers = self.options.workers;
        self.leftovers()?;
        let jobs = (0..self.plan.plain.len()).step_by(JOBS_EACH).map(|at| Unit::Jobs(at..(at + JOBS_EACH).min(self.plan.plain.len())));
        let pieces = units_of(&self.plan.pieces).into_iter().map(Unit::Pieces);
        let in_order = self.plan.in_order.iter().map(|job| Unit::InOrder(*job));
        let units: Vec<Unit> = jobs.chain(pieces).chain(in_order).collect();
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
        std::thread::scope(|scope| {
            let others: Vec<_> = (1..workers.clamp(1, len)).map(|_| scope.spawn(worker)).collect();
            let mine = worker();
            others.into_iter().map(|h| h.join().expect("a worker's panic is ours")).fold(mine, Result::and)
        })
    }

    /// A file that could not be written: a problem of its own, or the end of all if there is no room.
    fn refused(&self, job: JobNumber, e: std::io::Error) -> Result<()> {
        stop_if_hopeless(&e, || self.files.path(job))?;
        if self.files.fail(job) {
            self.tally.problem(&self.shown(&self.files.path(job)), e.to_string());
        }
        Ok(())
    }

    /// A file whose content is damaged.
    fn lost(&self, job: JobNumber, text: String) {
        if self.files.fail(job) {
            self.tally.lost(&self.shown(&self.files.path(job)), text);
        }
    }

    /// A path below the target as it stands in the snapshot.
    fn shown(&self, path: &[u8]) -> Vec<u8> {
        self.options.path_in_snapshot(path)
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
                    if !bytes.is_empty() {
                        let mut layout = Layout::new(holes);
                        writing.write(holes, layout.place(bytes.len() as u64), bytes)?;
                    }
                    self.files.finish(number, &writing)
                })
            }
            _ => {
                counts.others.fetch_add(1, Relaxed);
                self.files.make_other(hands, number)
            }
        };
        counts.replaced.fetch_add(u64::from(replaces), Relaxed);
        self.tally.moved(1, super::plan::data_len(&job.entry));
        done.or_else(|e| self.refused(number, e))
    }

    fn kept(&self, number: JobNumber, kept: Kept) {
        let (job, counts) = (self.files.job(number), &self.tally.counts);
        let len = super::plan::data_len(&job.entry);
        if let Content::File { .. } = job.entry.content {
            counts.files_unchanged.fetch_add(1, Relaxed);
            counts.bytes_unchanged.fetch_add(len, Relaxed);
        }
        counts.metadata_only.fetch_add(u64::from(kept == Kept::Set), Relaxed);
        self.tally.moved(1, len);
    }

    /// The pieces of neighbouring frames.
    fn pieces(&self, hands: &mut Handles, pieces: &[Piece]) -> Result<()> {
        let mut open = Open { apply: self, files: Vec::with_capacity(OPEN_MAX) };
        let mut raw = Vec::new();
        for frame in pieces.chunk_by(|a, b| (a.pack, a.frame) == (b.pack, b.frame)) {
            self.context.cancel.check()?;
            let at = self.context.reader.with_index(|index| index.frame(frame[0].pack, frame[0].frame));
            let lens = at.and_then(|at| self.context.reader.frame_into(&at, &mut raw).ok()).unwrap_or_default();
            let mut start = 0usize;
            let mut ends = lens.iter().map(|len| {
                start += *len as usize;
                start
            });
            let (mut number, mut chunk) = (0, 0..0);
            let mut next = |upto: u32| {
                // Chunks of a frame are met in their order, some of them several times, some not at all.
                while number <= upto {
                    chunk = chunk.end..ends.next()?;
                    number += 1;
                }
                Some(chunk.clone())
            };
            let mut checked: Option<(u32, ChunkId)> = None;
            for piece in frame {
                let bytes = next(piece.chunk).and_then(|range| raw.get(range)).filter(|bytes| {
                    checked == Some((piece.chunk, piece.id)) || self.keys.data.chunk_id(bytes) == piece.id
                });
                match bytes {
                    Some(bytes) => {
                        checked = Some((piece.chunk, piece.id));
                        open.write(hands, piece, bytes)?;
                    }
                    // Another pack may have it.
                    None => match self.elsewhere(&piece.id) {
                        Ok(bytes) => open.write(hands, piece, &bytes)?,
                        Err(e) if e.kind() == ErrorKind::Cancelled => return Err(e),
                        Err(e) => self.lost(piece.job, e.chain()),
                    },
                }
            }
        }
        open.close_all()
    }

    /// A chunk from wherever it can be had.
    fn elsewhere(&self, id: &ChunkId) -> Result<Vec<u8>> {
        let known = self.bad.lock().expect("nobody panics while noting a chunk").get(id).cloned();
        if let Some(text) = known {
            return Err(Error::corrupt(text));
        }
        self.context.reader.with_chunk(id, &self.keys.data, <[u8]>::to_vec).inspect_err(|e| {
            let mut bad = self.bad.lock().expect("nobody panics while noting a chunk");
            if bad.len() < BAD_MAX {
                bad.insert(*id, e.chain());
            }
        })
    }

    /// A file whose chunks are taken in order, those left as they are that stand there already.
    fn in_order(&self, hands: &mut Handles, number: JobNumber) -> Result<()> {
        let job = self.files.job(number);
        let (Content::File { data, holes, .. }, counts) = (&job.entry.content, &self.tally.counts) else {
            // A link or device of which another name lies somewhere: made anew.
            self.tally.counts.others.fetch_add(1, Relaxed);
            self.tally.counts.replaced.fetch_add(1, Relaxed);
            self.tally.moved(1, 0);
            return self.files.make_other(hands, number).or_else(|e| self.refused(number, e));
        };
        let old = match job.before {
            Before::Same(_) | Before::File(_) => hands.get(job.dir).ok().and_then(|dir| sys::open_file(&dir, &job.entry.name).ok()),
            _ => None,
        };
        if let (Before::Same(seen), Some((file, _)), true) = (&job.before, &old, self.options.by_content)
            && self.holds(file, number)?
        {
            match self.files.keep(hands, number, seen) {
                Ok(Kept::Differs) => (),
                Ok(kept) => {
                    self.kept(number, kept);
                    return Ok(());
                }
                Err(e) => return self.refused(number, e),
            }
        }
        let writing = match self.files.open(hands, number, true) {
            Ok(writing) => writing,
            Err(e) => return self.refused(number, e),
        };
        let mut layout = Layout::new(holes);
        let mut buf = Vec::new();
        let (mut kept, mut written) = (0, 0);
        let mut refused = None;
        let mut write = |writing: &Writing, offset, bytes: &[u8]| match writing.write(holes, offset, bytes) {
            Ok(()) => Ok(()),
            Err(e) => {
                refused = Some(e);
                Err(Error::cancelled())
            }
        };
        let each = self.context.reader.each_chunk(self.keys, data, |chunk| {
            self.context.cancel.check()?;
            let offset = layout.place(u64::from(chunk.len));
            let there = old.as_ref().is_some_and(|(old, _)| {
                read_runs(old, holes, offset, chunk.len as usize, &mut buf) && self.keys.data.chunk_id(&buf) == chunk.id
            });
            match there {
                true => {
                    kept += u64::from(chunk.len);
                    write(&writing, offset, &buf)?;
                }
                false => {
                    let bytes = self.elsewhere(&chunk.id)?;
                    if bytes.len() != chunk.len as usize {
                        return Err(Error::corrupt(format!("chunk {} has another length than its file says", chunk.id.short())));
                    }
                    written += u64::from(chunk.len);
                    write(&writing, offset, &bytes)?;
                }
            }
            self.tally.moved(0, u64::from(chunk.len));
            Ok(())
        });
        counts.bytes_unchanged.fetch_add(kept, Relaxed);
        counts.bytes.fetch_add(written, Relaxed);
        if let Some(e) = refused {
            return self.refused(number, e);
        }
        if let Err(e) = each {
            if e.kind() == ErrorKind::Cancelled {
                return Err(e);
            }
            self.lost(number, e.chain());
            return Ok(());
        }
        if let Data::Inline(bytes) = data
            && let Err(e) = writing.write(holes, Layout::new(holes).place(bytes.len() as u64), bytes)
        {
            return self.refused(number, e);
        }
        counts.files.fetch_add(1, Relaxed);
        counts.replaced.fetch_add(u64::from(job.before != Before::Nothing), Relaxed);
        self.tally.moved(1, 0);
        self.files.finish(number, &writing).or_else(|e| self.refused(number, e))
    }

    /// Whether a file of the target holds the content of a job.
    pub fn holds(&self, file: &std::fs::File, number: JobNumber) -> Result<bool> {
        let Content::File { size, data, holes } = &self.files.job(number).entry.content else { return Ok(true) };
        if sys::stat_of_file(file).map_or(true, |stat| stat.size != *size) {
            return Ok(false);
        }
        let mut layout = Layout::new(holes);
        let mut buf = Vec::new();
        if let Data::Inline(bytes) = data {
            return Ok(read_runs(file, holes, layout.place(bytes.len() as u64), bytes.len(), &mut buf) && buf == **bytes);
        }
        let mut right = true;
        self.context.reader.each_chunk(self.keys, data, |chunk| {
            self.context.cancel.check()?;
            let offset = layout.place(u64::from(chunk.len));
            right = right && read_runs(file, holes, offset, chunk.len as usize, &mut buf) && self.keys.data.chunk_id(&buf) == chunk.id;
            Ok(())
        })?;
        Ok(right)
    }

    /// A file of more chunks than a window has: one list of them after the other.
    fn long(&self, number: JobNumber) -> Result<()> {
        let Content::File { data: Data::Lists(parts), holes, .. } = &self.files.job(number).entry.content else { return Ok(()) };
        let mut layout = Layout::new(holes);
        for part in parts {
            let mut pieces = Vec::new();
            let one = Data::Lists(vec![*part]);
            let read = self.context.reader.each_chunk(self.keys, &one, |chunk| {
                let offset = layout.place(u64::from(chunk.len));
                match piece(self.context.reader, chunk.id, chunk.len, number, offset) {
                    Some(piece) => pieces.push(piece),
                    // Looked for when its turn comes.
                    None => pieces.push(Piece { pack: u32::MAX, frame: 0, chunk: 0, job: number, offset, len: chunk.len, id: chunk.id }),
                }
                Ok(())
            });
            match read {
                Err(e) if e.kind() == ErrorKind::Cancelled => return Err(e),
                Err(e) => {
                    self.lost(number, e.chain());
                    return Ok(());
                }
                Ok(()) => (),
            }
            pieces.sort_unstable_by_key(|p| (p.pack, p.frame, p.chunk, p.offset));
            let units = units_of(&pieces);
            self.each(self.options.workers, units.len(), |hands, n| self.pieces(hands, &pieces[units[n].clone()]))?;
        }
        Ok(())
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
                stop_if_hopeless(&e, path)?;
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
        stop_if_hopeless(e, || self.table.path(number))?;
        self.tally.problem(&self.shown(&self.table.path(number)), e.to_string());
        Ok(())
    }
}

/// The files that a thread is writing, the one used last at the end.
struct Open<'a> {
    apply: &'a Apply<'a>,
    files: Vec<(JobNumber, Writing, u64)>,
}

impl Open<'_> {
    /// Writes a chunk where it belongs.
    fn write(&mut self, hands: &mut Handles, piece: &Piece, bytes: &[u8]) -> Result<()> {
        let apply = self.apply;
        if apply.files.is_failed(piece.job) {
            return Ok(());
        }
        if bytes.len() != piece.len as usize {
            apply.lost(piece.job, format!("chunk {} has another length than its file says", piece.id.short()));
            return Ok(());
        }
        let Content::File { size, holes, .. } = &apply.files.job(piece.job).entry.content else { return Ok(()) };
        match self.files.iter().rposition(|(job, ..)| *job == piece.job) {
            Some(at) if at + 1 == self.files.len() => (),
            Some(at) => {
                let this = self.files.remove(at);
                self.files.push(this);
            }
            None => {
                if self.files.len() == OPEN_MAX {
                    self.close(0)?;
                }
                let whole = super::plan::data_len(&apply.files.job(piece.job).entry) == u64::from(piece.len);
                match apply.files.open(hands, piece.job, whole) {
                    Ok(writing) => self.files.push((piece.job, writing, 0)),
                    Err(e) => return apply.refused(piece.job, e),
                }
            }
        }
        let Some((_, writing, written)) = self.files.last_mut() else { return Ok(()) };
        let _ = (size, RESERVE_MIN);
        if let Err(e) = writing.write(holes, piece.offset, bytes) {
            return apply.refused(piece.job, e);
        }
        *written += u64::from(piece.len);
        apply.tally.counts.bytes.fetch_add(u64::from(piece.len), Relaxed);
        apply.tally.moved(0, u64::from(piece.len));
        Ok(())
    }

    /// Closes one, and finishes it if all of it is written.
    fn close(&mut self, at: usize) -> Result<()> {
        let (job, writing, written) = self.files.remove(at);
        let apply = self.apply;
        if !apply.files.wrote(job, written) {
            return Ok(());
        }
        let counts = &apply.tally.counts;
        counts.files.fetch_add(1, Relaxed);
        counts.replaced.fetch_add(u64::from(apply.files.job(job).before != Before::Nothing), Relaxed);
        apply.tally.moved(1, 0);
        apply.files.finish(job, &writing).or_else(|e| apply.refused(job, e))
    }

    fn close_all(mut self) -> Result<()> {
        while !self.files.is_empty() {
            self.close(0)?;
        }
        Ok(())
    }
}

/// Cuts pieces into units at the ends of frames.
fn units_of(pieces: &[Piece]) -> Vec<Range<usize>> {
    let mut units = Vec::new();
    let (mut start, mut len) = (0, 0u64);
    for (n, piece) in pieces.iter().enumerate() {
        len += u64::from(piece.len);
        let ends = pieces.get(n + 1).is_none_or(|next| (next.pack, next.frame) != (piece.pack, piece.frame));
        if ends && (len >= PIECES_LEN_EACH || n + 1 - start >= PIECES_EACH || n + 1 == pieces.len()) {
            units.push(start..n + 1);
            (start, len) = (n + 1, 0);
        }
    }
    units
}

/// Reads `len` bytes of content from `offset` on, around the holes; whether all of them are there.
fn read_runs(file: &std::fs::File, holes: &[crate::format::Hole], offset: u64, len: usize, buf: &mut Vec<u8>) -> bool {
    use std::os::unix::fs::FileExt;
    buf.resize(len, 0);
    super::plan::runs(holes, offset, len).all(|(at, range)| file.read_exact_at(&mut buf[range], at).is_ok())
}

/// Fails if what the system says holds for every other file too.
fn stop_if_hopeless(e: &std::io::Error, path: impl FnOnce() -> Vec<u8>) -> Result<()> {
    use std::io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    match e.kind() {
        StorageFull | QuotaExceeded | ReadOnlyFilesystem => {
            let e = e.raw_os_error().map_or_else(|| std::io::Error::from(e.kind()), std::io::Error::from_raw_os_error);
            let what = format!("cannot write {}", String::from_utf8_lossy(&path()));
            Err(Error::io(what, e).hint("make room and run the same command again: it goes on, and fetches nothing again that is whole"))
        }
        _ => Ok(()),
    }
}
