//! Compacting: what is live in sparse packs goes to new ones. Frames that are live as a whole are copied as they are; of others what is
//! live is compressed anew.

use std::sync::{
    Mutex,
    atomic::{AtomicUsize, Ordering},
};

use crate::{
    error::{Error, Result},
    format::{ChunkId, Digest, FRAME_TARGET_DATA, FRAME_TARGET_META, FrameEntry, Key32, PACK_LEN_META_MAX, PackKind, SegmentPack},
    ops::prune::{
        Context,
        estimate::{Piece, pieces},
        facts::Facts,
        plan::Plan,
        table::Pack,
    },
    pack::{Compressor, LEVEL_DEFAULT, PackBuilder, decompress},
    store::Key,
};

/// Writes the live chunks of every pack that the plan rewrites, in parallel, and returns the new packs with their domains' folders.
///
/// # Errors
/// `Full` among others. What was written is taken away again: nothing names it, and room is what is short.
pub fn run(context: &Context, facts: &Facts, plan: &Plan) -> Result<Vec<(String, SegmentPack)>> {
    let pieces = pieces(&facts.table, &plan.fates);
    let (next, done, failed) = (AtomicUsize::new(0), Mutex::new(Vec::new()), Mutex::new(None::<Error>));
    std::thread::scope(|scope| {
        for _ in 0..context.workers.clamp(1, pieces.len().max(1)) {
            scope.spawn(|| {
                while let Some(piece) = pieces.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(e) = context.cancel.check().and_then(|()| write(context, facts, piece, &done)) {
                        failed.lock().expect("nobody panics while holding the error").get_or_insert(e);
                        next.store(pieces.len(), Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let done = done.into_inner().expect("nobody panicked while holding the list");
    match failed.into_inner().expect("nobody panicked while holding the error") {
        Some(e) => {
            take_away(context, done.iter().map(|(_, pack)| pack.digest));
            Err(e)
        }
        None => Ok(done),
    }
}

/// Removes packs that this prune wrote and that nothing names. A store that refuses leaves them loose.
pub fn take_away(context: &Context, packs: impl Iterator<Item = Digest>) {
    for pack in packs {
        let _ = context.vault.delete(&Key::pack(&pack));
    }
}

/// One thread's new packs.
struct Output<'a> {
    context: &'a Context<'a>,
    domain: &'a str,
    kind: PackKind,
    open: Option<PackBuilder>,
    done: &'a Mutex<Vec<(String, SegmentPack)>>,
    /// Live chunks of frames that were not live as a whole, until they fill a frame.
    raw: Vec<u8>,
    chunks: Vec<(ChunkId, u32)>,
    compressor: Compressor,
}

fn write(context: &Context, facts: &Facts, piece: &Piece, done: &Mutex<Vec<(String, SegmentPack)>>) -> Result<()> {
    let id = facts.domains.get(piece.domain).ok_or_else(|| {
        let first = Key::pack(&facts.table.packs[piece.packs[0]].digest);
        Error::missing(format!("no key in the vault is of the dedup domain of {first}, so what is in it cannot be written anew"))
            .hint("bring keys/ and index/ back from a copy of the vault")
    })?;
    let keys = context.reader.owner.domain(*id);
    let key = if piece.kind == PackKind::Data { &keys.data } else { &keys.tree };
    let compressor = Compressor::new(LEVEL_DEFAULT)?;
    let (domain, kind) = (piece.domain, piece.kind);
    let mut out = Output { context, domain, kind, open: None, done, raw: Vec::new(), chunks: Vec::new(), compressor };
    for n in &piece.packs {
        context.cancel.check()?;
        copy(facts, &facts.table.packs[*n], key, &mut out)?;
    }
    out.flush()?;
    out.close()
}

fn copy(facts: &Facts, pack: &Pack, key: &Key32, out: &mut Output) -> Result<()> {
    let reader = out.context.reader;
    let name = Key::pack(&pack.digest);
    // The table holds the starts of ids only. The pack's own index has all of them, and is authentic.
    let (_, index) = reader.pack_index(&pack.digest)?;
    if index.frames != pack.frames {
        return Err(Error::corrupt(format!("{name} is not what the index segments say of it")).hint("coffre verify --depth chunks"));
    }
    for (frame, first, live, _) in facts.table.frames(pack) {
        let chunks = &index.chunks[first as usize..(first + frame.chunks) as usize];
        match live {
            0 => (),
            live if live == frame.chunks => {
                let compressed = reader.compressed_frame(&pack.digest, frame)?;
                out.push(&compressed, chunks)?;
            }
            _ => {
                let is_live = |n: usize| facts.table.is_live(pack, first + n as u32);
                part(reader.compressed_frame(&pack.digest, frame)?, frame, chunks, is_live, key, name.as_str(), out)?;
            }
        }
    }
    Ok(())
}

/// Takes what is live out of a frame. Each chunk is checked: what is compressed anew must be right.
fn part(
    compressed: Vec<u8>,
    frame: &FrameEntry,
    chunks: &[(ChunkId, u32)],
    is_live: impl Fn(usize) -> bool,
    key: &Key32,
    name: &str,
    out: &mut Output,
) -> Result<()> {
    let mut raw = Vec::new();
    decompress(&compressed, frame.raw_len as usize, &mut raw, name)?;
    let mut rest = raw.as_slice();
    for (n, (id, len)) in chunks.iter().enumerate() {
        let (bytes, others) =
            rest.split_at_checked(*len as usize).ok_or_else(|| Error::corrupt(format!("{name} holds a frame that is too short")))?;
        rest = others;
        if !is_live(n) {
            continue;
        }
        if key.chunk_id(bytes) != *id {
            return Err(Error::corrupt(format!("chunk {} in {name} is not what its name says", id.short()))
                .hint("coffre verify --depth chunks names the files that need it"));
        }
        out.raw.extend_from_slice(bytes);
        out.chunks.push((*id, *len));
        let target = if out.kind == PackKind::Data { FRAME_TARGET_DATA } else { FRAME_TARGET_META };
        if out.raw.len() >= target as usize {
            out.flush()?;
        }
    }
    Ok(())
}

impl Output<'_> {
    /// Compresses what waits.
    fn flush(&mut self) -> Result<()> {
        if self.chunks.is_empty() {
            return Ok(());
        }
        let mut compressed = Vec::new();
        self.compressor.compress(&self.raw, &mut compressed)?;
        let chunks = std::mem::take(&mut self.chunks);
        self.raw.clear();
        self.push(&compressed, &chunks)
    }

    fn push(&mut self, compressed: &[u8], chunks: &[(ChunkId, u32)]) -> Result<()> {
        let Context { vault, reader, .. } = self.context;
        let len_max = match self.kind {
            PackKind::Data => vault.config.pack_len_max,
            PackKind::Meta => PACK_LEN_META_MAX,
        };
        if self.open.as_ref().is_some_and(|pack| !pack.fits(compressed.len(), chunks.len(), len_max as usize)) {
            self.close()?;
        }
        let pack = match &mut self.open {
            Some(pack) => pack,
            none => {
                let recipient = match self.kind {
                    PackKind::Data => reader.owner.data_recipient(),
                    PackKind::Meta => reader.owner.meta_recipient(),
                };
                none.insert(vault.start_pack(self.kind, &recipient)?)
            }
        };
        pack.push(compressed, chunks)
    }

    fn close(&mut self) -> Result<()> {
        let Some(pack) = self.open.take() else { return Ok(()) };
        let pack = self.context.reader.vault.put_pack(pack.finish()?)?;
        self.done.lock().expect("nobody panics while holding the list").push((self.domain.to_owned(), pack));
        Ok(())
    }
}
