//! The plaintext of a pack around its frames: header, index, padding, trailer (docs/FORMAT.md section 3).

use crate::{
    error::{Error, Result},
    format::{ChunkId, VaultId, wire::Wire},
};

/// Bytes before the first frame.
pub const HEADER_LEN: usize = 32;
/// Bytes after everything else.
pub const TRAILER_LEN: usize = 32;
/// Raw bytes at which a data frame is full: docs/FORMAT.md section 3 on why 128 KiB.
pub const FRAME_TARGET_DATA: u32 = 128 << 10;
/// Raw bytes at which a meta frame is full.
pub const FRAME_TARGET_META: u32 = 64 << 10;
/// Most raw bytes in any frame; longer ones are damage, or an attack on memory. Only archives come near it.
pub const FRAME_LEN_RAW_MAX: usize = 64 << 20;
/// Bytes below which a meta pack closes.
pub const PACK_LEN_META_MAX: u32 = 4 << 20;
/// Most frames or chunks in one pack: a pack is at most 1 GiB, a chunk at least one byte and 36 in the index.
const PACK_ITEMS_MAX: u32 = 1 << 25;

const SKIPPABLE: u32 = 0x184D_2A5C;
const SKIPPABLE_HEAD: usize = 8;
const FRAME_ENTRY_LEN: usize = 20;
const CHUNK_ENTRY_LEN: usize = 36;

/// What a pack holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PackKind {
    /// File content, sealed to D.
    Data,
    /// Trees, sealed to M.
    Meta,
}

/// One frame of a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameEntry {
    /// Where the zstd frame starts in the plaintext.
    pub offset: u32,
    /// Its compressed length.
    pub compressed_len: u32,
    /// Its raw length.
    pub raw_len: u32,
    /// How many chunks it holds.
    pub chunks: u32,
}

/// The table of a pack: its frames, and the chunks in them, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PackIndex {
    /// The frames in order.
    pub frames: Vec<FrameEntry>,
    /// Each chunk's id and raw length, frame by frame.
    pub chunks: Vec<(ChunkId, u32)>,
}

/// Where the table lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trailer {
    /// Start of the index frame in the plaintext.
    pub index_offset: u64,
    /// Its length with its head.
    pub index_len: u32,
    /// Length of the whole plaintext.
    pub plain_len: u64,
}

fn skippable(out: &mut Vec<u8>, len: usize) {
    out.extend_from_slice(&SKIPPABLE.to_le_bytes());
    out.extend_from_slice(&u32::try_from(len).expect("frames of ours are short").to_le_bytes());
}

/// Returns the first `HEADER_LEN` bytes of a pack's plaintext.
pub fn encode_header(kind: PackKind, vault: VaultId) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER_LEN);
    skippable(&mut out, 24);
    out.extend_from_slice(b"CFP1");
    out.extend_from_slice(&[if kind == PackKind::Data { 1 } else { 2 }, 0, 0, 0]);
    out.extend_from_slice(&vault.0);
    out
}

/// Refuses a plaintext that is not a pack of `vault`; returns its kind.
pub fn check_header(bytes: &[u8], vault: VaultId) -> Result<PackKind> {
    let mut wire = Wire::new(bytes, "a pack's header");
    wire.expect(&SKIPPABLE.to_le_bytes())?;
    wire.expect(&24u32.to_le_bytes())?;
    wire.expect(b"CFP1")?;
    let kind = match wire.array()? {
        [1, 0, 0, 0] => PackKind::Data,
        [2, 0, 0, 0] => PackKind::Meta,
        [kind, ..] => return Err(Error::unsupported(format!("a pack of kind {kind}; this coffre knows 1 and 2"))),
    };
    match wire.array()? == vault.0 {
        true => Ok(kind),
        false => Err(Error::corrupt("a pack belongs to another vault")),
    }
}

impl PackIndex {
    /// Bytes of the body after the letters "CFIX".
    pub fn body_len(&self) -> usize {
        Self::len_of_body(self.frames.len(), self.chunks.len())
    }

    /// The same for so many frames and chunks.
    pub fn len_of_body(frames: usize, chunks: usize) -> usize {
        8 + frames * FRAME_ENTRY_LEN + chunks * CHUNK_ENTRY_LEN
    }

    /// Appends the body after the letters "CFIX".
    pub fn encode_body(&self, out: &mut Vec<u8>) {
        let count = |n: usize| u32::try_from(n).expect("a pack holds fewer than 2^32 things");
        out.extend_from_slice(&count(self.frames.len()).to_le_bytes());
        out.extend_from_slice(&count(self.chunks.len()).to_le_bytes());
        for frame in &self.frames {
            for field in [frame.offset, frame.compressed_len, frame.raw_len, frame.chunks, 0] {
                out.extend_from_slice(&field.to_le_bytes());
            }
        }
        for (id, len) in &self.chunks {
            out.extend_from_slice(id.as_bytes());
            out.extend_from_slice(&len.to_le_bytes());
        }
    }

