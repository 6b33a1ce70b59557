//! What writing packs anew comes to: the same frames, in the same order, into packs that fill up in the same way. Pure.

use crate::{
    format::{FRAME_TARGET_DATA, FRAME_TARGET_META, HEADER_LEN, PackIndex, PackKind},
    ops::prune::{
        plan::{Fate, Limits},
        table::{Holds, Table},
    },
    pack,
};

/// Stored bytes of sparse packs that are worth a pack of their own: the work is cut into no smaller pieces.
const PIECE_LEN: u64 = 64 << 20;

/// A run of packs of one domain and kind, by their numbers in the table.
pub struct Piece<'a> {
    /// The folder of the domain.
    pub domain: &'a str,
    /// What the packs hold.
    pub kind: PackKind,
    /// Their numbers.
    pub packs: Vec<usize>,
}

/// The work of writing anew, cut into pieces that can be done at the same time.
pub fn pieces<'a>(table: &'a Table, fates: &[Fate]) -> Vec<Piece<'a>> {
    let mut pieces: Vec<(Piece, u64)> = Vec::new();
    for n in (0..table.packs.len()).filter(|n| fates[*n] == Fate::Rewrite) {
        let pack = &table.packs[n];
        let kind = if table.holds(n) == Holds::Nodes { PackKind::Meta } else { PackKind::Data };
        let same = |piece: &&mut (Piece, u64)| piece.0.domain == pack.domain && piece.0.kind == kind && piece.1 < PIECE_LEN;
        match pieces.iter_mut().rev().find(same) {
            Some((piece, len)) => {
                piece.packs.push(n);
                *len += pack.stored_len;
            }
            None => pieces.push((Piece { domain: &pack.domain, kind, packs: vec![n] }, pack.stored_len)),
        }
    }
    pieces.into_iter().map(|(piece, _)| piece).collect()
}

/// How many packs come of it, and their stored bytes.
pub fn written(table: &Table, fates: &[Fate], limits: &Limits) -> (u64, u64) {
    let each = pieces(table, fates).into_iter().map(|piece| {
        let mut filling = Filling::new(piece.kind, limits);
        for n in &piece.packs {
            for (frame, _, count, raw) in table.frames(&table.packs[*n]) {
                let len = u64::from(frame.compressed_len);
                match count {
                    0 => (),
                    count if count == frame.chunks => filling.push(len, u64::from(count)),
                    count => filling.part(len * raw / u64::from(frame.raw_len.max(1)), raw, u64::from(count)),
                }
            }
        }
        filling.finish()
    });
    each.fold((0, 0), |(packs, bytes), (more, len)| (packs + more, bytes + len))
}

/// A pack that is being filled, by numbers only.
struct Filling {
    kind: PackKind,
    len_max: u64,
    frames: u64,
    chunks: u64,
    bytes: u64,
    /// Compressed bytes, raw bytes and chunks of frames that are live in part.
    parts: (u64, u64, u64),
    packs: u64,
    stored: u64,
}

impl Filling {
    fn new(kind: PackKind, limits: &Limits) -> Self {
        let len_max = if kind == PackKind::Data { limits.pack_len } else { limits.meta_pack_len };
        Self { kind, len_max, frames: 0, chunks: 0, bytes: 0, parts: (0, 0, 0), packs: 0, stored: 0 }
    }

    fn part(&mut self, compressed: u64, raw: u64, chunks: u64) {
        self.parts = (self.parts.0 + compressed, self.parts.1 + raw, self.parts.2 + chunks);
        let target = if self.kind == PackKind::Data { FRAME_TARGET_DATA } else { FRAME_TARGET_META };
        if self.parts.1 >= u64::from(target) {
            self.flush();
        }
    }

    fn flush(&mut self) {
        let (compressed, _, chunks) = std::mem::take(&mut self.parts);
        if chunks > 0 {
            self.push(compressed, chunks);
        }
    }

    fn push(&mut self, compressed: u64, chunks: u64) {
        let body = PackIndex::len_of_body(self.frames as usize, self.chunks as usize);
        let fits = pack::fits(HEADER_LEN + self.bytes as usize, body, compressed as usize, chunks as usize, self.len_max as usize);
        if self.frames > 0 && !fits {
            self.close();
        }
        (self.frames, self.chunks, self.bytes) = (self.frames + 1, self.chunks + chunks, self.bytes + compressed);
    }

    fn close(&mut self) {
        if self.frames > 0 {
            self.packs += 1;
            self.stored += pack::stored_len(self.kind, self.bytes as usize, self.frames as usize, self.chunks as usize);
        }
        (self.frames, self.chunks, self.bytes) = (0, 0, 0);
    }

    fn finish(mut self) -> (u64, u64) {
        self.flush();
        self.close();
        (self.packs, self.stored)
    }
}
