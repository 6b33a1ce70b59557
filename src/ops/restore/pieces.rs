//! Pieces: chunks of files in the order of packs. A frame is decoded, each chunk in it checked once, and written to every file that has it.

use std::ops::Range;

use crate::{
    error::{Error, ErrorKind, Result},
    format::{ChunkId, Content},
    ops::restore::{
        apply::Apply,
        files::Writing,
        plan::{Before, JobNumber, Piece, data_len},
        table::Handles,
    },
};

use std::sync::atomic::Ordering::Relaxed;

/// Raw bytes of a unit of pieces, and how many there are at most.
const PIECES_LEN_EACH: u64 = 4 << 20;
const PIECES_EACH: usize = 4096;
/// Files that a thread has open: copies of one file are written side by side.
const OPEN_MAX: usize = 8;
/// Chunks of which it is remembered that they are bad.
const BAD_MAX: usize = 100_000;

impl Apply<'_> {
    /// The pieces of neighbouring frames.
    pub fn pieces(&self, hands: &mut Handles, pieces: &[Piece]) -> Result<()> {
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
                let bytes = next(piece.chunk)
                    .and_then(|range| raw.get(range))
                    .filter(|bytes| checked == Some((piece.chunk, piece.id)) || self.keys.data.chunk_id(bytes) == piece.id);
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
    pub fn elsewhere(&self, id: &ChunkId) -> Result<Vec<u8>> {
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
        let Content::File { holes, .. } = &apply.files.job(piece.job).entry.content else { return Ok(()) };
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
                let whole = data_len(&apply.files.job(piece.job).entry) == u64::from(piece.len);
                match apply.files.open(hands, piece.job, whole) {
                    Ok(writing) => self.files.push((piece.job, writing, 0)),
                    Err(e) => return apply.refused(piece.job, e),
                }
            }
        }
        let Some((_, writing, written)) = self.files.last_mut() else { return Ok(()) };
        if let Err(e) = writing.write(holes, piece.offset, bytes) {
            apply.files.remember(piece.job, writing);
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
        apply.files.finish(job, &writing).or_else(|e| {
            apply.files.remember(job, &writing);
            apply.refused(job, e)
        })
    }

    fn close_all(mut self) -> Result<()> {
        while !self.files.is_empty() {
            self.close(0)?;
        }
        Ok(())
    }
}

/// Cuts pieces into units at the ends of frames.
pub fn units_of(pieces: &[Piece]) -> Vec<Range<usize>> {
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