    /// Reads a body that stands alone.
    pub fn from_body(bytes: &[u8]) -> Result<Self> {
        let mut wire = Wire::new(bytes, "a pack's table");
        let index = Self::decode_body(&mut wire)?;
        wire.end()?;
        Ok(index)
    }

    /// Takes a body off the front of `wire`.
    ///
    /// # Errors
    /// `Corrupt` if lengths do not add up: each frame's chunks to its raw length, all frames' chunks to the table's.
    pub(super) fn decode_body(wire: &mut Wire) -> Result<Self> {
        let (nframes, nchunks) = (wire.u32()?, wire.u32()?);
        if nframes > PACK_ITEMS_MAX || nchunks > PACK_ITEMS_MAX {
            return Err(Error::corrupt("a pack's index has impossible counts"));
        }
        // Both tables are cut off as slices first, so that no allocation is larger than bytes that are there.
        let frame_bytes = wire.bytes(nframes as usize * FRAME_ENTRY_LEN)?;
        let chunk_bytes = wire.bytes(nchunks as usize * CHUNK_ENTRY_LEN)?;
        let word = |bytes: &[u8], i: usize| u32::from_le_bytes(bytes[4 * i..4 * i + 4].try_into().expect("four bytes"));
        let chunks: Vec<(ChunkId, u32)> =
            chunk_bytes.chunks_exact(CHUNK_ENTRY_LEN).map(|c| (ChunkId::from_slice(&c[..32]).expect("32 bytes"), word(c, 8))).collect();
        let mut frames = Vec::with_capacity(nframes as usize);
        let mut rest = chunks.as_slice();
        for f in frame_bytes.chunks_exact(FRAME_ENTRY_LEN) {
            let frame = FrameEntry { offset: word(f, 0), compressed_len: word(f, 1), raw_len: word(f, 2), chunks: word(f, 3) };
            if word(f, 4) != 0 {
                return Err(Error::unsupported("a frame builds on another frame; this coffre does not know how"));
            }
            let Some((mine, others)) = rest.split_at_checked(frame.chunks as usize) else {
                return Err(Error::corrupt("a pack's index names more chunks than it lists"));
            };
            let raw: u64 = mine.iter().map(|(_, len)| u64::from(*len)).sum();
            if raw != u64::from(frame.raw_len) || frame.raw_len as usize > FRAME_LEN_RAW_MAX {
                return Err(Error::corrupt("a pack's index has a frame whose chunks do not add up"));
            }
            rest = others;
            frames.push(frame);
        }
        match rest.is_empty() {
            true => Ok(Self { frames, chunks }),
            false => Err(Error::corrupt("a pack's index lists chunks that are in no frame")),
        }
    }
}

/// Returns what follows the last frame of a pack of this kind, which ends at `frames_end`: index, padding, trailer.
pub fn encode_tail(kind: PackKind, index: &PackIndex, frames_end: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(index.body_len() + 128);
    skippable(&mut out, 4 + index.body_len());
    out.extend_from_slice(b"CFIX");
    index.encode_body(&mut out);
    let index_len = out.len();
    let bare = frames_end + index_len + TRAILER_LEN;
    let padded = with_padding(kind, bare);
    if padded > bare {
        let len = padded - bare - SKIPPABLE_HEAD;
        skippable(&mut out, len);
        out.extend_from_slice(b"CFPD");
        out.resize(out.len() + len - 4, 0);
    }
    skippable(&mut out, 24);
    out.extend_from_slice(b"CFTR");
    out.extend_from_slice(&(frames_end as u64).to_le_bytes());
    out.extend_from_slice(&(index_len as u32).to_le_bytes());
    out.extend_from_slice(&(padded as u64).to_le_bytes());
    debug_assert_eq!(frames_end + out.len(), padded);
    out
}

/// The length of the plaintext of a pack with so many bytes of frames, frames and chunks.
pub fn plain_len(kind: PackKind, frames_len: usize, frames: usize, chunks: usize) -> usize {
    let index_len = SKIPPABLE_HEAD + 4 + PackIndex::len_of_body(frames, chunks);
    with_padding(kind, HEADER_LEN + frames_len + index_len + TRAILER_LEN)
}

