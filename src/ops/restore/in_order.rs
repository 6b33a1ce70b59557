//! Files whose chunks are taken in order: those of which a part stands there already, and those with more chunks than a window.

use std::{fs::File, os::unix::fs::FileExt, sync::atomic::Ordering::Relaxed};

use crate::{
    error::{Error, ErrorKind, Result},
    format::{Content, Data, Hole},
    ops::restore::{
        apply::Apply,
        files::{Kept, Writing},
        pieces::units_of,
        plan::{Before, JobNumber, Layout, Piece, runs},
        table::Handles,
        walk::piece,
    },
    sys,
};

impl Apply<'_> {
    /// A file whose chunks are taken in order, those left as they are that stand there already.
    pub fn in_order(&self, hands: &mut Handles, number: JobNumber) -> Result<()> {
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
        if refused.is_some() || each.is_err() {
            self.files.remember(number, &writing);
        }
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
            self.files.remember(number, &writing);
            return self.refused(number, e);
        }
        counts.files.fetch_add(1, Relaxed);
        counts.replaced.fetch_add(u64::from(job.before != Before::Nothing), Relaxed);
        self.tally.moved(1, 0);
        self.files.finish(number, &writing).or_else(|e| self.refused(number, e))
    }

    /// Whether a file of the target holds the content of a job.
    pub fn holds(&self, file: &File, number: JobNumber) -> Result<bool> {
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
    pub fn long(&self, number: JobNumber) -> Result<()> {
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
}

/// Reads `len` bytes of content from `offset` on, around the holes; whether all of them are there.
fn read_runs(file: &File, holes: &[Hole], offset: u64, len: usize, buf: &mut Vec<u8>) -> bool {
    buf.resize(len, 0);
    runs(holes, offset, len).all(|(at, range)| file.read_exact_at(&mut buf[range], at).is_ok())
}
