//! Fills a pack, closes it, tells where each chunk went.
//!
//! Blocks are encrypted in place as they fill, so that a pack costs its own stored size in memory and closing it
//! costs only its tail.

use crate::{
    error::Result,
    format::{ChunkId, Digest, Digester, FrameEntry, PackIndex, PackKind, TRAILER_LEN, VaultId, encode_header, encode_tail},
    pack::{
        Wrap,
        cipher::{self, BLOCK_LEN, StreamKey, TAG_LEN},
    },
};

/// Room kept for padding and framing when deciding whether another frame still fits.
const TAIL_ROOM: usize = (256 << 10) + 64 + TRAILER_LEN;

/// A pack that is being filled.
pub struct PackBuilder {
    /// Header, encrypted blocks, then the plaintext of the block that is not full yet.
    buf: Vec<u8>,
    key: StreamKey,
    /// Where the open block starts in `buf`.
    block_start: usize,
    blocks: u64,
    plain_len: usize,
    hashed: usize,
    hash: Digester,
    index: PackIndex,
}

/// A finished pack, ready for the store.
pub struct SealedPack {
    /// What to store.
    pub bytes: Vec<u8>,
    /// Its name.
    pub digest: Digest,
    /// Where its chunks are.
    pub index: PackIndex,
}

impl PackBuilder {
    /// Starts a pack of `vault` for `recipient`; `buf` is memory to reuse.
    pub fn new(kind: PackKind, vault: VaultId, recipient: Wrap, mut buf: Vec<u8>) -> Result<Self> {
        let (head, key) = cipher::start(&[recipient])?;
        buf.clear();
        buf.extend_from_slice(&head);
        let block_start = buf.len();
        let mut pack =
            Self { buf, key, block_start, blocks: 0, plain_len: 0, hashed: 0, hash: Digester::default(), index: PackIndex::default() };
        pack.write(&encode_header(kind, vault));
        Ok(pack)
    }

    /// Whether a frame of `compressed_len` bytes with `chunks` chunks still fits below `len_max` stored bytes.
    pub fn fits(&self, compressed_len: usize, chunks: usize, len_max: usize) -> bool {
        let plain = self.plain_len + compressed_len + self.index.body_len() + 20 + chunks * 36 + TAIL_ROOM;
        self.index.frames.is_empty() || self.block_start.min(1024) + plain + plain / BLOCK_LEN * TAG_LEN + TAG_LEN < len_max
    }

    /// Adds a compressed frame that holds `chunks`.
    pub fn push(&mut self, compressed: &[u8], chunks: &[(ChunkId, u32)]) {
        let len = |n: usize| u32::try_from(n).expect("a pack is shorter than 4 GiB");
        self.index.frames.push(FrameEntry {
            offset: len(self.plain_len),
            compressed_len: len(compressed.len()),
            raw_len: chunks.iter().map(|(_, len)| len).sum(),
            chunks: len(chunks.len()),
        });
        self.index.chunks.extend_from_slice(chunks);
        self.write(compressed);
    }

    /// Chunks so far.
    pub fn chunks(&self) -> usize {
        self.index.chunks.len()
    }

    /// Adds index, padding and trailer, and encrypts what is left.
    pub fn finish(mut self) -> SealedPack {
        let tail = encode_tail(&self.index, self.plain_len);
        self.write(&tail);
        let tag = self.key.seal(self.blocks, true, &mut self.buf[self.block_start..]);
        self.buf.extend_from_slice(&tag);
        self.hash.update(&self.buf[self.hashed..]);
        SealedPack { digest: self.hash.finish(), bytes: self.buf, index: self.index }
    }

    /// Appends plaintext. A block is encrypted once a byte beyond it is known, since the last one is marked.
    fn write(&mut self, mut bytes: &[u8]) {
        self.plain_len += bytes.len();
        while !bytes.is_empty() {
            let open = self.buf.len() - self.block_start;
            if open == BLOCK_LEN {
                let tag = self.key.seal(self.blocks, false, &mut self.buf[self.block_start..]);
                self.buf.extend_from_slice(&tag);
                self.hash.update(&self.buf[self.hashed..]);
                self.hashed = self.buf.len();
                self.block_start = self.buf.len();
                self.blocks += 1;
                continue;
            }
            let (now, later) = bytes.split_at(bytes.len().min(BLOCK_LEN - open));
            self.buf.extend_from_slice(now);
            bytes = later;
        }
    }
}