/// What a plaintext of `bare` bytes becomes: padding that is there at all has a head.
fn with_padding(kind: PackKind, bare: usize) -> usize {
    match padded_len(kind, bare) {
        padded if padded > bare && padded - bare < SKIPPABLE_HEAD + 4 => padded_len(kind, bare + SKIPPABLE_HEAD + 4),
        padded => padded,
    }
}

/// The length that a plaintext of `len` bytes is padded to.
///
/// From 4 MiB a multiple of 256 KiB; below, Padmé (Nikitin et al., "Reducing Metadata Leakage from Encrypted
/// Files and Communication with PURBs", PETS 2019, algorithm 1), and 64 KiB at least, 16 KiB in meta packs.
fn padded_len(kind: PackKind, len: usize) -> usize {
    const STEP: usize = 256 << 10;
    let least = match kind {
        PackKind::Data => 64 << 10,
        PackKind::Meta => 16 << 10,
    };
    match len {
        0x40_0000.. => len.next_multiple_of(STEP),
        _ if len <= least => least,
        _ => {
            let exponent = len.ilog2();
            let mask = (1usize << (exponent - (exponent.ilog2() + 1))) - 1;
            (len + mask) & !mask
        }
    }
}

impl Trailer {
    /// Reads the last `TRAILER_LEN` bytes of a plaintext that is `plain_len` long.
    pub fn decode(bytes: &[u8], plain_len: u64) -> Result<Self> {
        let mut wire = Wire::new(bytes, "a pack's trailer");
        wire.expect(&SKIPPABLE.to_le_bytes())?;
        wire.expect(&24u32.to_le_bytes())?;
        wire.expect(b"CFTR")?;
        let trailer = Self { index_offset: wire.u64()?, index_len: wire.u32()?, plain_len: wire.u64()? };
        wire.end()?;
        let fits = trailer.plain_len == plain_len
            && trailer.index_len as usize > SKIPPABLE_HEAD + 4
            && trailer.index_offset.checked_add(u64::from(trailer.index_len)).is_some_and(|end| end + TRAILER_LEN as u64 <= plain_len);
        fits.then_some(trailer).ok_or_else(|| Error::corrupt("a pack's trailer does not fit the pack"))
    }
}

/// Reads the index frame, as the trailer located it.
pub fn parse_index(bytes: &[u8]) -> Result<PackIndex> {
    let mut wire = Wire::new(bytes, "a pack's index");
    wire.expect(&SKIPPABLE.to_le_bytes())?;
    if wire.u32()? as usize != bytes.len() - SKIPPABLE_HEAD {
        return Err(Error::corrupt("a pack's index has another length than its trailer says"));
    }
    wire.expect(b"CFIX")?;
    let index = PackIndex::decode_body(&mut wire)?;
    wire.end()?;
    Ok(index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_is_what_the_format_says() {
        use PackKind::{Data, Meta};
        assert_eq!((padded_len(Data, 1), padded_len(Meta, 1)), (65536, 16384));
        assert_eq!(padded_len(Data, 65537), 67584); // Padmé: 16 = e, 5 bits kept, mask 2^11 - 1
        assert_eq!((padded_len(Data, 16385), padded_len(Meta, 16385)), (65536, 17408)); // 14 = e, 4 bits kept, mask 2^10 - 1
        assert_eq!(padded_len(Data, 4 << 20), 4 << 20);
        assert_eq!(padded_len(Data, (4 << 20) + 1), (4 << 20) + (256 << 10));
        for len in (10_000..5_000_000).step_by(977) {
            for (kind, least) in [(Data, 64 << 10), (Meta, 16 << 10)] {
                let padded = padded_len(kind, len);
                assert!(padded >= len && padded - len <= (len / 8).max(least), "{len} -> {padded}");
            }
        }
    }

    #[test]
    fn a_tail_leads_back_to_its_index_at_every_length() {
        let index = PackIndex {
            frames: vec![FrameEntry { offset: 32, compressed_len: 9, raw_len: 30, chunks: 2 }],
            chunks: vec![(ChunkId::from_bytes([1; 32]), 10), (ChunkId::from_bytes([2; 32]), 20)],
        };
        for frames_end in (60_000..70_000).chain(4_190_000..4_196_000).step_by(7) {
            let tail = encode_tail(PackKind::Data, &index, frames_end);
            let plain_len = frames_end + tail.len();
            assert_eq!(padded_len(PackKind::Data, plain_len), plain_len);
            let trailer = Trailer::decode(&tail[tail.len() - TRAILER_LEN..], plain_len as u64).unwrap();
            assert_eq!(trailer.index_offset, frames_end as u64);
            assert_eq!(parse_index(&tail[..trailer.index_len as usize]).unwrap(), index);
        }
    }
}
