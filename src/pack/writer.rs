//! Fills a pack, closes it, tells where each chunk went.
//!
//! Blocks are encrypted, hashed and handed to the store as they fill, so that an open pack costs one block of 64 KiB and its
//! table in memory, and closing it costs only its tail. Its sidecar is made at the same time, from what is stored.

use crate::{
    error::Result,
    format::{ChunkId, Digest, Digester, FrameEntry, PackIndex, PackKind, TRAILER_LEN, VaultId, encode_header, encode_tail, plain_len},
    pack::{
        Wrap,
        cipher::{self, BLOCK_LEN, StreamKey, TAG_LEN},
        parity::ParityEncoder,
    },
    store::Upload,
};

/// Room kept for padding and framing when deciding whether another frame still fits.
const TAIL_ROOM: usize = (256 << 10) + 64 + TRAILER_LEN;

/// What a header is worth in an estimate: age adds noise of up to 300 bytes to it.
const HEADER_LEN_MEAN: usize = 320;

/// About how long a stored pack is that has so many bytes of frames, frames and chunks: right but for some hundred bytes.
pub fn stored_len(kind: PackKind, frames_len: usize, frames: usize, chunks: usize) -> u64 {
    let plain = plain_len(kind, frames_len, frames, chunks);
    (HEADER_LEN_MEAN + plain + plain.div_ceil(BLOCK_LEN) * TAG_LEN) as u64
}

/// Whether a frame of `compressed_len` bytes with `chunks` chunks still fits into a pack that has `plain_len` bytes and a table of `body_len`,
/// if it is to be no longer than `len_max` stored bytes.
pub fn fits(plain_len: usize, body_len: usize, compressed_len: usize, chunks: usize, len_max: usize) -> bool {
    let plain = plain_len + compressed_len + body_len + 20 + chunks * 36 + TAIL_ROOM;
    1024 + plain + plain / BLOCK_LEN * TAG_LEN + TAG_LEN < len_max
}

/// A pack that is being filled.
pub struct PackBuilder {
    kind: PackKind,
    upload: Box<dyn Upload>,
    key: StreamKey,
    /// Plaintext of the block that is not full yet.
    block: Vec<u8>,
    blocks: u64,
    plain_len: usize,
    stored_len: u64,
    hash: Digester,
    parity: Option<ParityEncoder>,
    index: PackIndex,
}

/// A finished pack, ready to be committed to the store under its name.
pub struct SealedPack {
    /// What was written.
    pub upload: Box<dyn Upload>,
    /// Its name.
    pub digest: Digest,
    /// Bytes of the stored file.
    pub stored_len: u64,
    /// Where its chunks are.
    pub index: PackIndex,
    /// Its sidecar, if it is to have one.
    pub sidecar: Option<Vec<u8>>,
}

impl PackBuilder {
    /// Starts a pack of `vault` for `recipient`, written to `upload`.
    pub fn new(kind: PackKind, vault: VaultId, recipient: Wrap, upload: Box<dyn Upload>) -> Result<Self> {
        Self::with_parity(kind, vault, recipient, upload, None)
    }

    /// The same with a sidecar, made by `parity`.
    pub fn with_parity(
        kind: PackKind,
        vault: VaultId,
        recipient: Wrap,
        upload: Box<dyn Upload>,
        parity: Option<ParityEncoder>,
    ) -> Result<Self> {
        let (head, key) = cipher::start(&[recipient])?;
        let block = Vec::with_capacity(BLOCK_LEN + TAG_LEN);
        let mut pack = Self {
            kind,
            upload,
            key,
            block,
            blocks: 0,
            plain_len: 0,
            stored_len: 0,
            hash: Digester::default(),
            parity,
            index: PackIndex::default(),
        };
        pack.store(&head)?;
        pack.write(&encode_header(kind, vault))?;
        Ok(pack)
    }

    fn store(&mut self, bytes: &[u8]) -> Result<()> {
        self.hash.update(bytes);
        if let Some(parity) = &mut self.parity {
            parity.update(bytes);
        }
        self.stored_len += bytes.len() as u64;
        self.upload.write(bytes)
    }

    /// Whether a frame of `compressed_len` bytes with `chunks` chunks still fits below `len_max` stored bytes.
    pub fn fits(&self, compressed_len: usize, chunks: usize, len_max: usize) -> bool {
        self.index.frames.is_empty() || fits(self.plain_len, self.index.body_len(), compressed_len, chunks, len_max)
    }

    /// Adds a compressed frame that holds `chunks`.
    pub fn push(&mut self, compressed: &[u8], chunks: &[(ChunkId, u32)]) -> Result<()> {
        let len = |n: usize| u32::try_from(n).expect("a pack is shorter than 4 GiB");
        self.index.frames.push(FrameEntry {
            offset: len(self.plain_len),
            compressed_len: len(compressed.len()),
            raw_len: chunks.iter().map(|(_, len)| len).sum(),
            chunks: len(chunks.len()),
        });
        self.index.chunks.extend_from_slice(chunks);
        self.write(compressed)
    }

    /// Adds index, padding and trailer, and encrypts what is left.
    pub fn finish(mut self) -> Result<SealedPack> {
        let tail = encode_tail(self.kind, &self.index, self.plain_len);
        self.write(&tail)?;
        self.seal_block(true)?;
        Ok(SealedPack {
            upload: self.upload,
            digest: self.hash.finish(),
            stored_len: self.stored_len,
            index: self.index,
            sidecar: self.parity.and_then(ParityEncoder::finish),
        })
    }

    fn seal_block(&mut self, last: bool) -> Result<()> {
        let mut block = std::mem::take(&mut self.block);
        let tag = self.key.seal(self.blocks, last, &mut block);
        block.extend_from_slice(&tag);
        self.blocks += 1;
        self.store(&block)?;
        block.clear();
        self.block = block;
        Ok(())
    }

    /// Appends plaintext. A block is encrypted once a byte beyond it is known, since the last one is marked.
    fn write(&mut self, mut bytes: &[u8]) -> Result<()> {
        self.plain_len += bytes.len();
        while !bytes.is_empty() {
            if self.block.len() == BLOCK_LEN {
                self.seal_block(false)?;
            }
            let (now, later) = bytes.split_at(bytes.len().min(BLOCK_LEN - self.block.len()));
            self.block.extend_from_slice(now);
            bytes = later;
        }
        Ok(())
    }
}
